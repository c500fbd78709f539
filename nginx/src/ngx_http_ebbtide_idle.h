
/*
 * Runs the phases of all VMs of a process in each turn of the event loop,
 * before the loop waits.
 *
 * It does not matter what the loop waits for: requests, timers of Lua, the end
 * of a worker that shuts down. No timer of nginx is used, so that nothing
 * keeps an idle process awake or an exiting one from its end.
 *
 * Uses conf, vm, collect, zone, phase.
 */


#ifndef _NGX_HTTP_EBBTIDE_IDLE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_IDLE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_ebbtide_conf.h"


void ngx_http_ebbtide_idle_reclaim(ngx_log_t *log);
void ngx_http_ebbtide_idle_start(ngx_http_ebbtide_main_conf_t *emcf);


#endif /* _NGX_HTTP_EBBTIDE_IDLE_H_INCLUDED_ */
