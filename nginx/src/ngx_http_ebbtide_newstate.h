
/*
 * The hooked calls: VMs are made, run and closed.
 *
 * nginx and its modules make VMs by luaL_newstate. Once the configuration says
 * so, a VM is made on a heap.
 *
 * Uses lua_api, copy, hooks, vm, stage, collect, resty.
 */


#ifndef _NGX_HTTP_EBBTIDE_NEWSTATE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_NEWSTATE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


void ngx_http_ebbtide_hook_calls(void);


#endif /* _NGX_HTTP_EBBTIDE_NEWSTATE_H_INCLUDED_ */
