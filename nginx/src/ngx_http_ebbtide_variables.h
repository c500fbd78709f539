
/*
 * The variables $ebbtide_live, _resident, _free and _returned: what the VMs of
 * this process hold when the variable is read.
 *
 * Uses vm, stats.
 */


#ifndef _NGX_HTTP_EBBTIDE_VARIABLES_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_VARIABLES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


ngx_int_t ngx_http_ebbtide_variables_add(ngx_conf_t *cf);


#endif /* _NGX_HTTP_EBBTIDE_VARIABLES_H_INCLUDED_ */
