
/*
 * The figures as JSON.
 *
 * Uses util, vm, stats, zone.
 */


#ifndef _NGX_HTTP_EBBTIDE_STATUS_JSON_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_STATUS_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


ngx_int_t ngx_http_ebbtide_json(ngx_pool_t *pool, ngx_array_t *workers,
    ngx_uint_t can_reclaim, ngx_str_t *text);


#endif /* _NGX_HTTP_EBBTIDE_STATUS_JSON_H_INCLUDED_ */
