
#include "ngx_http_ebbtide_stats.h"


static void ngx_http_ebbtide_usage_add(ngx_http_ebbtide_usage_t *sum,
    const ngx_http_ebbtide_usage_t *usage);
static ngx_http_ebbtide_sample_t *ngx_http_ebbtide_stats_next_sample(
    ngx_http_ebbtide_stats_t *stats, ngx_msec_t now);


/* Reads the figures of this process, but for since and restarts. */

void
ngx_http_ebbtide_stats_read(ngx_http_ebbtide_stats_t *stats, ngx_msec_t now)
{
    ngx_uint_t                  i;
    ngx_http_ebbtide_sample_t  *sample;

    ngx_http_ebbtide_stats_read_vms(stats);
    stats->slices = ngx_http_ebbtide_slices_read();
    ngx_http_ebbtide_process_name(stats->process);
    stats->worker = ngx_worker;
    stats->exiting = ngx_exiting || ngx_terminate;
    stats->updated = now;
    stats->rss = ngx_http_ebbtide_rss();

    sample = ngx_http_ebbtide_stats_next_sample(stats, now);
    ngx_memzero(sample, sizeof(ngx_http_ebbtide_sample_t));
    sample->time = now;
    sample->rss = stats->rss;

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        sample->live += stats->usage[i].live;
        sample->free_resident += stats->usage[i].free_resident;
        sample->returned += stats->usage[i].returned;
    }
}


/* Reads what the VMs of this process hold. Counters include closed VMs. */

void
ngx_http_ebbtide_stats_read_vms(ngx_http_ebbtide_stats_t *stats)
{
    ebb_stats               heap;
    ngx_queue_t            *q, *vms;
    ngx_http_ebbtide_vm_t  *vm;

    ngx_memcpy(stats->usage, ngx_http_ebbtide_vms_closed(),
               sizeof(stats->usage));
    stats->pressure = 0;

    vms = ngx_http_ebbtide_vms();

    for (q = ngx_queue_head(vms); q != ngx_queue_sentinel(vms);
         q = ngx_queue_next(q))
    {
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

        /* of several VMs, the one nearest to its limit says the rest */

        if (ngx_http_ebbtide_vm_read(vm, &heap) == NGX_OK
            && vm->configured && heap.pressure >= stats->pressure)
        {
            stats->limit_soft = heap.limit_soft;
            stats->limit_hard = heap.limit_hard;
            stats->pressure = heap.pressure;
            stats->trend = heap.trend;
            stats->phase = vm->phase;
        }

        ngx_http_ebbtide_usage_add(
            &stats->usage[ngx_http_ebbtide_vm_kind(vm)], &vm->usage);
    }
}


static void
ngx_http_ebbtide_usage_add(ngx_http_ebbtide_usage_t *sum,
    const ngx_http_ebbtide_usage_t *usage)
{
    sum->count++;
    sum->live += usage->live;
    sum->waste += usage->waste;
    sum->free_resident += usage->free_resident;
    sum->returned += usage->returned;
    sum->metadata += usage->metadata;
    sum->resident += usage->resident;
    sum->committed += usage->committed;
    sum->reserved += usage->reserved;
    sum->returned_total += usage->returned_total;
    sum->refaulted_total += usage->refaulted_total;
    sum->premature_refaults_total += usage->premature_refaults_total;
    sum->refused_total += usage->refused_total;
    sum->refused_space_total += usage->refused_space_total;
    sum->thrashing += usage->thrashing;
    sum->previous_damaged += usage->previous_damaged;

    if (usage->purge_errno) {
        sum->purge_errno = usage->purge_errno;
    }
}


/*
 * One for each second. Where figures are read more often, the newest one is
 * written again.
 */

static ngx_http_ebbtide_sample_t *
ngx_http_ebbtide_stats_next_sample(ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now)
{
    ngx_http_ebbtide_sample_t  *newest;

    newest = &stats->samples[(stats->sample_count - 1)
                               % NGX_HTTP_EBBTIDE_SAMPLES];

    if (stats->sample_count && newest->time / 1000 == now / 1000) {
        return newest;
    }

    return &stats->samples[stats->sample_count++
                             % NGX_HTTP_EBBTIDE_SAMPLES];
}


/* The sum over all kinds of VMs of the field at this offset of the usage. */

uint64_t
ngx_http_ebbtide_stats_total(const ngx_http_ebbtide_stats_t *stats,
    size_t offset)
{
    uint64_t    total;
    ngx_uint_t  i;

    total = 0;

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        total += *(uint64_t *) ((u_char *) &stats->usage[i] + offset);
    }

    return total;
}


ngx_uint_t
ngx_http_ebbtide_is_worker(ngx_http_ebbtide_stats_t *stats)
{
    return ngx_strcmp(stats->process, NGX_HTTP_EBBTIDE_WORKER) == 0;
}
