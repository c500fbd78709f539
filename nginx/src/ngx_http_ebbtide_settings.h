
/*
 * Refuses directives that contradict each other or the environment.
 *
 * Uses conf, environment, limits.
 */


#ifndef _NGX_HTTP_EBBTIDE_SETTINGS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_SETTINGS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_ebbtide_conf.h"


ngx_int_t ngx_http_ebbtide_settings_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);


#endif /* _NGX_HTTP_EBBTIDE_SETTINGS_H_INCLUDED_ */
