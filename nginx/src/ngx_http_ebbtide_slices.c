
#include "ngx_http_ebbtide_slices.h"
#include "ngx_http_ebbtide_util.h"


/* four buckets for each power of two of microseconds, up to an hour */
#define NGX_HTTP_EBBTIDE_SLICE_BUCKETS  128


static uint64_t ngx_http_ebbtide_slice_percentile(ngx_uint_t percent);


static uint64_t  ngx_http_ebbtide_slice_counts[NGX_HTTP_EBBTIDE_SLICE_BUCKETS];
static uint64_t  ngx_http_ebbtide_slice_count;
static uint64_t  ngx_http_ebbtide_slice_max_us;


/* Counts a slice that began at this time and ends now. */

void
ngx_http_ebbtide_slice_end(uint64_t start_us)
{
    uint64_t    us;
    ngx_uint_t  power, bucket;

    us = ngx_max(ngx_http_ebbtide_now_us() - start_us, 4);

    for (power = 2; us >> (power + 1); power++) { /* void */ }

    /* the two bits below the highest one select one of the four buckets */
    bucket = 4 * power + ((us >> (power - 2)) & 3);
    bucket = ngx_min(bucket, NGX_HTTP_EBBTIDE_SLICE_BUCKETS - 1);

    ngx_http_ebbtide_slice_counts[bucket]++;
    ngx_http_ebbtide_slice_count++;
    ngx_http_ebbtide_slice_max_us = ngx_max(ngx_http_ebbtide_slice_max_us, us);
}


/* The upper end of the bucket that this percentage of the slices lies below. */

static uint64_t
ngx_http_ebbtide_slice_percentile(ngx_uint_t percent)
{
    uint64_t    seen, us;
    ngx_uint_t  i;

    seen = 0;

    for (i = 0; i < NGX_HTTP_EBBTIDE_SLICE_BUCKETS; i++) {
        seen += ngx_http_ebbtide_slice_counts[i];

        if (seen * 100 >= ngx_http_ebbtide_slice_count * percent) {
            break;
        }
    }

    us = (uint64_t) (5 + i % 4) << (i / 4) >> 2;

    return ngx_min(us, ngx_http_ebbtide_slice_max_us);
}


/* All zero while there was no slice. */

ngx_http_ebbtide_slices_t
ngx_http_ebbtide_slices_read(void)
{
    ngx_http_ebbtide_slices_t  slices;

    ngx_memzero(&slices, sizeof(ngx_http_ebbtide_slices_t));
    slices.count = ngx_http_ebbtide_slice_count;

    if (slices.count) {
        slices.p50_us = ngx_http_ebbtide_slice_percentile(50);
        slices.p99_us = ngx_http_ebbtide_slice_percentile(99);
        slices.max_us = ngx_http_ebbtide_slice_max_us;
    }

    return slices;
}
