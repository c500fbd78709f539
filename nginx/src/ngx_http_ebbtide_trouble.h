
/*
 * What keeps VMs from returning memory, in the error log: VMs thrash, the
 * kernel takes nothing back, the address space is used up, the program has
 * overwritten records of LuaJIT's own allocator.
 *
 * Uses util, vm, stats.
 */


#ifndef _NGX_HTTP_EBBTIDE_TROUBLE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_TROUBLE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_ebbtide_stats.h"


ngx_uint_t ngx_http_ebbtide_log_trouble(const ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now);


#endif /* _NGX_HTTP_EBBTIDE_TROUBLE_H_INCLUDED_ */
