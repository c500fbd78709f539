
#include "ngx_http_ebbtide_phase.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_slices.h"
#include "ngx_http_ebbtide_lua_api.h"
#include "ngx_http_ebbtide_pace.h"
#include "ngx_http_ebbtide_collect.h"

/* NGX_TIMER_INFINITE */
#include <ngx_event.h>


/*
 * Milliseconds that the event loop waits after a slice, so that the rest of
 * the machine has a share too.
 */
#define NGX_HTTP_EBBTIDE_PAUSE             1

/*
 * A VM is quiet while no more bytes than these, and no larger part of what it
 * holds, come or go: timers of an idle worker do not keep it busy.
 */
#define NGX_HTTP_EBBTIDE_NOISE_BYTES       65536
#define NGX_HTTP_EBBTIDE_NOISE_SHARE       64

/*
 * Garbage can come without any allocation, by a cache that is let go. So a VM
 * in which anything has run since its last collection is collected
 * again, after this multiple of ebbtide_idle. While nothing is found, the time
 * doubles up to the largest multiple, and to a day. A VM that was inherited
 * from the master and hardly used is left alone, for its pages are shared.
 */
#define NGX_HTTP_EBBTIDE_RECOLLECT         10
#define NGX_HTTP_EBBTIDE_RECOLLECT_MOST    600
#define NGX_HTTP_EBBTIDE_RECOLLECT_DAY     (24 * 60 * 60 * 1000)


static void ngx_http_ebbtide_note_activity(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now, ngx_uint_t *changed);
static ngx_msec_t ngx_http_ebbtide_run_busy(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now, ngx_uint_t *changed);
static ngx_msec_t ngx_http_ebbtide_run_collecting(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now, ngx_uint_t *changed);
static ngx_msec_t ngx_http_ebbtide_run_returning(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now, ngx_uint_t *changed);
static ngx_msec_t ngx_http_ebbtide_run_settled(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now, ngx_uint_t *changed);
static void ngx_http_ebbtide_phase_begin(ngx_http_ebbtide_vm_t *vm);
static void ngx_http_ebbtide_phase_set(ngx_http_ebbtide_vm_t *vm,
    ngx_http_ebbtide_phase_e phase);
static ngx_msec_t ngx_http_ebbtide_vm_tick(ngx_http_ebbtide_vm_t *vm,
    ngx_uint_t *changed);
static ngx_int_t ngx_http_ebbtide_vm_return(ngx_http_ebbtide_vm_t *vm);
static ngx_msec_t ngx_http_ebbtide_next_collect(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now);
static uint64_t ngx_http_ebbtide_noise_bytes(uint64_t bytes);


/* ebbtide_idle and ebbtide_step */
static ngx_msec_t   ngx_http_ebbtide_idle_ms;
static ngx_uint_t   ngx_http_ebbtide_step_us;


void
ngx_http_ebbtide_phase_settings(ngx_msec_t idle_ms, ngx_uint_t step_us)
{
    ngx_http_ebbtide_idle_ms = idle_ms;
    ngx_http_ebbtide_step_us = step_us;
}


/*
 * The first phase of a VM of the configuration: its pages are shared with the
 * master and the other workers until this process uses them.
 */

void
ngx_http_ebbtide_phase_start(ngx_http_ebbtide_vm_t *vm)
{
    vm->bytes = ngx_http_ebbtide_lua_bytes(vm->lua);
    vm->quiet_bytes = vm->bytes;
    vm->collected_bytes = vm->bytes;
    vm->settled_at = ngx_current_msec;
    vm->recollect_after = NGX_TIMER_INFINITE;
    vm->requested = 0;
    vm->recollect = 0;
    vm->phase = NGX_HTTP_EBBTIDE_SETTLED;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                   "ebbtide: VM %p begins settled, %uL bytes",
                   vm->lua, vm->bytes);
}


/* Collects and returns now, whether the VM is quiet or not. */

void
ngx_http_ebbtide_phase_request(ngx_http_ebbtide_vm_t *vm)
{
    vm->requested = 1;

    if (vm->phase != NGX_HTTP_EBBTIDE_COLLECTING) {
        ngx_http_ebbtide_phase_begin(vm);
    }
}


/*
 * Does what is due for a VM. Returns in how many milliseconds more will be
 * due. Sets *changed if the VM's figures have changed, and leaves it alone
 * otherwise.
 */

ngx_msec_t
ngx_http_ebbtide_phase_run(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now,
    ngx_uint_t *changed)
{
    ngx_msec_t  next;

    if (!vm->configured) {
        next = ngx_http_ebbtide_vm_tick(vm, changed);

        if (next != NGX_TIMER_INFINITE) {
            /* the VM was used */
            *changed = 1;
        }

        return next;
    }

    ngx_http_ebbtide_note_activity(vm, now, changed);

    if (ngx_http_ebbtide_pressure_pace(vm)
        && vm->phase == NGX_HTTP_EBBTIDE_BUSY)
    {
        ngx_http_ebbtide_phase_request(vm);
    }

    switch (vm->phase) {

    case NGX_HTTP_EBBTIDE_BUSY:
        return ngx_http_ebbtide_run_busy(vm, now, changed);

    case NGX_HTTP_EBBTIDE_COLLECTING:
        return ngx_http_ebbtide_run_collecting(vm, now, changed);

    case NGX_HTTP_EBBTIDE_RETURNING:
        return ngx_http_ebbtide_run_returning(vm, now, changed);

    default: /* NGX_HTTP_EBBTIDE_SETTLED */
        return ngx_http_ebbtide_run_settled(vm, now, changed);
    }
}


/* A VM whose Lua allocates or frees more than noise is active. */

static void
ngx_http_ebbtide_note_activity(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now,
    ngx_uint_t *changed)
{
    uint64_t  bytes, change;

    bytes = ngx_http_ebbtide_lua_bytes(vm->lua);

    if (bytes != vm->bytes) {
        vm->bytes = bytes;
        *changed = 1;
    }

    change = bytes > vm->quiet_bytes ? bytes - vm->quiet_bytes
                                     : vm->quiet_bytes - bytes;

    if (change <= ngx_http_ebbtide_noise_bytes(vm->quiet_bytes)) {
        return;
    }

    vm->quiet_bytes = bytes;
    vm->active_at = now;
    vm->recollect_after = NGX_HTTP_EBBTIDE_RECOLLECT * ngx_http_ebbtide_idle_ms;

    if (vm->requested) {
        vm->recollect = 1;

    } else {
        ngx_http_ebbtide_phase_set(vm, NGX_HTTP_EBBTIDE_BUSY);
    }
}


static ngx_msec_t
ngx_http_ebbtide_run_busy(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now,
    ngx_uint_t *changed)
{
    ngx_msec_t  quiet, next;

    quiet = now - vm->active_at;

    if (quiet < ngx_http_ebbtide_idle_ms) {
        next = ngx_http_ebbtide_vm_tick(vm, changed);
        return ngx_min(next, ngx_http_ebbtide_idle_ms - quiet);
    }

    ngx_http_ebbtide_phase_begin(vm);

    return ngx_http_ebbtide_run_collecting(vm, now, changed);
}


static ngx_msec_t
ngx_http_ebbtide_run_collecting(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now,
    ngx_uint_t *changed)
{
    uint64_t   start_us;
    ngx_int_t  rc;

    *changed = 1;

    start_us = ngx_http_ebbtide_now_us();
    rc = ngx_http_ebbtide_collect(vm, start_us + ngx_http_ebbtide_step_us);
    ngx_http_ebbtide_slice_end(start_us);

    if (rc == NGX_OK) {

        /* where there was garbage, there may soon be more */

        if (vm->begin_bytes
            > vm->bytes + ngx_http_ebbtide_noise_bytes(vm->bytes))
        {
            vm->recollect_after =
                NGX_HTTP_EBBTIDE_RECOLLECT * ngx_http_ebbtide_idle_ms;
        }

        vm->collected_bytes = vm->bytes;
        vm->settled_at = now;

        ngx_http_ebbtide_phase_set(vm, NGX_HTTP_EBBTIDE_RETURNING);
    }

    return NGX_HTTP_EBBTIDE_PAUSE;
}


static ngx_msec_t
ngx_http_ebbtide_run_returning(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now,
    ngx_uint_t *changed)
{
    *changed = 1;

    if (ngx_http_ebbtide_vm_return(vm) == NGX_AGAIN) {
        return NGX_HTTP_EBBTIDE_PAUSE;
    }

    vm->requested = 0;

    if (vm->recollect) {
        /* there may be new garbage, which is collected when the VM is quiet */
        vm->recollect = 0;
        vm->active_at = now;
        ngx_http_ebbtide_phase_set(vm, NGX_HTTP_EBBTIDE_BUSY);
        return NGX_HTTP_EBBTIDE_PAUSE;
    }

    ngx_http_ebbtide_phase_set(vm, NGX_HTTP_EBBTIDE_SETTLED);

    return ngx_http_ebbtide_run_settled(vm, now, changed);
}


static ngx_msec_t
ngx_http_ebbtide_run_settled(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now,
    ngx_uint_t *changed)
{
    ngx_msec_t  next, collect, most;

    next = ngx_http_ebbtide_vm_tick(vm, changed);
    collect = ngx_http_ebbtide_next_collect(vm, now);

    if (collect == 0) {
        most = NGX_HTTP_EBBTIDE_RECOLLECT_MOST * ngx_http_ebbtide_idle_ms;
        most = ngx_min(most, NGX_HTTP_EBBTIDE_RECOLLECT_DAY);
        vm->recollect_after = ngx_min(2 * vm->recollect_after, most);
        ngx_http_ebbtide_phase_begin(vm);
        return NGX_HTTP_EBBTIDE_PAUSE;
    }

    return ngx_min(next, collect);
}


static void
ngx_http_ebbtide_phase_begin(ngx_http_ebbtide_vm_t *vm)
{
    ngx_http_ebbtide_phase_set(vm, NGX_HTTP_EBBTIDE_COLLECTING);
    ngx_http_ebbtide_collect_begin(vm);
}


static void
ngx_http_ebbtide_phase_set(ngx_http_ebbtide_vm_t *vm,
    ngx_http_ebbtide_phase_e phase)
{
    if (vm->phase != phase) {
        ngx_log_debug3(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                       "ebbtide: VM %p: %s, was %s", vm->lua,
                       ngx_http_ebbtide_phase_name(phase),
                       ngx_http_ebbtide_phase_name(vm->phase));
    }

    vm->phase = phase;
}


/* What is due by age is returned. */

static ngx_msec_t
ngx_http_ebbtide_vm_tick(ngx_http_ebbtide_vm_t *vm, ngx_uint_t *changed)
{
    int       next, rc;
    uint64_t  start_us;

    next = vm->api->next_tick(vm->heap);

    if (next == 0) {
        *changed = 1;

        start_us = ngx_http_ebbtide_now_us();
        rc = vm->api->tick(vm->heap, ngx_http_ebbtide_step_us);
        ngx_http_ebbtide_slice_end(start_us);

        if (rc == EBB_MORE) {
            return NGX_HTTP_EBBTIDE_PAUSE;
        }

        next = vm->api->next_tick(vm->heap);
    }

    return next == EBB_NEVER ? NGX_TIMER_INFINITE
                             : (ngx_msec_t) ngx_max(next, 1);
}


/*
 * Returns all free memory, a slice of it. If some of it is to stay (retain),
 * only ticks return memory: the heap knows which.
 */

static ngx_int_t
ngx_http_ebbtide_vm_return(ngx_http_ebbtide_vm_t *vm)
{
    int                  rc;
    int64_t              retain;
    uint64_t             start_us;
    ebb_reclaim_options  options;

    if (!vm->requested
        && vm->api->get(vm->heap, "retain", &retain) == EBB_OK && retain > 0)
    {
        return NGX_OK;
    }

    ngx_memzero(&options, sizeof(ebb_reclaim_options));
    options.size = sizeof(ebb_reclaim_options);
    options.budget_us = ngx_http_ebbtide_step_us;

    start_us = ngx_http_ebbtide_now_us();
    rc = vm->api->reclaim(vm->heap, &options, NULL);
    ngx_http_ebbtide_slice_end(start_us);

    return rc == EBB_MORE ? NGX_AGAIN : NGX_OK;
}


/* In how many milliseconds a settled VM is due for another collection. */

static ngx_msec_t
ngx_http_ebbtide_next_collect(ngx_http_ebbtide_vm_t *vm, ngx_msec_t now)
{
    ngx_msec_t  since;

    /* where they are equal nothing has run */

    if (vm->bytes == vm->collected_bytes
        || vm->recollect_after == NGX_TIMER_INFINITE)
    {
        return NGX_TIMER_INFINITE;
    }

    since = now - vm->settled_at;

    return since < vm->recollect_after ? vm->recollect_after - since : 0;
}


/* How many bytes may come or go in a VM that is quiet. */

static uint64_t
ngx_http_ebbtide_noise_bytes(uint64_t bytes)
{
    return NGX_HTTP_EBBTIDE_NOISE_BYTES + bytes / NGX_HTTP_EBBTIDE_NOISE_SHARE;
}
