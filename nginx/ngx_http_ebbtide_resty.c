
/*
 * require "resty.ebbtide" and require "ebbtide", without installing anything.
 *
 * The library that is linked into this module carries its Lua module. What is
 * added here is for all workers: stats("all") and reclaim("all").
 */


#include "ngx_http_ebbtide.h"

#define NGX_HTTP_EBBTIDE_LUA_UPVALUE(i)  (NGX_HTTP_EBBTIDE_LUA_GLOBALS - (i))
#define NGX_HTTP_EBBTIDE_LUA_MULTRET     (-1)


typedef ngx_int_t (*ngx_http_ebbtide_preload_pt)(ngx_conf_t *cf,
    const char *package, ngx_http_ebbtide_lua_pt func);


static int ngx_http_ebbtide_lua_preload_in(lua_State *L);
static int ngx_http_ebbtide_lua_open(lua_State *L);
static int ngx_http_ebbtide_lua_open_resty(lua_State *L);
static void ngx_http_ebbtide_lua_wrap(lua_State *L, const char *name,
    ngx_http_ebbtide_lua_pt func);
static int ngx_http_ebbtide_lua_stats(lua_State *L);
static int ngx_http_ebbtide_lua_reclaim(lua_State *L);
static ngx_uint_t ngx_http_ebbtide_lua_wants_all(lua_State *L);
static int ngx_http_ebbtide_lua_original(lua_State *L);
static int ngx_http_ebbtide_lua_no_zone(lua_State *L);
static void ngx_http_ebbtide_lua_push_worker(lua_State *L, ngx_pid_t pid,
    ngx_http_ebbtide_stats_t *stats);
static void ngx_http_ebbtide_lua_set(lua_State *L, const char *name,
    double value);


ngx_int_t
ngx_http_ebbtide_lua_preload(ngx_conf_t *cf)
{
    ngx_http_ebbtide_preload_pt  add;

    add = (ngx_http_ebbtide_preload_pt)
              ngx_http_ebbtide_symbol(cf->cycle,
                                      "ngx_http_lua_add_package_preload");
    if (add == NULL) {
        return NGX_DECLINED;
    }

    if (add(cf, "ebbtide", ngx_http_ebbtide_lua_open) != NGX_OK
        || add(cf, "resty.ebbtide", ngx_http_ebbtide_lua_open_resty) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * The VM of the stream Lua module is there by now. Its own init_by_lua has run,
 * and found the modules only if the making of the VM was hooked.
 */

void
ngx_http_ebbtide_lua_preload_stream(ngx_cycle_t *cycle)
{
    ngx_conf_t                   conf;
    ngx_http_ebbtide_preload_pt  add;

    add = (ngx_http_ebbtide_preload_pt)
              ngx_http_ebbtide_symbol(cycle,
                                      "ngx_stream_lua_add_package_preload");

    if (add && ngx_http_ebbtide_stream_conf(cycle, &conf) == NGX_OK) {
        (void) add(&conf, "ebbtide", ngx_http_ebbtide_lua_open);
        (void) add(&conf, "resty.ebbtide", ngx_http_ebbtide_lua_open_resty);
    }
}


/*
 * Lua's library "package" takes this table for its own when it is opened, which
 * it is in no new VM. One that has no memory for the table goes without.
 */

void
ngx_http_ebbtide_lua_preload_vm(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua && lua->cpcall(L, ngx_http_ebbtide_lua_preload_in, NULL) != 0) {
        lua->settop(L, -2);
    }
}


static int
ngx_http_ebbtide_lua_preload_in(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->createtable(L, 0, 2);
    lua->pushcclosure(L, ngx_http_ebbtide_lua_open, 0);
    lua->setfield(L, -2, "ebbtide");
    lua->pushcclosure(L, ngx_http_ebbtide_lua_open_resty, 0);
    lua->setfield(L, -2, "resty.ebbtide");
    lua->setfield(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY, "_PRELOAD");

    return 0;
}


static int
ngx_http_ebbtide_lua_open(lua_State *L)
{
    return luaopen_ebbtide((struct lua_State *) L);
}


/* The module's table, with two functions that know of all workers. */

static int
ngx_http_ebbtide_lua_open_resty(lua_State *L)
{
    int                            module, resty;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->getfield(L, NGX_HTTP_EBBTIDE_LUA_GLOBALS, "require");
    lua->pushlstring(L, "ebbtide", sizeof("ebbtide") - 1);
    lua->call(L, 1, 1);
    module = lua->gettop(L);

    lua->createtable(L, 0, 24);
    resty = lua->gettop(L);

    for (lua->pushnil(L); lua->next(L, module); /* void */ ) {
        /* key, value -> key, key, value */
        lua->pushvalue(L, -2);
        lua->insert(L, -2);
        lua->rawset(L, resty);
    }

    lua->getfield(L, module, "stats");
    ngx_http_ebbtide_lua_wrap(L, "stats", ngx_http_ebbtide_lua_stats);

    lua->getfield(L, module, "reclaim");
    ngx_http_ebbtide_lua_wrap(L, "reclaim", ngx_http_ebbtide_lua_reclaim);

    return 1;
}


/* Puts a function into the table below it that has what is on top behind it. */

static void
ngx_http_ebbtide_lua_wrap(lua_State *L, const char *name,
    ngx_http_ebbtide_lua_pt func)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushcclosure(L, func, 1);
    lua->setfield(L, -2, name);
}


static ngx_uint_t
ngx_http_ebbtide_lua_wants_all(lua_State *L)
{
    size_t                         len;
    const char                    *text;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua->gettop(L) == 0
        || lua->type(L, 1) != NGX_HTTP_EBBTIDE_LUA_TSTRING)
    {
        return 0;
    }

    text = lua->tolstring(L, 1, &len);

    return len == 3 && ngx_memcmp(text, "all", 3) == 0;
}


/* Calls the function of the module with the same arguments. */

static int
ngx_http_ebbtide_lua_original(lua_State *L)
{
    int                            count;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    count = lua->gettop(L);
    lua->pushvalue(L, NGX_HTTP_EBBTIDE_LUA_UPVALUE(1));
    lua->insert(L, 1);
    lua->call(L, count, NGX_HTTP_EBBTIDE_LUA_MULTRET);

    return lua->gettop(L);
}


static int
ngx_http_ebbtide_lua_no_zone(lua_State *L)
{
    static const char              reason[] =
        "there are no figures of other workers: ebbtide_zone is off";
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushnil(L);
    lua->pushlstring(L, reason, sizeof(reason) - 1);

    return 2;
}


/* stats("all"): an array with a table for each worker. */

static int
ngx_http_ebbtide_lua_stats(lua_State *L)
{
    int                            count;
    ngx_pid_t                      pid;
    ngx_uint_t                     i;
    ngx_http_ebbtide_stats_t      *stats;
    ngx_http_ebbtide_zone_t       *zone;
    const ngx_http_ebbtide_lua_t  *lua;

    if (!ngx_http_ebbtide_lua_wants_all(L)) {
        return ngx_http_ebbtide_lua_original(L);
    }

    lua = ngx_http_ebbtide_lua();
    zone = ngx_http_ebbtide_zone();

    if (zone == NULL) {
        return ngx_http_ebbtide_lua_no_zone(L);
    }

    ngx_http_ebbtide_zone_publish(ngx_current_msec);

    lua->createtable(L, 0, 0);
    count = 0;

    for (i = 0; i < zone->slot_count; i++) {

        /* nothing is held across calls that may throw */
        stats = ngx_http_ebbtide_zone_copy(i, &pid);

        if (stats) {
            ngx_http_ebbtide_lua_push_worker(L, pid, stats);
            lua->rawseti(L, -2, ++count);
        }
    }

    return 1;
}


static void
ngx_http_ebbtide_lua_push_worker(lua_State *L, ngx_pid_t pid,
    ngx_http_ebbtide_stats_t *stats)
{
    double                         live, free_resident, returned, resident;
    double                         refused, thrashing;
    ngx_uint_t                     i;
    ngx_http_ebbtide_usage_t      *usage;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();
    live = free_resident = returned = resident = refused = thrashing = 0;

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        usage = &stats->usage[i];
        live += usage->live;
        free_resident += usage->free_resident;
        returned += usage->returned;
        resident += usage->resident;
        refused += usage->refused_total;
        thrashing += usage->thrashing;
    }

    lua->createtable(L, 0, 16);

    lua->pushlstring(L, stats->process, ngx_strlen(stats->process));
    lua->setfield(L, -2, "process");

    if (ngx_http_ebbtide_is_worker(stats)) {
        ngx_http_ebbtide_lua_set(L, "worker", stats->worker);
    }

    ngx_http_ebbtide_lua_set(L, "pid", pid);
    ngx_http_ebbtide_lua_set(L, "age_ms", ngx_http_ebbtide_ago(stats->updated));
    ngx_http_ebbtide_lua_set(L, "process_resident", stats->rss);
    ngx_http_ebbtide_lua_set(L, "live", live);
    ngx_http_ebbtide_lua_set(L, "free_resident", free_resident);
    ngx_http_ebbtide_lua_set(L, "returned", returned);
    ngx_http_ebbtide_lua_set(L, "resident", resident);
    ngx_http_ebbtide_lua_set(L, "pressure", stats->pressure);
    ngx_http_ebbtide_lua_set(L, "limit_soft", stats->limit_soft);
    ngx_http_ebbtide_lua_set(L, "limit_hard", stats->limit_hard);
    ngx_http_ebbtide_lua_set(L, "thrashing_vms", thrashing);
    ngx_http_ebbtide_lua_set(L, "refused_allocations", refused);
    ngx_http_ebbtide_lua_set(L, "restarts", stats->restarts);
}


static void
ngx_http_ebbtide_lua_set(lua_State *L, const char *name, double value)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushnumber(L, value);
    lua->setfield(L, -2, name);
}


/* reclaim("all"): how many workers were asked. */

static int
ngx_http_ebbtide_lua_reclaim(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    if (!ngx_http_ebbtide_lua_wants_all(L)) {
        return ngx_http_ebbtide_lua_original(L);
    }

    lua = ngx_http_ebbtide_lua();

    if (ngx_http_ebbtide_zone() == NULL) {
        return ngx_http_ebbtide_lua_no_zone(L);
    }

    lua->pushnumber(L, ngx_http_ebbtide_zone_request_reclaim(ngx_cycle->log));

    return 1;
}
