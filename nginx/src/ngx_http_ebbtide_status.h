
/*
 * The page: HTML for people, JSON for programs, text for Prometheus.
 *
 *   GET  location                  by Accept: HTML, JSON, or Prometheus
 *   GET  location?format=json      html, json, or prometheus
 *   GET  location/metrics          Prometheus
 *   POST location/reclaim          asks all workers to reclaim now
 *
 * Other requests are refused: 400, 403, 404 or 405, and 503 where there are no
 * figures. Nothing of a request gets into a response.
 *
 * Uses conf, zone, status_request, status_json, status_metrics.
 */


#ifndef _NGX_HTTP_EBBTIDE_STATUS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_STATUS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


ngx_int_t ngx_http_ebbtide_status_handler(ngx_http_request_t *r);


#endif /* _NGX_HTTP_EBBTIDE_STATUS_H_INCLUDED_ */
