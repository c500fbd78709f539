
#include "ngx_http_ebbtide_vm.h"


static void ngx_http_ebbtide_vm_closed(void *data);


static ngx_queue_t               ngx_http_ebbtide_vm_list =
    { &ngx_http_ebbtide_vm_list, &ngx_http_ebbtide_vm_list };
/* the counters of VMs that are closed */
static ngx_http_ebbtide_usage_t
    ngx_http_ebbtide_closed[NGX_HTTP_EBBTIDE_KINDS];


ngx_queue_t *
ngx_http_ebbtide_vms(void)
{
    return &ngx_http_ebbtide_vm_list;
}


/*
 * The VM of the configuration that follows another one in the list; after
 * NULL, the first. NULL: there is none.
 */

ngx_http_ebbtide_vm_t *
ngx_http_ebbtide_vm_configured(ngx_http_ebbtide_vm_t *before)
{
    ngx_queue_t            *q, *vms;
    ngx_http_ebbtide_vm_t  *vm;

    vms = &ngx_http_ebbtide_vm_list;

    for (q = before ? ngx_queue_next(&before->queue) : ngx_queue_head(vms);
         q != ngx_queue_sentinel(vms); q = ngx_queue_next(q))
    {
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

        if (vm->configured) {
            return vm;
        }
    }

    return NULL;
}


/* NULL: this VM is not listed. */

ngx_http_ebbtide_vm_t *
ngx_http_ebbtide_vm_find(lua_State *L)
{
    ngx_queue_t            *q;
    ngx_http_ebbtide_vm_t  *vm;

    for (q = ngx_queue_head(&ngx_http_ebbtide_vm_list);
         q != ngx_queue_sentinel(&ngx_http_ebbtide_vm_list);
         q = ngx_queue_next(q))
    {
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

        if (vm->lua == L) {
            return vm;
        }
    }

    return NULL;
}


/*
 * Lists a VM that has a heap. NULL: there is no memory; the VM returns memory
 * while it runs, and appears in no figure.
 */

ngx_http_ebbtide_vm_t *
ngx_http_ebbtide_vm_add(lua_State *L, const ngx_http_ebbtide_api_t *api,
    ngx_uint_t configured)
{
    ngx_http_ebbtide_vm_t  *vm;

    vm = ngx_calloc(sizeof(ngx_http_ebbtide_vm_t), ngx_cycle->log);
    if (vm == NULL) {
        return NULL;
    }

    vm->lua = L;
    vm->api = api;
    vm->heap = api->heap_of((struct lua_State *) L);
    vm->configured = configured ? 1 : 0;
    vm->phase = NGX_HTTP_EBBTIDE_SETTLED;

    if (api->on_close(vm->heap, ngx_http_ebbtide_vm_closed, vm) != EBB_OK) {
        /* nothing would report the end of the heap */
        ngx_free(vm);
        return NULL;
    }

    ngx_queue_insert_tail(&ngx_http_ebbtide_vm_list, &vm->queue);

    ngx_log_debug3(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                   "ebbtide: VM %p is listed, heap %p, configured %ui",
                   L, vm->heap, configured);

    return vm;
}


/* The last block of a VM is freed, and its heap is about to be deleted. */

static void
ngx_http_ebbtide_vm_closed(void *data)
{
    ngx_http_ebbtide_vm_t  *vm = data;

    ebb_stats                  stats;
    ngx_http_ebbtide_usage_t  *closed;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                   "ebbtide: VM %p is closed", vm->lua);

    (void) ngx_http_ebbtide_vm_read(vm, &stats);

    /* counters never fall */

    closed = &ngx_http_ebbtide_closed[ngx_http_ebbtide_vm_kind(vm)];
    closed->returned_total += vm->usage.returned_total;
    closed->refaulted_total += vm->usage.refaulted_total;
    closed->premature_refaults_total += vm->usage.premature_refaults_total;
    closed->refused_total += vm->usage.refused_total;
    closed->refused_space_total += vm->usage.refused_space_total;

    ngx_queue_remove(&vm->queue);
    ngx_free(vm);
}


ngx_http_ebbtide_kind_e
ngx_http_ebbtide_vm_kind(const ngx_http_ebbtide_vm_t *vm)
{
    return vm->configured ? NGX_HTTP_EBBTIDE_MAIN : NGX_HTTP_EBBTIDE_OTHER;
}


/* The name of a kind in JSON and in labels. */

const char *
ngx_http_ebbtide_kind_name(ngx_http_ebbtide_kind_e kind)
{
    return kind == NGX_HTTP_EBBTIDE_MAIN ? "main" : "other";
}


/*
 * Reads what a VM holds now: into vm->usage, and the heap's own statistics.
 * NGX_ERROR: both are as they were, the statistics without any meaning.
 */

ngx_int_t
ngx_http_ebbtide_vm_read(ngx_http_ebbtide_vm_t *vm, ebb_stats *stats)
{
    ngx_http_ebbtide_usage_t  *usage;

    ngx_memzero(stats, sizeof(ebb_stats));
    stats->size = sizeof(ebb_stats);

    if (vm->api->stats_read(vm->heap, stats) != EBB_OK) {
        return NGX_ERROR;
    }

    /* with what an attached VM still has on LuaJIT's own allocator */

    usage = &vm->usage;
    usage->live = stats->live + stats->previous_live;
    usage->waste = stats->waste;
    usage->free_resident = stats->free_resident;
    usage->returned = stats->returned;
    usage->metadata = stats->metadata;
    usage->resident = stats->resident + stats->previous_resident;
    usage->committed = stats->committed + stats->previous_reserved;
    usage->reserved = stats->reserved + stats->previous_reserved;
    usage->returned_total = stats->returned_total;
    usage->refaulted_total = stats->refaulted_asked + stats->refaulted_idle
                             + stats->refaulted_limit;
    usage->premature_refaults_total = stats->premature_refaults_asked
                                      + stats->premature_refaults_idle
                                      + stats->premature_refaults_limit;
    usage->refused_total = stats->refused_allocations;
    usage->refused_space_total = stats->refused_address_space;
    usage->thrashing = stats->thrashing;
    usage->previous_damaged = stats->previous_damaged;
    usage->purge_errno = stats->purge_errno;

    return NGX_OK;
}


/* The counters of closed VMs, an entry for each kind. */

const ngx_http_ebbtide_usage_t *
ngx_http_ebbtide_vms_closed(void)
{
    return ngx_http_ebbtide_closed;
}


/* The name of a phase in JSON and in the log. */

const char *
ngx_http_ebbtide_phase_name(ngx_http_ebbtide_phase_e phase)
{
    static const char  *names[] =
        { "busy", "collecting", "returning", "settled" };

    return names[phase % 4];
}
