
/*
 * The functions of Lua's C interface that the module calls, found at run time:
 * the module is not linked with any LuaJIT.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_LUA_API_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_LUA_API_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


typedef struct lua_State  lua_State;

typedef void *(*ngx_http_ebbtide_lua_alloc_pt)(void *ud, void *ptr,
    size_t osize, size_t nsize);
typedef int (*ngx_http_ebbtide_lua_pt)(lua_State *L);

typedef struct {
    int          (*gc)(lua_State *L, int what, int data);
    ngx_http_ebbtide_lua_pt
                 (*atpanic)(lua_State *L, ngx_http_ebbtide_lua_pt func);
    int          (*cpcall)(lua_State *L, ngx_http_ebbtide_lua_pt func,
                           void *ud);
    int          (*pcall)(lua_State *L, int args, int results, int handler);
    void         (*pushlightuserdata)(lua_State *L, void *p);
    void         (*rawget)(lua_State *L, int index);
    void         (*settop)(lua_State *L, int index);
    int          (*gettop)(lua_State *L);
    int          (*type)(lua_State *L, int index);
    const char  *(*tolstring)(lua_State *L, int index, size_t *len);
    void         (*pushnumber)(lua_State *L, double n);
    void         (*pushnil)(lua_State *L);
    void         (*pushlstring)(lua_State *L, const char *s, size_t len);
    void         (*pushvalue)(lua_State *L, int index);
    void         (*pushcclosure)(lua_State *L, ngx_http_ebbtide_lua_pt func,
                                 int n);
    void         (*createtable)(lua_State *L, int array, int hash);
    void         (*getfield)(lua_State *L, int index, const char *name);
    void         (*setfield)(lua_State *L, int index, const char *name);
    void         (*rawset)(lua_State *L, int index);
    void         (*rawgeti)(lua_State *L, int index, int n);
    void         (*rawseti)(lua_State *L, int index, int n);
    int          (*setmetatable)(lua_State *L, int index);
    int          (*next)(lua_State *L, int index);
    void         (*insert)(lua_State *L, int index);
    void         (*call)(lua_State *L, int args, int results);
    ngx_http_ebbtide_lua_alloc_pt
                 (*getallocf)(lua_State *L, void **ud);
    void         (*setallocf)(lua_State *L, ngx_http_ebbtide_lua_alloc_pt f,
                              void *ud);
} ngx_http_ebbtide_lua_t;


#define NGX_HTTP_EBBTIDE_LUA_REGISTRY      (-10000)
#define NGX_HTTP_EBBTIDE_LUA_GLOBALS       (-10002)

#define NGX_HTTP_EBBTIDE_LUA_ERRMEM        4

#define NGX_HTTP_EBBTIDE_LUA_TNIL          0
#define NGX_HTTP_EBBTIDE_LUA_TSTRING       4

#define NGX_HTTP_EBBTIDE_LUA_GCRESTART     1
#define NGX_HTTP_EBBTIDE_LUA_GCCOLLECT     2
#define NGX_HTTP_EBBTIDE_LUA_GCCOUNT       3
#define NGX_HTTP_EBBTIDE_LUA_GCCOUNTB      4
#define NGX_HTTP_EBBTIDE_LUA_GCSETPAUSE    6
#define NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL  7
#define NGX_HTTP_EBBTIDE_LUA_GCISRUNNING   9


const ngx_http_ebbtide_lua_t *ngx_http_ebbtide_lua(void);
ngx_int_t ngx_http_ebbtide_lua_run(lua_State *L, ngx_http_ebbtide_lua_pt func);
uint64_t ngx_http_ebbtide_lua_bytes(lua_State *L);
ngx_uint_t ngx_http_ebbtide_lua_gc_is_stopped(lua_State *L);


#endif /* _NGX_HTTP_EBBTIDE_LUA_API_H_INCLUDED_ */
