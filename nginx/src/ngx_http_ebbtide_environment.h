
/*
 * The environment variables: values that make no sense are errors, and
 * variables and directives that have no effect are reported.
 *
 * Uses symbols, copy, conf.
 */


#ifndef _NGX_HTTP_EBBTIDE_ENVIRONMENT_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_ENVIRONMENT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_ebbtide_conf.h"


ngx_int_t ngx_http_ebbtide_environment_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_environment_check_rest(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf);
char **ngx_http_ebbtide_workers_env(ngx_cycle_t *cycle,
    ngx_core_conf_t *ccf);
ngx_int_t ngx_http_ebbtide_warn_no_effect(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_warn_no_lua(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf);


#endif /* _NGX_HTTP_EBBTIDE_ENVIRONMENT_H_INCLUDED_ */
