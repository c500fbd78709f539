
/*
 * The three bounds of a heap: retain <= limit_soft <= limit_hard.
 *
 * A directive sets a bound; one without a directive stays as the environment
 * or the program has set it. Of two bounds that contradict each other, the one
 * that stands first in this order is lowered to the other, so that no hard
 * limit is lowered.
 *
 * Uses util, vm, stage.
 */


#ifndef _NGX_HTTP_EBBTIDE_BOUNDS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_BOUNDS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ebbtide.h>

#include "ngx_http_ebbtide_vm.h"


void ngx_http_ebbtide_options_lower(ebb_options *options, ngx_log_t *log);
void ngx_http_ebbtide_vm_bounds(ngx_http_ebbtide_vm_t *vm,
    const ebb_options *given, const ebb_options *directives, ngx_log_t *log);


#endif /* _NGX_HTTP_EBBTIDE_BOUNDS_H_INCLUDED_ */
