
/*
 * The garbage collector of a VM: a whole collection in short slices, and the
 * collector's pace near a memory limit.
 *
 * LUA_GCSTEP makes all the steps at once that LuaJIT owes for what was
 * allocated: after a large string these are many. LUA_GCRESTART makes one due,
 * and the next function that may allocate makes that one.
 *
 * In single steps nothing tells of the end of a collection. But the end of each
 * marking shows: it clears a weak value that nothing else refers to. The first
 * may be that of a marking that had begun before the last garbage was made; the
 * second has found all of it; at the third all of that is swept or finalized, and
 * at the fourth what was finalized is swept too.
 */


#include "ngx_http_ebbtide.h"


#define NGX_HTTP_EBBTIDE_MARKINGS  4

/*
 * The collector hurries from this pressure on, and no longer below the other
 * one; from the third on all garbage is collected, in slices, while requests
 * come: LuaJIT has no collection of its own at the last moment.
 */

#define NGX_HTTP_EBBTIDE_HURRY_FROM   50
#define NGX_HTTP_EBBTIDE_HURRY_UNTIL  40
#define NGX_HTTP_EBBTIDE_HURRY_NOW    75

/* LuaJIT's own values of pause and stepmul, in percent */
#define NGX_HTTP_EBBTIDE_GC  200

#define NGX_HTTP_EBBTIDE_LUA_UPVALUE  (NGX_HTTP_EBBTIDE_LUA_GLOBALS - 1)


static int ngx_http_ebbtide_collect_all_in(lua_State *L);
static void ngx_http_ebbtide_collect_failed(ngx_http_ebbtide_vm_t *vm);
static int ngx_http_ebbtide_collect_prepare(lua_State *L);
static int ngx_http_ebbtide_collect_prepare_task(lua_State *L);
static int ngx_http_ebbtide_collect_watch(lua_State *L);
static int ngx_http_ebbtide_collect_slice(lua_State *L);
static void ngx_http_ebbtide_collect_step(lua_State *L,
    ngx_http_ebbtide_vm_t *vm);
static ngx_int_t ngx_http_ebbtide_collect_pace(ngx_http_ebbtide_vm_t *vm,
    int pause, int stepmul);
static ngx_uint_t ngx_http_ebbtide_collect_is_heaps(int stepmul);
static void ngx_http_ebbtide_collect_own_pace(ngx_http_ebbtide_vm_t *vm);


/* The addresses of these are keys in a VM's registry. */

/* the function that collects; its upvalue is the table of the weak value */
static char  ngx_http_ebbtide_collect_key;
static char  ngx_http_ebbtide_weak_key;

/*
 * The slice that is being made. Its address is handed to Lua, which may need
 * memory for addresses far from those it knows: it lies beside the keys.
 */

static struct {
    ngx_http_ebbtide_vm_t  *vm;
    uint64_t                until_us;
} ngx_http_ebbtide_slice;


/* All at once. */

ngx_int_t
ngx_http_ebbtide_collect_all(ngx_http_ebbtide_vm_t *vm)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCISRUNNING, 0) == 0) {
        return NGX_OK;
    }

    if (lua->cpcall(vm->lua, ngx_http_ebbtide_collect_all_in, NULL) != 0) {
        lua->settop(vm->lua, -2);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static int
ngx_http_ebbtide_collect_all_in(lua_State *L)
{
    ngx_http_ebbtide_lua()->gc(L, NGX_HTTP_EBBTIDE_LUA_GCCOLLECT, 0);
    return 0;
}


/*
 * Puts the function that collects into the VM's registry, while there is memory
 * for it: at a memory limit there is none.
 */

ngx_int_t
ngx_http_ebbtide_collect_ready(ngx_http_ebbtide_vm_t *vm)
{
    const ngx_http_ebbtide_lua_t  *lua;

    if (vm->prepared) {
        return NGX_OK;
    }

    lua = ngx_http_ebbtide_lua();

    if (lua->cpcall(vm->lua, ngx_http_ebbtide_collect_prepare, NULL) != 0) {
        lua->settop(vm->lua, -2);
        return NGX_ERROR;
    }

    vm->prepared = 1;

    return NGX_OK;
}


/*
 * The same for a VM that a thread may run, which collects at once: see
 * ngx_http_ebbtide_pcall().
 */

ngx_int_t
ngx_http_ebbtide_collect_task_ready(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua->cpcall(L, ngx_http_ebbtide_collect_prepare_task, NULL) != 0) {
        lua->settop(L, -2);
        return NGX_ERROR;
    }

    return NGX_OK;
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


/* Allocates nothing but what finalizers do, which may throw. */

void
ngx_http_ebbtide_collect_task(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua->gc(L, NGX_HTTP_EBBTIDE_LUA_GCISRUNNING, 0) == 0) {
        return;
    }

    lua->pushlightuserdata(L, &ngx_http_ebbtide_collect_key);
    lua->rawget(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    if (lua->type(L, -1) == NGX_HTTP_EBBTIDE_LUA_TNIL
        || lua->pcall(L, 0, 0, 0) != 0)
    {
        lua->settop(L, -2);
    }
}


/* The next slice is the first of a collection. */

void
ngx_http_ebbtide_collect_begin(ngx_http_ebbtide_vm_t *vm)
{
    vm->markings = 0;
    vm->watched = 0;
    vm->begun = vm->bytes;
}


/* A slice. NGX_OK: it was the last one. */

ngx_int_t
ngx_http_ebbtide_collect(ngx_http_ebbtide_vm_t *vm, uint64_t until_us)
{
    int                            rc;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    /* a program that has stopped its collector means it; LuaJIT 2.0: -1 */
    if (lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCISRUNNING, 0) == 0) {
        return NGX_OK;
    }

    if (ngx_http_ebbtide_collect_ready(vm) != NGX_OK) {
        /* it is tried again when the VM was quiet once more */
        vm->recollect = 1;
        return NGX_OK;
    }

    if (!vm->watched) {
        if (lua->cpcall(vm->lua, ngx_http_ebbtide_collect_watch, NULL) != 0) {
            /* at a memory limit it goes without, in one step for all */
            lua->settop(vm->lua, -2);
            vm->markings = NGX_HTTP_EBBTIDE_MARKINGS;

        } else {
            vm->watched = 1;
        }
    }

    ngx_http_ebbtide_collect_own_pace(vm);

    ngx_http_ebbtide_slice.vm = vm;
    ngx_http_ebbtide_slice.until_us = until_us;

    /* allocates nothing, so that it works at a memory limit too */
    lua->pushlightuserdata(vm->lua, &ngx_http_ebbtide_collect_key);
    lua->rawget(vm->lua, NGX_HTTP_EBBTIDE_LUA_REGISTRY);

    /* finalizers run in here, and may throw */
    rc = lua->pcall(vm->lua, 0, 0, 0);

    if (rc != 0) {
        ngx_http_ebbtide_collect_failed(vm);
    }

    if (rc == NGX_HTTP_EBBTIDE_LUA_ERRMEM) {
        /* so would the next slice: what can go back is to do so first */
        vm->markings = NGX_HTTP_EBBTIDE_MARKINGS;
        vm->recollect = 1;
    }

    /* that was no activity of the program's */
    vm->bytes = ngx_http_ebbtide_lua_bytes(vm);
    vm->quiet_bytes = vm->bytes;

    return vm->markings == NGX_HTTP_EBBTIDE_MARKINGS ? NGX_OK : NGX_AGAIN;
}


/*
 * A finalizer threw what is on top of the stack: the first of a process is reported.
 * Newer versions of LuaJIT keep such errors to themselves.
 */

static void
ngx_http_ebbtide_collect_failed(ngx_http_ebbtide_vm_t *vm)
{
    const char                    *text;
    static ngx_uint_t              told;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (!told && lua->type(vm->lua, -1) == NGX_HTTP_EBBTIDE_LUA_TSTRING) {
        told = 1;
        text = lua->tolstring(vm->lua, -1, NULL);
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a finalizer threw while garbage was collected: "
                      "%s", text);
    }

    lua->settop(vm->lua, -2);
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


/* Puts a weak value there that the end of the next marking clears. */

static int
ngx_http_ebbtide_collect_watch(lua_State *L)
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

    } while (vm->watched
             && ngx_http_ebbtide_now_us() < ngx_http_ebbtide_slice.until_us);

    return 0;
}


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
        vm->watched = 0;
        vm->markings++;
    }

    lua->settop(L, 0);
}


/*
 * Near the memory limit the collector begins its cycles earlier and takes
 * larger steps; after that, as the program had set it. Returns whether all
 * garbage shall be collected now.
 */

ngx_uint_t
ngx_http_ebbtide_collect_hurry(ngx_http_ebbtide_vm_t *vm)
{
    int                            pressure, above;
    const ngx_http_ebbtide_lua_t  *lua;

    pressure = vm->api->pressure(vm->heap);

    if (pressure < (vm->hurried ? NGX_HTTP_EBBTIDE_HURRY_UNTIL
                                : NGX_HTTP_EBBTIDE_HURRY_FROM))
    {
        /* the first finds what the program has set since the last look */

        if (vm->hurried
            && ngx_http_ebbtide_collect_pace(vm, vm->pause, vm->stepmul)
               == NGX_OK)
        {
            (void) ngx_http_ebbtide_collect_pace(vm, vm->pause, vm->stepmul);
            vm->hurried = 0;
        }

        return 0;
    }

    lua = ngx_http_ebbtide_lua();

    if (lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCISRUNNING, 0) == 0) {
        return 0;
    }

    if (!vm->hurried) {
        vm->hurried = 1;
        vm->pause = vm->our_pause = NGX_HTTP_EBBTIDE_GC;
        vm->stepmul = vm->our_stepmul = NGX_HTTP_EBBTIDE_GC;
    }

    /* at the limit a cycle begins when a tenth was added, four times as fast */
    above = ngx_max(pressure - NGX_HTTP_EBBTIDE_HURRY_FROM, 0);
    (void) ngx_http_ebbtide_collect_pace(vm, 200 - above * 90 / 50,
                                         200 + above * 600 / 50);

    /* not again when hardly anything was added since it was done */
    return pressure >= NGX_HTTP_EBBTIDE_HURRY_NOW
           && vm->bytes > vm->collected + vm->collected / 8;
}


/*
 * Whatever the program has set meanwhile is what it gets back. NGX_AGAIN: the
 * heap has the collector in a hurry of its own.
 */

static ngx_int_t
ngx_http_ebbtide_collect_pace(ngx_http_ebbtide_vm_t *vm, int pause,
    int stepmul)
{
    int                            old;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    old = lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETPAUSE, pause);
    if (old != vm->our_pause) {
        vm->pause = old;
    }

    vm->our_pause = pause;

    old = lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL, stepmul);

    if (ngx_http_ebbtide_collect_is_heaps(old)) {
        /* the heap sets back what it has found */
        (void) lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL, old);
        return NGX_AGAIN;
    }

    if (old != vm->our_stepmul) {
        vm->stepmul = old;
    }

    vm->our_stepmul = stepmul;

    return NGX_OK;
}


/* Whether the heap has set this step multiplier: memory is short. */

static ngx_uint_t
ngx_http_ebbtide_collect_is_heaps(int stepmul)
{
    return stepmul == EBB_STEPMUL_WHOLE || stepmul == EBB_STEPMUL_LONG;
}


/*
 * The heap's step multiplier would make whole collections of the slices. A tick
 * ends it until the VM allocates again.
 */

static void
ngx_http_ebbtide_collect_own_pace(ngx_http_ebbtide_vm_t *vm)
{
    int                            old;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    old = lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL,
                  NGX_HTTP_EBBTIDE_GC);
    (void) lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL, old);

    if (ngx_http_ebbtide_collect_is_heaps(old)) {
        (void) vm->api->tick(vm->heap, 1);
    }
}


/* What Lua counts. */

uint64_t
ngx_http_ebbtide_lua_bytes(ngx_http_ebbtide_vm_t *vm)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    return ((uint64_t) lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCCOUNT, 0) << 10)
           + lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCCOUNTB, 0);
}
