
/*
 * The figures as text for Prometheus.
 *
 * Uses vm, stats, zone.
 */


#ifndef _NGX_HTTP_EBBTIDE_STATUS_METRICS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_STATUS_METRICS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


ngx_int_t ngx_http_ebbtide_metrics(ngx_pool_t *pool, ngx_array_t *workers,
    ngx_str_t *text);


#endif /* _NGX_HTTP_EBBTIDE_STATUS_METRICS_H_INCLUDED_ */
