
/*
 * The garbage collection of a VM, at once or in short slices.
 *
 * LUA_GCSTEP makes all the steps at once that LuaJIT owes for what was
 * allocated; after a large string these are many. LUA_GCRESTART makes a single
 * step due, and the next function that may allocate makes it.
 *
 * No function reports the end of a collection that is made in single steps.
 * The end of each marking can be seen: it clears a weak value that nothing
 * else refers to. Four ends of markings make a whole collection: the first
 * marking may have begun before the last garbage was made; the second
 * one finds all garbage; by the end of the third one that garbage is swept or
 * finalized; by the end of the fourth one, what was finalized is swept too.
 *
 * Uses util, lua_api, vm, pace.
 */


#ifndef _NGX_HTTP_EBBTIDE_COLLECT_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_COLLECT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_ebbtide_lua_api.h"
#include "ngx_http_ebbtide_vm.h"


ngx_int_t ngx_http_ebbtide_collect_all(ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_collect_ready(ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_collect_task_ready(lua_State *L);
void ngx_http_ebbtide_collect_task(lua_State *L);
void ngx_http_ebbtide_collect_begin(ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_collect(ngx_http_ebbtide_vm_t *vm,
    uint64_t until_us);


#endif /* _NGX_HTTP_EBBTIDE_COLLECT_H_INCLUDED_ */
