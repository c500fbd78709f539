
/*
 * Heaps of other copies of the library.
 *
 * LuaJIT may have a copy inside, another may be preloaded, a third may have
 * been loaded by Lua. A VM belongs to the copy that defines its allocation
 * function, and only that copy's functions may be called for its heap.
 *
 * Uses lua_api, symbols.
 */


#ifndef _NGX_HTTP_EBBTIDE_COPY_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_COPY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ebbtide.h>

#include "ngx_http_ebbtide_lua_api.h"


/* The functions of one copy that the module calls. */

typedef struct {
    ebb_heap    *(*heap_of)(struct lua_State *L);
    int          (*on_close)(ebb_heap *heap, void (*closed)(void *context),
                             void *context);
    int          (*share)(struct lua_State *L);
    int          (*tick)(ebb_heap *heap, uint32_t budget_us);
    int          (*next_tick)(ebb_heap *heap);
    int          (*reclaim)(ebb_heap *heap, const ebb_reclaim_options *options,
                            ebb_reclaim_report *report);
    int          (*pressure)(ebb_heap *heap);
    int          (*stats_read)(ebb_heap *heap, ebb_stats *stats);
    int          (*get)(ebb_heap *heap, const char *name, int64_t *value);
    int          (*set)(ebb_heap *heap, const char *name, int64_t value);
    const char  *(*strerror)(int code);
} ngx_http_ebbtide_api_t;


const ngx_http_ebbtide_api_t *ngx_http_ebbtide_own_api(void);
const ngx_http_ebbtide_api_t *ngx_http_ebbtide_api_of(lua_State *L,
    ngx_log_t *log);
ngx_uint_t ngx_http_ebbtide_is_preloaded(void);
ngx_uint_t ngx_http_ebbtide_luajit_has_copy(void);


#endif /* _NGX_HTTP_EBBTIDE_COPY_H_INCLUDED_ */
