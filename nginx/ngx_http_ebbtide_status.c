
/*
 * The page: HTML for people, JSON for programs, text for Prometheus.
 *
 *   GET  location                  by Accept: HTML, JSON, or Prometheus
 *   GET  location?format=json      html, json, or prometheus
 *   GET  location/metrics          Prometheus
 *   POST location/reclaim          asks all workers to reclaim now
 *
 * Whatever else is asked for is refused: 400, 403, 404 or 405, and 503 where
 * there are no figures.
 *
 * Nothing of a request gets into a response.
 */


#include "ngx_http_ebbtide.h"
#include "ngx_http_ebbtide_page.h"


#define NGX_HTTP_EBBTIDE_HTML        0
#define NGX_HTTP_EBBTIDE_JSON        1
#define NGX_HTTP_EBBTIDE_PROMETHEUS  2

/* bytes of JSON for a worker without its samples, and for a sample, at most */
#define NGX_HTTP_EBBTIDE_JSON_WORKER  2048
#define NGX_HTTP_EBBTIDE_JSON_SAMPLE  (5 * NGX_INT64_LEN + 8)
/* bytes of text for a line of Prometheus, at most */
#define NGX_HTTP_EBBTIDE_LINE         256
/* and for the restarts of a number */
#define NGX_HTTP_EBBTIDE_RESTARTS     80


typedef struct {
    const char  *name;
    const char  *type;
    const char  *help;
    /* one for each kind of VMs, or one for the process */
    ngx_uint_t   by_vm;
    size_t       offset;
    /* units of the value in one of the metric */
    ngx_uint_t   divisor;
} ngx_http_ebbtide_metric_t;


typedef enum {
    NGX_HTTP_EBBTIDE_PAGE = 0,
    NGX_HTTP_EBBTIDE_METRICS,
    NGX_HTTP_EBBTIDE_RECLAIM,
    NGX_HTTP_EBBTIDE_NOTHING
} ngx_http_ebbtide_resource_e;


typedef struct {
    ngx_pid_t                 pid;
    ngx_http_ebbtide_stats_t  stats;
} ngx_http_ebbtide_worker_t;


static ngx_http_ebbtide_resource_e ngx_http_ebbtide_status_resource(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_ebbtide_status_not_allowed(ngx_http_request_t *r,
    const char *allow);
static ngx_int_t ngx_http_ebbtide_status_stats(ngx_http_request_t *r,
    ngx_http_ebbtide_resource_e resource);
static const char *ngx_http_ebbtide_no_zone(ngx_http_request_t *r);
static ngx_int_t ngx_http_ebbtide_status_format(ngx_http_request_t *r);
static ngx_uint_t ngx_http_ebbtide_status_equals(ngx_str_t *text,
    const char *other);
static ngx_uint_t ngx_http_ebbtide_status_ends(ngx_http_request_t *r,
    const char *end);
static ngx_uint_t ngx_http_ebbtide_status_is_foreign(ngx_http_request_t *r);
static ngx_uint_t ngx_http_ebbtide_status_is(ngx_str_t *text,
    const char *other);
static ngx_int_t ngx_http_ebbtide_status_reclaim(ngx_http_request_t *r);
static ngx_int_t ngx_http_ebbtide_status_refuse(ngx_http_request_t *r,
    ngx_uint_t status, ngx_uint_t json, const char *reason);
static ngx_int_t ngx_http_ebbtide_status_header(ngx_http_request_t *r,
    const char *name, const char *value);
static ngx_int_t ngx_http_ebbtide_status_send(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, u_char *text, size_t len);
static ngx_array_t *ngx_http_ebbtide_status_workers(ngx_http_request_t *r);
static ngx_int_t ngx_http_ebbtide_status_json(ngx_http_request_t *r);
static u_char *ngx_http_ebbtide_json_worker(u_char *p,
    ngx_http_ebbtide_worker_t *worker);
static u_char *ngx_http_ebbtide_json_usage(u_char *p,
    ngx_http_ebbtide_usage_t *usage);
static u_char *ngx_http_ebbtide_json_samples(u_char *p,
    ngx_http_ebbtide_stats_t *stats);
static ngx_int_t ngx_http_ebbtide_status_prometheus(ngx_http_request_t *r);
static u_char *ngx_http_ebbtide_metric(u_char *p,
    const ngx_http_ebbtide_metric_t *metric, ngx_array_t *workers);
static u_char *ngx_http_ebbtide_restarts(u_char *p);
static u_char *ngx_http_ebbtide_label(u_char *p, const char *metric,
    ngx_http_ebbtide_worker_t *worker);
static ngx_msec_t ngx_http_ebbtide_wall_ms(void);
static uint64_t ngx_http_ebbtide_total(ngx_http_ebbtide_stats_t *stats,
    size_t offset);


const char  *ngx_http_ebbtide_trends[] =
    { "steady", "growing", "steady", "shrinking" };

const char  *ngx_http_ebbtide_phases[] =
    { "busy", "collecting", "returning", "settled" };

static const char  *ngx_http_ebbtide_kinds[] = { "main", "other" };


#define NGX_HTTP_EBBTIDE_HELD(field)  offsetof(ngx_http_ebbtide_usage_t, field)
#define NGX_HTTP_EBBTIDE_OF(field)    offsetof(ngx_http_ebbtide_stats_t, field)


/* The labels are worker, pid and, of VMs, their kind. */

static const ngx_http_ebbtide_metric_t  ngx_http_ebbtide_metrics[] = {
    { "ebbtide_vms", "gauge", "Lua VMs on a heap.",
      1, NGX_HTTP_EBBTIDE_HELD(count), 1 },
    { "ebbtide_live_bytes", "gauge", "In live blocks, as Lua asked for.",
      1, NGX_HTTP_EBBTIDE_HELD(live), 1 },
    { "ebbtide_waste_bytes", "gauge", "Lost in live blocks to rounding.",
      1, NGX_HTTP_EBBTIDE_HELD(waste), 1 },
    { "ebbtide_free_resident_bytes", "gauge", "Free and held resident.",
      1, NGX_HTTP_EBBTIDE_HELD(free_resident), 1 },
    { "ebbtide_returned_bytes", "gauge", "Free and given back to the kernel.",
      1, NGX_HTTP_EBBTIDE_HELD(returned), 1 },
    { "ebbtide_metadata_bytes", "gauge", "Tables of the heaps themselves.",
      1, NGX_HTTP_EBBTIDE_HELD(metadata), 1 },
    { "ebbtide_resident_bytes", "gauge", "Held resident by the heaps.",
      1, NGX_HTTP_EBBTIDE_HELD(resident), 1 },
    { "ebbtide_committed_bytes", "gauge", "Address space that can be used.",
      1, NGX_HTTP_EBBTIDE_HELD(committed), 1 },
    { "ebbtide_reserved_bytes", "gauge", "Address space of the heaps.",
      1, NGX_HTTP_EBBTIDE_HELD(reserved), 1 },
    { "ebbtide_given_back_bytes_total", "counter",
      "Given back to the kernel, ever; by closed VMs too.",
      1, NGX_HTTP_EBBTIDE_HELD(returned_total), 1 },
    { "ebbtide_refaulted_bytes_total", "counter",
      "Of the bytes given back, those used again.",
      1, NGX_HTTP_EBBTIDE_HELD(refaulted_total), 1 },
    { "ebbtide_premature_refaults_bytes_total", "counter",
      "Of the bytes used again, those within a second.",
      1, NGX_HTTP_EBBTIDE_HELD(premature_refaults_total), 1 },
    { "ebbtide_refused_allocations_total", "counter",
      "Allocations refused, ever: Lua was out of memory.",
      1, NGX_HTTP_EBBTIDE_HELD(refused_total), 1 },
    { "ebbtide_refused_address_space_total", "counter",
      "Of these, allocations that RLIMIT_AS refused.",
      1, NGX_HTTP_EBBTIDE_HELD(refused_space_total), 1 },
    { "ebbtide_thrashing_vms", "gauge",
      "Lua VMs that use again at once what their limit has them give back.",
      1, NGX_HTTP_EBBTIDE_HELD(thrashing), 1 },
    { "ebbtide_purge_errno", "gauge",
      "The errno with which the kernel took no memory back; 0: it does.",
      1, NGX_HTTP_EBBTIDE_HELD(purge_errno), 1 },
    { "ebbtide_process_resident_bytes", "gauge",
      "What the kernel says that the process holds resident.",
      0, NGX_HTTP_EBBTIDE_OF(rss), 1 },
    { "ebbtide_limit_soft_bytes", "gauge",
      "Above this nothing idle stays; 0 is none.",
      0, NGX_HTTP_EBBTIDE_OF(limit_soft), 1 },
    { "ebbtide_limit_hard_bytes", "gauge",
      "Beyond this the heap does not grow; 0 is none.",
      0, NGX_HTTP_EBBTIDE_OF(limit_hard), 1 },
    { "ebbtide_pressure_ratio", "gauge",
      "How near the heap is to its limit: 0 to 1.",
      0, NGX_HTTP_EBBTIDE_OF(pressure), 100 },
    { "ebbtide_steps_total", "counter",
      "Slices of garbage collection and reclaim between events.",
      0, NGX_HTTP_EBBTIDE_OF(steps), 1 },
    { "ebbtide_step_median_seconds", "gauge",
      "What half of the slices did not exceed, to a fifth.",
      0, NGX_HTTP_EBBTIDE_OF(step_p50_us), 1000000 },
    { "ebbtide_step_p99_seconds", "gauge",
      "What 99 of 100 slices did not exceed, to a fifth.",
      0, NGX_HTTP_EBBTIDE_OF(step_p99_us), 1000000 },
    { "ebbtide_step_longest_seconds", "gauge", "The longest slice.",
      0, NGX_HTTP_EBBTIDE_OF(step_max_us), 1000000 },
    { NULL, NULL, NULL, 0, 0, 0 }
};


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

    return ngx_http_ebbtide_status_stats(r, resource);
}


/*
 * What is asked for, by what the URI has behind the name of the location. A
 * location that a regular expression or a name stands for has no such rest: all
 * that does not end like one of the others is the page.
 */

static ngx_http_ebbtide_resource_e
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
ngx_http_ebbtide_status_stats(ngx_http_request_t *r,
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
    ngx_http_ebbtide_zone_publish(ngx_current_msec);

    switch (format) {

    case NGX_HTTP_EBBTIDE_JSON:
        return ngx_http_ebbtide_status_json(r);

    case NGX_HTTP_EBBTIDE_PROMETHEUS:
        return ngx_http_ebbtide_status_prometheus(r);

    default: /* NGX_HTTP_EBBTIDE_HTML */
        return ngx_http_ebbtide_status_send(r, NGX_HTTP_OK,
                                            "text/html; charset=utf-8",
                                            (u_char *) ngx_http_ebbtide_page,
                                            sizeof(ngx_http_ebbtide_page) - 1);
    }
}


/* Why there is no place for figures. */

static const char *
ngx_http_ebbtide_no_zone(ngx_http_request_t *r)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_get_module_main_conf(r, ngx_http_ebbtide_module);

    return emcf->enable ? "there are no figures: ebbtide_zone is off"
                        : "there are no figures: ebbtide is off";
}


/* NGX_ERROR: the request asks for one that there is not. */

static ngx_int_t
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


static ngx_uint_t
ngx_http_ebbtide_status_equals(ngx_str_t *text, const char *other)
{
    return text->len == ngx_strlen(other)
           && ngx_memcmp(text->data, other, text->len) == 0;
}


static ngx_uint_t
ngx_http_ebbtide_status_ends(ngx_http_request_t *r, const char *end)
{
    size_t  len;

    len = ngx_strlen(end);

    return r->uri.len >= len
           && ngx_memcmp(r->uri.data + r->uri.len - len, end, len) == 0;
}


/* Whether a browser says that the request was made by another site's page. */

static ngx_uint_t
ngx_http_ebbtide_status_is_foreign(ngx_http_request_t *r)
{
    u_char           *p;
    ngx_str_t         host;
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

            if (ngx_http_ebbtide_status_is(&header[i].key, "Origin")) {
                host = header[i].value;
                p = ngx_strlchr(host.data, host.data + host.len, '/');

                if (p == NULL || r->headers_in.host == NULL) {
                    return 1;
                }

                /* scheme://host:port, as in Host */
                p = ngx_min(p + 2, host.data + host.len);
                host.len -= p - host.data;
                host.data = p;

                if (host.len != r->headers_in.host->value.len
                    || ngx_strncasecmp(host.data,
                                       r->headers_in.host->value.data,
                                       host.len) != 0)
                {
                    return 1;
                }
            }
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_ebbtide_status_is(ngx_str_t *text, const char *other)
{
    return text->len == ngx_strlen(other)
           && ngx_strncasecmp(text->data, (u_char *) other, text->len) == 0;
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

    text = ngx_pnalloc(r->pool, NGX_HTTP_EBBTIDE_LINE);
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

    text = ngx_pnalloc(r->pool, NGX_HTTP_EBBTIDE_LINE);
    if (text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    last = ngx_snprintf(text, NGX_HTTP_EBBTIDE_LINE,
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


/* The figures of all workers, as they are now. */

static ngx_array_t *
ngx_http_ebbtide_status_workers(ngx_http_request_t *r)
{
    ngx_pid_t                   pid;
    ngx_uint_t                  i;
    ngx_array_t                *workers;
    ngx_http_ebbtide_zone_t    *zone;
    ngx_http_ebbtide_worker_t  *worker;
    ngx_http_ebbtide_stats_t   *stats;

    workers = ngx_array_create(r->pool, 4, sizeof(ngx_http_ebbtide_worker_t));
    if (workers == NULL) {
        return NULL;
    }

    zone = ngx_http_ebbtide_zone();

    for (i = 0; zone && i < zone->slot_count; i++) {

        stats = ngx_http_ebbtide_zone_copy(i, &pid);
        if (stats == NULL) {
            continue;
        }

        worker = ngx_array_push(workers);
        if (worker == NULL) {
            return NULL;
        }

        worker->pid = pid;
        worker->stats = *stats;
    }

    return workers;
}


static ngx_int_t
ngx_http_ebbtide_status_json(ngx_http_request_t *r)
{
    size_t                        size;
    u_char                       *text, *p;
    ngx_uint_t                    i;
    ngx_array_t                  *workers;
    ngx_http_ebbtide_worker_t    *worker;
    ngx_http_ebbtide_loc_conf_t  *elcf;

    elcf = ngx_http_get_module_loc_conf(r, ngx_http_ebbtide_module);

    workers = ngx_http_ebbtide_status_workers(r);
    if (workers == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    size = NGX_HTTP_EBBTIDE_LINE
           + workers->nelts * (NGX_HTTP_EBBTIDE_JSON_WORKER
                               + NGX_HTTP_EBBTIDE_SAMPLES
                                 * NGX_HTTP_EBBTIDE_JSON_SAMPLE);

    text = ngx_pnalloc(r->pool, size);
    if (text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    p = ngx_sprintf(text, "{\"version\":\"%s\",\"nginx\":\"" NGINX_VERSION "\","
                          "\"time_ms\":%M,\"can_reclaim\":%s,\"workers\":[",
                    ebb_version(), ngx_http_ebbtide_wall_ms(),
                    elcf->reclaim && ngx_http_ebbtide_zone() ? "true" : "false");

    worker = workers->elts;

    for (i = 0; i < workers->nelts; i++) {
        if (i) {
            *p++ = ',';
        }

        p = ngx_http_ebbtide_json_worker(p, &worker[i]);
    }

    p = ngx_cpymem(p, "]}\n", 3);

    return ngx_http_ebbtide_status_send(r, NGX_HTTP_OK, "application/json",
                                        text, p - text);
}


static u_char *
ngx_http_ebbtide_json_worker(u_char *p, ngx_http_ebbtide_worker_t *worker)
{
    ngx_uint_t                 i;
    ngx_msec_t                 wall;
    ngx_http_ebbtide_stats_t  *stats;

    wall = ngx_http_ebbtide_wall_ms();
    stats = &worker->stats;

    p = ngx_sprintf(p, "{\"process\":\"%s\",\"worker\":", stats->process);

    if (ngx_http_ebbtide_is_worker(stats)) {
        p = ngx_sprintf(p, "%ui", stats->worker);

    } else {
        p = ngx_cpymem(p, "null", 4);
    }

    p = ngx_sprintf(p, ",\"pid\":%P,\"state\":\"%s\","
                       "\"since_ms\":%M,\"updated_ms\":%M,\"rss\":%uL,"
                       "\"vms\":{",
                    worker->pid,
                    stats->exiting ? "exiting" : "running",
                    wall - ngx_http_ebbtide_ago(stats->since),
                    wall - ngx_http_ebbtide_ago(stats->updated),
                    stats->rss);

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        p = ngx_sprintf(p, "%s\"%s\":", i ? "," : "", ngx_http_ebbtide_kinds[i]);
        p = ngx_http_ebbtide_json_usage(p, &stats->usage[i]);
    }

    p = ngx_sprintf(p, "},\"limit_soft\":%uL,\"limit_hard\":%uL,"
                       "\"pressure\":%uL,\"thrashing_vms\":%uL,\"trend\":\"%s\","
                       "\"breath\":\"%s\",\"refused_allocations\":%uL,"
                       "\"refused_address_space\":%uL,"
                       "\"restarts\":%uL,\"purge_errno\":%uL,"
                       "\"steps\":{\"count\":%uL,\"p50_us\":%uL,"
                       "\"p99_us\":%uL,\"max_us\":%uL},"
                       "\"returned_total\":%uL,\"refaulted_total\":%uL,"
                       "\"premature_refaults_total\":%uL,\"history\":[",
                    stats->limit_soft, stats->limit_hard,
                    stats->pressure,
                    ngx_http_ebbtide_total(stats,
                                           NGX_HTTP_EBBTIDE_HELD(thrashing)),
                    ngx_http_ebbtide_trends[stats->trend % 4],
                    ngx_http_ebbtide_phases[stats->phase % 4],
                    ngx_http_ebbtide_total(stats,
                                       NGX_HTTP_EBBTIDE_HELD(refused_total)),
                    ngx_http_ebbtide_total(stats,
                                NGX_HTTP_EBBTIDE_HELD(refused_space_total)),
                    stats->restarts,
                    ngx_max(stats->usage[0].purge_errno,
                            stats->usage[1].purge_errno),
                    stats->steps, stats->step_p50_us,
                    stats->step_p99_us, stats->step_max_us,
                    ngx_http_ebbtide_total(stats,
                                      NGX_HTTP_EBBTIDE_HELD(returned_total)),
                    ngx_http_ebbtide_total(stats,
                                      NGX_HTTP_EBBTIDE_HELD(refaulted_total)),
                    ngx_http_ebbtide_total(stats,
                                      NGX_HTTP_EBBTIDE_HELD(premature_refaults_total)));

    p = ngx_http_ebbtide_json_samples(p, stats);

    return ngx_cpymem(p, "]}", 2);
}


static u_char *
ngx_http_ebbtide_json_usage(u_char *p, ngx_http_ebbtide_usage_t *usage)
{
    return ngx_sprintf(p, "{\"count\":%uL,\"live\":%uL,\"waste\":%uL,"
                          "\"free_resident\":%uL,\"returned\":%uL,"
                          "\"metadata\":%uL,\"resident\":%uL,"
                          "\"committed\":%uL,\"reserved\":%uL}",
                       usage->count, usage->live, usage->waste,
                       usage->free_resident, usage->returned, usage->metadata,
                       usage->resident, usage->committed, usage->reserved);
}


/* The oldest first: milliseconds ago, live, free, returned, resident. */

static u_char *
ngx_http_ebbtide_json_samples(u_char *p, ngx_http_ebbtide_stats_t *stats)
{
    ngx_uint_t                  i, first;
    ngx_http_ebbtide_sample_t  *sample;

    first = stats->sample_count > NGX_HTTP_EBBTIDE_SAMPLES
            ? stats->sample_count - NGX_HTTP_EBBTIDE_SAMPLES : 0;

    for (i = first; i < stats->sample_count; i++) {
        sample = &stats->samples[i % NGX_HTTP_EBBTIDE_SAMPLES];

        p = ngx_sprintf(p, "%s[%M,%uL,%uL,%uL,%uL]", i > first ? "," : "",
                        ngx_http_ebbtide_ago(sample->time), sample->live,
                        sample->free_resident, sample->returned, sample->rss);
    }

    return p;
}


static ngx_int_t
ngx_http_ebbtide_status_prometheus(ngx_http_request_t *r)
{
    size_t        size;
    u_char       *text, *p;
    ngx_uint_t    i;
    ngx_array_t  *workers;

    workers = ngx_http_ebbtide_status_workers(r);
    if (workers == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    size = 4 * NGX_HTTP_EBBTIDE_LINE
           + (NGX_HTTP_EBBTIDE_SEATS + 1) * NGX_HTTP_EBBTIDE_RESTARTS
           + sizeof(ngx_http_ebbtide_metrics)
             / sizeof(ngx_http_ebbtide_metric_t)
             * (2 + NGX_HTTP_EBBTIDE_KINDS * workers->nelts)
             * NGX_HTTP_EBBTIDE_LINE;

    text = ngx_pnalloc(r->pool, size);
    if (text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    p = ngx_sprintf(text, "# HELP ebbtide_build_info The version.\n"
                          "# TYPE ebbtide_build_info gauge\n"
                          "ebbtide_build_info{version=\"%s\"} 1\n",
                    ebb_version());

    for (i = 0; ngx_http_ebbtide_metrics[i].name; i++) {
        p = ngx_http_ebbtide_metric(p, &ngx_http_ebbtide_metrics[i], workers);
    }

    p = ngx_http_ebbtide_restarts(p);

    return ngx_http_ebbtide_status_send(r, NGX_HTTP_OK,
                                    "text/plain; version=0.0.4; charset=utf-8",
                                    text, p - text);
}


/*
 * Old workers that shut down are there beside the new ones of the same number,
 * so the process is a label too.
 */

static u_char *
ngx_http_ebbtide_metric(u_char *p, const ngx_http_ebbtide_metric_t *metric,
    ngx_array_t *workers)
{
    u_char                     *base;
    uint64_t                    value;
    ngx_uint_t                  i, kind, kinds;
    ngx_http_ebbtide_worker_t  *worker;

    p = ngx_sprintf(p, "# HELP %s %s\n# TYPE %s %s\n",
                    metric->name, metric->help, metric->name, metric->type);

    worker = workers->elts;
    kinds = metric->by_vm ? NGX_HTTP_EBBTIDE_KINDS : 1;

    for (i = 0; i < workers->nelts; i++) {
        for (kind = 0; kind < kinds; kind++) {
            p = ngx_http_ebbtide_label(p, metric->name, &worker[i]);

            base = (u_char *) &worker[i].stats;

            if (metric->by_vm) {
                p = ngx_sprintf(p, ",vm=\"%s\"", ngx_http_ebbtide_kinds[kind]);
                base = (u_char *) &worker[i].stats.usage[kind];
            }

            value = *(uint64_t *) (base + metric->offset);

            if (metric->divisor == 1) {
                p = ngx_sprintf(p, "} %uL\n", value);

            } else {
                p = ngx_sprintf(p, "} %.6f\n",
                                (double) value / metric->divisor);
            }
        }
    }

    return p;
}


/* They are of no process that is there now, so a number is their only label. */

static u_char *
ngx_http_ebbtide_restarts(u_char *p)
{
    ngx_uint_t                i;
    ngx_http_ebbtide_seat_t  *seat;

    p = ngx_sprintf(p, "# HELP ebbtide_worker_restarts_total "
                       "Workers that were started anew, for they had died.\n"
                       "# TYPE ebbtide_worker_restarts_total counter\n");

    seat = ngx_http_ebbtide_zone()->seats;

    for (i = 0; i < NGX_HTTP_EBBTIDE_SEATS; i++) {
        if (seat[i].generation) {
            p = ngx_sprintf(p, "ebbtide_worker_restarts_total"
                               "{worker=\"%ui\"} %uD\n", i, seat[i].restarts);
        }
    }

    if (seat[NGX_HTTP_EBBTIDE_AGENT].generation) {
        p = ngx_sprintf(p, "ebbtide_worker_restarts_total"
                           "{worker=\"privileged agent\"} %uD\n",
                        seat[NGX_HTTP_EBBTIDE_AGENT].restarts);
    }

    return p;
}


/* The label of a worker is its number, that of another process its name. */

static u_char *
ngx_http_ebbtide_label(u_char *p, const char *metric,
    ngx_http_ebbtide_worker_t *worker)
{
    ngx_http_ebbtide_stats_t  *stats;

    stats = &worker->stats;

    if (ngx_http_ebbtide_is_worker(stats)) {
        p = ngx_sprintf(p, "%s{worker=\"%ui\"", metric, stats->worker);

    } else {
        p = ngx_sprintf(p, "%s{worker=\"%s\"", metric, stats->process);
    }

    return ngx_sprintf(p, ",pid=\"%P\"", worker->pid);
}


static uint64_t
ngx_http_ebbtide_total(ngx_http_ebbtide_stats_t *stats, size_t offset)
{
    uint64_t    total;
    ngx_uint_t  i;

    total = 0;

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        total += *(uint64_t *) ((u_char *) &stats->usage[i] + offset);
    }

    return total;
}


static ngx_msec_t
ngx_http_ebbtide_wall_ms(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (ngx_msec_t) tp->sec * 1000 + tp->msec;
}
