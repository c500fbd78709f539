
/*
 * When the heaps of a process breathe.
 *
 * Each turn of the event loop comes through here before it waits, whatever it
 * waits for: requests, timers of Lua, the end of a worker that shuts down. No
 * timer of nginx's is used, so nothing keeps an idle process awake, and nothing
 * an exiting one from its end.
 */


#include "ngx_http_ebbtide.h"


/* a busy loop turns ten thousand times a second: it is looked at this often */
#define NGX_HTTP_EBBTIDE_LOOK  10

/*
 * After a slice of garbage collection or reclaim the loop waits for this many
 * milliseconds, so that the rest of the machine has a share too.
 */
#define NGX_HTTP_EBBTIDE_PAUSE  1

/*
 * A VM is quiet while no more than this many bytes, and this part of what it
 * holds, come or go: the timers of an idle worker keep nothing from going back.
 */
#define NGX_HTTP_EBBTIDE_LITTLE        65536
#define NGX_HTTP_EBBTIDE_LITTLE_SHARE  64


/*
 * Garbage can come without any allocation, by a cache that is let go. So a VM in
 * which anything has run since its last collection is collected again, after so
 * many times ebbtide_idle; while nothing is found, after twice as long each time,
 * up to the most, and a day at the most. What was inherited from the master and
 * not used much is left alone, for it is shared.
 */

#define NGX_HTTP_EBBTIDE_AGAIN       10
#define NGX_HTTP_EBBTIDE_AGAIN_MOST  600
#define NGX_HTTP_EBBTIDE_DAY         (24 * 60 * 60 * 1000)


static ngx_int_t ngx_http_ebbtide_process_events(ngx_cycle_t *cycle,
    ngx_msec_t timer, ngx_uint_t flags);
static ngx_msec_t ngx_http_ebbtide_run_idle(ngx_msec_t now);
static ngx_msec_t ngx_http_ebbtide_vm_run_idle(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now);
static ngx_msec_t ngx_http_ebbtide_vm_tick(ngx_http_ebbtide_vm_t *vm);
static ngx_msec_t ngx_http_ebbtide_vm_look(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now);
static void ngx_http_ebbtide_vm_collected(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now);
static ngx_msec_t ngx_http_ebbtide_vm_next_collect(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now);
static uint64_t ngx_http_ebbtide_vm_noise_bytes(uint64_t bytes);
static void ngx_http_ebbtide_vm_begin(ngx_http_ebbtide_vm_t *vm);
static ngx_int_t ngx_http_ebbtide_vm_collect(ngx_http_ebbtide_vm_t *vm);
static ngx_int_t ngx_http_ebbtide_vm_return(ngx_http_ebbtide_vm_t *vm);
static void ngx_http_ebbtide_note_slice(uint64_t start_us);
static uint64_t ngx_http_ebbtide_slice_us(ngx_uint_t percent);


static ngx_int_t  (*ngx_http_ebbtide_next_process_events)(ngx_cycle_t *cycle,
    ngx_msec_t timer, ngx_uint_t flags);

/*
 * How often slices took how long: four buckets for each power of two of
 * microseconds, up to an hour
 */
static uint64_t     ngx_http_ebbtide_slice_counts[128];
static uint64_t     ngx_http_ebbtide_slice_count;
static uint64_t     ngx_http_ebbtide_slice_max_us;

/* ebbtide_idle and ebbtide_step */
static ngx_msec_t   ngx_http_ebbtide_idle_ms;
static ngx_uint_t   ngx_http_ebbtide_step_us;

/* the next look at the heaps, and whether there is any */
static ngx_msec_t   ngx_http_ebbtide_next_look;
/* figures changed since they were published, and when that was */
static ngx_uint_t   ngx_http_ebbtide_changed;
static ngx_msec_t   ngx_http_ebbtide_published;
/* VMs did when they were published */
static ngx_uint_t   ngx_http_ebbtide_thrashing;


/* In the master, before it forks: workers start with what is live alone. */

void
ngx_http_ebbtide_idle_reclaim(ngx_log_t *log)
{
    ngx_http_ebbtide_vm_t  *vm;

    for (vm = ngx_http_ebbtide_vm_configured(NULL); vm;
         vm = ngx_http_ebbtide_vm_configured(vm))
    {
        if (ngx_http_ebbtide_collect_ready(vm) != NGX_OK
            || ngx_http_ebbtide_collect_all(vm) != NGX_OK)
        {
            ngx_log_error(NGX_LOG_WARN, log, 0,
                          "ebbtide: garbage collection failed before the fork");
        }

        (void) vm->api->reclaim(vm->heap, NULL, NULL);
    }
}


/* In a process with an event loop, once that is there. */

void
ngx_http_ebbtide_idle_start(ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_vm_t  *vm;

    for (vm = ngx_http_ebbtide_vm_configured(NULL); vm;
         vm = ngx_http_ebbtide_vm_configured(vm))
    {
        /* a single process has no master that did this */
        (void) ngx_http_ebbtide_collect_ready(vm);

        /*
         * What was inherited is shared with the master and the other workers
         * until this process uses it.
         */
        vm->bytes = ngx_http_ebbtide_lua_bytes(vm);
        vm->quiet_bytes = vm->bytes;
        vm->collected = vm->bytes;
        vm->settled_at = ngx_current_msec;
        vm->recollect_after = NGX_TIMER_INFINITE;
        vm->asked = 0;
        vm->recollect = 0;
        vm->phase = NGX_HTTP_EBBTIDE_SETTLED;
    }

    ngx_http_ebbtide_idle_ms = emcf->idle;
    ngx_http_ebbtide_step_us = emcf->step_us;
    ngx_http_ebbtide_next_look = ngx_current_msec;
    ngx_http_ebbtide_published = ngx_current_msec;

    if (ngx_event_actions.process_events != ngx_http_ebbtide_process_events) {
        ngx_http_ebbtide_next_process_events = ngx_event_actions.process_events;
        ngx_event_actions.process_events = ngx_http_ebbtide_process_events;
    }
}


static ngx_int_t
ngx_http_ebbtide_process_events(ngx_cycle_t *cycle, ngx_msec_t timer,
    ngx_uint_t flags)
{
    ngx_msec_t      next;
    ngx_msec_int_t  left;

    left = (ngx_msec_int_t) (ngx_http_ebbtide_next_look - ngx_current_msec);

    if (left > 0 && left <= NGX_HTTP_EBBTIDE_LOOK) {
        next = left;

    } else {
        next = ngx_http_ebbtide_run_idle(ngx_current_msec);
        ngx_http_ebbtide_next_look =
            ngx_current_msec + ngx_min(next, NGX_HTTP_EBBTIDE_LOOK);
    }

    return ngx_http_ebbtide_next_process_events(cycle, ngx_min(timer, next),
                                                flags);
}


/* Does what is due now. Returns in how many milliseconds more will be. */

static ngx_msec_t
ngx_http_ebbtide_run_idle(ngx_msec_t now)
{
    ngx_msec_t              next, since;
    ngx_uint_t              asked;
    ngx_queue_t            *q, *vms;
    ngx_http_ebbtide_vm_t  *vm;

    next = NGX_TIMER_INFINITE;
    asked = ngx_http_ebbtide_zone_reclaim_requested();
    vms = ngx_http_ebbtide_vms();

    for (q = ngx_queue_head(vms); q != ngx_queue_sentinel(vms);
         q = ngx_queue_next(q))
    {
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

        if (asked && vm->configured) {
            vm->asked = 1;

            if (vm->phase != NGX_HTTP_EBBTIDE_COLLECTING) {
                ngx_http_ebbtide_vm_begin(vm);
            }
        }

        next = ngx_min(next, ngx_http_ebbtide_vm_run_idle(vm, now));
    }

    if (ngx_http_ebbtide_changed) {
        since = now - ngx_http_ebbtide_published;

        if (since >= 1000
            || (next == NGX_TIMER_INFINITE && !ngx_http_ebbtide_thrashing))
        {
            ngx_http_ebbtide_thrashing = ngx_http_ebbtide_zone_publish(now);
            ngx_http_ebbtide_published = now;
            /* until it ends, which nothing else would show */
            ngx_http_ebbtide_changed = ngx_http_ebbtide_thrashing;
            since = 0;
        }

        if (ngx_http_ebbtide_changed) {
            next = ngx_min(next, 1000 - since);
        }
    }

    return next;
}


static ngx_msec_t
ngx_http_ebbtide_vm_run_idle(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now)
{
    ngx_msec_t  next;

    if (vm->configured) {
        return ngx_http_ebbtide_vm_look(vm, now);
    }

    next = ngx_http_ebbtide_vm_tick(vm);

    if (next != NGX_TIMER_INFINITE) {
        /* it was used */
        ngx_http_ebbtide_changed = 1;
    }

    return next;
}


/* What is due by age goes back. */

static ngx_msec_t
ngx_http_ebbtide_vm_tick(ngx_http_ebbtide_vm_t *vm)
{
    int       next, rc;
    uint64_t  start_us;

    next = vm->api->next_tick(vm->heap);

    if (next == 0) {
        ngx_http_ebbtide_changed = 1;

        start_us = ngx_http_ebbtide_now_us();
        rc = vm->api->tick(vm->heap, ngx_http_ebbtide_step_us);
        ngx_http_ebbtide_note_slice(start_us);

        if (rc == EBB_MORE) {
            return NGX_HTTP_EBBTIDE_PAUSE;
        }

        next = vm->api->next_tick(vm->heap);
    }

    return next == EBB_NEVER ? NGX_TIMER_INFINITE : (ngx_msec_t) ngx_max(next, 1);
}


static ngx_msec_t
ngx_http_ebbtide_vm_look(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now)
{
    uint64_t    bytes, change;
    ngx_msec_t  quiet, next, again, most;

    bytes = ngx_http_ebbtide_lua_bytes(vm);

    if (bytes != vm->bytes) {
        vm->bytes = bytes;
        ngx_http_ebbtide_changed = 1;
    }

    change = bytes > vm->quiet_bytes ? bytes - vm->quiet_bytes
                                     : vm->quiet_bytes - bytes;

    if (change > ngx_http_ebbtide_vm_noise_bytes(vm->quiet_bytes)) {
        vm->quiet_bytes = bytes;
        vm->active = now;
        vm->recollect_after = NGX_HTTP_EBBTIDE_AGAIN * ngx_http_ebbtide_idle_ms;

        if (vm->asked) {
            vm->recollect = 1;

        } else {
            vm->phase = NGX_HTTP_EBBTIDE_BUSY;
        }
    }

    if (ngx_http_ebbtide_collect_hurry(vm)
        && vm->phase == NGX_HTTP_EBBTIDE_BUSY)
    {
        vm->asked = 1;
        ngx_http_ebbtide_vm_begin(vm);
    }

    switch (vm->phase) {

    case NGX_HTTP_EBBTIDE_BUSY:

        quiet = now - vm->active;

        if (quiet < ngx_http_ebbtide_idle_ms) {
            next = ngx_http_ebbtide_vm_tick(vm);
            return ngx_min(next, ngx_http_ebbtide_idle_ms - quiet);
        }

        ngx_http_ebbtide_vm_begin(vm);

        /* fall through */

    case NGX_HTTP_EBBTIDE_COLLECTING:

        ngx_http_ebbtide_changed = 1;

        if (ngx_http_ebbtide_vm_collect(vm) == NGX_OK) {
            ngx_http_ebbtide_vm_collected(vm, now);
            vm->phase = NGX_HTTP_EBBTIDE_RETURNING;
        }

        return NGX_HTTP_EBBTIDE_PAUSE;

    case NGX_HTTP_EBBTIDE_RETURNING:

        ngx_http_ebbtide_changed = 1;

        if (ngx_http_ebbtide_vm_return(vm) == NGX_AGAIN) {
            return NGX_HTTP_EBBTIDE_PAUSE;
        }

        vm->asked = 0;

        if (vm->recollect) {
            /* there may be new garbage, which is collected when it is quiet */
            vm->recollect = 0;
            vm->active = now;
            vm->phase = NGX_HTTP_EBBTIDE_BUSY;
            return NGX_HTTP_EBBTIDE_PAUSE;
        }

        vm->phase = NGX_HTTP_EBBTIDE_SETTLED;

        /* fall through */

    default: /* NGX_HTTP_EBBTIDE_SETTLED */

        next = ngx_http_ebbtide_vm_tick(vm);
        again = ngx_http_ebbtide_vm_next_collect(vm, now);

        if (again == 0) {
            most = NGX_HTTP_EBBTIDE_AGAIN_MOST * ngx_http_ebbtide_idle_ms;
            most = ngx_min(most, NGX_HTTP_EBBTIDE_DAY);
            vm->recollect_after = ngx_min(2 * vm->recollect_after, most);
            ngx_http_ebbtide_vm_begin(vm);
            return NGX_HTTP_EBBTIDE_PAUSE;
        }

        return ngx_min(next, again);
    }
}


/* All garbage was collected. Where there was some, there may soon be more. */

static void
ngx_http_ebbtide_vm_collected(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now)
{
    if (vm->begun > vm->bytes + ngx_http_ebbtide_vm_noise_bytes(vm->bytes)) {
        vm->recollect_after = NGX_HTTP_EBBTIDE_AGAIN * ngx_http_ebbtide_idle_ms;
    }

    vm->collected = vm->bytes;
    vm->settled_at = now;
}


/* In how many milliseconds a settled VM is due for another collection. */

static ngx_msec_t
ngx_http_ebbtide_vm_next_collect(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now)
{
    ngx_msec_t  since;

    /* where they are equal nothing has run */

    if (vm->bytes == vm->collected
        || vm->recollect_after == NGX_TIMER_INFINITE)
    {
        return NGX_TIMER_INFINITE;
    }

    since = now - vm->settled_at;

    return since < vm->recollect_after ? vm->recollect_after - since : 0;
}


/* How much may come or go in a VM that is quiet. */

static uint64_t
ngx_http_ebbtide_vm_noise_bytes(uint64_t bytes)
{
    return NGX_HTTP_EBBTIDE_LITTLE + bytes / NGX_HTTP_EBBTIDE_LITTLE_SHARE;
}


static void
ngx_http_ebbtide_vm_begin(ngx_http_ebbtide_vm_t *vm)
{
    vm->phase = NGX_HTTP_EBBTIDE_COLLECTING;
    ngx_http_ebbtide_collect_begin(vm);
}


static ngx_int_t
ngx_http_ebbtide_vm_collect(ngx_http_ebbtide_vm_t *vm)
{
    uint64_t   start_us;
    ngx_int_t  rc;

    start_us = ngx_http_ebbtide_now_us();
    rc = ngx_http_ebbtide_collect(vm, start_us + ngx_http_ebbtide_step_us);
    ngx_http_ebbtide_note_slice(start_us);

    return rc;
}


/* All that is free, unless some of it shall stay: then the heap knows what. */

static ngx_int_t
ngx_http_ebbtide_vm_return(ngx_http_ebbtide_vm_t *vm)
{
    int                  rc;
    int64_t              retain;
    uint64_t             start_us;
    ebb_reclaim_options  options;

    if (!vm->asked
        && vm->api->get(vm->heap, "retain", &retain) == EBB_OK && retain > 0)
    {
        return NGX_OK;
    }

    ngx_memzero(&options, sizeof(ebb_reclaim_options));
    options.size = sizeof(ebb_reclaim_options);
    options.budget_us = ngx_http_ebbtide_step_us;

    start_us = ngx_http_ebbtide_now_us();
    rc = vm->api->reclaim(vm->heap, &options, NULL);
    ngx_http_ebbtide_note_slice(start_us);

    return rc == EBB_MORE ? NGX_AGAIN : NGX_OK;
}


/* A slice has ended: what comes to the event loop meanwhile waits for it. */

static void
ngx_http_ebbtide_note_slice(uint64_t start_us)
{
    uint64_t    us;
    ngx_uint_t  power;

    us = ngx_max(ngx_http_ebbtide_now_us() - start_us, 4);

    for (power = 2; us >> (power + 1); power++) { /* void */ }

    /* the two bits behind the highest one */
    power = ngx_min(4 * power + ((us >> (power - 2)) & 3), 127);

    ngx_http_ebbtide_slice_counts[power]++;
    ngx_http_ebbtide_slice_count++;
    ngx_http_ebbtide_slice_max_us = ngx_max(ngx_http_ebbtide_slice_max_us, us);
}


/* What this many of a hundred slices did not exceed. */

static uint64_t
ngx_http_ebbtide_slice_us(ngx_uint_t percent)
{
    uint64_t    seen, us;
    ngx_uint_t  i;

    seen = 0;

    for (i = 0; i < 128; i++) {
        seen += ngx_http_ebbtide_slice_counts[i];

        if (seen * 100 >= ngx_http_ebbtide_slice_count * percent) {
            break;
        }
    }

    us = (uint64_t) (5 + i % 4) << (i / 4) >> 2;

    return ngx_min(us, ngx_http_ebbtide_slice_max_us);
}


void
ngx_http_ebbtide_idle_slices(ngx_http_ebbtide_stats_t *stats)
{
    stats->steps = ngx_http_ebbtide_slice_count;

    if (stats->steps) {
        stats->step_p50_us = ngx_http_ebbtide_slice_us(50);
        stats->step_p99_us = ngx_http_ebbtide_slice_us(99);
        stats->step_max_us = ngx_http_ebbtide_slice_max_us;
    }
}


uint64_t
ngx_http_ebbtide_now_us(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}
