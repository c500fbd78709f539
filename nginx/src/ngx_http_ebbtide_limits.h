
/*
 * The limits in bytes: a share of the cgroup's memory is divided among the
 * workers. A share that comes to no limit counts as not given.
 *
 * Uses util, conf, vm, bounds.
 */


#ifndef _NGX_HTTP_EBBTIDE_LIMITS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_LIMITS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ebbtide.h>

#include "ngx_http_ebbtide_conf.h"


void ngx_http_ebbtide_first_options(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf, ebb_options *options);
void ngx_http_ebbtide_resolve_limits(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf);
int64_t ngx_http_ebbtide_resolve_limit(ngx_cycle_t *cycle,
    ngx_http_ebbtide_limit_t *limit, const char *name);


#endif /* _NGX_HTTP_EBBTIDE_LIMITS_H_INCLUDED_ */
