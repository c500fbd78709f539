
#include "ngx_http_ebbtide_util.h"


/* The monotonic clock, in microseconds. */

uint64_t
ngx_http_ebbtide_now_us(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


/* The wall clock, in milliseconds since 1970, as of the last event. */

ngx_msec_t
ngx_http_ebbtide_wall_ms(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (ngx_msec_t) tp->sec * 1000 + tp->msec;
}


/*
 * How many milliseconds ago a time of ngx_current_msec was. 0: it lies ahead,
 * for the process that took it has updated its time later than this one.
 */

ngx_msec_t
ngx_http_ebbtide_ago(ngx_msec_t then)
{
    ngx_msec_int_t  ago;

    ago = (ngx_msec_int_t) (ngx_current_msec - then);

    return ngx_max(ago, 0);
}


/*
 * Writes a size as nginx's directives take it, rounded to a tenth of a unit,
 * to NGX_HTTP_EBBTIDE_SIZE_LEN bytes.
 */

const char *
ngx_http_ebbtide_size(u_char *text, int64_t bytes)
{
    u_char      *p;
    int64_t      tenths;
    ngx_uint_t   shift;

    shift = bytes < (1 << 20) ? 10 : bytes < (1 << 30) ? 20 : 30;
    tenths = (bytes * 10 + ((int64_t) 1 << (shift - 1))) >> shift;

    p = ngx_sprintf(text, "%L", tenths / 10);

    if (tenths % 10) {
        p = ngx_sprintf(p, ".%L", tenths % 10);
    }

    *p++ = shift == 10 ? 'k' : shift == 20 ? 'm' : 'g';
    *p = '\0';

    return (const char *) text;
}
