
/*
 * require "resty.ebbtide" and require "ebbtide", without installing anything.
 *
 * The library that is linked into this module carries its Lua module. This
 * unit adds what concerns all workers: stats("all") and reclaim("all").
 *
 * Uses util, lua_api, symbols, vm, stats, zone.
 */


#ifndef _NGX_HTTP_EBBTIDE_RESTY_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_RESTY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_ebbtide_lua_api.h"


ngx_int_t ngx_http_ebbtide_resty_preload(ngx_conf_t *cf);
void ngx_http_ebbtide_resty_preload_stream(ngx_cycle_t *cycle);
void ngx_http_ebbtide_resty_preload_vm(lua_State *L);


#endif /* _NGX_HTTP_EBBTIDE_RESTY_H_INCLUDED_ */
