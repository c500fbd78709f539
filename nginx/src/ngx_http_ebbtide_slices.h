
/*
 * How long the slices of work between two events took: a histogram.
 *
 * A slice is one bounded piece of garbage collection or reclaim. Events that
 * arrive meanwhile wait for its end.
 *
 * Uses util.
 */


#ifndef _NGX_HTTP_EBBTIDE_SLICES_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_SLICES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


typedef struct {
    uint64_t                   count;
    /* durations in microseconds that half and 99 % of the slices kept to */
    uint64_t                   p50_us;
    uint64_t                   p99_us;
    uint64_t                   max_us;
} ngx_http_ebbtide_slices_t;


void ngx_http_ebbtide_slice_end(uint64_t start_us);
ngx_http_ebbtide_slices_t ngx_http_ebbtide_slices_read(void);


#endif /* _NGX_HTTP_EBBTIDE_SLICES_H_INCLUDED_ */
