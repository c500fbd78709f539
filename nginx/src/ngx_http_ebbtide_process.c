
#include "ngx_http_ebbtide_process.h"

/* RTLD_DEFAULT: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


static void ngx_http_ebbtide_helper_name(char *name);


static ngx_fd_t  ngx_http_ebbtide_statm = NGX_INVALID_FILE;


/*
 * OpenResty's privileged agent is a helper process that sets a variable. Only
 * nginx with OpenResty's patch has the variable.
 */

ngx_uint_t
ngx_http_ebbtide_is_agent(void)
{
    ngx_uint_t         *agent;
    static ngx_uint_t   looked;
    static void        *symbol;

    if (!looked) {
        looked = 1;
        symbol = dlsym(RTLD_DEFAULT, "ngx_is_privileged_agent");
    }

    agent = symbol;

    return agent && *agent;
}


/*
 * Writes the kind of this process to NGX_HTTP_EBBTIDE_PROCESS_NAME bytes. A
 * worker's number says nothing of other processes: ngx_worker is 0 in all of
 * them.
 */

void
ngx_http_ebbtide_process_name(char *name)
{
    if (ngx_http_ebbtide_is_agent()) {
        (void) ngx_cpystrn((u_char *) name, (u_char *) "privileged agent",
                           NGX_HTTP_EBBTIDE_PROCESS_NAME);

    } else if (ngx_process == NGX_PROCESS_HELPER) {
        ngx_http_ebbtide_helper_name(name);

    } else {
        /* the only process of "master_process off" serves as worker 0 */
        (void) ngx_cpystrn((u_char *) name, (u_char *) NGX_HTTP_EBBTIDE_WORKER,
                           NGX_HTTP_EBBTIDE_PROCESS_NAME);
    }
}


/*
 * nginx keeps the name of a helper process in its title alone: "nginx: cache
 * manager process". The name goes into JSON and into labels.
 */

static void
ngx_http_ebbtide_helper_name(char *name)
{
    char        *title;
    u_char       c;
    size_t       len, i;
    const char   end[] = " process";

    title = ngx_os_argv[0];

    if (ngx_strncmp(title, "nginx: ", 7) != 0) {
        title = "nginx: helper";
    }

    title += 7;
    len = ngx_strlen(title);

    if (len > sizeof(end) - 1
        && ngx_strcmp(title + len - (sizeof(end) - 1), end) == 0)
    {
        len -= sizeof(end) - 1;
    }

    len = ngx_min(len, NGX_HTTP_EBBTIDE_PROCESS_NAME - 1);

    for (i = 0; i < len; i++) {
        c = title[i];

        name[i] = ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z')
                   || (c >= 'a' && c <= 'z') || c == ' ' || c == '-')
                  ? c : '_';
    }

    name[len] = '\0';
}


ngx_uint_t
ngx_http_ebbtide_pid_is_gone(ngx_pid_t pid)
{
    return kill(pid, 0) == -1 && ngx_errno == ESRCH;
}


/* From now on ngx_http_ebbtide_rss() reads what the kernel says. */

void
ngx_http_ebbtide_rss_open(void)
{
    ngx_http_ebbtide_statm = ngx_open_file("/proc/self/statm", NGX_FILE_RDONLY,
                                           NGX_FILE_OPEN, 0);

    if (ngx_http_ebbtide_statm != NGX_INVALID_FILE) {
        (void) fcntl(ngx_http_ebbtide_statm, F_SETFD, FD_CLOEXEC);
    }
}


void
ngx_http_ebbtide_rss_close(void)
{
    if (ngx_http_ebbtide_statm != NGX_INVALID_FILE) {
        (void) ngx_close_file(ngx_http_ebbtide_statm);
        ngx_http_ebbtide_statm = NGX_INVALID_FILE;
    }
}


/* Resident bytes of this process. 0: the file is not open. */

uint64_t
ngx_http_ebbtide_rss(void)
{
    ssize_t   n;
    u_char    text[128], *p, *last;
    uint64_t  pages;

    if (ngx_http_ebbtide_statm == NGX_INVALID_FILE) {
        return 0;
    }

    n = pread(ngx_http_ebbtide_statm, text, sizeof(text), 0);
    last = text + (n > 0 ? n : 0);

    p = ngx_strlchr(text, last, ' ');
    pages = 0;

    for (p = p ? p + 1 : last; p < last && *p >= '0' && *p <= '9'; p++) {
        pages = pages * 10 + (*p - '0');
    }

    return pages * ngx_pagesize;
}
