
/*
 * The phases of a VM: busy, collecting, returning, settled.
 *
 * A VM that was quiet for ebbtide_idle has its garbage collected and its free
 * memory returned, in slices of ebbtide_step. VMs of requests and threads only
 * return what is due by age.
 *
 * Uses util, slices, lua_api, vm, pace, collect.
 */


#ifndef _NGX_HTTP_EBBTIDE_PHASE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_PHASE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_ebbtide_vm.h"


void ngx_http_ebbtide_phase_settings(ngx_msec_t idle_ms, ngx_uint_t step_us);
void ngx_http_ebbtide_phase_start(ngx_http_ebbtide_vm_t *vm);
void ngx_http_ebbtide_phase_request(ngx_http_ebbtide_vm_t *vm);
ngx_msec_t ngx_http_ebbtide_phase_run(ngx_http_ebbtide_vm_t *vm,
    ngx_msec_t now, ngx_uint_t *changed);


#endif /* _NGX_HTTP_EBBTIDE_PHASE_H_INCLUDED_ */
