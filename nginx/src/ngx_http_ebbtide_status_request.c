
#include "ngx_http_ebbtide_status_request.h"


static ngx_uint_t ngx_http_ebbtide_origin_is_foreign(ngx_http_request_t *r,
    ngx_str_t origin);
static ngx_uint_t ngx_http_ebbtide_status_equals(ngx_str_t *text,
    const char *other);
static ngx_uint_t ngx_http_ebbtide_status_is(ngx_str_t *text,
    const char *other);
static ngx_uint_t ngx_http_ebbtide_status_ends(ngx_http_request_t *r,
    const char *end);


/*
 * The resource, by what the URI has behind the name of the location. A
 * location that is a regular expression or a named one has no such rest: a URI
 * that does not end like one of the other resources is the page.
 */

ngx_http_ebbtide_resource_e
ngx_http_ebbtide_status_resource(ngx_http_request_t *r)
{
    ngx_str_t                  rest;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (ngx_http_ebbtide_status_ends(r, "/metrics")) {
        ngx_str_set(&rest, "/metrics");

    } else if (ngx_http_ebbtide_status_ends(r, "/reclaim")) {
        ngx_str_set(&rest, "/reclaim");

    } else {
        ngx_str_set(&rest, "/");
    }

    if (clcf->name.len && clcf->name.data[0] == '/'
#if (NGX_PCRE)
        && clcf->regex == NULL
#endif
        && r->uri.len >= clcf->name.len
        && ngx_memcmp(r->uri.data, clcf->name.data, clcf->name.len) == 0)
    {
        rest.data = r->uri.data + clcf->name.len;
        rest.len = r->uri.len - clcf->name.len;

        if (clcf->name.data[clcf->name.len - 1] == '/') {
            rest.data--;
            rest.len++;
        }
    }

    if (rest.len == 0 || (rest.len == 1 && rest.data[0] == '/')) {
        return NGX_HTTP_EBBTIDE_PAGE;
    }

    if (ngx_http_ebbtide_status_equals(&rest, "/metrics")) {
        return NGX_HTTP_EBBTIDE_METRICS;
    }

    if (ngx_http_ebbtide_status_equals(&rest, "/reclaim")) {
        return NGX_HTTP_EBBTIDE_RECLAIM;
    }

    return NGX_HTTP_EBBTIDE_NOTHING;
}


/*
 * The format, by the argument or by the header Accept. NGX_ERROR: the argument
 * names no format.
 */

ngx_int_t
ngx_http_ebbtide_status_format(ngx_http_request_t *r)
{
    ngx_str_t         format;
#if (NGX_HTTP_HEADERS)
    ngx_table_elt_t  *accept;
#endif

    if (ngx_http_arg(r, (u_char *) "format", 6, &format) == NGX_OK) {

        if (ngx_http_ebbtide_status_equals(&format, "html")) {
            return NGX_HTTP_EBBTIDE_HTML;
        }

        if (ngx_http_ebbtide_status_equals(&format, "json")) {
            return NGX_HTTP_EBBTIDE_JSON;
        }

        if (ngx_http_ebbtide_status_equals(&format, "prometheus")) {
            return NGX_HTTP_EBBTIDE_PROMETHEUS;
        }

        return NGX_ERROR;
    }

#if (NGX_HTTP_HEADERS)

    accept = r->headers_in.accept;

    if (accept) {
        if (ngx_strstrn(accept->value.data, "text/html", 9 - 1)) {
            return NGX_HTTP_EBBTIDE_HTML;
        }

        if (ngx_strstrn(accept->value.data, "application/json", 16 - 1)) {
            return NGX_HTTP_EBBTIDE_JSON;
        }

        if (ngx_strstrn(accept->value.data, "openmetrics", 11 - 1)
            || ngx_strstrn(accept->value.data, "text/plain", 10 - 1))
        {
            return NGX_HTTP_EBBTIDE_PROMETHEUS;
        }
    }

#endif

    return NGX_HTTP_EBBTIDE_HTML;
}


/* Whether a browser says that the page of another site made the request. */

ngx_uint_t
ngx_http_ebbtide_status_is_foreign(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        header = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (ngx_http_ebbtide_status_is(&header[i].key, "Sec-Fetch-Site")
                && !ngx_http_ebbtide_status_is(&header[i].value, "same-origin"))
            {
                return 1;
            }

            if (ngx_http_ebbtide_status_is(&header[i].key, "Origin")
                && ngx_http_ebbtide_origin_is_foreign(r, header[i].value))
            {
                return 1;
            }
        }
    }

    return 0;
}


/* Whether the value of Origin, scheme://host:port, names another host. */

static ngx_uint_t
ngx_http_ebbtide_origin_is_foreign(ngx_http_request_t *r, ngx_str_t origin)
{
    u_char     *p;
    ngx_str_t  *host;

    p = ngx_strlchr(origin.data, origin.data + origin.len, '/');

    if (p == NULL || r->headers_in.host == NULL) {
        return 1;
    }

    /* what follows "//" is as in Host */
    p = ngx_min(p + 2, origin.data + origin.len);
    origin.len -= p - origin.data;
    origin.data = p;

    host = &r->headers_in.host->value;

    return origin.len != host->len
           || ngx_strncasecmp(origin.data, host->data, host->len) != 0;
}


static ngx_uint_t
ngx_http_ebbtide_status_equals(ngx_str_t *text, const char *other)
{
    return text->len == ngx_strlen(other)
           && ngx_memcmp(text->data, other, text->len) == 0;
}


static ngx_uint_t
ngx_http_ebbtide_status_is(ngx_str_t *text, const char *other)
{
    return text->len == ngx_strlen(other)
           && ngx_strncasecmp(text->data, (u_char *) other, text->len) == 0;
}


static ngx_uint_t
ngx_http_ebbtide_status_ends(ngx_http_request_t *r, const char *end)
{
    size_t  len;

    len = ngx_strlen(end);

    return r->uri.len >= len
           && ngx_memcmp(r->uri.data + r->uri.len - len, end, len) == 0;
}
