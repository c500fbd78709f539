
/*
 * How VMs are made: as the configuration says that is being read, or as the
 * last complete one says.
 *
 * While a configuration is read, its settings are staged: they apply at once,
 * and the ones before come back if the configuration is refused. VMs that are
 * made before the settings are known are early: they may get a heap later.
 *
 * Uses lua_api.
 */


#ifndef _NGX_HTTP_EBBTIDE_STAGE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_STAGE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ebbtide.h>

#include "ngx_http_ebbtide_lua_api.h"


typedef struct {
    /* VMs are made on heaps, with these options */
    ngx_flag_t                 enabled;
    /* the configuration says that no VM gets a heap */
    ngx_flag_t                 off;
    ebb_options                options;
    /* what the directives alone say, for a heap that is there already */
    ebb_options                directives;
    /* requests are served: new VMs are of a request or a thread */
    ngx_uint_t                 started;
} ngx_http_ebbtide_vm_config_t;


ngx_http_ebbtide_vm_config_t *ngx_http_ebbtide_vm_config(void);
ngx_int_t ngx_http_ebbtide_stage_begin(ngx_cycle_t *cycle);
ngx_uint_t ngx_http_ebbtide_stage_is_open(void);
void ngx_http_ebbtide_stage_commit(void);
ngx_uint_t ngx_http_ebbtide_is_event_thread(void);
void ngx_http_ebbtide_early_add(lua_State *L);
lua_State *ngx_http_ebbtide_early_next(void);
void ngx_http_ebbtide_early_remove(lua_State *L);


#endif /* _NGX_HTTP_EBBTIDE_STAGE_H_INCLUDED_ */
