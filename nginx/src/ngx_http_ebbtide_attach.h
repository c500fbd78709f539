
/*
 * VMs that were made before the configuration was known, or by a Lua that
 * cannot be hooked, get their heaps when the configuration is complete.
 *
 * Uses lua_api, symbols, copy, vm, stage, bounds.
 */


#ifndef _NGX_HTTP_EBBTIDE_ATTACH_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_ATTACH_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* How the VM that the workers inherit came to its heap. */

typedef enum {
    NGX_HTTP_EBBTIDE_NO_VM = 0,
    NGX_HTTP_EBBTIDE_MADE,
    NGX_HTTP_EBBTIDE_ATTACHED
} ngx_http_ebbtide_way_e;


void ngx_http_ebbtide_attach_http(ngx_conf_t *cf);
void ngx_http_ebbtide_attach_stream(ngx_cycle_t *cycle);
ngx_http_ebbtide_way_e ngx_http_ebbtide_vm_way(void);


#endif /* _NGX_HTTP_EBBTIDE_ATTACH_H_INCLUDED_ */
