
#include "ngx_http_ebbtide_idle.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_collect.h"
#include "ngx_http_ebbtide_zone.h"
#include "ngx_http_ebbtide_phase.h"

#include <ngx_event.h>


/* milliseconds between two runs: a busy loop turns 10,000 times a second */
#define NGX_HTTP_EBBTIDE_RUN_MS      10

/* the figures are published no more often than this */
#define NGX_HTTP_EBBTIDE_PUBLISH_MS  1000


static ngx_int_t ngx_http_ebbtide_process_events(ngx_cycle_t *cycle,
    ngx_msec_t timer, ngx_uint_t flags);
static ngx_msec_t ngx_http_ebbtide_run_idle(ngx_msec_t now);
static ngx_msec_t ngx_http_ebbtide_publish(ngx_msec_t now, ngx_uint_t settled);


static ngx_int_t  (*ngx_http_ebbtide_next_process_events)(ngx_cycle_t *cycle,
    ngx_msec_t timer, ngx_uint_t flags);

/* when the phases are run next */
static ngx_msec_t   ngx_http_ebbtide_next_run;
/* figures have changed since they were published, and when that was */
static ngx_uint_t   ngx_http_ebbtide_changed;
static ngx_msec_t   ngx_http_ebbtide_published;
/* VMs were thrashing when they were published */
static ngx_uint_t   ngx_http_ebbtide_thrashing;


/* In the master, before it forks: workers start with live memory alone. */

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


/* Runs in each process with an event loop, once the loop is there. */

void
ngx_http_ebbtide_idle_start(ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_vm_t  *vm;

    ngx_http_ebbtide_phase_settings(emcf->idle, emcf->step_us);

    for (vm = ngx_http_ebbtide_vm_configured(NULL); vm;
         vm = ngx_http_ebbtide_vm_configured(vm))
    {
        /* a single process has no master that did this */
        (void) ngx_http_ebbtide_collect_ready(vm);

        ngx_http_ebbtide_phase_start(vm);
    }

    ngx_http_ebbtide_next_run = ngx_current_msec;
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

    left = (ngx_msec_int_t) (ngx_http_ebbtide_next_run - ngx_current_msec);

    if (left > 0 && left <= NGX_HTTP_EBBTIDE_RUN_MS) {
        next = left;

    } else {
        next = ngx_http_ebbtide_run_idle(ngx_current_msec);
        ngx_http_ebbtide_next_run =
            ngx_current_msec + ngx_min(next, NGX_HTTP_EBBTIDE_RUN_MS);
    }

    return ngx_http_ebbtide_next_process_events(cycle, ngx_min(timer, next),
                                                flags);
}


/* Does what is due now. Returns in how many milliseconds more will be due. */

static ngx_msec_t
ngx_http_ebbtide_run_idle(ngx_msec_t now)
{
    ngx_msec_t              next, due;
    ngx_uint_t              requested;
    ngx_queue_t            *q, *vms;
    ngx_http_ebbtide_vm_t  *vm;

    next = NGX_TIMER_INFINITE;
    requested = ngx_http_ebbtide_zone_reclaim_requested();
    vms = ngx_http_ebbtide_vms();

    for (q = ngx_queue_head(vms); q != ngx_queue_sentinel(vms);
         q = ngx_queue_next(q))
    {
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

        if (requested && vm->configured) {
            ngx_http_ebbtide_phase_request(vm);
        }

        due = ngx_http_ebbtide_phase_run(vm, now, &ngx_http_ebbtide_changed);
        next = ngx_min(next, due);
    }

    due = ngx_http_ebbtide_publish(now, next == NGX_TIMER_INFINITE);

    return ngx_min(next, due);
}


/*
 * Publishes the figures if they have changed: at most once a second, and when
 * the VMs have settled. Returns in how many milliseconds that is due again.
 */

static ngx_msec_t
ngx_http_ebbtide_publish(ngx_msec_t now, ngx_uint_t settled)
{
    ngx_msec_t  since;

    if (!ngx_http_ebbtide_changed) {
        return NGX_TIMER_INFINITE;
    }

    since = now - ngx_http_ebbtide_published;

    if (since >= NGX_HTTP_EBBTIDE_PUBLISH_MS
        || (settled && !ngx_http_ebbtide_thrashing))
    {
        ngx_http_ebbtide_thrashing = ngx_http_ebbtide_zone_publish(now);
        ngx_http_ebbtide_published = now;
        /* nothing else would show that the thrashing ends */
        ngx_http_ebbtide_changed = ngx_http_ebbtide_thrashing;
        since = 0;
    }

    return ngx_http_ebbtide_changed ? NGX_HTTP_EBBTIDE_PUBLISH_MS - since
                                    : NGX_TIMER_INFINITE;
}
