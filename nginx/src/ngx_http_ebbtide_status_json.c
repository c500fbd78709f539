
#include "ngx_http_ebbtide_status_json.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_stats.h"
#include "ngx_http_ebbtide_zone.h"


/* bytes of JSON at most: around the workers, of a worker, of a sample */
#define NGX_HTTP_EBBTIDE_JSON_FRAME   256
#define NGX_HTTP_EBBTIDE_JSON_WORKER  2048
#define NGX_HTTP_EBBTIDE_JSON_SAMPLE  (5 * NGX_INT64_LEN + 8)


static u_char *ngx_http_ebbtide_json_worker(u_char *p,
    ngx_http_ebbtide_worker_t *worker);
static u_char *ngx_http_ebbtide_json_usage(u_char *p,
    ngx_http_ebbtide_usage_t *usage);
static u_char *ngx_http_ebbtide_json_totals(u_char *p,
    ngx_http_ebbtide_stats_t *stats);
static u_char *ngx_http_ebbtide_json_samples(u_char *p,
    ngx_http_ebbtide_stats_t *stats);


static const char  *ngx_http_ebbtide_json_trends[] =
    { "steady", "growing", "steady", "shrinking" };


#define ngx_http_ebbtide_json_total(stats, field)                             \
    ngx_http_ebbtide_stats_total(stats,                                       \
                                 offsetof(ngx_http_ebbtide_usage_t, field))


/* NGX_ERROR: there is no memory. */

ngx_int_t
ngx_http_ebbtide_json(ngx_pool_t *pool, ngx_array_t *workers,
    ngx_uint_t can_reclaim, ngx_str_t *text)
{
    size_t                      size;
    u_char                     *p;
    ngx_uint_t                  i;
    ngx_http_ebbtide_worker_t  *worker;

    size = NGX_HTTP_EBBTIDE_JSON_FRAME
           + workers->nelts * (NGX_HTTP_EBBTIDE_JSON_WORKER
                               + NGX_HTTP_EBBTIDE_SAMPLES
                                 * NGX_HTTP_EBBTIDE_JSON_SAMPLE);

    text->data = ngx_pnalloc(pool, size);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(text->data,
                    "{\"version\":\"%s\",\"nginx\":\"" NGINX_VERSION "\","
                    "\"time_ms\":%M,\"can_reclaim\":%s,\"workers\":[",
                    ebb_version(), ngx_http_ebbtide_wall_ms(),
                    can_reclaim ? "true" : "false");

    worker = workers->elts;

    for (i = 0; i < workers->nelts; i++) {
        if (i) {
            *p++ = ',';
        }

        p = ngx_http_ebbtide_json_worker(p, &worker[i]);
    }

    p = ngx_cpymem(p, "]}\n", 3);
    text->len = p - text->data;

    return NGX_OK;
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
        p = ngx_sprintf(p, "%s\"%s\":", i ? "," : "",
                        ngx_http_ebbtide_kind_name(i));
        p = ngx_http_ebbtide_json_usage(p, &stats->usage[i]);
    }

    p = ngx_cpymem(p, "},", 2);
    p = ngx_http_ebbtide_json_totals(p, stats);
    p = ngx_sprintf(p, ",\"history\":[");
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


/* What concerns all VMs of the process. */

static u_char *
ngx_http_ebbtide_json_totals(u_char *p, ngx_http_ebbtide_stats_t *stats)
{
    p = ngx_sprintf(p, "\"limit_soft\":%uL,\"limit_hard\":%uL,"
                       "\"pressure\":%uL,\"thrashing_vms\":%uL,"
                       "\"trend\":\"%s\",\"phase\":\"%s\",",
                    stats->limit_soft, stats->limit_hard,
                    stats->pressure,
                    ngx_http_ebbtide_json_total(stats, thrashing),
                    ngx_http_ebbtide_json_trends[stats->trend % 4],
                    ngx_http_ebbtide_phase_name(stats->phase));

    p = ngx_sprintf(p, "\"refused_allocations\":%uL,"
                       "\"refused_address_space\":%uL,"
                       "\"previous_damaged_vms\":%uL,"
                       "\"restarts\":%uL,\"purge_errno\":%uL,",
                    ngx_http_ebbtide_json_total(stats, refused_total),
                    ngx_http_ebbtide_json_total(stats, refused_space_total),
                    ngx_http_ebbtide_json_total(stats, previous_damaged),
                    stats->restarts,
                    ngx_max(stats->usage[NGX_HTTP_EBBTIDE_MAIN].purge_errno,
                            stats->usage[NGX_HTTP_EBBTIDE_OTHER].purge_errno));

    p = ngx_sprintf(p, "\"steps\":{\"count\":%uL,\"p50_us\":%uL,"
                       "\"p99_us\":%uL,\"max_us\":%uL},",
                    stats->slices.count, stats->slices.p50_us,
                    stats->slices.p99_us, stats->slices.max_us);

    return ngx_sprintf(p, "\"returned_total\":%uL,\"refaulted_total\":%uL,"
                          "\"premature_refaults_total\":%uL",
                  ngx_http_ebbtide_json_total(stats, returned_total),
                  ngx_http_ebbtide_json_total(stats, refaulted_total),
                  ngx_http_ebbtide_json_total(stats, premature_refaults_total));
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
