
#include "ngx_http_ebbtide_attach.h"
#include "ngx_http_ebbtide_lua_api.h"
#include "ngx_http_ebbtide_symbols.h"
#include "ngx_http_ebbtide_copy.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_stage.h"
#include "ngx_http_ebbtide_bounds.h"


typedef lua_State *(*ngx_http_ebbtide_global_pt)(ngx_conf_t *cf);


static void ngx_http_ebbtide_attach(lua_State *L, ngx_log_t *log);
static ngx_int_t ngx_http_ebbtide_attach_heap(lua_State *L, ngx_log_t *log);
static void ngx_http_ebbtide_configure_heap(ngx_http_ebbtide_vm_t *vm,
    ngx_log_t *log);


/*
 * Attaches early VMs, and the VM of the HTTP Lua module if no hook has seen
 * it.
 */

void
ngx_http_ebbtide_attach_http(ngx_conf_t *cf)
{
    lua_State                   *L;
    ngx_http_ebbtide_global_pt   global_state;

    for ( ;; ) {
        L = ngx_http_ebbtide_early_next();
        if (L == NULL) {
            break;
        }

        ngx_http_ebbtide_attach(L, cf->log);
    }

    global_state = (ngx_http_ebbtide_global_pt)
                       ngx_http_ebbtide_symbol(cf->cycle,
                                               "ngx_http_lua_get_global_state");
    L = global_state ? global_state(cf) : NULL;

    if (L) {
        ngx_http_ebbtide_attach(L, cf->log);
    }
}


/* Attaches the VM of the stream Lua module, once the configuration is read. */

void
ngx_http_ebbtide_attach_stream(ngx_cycle_t *cycle)
{
    lua_State                   *L;
    ngx_conf_t                   conf;
    ngx_http_ebbtide_global_pt   global_state;

    global_state = (ngx_http_ebbtide_global_pt)
                       ngx_http_ebbtide_symbol(cycle,
                                             "ngx_stream_lua_get_global_state");

    if (global_state && ngx_http_ebbtide_stream_conf(cycle, &conf) == NGX_OK) {
        L = global_state(&conf);

        if (L) {
            ngx_http_ebbtide_attach(L, cycle->log);
        }
    }
}


/* Lists a VM of the configuration. Gives the VM a heap, unless it has one. */

static void
ngx_http_ebbtide_attach(lua_State *L, ngx_log_t *log)
{
    ngx_uint_t                     own_heap;
    ngx_http_ebbtide_vm_t         *vm;
    const ngx_http_ebbtide_api_t  *api;

    if (ngx_http_ebbtide_lua() == NULL || ngx_http_ebbtide_vm_find(L)) {
        return;
    }

    api = ngx_http_ebbtide_api_of(L, log);

    if (api == NULL) {
        return;
    }

    own_heap = api->heap_of((struct lua_State *) L) == NULL;

    if (own_heap && ngx_http_ebbtide_attach_heap(L, log) != NGX_OK) {
        return;
    }

    vm = ngx_http_ebbtide_vm_add(L, api,
                                 !ngx_http_ebbtide_vm_config()->started);
    if (vm == NULL) {
        return;
    }

    vm->attached = 1;
    vm->own_heap = own_heap ? 1 : 0;

    if (!own_heap) {
        ngx_http_ebbtide_configure_heap(vm, log);
    }

    /* the newest VM that was made on a heap, if any was, stays the last */
    ngx_queue_remove(&vm->queue);
    ngx_queue_insert_head(ngx_http_ebbtide_vms(), &vm->queue);
}


static ngx_int_t
ngx_http_ebbtide_attach_heap(lua_State *L, ngx_log_t *log)
{
    if (ebb_attach((struct lua_State *) L,
                   &ngx_http_ebbtide_vm_config()->options)
        == EBB_OK)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_WARN, log, 0,
                  "ebbtide: the Lua VM keeps its allocator: %s",
                  ebb_strerror(0));

    return NGX_DECLINED;
}


/* Sets what the directives say in a heap that was made without them. */

static void
ngx_http_ebbtide_configure_heap(ngx_http_ebbtide_vm_t *vm, ngx_log_t *log)
{
    const ebb_options  *options;

    options = &ngx_http_ebbtide_vm_config()->directives;

    /* 0: the directive is not given */

    if (options->decay_ms
        && vm->api->set(vm->heap, "decay_ms", options->decay_ms == EBB_ZERO
                                              ? 0 : options->decay_ms)
           != EBB_OK)
    {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide_decay: %s",
                      vm->api->strerror(0));
    }

    ngx_http_ebbtide_vm_bounds(vm, options, options, log);
}


ngx_http_ebbtide_way_e
ngx_http_ebbtide_vm_way(void)
{
    ngx_queue_t            *vms;
    ngx_http_ebbtide_vm_t  *vm;

    vms = ngx_http_ebbtide_vms();

    if (ngx_queue_empty(vms)) {
        return NGX_HTTP_EBBTIDE_NO_VM;
    }

    vm = ngx_queue_data(ngx_queue_last(vms), ngx_http_ebbtide_vm_t, queue);

    return vm->attached ? NGX_HTTP_EBBTIDE_ATTACHED : NGX_HTTP_EBBTIDE_MADE;
}
