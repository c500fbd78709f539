
/*
 * The figures of all processes, in shared memory.
 *
 * A process takes a slot when it first publishes its figures, and frees the
 * slot when it ends. The slot of a killed process is taken by the next one
 * that needs a slot. Only its owner writes a slot; a reader that finds a slot
 * written meanwhile reads again.
 *
 * Uses conf, vm, process, stats, trouble.
 */


#ifndef _NGX_HTTP_EBBTIDE_ZONE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_ZONE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_ebbtide_conf.h"
#include "ngx_http_ebbtide_stats.h"


typedef struct {
    /* of the owner; 0: the slot is free */
    ngx_atomic_t                 pid;
    /* odd while the figures are written */
    ngx_atomic_t                 sequence;
    ngx_http_ebbtide_stats_t     stats;
} ngx_http_ebbtide_slot_t;


/* The workers that have had a number, one after the other. */

typedef struct {
    /* of the last one's configuration; 0: there was none */
    uint32_t                     generation;
    uint32_t                     restarts;
} ngx_http_ebbtide_restarts_t;


/* restarts of workers from this number on are not counted */
#define NGX_HTTP_EBBTIDE_NUMBERS  256
/* the entry of the privileged agent follows those of the workers */
#define NGX_HTTP_EBBTIDE_AGENT    NGX_HTTP_EBBTIDE_NUMBERS


typedef struct {
    /* how often a reclaim was requested */
    ngx_atomic_t                 requests;
    ngx_http_ebbtide_restarts_t  restarts[NGX_HTTP_EBBTIDE_NUMBERS + 1];
    ngx_uint_t                   slot_count;
    ngx_http_ebbtide_slot_t      slots[1];
} ngx_http_ebbtide_zone_t;


/* A copy of the figures of a process, a worker or a helper. */

typedef struct {
    ngx_pid_t                    pid;
    ngx_http_ebbtide_stats_t     stats;
} ngx_http_ebbtide_worker_t;


char *ngx_http_ebbtide_zone_add(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
ngx_http_ebbtide_zone_t *ngx_http_ebbtide_zone(void);
void ngx_http_ebbtide_zone_open(ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_zone_leave(void);
ngx_uint_t ngx_http_ebbtide_zone_publish(ngx_msec_t now);
ngx_uint_t ngx_http_ebbtide_zone_request_reclaim(ngx_log_t *log);
ngx_uint_t ngx_http_ebbtide_zone_reclaim_requested(void);
ngx_http_ebbtide_stats_t *ngx_http_ebbtide_zone_copy(ngx_uint_t index,
    ngx_pid_t *pid);
ngx_array_t *ngx_http_ebbtide_zone_workers(ngx_pool_t *pool);


#endif /* _NGX_HTTP_EBBTIDE_ZONE_H_INCLUDED_ */
