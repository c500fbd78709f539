
/*
 * The figures of one process: adds up what its VMs hold.
 *
 * Uses slices, vm, process.
 */


#ifndef _NGX_HTTP_EBBTIDE_STATS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_STATS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_ebbtide_slices.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_process.h"


typedef struct {
    ngx_msec_t                 time;
    uint64_t                   live;
    uint64_t                   free_resident;
    uint64_t                   returned;
    uint64_t                   rss;
} ngx_http_ebbtide_sample_t;


/* one for each second of five minutes, and some */
#define NGX_HTTP_EBBTIDE_SAMPLES  320


/* Times are those of ngx_current_msec. */

typedef struct {
    /* "worker", "privileged agent", "cache manager" or another helper's name */
    char                       process[NGX_HTTP_EBBTIDE_PROCESS_NAME];
    /* the number of a worker; other processes have none */
    ngx_uint_t                 worker;
    ngx_uint_t                 exiting;
    ngx_msec_t                 since;
    ngx_msec_t                 updated;
    uint64_t                   rss;
    ngx_http_ebbtide_usage_t   usage[NGX_HTTP_EBBTIDE_KINDS];
    uint64_t                   limit_soft;
    uint64_t                   limit_hard;
    uint64_t                   pressure;
    /* how often a worker of this number was started anew */
    uint64_t                   restarts;
    uint64_t                   trend;
    ngx_http_ebbtide_phase_e   phase;
    ngx_http_ebbtide_slices_t  slices;
    ngx_uint_t                 sample_count;
    ngx_http_ebbtide_sample_t  samples[NGX_HTTP_EBBTIDE_SAMPLES];
} ngx_http_ebbtide_stats_t;


void ngx_http_ebbtide_stats_read(ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now);
void ngx_http_ebbtide_stats_read_vms(ngx_http_ebbtide_stats_t *stats);
uint64_t ngx_http_ebbtide_stats_total(const ngx_http_ebbtide_stats_t *stats,
    size_t offset);
ngx_uint_t ngx_http_ebbtide_is_worker(ngx_http_ebbtide_stats_t *stats);


#endif /* _NGX_HTTP_EBBTIDE_STATS_H_INCLUDED_ */
