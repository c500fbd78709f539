
/*
 * What this process is, and how much memory the kernel says that it holds.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_PROCESS_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_PROCESS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* bytes of the name of a kind of process, with the zero at its end */
#define NGX_HTTP_EBBTIDE_PROCESS_NAME  32

/* the name of workers */
#define NGX_HTTP_EBBTIDE_WORKER        "worker"


ngx_uint_t ngx_http_ebbtide_is_agent(void);
void ngx_http_ebbtide_process_name(char *name);
ngx_uint_t ngx_http_ebbtide_pid_is_gone(ngx_pid_t pid);
void ngx_http_ebbtide_rss_open(void);
void ngx_http_ebbtide_rss_close(void);
uint64_t ngx_http_ebbtide_rss(void);


#endif /* _NGX_HTTP_EBBTIDE_PROCESS_H_INCLUDED_ */
