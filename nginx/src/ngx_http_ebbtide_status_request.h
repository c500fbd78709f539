
/*
 * What a request to the page asks for.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_STATUS_REQUEST_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_STATUS_REQUEST_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


typedef enum {
    NGX_HTTP_EBBTIDE_PAGE = 0,
    NGX_HTTP_EBBTIDE_METRICS,
    NGX_HTTP_EBBTIDE_RECLAIM,
    NGX_HTTP_EBBTIDE_NOTHING
} ngx_http_ebbtide_resource_e;


#define NGX_HTTP_EBBTIDE_HTML        0
#define NGX_HTTP_EBBTIDE_JSON        1
#define NGX_HTTP_EBBTIDE_PROMETHEUS  2


ngx_http_ebbtide_resource_e ngx_http_ebbtide_status_resource(
    ngx_http_request_t *r);
ngx_int_t ngx_http_ebbtide_status_format(ngx_http_request_t *r);
ngx_uint_t ngx_http_ebbtide_status_is_foreign(ngx_http_request_t *r);


#endif /* _NGX_HTTP_EBBTIDE_STATUS_REQUEST_H_INCLUDED_ */
