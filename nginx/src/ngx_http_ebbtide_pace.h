
/*
 * The pace of a VM's garbage collector near the memory limit.
 *
 * As the pressure rises, the collector begins its cycles earlier and takes
 * larger steps. LuaJIT itself has no collection at the last moment before an
 * allocation fails.
 *
 * Uses lua_api, vm.
 */


#ifndef _NGX_HTTP_EBBTIDE_PACE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_PACE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_ebbtide_vm.h"


ngx_uint_t ngx_http_ebbtide_pressure_pace(ngx_http_ebbtide_vm_t *vm);
void ngx_http_ebbtide_clear_heap_pace(ngx_http_ebbtide_vm_t *vm);


#endif /* _NGX_HTTP_EBBTIDE_PACE_H_INCLUDED_ */
