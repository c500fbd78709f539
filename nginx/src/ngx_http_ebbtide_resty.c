
#include "ngx_http_ebbtide_resty.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_symbols.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_stats.h"
#include "ngx_http_ebbtide_zone.h"


#define NGX_HTTP_EBBTIDE_LUA_UPVALUE(i)  (NGX_HTTP_EBBTIDE_LUA_GLOBALS - (i))
#define NGX_HTTP_EBBTIDE_LUA_MULTRET     (-1)


typedef ngx_int_t (*ngx_http_ebbtide_preload_pt)(ngx_conf_t *cf,
    const char *package, ngx_http_ebbtide_lua_pt func);


static int ngx_http_ebbtide_resty_preload_in(lua_State *L);
static int ngx_http_ebbtide_resty_open_library(lua_State *L);
static int ngx_http_ebbtide_resty_open(lua_State *L);
static void ngx_http_ebbtide_resty_replace(lua_State *L, const char *name,
    ngx_http_ebbtide_lua_pt func);
static ngx_uint_t ngx_http_ebbtide_resty_wants_all(lua_State *L);
static int ngx_http_ebbtide_resty_call_replaced(lua_State *L);
static int ngx_http_ebbtide_resty_no_zone(lua_State *L);
static int ngx_http_ebbtide_resty_stats(lua_State *L);
static void ngx_http_ebbtide_resty_push_worker(lua_State *L, ngx_pid_t pid,
    ngx_http_ebbtide_stats_t *stats);
static void ngx_http_ebbtide_resty_set_field(lua_State *L, const char *name,
    double value);
static int ngx_http_ebbtide_resty_reclaim(lua_State *L);


/* What a process's VMs hold or did together. */

static const struct {
    const char  *name;
    size_t       offset;
} ngx_http_ebbtide_resty_totals[] = {
    { "live", offsetof(ngx_http_ebbtide_usage_t, live) },
    { "waste", offsetof(ngx_http_ebbtide_usage_t, waste) },
    { "free_resident", offsetof(ngx_http_ebbtide_usage_t, free_resident) },
    { "returned", offsetof(ngx_http_ebbtide_usage_t, returned) },
    { "metadata", offsetof(ngx_http_ebbtide_usage_t, metadata) },
    { "resident", offsetof(ngx_http_ebbtide_usage_t, resident) },
    { "committed", offsetof(ngx_http_ebbtide_usage_t, committed) },
    { "reserved", offsetof(ngx_http_ebbtide_usage_t, reserved) },
    { "returned_total", offsetof(ngx_http_ebbtide_usage_t, returned_total) },
    { "refaulted_total", offsetof(ngx_http_ebbtide_usage_t, refaulted_total) },
    { "premature_refaults_total",
      offsetof(ngx_http_ebbtide_usage_t, premature_refaults_total) },
    { "refused_allocations",
      offsetof(ngx_http_ebbtide_usage_t, refused_total) },
    { "refused_address_space",
      offsetof(ngx_http_ebbtide_usage_t, refused_space_total) },
    { "thrashing_vms", offsetof(ngx_http_ebbtide_usage_t, thrashing) },
    { "previous_damaged_vms",
      offsetof(ngx_http_ebbtide_usage_t, previous_damaged) },
    { NULL, 0 }
};


/*
 * Registers both modules with the HTTP Lua module. NGX_DECLINED: there is
 * none.
 */

ngx_int_t
ngx_http_ebbtide_resty_preload(ngx_conf_t *cf)
{
    ngx_http_ebbtide_preload_pt  add;

    add = (ngx_http_ebbtide_preload_pt)
              ngx_http_ebbtide_symbol(cf->cycle,
                                      "ngx_http_lua_add_package_preload");
    if (add == NULL) {
        return NGX_DECLINED;
    }

    if (add(cf, "ebbtide", ngx_http_ebbtide_resty_open_library) != NGX_OK
        || add(cf, "resty.ebbtide", ngx_http_ebbtide_resty_open) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * Registers both with the stream Lua module. Its VM exists by now, and its
 * init_by_lua has run: that found the modules only if the making of the VM was
 * hooked.
 */

void
ngx_http_ebbtide_resty_preload_stream(ngx_cycle_t *cycle)
{
    ngx_conf_t                   conf;
    ngx_http_ebbtide_preload_pt  add;

    add = (ngx_http_ebbtide_preload_pt)
              ngx_http_ebbtide_symbol(cycle,
                                      "ngx_stream_lua_add_package_preload");

    if (add && ngx_http_ebbtide_stream_conf(cycle, &conf) == NGX_OK) {
        (void) add(&conf, "ebbtide", ngx_http_ebbtide_resty_open_library);
        (void) add(&conf, "resty.ebbtide", ngx_http_ebbtide_resty_open);
    }
}


/*
 * Registers both in a new VM. Lua's library "package" is not open in it yet,
 * and takes over this table when it is opened. A VM without memory for the
 * table gets none.
 */

void
ngx_http_ebbtide_resty_preload_vm(lua_State *L)
{
    if (ngx_http_ebbtide_lua()) {
        (void) ngx_http_ebbtide_lua_run(L, ngx_http_ebbtide_resty_preload_in);
    }
}


static int
ngx_http_ebbtide_resty_preload_in(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->createtable(L, 0, 2);
    lua->pushcclosure(L, ngx_http_ebbtide_resty_open_library, 0);
    lua->setfield(L, -2, "ebbtide");
    lua->pushcclosure(L, ngx_http_ebbtide_resty_open, 0);
    lua->setfield(L, -2, "resty.ebbtide");
    lua->setfield(L, NGX_HTTP_EBBTIDE_LUA_REGISTRY, "_PRELOAD");

    return 0;
}


static int
ngx_http_ebbtide_resty_open_library(lua_State *L)
{
    return luaopen_ebbtide((struct lua_State *) L);
}


/*
 * A copy of the table of "ebbtide", with two functions that concern all
 * workers.
 */

static int
ngx_http_ebbtide_resty_open(lua_State *L)
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
    ngx_http_ebbtide_resty_replace(L, "stats", ngx_http_ebbtide_resty_stats);

    lua->getfield(L, module, "reclaim");
    ngx_http_ebbtide_resty_replace(L, "reclaim",
                                   ngx_http_ebbtide_resty_reclaim);

    return 1;
}


/*
 * Sets a function in the table below the top of the stack. The value on top is
 * the function that it replaces.
 */

static void
ngx_http_ebbtide_resty_replace(lua_State *L, const char *name,
    ngx_http_ebbtide_lua_pt func)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushcclosure(L, func, 1);
    lua->setfield(L, -2, name);
}


static ngx_uint_t
ngx_http_ebbtide_resty_wants_all(lua_State *L)
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


/* Calls the function that is replaced, with the same arguments. */

static int
ngx_http_ebbtide_resty_call_replaced(lua_State *L)
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
ngx_http_ebbtide_resty_no_zone(lua_State *L)
{
    static const char              reason[] =
        "there are no figures of other workers: ebbtide_zone is off";
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushnil(L);
    lua->pushlstring(L, reason, sizeof(reason) - 1);

    return 2;
}


/* stats("all"): an array with a table for each process. */

static int
ngx_http_ebbtide_resty_stats(lua_State *L)
{
    int                            count;
    ngx_pid_t                      pid;
    ngx_uint_t                     i;
    ngx_http_ebbtide_stats_t      *stats;
    ngx_http_ebbtide_zone_t       *zone;
    const ngx_http_ebbtide_lua_t  *lua;

    if (!ngx_http_ebbtide_resty_wants_all(L)) {
        return ngx_http_ebbtide_resty_call_replaced(L);
    }

    lua = ngx_http_ebbtide_lua();
    zone = ngx_http_ebbtide_zone();

    if (zone == NULL) {
        return ngx_http_ebbtide_resty_no_zone(L);
    }

    ngx_http_ebbtide_zone_publish(ngx_current_msec);

    lua->createtable(L, 0, 0);
    count = 0;

    for (i = 0; i < zone->slot_count; i++) {

        /* nothing is held across calls that may throw */
        stats = ngx_http_ebbtide_zone_copy(i, &pid);

        if (stats) {
            ngx_http_ebbtide_resty_push_worker(L, pid, stats);
            lua->rawseti(L, -2, ++count);
        }
    }

    return 1;
}


static void
ngx_http_ebbtide_resty_push_worker(lua_State *L, ngx_pid_t pid,
    ngx_http_ebbtide_stats_t *stats)
{
    ngx_uint_t                     i;
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->createtable(L, 0, 24);

    lua->pushlstring(L, stats->process, ngx_strlen(stats->process));
    lua->setfield(L, -2, "process");

    if (ngx_http_ebbtide_is_worker(stats)) {
        ngx_http_ebbtide_resty_set_field(L, "worker", stats->worker);
    }

    ngx_http_ebbtide_resty_set_field(L, "pid", pid);
    ngx_http_ebbtide_resty_set_field(L, "age_ms",
                                     ngx_http_ebbtide_ago(stats->updated));
    ngx_http_ebbtide_resty_set_field(L, "process_resident", stats->rss);
    ngx_http_ebbtide_resty_set_field(L, "pressure", stats->pressure);
    ngx_http_ebbtide_resty_set_field(L, "limit_soft", stats->limit_soft);
    ngx_http_ebbtide_resty_set_field(L, "limit_hard", stats->limit_hard);
    ngx_http_ebbtide_resty_set_field(L, "purge_errno",
                    ngx_max(stats->usage[NGX_HTTP_EBBTIDE_MAIN].purge_errno,
                            stats->usage[NGX_HTTP_EBBTIDE_OTHER].purge_errno));
    ngx_http_ebbtide_resty_set_field(L, "restarts", stats->restarts);

    for (i = 0; ngx_http_ebbtide_resty_totals[i].name; i++) {
        ngx_http_ebbtide_resty_set_field(L,
            ngx_http_ebbtide_resty_totals[i].name,
            ngx_http_ebbtide_stats_total(stats,
                                     ngx_http_ebbtide_resty_totals[i].offset));
    }
}


static void
ngx_http_ebbtide_resty_set_field(lua_State *L, const char *name, double value)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    lua->pushnumber(L, value);
    lua->setfield(L, -2, name);
}


/* reclaim("all"): the number of processes that were asked. */

static int
ngx_http_ebbtide_resty_reclaim(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    if (!ngx_http_ebbtide_resty_wants_all(L)) {
        return ngx_http_ebbtide_resty_call_replaced(L);
    }

    lua = ngx_http_ebbtide_lua();

    if (ngx_http_ebbtide_zone() == NULL) {
        return ngx_http_ebbtide_resty_no_zone(L);
    }

    lua->pushnumber(L, ngx_http_ebbtide_zone_request_reclaim(ngx_cycle->log));

    return 1;
}
