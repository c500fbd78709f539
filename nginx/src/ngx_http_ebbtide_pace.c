
#include "ngx_http_ebbtide_pace.h"
#include "ngx_http_ebbtide_lua_api.h"


/*
 * Pressures in percent: from the first one on the collector is paced, and
 * below the second one it no longer is. From the third one on all garbage is
 * collected, in slices, while requests come.
 */

#define NGX_HTTP_EBBTIDE_PRESSURE_FROM     50
#define NGX_HTTP_EBBTIDE_PRESSURE_UNTIL    40
#define NGX_HTTP_EBBTIDE_PRESSURE_COLLECT  75

/* LuaJIT's default values of pause and stepmul, in percent */
#define NGX_HTTP_EBBTIDE_GC_DEFAULT        200


static void ngx_http_ebbtide_pressure_end(ngx_http_ebbtide_vm_t *vm);
static ngx_int_t ngx_http_ebbtide_set_gc_pace(ngx_http_ebbtide_vm_t *vm,
    int pause, int stepmul);
static ngx_uint_t ngx_http_ebbtide_is_heap_stepmul(int stepmul);


/*
 * Sets the collector's pace by the pressure, and the program's own pace again
 * when the pressure is gone. Returns whether all garbage shall be collected
 * now.
 */

ngx_uint_t
ngx_http_ebbtide_pressure_pace(ngx_http_ebbtide_vm_t *vm)
{
    int  pressure, above;

    pressure = vm->api->pressure(vm->heap);

    if (pressure < (vm->paced ? NGX_HTTP_EBBTIDE_PRESSURE_UNTIL
                              : NGX_HTTP_EBBTIDE_PRESSURE_FROM))
    {
        if (vm->paced) {
            ngx_http_ebbtide_pressure_end(vm);
        }

        return 0;
    }

    if (ngx_http_ebbtide_lua_gc_is_stopped(vm->lua)) {
        return 0;
    }

    if (!vm->paced) {
        ngx_log_debug2(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                       "ebbtide: VM %p: emergency begins, pressure %d",
                       vm->lua, pressure);

        vm->paced = 1;
        vm->pause = vm->our_pause = NGX_HTTP_EBBTIDE_GC_DEFAULT;
        vm->stepmul = vm->our_stepmul = NGX_HTTP_EBBTIDE_GC_DEFAULT;
    }

    /* at 100 %, a cycle begins when 10 % was added, at four times the speed */
    above = ngx_max(pressure - NGX_HTTP_EBBTIDE_PRESSURE_FROM, 0);
    (void) ngx_http_ebbtide_set_gc_pace(vm, 200 - above * 90 / 50,
                                        200 + above * 600 / 50);

    /* not again until an eighth was added since the last collection */
    return pressure >= NGX_HTTP_EBBTIDE_PRESSURE_COLLECT
           && vm->bytes > vm->collected_bytes + vm->collected_bytes / 8;
}


static void
ngx_http_ebbtide_pressure_end(ngx_http_ebbtide_vm_t *vm)
{
    /* the first call finds what the program has set since the last one */

    if (ngx_http_ebbtide_set_gc_pace(vm, vm->pause, vm->stepmul) == NGX_OK) {
        (void) ngx_http_ebbtide_set_gc_pace(vm, vm->pause, vm->stepmul);
        vm->paced = 0;

        ngx_log_debug1(NGX_LOG_DEBUG_CORE, ngx_cycle->log, 0,
                       "ebbtide: VM %p: emergency ends", vm->lua);
    }
}


/*
 * Notes what the program has set meanwhile, which it gets back later.
 * NGX_AGAIN: the heap has set a step multiplier of its own, which stays.
 */

static ngx_int_t
ngx_http_ebbtide_set_gc_pace(ngx_http_ebbtide_vm_t *vm, int pause,
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

    if (ngx_http_ebbtide_is_heap_stepmul(old)) {
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


/* Whether the heap has set this step multiplier, because memory is short. */

static ngx_uint_t
ngx_http_ebbtide_is_heap_stepmul(int stepmul)
{
    return stepmul == EBB_STEPMUL_WHOLE || stepmul == EBB_STEPMUL_LONG;
}


/*
 * Clears the heap's own step multiplier, with which each slice would be a whole
 * collection. A tick clears it, until the VM allocates again.
 */

void
ngx_http_ebbtide_clear_heap_pace(ngx_http_ebbtide_vm_t *vm)
{
    int                            old;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    old = lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL,
                  NGX_HTTP_EBBTIDE_GC_DEFAULT);
    (void) lua->gc(vm->lua, NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL, old);

    if (ngx_http_ebbtide_is_heap_stepmul(old)) {
        (void) vm->api->tick(vm->heap, 1);
    }
}
