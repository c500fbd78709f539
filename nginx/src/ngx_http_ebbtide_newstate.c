
#include "ngx_http_ebbtide_newstate.h"
#include "ngx_http_ebbtide_lua_api.h"
#include "ngx_http_ebbtide_copy.h"
#include "ngx_http_ebbtide_hooks.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_stage.h"
#include "ngx_http_ebbtide_collect.h"
#include "ngx_http_ebbtide_resty.h"


typedef lua_State *(*ngx_http_ebbtide_newstate_pt)(void);
typedef void (*ngx_http_ebbtide_close_pt)(lua_State *L);
typedef int (*ngx_http_ebbtide_pcall_pt)(lua_State *L, int args, int results,
    int handler);
typedef void *(*ngx_http_ebbtide_dlopen_pt)(const char *name, int flags);


static lua_State *ngx_http_ebbtide_newstate(void);
static void ngx_http_ebbtide_newstate_list(lua_State *L,
    const ngx_http_ebbtide_vm_config_t *config);
static lua_State *ngx_http_ebbtide_newstate_early(
    ngx_http_ebbtide_newstate_pt newstate);
static void ngx_http_ebbtide_newstate_preload(lua_State *L);
static int ngx_http_ebbtide_panic(lua_State *L);
static void ngx_http_ebbtide_close(lua_State *L);
static int ngx_http_ebbtide_pcall(lua_State *L, int args, int results,
    int handler);
static void *ngx_http_ebbtide_load(const char *name, int flags);


/*
 * A program that has both LuaJIT and this module inside calls these:
 * nginx/config has the linker replace the calls (--wrap).
 */

lua_State *__wrap_luaL_newstate(void);
void __wrap_lua_close(lua_State *L);
int __wrap_lua_pcall(lua_State *L, int args, int results, int handler);


/* Names the functions of this unit as those that hooks lead to. */

void
ngx_http_ebbtide_hook_calls(void)
{
    ngx_http_ebbtide_hook(NGX_HTTP_EBBTIDE_HOOK_NEWSTATE,
                          (void *) ngx_http_ebbtide_newstate);
    ngx_http_ebbtide_hook(NGX_HTTP_EBBTIDE_HOOK_CLOSE,
                          (void *) ngx_http_ebbtide_close);
    ngx_http_ebbtide_hook(NGX_HTTP_EBBTIDE_HOOK_PCALL,
                          (void *) ngx_http_ebbtide_pcall);
    ngx_http_ebbtide_hook(NGX_HTTP_EBBTIDE_HOOK_LOAD,
                          (void *) ngx_http_ebbtide_load);
}


lua_State *
__wrap_luaL_newstate(void)
{
    return ngx_http_ebbtide_newstate();
}


void
__wrap_lua_close(lua_State *L)
{
    ngx_http_ebbtide_close(L);
}


int
__wrap_lua_pcall(lua_State *L, int args, int results, int handler)
{
    return ngx_http_ebbtide_pcall(L, args, results, handler);
}


/* In place of luaL_newstate. */

static lua_State *
ngx_http_ebbtide_newstate(void)
{
    lua_State                     *L;
    ngx_http_ebbtide_newstate_pt   newstate;
    ngx_http_ebbtide_vm_config_t  *config;
    const ngx_http_ebbtide_lua_t  *lua;

    newstate = (ngx_http_ebbtide_newstate_pt)
                ngx_http_ebbtide_real_function(NGX_HTTP_EBBTIDE_HOOK_NEWSTATE);
    lua = ngx_http_ebbtide_lua();
    config = ngx_http_ebbtide_vm_config();

    if (lua == NULL) {
        return newstate();
    }

    if (!config->enabled) {
        return ngx_http_ebbtide_newstate_early(newstate);
    }

    L = (lua_State *) ebb_newstate(&config->options);
    if (L == NULL) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM has LuaJIT's own allocator: %s",
                      ebb_strerror(0));
        return newstate();
    }

    /* as luaL_newstate does */
    (void) lua->atpanic(L, ngx_http_ebbtide_panic);

    if (ngx_http_ebbtide_is_event_thread()) {
        ngx_http_ebbtide_newstate_list(L, config);
    }

    /* the VM of a thread returns memory while it runs, and is in no figure */

    return L;
}


/* Lists a VM that was made on a heap by the thread of the event loop. */

static void
ngx_http_ebbtide_newstate_list(lua_State *L,
    const ngx_http_ebbtide_vm_config_t *config)
{
    ngx_http_ebbtide_vm_t  *vm;

    vm = ngx_http_ebbtide_vm_add(L, ngx_http_ebbtide_own_api(),
                                 !config->started);

    if (vm) {
        vm->own_heap = 1;
    }

    ngx_http_ebbtide_newstate_preload(L);

    if (config->started) {
        /* the VM is a request's or a thread's: it is not known which */
        (void) ebb_share((struct lua_State *) L);
        (void) ngx_http_ebbtide_collect_task_ready(L);
    }
}


/* Makes a VM without a heap. It may be attached later. */

static lua_State *
ngx_http_ebbtide_newstate_early(ngx_http_ebbtide_newstate_pt newstate)
{
    lua_State                     *L;
    ngx_http_ebbtide_vm_config_t  *config;

    L = newstate();
    config = ngx_http_ebbtide_vm_config();

    if (L && !config->off && !config->started
        && ngx_http_ebbtide_is_event_thread())
    {
        ngx_http_ebbtide_newstate_preload(L);
        ngx_http_ebbtide_early_add(L);
    }

    return L;
}


/*
 * A VM of a configuration finds "resty.ebbtide" from its first line of Lua on:
 * the module that made it may run its init_by_lua next.
 */

static void
ngx_http_ebbtide_newstate_preload(lua_State *L)
{
    if (ngx_http_ebbtide_stage_is_open()) {
        ngx_http_ebbtide_resty_preload_vm(L);
    }
}


/* An error that nothing catches: the process ends when this returns. */

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


/* In place of lua_close. */

static void
ngx_http_ebbtide_close(lua_State *L)
{
    ngx_http_ebbtide_close_pt  close;

    if (ngx_http_ebbtide_is_event_thread()) {
        ngx_http_ebbtide_early_remove(L);
    }

    close = (ngx_http_ebbtide_close_pt)
                   ngx_http_ebbtide_real_function(NGX_HTTP_EBBTIDE_HOOK_CLOSE);
    close(L);
}


/*
 * In place of lua_pcall, by which a thread of ngx.run_worker_thread begins a
 * task. LuaJIT has no collection at the last moment before an allocation
 * fails. So the garbage of the last task is collected before the task meets
 * the hard limit.
 */

static int
ngx_http_ebbtide_pcall(lua_State *L, int args, int results, int handler)
{
    ebb_heap                   *heap;
    ebb_stats                   stats;
    ngx_http_ebbtide_pcall_pt   pcall;

    pcall = (ngx_http_ebbtide_pcall_pt)
                   ngx_http_ebbtide_real_function(NGX_HTTP_EBBTIDE_HOOK_PCALL);

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


/* In place of dlopen: hooks the calls of a module before nginx uses it. */

static void *
ngx_http_ebbtide_load(const char *name, int flags)
{
    void                        *handle;
    ngx_pool_t                  *pool;
    ngx_http_ebbtide_dlopen_pt   load;

    load = (ngx_http_ebbtide_dlopen_pt)
                    ngx_http_ebbtide_real_function(NGX_HTTP_EBBTIDE_HOOK_LOAD);
    handle = load(name, flags);

    /* a program with LuaJIT inside loads modules of Lua through this, too */

    if (handle == NULL || !ngx_http_ebbtide_stage_is_open()) {
        return handle;
    }

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, ngx_cycle->log);

    if (pool) {
        (void) ngx_http_ebbtide_hooks_set(pool);
        ngx_destroy_pool(pool);
    }

    return handle;
}
