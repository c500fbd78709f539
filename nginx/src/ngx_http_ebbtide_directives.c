
#include "ngx_http_ebbtide_directives.h"
#include "ngx_http_ebbtide_conf.h"
#include "ngx_http_ebbtide_status.h"


/* the shortest and the longest step, in microseconds */
#define NGX_HTTP_EBBTIDE_STEP_MIN   50
#define NGX_HTTP_EBBTIDE_STEP_MAX   100000

/* in milliseconds */
#define NGX_HTTP_EBBTIDE_IDLE_MIN   10
#define NGX_HTTP_EBBTIDE_IDLE_MAX   3600000
#define NGX_HTTP_EBBTIDE_DECAY_MAX  3600000

/* the largest size that the library takes: 8t */
#define NGX_HTTP_EBBTIDE_BYTES_MAX  ((off_t) 8 << 40)

#define NGX_HTTP_EBBTIDE_ZONE_MIN   (128 * 1024)


static char *ngx_http_ebbtide_refuse(ngx_conf_t *cf, const char *rule);
static char *ngx_http_ebbtide_check_idle(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_ebbtide_set_step(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_decay(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_retain(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_limit(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_share(ngx_conf_t *cf,
    ngx_http_ebbtide_limit_t *limit);
static char *ngx_http_ebbtide_set_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_status_reclaim(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);


static ngx_conf_post_t  ngx_http_ebbtide_idle_post =
    { ngx_http_ebbtide_check_idle };


ngx_command_t  ngx_http_ebbtide_commands[] = {

    { ngx_string("ebbtide"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_main_conf_t, enable),
      NULL },

    { ngx_string("ebbtide_idle"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_main_conf_t, idle),
      &ngx_http_ebbtide_idle_post },

    { ngx_string("ebbtide_step"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_set_step,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_decay"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_set_decay,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_retain"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_set_retain,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_limit_soft"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_set_limit,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_main_conf_t, limit_soft),
      NULL },

    { ngx_string("ebbtide_limit_hard"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_set_limit,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_main_conf_t, limit_hard),
      NULL },

    { ngx_string("ebbtide_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_set_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_ebbtide_set_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_status_reclaim"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_http_ebbtide_set_status_reclaim,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_loc_conf_t, reclaim),
      NULL },

      ngx_null_command
};


/* The value of the directive that is read breaks this rule of the directive. */

static char *
ngx_http_ebbtide_refuse(ngx_conf_t *cf, const char *rule)
{
    ngx_str_t  *value;

    value = cf->args->elts;

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid value \"%V\": \"%V\" %s",
                       &value[1], &value[0], rule);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_ebbtide_check_idle(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *msec = data;

    if (*msec < NGX_HTTP_EBBTIDE_IDLE_MIN || *msec > NGX_HTTP_EBBTIDE_IDLE_MAX)
    {
        return ngx_http_ebbtide_refuse(cf, "must be from 10ms to 1h");
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_step(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_main_conf_t *emcf = conf;

    ngx_str_t  *value, number;
    ngx_int_t   us;

    if (emcf->step_us != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;
    number = value[1];

    if (number.len > 2
        && ngx_strncmp(number.data + number.len - 2, "us", 2) == 0)
    {
        number.len -= 2;
        us = ngx_atoi(number.data, number.len);

    } else {
        us = ngx_parse_time(&number, 0);

        if (us != NGX_ERROR && us <= NGX_HTTP_EBBTIDE_STEP_MAX) {
            us *= 1000;
        }
    }

    if (us == NGX_ERROR || us < NGX_HTTP_EBBTIDE_STEP_MIN
        || us > NGX_HTTP_EBBTIDE_STEP_MAX)
    {
        return ngx_http_ebbtide_refuse(cf, "must be from 50us to 100ms");
    }

    emcf->step_us = us;
    emcf->options.step_us = us;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_decay(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_main_conf_t *emcf = conf;

    ngx_int_t   ms;
    ngx_str_t  *value;

    if (emcf->options.decay_ms) {
        return "is duplicate";
    }

    value = cf->args->elts;

    ms = ngx_parse_time(&value[1], 0);
    if (ms == NGX_ERROR || ms > NGX_HTTP_EBBTIDE_DECAY_MAX) {
        return ngx_http_ebbtide_refuse(cf, "must be a time from 0 to 1h");
    }

    emcf->options.decay_ms = ms ? ms : EBB_ZERO;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_retain(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_main_conf_t *emcf = conf;

    off_t       size;
    ngx_str_t  *value;

    if (emcf->options.retain) {
        return "is duplicate";
    }

    value = cf->args->elts;

    size = ngx_parse_offset(&value[1]);
    if (size == NGX_ERROR || size > NGX_HTTP_EBBTIDE_BYTES_MAX) {
        return ngx_http_ebbtide_refuse(cf, "must be a size from 0 to 8192g");
    }

    emcf->options.retain = size ? size : EBB_ZERO;

    return NGX_CONF_OK;
}


/* off, a size, a share of the cgroup's memory (80%), or cgroup. */

static char *
ngx_http_ebbtide_set_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    off_t                      size;
    ngx_str_t                 *value;
    ngx_uint_t                 soft;
    ngx_http_ebbtide_limit_t  *limit;

    limit = (ngx_http_ebbtide_limit_t *) (p + cmd->offset);
    soft = (cmd->offset == offsetof(ngx_http_ebbtide_main_conf_t, limit_soft));
    value = cf->args->elts;

    if (limit->bytes || limit->percent) {
        return "is duplicate";
    }

    if (ngx_strcmp(value[1].data, "off") == 0) {
        limit->bytes = EBB_ZERO;
        return NGX_CONF_OK;
    }

    if (soft && ngx_strcmp(value[1].data, "cgroup") == 0) {
        limit->bytes = EBB_CGROUP;
        return NGX_CONF_OK;
    }

    if (value[1].len && value[1].data[value[1].len - 1] == '%') {
        return ngx_http_ebbtide_set_share(cf, limit);
    }

    size = ngx_parse_offset(&value[1]);

    if (size == NGX_ERROR || size < NGX_HTTP_EBBTIDE_LIMIT_MIN
        || size > NGX_HTTP_EBBTIDE_BYTES_MAX)
    {
        return ngx_http_ebbtide_refuse(cf,
                   soft ? "must be off, cgroup, a size from 8m to 8192g, or a "
                          "share such as 80%"
                        : "must be off, a size from 8m to 8192g, or a "
                          "share such as 80%");
    }

    limit->bytes = size;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_share(ngx_conf_t *cf, ngx_http_ebbtide_limit_t *limit)
{
    ngx_int_t   percent;
    ngx_str_t  *value;

    value = cf->args->elts;
    percent = ngx_atoi(value[1].data, value[1].len - 1);

    if (percent == NGX_ERROR || percent < 1 || percent > 100) {
        return ngx_http_ebbtide_refuse(cf, "as a share of the cgroup's memory "
                                       "must be from 1% to 100%");
    }

    limit->percent = percent;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_main_conf_t *emcf = conf;

    ssize_t     size;
    ngx_str_t  *value;

    if (emcf->zone_size != NGX_CONF_UNSET_SIZE) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        emcf->zone_size = 0;
        return NGX_CONF_OK;
    }

    size = ngx_parse_size(&value[1]);

    if (size == NGX_ERROR || size < NGX_HTTP_EBBTIDE_ZONE_MIN) {
        return ngx_http_ebbtide_refuse(cf, "must be off or a size from 128k");
    }

    emcf->zone_size = size;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_loc_conf_t *elcf = conf;

    ngx_http_core_loc_conf_t  *clcf;

    elcf->status = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_ebbtide_status_handler;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_set_status_reclaim(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_ebbtide_loc_conf_t *elcf = conf;

    char                          *rv;
    ngx_http_ebbtide_main_conf_t  *emcf;

    rv = ngx_conf_set_flag_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK || !elcf->reclaim) {
        return rv;
    }

    elcf->reclaim_directive = ngx_http_ebbtide_directive_here(cf);
    if (elcf->reclaim_directive == NULL) {
        return NGX_CONF_ERROR;
    }

    emcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_ebbtide_module);
    elcf->reclaim_directive->next = emcf->reclaims;
    emcf->reclaims = elcf->reclaim_directive;

    return NGX_CONF_OK;
}
