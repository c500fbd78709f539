
#include "ngx_http_ebbtide_status.h"
#include "ngx_http_ebbtide_conf.h"
#include "ngx_http_ebbtide_zone.h"
#include "ngx_http_ebbtide_status_request.h"
#include "ngx_http_ebbtide_status_json.h"
#include "ngx_http_ebbtide_status_metrics.h"

#include "ngx_http_ebbtide_page.h"


/* bytes of a short answer, at most */
#define NGX_HTTP_EBBTIDE_STATUS_LINE  256


static ngx_int_t ngx_http_ebbtide_status_not_allowed(ngx_http_request_t *r,
    const char *allow);
static ngx_int_t ngx_http_ebbtide_status_get(ngx_http_request_t *r,
    ngx_http_ebbtide_resource_e resource);
static ngx_int_t ngx_http_ebbtide_status_figures(ngx_http_request_t *r,
    ngx_int_t format);
static const char *ngx_http_ebbtide_no_zone(ngx_http_request_t *r);
static ngx_int_t ngx_http_ebbtide_status_reclaim(ngx_http_request_t *r);
static ngx_int_t ngx_http_ebbtide_status_refuse(ngx_http_request_t *r,
    ngx_uint_t status, ngx_uint_t json, const char *reason);
static ngx_int_t ngx_http_ebbtide_status_header(ngx_http_request_t *r,
    const char *name, const char *value);
static ngx_int_t ngx_http_ebbtide_status_send(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, u_char *text, size_t len);


ngx_int_t
ngx_http_ebbtide_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                    rc;
    ngx_http_ebbtide_resource_e  resource;

    resource = ngx_http_ebbtide_status_resource(r);

    if (resource == NGX_HTTP_EBBTIDE_NOTHING) {
        return NGX_HTTP_NOT_FOUND;
    }

    if (resource == NGX_HTTP_EBBTIDE_RECLAIM) {
        if (r->method != NGX_HTTP_POST) {
            return ngx_http_ebbtide_status_not_allowed(r, "POST");
        }

    } else if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return ngx_http_ebbtide_status_not_allowed(r, "GET, HEAD");
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    if (resource == NGX_HTTP_EBBTIDE_RECLAIM) {
        return ngx_http_ebbtide_status_reclaim(r);
    }

    return ngx_http_ebbtide_status_get(r, resource);
}


static ngx_int_t
ngx_http_ebbtide_status_not_allowed(ngx_http_request_t *r, const char *allow)
{
    if (ngx_http_ebbtide_status_header(r, "Allow", allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_NOT_ALLOWED;
}


/* The page or the figures, in one of the formats. */

static ngx_int_t
ngx_http_ebbtide_status_get(ngx_http_request_t *r,
    ngx_http_ebbtide_resource_e resource)
{
    ngx_int_t  format;

    format = ngx_http_ebbtide_status_format(r);

    if (format == NGX_ERROR) {
        return ngx_http_ebbtide_status_refuse(r, NGX_HTTP_BAD_REQUEST, 0,
                              "the format must be html, json or prometheus");
    }

    if (resource == NGX_HTTP_EBBTIDE_METRICS) {
        format = NGX_HTTP_EBBTIDE_PROMETHEUS;
    }

    if (ngx_http_ebbtide_zone() == NULL) {
        return ngx_http_ebbtide_status_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                              format == NGX_HTTP_EBBTIDE_JSON,
                                              ngx_http_ebbtide_no_zone(r));
    }

    /* this worker's figures are as fresh as the request */
    (void) ngx_http_ebbtide_zone_publish(ngx_current_msec);

    if (format == NGX_HTTP_EBBTIDE_HTML) {
        return ngx_http_ebbtide_status_send(r, NGX_HTTP_OK,
                                            "text/html; charset=utf-8",
                                            (u_char *) ngx_http_ebbtide_page,
                                            sizeof(ngx_http_ebbtide_page) - 1);
    }

    return ngx_http_ebbtide_status_figures(r, format);
}


static ngx_int_t
ngx_http_ebbtide_status_figures(ngx_http_request_t *r, ngx_int_t format)
{
    ngx_int_t                     rc;
    ngx_str_t                     text;
    const char                   *type;
    ngx_array_t                  *workers;
    ngx_http_ebbtide_loc_conf_t  *elcf;

    workers = ngx_http_ebbtide_zone_workers(r->pool);
    if (workers == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (format == NGX_HTTP_EBBTIDE_JSON) {
        elcf = ngx_http_get_module_loc_conf(r, ngx_http_ebbtide_module);
        rc = ngx_http_ebbtide_json(r->pool, workers, elcf->reclaim, &text);
        type = "application/json";

    } else {
        rc = ngx_http_ebbtide_metrics(r->pool, workers, &text);
        type = "text/plain; version=0.0.4; charset=utf-8";
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_ebbtide_status_send(r, NGX_HTTP_OK, type, text.data,
                                        text.len);
}


/* Why there are no figures. */

static const char *
ngx_http_ebbtide_no_zone(ngx_http_request_t *r)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_get_module_main_conf(r, ngx_http_ebbtide_module);

    return emcf->enable ? "there are no figures: ebbtide_zone is off"
                        : "there are no figures: ebbtide is off";
}


static ngx_int_t
ngx_http_ebbtide_status_reclaim(ngx_http_request_t *r)
{
    u_char                       *text, *last;
    ngx_uint_t                    asked;
    ngx_http_ebbtide_loc_conf_t  *elcf;

    elcf = ngx_http_get_module_loc_conf(r, ngx_http_ebbtide_module);

    if (!elcf->reclaim) {
        return ngx_http_ebbtide_status_refuse(r, NGX_HTTP_FORBIDDEN, 1,
                                             "ebbtide_status_reclaim is off");
    }

    if (ngx_http_ebbtide_status_is_foreign(r)) {
        return ngx_http_ebbtide_status_refuse(r, NGX_HTTP_FORBIDDEN, 1,
                                    "the page of another site asked for it");
    }

    if (ngx_http_ebbtide_zone() == NULL) {
        return ngx_http_ebbtide_status_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                              1, ngx_http_ebbtide_no_zone(r));
    }

    text = ngx_pnalloc(r->pool, NGX_HTTP_EBBTIDE_STATUS_LINE);
    if (text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    asked = ngx_http_ebbtide_zone_request_reclaim(r->connection->log);
    last = ngx_sprintf(text, "{\"asked\":%ui}\n", asked);

    return ngx_http_ebbtide_status_send(r, NGX_HTTP_ACCEPTED,
                                        "application/json", text, last - text);
}


/* Answers with the reason, as JSON or as text. */

static ngx_int_t
ngx_http_ebbtide_status_refuse(ngx_http_request_t *r, ngx_uint_t status,
    ngx_uint_t json, const char *reason)
{
    u_char  *text, *last;

    text = ngx_pnalloc(r->pool, NGX_HTTP_EBBTIDE_STATUS_LINE);
    if (text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    last = ngx_snprintf(text, NGX_HTTP_EBBTIDE_STATUS_LINE,
                        json ? "{\"error\":\"%s\"}\n" : "ebbtide: %s\n",
                        reason);

    return ngx_http_ebbtide_status_send(r, status, json ? "application/json"
                                                 : "text/plain; charset=utf-8",
                                        text, last - text);
}


static ngx_int_t
ngx_http_ebbtide_status_header(ngx_http_request_t *r, const char *name,
    const char *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));
    h->hash = 1;
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value.data = (u_char *) value;
    h->value.len = ngx_strlen(value);

    return NGX_OK;
}


static ngx_int_t
ngx_http_ebbtide_status_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, u_char *text, size_t len)
{
    ngx_int_t         rc;
    ngx_buf_t        *b;
    ngx_chain_t       out;

    r->headers_out.status = status;
    r->headers_out.content_length_n = len;
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type_len = r->headers_out.content_type.len;

    if (ngx_http_ebbtide_status_header(r, "Cache-Control", "no-store")
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = text;
    b->last = text + len;
    b->memory = len ? 1 : 0;
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}
