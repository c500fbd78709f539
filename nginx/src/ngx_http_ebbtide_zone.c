
#include "ngx_http_ebbtide_zone.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_process.h"
#include "ngx_http_ebbtide_trouble.h"

#include <ngx_channel.h>


/* how often a reader reads a slot that is written meanwhile */
#define NGX_HTTP_EBBTIDE_TRIES  100


static ngx_int_t ngx_http_ebbtide_zone_init(ngx_shm_zone_t *shm_zone,
    void *data);
static void ngx_http_ebbtide_zone_count_restart(uint32_t generation);
static void ngx_http_ebbtide_zone_take_slot(void);
static ngx_http_ebbtide_slot_t *ngx_http_ebbtide_zone_find_slot(
    ngx_http_ebbtide_zone_t *zone);
static void ngx_http_ebbtide_wake(ngx_pid_t pid, ngx_log_t *log);


static ngx_http_ebbtide_zone_t      *ngx_http_ebbtide_zone_data;
/* this process's slot */
static ngx_http_ebbtide_slot_t      *ngx_http_ebbtide_slot;
/* those of this process's number; NULL: they are not counted */
static ngx_http_ebbtide_restarts_t  *ngx_http_ebbtide_restarts;
/* when this process started */
static ngx_msec_t                    ngx_http_ebbtide_since;
/* requests to reclaim that this process has seen */
static ngx_atomic_uint_t             ngx_http_ebbtide_requests_seen;


char *
ngx_http_ebbtide_zone_add(ngx_conf_t *cf, ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_str_t  name = ngx_string("ngx_http_ebbtide");

    emcf->zone = ngx_shared_memory_add(cf, &name, emcf->zone_size,
                                       &ngx_http_ebbtide_module);
    if (emcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    emcf->zone->init = ngx_http_ebbtide_zone_init;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_ebbtide_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    size_t                    size;
    ngx_slab_pool_t          *pool;
    ngx_http_ebbtide_zone_t  *zone;

    pool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data) {
        /* a reload: the old workers go on in it */
        shm_zone->data = data;
        return NGX_OK;
    }

    if (shm_zone->shm.exists) {
        shm_zone->data = pool->data;
        return NGX_OK;
    }

    size = pool->pfree * ngx_pagesize;
    zone = ngx_slab_calloc(pool, size);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->slot_count = (size - offsetof(ngx_http_ebbtide_zone_t, slots))
                       / sizeof(ngx_http_ebbtide_slot_t);
    pool->data = zone;
    shm_zone->data = zone;

    return NGX_OK;
}


/* NULL: the zone is off, or no process has it yet. */

ngx_http_ebbtide_zone_t *
ngx_http_ebbtide_zone(void)
{
    return ngx_http_ebbtide_zone_data;
}


/* From now on this process publishes its figures there. */

void
ngx_http_ebbtide_zone_open(ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_zone_data = emcf->zone ? emcf->zone->data : NULL;
    ngx_http_ebbtide_since = ngx_current_msec;

    if (ngx_http_ebbtide_zone_data) {
        ngx_http_ebbtide_requests_seen = ngx_http_ebbtide_zone_data->requests;
        ngx_http_ebbtide_zone_count_restart(emcf->generation);
    }
}


/*
 * Each configuration starts one worker of a number. Another one of the same
 * configuration is started because the one before it has died.
 */

static void
ngx_http_ebbtide_zone_count_restart(uint32_t generation)
{
    ngx_uint_t                    number;
    ngx_http_ebbtide_restarts_t  *restarts;

    if (ngx_http_ebbtide_is_agent()) {
        number = NGX_HTTP_EBBTIDE_AGENT;

    } else if (ngx_process != NGX_PROCESS_HELPER
               && ngx_worker < NGX_HTTP_EBBTIDE_NUMBERS)
    {
        number = ngx_worker;

    } else {
        return;
    }

    restarts = &ngx_http_ebbtide_zone_data->restarts[number];

    if (restarts->generation == generation) {
        restarts->restarts++;
    }

    restarts->generation = generation;
    ngx_http_ebbtide_restarts = restarts;
}


/* Takes a slot. Where none is free now, one may be free later. */

static void
ngx_http_ebbtide_zone_take_slot(void)
{
    ngx_http_ebbtide_slot_t  *slot;
    static ngx_uint_t         logged;

    if (ngx_http_ebbtide_zone_data == NULL) {
        return;
    }

    slot = ngx_http_ebbtide_zone_find_slot(ngx_http_ebbtide_zone_data);

    if (slot == NULL) {
        if (!logged) {
            logged = 1;
            ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                          "ebbtide: no room for the figures of this process; "
                          "raise ebbtide_zone");
        }

        return;
    }

    slot->sequence |= 1;
    ngx_memory_barrier();
    ngx_memzero(&slot->stats, sizeof(ngx_http_ebbtide_stats_t));
    slot->stats.since = ngx_http_ebbtide_since;
    slot->stats.phase = NGX_HTTP_EBBTIDE_SETTLED;
    ngx_memory_barrier();
    slot->sequence++;

    ngx_http_ebbtide_slot = slot;
    ngx_http_ebbtide_rss_open();
}


/*
 * Frees the slots of all processes that are gone, before others get their
 * pids, and takes the first free slot. NULL: there is none.
 */

static ngx_http_ebbtide_slot_t *
ngx_http_ebbtide_zone_find_slot(ngx_http_ebbtide_zone_t *zone)
{
    ngx_uint_t                i;
    ngx_atomic_uint_t         pid;
    ngx_http_ebbtide_slot_t  *slot;

    slot = NULL;

    for (i = 0; i < zone->slot_count; i++) {
        pid = zone->slots[i].pid;

        /* this process has no slot yet: its pid was another's before */
        if (pid
            && (pid == (ngx_atomic_uint_t) ngx_pid
                || ngx_http_ebbtide_pid_is_gone(pid))
            && ngx_atomic_cmp_set(&zone->slots[i].pid, pid, 0))
        {
            pid = 0;
        }

        if (slot == NULL && pid == 0
            && ngx_atomic_cmp_set(&zone->slots[i].pid, 0, ngx_pid))
        {
            slot = &zone->slots[i];
        }
    }

    return slot;
}


/* This process publishes nothing any more. */

void
ngx_http_ebbtide_zone_leave(void)
{
    ngx_http_ebbtide_zone_data = NULL;
    ngx_http_ebbtide_restarts = NULL;

    if (ngx_http_ebbtide_slot) {
        ngx_http_ebbtide_slot->pid = 0;
        ngx_http_ebbtide_slot = NULL;
    }

    ngx_http_ebbtide_rss_close();
}


/* Returns whether VMs of this process thrash: that ends by time alone. */

ngx_uint_t
ngx_http_ebbtide_zone_publish(ngx_msec_t now)
{
    ngx_http_ebbtide_slot_t         *slot;
    static ngx_http_ebbtide_stats_t  unpublished;

    if (ngx_http_ebbtide_slot == NULL) {
        ngx_http_ebbtide_zone_take_slot();
    }

    slot = ngx_http_ebbtide_slot;
    if (slot == NULL) {
        ngx_http_ebbtide_stats_read_vms(&unpublished);
        return ngx_http_ebbtide_log_trouble(&unpublished, now);
    }

    slot->sequence |= 1;
    ngx_memory_barrier();

    ngx_http_ebbtide_stats_read(&slot->stats, now);
    slot->stats.restarts = ngx_http_ebbtide_restarts
                           ? ngx_http_ebbtide_restarts->restarts : 0;

    ngx_memory_barrier();
    slot->sequence++;

    return ngx_http_ebbtide_log_trouble(&slot->stats, now);
}


/*
 * Requests all processes to collect and reclaim now. Returns how many there
 * are.
 */

ngx_uint_t
ngx_http_ebbtide_zone_request_reclaim(ngx_log_t *log)
{
    ngx_pid_t                 pid;
    ngx_uint_t                i, count;
    ngx_http_ebbtide_zone_t  *zone;

    zone = ngx_http_ebbtide_zone_data;
    if (zone == NULL) {
        return 0;
    }

    (void) ngx_atomic_fetch_add(&zone->requests, 1);

    count = 0;

    for (i = 0; i < zone->slot_count; i++) {
        pid = zone->slots[i].pid;

        if (pid == 0 || ngx_http_ebbtide_pid_is_gone(pid)) {
            continue;
        }

        count++;

        if (pid != ngx_pid) {
            ngx_http_ebbtide_wake(pid, log);
        }
    }

    return count;
}


/*
 * Ends the wait of another worker, by a message without a command in the
 * channel through which the master commands it. Workers have each other's
 * ends.
 */

static void
ngx_http_ebbtide_wake(ngx_pid_t pid, ngx_log_t *log)
{
    ngx_int_t      i;
    ngx_channel_t  ch;

    ngx_memzero(&ch, sizeof(ngx_channel_t));
    ch.fd = -1;

    /* ngx_last_process counts those alone that were there before this one */

    for (i = 0; i < NGX_MAX_PROCESSES; i++) {

        if (ngx_processes[i].pid == pid && ngx_processes[i].channel[0] > 0) {
            (void) ngx_write_channel(ngx_processes[i].channel[0], &ch,
                                     sizeof(ngx_channel_t), log);
        }
    }
}


/* Whether a reclaim was requested since the last call. */

ngx_uint_t
ngx_http_ebbtide_zone_reclaim_requested(void)
{
    ngx_atomic_uint_t  requests;

    if (ngx_http_ebbtide_zone_data == NULL) {
        return 0;
    }

    requests = ngx_http_ebbtide_zone_data->requests;

    if (requests == ngx_http_ebbtide_requests_seen) {
        return 0;
    }

    ngx_http_ebbtide_requests_seen = requests;

    return 1;
}


/*
 * Copies the figures of a slot to a buffer that the next call overwrites.
 * NULL: the slot has no process.
 */

ngx_http_ebbtide_stats_t *
ngx_http_ebbtide_zone_copy(ngx_uint_t index, ngx_pid_t *pid)
{
    ngx_uint_t                       tries;
    ngx_atomic_uint_t                sequence;
    ngx_http_ebbtide_slot_t         *slot;
    static ngx_http_ebbtide_stats_t  copy;

    slot = &ngx_http_ebbtide_zone_data->slots[index];

    for (tries = 0; tries < NGX_HTTP_EBBTIDE_TRIES; tries++) {
        *pid = slot->pid;

        if (*pid == 0 || ngx_http_ebbtide_pid_is_gone(*pid)) {
            return NULL;
        }

        sequence = slot->sequence;
        ngx_memory_barrier();

        if (sequence % 2 == 0) {
            copy = slot->stats;
            ngx_memory_barrier();

            if (slot->sequence == sequence
                && slot->pid == (ngx_atomic_uint_t) *pid)
            {
                return &copy;
            }
        }

        ngx_sched_yield();
    }

    return NULL;
}


/* The figures of all processes, as they are now. NULL: there is no memory. */

ngx_array_t *
ngx_http_ebbtide_zone_workers(ngx_pool_t *pool)
{
    ngx_pid_t                   pid;
    ngx_uint_t                  i;
    ngx_array_t                *workers;
    ngx_http_ebbtide_zone_t    *zone;
    ngx_http_ebbtide_stats_t   *stats;
    ngx_http_ebbtide_worker_t  *worker;

    workers = ngx_array_create(pool, 4, sizeof(ngx_http_ebbtide_worker_t));
    if (workers == NULL) {
        return NULL;
    }

    zone = ngx_http_ebbtide_zone_data;

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
