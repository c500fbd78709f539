
#include "ngx_http_ebbtide_settings.h"
#include "ngx_http_ebbtide_environment.h"
#include "ngx_http_ebbtide_limits.h"


static ngx_int_t ngx_http_ebbtide_heap_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf, const char *where);
static ngx_int_t ngx_http_ebbtide_contradict(ngx_conf_t *cf,
    const char *greater, const char *less);


/*
 * Runs before VMs are made. Refuses what is a contradiction on every machine,
 * and a variable that contradicts a directive. Directives that contradict each
 * other on this machine alone are lowered once all of them are known (see
 * bounds).
 */

ngx_int_t
ngx_http_ebbtide_settings_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    char             **own, **workers_env;
    int64_t            soft, hard, retain;
    ngx_int_t          rc;
    ngx_core_conf_t   *ccf;

    if (ngx_http_ebbtide_environment_check(cf, emcf) != NGX_OK) {
        return NGX_ERROR;
    }

    soft = emcf->limit_soft.bytes;
    hard = emcf->limit_hard.bytes;
    retain = emcf->options.retain;

    if ((hard > 0 && soft > hard)
        || (emcf->limit_hard.percent
            && emcf->limit_soft.percent > emcf->limit_hard.percent))
    {
        return ngx_http_ebbtide_contradict(cf, "limit_hard", "limit_soft");
    }

    if (hard > 0 && retain > hard) {
        return ngx_http_ebbtide_contradict(cf, "limit_hard", "retain");
    }

    if (soft > 0 && retain > soft) {
        return ngx_http_ebbtide_contradict(cf, "limit_soft", "retain");
    }

    if (ngx_http_ebbtide_heap_check(cf, emcf, "the environment of nginx")
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* the VMs that workers make */

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    workers_env = ngx_http_ebbtide_workers_env(cf->cycle, ccf);
    if (workers_env == NULL) {
        return NGX_ERROR;
    }

    own = environ;
    environ = workers_env;

    rc = ngx_http_ebbtide_heap_check(cf, emcf, "the \"env\" directives");

    environ = own;

    return rc;
}


/* The library sees the environment, and decides. */

static ngx_int_t
ngx_http_ebbtide_heap_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf, const char *where)
{
    ebb_heap     *heap;
    ebb_options   options;

    ngx_http_ebbtide_first_options(cf->cycle, emcf, &options);
    options.reserve = 1024 * 1024;

    heap = ebb_heap_new(&options);

    if (heap == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "ebbtide: no heap can be made with these directives "
                           "and %s: %s", where, ebb_strerror(0));
        return NGX_ERROR;
    }

    ebb_heap_delete(heap);

    return NGX_OK;
}


static ngx_int_t
ngx_http_ebbtide_contradict(ngx_conf_t *cf, const char *greater,
    const char *less)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"ebbtide_%s\" must not be less than \"ebbtide_%s\"",
                       greater, less);
    return NGX_ERROR;
}
