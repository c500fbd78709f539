
#include "ngx_http_ebbtide_status_metrics.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_stats.h"
#include "ngx_http_ebbtide_zone.h"


/* bytes of text at most: of a line, and of the restarts of a number */
#define NGX_HTTP_EBBTIDE_METRIC_LINE    256
#define NGX_HTTP_EBBTIDE_RESTARTS_LINE  80


typedef struct {
    const char  *name;
    const char  *type;
    const char  *help;
    /* a value for each kind of VMs, or one for the process */
    ngx_uint_t   by_vm;
    size_t       offset;
    /* units of the value in one of the metric */
    ngx_uint_t   divisor;
} ngx_http_ebbtide_metric_t;


static u_char *ngx_http_ebbtide_metric(u_char *p,
    const ngx_http_ebbtide_metric_t *metric, ngx_array_t *workers);
static u_char *ngx_http_ebbtide_metric_label(u_char *p, const char *metric,
    ngx_http_ebbtide_worker_t *worker);
static u_char *ngx_http_ebbtide_metric_restarts(u_char *p);


#define NGX_HTTP_EBBTIDE_USAGE(field)  offsetof(ngx_http_ebbtide_usage_t, field)
#define NGX_HTTP_EBBTIDE_STATS(field)  offsetof(ngx_http_ebbtide_stats_t, field)


/* The labels are worker, pid and, for VMs, their kind. */

static const ngx_http_ebbtide_metric_t  ngx_http_ebbtide_metric_table[] = {
    { "ebbtide_vms", "gauge", "Lua VMs on a heap.",
      1, NGX_HTTP_EBBTIDE_USAGE(count), 1 },
    { "ebbtide_live_bytes", "gauge", "In live blocks, as Lua asked for.",
      1, NGX_HTTP_EBBTIDE_USAGE(live), 1 },
    { "ebbtide_waste_bytes", "gauge", "Lost in live blocks to rounding.",
      1, NGX_HTTP_EBBTIDE_USAGE(waste), 1 },
    { "ebbtide_free_resident_bytes", "gauge", "Free and held resident.",
      1, NGX_HTTP_EBBTIDE_USAGE(free_resident), 1 },
    { "ebbtide_returned_bytes", "gauge", "Free and given back to the kernel.",
      1, NGX_HTTP_EBBTIDE_USAGE(returned), 1 },
    { "ebbtide_metadata_bytes", "gauge", "Tables of the heaps themselves.",
      1, NGX_HTTP_EBBTIDE_USAGE(metadata), 1 },
    { "ebbtide_resident_bytes", "gauge", "Held resident by the heaps.",
      1, NGX_HTTP_EBBTIDE_USAGE(resident), 1 },
    { "ebbtide_committed_bytes", "gauge", "Address space that can be used.",
      1, NGX_HTTP_EBBTIDE_USAGE(committed), 1 },
    { "ebbtide_reserved_bytes", "gauge", "Address space of the heaps.",
      1, NGX_HTTP_EBBTIDE_USAGE(reserved), 1 },
    { "ebbtide_given_back_bytes_total", "counter",
      "Given back to the kernel, ever; by closed VMs too.",
      1, NGX_HTTP_EBBTIDE_USAGE(returned_total), 1 },
    { "ebbtide_refaulted_bytes_total", "counter",
      "Of the bytes given back, those used again.",
      1, NGX_HTTP_EBBTIDE_USAGE(refaulted_total), 1 },
    { "ebbtide_premature_refaults_bytes_total", "counter",
      "Of the bytes used again, those within a second.",
      1, NGX_HTTP_EBBTIDE_USAGE(premature_refaults_total), 1 },
    { "ebbtide_refused_allocations_total", "counter",
      "Allocations refused, ever: Lua was out of memory.",
      1, NGX_HTTP_EBBTIDE_USAGE(refused_total), 1 },
    { "ebbtide_refused_address_space_total", "counter",
      "Of these, allocations that RLIMIT_AS refused.",
      1, NGX_HTTP_EBBTIDE_USAGE(refused_space_total), 1 },
    { "ebbtide_thrashing_vms", "gauge",
      "Lua VMs that use again at once what their limit has them give back.",
      1, NGX_HTTP_EBBTIDE_USAGE(thrashing), 1 },
    { "ebbtide_previous_damaged_vms", "gauge",
      "Lua VMs with overwritten records on LuaJIT's own allocator.",
      1, NGX_HTTP_EBBTIDE_USAGE(previous_damaged), 1 },
    { "ebbtide_purge_errno", "gauge",
      "The errno with which the kernel took no memory back; 0: it does.",
      1, NGX_HTTP_EBBTIDE_USAGE(purge_errno), 1 },
    { "ebbtide_process_resident_bytes", "gauge",
      "What the kernel says that the process holds resident.",
      0, NGX_HTTP_EBBTIDE_STATS(rss), 1 },
    { "ebbtide_limit_soft_bytes", "gauge",
      "Above this nothing idle stays; 0 is none.",
      0, NGX_HTTP_EBBTIDE_STATS(limit_soft), 1 },
    { "ebbtide_limit_hard_bytes", "gauge",
      "Beyond this the heap does not grow; 0 is none.",
      0, NGX_HTTP_EBBTIDE_STATS(limit_hard), 1 },
    { "ebbtide_pressure_ratio", "gauge",
      "How near the heap is to its limit: 0 to 1.",
      0, NGX_HTTP_EBBTIDE_STATS(pressure), 100 },
    { "ebbtide_steps_total", "counter",
      "Slices of garbage collection and reclaim between events.",
      0, NGX_HTTP_EBBTIDE_STATS(slices.count), 1 },
    { "ebbtide_step_median_seconds", "gauge",
      "What half of the slices did not exceed, to a fifth.",
      0, NGX_HTTP_EBBTIDE_STATS(slices.p50_us), 1000000 },
    { "ebbtide_step_p99_seconds", "gauge",
      "What 99 of 100 slices did not exceed, to a fifth.",
      0, NGX_HTTP_EBBTIDE_STATS(slices.p99_us), 1000000 },
    { "ebbtide_step_longest_seconds", "gauge", "The longest slice.",
      0, NGX_HTTP_EBBTIDE_STATS(slices.max_us), 1000000 },
    { NULL, NULL, NULL, 0, 0, 0 }
};


/* NGX_ERROR: there is no memory. */

ngx_int_t
ngx_http_ebbtide_metrics(ngx_pool_t *pool, ngx_array_t *workers,
    ngx_str_t *text)
{
    size_t       size;
    u_char      *p;
    ngx_uint_t   i;

    size = 4 * NGX_HTTP_EBBTIDE_METRIC_LINE
           + (NGX_HTTP_EBBTIDE_NUMBERS + 1) * NGX_HTTP_EBBTIDE_RESTARTS_LINE
           + sizeof(ngx_http_ebbtide_metric_table)
             / sizeof(ngx_http_ebbtide_metric_t)
             * (2 + NGX_HTTP_EBBTIDE_KINDS * workers->nelts)
             * NGX_HTTP_EBBTIDE_METRIC_LINE;

    text->data = ngx_pnalloc(pool, size);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(text->data,
                    "# HELP ebbtide_build_info The version.\n"
                    "# TYPE ebbtide_build_info gauge\n"
                    "ebbtide_build_info{version=\"%s\"} 1\n",
                    ebb_version());

    for (i = 0; ngx_http_ebbtide_metric_table[i].name; i++) {
        p = ngx_http_ebbtide_metric(p, &ngx_http_ebbtide_metric_table[i],
                                    workers);
    }

    p = ngx_http_ebbtide_metric_restarts(p);
    text->len = p - text->data;

    return NGX_OK;
}


/*
 * Old workers that shut down exist beside the new ones of the same number, so
 * the pid is a label too.
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
            p = ngx_http_ebbtide_metric_label(p, metric->name, &worker[i]);

            base = (u_char *) &worker[i].stats;

            if (metric->by_vm) {
                p = ngx_sprintf(p, ",vm=\"%s\"",
                                ngx_http_ebbtide_kind_name(kind));
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


/* The label of a worker is its number, that of another process its name. */

static u_char *
ngx_http_ebbtide_metric_label(u_char *p, const char *metric,
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


/* Counts processes that have died, so a number is their only label. */

static u_char *
ngx_http_ebbtide_metric_restarts(u_char *p)
{
    ngx_uint_t                    i;
    ngx_http_ebbtide_restarts_t  *restarts;

    p = ngx_sprintf(p, "# HELP ebbtide_worker_restarts_total "
                       "Workers that were started anew, for they had died.\n"
                       "# TYPE ebbtide_worker_restarts_total counter\n");

    restarts = ngx_http_ebbtide_zone()->restarts;

    for (i = 0; i < NGX_HTTP_EBBTIDE_NUMBERS; i++) {
        if (restarts[i].generation) {
            p = ngx_sprintf(p, "ebbtide_worker_restarts_total"
                               "{worker=\"%ui\"} %uD\n",
                            i, restarts[i].restarts);
        }
    }

    if (restarts[NGX_HTTP_EBBTIDE_AGENT].generation) {
        p = ngx_sprintf(p, "ebbtide_worker_restarts_total"
                           "{worker=\"privileged agent\"} %uD\n",
                        restarts[NGX_HTTP_EBBTIDE_AGENT].restarts);
    }

    return p;
}
