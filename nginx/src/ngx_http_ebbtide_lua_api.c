
#include "ngx_http_ebbtide_lua_api.h"

/* RTLD_DEFAULT: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


static ngx_http_ebbtide_lua_t  ngx_http_ebbtide_lua_functions;


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


/*
 * Looks the functions up at its first call. NULL: this process has no Lua, or
 * none with all of these functions.
 */

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


/* NGX_ERROR: the function threw an error, or memory is short. */

ngx_int_t
ngx_http_ebbtide_lua_run(lua_State *L, ngx_http_ebbtide_lua_pt func)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    if (lua->cpcall(L, func, NULL) != 0) {
        lua->settop(L, -2);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* The bytes that a VM's collector counts as allocated. */

uint64_t
ngx_http_ebbtide_lua_bytes(lua_State *L)
{
    const ngx_http_ebbtide_lua_t  *lua;

    lua = ngx_http_ebbtide_lua();

    return ((uint64_t) lua->gc(L, NGX_HTTP_EBBTIDE_LUA_GCCOUNT, 0) << 10)
           + lua->gc(L, NGX_HTTP_EBBTIDE_LUA_GCCOUNTB, 0);
}


/* A program that has stopped its collector wants it stopped. LuaJIT 2.0: -1. */

ngx_uint_t
ngx_http_ebbtide_lua_gc_is_stopped(lua_State *L)
{
    return ngx_http_ebbtide_lua()->gc(L, NGX_HTTP_EBBTIDE_LUA_GCISRUNNING, 0)
           == 0;
}
