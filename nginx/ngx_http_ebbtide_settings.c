
/*
 * What the directives and the environment come to together: settings that
 * contradict each other.
 */


#include "ngx_http_ebbtide.h"


/* bytes of the names of all directives, in quotes */
#define NGX_HTTP_EBBTIDE_GIVEN_LEN  256


static ngx_int_t ngx_http_ebbtide_contradict(ngx_conf_t *cf,
    const char *greater, const char *less);
static ngx_int_t ngx_http_ebbtide_heap_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf, const char *where);


/*
 * Before VMs are made. What contradicts itself on every machine is refused, and
 * so is a variable that contradicts a directive; directives that contradict
 * each other on this machine alone are looked at when all of them are known.
 */

ngx_int_t
ngx_http_ebbtide_settings_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    char             **own, **theirs;
    int64_t            soft, hard, retain;
    ngx_int_t          rc;
    ngx_core_conf_t   *ccf;

    if (ngx_http_ebbtide_environment(cf, emcf) != NGX_OK) {
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

    theirs = ngx_http_ebbtide_env(cf->cycle, ccf);
    if (theirs == NULL) {
        return NGX_ERROR;
    }

    own = environ;
    environ = theirs;

    rc = ngx_http_ebbtide_heap_check(cf, emcf, "the \"env\" directives");

    environ = own;

    return rc;
}


/* The library has the last word, and sees the environment. */

static ngx_int_t
ngx_http_ebbtide_heap_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf, const char *where)
{
    ebb_heap     *heap;
    ebb_options   options;

    ngx_http_ebbtide_options(cf->cycle, emcf, &options);
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


/* Notes which directives are given, before the others take their defaults. */

ngx_int_t
ngx_http_ebbtide_given_list(ngx_conf_t *cf, ngx_http_ebbtide_main_conf_t *emcf)
{
    u_char      *p;
    ngx_uint_t   i;

    struct {
        const char  *name;
        ngx_uint_t   given;
    } directives[] = {
        { "idle", emcf->idle != NGX_CONF_UNSET_MSEC },
        { "step", emcf->step_us != NGX_CONF_UNSET_UINT },
        { "decay", emcf->options.decay_ms != 0 },
        { "retain", emcf->options.retain != 0 },
        { "limit_soft", emcf->limit_soft.bytes || emcf->limit_soft.percent },
        { "limit_hard", emcf->limit_hard.bytes || emcf->limit_hard.percent },
        { "zone", emcf->zone_size != NGX_CONF_UNSET_SIZE },
        { NULL, 0 }
    };

    emcf->given.data = ngx_pnalloc(cf->pool, NGX_HTTP_EBBTIDE_GIVEN_LEN);
    if (emcf->given.data == NULL) {
        return NGX_ERROR;
    }

    p = emcf->given.data;

    for (i = 0; directives[i].name; i++) {
        if (directives[i].given) {
            p = ngx_sprintf(p, "%s\"ebbtide_%s\"",
                            p == emcf->given.data ? "" : ", ",
                            directives[i].name);
        }
    }

    emcf->given.len = p - emcf->given.data;

    return NGX_OK;
}


/* The place in the configuration that is being read. */

ngx_http_ebbtide_given_t *
ngx_http_ebbtide_given_here(ngx_conf_t *cf)
{
    ngx_http_ebbtide_given_t  *given;

    given = ngx_pcalloc(cf->pool, sizeof(ngx_http_ebbtide_given_t));
    if (given == NULL) {
        return NULL;
    }

    given->file = cf->conf_file->file.name;
    given->line = cf->conf_file->line;

    return given;
}
