
/*
 * Functions of other modules and libraries, found by name.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_SYMBOLS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_SYMBOLS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


void *ngx_http_ebbtide_symbol_beside(const void *address, const char *name);
void *ngx_http_ebbtide_symbol(ngx_cycle_t *cycle, const char *name);
ngx_uint_t ngx_http_ebbtide_has_lua_module(ngx_cycle_t *cycle);
ngx_int_t ngx_http_ebbtide_stream_conf(ngx_cycle_t *cycle, ngx_conf_t *conf);


#endif /* _NGX_HTTP_EBBTIDE_SYMBOLS_H_INCLUDED_ */
