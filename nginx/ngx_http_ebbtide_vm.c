
/*
 * The Lua VMs of this process, and how they come to their heaps.
 *
 * A module that is loaded before the Lua module stands before libluajit when
 * the linker looks for lua_newstate and lua_close, so they are found here
 * first. A VM that was made before, or by a Lua that the program brought along,
 * changes over when the configuration is complete.
 *
 * The VMs are listed by the thread that makes them, which is that of the event
 * loop; the threads of ngx.run_worker_thread only run theirs.
 */


#include "ngx_http_ebbtide.h"

/* dladdr() and RTLD_DEFAULT: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


/* what luaL_newstate of LuaJIT asks for: its own allocator */
#define NGX_HTTP_EBBTIDE_BUILTIN  ((uintptr_t) (1237 << 4))


typedef lua_State *(*ngx_http_ebbtide_newstate_pt)(
    ngx_http_ebbtide_lua_alloc_pt f, void *ud);
typedef void (*ngx_http_ebbtide_close_pt)(lua_State *L);
typedef lua_State *(*ngx_http_ebbtide_global_pt)(ngx_conf_t *cf);


lua_State *lua_newstate(ngx_http_ebbtide_lua_alloc_pt f, void *ud);
void lua_close(lua_State *L);


static ngx_int_t ngx_http_ebbtide_find_behind(void *caller);
static lua_State *ngx_http_ebbtide_newstate_builtin(
    ngx_http_ebbtide_lua_alloc_pt f, void *ud);
static ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_add(ngx_queue_t *list,
    lua_State *L);
static ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_find(ngx_queue_t *list,
    lua_State *L);
static ngx_int_t ngx_http_ebbtide_vm_attach(ngx_conf_t *cf,
    ngx_http_ebbtide_vm_t *vm);
static void *ngx_http_ebbtide_vm_alloc(void *ud, void *ptr, size_t osize,
    size_t nsize);
static void ngx_http_ebbtide_vm_forget(void *data);


static ngx_http_ebbtide_lua_t  ngx_http_ebbtide_lua_functions;

/* the functions that the two here stand before */
static ngx_http_ebbtide_newstate_pt  ngx_http_ebbtide_newstate;
static ngx_http_ebbtide_close_pt     ngx_http_ebbtide_close;

/* those that have heaps */
static ngx_queue_t   ngx_http_ebbtide_vm_list =
    { &ngx_http_ebbtide_vm_list, &ngx_http_ebbtide_vm_list };
/* those that were made before it was known whether they shall have one */
static ngx_queue_t   ngx_http_ebbtide_vm_early =
    { &ngx_http_ebbtide_vm_early, &ngx_http_ebbtide_vm_early };
static ngx_http_ebbtide_births_t  ngx_http_ebbtide_birth;


static const struct {
    const char  *name;
    size_t       offset;
} ngx_http_ebbtide_lua_names[] = {
    { "lua_gc", offsetof(ngx_http_ebbtide_lua_t, gc) },
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

ngx_http_ebbtide_births_t *
ngx_http_ebbtide_births(void)
{
    return &ngx_http_ebbtide_birth;
}


ngx_queue_t *
ngx_http_ebbtide_vms(void)
{
    return &ngx_http_ebbtide_vm_list;
}


/*
 * Finds the functions of the Lua that the caller is part of, or was linked
 * with: RTLD_NEXT does not look into what nginx loads by itself.
 */

static ngx_int_t
ngx_http_ebbtide_find_behind(void *caller)
{
    void     *handle, *newstate, *close;
    Dl_info   info;

    if (ngx_http_ebbtide_newstate) {
        return NGX_OK;
    }

    if (dladdr(caller, &info) == 0 || info.dli_fname == NULL) {
        return NGX_ERROR;
    }

    /* never closed: its functions will be called as long as there are VMs */
    handle = dlopen(info.dli_fname, RTLD_LAZY|RTLD_NOLOAD);
    if (handle == NULL) {
        return NGX_ERROR;
    }

    newstate = dlsym(handle, "lua_newstate");
    close = dlsym(handle, "lua_close");

    if (newstate == NULL || newstate == (void *) lua_newstate
        || close == NULL || close == (void *) lua_close)
    {
        return NGX_ERROR;
    }

    ngx_http_ebbtide_newstate = (ngx_http_ebbtide_newstate_pt) newstate;
    ngx_http_ebbtide_close = (ngx_http_ebbtide_close_pt) close;

    return NGX_OK;
}


/* Called by luaL_newstate. */

__attribute__((visibility("default"))) lua_State *
lua_newstate(ngx_http_ebbtide_lua_alloc_pt f, void *ud)
{
    lua_State                      *L;
    ngx_http_ebbtide_vm_t          *vm;
    const ngx_http_ebbtide_lua_t   *lua;

    if (ngx_http_ebbtide_find_behind(__builtin_return_address(0)) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "ebbtide: there is no lua_newstate in libluajit");
        return NULL;
    }

    lua = ngx_http_ebbtide_lua();

    if ((uintptr_t) f != NGX_HTTP_EBBTIDE_BUILTIN || lua == NULL) {
        return ngx_http_ebbtide_newstate(f, ud);
    }

    if (!ngx_http_ebbtide_birth.enabled) {
        return ngx_http_ebbtide_newstate_builtin(f, ud);
    }

    L = (lua_State *) ebb_newstate(&ngx_http_ebbtide_birth.options);
    if (L == NULL) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM has LuaJIT's own allocator: %s",
                      ebb_strerror(0));
        return ngx_http_ebbtide_newstate(f, ud);
    }

    vm = ngx_http_ebbtide_vm_add(&ngx_http_ebbtide_vm_list, L);

    if (vm && ngx_http_ebbtide_birth.started) {
        vm->locked = 1;
        lua->setallocf(L, ngx_http_ebbtide_vm_alloc, vm);
    }

    return L;
}


/* With LuaJIT's own allocator, to be changed over if that is asked for later. */

static lua_State *
ngx_http_ebbtide_newstate_builtin(ngx_http_ebbtide_lua_alloc_pt f, void *ud)
{
    lua_State  *L;

    L = ngx_http_ebbtide_newstate(f, ud);

    if (L && !ngx_http_ebbtide_birth.started) {
        (void) ngx_http_ebbtide_vm_add(&ngx_http_ebbtide_vm_early, L);
    }

    return L;
}


__attribute__((visibility("default"))) void
lua_close(lua_State *L)
{
    ngx_http_ebbtide_vm_t  *vm;

    if (ngx_http_ebbtide_find_behind(__builtin_return_address(0)) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "ebbtide: there is no lua_close in libluajit");
        return;
    }

    vm = ngx_http_ebbtide_vm_find(&ngx_http_ebbtide_vm_list, L);

    if (vm) {
        ngx_http_ebbtide_held_closes(vm);

    } else {
        vm = ngx_http_ebbtide_vm_find(&ngx_http_ebbtide_vm_early, L);
    }

    if (vm) {
        ngx_queue_remove(&vm->queue);
    }

    /* its allocation function may need what is freed here */
    ngx_http_ebbtide_close(L);

    if (vm) {
        ngx_free(vm);
    }
}


/* NULL: there is no memory; the VM breathes while it runs, and is in no figure. */

static ngx_http_ebbtide_vm_t *
ngx_http_ebbtide_vm_add(ngx_queue_t *list, lua_State *L)
{
    ngx_http_ebbtide_vm_t  *vm;

    vm = ngx_calloc(sizeof(ngx_http_ebbtide_vm_t), ngx_cycle->log);
    if (vm == NULL) {
        return NULL;
    }

    vm->lua = L;
    vm->heap = ebb_heap_of((struct lua_State *) L);
    vm->configured = !ngx_http_ebbtide_birth.started;
    vm->phase = NGX_HTTP_EBBTIDE_SETTLED;

    ngx_queue_insert_tail(list, &vm->queue);

    return vm;
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


/* The allocation function of a VM that another thread may run. */

static void *
ngx_http_ebbtide_vm_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
    void                   *block;
    ngx_http_ebbtide_vm_t  *vm = ud;

    while (!ngx_trylock(&vm->lock)) {
        ngx_sched_yield();
    }

    block = ebb_alloc(vm->heap, ptr, osize, nsize);

    ngx_unlock(&vm->lock);

    return block;
}


/* Whether the heap may be touched now; if so, it must be left again. */

ngx_int_t
ngx_http_ebbtide_vm_enter(ngx_http_ebbtide_vm_t *vm)
{
    return !vm->locked || ngx_trylock(&vm->lock);
}


void
ngx_http_ebbtide_vm_leave(ngx_http_ebbtide_vm_t *vm)
{
    if (vm->locked) {
        ngx_unlock(&vm->lock);
    }
}


/*
 * The VM of a request, which nothing but the thread of the event loop runs:
 * from now on ebb_alloc() is its allocation function, as the library's Lua
 * module expects.
 */

void
ngx_http_ebbtide_vm_unlock(lua_State *L)
{
    void                          *ud;
    ngx_http_ebbtide_vm_t         *vm;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua->getallocf(L, &ud) == ngx_http_ebbtide_vm_alloc) {
        vm = ud;
        vm->locked = 0;
        lua->setallocf(L, ebb_alloc, vm->heap);
    }
}


/*
 * Changes VMs over that were made with LuaJIT's own allocator: those made before
 * this was configured, and that of the HTTP Lua module, if it is there already.
 */

ngx_int_t
ngx_http_ebbtide_vms_attach(ngx_conf_t *cf)
{
    lua_State                   *L;
    ngx_pool_cleanup_t          *cln;
    ngx_http_ebbtide_vm_t       *vm;
    ngx_http_ebbtide_global_pt   global_state;

    while (!ngx_queue_empty(&ngx_http_ebbtide_vm_early)) {
        vm = ngx_queue_data(ngx_queue_head(&ngx_http_ebbtide_vm_early),
                            ngx_http_ebbtide_vm_t, queue);
        (void) ngx_http_ebbtide_vm_attach(cf, vm);
    }

    global_state = (ngx_http_ebbtide_global_pt)
                       dlsym(RTLD_DEFAULT, "ngx_http_lua_get_global_state");
    if (global_state == NULL) {
        return NGX_DECLINED;
    }

    L = global_state(cf);
    if (L == NULL || ebb_heap_of((struct lua_State *) L)) {
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(cf->cycle->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    vm = ngx_http_ebbtide_vm_add(&ngx_http_ebbtide_vm_early, L);
    if (vm == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_ebbtide_vm_attach(cf, vm) == NGX_OK) {
        /* runs before the Lua module closes the VM, for it was added later */
        cln->handler = ngx_http_ebbtide_vm_forget;
        cln->data = vm;
    }

    return NGX_OK;
}


/* It leaves the list of the early ones, for that of those with heaps or none. */

static ngx_int_t
ngx_http_ebbtide_vm_attach(ngx_conf_t *cf, ngx_http_ebbtide_vm_t *vm)
{
    int                rc;
    ngx_flag_t         enabled;
    struct lua_State  *L;

    L = (struct lua_State *) vm->lua;

    ngx_queue_remove(&vm->queue);

    /* it makes a VM to compare with, which is to have LuaJIT's own allocator */
    enabled = ngx_http_ebbtide_birth.enabled;
    ngx_http_ebbtide_birth.enabled = 0;

    rc = ebb_attach(L, &ngx_http_ebbtide_birth.options);

    ngx_http_ebbtide_birth.enabled = enabled;

    if (rc != EBB_OK) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "ebbtide: the Lua VM keeps its allocator: %s",
                           ebb_strerror(0));
        ngx_free(vm);
        return NGX_DECLINED;
    }

    vm->attached = 1;
    vm->heap = ebb_heap_of(L);

    /* the newest that was made on a heap, if any was, stays the last */
    ngx_queue_insert_head(&ngx_http_ebbtide_vm_list, &vm->queue);

    return NGX_OK;
}


/* A configuration is complete: what is early now stays as it is. */

void
ngx_http_ebbtide_vms_settle(void)
{
    ngx_queue_t  *q;

    while (!ngx_queue_empty(&ngx_http_ebbtide_vm_early)) {
        q = ngx_queue_head(&ngx_http_ebbtide_vm_early);
        ngx_queue_remove(q);
        ngx_free(ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue));
    }
}


static void
ngx_http_ebbtide_vm_forget(void *data)
{
    ngx_http_ebbtide_vm_t  *vm = data;
    ngx_queue_t            *q;

    for (q = ngx_queue_head(&ngx_http_ebbtide_vm_list);
         q != ngx_queue_sentinel(&ngx_http_ebbtide_vm_list);
         q = ngx_queue_next(q))
    {
        if (q == &vm->queue) {
            ngx_queue_remove(q);
            ngx_free(vm);
            return;
        }
    }
}


/* Whether there is a Lua module that makes VMs. */

ngx_uint_t
ngx_http_ebbtide_vms_expected(void)
{
    return dlsym(RTLD_DEFAULT, "ngx_http_lua_get_global_state") != NULL;
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
