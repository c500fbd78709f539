
/*
 * The Lua VMs of this process, and how they come to their heaps.
 *
 * nginx and its modules make VMs by luaL_newstate, which is hooked: from the
 * moment that the configuration says so, a VM is made on a heap. One that was
 * made earlier, or by a Lua that cannot be hooked, is changed over when the
 * configuration is complete.
 *
 * A VM is in the list until its heap says that the VM was closed, whoever closes
 * it. The VMs are made and closed by the thread of the event loop; the threads of
 * ngx.run_worker_thread only run theirs.
 */


#include "ngx_http_ebbtide.h"

/* dladdr() and RTLD_DEFAULT: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>
#include <pthread.h>


typedef lua_State *(*ngx_http_ebbtide_newstate_pt)(void);
typedef void (*ngx_http_ebbtide_close_pt)(lua_State *L);
typedef int (*ngx_http_ebbtide_pcall_pt)(lua_State *L, int args, int results,
    int handler);
typedef lua_State *(*ngx_http_ebbtide_global_pt)(ngx_conf_t *cf);


static void ngx_http_ebbtide_vms_rollback(void *data);
static void ngx_http_ebbtide_vms_unlist_early(void);
static ngx_uint_t ngx_http_ebbtide_is_event_thread(void);
static lua_State *ngx_http_ebbtide_newstate_early(
    ngx_http_ebbtide_newstate_pt newstate);
static void ngx_http_ebbtide_vm_preload(lua_State *L);
static int ngx_http_ebbtide_panic(lua_State *L);
static ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_add(lua_State *L,
    const ngx_http_ebbtide_api_t *api);
static void ngx_http_ebbtide_vm_closed(void *data);
static ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_find(ngx_queue_t *list,
    lua_State *L);
static void ngx_http_ebbtide_vm_take(ngx_log_t *log, lua_State *L);
static ngx_int_t ngx_http_ebbtide_vm_attach(ngx_log_t *log, lua_State *L);
static void ngx_http_ebbtide_vm_configure(ngx_http_ebbtide_vm_t *vm,
    ngx_log_t *log);


static ngx_http_ebbtide_lua_t  ngx_http_ebbtide_lua_functions;

/* those that have heaps */
static ngx_queue_t   ngx_http_ebbtide_vm_list =
    { &ngx_http_ebbtide_vm_list, &ngx_http_ebbtide_vm_list };
/*
 * those that were made while a configuration was read, before it was known
 * whether they shall have one
 */
static ngx_queue_t   ngx_http_ebbtide_vm_early =
    { &ngx_http_ebbtide_vm_early, &ngx_http_ebbtide_vm_early };
static ngx_http_ebbtide_vm_config_t  ngx_http_ebbtide_vm_conf;
/* of the configuration that is being read */
static ngx_pool_cleanup_t  *ngx_http_ebbtide_reading;
/* pthread_self() stays the same in the children that the master forks */
static pthread_t     ngx_http_ebbtide_event_thread;


static const struct {
    const char  *name;
    size_t       offset;
} ngx_http_ebbtide_lua_names[] = {
    { "lua_gc", offsetof(ngx_http_ebbtide_lua_t, gc) },
    { "lua_atpanic", offsetof(ngx_http_ebbtide_lua_t, atpanic) },
    { "lua_cpcall", offsetof(ngx_http_ebbtide_lua_t, cpcall) },
    { "lua_pcall", offsetof(ngx_http_ebbtide_lua_t, pcall) },
    { "lua_pushlightuserdata",
      offsetof(ngx_http_ebbtide_lua_t, pushlightuserdata) },
    { "lua_rawget", offsetof(ngx_http_ebbtide_lua_t, rawget) },
    { "lua_settop", offsetof(ngx_http_ebbtide_lua_t, settop) },
    { "lua_gettop", offsetof(ngx_http_ebbtide_lua_t, gettop) },
    { "lua_type", offsetof(ngx_http_ebbtide_lua_t, type) },
    { "lua_tolstring", offsetof(ngx_http_ebbtide_lua_t, tolstring) },
    { "lua_pushnumber", offsetof(ngx_http_ebbtide_lua_t, pushnumber) },
    { "lua_pushnil", offsetof(ngx_http_ebbtide_lua_t, pushnil) },
    { "lua_pushlstring", offsetof(ngx_http_ebbtide_lua_t, pushlstring) },
    { "lua_pushvalue", offsetof(ngx_http_ebbtide_lua_t, pushvalue) },
    { "lua_pushcclosure", offsetof(ngx_http_ebbtide_lua_t, pushcclosure) },
    { "lua_createtable", offsetof(ngx_http_ebbtide_lua_t, createtable) },
    { "lua_getfield", offsetof(ngx_http_ebbtide_lua_t, getfield) },
    { "lua_setfield", offsetof(ngx_http_ebbtide_lua_t, setfield) },
    { "lua_rawset", offsetof(ngx_http_ebbtide_lua_t, rawset) },
    { "lua_rawgeti", offsetof(ngx_http_ebbtide_lua_t, rawgeti) },
    { "lua_rawseti", offsetof(ngx_http_ebbtide_lua_t, rawseti) },
    { "lua_setmetatable", offsetof(ngx_http_ebbtide_lua_t, setmetatable) },
    { "lua_next", offsetof(ngx_http_ebbtide_lua_t, next) },
    { "lua_insert", offsetof(ngx_http_ebbtide_lua_t, insert) },
    { "lua_call", offsetof(ngx_http_ebbtide_lua_t, call) },
    { "lua_getallocf", offsetof(ngx_http_ebbtide_lua_t, getallocf) },
    { "lua_setallocf", offsetof(ngx_http_ebbtide_lua_t, setallocf) },
    { NULL, 0 }
};


/* NULL: this process has no Lua, or none with all of these functions. */

const ngx_http_ebbtide_lua_t *
ngx_http_ebbtide_lua(void)
{
    void        *symbol;
    ngx_uint_t   i;

    if (ngx_http_ebbtide_lua_functions.setallocf) {
        return &ngx_http_ebbtide_lua_functions;
    }

    for (i = 0; ngx_http_ebbtide_lua_names[i].name; i++) {
        symbol = dlsym(RTLD_DEFAULT, ngx_http_ebbtide_lua_names[i].name);
        if (symbol == NULL) {
            return NULL;
        }

        ngx_memcpy((u_char *) &ngx_http_ebbtide_lua_functions
                   + ngx_http_ebbtide_lua_names[i].offset,
                   &symbol, sizeof(symbol));
    }

    return &ngx_http_ebbtide_lua_functions;
}


/* How VMs are made from now on, which others set. */

ngx_http_ebbtide_vm_config_t *
ngx_http_ebbtide_vm_config(void)
{
    return &ngx_http_ebbtide_vm_conf;
}


ngx_queue_t *
ngx_http_ebbtide_vms(void)
{
    return &ngx_http_ebbtide_vm_list;
}


/* The VM of the configuration that follows another one; NULL: the first. */

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


/*
 * The module is loaded, or the configuration read anew: what is loaded by now is
 * hooked. Until the configuration says how VMs are made they are made as ever;
 * if it is refused, as before.
 */

ngx_int_t
ngx_http_ebbtide_vms_watch(ngx_cycle_t *cycle)
{
    ngx_pool_cleanup_t            *cln;
    ngx_http_ebbtide_vm_config_t  *before;

    cln = ngx_pool_cleanup_add(cycle->pool,
                               sizeof(ngx_http_ebbtide_vm_config_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    /* those of a configuration without this module are none of this one */
    ngx_http_ebbtide_vms_unlist_early();

    before = cln->data;
    *before = ngx_http_ebbtide_vm_conf;
    cln->handler = ngx_http_ebbtide_vms_rollback;
    ngx_http_ebbtide_reading = cln;

    ngx_http_ebbtide_vm_conf.enabled = 0;
    ngx_http_ebbtide_vm_conf.off = 0;
    ngx_http_ebbtide_vm_conf.started = 0;
    ngx_http_ebbtide_event_thread = pthread_self();

    return ngx_http_ebbtide_hooks_set(cycle->pool);
}


/* Whether this thread is reading a configuration. */

ngx_uint_t
ngx_http_ebbtide_vms_reading(void)
{
    return ngx_http_ebbtide_is_event_thread()
           && ngx_http_ebbtide_reading != NULL;
}


/* Runs when the VMs of the configuration are closed. */

static void
ngx_http_ebbtide_vms_rollback(void *data)
{
    ngx_http_ebbtide_vm_config_t  *before = data;

    ngx_http_ebbtide_vm_conf = *before;
    ngx_http_ebbtide_reading = NULL;
    ngx_http_ebbtide_vms_unlist_early();
}


/* The configuration is complete: what is early now stays as it is. */

void
ngx_http_ebbtide_vms_complete(void)
{
    if (ngx_http_ebbtide_reading) {
        ngx_http_ebbtide_reading->handler = NULL;
        ngx_http_ebbtide_reading = NULL;
    }

    ngx_http_ebbtide_vms_unlist_early();
}


static void
ngx_http_ebbtide_vms_unlist_early(void)
{
    ngx_queue_t  *q;

    while (!ngx_queue_empty(&ngx_http_ebbtide_vm_early)) {
        q = ngx_queue_head(&ngx_http_ebbtide_vm_early);
        ngx_queue_remove(q);
        ngx_free(ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue));
    }
}


static ngx_uint_t
ngx_http_ebbtide_is_event_thread(void)
{
    return pthread_equal(pthread_self(), ngx_http_ebbtide_event_thread);
}


/* In place of luaL_newstate. */

lua_State *
ngx_http_ebbtide_newstate(void)
{
    lua_State                     *L;
    ngx_http_ebbtide_vm_t         *vm;
    ngx_http_ebbtide_newstate_pt   newstate;
    const ngx_http_ebbtide_lua_t  *lua;

    newstate = (ngx_http_ebbtide_newstate_pt)
                   ngx_http_ebbtide_hooked(NGX_HTTP_EBBTIDE_HOOK_NEWSTATE);
    lua = ngx_http_ebbtide_lua();

    if (lua == NULL) {
        return newstate();
    }

    if (!ngx_http_ebbtide_vm_conf.enabled) {
        return ngx_http_ebbtide_newstate_early(newstate);
    }

    L = (lua_State *) ebb_newstate(&ngx_http_ebbtide_vm_conf.options);
    if (L == NULL) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM has LuaJIT's own allocator: %s",
                      ebb_strerror(0));
        return newstate();
    }

    /* as luaL_newstate does */
    (void) lua->atpanic(L, ngx_http_ebbtide_panic);

    if (!ngx_http_ebbtide_is_event_thread()) {
        /* it gives memory back while it runs, and is in no figure */
        return L;
    }

    vm = ngx_http_ebbtide_vm_add(L, ngx_http_ebbtide_own_api());

    if (vm) {
        vm->born = 1;
    }

    ngx_http_ebbtide_vm_preload(L);

    if (ngx_http_ebbtide_vm_conf.started) {
        /* of a request or a thread, it is not known which */
        (void) ebb_share((struct lua_State *) L);
        (void) ngx_http_ebbtide_collect_task_ready(L);
    }

    return L;
}


/* As ever, to be changed over if that is asked for later. */

static lua_State *
ngx_http_ebbtide_newstate_early(ngx_http_ebbtide_newstate_pt newstate)
{
    lua_State              *L;
    ngx_http_ebbtide_vm_t  *vm;

    L = newstate();

    if (L == NULL || ngx_http_ebbtide_vm_conf.off
        || ngx_http_ebbtide_vm_conf.started
        || !ngx_http_ebbtide_is_event_thread())
    {
        return L;
    }

    ngx_http_ebbtide_vm_preload(L);

    vm = ngx_calloc(sizeof(ngx_http_ebbtide_vm_t), ngx_cycle->log);

    if (vm) {
        vm->lua = L;
        ngx_queue_insert_tail(&ngx_http_ebbtide_vm_early, &vm->queue);
    }

    return L;
}


/*
 * A VM of a configuration finds "resty.ebbtide" from its first line of Lua on:
 * a module that is not known yet may run its init_by_lua next.
 */

static void
ngx_http_ebbtide_vm_preload(lua_State *L)
{
    if (ngx_http_ebbtide_vms_reading()) {
        ngx_http_ebbtide_lua_preload_vm(L);
    }
}


/* An error that nobody catches: the process ends when this returns. */

static int
ngx_http_ebbtide_panic(lua_State *L)
{
    const char                    *text;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();
    text = NULL;

    if (lua->type(L, -1) == NGX_HTTP_EBBTIDE_LUA_TSTRING) {
        text = lua->tolstring(L, -1, NULL);
    }

    ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                  "PANIC: unprotected error in call to Lua API (%s)",
                  text ? text : "not a string");

    return 0;
}


/* In place of lua_close: one that is still early is closed already. */

void
ngx_http_ebbtide_close(lua_State *L)
{
    ngx_http_ebbtide_vm_t      *vm;
    ngx_http_ebbtide_close_pt   close;

    if (ngx_http_ebbtide_is_event_thread()) {
        vm = ngx_http_ebbtide_vm_find(&ngx_http_ebbtide_vm_early, L);

        if (vm) {
            ngx_queue_remove(&vm->queue);
            ngx_free(vm);
        }
    }

    close = (ngx_http_ebbtide_close_pt)
                ngx_http_ebbtide_hooked(NGX_HTTP_EBBTIDE_HOOK_CLOSE);
    close(L);
}


/*
 * In place of lua_pcall, with which a thread of ngx.run_worker_thread begins a
 * task. LuaJIT has no collection of its own at the last moment: what the last
 * task has left is collected before the hard limit is met again.
 */

int
ngx_http_ebbtide_pcall(lua_State *L, int args, int results, int handler)
{
    ebb_heap                   *heap;
    ebb_stats                   stats;
    ngx_http_ebbtide_pcall_pt   pcall;

    pcall = (ngx_http_ebbtide_pcall_pt)
                ngx_http_ebbtide_hooked(NGX_HTTP_EBBTIDE_HOOK_PCALL);

    if (!ngx_http_ebbtide_is_event_thread()) {
        heap = ebb_heap_of((struct lua_State *) L);
        ngx_memzero(&stats, sizeof(ebb_stats));
        stats.size = sizeof(ebb_stats);

        if (heap && ebb_stats_read(heap, &stats) == EBB_OK
            && stats.limit_hard && stats.live > stats.limit_hard / 4 * 3)
        {
            ngx_http_ebbtide_collect_task(L);
        }
    }

    return pcall(L, args, results, handler);
}


/*
 * Lists a VM that is on a heap. NULL: there is no memory; the VM breathes while
 * it runs, and is in no figure.
 */

static ngx_http_ebbtide_vm_t *
ngx_http_ebbtide_vm_add(lua_State *L, const ngx_http_ebbtide_api_t *api)
{
    ngx_http_ebbtide_vm_t  *vm;

    vm = ngx_calloc(sizeof(ngx_http_ebbtide_vm_t), ngx_cycle->log);
    if (vm == NULL) {
        return NULL;
    }

    vm->lua = L;
    vm->api = api;
    vm->heap = api->heap_of((struct lua_State *) L);
    vm->configured = !ngx_http_ebbtide_vm_conf.started;
    vm->phase = NGX_HTTP_EBBTIDE_SETTLED;

    if (api->on_close(vm->heap, ngx_http_ebbtide_vm_closed, vm) != EBB_OK) {
        /* nobody would tell when the heap is gone */
        ngx_free(vm);
        return NULL;
    }

    ngx_queue_insert_tail(&ngx_http_ebbtide_vm_list, &vm->queue);

    return vm;
}


/* The last block of a VM is freed; its heap is about to go. */

static void
ngx_http_ebbtide_vm_closed(void *data)
{
    ngx_http_ebbtide_vm_t  *vm = data;

    ngx_http_ebbtide_usage_closed(vm);
    ngx_queue_remove(&vm->queue);
    ngx_free(vm);
}


static ngx_http_ebbtide_vm_t *
ngx_http_ebbtide_vm_find(ngx_queue_t *list, lua_State *L)
{
    ngx_queue_t            *q;
    ngx_http_ebbtide_vm_t  *vm;

    for (q = ngx_queue_head(list); q != ngx_queue_sentinel(list);
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
 * Takes the VMs on that were made before this was configured, and that of the
 * HTTP Lua module, if no hook has seen it.
 */

void
ngx_http_ebbtide_vms_take_early(ngx_conf_t *cf)
{
    lua_State                   *L;
    ngx_queue_t                 *q;
    ngx_http_ebbtide_vm_t       *vm;
    ngx_http_ebbtide_global_pt   global_state;

    while (!ngx_queue_empty(&ngx_http_ebbtide_vm_early)) {
        q = ngx_queue_head(&ngx_http_ebbtide_vm_early);
        ngx_queue_remove(q);
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);
        ngx_http_ebbtide_vm_take(cf->log, vm->lua);
        ngx_free(vm);
    }

    global_state = (ngx_http_ebbtide_global_pt)
                       ngx_http_ebbtide_symbol(cf->cycle,
                                           "ngx_http_lua_get_global_state");
    L = global_state ? global_state(cf) : NULL;

    if (L) {
        ngx_http_ebbtide_vm_take(cf->log, L);
    }
}


/* And that of the stream Lua module, once all of the configuration is read. */

void
ngx_http_ebbtide_vms_take_stream(ngx_cycle_t *cycle)
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
            ngx_http_ebbtide_vm_take(cycle->log, L);
        }
    }
}


/* NGX_DECLINED: there is no stream module, or no block for it. */

ngx_int_t
ngx_http_ebbtide_stream_conf(ngx_cycle_t *cycle, ngx_conf_t *conf)
{
    ngx_module_t  *stream;

    stream = ngx_http_ebbtide_symbol(cycle, "ngx_stream_module");

    if (stream == NULL || stream->index == NGX_MODULE_UNSET_INDEX
        || cycle->conf_ctx[stream->index] == NULL)
    {
        return NGX_DECLINED;
    }

    ngx_memzero(conf, sizeof(ngx_conf_t));
    conf->ctx = cycle->conf_ctx[stream->index];
    conf->cycle = cycle;
    conf->pool = cycle->pool;
    conf->log = cycle->log;

    return NGX_OK;
}


/* A VM of the configuration, whatever it is on. */

static void
ngx_http_ebbtide_vm_take(ngx_log_t *log, lua_State *L)
{
    ngx_uint_t                     born;
    ngx_http_ebbtide_vm_t         *vm;
    const ngx_http_ebbtide_api_t  *api;

    if (ngx_http_ebbtide_lua() == NULL
        || ngx_http_ebbtide_vm_find(&ngx_http_ebbtide_vm_list, L))
    {
        return;
    }

    api = ngx_http_ebbtide_api_of(L, log);

    if (api == NULL) {
        return;
    }

    born = api->heap_of((struct lua_State *) L) == NULL;

    if (born && ngx_http_ebbtide_vm_attach(log, L) != NGX_OK) {
        return;
    }

    vm = ngx_http_ebbtide_vm_add(L, api);
    if (vm == NULL) {
        return;
    }

    vm->attached = 1;
    vm->born = born;

    if (!born) {
        ngx_http_ebbtide_vm_configure(vm, log);
    }

    /* the newest that was made on a heap, if any was, stays the last */
    ngx_queue_remove(&vm->queue);
    ngx_queue_insert_head(&ngx_http_ebbtide_vm_list, &vm->queue);
}


static ngx_int_t
ngx_http_ebbtide_vm_attach(ngx_log_t *log, lua_State *L)
{
    if (ebb_attach((struct lua_State *) L, &ngx_http_ebbtide_vm_conf.options)
        == EBB_OK)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_WARN, log, 0,
                  "ebbtide: the Lua VM keeps its allocator: %s",
                  ebb_strerror(0));

    return NGX_DECLINED;
}


/* What the directives say is set for a heap that was made without them, too. */

static void
ngx_http_ebbtide_vm_configure(ngx_http_ebbtide_vm_t *vm, ngx_log_t *log)
{
    const ebb_options  *options;

    options = &ngx_http_ebbtide_vm_conf.directives;

    /* 0: the directive is not there */

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


/*
 * A function of a module that this configuration has. The one before may have
 * had another file with the same function, which is still loaded and which the
 * linker finds first: so each module's own file is asked. NULL: there is none.
 */

void *
ngx_http_ebbtide_symbol(ngx_cycle_t *cycle, const char *name)
{
    void        *base, *symbol;
    Dl_info      object;
    ngx_uint_t   i;

    base = NULL;

    for (i = 0; cycle->modules[i]; i++) {

        if (dladdr(cycle->modules[i], &object) == 0
            || object.dli_fbase == base)
        {
            continue;
        }

        /* most modules lie in the program, one after the other */
        base = object.dli_fbase;
        symbol = ngx_http_ebbtide_symbol_beside(cycle->modules[i], name);

        if (symbol) {
            return symbol;
        }
    }

    return NULL;
}


/* Whether there is a Lua module that makes VMs. */

ngx_uint_t
ngx_http_ebbtide_vms_expected(ngx_cycle_t *cycle)
{
    return ngx_http_ebbtide_symbol(cycle, "ngx_http_lua_get_global_state")
           != NULL;
}


/* How the VM that the workers will inherit came to its heap. */

ngx_uint_t
ngx_http_ebbtide_vms_way(void)
{
    ngx_queue_t            *q;
    ngx_http_ebbtide_vm_t  *vm;

    if (ngx_queue_empty(&ngx_http_ebbtide_vm_list)) {
        return NGX_HTTP_EBBTIDE_NO_VM;
    }

    q = ngx_queue_last(&ngx_http_ebbtide_vm_list);
    vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

    return vm->attached ? NGX_HTTP_EBBTIDE_ATTACHED : NGX_HTTP_EBBTIDE_MADE;
}
