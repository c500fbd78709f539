
/*
 * Hooks: calls from nginx and its modules to luaL_newstate, lua_close and
 * lua_pcall, and from nginx to dlopen, reach functions of this module first.
 * Other callers, such as C modules of Lua, reach the real functions.
 *
 * A hook is an address written into the slot by which an object calls the
 * function (see elf). So the modules may be loaded in any order, and LuaJIT
 * itself stays unchanged. A program that has LuaJIT inside calls Lua without a
 * slot, so nothing can be hooked there: the VM of the HTTP Lua module is
 * attached then.
 *
 * Uses elf.
 */


#ifndef _NGX_HTTP_EBBTIDE_HOOKS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_HOOKS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


typedef enum {
    NGX_HTTP_EBBTIDE_HOOK_NEWSTATE = 0,
    NGX_HTTP_EBBTIDE_HOOK_CLOSE,
    NGX_HTTP_EBBTIDE_HOOK_PCALL,
    NGX_HTTP_EBBTIDE_HOOK_LOAD
} ngx_http_ebbtide_hook_e;


void ngx_http_ebbtide_hook(ngx_http_ebbtide_hook_e hook, void *function);
ngx_int_t ngx_http_ebbtide_hooks_set(ngx_pool_t *pool);
ngx_err_t ngx_http_ebbtide_hooks_error(void);
ngx_uint_t ngx_http_ebbtide_hooks_count(void);
void *ngx_http_ebbtide_real_function(ngx_http_ebbtide_hook_e hook);


#endif /* _NGX_HTTP_EBBTIDE_HOOKS_H_INCLUDED_ */
