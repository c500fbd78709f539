
/*
 * Clocks, and sizes as text.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_UTIL_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_UTIL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* bytes of a size as text, "51.2m", with the zero at its end */
#define NGX_HTTP_EBBTIDE_SIZE_LEN  (NGX_INT64_LEN + 4)


uint64_t ngx_http_ebbtide_now_us(void);
ngx_msec_t ngx_http_ebbtide_wall_ms(void);
ngx_msec_t ngx_http_ebbtide_ago(ngx_msec_t then);
const char *ngx_http_ebbtide_size(u_char *text, int64_t bytes);


#endif /* _NGX_HTTP_EBBTIDE_UTIL_H_INCLUDED_ */
