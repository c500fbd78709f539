
#include "ngx_http_ebbtide_collect.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_pace.h"


/* ends of markings that make a whole collection */
#define NGX_HTTP_EBBTIDE_MARKINGS     4

#define NGX_HTTP_EBBTIDE_LUA_UPVALUE  (NGX_HTTP_EBBTIDE_LUA_GLOBALS - 1)


static int ngx_http_ebbtide_collect_all_in(lua_State *L);
static int ngx_http_ebbtide_collect_prepare(lua_State *L);
static int ngx_http_ebbtide_collect_prepare_task(lua_State *L);
static void ngx_http_ebbtide_collect_failed(ngx_http_ebbtide_vm_t *vm);
static void ngx_http_ebbtide_collect_set_marker(ngx_http_ebbtide_vm_t *vm);
static int ngx_http_ebbtide_collect_set_marker_in(lua_State *L);
static int ngx_http_ebbtide_collect_slice(lua_State *L);
static void ngx_http_ebbtide_collect_step(lua_State *L,
    ngx_http_ebbtide_vm_t *vm);


/* The addresses of these are keys in a VM's registry. */

/* the function that collects; its upvalue is the table of the weak value */
static char  ngx_http_ebbtide_collect_key;
static char  ngx_http_ebbtide_weak_key;

/* the slice that is being made */

static struct {
    ngx_http_ebbtide_vm_t  *vm;
    uint64_t                until_us;
} ngx_http_ebbtide_slice;


/* Collects all at once. NGX_ERROR: a finalizer threw, or memory is short. */

ngx_int_t
ngx_http_ebbtide_collect_all(ngx_http_ebbtide_vm_t *vm)
{
    if (ngx_http_ebbtide_lua_gc_is_stopped(vm->lua)) {
        return NGX_OK;
    }

    return ngx_http_ebbtide_lua_run(vm->lua, ngx_http_ebbtide_collect_all_in);
}


static int
ngx_http_ebbtide_collect_all_in(lua_State *L)
{
    ngx_http_ebbtide_lua()->gc(L, NGX_HTTP_EBBTIDE_LUA_GCCOLLECT, 0);
    return 0;
}


/*
 * Puts the function that collects into the VM's registry while there is memory
 * for it: at a memory limit there is none.
 */

ngx_int_t
ngx_http_ebbtide_collect_ready(ngx_http_ebbtide_vm_t *vm)
{
    if (vm->prepared) {
        return NGX_OK;
    }

    if (ngx_http_ebbtide_lua_run(vm->lua, ngx_http_ebbtide_collect_prepare)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    vm->prepared = 1;

    return NGX_OK;
}


static int
ngx_http_ebbtide_collect_prepare(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    /* a table with the metatable { __mode = "v" } */
    lua->createtable(L, 1, 0);
    lua->createtable(L, 0, 1);
    lua->pushlstring(L, "v", 1);
    lua->setfield(L, -2, "__mode");
    lua->setmetatable(L, -2);

    lua->pushlightuserdata(L, &ngx_http_ebbtide_weak_key);
    lua->pushvalue(L, -2);
    lua->rawset(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    lua->pushlightuserdata(L, &ngx_http_ebbtide_collect_key);
    lua->insert(L, -2);
    lua->pushcclosure(L, ngx_http_ebbtide_collect_slice, 1);
    lua->rawset(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    return 0;
}


/*
 * The same for a VM that a thread may run. A thread collects at once: see
 * ngx_http_ebbtide_pcall().
 */

ngx_int_t
ngx_http_ebbtide_collect_task_ready(lua_State *L)
{
    return ngx_http_ebbtide_lua_run(L, ngx_http_ebbtide_collect_prepare_task);
}


static int
ngx_http_ebbtide_collect_prepare_task(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushlightuserdata(L, &ngx_http_ebbtide_collect_key);
    lua->pushcclosure(L, ngx_http_ebbtide_collect_all_in, 0);
    lua->rawset(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    return 0;
}


/* Collects at once. Allocates nothing; finalizers do, and may throw. */

void
ngx_http_ebbtide_collect_task(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    if (ngx_http_ebbtide_lua_gc_is_stopped(L)) {
        return;
    }

    lua = ngx_http_ebbtide_lua();

    lua->pushlightuserdata(L, &ngx_http_ebbtide_collect_key);
    lua->rawget(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    if (lua->type(L, -1) == NGX_HTTP_EBBTIDE_LUA_TNIL
        || lua->pcall(L, 0, 0, 0) != 0)
    {
        lua->settop(L, -2);
    }
}


/* The next slice is the first one of a collection. */

void
ngx_http_ebbtide_collect_begin(ngx_http_ebbtide_vm_t *vm)
{
    ngx_log_debug2(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                   "ebbtide: VM %p: collection begins, %uL bytes",
                   vm->lua, vm->bytes);

    vm->markings = 0;
    vm->marker_set = 0;
    vm->begin_bytes = vm->bytes;
}


/* Makes a slice. NGX_OK: it was the last one of the collection. */

ngx_int_t
ngx_http_ebbtide_collect(ngx_http_ebbtide_vm_t *vm, uint64_t until_us)
{
    int                            rc;
    const ngx_http_ebbtide_lua_t  *lua;

    if (ngx_http_ebbtide_lua_gc_is_stopped(vm->lua)) {
        return NGX_OK;
    }

    if (ngx_http_ebbtide_collect_ready(vm) != NGX_OK) {
        /* tried again when the VM has been quiet once more */
        vm->recollect = 1;
        return NGX_OK;
    }

    lua = ngx_http_ebbtide_lua();

    ngx_http_ebbtide_collect_set_marker(vm);
    ngx_http_ebbtide_clear_heap_pace(vm);

    ngx_http_ebbtide_slice.vm = vm;
    ngx_http_ebbtide_slice.until_us = until_us;

    /* these allocate nothing, and so work at a memory limit too */
    lua->pushlightuserdata(vm->lua, &ngx_http_ebbtide_collect_key);
    lua->rawget(vm->lua, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    /* finalizers run in here, and may throw */
    rc = lua->pcall(vm->lua, 0, 0, 0);

    if (rc != 0) {
        ngx_http_ebbtide_collect_failed(vm);
    }

    if (rc == NGX_HTTP_EBBTIDE_LUA_ERRMEM) {
        /* the next slice would fail too: free memory is returned first */
        vm->markings = NGX_HTTP_EBBTIDE_MARKINGS;
        vm->recollect = 1;
    }

    /* the slice was no activity of the program's */
    vm->bytes = ngx_http_ebbtide_lua_bytes(vm->lua);
    vm->quiet_bytes = vm->bytes;

    if (vm->markings != NGX_HTTP_EBBTIDE_MARKINGS) {
        return NGX_AGAIN;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                   "ebbtide: VM %p: collection ends, %uL bytes",
                   vm->lua, vm->bytes);

    return NGX_OK;
}


/*
 * A finalizer threw what is on top of the stack. The first one of a process is
 * logged. Newer versions of LuaJIT do not hand such errors on.
 */

static void
ngx_http_ebbtide_collect_failed(ngx_http_ebbtide_vm_t *vm)
{
    const char                    *text;
    static ngx_uint_t              logged;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (!logged && lua->type(vm->lua, -1) == NGX_HTTP_EBBTIDE_LUA_TSTRING) {
        logged = 1;
        text = lua->tolstring(vm->lua, -1, NULL);
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a finalizer threw while garbage was collected: "
                      "%s", text);
    }

    lua->settop(vm->lua, -2);
}


/* Sets a weak value, which the end of the next marking clears. */

static void
ngx_http_ebbtide_collect_set_marker(ngx_http_ebbtide_vm_t *vm)
{
    if (vm->marker_set) {
        return;
    }

    if (ngx_http_ebbtide_lua_run(vm->lua,
                                 ngx_http_ebbtide_collect_set_marker_in)
        != NGX_OK)
    {
        /* no memory for the marker: one step collects all */
        vm->markings = NGX_HTTP_EBBTIDE_MARKINGS;
        return;
    }

    vm->marker_set = 1;
}


static int
ngx_http_ebbtide_collect_set_marker_in(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushlightuserdata(L, &ngx_http_ebbtide_weak_key);
    lua->rawget(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY);
    lua->createtable(L, 0, 0);
    lua->rawseti(L, -2, 1);

    return 0;
}


static int
ngx_http_ebbtide_collect_slice(lua_State *L)
{
    ngx_http_ebbtide_vm_t  *vm;

    vm = ngx_http_ebbtide_slice.vm;

    if (vm->markings == NGX_HTTP_EBBTIDE_MARKINGS) {
        return ngx_http_ebbtide_collect_all_in(L);
    }

    do {
        ngx_http_ebbtide_collect_step(L, vm);

    } while (vm->marker_set
             && ngx_http_ebbtide_now_us() < ngx_http_ebbtide_slice.until_us);

    return 0;
}


/* A single step of the collector. */

static void
ngx_http_ebbtide_collect_step(lua_State *L, ngx_http_ebbtide_vm_t *vm)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->gc(L, NGX_HTTP_EBBTIDE_LUA_GCRESTART, 0);
    lua->pushlstring(L, "", 0);
    lua->settop(L, 0);

    lua->rawgeti(L, NGX_HTTP_EBBTIDE_LUA_UPVALUE, 1);

    if (lua->type(L, 1) == NGX_HTTP_EBBTIDE_LUA_TNIL) {
        vm->marker_set = 0;
        vm->markings++;
    }

    lua->settop(L, 0);
}
