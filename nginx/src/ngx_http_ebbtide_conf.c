
#include "ngx_http_ebbtide_conf.h"


#define NGX_HTTP_EBBTIDE_IDLE_MS    1000
#define NGX_HTTP_EBBTIDE_STEP_US    500

/* room for the figures of some seventy processes */
#define NGX_HTTP_EBBTIDE_ZONE_SIZE  (1024 * 1024)

/* bytes of the names of all directives, in quotes */
#define NGX_HTTP_EBBTIDE_GIVEN_LEN  256


void *
ngx_http_ebbtide_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_ebbtide_main_conf_t));
    if (emcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     emcf->options = { 0 };
     *     emcf->limit_soft = { 0, 0 };
     *     emcf->limit_hard = { 0, 0 };
     *     emcf->zone = NULL;
     */

    emcf->enable = NGX_CONF_UNSET;
    emcf->idle = NGX_CONF_UNSET_MSEC;
    emcf->step_us = NGX_CONF_UNSET_UINT;
    emcf->zone_size = NGX_CONF_UNSET_SIZE;
    emcf->options.size = sizeof(ebb_options);

    return emcf;
}


/*
 * Notes which directives are given. Must run before the others take their
 * defaults.
 */

ngx_int_t
ngx_http_ebbtide_conf_note_given(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
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


/* Gives each directive that is not given its default value. */

void
ngx_http_ebbtide_conf_defaults(ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_conf_init_value(emcf->enable, 1);
    ngx_conf_init_msec_value(emcf->idle, NGX_HTTP_EBBTIDE_IDLE_MS);
    ngx_conf_init_uint_value(emcf->step_us, NGX_HTTP_EBBTIDE_STEP_US);
    ngx_conf_init_size_value(emcf->zone_size, NGX_HTTP_EBBTIDE_ZONE_SIZE);
}


void *
ngx_http_ebbtide_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_ebbtide_loc_conf_t  *elcf;

    elcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_ebbtide_loc_conf_t));
    if (elcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     elcf->reclaim_directive = NULL;
     *     elcf->status = 0;
     */

    elcf->reclaim = NGX_CONF_UNSET;

    return elcf;
}


char *
ngx_http_ebbtide_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_ebbtide_loc_conf_t *prev = parent;
    ngx_http_ebbtide_loc_conf_t *conf = child;

    if (conf->reclaim == NGX_CONF_UNSET) {
        conf->reclaim_directive = prev->reclaim_directive;
    }

    ngx_conf_merge_value(conf->reclaim, prev->reclaim, 0);

    if (conf->status && conf->reclaim_directive) {
        conf->reclaim_directive->used = 1;
    }

    return NGX_CONF_OK;
}


/* The place in the configuration that is being read. NULL: no memory. */

ngx_http_ebbtide_directive_t *
ngx_http_ebbtide_directive_here(ngx_conf_t *cf)
{
    ngx_http_ebbtide_directive_t  *given;

    given = ngx_pcalloc(cf->pool, sizeof(ngx_http_ebbtide_directive_t));
    if (given == NULL) {
        return NULL;
    }

    given->file = cf->conf_file->file.name;
    given->line = cf->conf_file->line;

    return given;
}


/* Warns of each "ebbtide_status_reclaim" that applies to no page. */

void
ngx_http_ebbtide_warn_reclaims_unused(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_directive_t  *given;

    for (given = emcf->reclaims; given; given = given->next) {
        if (!given->used) {
            ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                          "\"ebbtide_status_reclaim\" has no effect: there is "
                          "no \"ebbtide_status\" where it stands, in %V:%ui",
                          &given->file, given->line);
        }
    }
}
