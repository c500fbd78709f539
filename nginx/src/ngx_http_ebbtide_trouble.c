
#include "ngx_http_ebbtide_trouble.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_vm.h"


/* thrashing is logged no more often than this */
#define NGX_HTTP_EBBTIDE_THRASHING_MS  60000


static void ngx_http_ebbtide_log_purge(const ngx_http_ebbtide_stats_t *stats);
static void ngx_http_ebbtide_log_space(const ngx_http_ebbtide_stats_t *stats);
static void ngx_http_ebbtide_log_damage(const ngx_http_ebbtide_stats_t *stats);
static ngx_uint_t ngx_http_ebbtide_log_thrashing(
    const ngx_http_ebbtide_stats_t *stats, ngx_msec_t now);


/* Logs what is new. Returns whether VMs of this process thrash. */

ngx_uint_t
ngx_http_ebbtide_log_trouble(const ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now)
{
    ngx_http_ebbtide_log_purge(stats);
    ngx_http_ebbtide_log_space(stats);
    ngx_http_ebbtide_log_damage(stats);

    return ngx_http_ebbtide_log_thrashing(stats, now);
}


/* The kernel takes no memory back: logged once. */

static void
ngx_http_ebbtide_log_purge(const ngx_http_ebbtide_stats_t *stats)
{
    ngx_err_t          err;
    static ngx_uint_t  logged;

    err = ngx_max(stats->usage[NGX_HTTP_EBBTIDE_MAIN].purge_errno,
                  stats->usage[NGX_HTTP_EBBTIDE_OTHER].purge_errno);

    if (err && !logged) {
        logged = 1;
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, err,
                      "ebbtide: the kernel takes no memory back from a Lua VM: "
                      "it is locked (mlockall), or a sandbox forbids the "
                      "calls");
    }
}


/* The address space is used up: logged once. */

static void
ngx_http_ebbtide_log_space(const ngx_http_ebbtide_stats_t *stats)
{
    u_char             text[NGX_HTTP_EBBTIDE_SIZE_LEN];
    uint64_t           refused, reserved;
    static ngx_uint_t  logged;

    refused = ngx_http_ebbtide_stats_total(stats,
                      offsetof(ngx_http_ebbtide_usage_t, refused_space_total));

    if (refused && !logged) {
        logged = 1;
        reserved = ngx_http_ebbtide_stats_total(stats,
                                 offsetof(ngx_http_ebbtide_usage_t, reserved));

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM was refused memory, for the address "
                      "space that RLIMIT_AS allows (ulimit -v) is used up: "
                      "%s of it by the heaps; raise the limit, or have Lua "
                      "hold less", ngx_http_ebbtide_size(text, reserved));
    }
}


/* Records from before a VM had its heap are overwritten: logged once. */

static void
ngx_http_ebbtide_log_damage(const ngx_http_ebbtide_stats_t *stats)
{
    uint64_t           damaged;
    static ngx_uint_t  logged;

    damaged = ngx_http_ebbtide_stats_total(stats,
                         offsetof(ngx_http_ebbtide_usage_t, previous_damaged));

    if (damaged && !logged) {
        logged = 1;

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: records of LuaJIT's own allocator, which a Lua "
                      "VM had before its heap, are overwritten, and what is "
                      "free there stays: Lua's FFI or a C module writes "
                      "beyond its memory");
    }
}


/* VMs begin to thrash, or end to. */

static ngx_uint_t
ngx_http_ebbtide_log_thrashing(const ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now)
{
    u_char             text[NGX_HTTP_EBBTIDE_SIZE_LEN];
    uint64_t           limit;
    ngx_uint_t         thrashing;
    static ngx_msec_t  last;
    static ngx_uint_t  logged, ever;

    thrashing = ngx_http_ebbtide_stats_total(stats,
                             offsetof(ngx_http_ebbtide_usage_t, thrashing)) > 0;

    if (thrashing && !logged
        && (!ever || now - last >= NGX_HTTP_EBBTIDE_THRASHING_MS))
    {
        logged = 1;
        ever = 1;
        last = now;

        limit = stats->limit_soft;

        if (stats->limit_hard
            && (limit == 0 || stats->limit_hard < limit))
        {
            limit = stats->limit_hard;
        }

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM is thrashing at its limit of %s: what "
                      "goes back to the kernel is used again within a second; "
                      "raise the limit, or have Lua hold less",
                      ngx_http_ebbtide_size(text, limit));
    }

    if (!thrashing && logged) {
        logged = 0;
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "ebbtide: no Lua VM is thrashing any more");
    }

    return thrashing;
}
