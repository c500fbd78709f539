
/*
 * Loaded objects (the program and its libraries), and the slots by which they
 * call each other.
 *
 * An object calls a function of another one through a slot in a table of its
 * own, which the dynamic linker fills in. The object's relocations say where
 * the slots are and for which functions.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_ELF_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_ELF_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <link.h>


typedef struct {
    ElfW(Addr)         base;
    const ElfW(Phdr)  *headers;
    ngx_uint_t         header_count;
    const char        *name;
} ngx_http_ebbtide_object_t;


/*
 * Is called for each slot of an object that leads to a function of another
 * one. A slot that is used for calls alone may be lazy: the linker fills it in
 * at the first call.
 */

typedef void (*ngx_http_ebbtide_slot_pt)(
    const ngx_http_ebbtide_object_t *object, const char *name, void **slot,
    ngx_uint_t may_be_lazy);


ngx_int_t ngx_http_ebbtide_objects_list(ngx_array_t *objects);
ngx_uint_t ngx_http_ebbtide_object_holds(
    const ngx_http_ebbtide_object_t *object, const void *address);
void ngx_http_ebbtide_object_slots(const ngx_http_ebbtide_object_t *object,
    ngx_http_ebbtide_slot_pt handler);
ngx_err_t ngx_http_ebbtide_object_write(
    const ngx_http_ebbtide_object_t *object, void **slot, void *function);


#endif /* _NGX_HTTP_EBBTIDE_ELF_H_INCLUDED_ */
