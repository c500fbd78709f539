
#include "ngx_http_ebbtide_limits.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_bounds.h"


/*
 * The options of VMs that are made while the configuration is read. A share is
 * divided among the workers that are known by then. Directives that a limit
 * lowers later are lowered here: the library refuses values that contradict
 * each other. Then only variables can contradict a directive.
 */

void
ngx_http_ebbtide_first_options(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf, ebb_options *options)
{
    *options = emcf->options;
    options->limit_soft = ngx_http_ebbtide_resolve_limit(cycle,
                                                       &emcf->limit_soft, NULL);
    options->limit_hard = ngx_http_ebbtide_resolve_limit(cycle,
                                                       &emcf->limit_hard, NULL);

    if (options->limit_hard > 0) {
        options->limit_soft = ngx_min(options->limit_soft, options->limit_hard);
        options->retain = ngx_min(options->retain, options->limit_hard);
    }

    if (options->limit_soft > 0) {
        options->retain = ngx_min(options->retain, options->limit_soft);
    }
}


/*
 * Resolves the limits when the cgroup's memory and the number of workers are
 * known, for the VMs that there are and for those to come.
 */

void
ngx_http_ebbtide_resolve_limits(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ebb_options             options, shares;
    ngx_http_ebbtide_vm_t  *vm;

    emcf->options.limit_soft = ngx_http_ebbtide_resolve_limit(cycle,
                                               &emcf->limit_soft, "limit_soft");
    emcf->options.limit_hard = ngx_http_ebbtide_resolve_limit(cycle,
                                               &emcf->limit_hard, "limit_hard");

    if (emcf->options.limit_soft == EBB_CGROUP && ebb_cgroup_limit() == 0) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "\"ebbtide_limit_soft\" is off until the cgroup of nginx "
                      "has a memory limit");
    }

    options = emcf->options;
    ngx_http_ebbtide_options_lower(&emcf->options, cycle->log);

    /* sizes are in the heaps already; what Lua has changed since stays */

    if (emcf->limit_soft.percent == 0 && emcf->limit_hard.percent == 0) {
        return;
    }

    ngx_memzero(&shares, sizeof(ebb_options));
    shares.limit_soft = emcf->limit_soft.percent ? options.limit_soft : 0;
    shares.limit_hard = emcf->limit_hard.percent ? options.limit_hard : 0;

    for (vm = ngx_http_ebbtide_vm_configured(NULL); vm;
         vm = ngx_http_ebbtide_vm_configured(vm))
    {
        ngx_http_ebbtide_vm_bounds(vm, &shares, &options, cycle->log);
    }
}


/*
 * A limit in bytes. 0: no limit is given. A share that comes to no limit is
 * reported under the directive's name, unless that is NULL.
 */

int64_t
ngx_http_ebbtide_resolve_limit(ngx_cycle_t *cycle,
    ngx_http_ebbtide_limit_t *limit, const char *name)
{
    u_char            text[NGX_HTTP_EBBTIDE_SIZE_LEN];
    int64_t           allowed, bytes;
    ngx_int_t         workers;
    ngx_core_conf_t  *ccf;

    if (limit->percent == 0) {
        return limit->bytes;
    }

    allowed = ebb_cgroup_limit();

    if (allowed == 0) {

        if (name) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "\"ebbtide_%s\" has no effect: \"%ui%%\" is a share "
                          "of the memory limit of the cgroup, and the cgroup "
                          "of nginx has none", name, limit->percent);
        }

        return 0;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    workers = ngx_max(ccf->worker_processes, 1);
    bytes = allowed / 100 * limit->percent / workers;

    if (bytes < NGX_HTTP_EBBTIDE_LIMIT_MIN) {

        if (name) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "\"ebbtide_%s\" has no effect: \"%ui%%\" comes to %s "
                          "for each worker, and a limit must be from 8m", name,
                          limit->percent, ngx_http_ebbtide_size(text, bytes));
        }

        return 0;
    }

    return bytes;
}
