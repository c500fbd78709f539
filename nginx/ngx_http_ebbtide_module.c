
/*
 * The directives, and the life of the processes.
 */


#include "ngx_http_ebbtide.h"


/* the shortest and the longest step, in microseconds */
#define NGX_HTTP_EBBTIDE_STEP_MIN      50
#define NGX_HTTP_EBBTIDE_STEP_MAX      100000
#define NGX_HTTP_EBBTIDE_STEP          500

#define NGX_HTTP_EBBTIDE_IDLE_MIN      10
#define NGX_HTTP_EBBTIDE_IDLE_MAX      3600000
#define NGX_HTTP_EBBTIDE_IDLE          1000

#define NGX_HTTP_EBBTIDE_DECAY_MAX     3600000

/* what the library takes at most: 8t */
#define NGX_HTTP_EBBTIDE_BYTES_MAX     ((off_t) 8 << 40)

/* room for the figures of some seventy processes */
#define NGX_HTTP_EBBTIDE_ZONE          (1024 * 1024)
#define NGX_HTTP_EBBTIDE_ZONE_MIN      (128 * 1024)


typedef struct {
    const char  *name;
    size_t       offset;
} ngx_http_ebbtide_option_t;


static void *ngx_http_ebbtide_create_core_conf(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_ebbtide_add_variables(ngx_conf_t *cf);
static void *ngx_http_ebbtide_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_ebbtide_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_http_ebbtide_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_ebbtide_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_ebbtide_postconfiguration(ngx_conf_t *cf);
static void ngx_http_ebbtide_reclaims_unused(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
static ngx_int_t ngx_http_ebbtide_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_ebbtide_init_process(ngx_cycle_t *cycle);
static void ngx_http_ebbtide_start(ngx_http_ebbtide_main_conf_t *emcf);
static void ngx_http_ebbtide_exit_process(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_ebbtide_tell(ngx_cycle_t *cycle);
static char *ngx_http_ebbtide_idle(ngx_conf_t *cf, void *post, void *data);
static char *ngx_http_ebbtide_step(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_decay(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_retain(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_limit(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_set_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_ebbtide_status_reclaim(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_http_ebbtide_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


/* this process serves requests; with "master_process off" it reloads as well */
static ngx_uint_t  ngx_http_ebbtide_started;
/* configurations that were complete */
static uint32_t    ngx_http_ebbtide_generation;


static ngx_conf_post_t  ngx_http_ebbtide_idle_post =
    { ngx_http_ebbtide_idle };


static ngx_command_t  ngx_http_ebbtide_commands[] = {

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
      ngx_http_ebbtide_step,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_decay"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_decay,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_retain"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_retain,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_limit_soft"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_limit,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_main_conf_t, limit_soft),
      NULL },

    { ngx_string("ebbtide_limit_hard"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_ebbtide_limit,
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
      ngx_http_ebbtide_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("ebbtide_status_reclaim"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_http_ebbtide_status_reclaim,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_ebbtide_loc_conf_t, reclaim),
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_ebbtide_module_ctx = {
    ngx_http_ebbtide_add_variables,        /* preconfiguration */
    ngx_http_ebbtide_postconfiguration,    /* postconfiguration */

    ngx_http_ebbtide_create_main_conf,     /* create main configuration */
    ngx_http_ebbtide_init_main_conf,       /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_ebbtide_create_loc_conf,      /* create location configuration */
    ngx_http_ebbtide_merge_loc_conf        /* merge location configuration */
};


ngx_module_t  ngx_http_ebbtide_module = {
    NGX_MODULE_V1,
    &ngx_http_ebbtide_module_ctx,          /* module context */
    ngx_http_ebbtide_commands,             /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_ebbtide_init_module,          /* init module */
    ngx_http_ebbtide_init_process,         /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_ebbtide_exit_process,         /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/*
 * A module of the core comes to be when it is loaded, before any block of the
 * configuration is read, and so before any VM is made.
 */

static ngx_core_module_t  ngx_ebbtide_core_module_ctx = {
    ngx_string("ebbtide"),
    ngx_http_ebbtide_create_core_conf,
    NULL
};


ngx_module_t  ngx_ebbtide_core_module = {
    NGX_MODULE_V1,
    &ngx_ebbtide_core_module_ctx,          /* module context */
    NULL,                                  /* module directives */
    NGX_CORE_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* What the VMs of this worker hold when a variable is read. */

static ngx_http_variable_t  ngx_http_ebbtide_variables[] = {

    { ngx_string("ebbtide_live"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, live), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("ebbtide_resident"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, resident),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("ebbtide_free"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, free_resident),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("ebbtide_returned"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, returned),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static void *
ngx_http_ebbtide_create_core_conf(ngx_cycle_t *cycle)
{
    if (ngx_http_ebbtide_vms_watch(cycle) != NGX_OK) {
        return NULL;
    }

    /* there is nothing to configure; NULL would be a failure */
    return &ngx_ebbtide_core_module_ctx;
}


static ngx_int_t
ngx_http_ebbtide_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_ebbtide_variables; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_ebbtide_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    u_char                          *p;
    uint64_t                         value;
    ngx_uint_t                       i;
    static ngx_http_ebbtide_stats_t  stats;

    ngx_http_ebbtide_usage(&stats);

    value = 0;

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        value += *(uint64_t *) ((u_char *) &stats.usage[i] + data);
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(p, "%uL", value) - p;
    v->data = p;
    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;

    return NGX_OK;
}


static void *
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


static char *
ngx_http_ebbtide_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_ebbtide_main_conf_t *emcf = conf;

    ngx_http_ebbtide_vm_config_t  *config;

    if (ngx_http_ebbtide_given_list(cf, emcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_conf_init_value(emcf->enable, 1);
    ngx_conf_init_msec_value(emcf->idle, NGX_HTTP_EBBTIDE_IDLE);
    ngx_conf_init_uint_value(emcf->step_us, NGX_HTTP_EBBTIDE_STEP);
    ngx_conf_init_size_value(emcf->zone_size, NGX_HTTP_EBBTIDE_ZONE);

    if (ngx_http_ebbtide_no_effect(cf, emcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (emcf->enable && ngx_http_ebbtide_settings_check(cf, emcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    emcf->options.limit_soft = emcf->limit_soft.bytes;
    emcf->options.limit_hard = emcf->limit_hard.bytes;

    /* the Lua module makes its VM in its postconfiguration */
    config = ngx_http_ebbtide_vm_config();
    config->enabled = emcf->enable;
    config->off = !emcf->enable;
    config->directives = emcf->options;
    ngx_http_ebbtide_options(cf->cycle, emcf, &config->options);

    if (!emcf->enable) {
        return NGX_CONF_OK;
    }

    /* the Lua module runs init_by_lua in its postconfiguration */

    if (ngx_http_ebbtide_lua_preload(cf) == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    return emcf->zone_size ? ngx_http_ebbtide_zone_add(cf, emcf) : NGX_CONF_OK;
}


static void *
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
     *     elcf->reclaim_given = NULL;
     *     elcf->status = 0;
     */

    elcf->reclaim = NGX_CONF_UNSET;

    return elcf;
}


static char *
ngx_http_ebbtide_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_ebbtide_loc_conf_t *prev = parent;
    ngx_http_ebbtide_loc_conf_t *conf = child;

    if (conf->reclaim == NGX_CONF_UNSET) {
        conf->reclaim_given = prev->reclaim_given;
    }

    ngx_conf_merge_value(conf->reclaim, prev->reclaim, 0);

    if (conf->status && conf->reclaim_given) {
        conf->reclaim_given->used = 1;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_ebbtide_postconfiguration(ngx_conf_t *cf)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_ebbtide_module);

    ngx_http_ebbtide_reclaims_unused(cf, emcf);

    if (!emcf->enable) {
        return NGX_OK;
    }

    ngx_http_ebbtide_vms_take_early(cf);

    return NGX_OK;
}


/* Switched on where no page is. */

static void
ngx_http_ebbtide_reclaims_unused(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_given_t  *given;

    for (given = emcf->reclaims; given; given = given->next) {
        if (!given->used) {
            ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                          "\"ebbtide_status_reclaim\" has no effect: there is "
                          "no \"ebbtide_status\" where it stands, in %V:%ui",
                          &given->file, given->line);
        }
    }
}


/* The configuration is complete; the workers are forked after this. */

static ngx_int_t
ngx_http_ebbtide_init_module(ngx_cycle_t *cycle)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_ebbtide_module);

    if (ngx_http_ebbtide_hooks_set(cycle->pool) != NGX_OK) {
        return NGX_ERROR;
    }

    if (emcf && emcf->enable) {
        ngx_http_ebbtide_vms_take_stream(cycle);
        ngx_http_ebbtide_lua_preload_stream(cycle);
    }

    ngx_http_ebbtide_vms_complete();

    /* VMs made from now on are of the next configuration, which may want none */
    ngx_http_ebbtide_vm_config()->enabled = 0;
    ngx_http_ebbtide_vm_config()->started = ngx_http_ebbtide_started;

    if (ngx_http_ebbtide_started) {
        /* the zone of the configuration before is about to go */
        ngx_http_ebbtide_zone_leave();
    }

    if (emcf == NULL) {
        return NGX_OK;
    }

    emcf->generation = ++ngx_http_ebbtide_generation;

    if (!emcf->enable) {
        return NGX_OK;
    }

    ngx_http_ebbtide_limits(cycle, emcf);

    if (ngx_http_ebbtide_tell(cycle) == NGX_DECLINED) {
        ngx_http_ebbtide_no_lua(cycle, emcf);
        return NGX_OK;
    }

    if (!ngx_test_config) {
        ngx_http_ebbtide_idle_reclaim(cycle->log);
    }

    if (ngx_http_ebbtide_started) {
        ngx_http_ebbtide_start(emcf);
    }

    return NGX_OK;
}


/* Says how the VM came to its heap. NGX_DECLINED: there is none. */

static ngx_int_t
ngx_http_ebbtide_tell(ngx_cycle_t *cycle)
{
    if (ngx_http_ebbtide_hooks_failed()) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, ngx_http_ebbtide_hooks_failed(),
                      "ebbtide: mprotect() failed, so that VMs of worker "
                      "threads, and of requests while lua_code_cache is off, "
                      "keep LuaJIT's allocator");
    }

    switch (ngx_http_ebbtide_vms_way()) {

    case NGX_HTTP_EBBTIDE_MADE:
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "ebbtide %s: the Lua VM was made on a heap",
                      ebb_version());
        return NGX_OK;

    case NGX_HTTP_EBBTIDE_ATTACHED:
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "ebbtide %s: the Lua VM was changed over to a heap%s",
                      ebb_version(),
                      ngx_http_ebbtide_hooks_count()
                      || ngx_http_ebbtide_hooks_failed() ? ""
                      : "; VMs of worker threads, and of requests while "
                        "lua_code_cache is off, keep LuaJIT's allocator, for "
                        "LuaJIT is part of the program: use a shared "
                        "libluajit, or build this module in (--add-module)");
        return NGX_OK;

    default: /* NGX_HTTP_EBBTIDE_NO_VM */
        /* nginx -t makes none */
        if (!ngx_test_config || !ngx_http_ebbtide_vms_expected(cycle)) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "ebbtide %s: there is no Lua VM to look after: the "
                          "Lua module is not loaded, or nothing uses it",
                          ebb_version());
        }

        return NGX_DECLINED;
    }
}


/* In a process with an event loop. */

static void
ngx_http_ebbtide_start(ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_vm_config_t  *config;

    config = ngx_http_ebbtide_vm_config();
    config->enabled = emcf->enable;
    config->options = emcf->options;
    config->directives = emcf->options;

    ngx_http_ebbtide_zone_open(emcf);
    ngx_http_ebbtide_idle_start(emcf);

    /* the cache manager and its like do not run Lua; those that do will tell */

    if (ngx_process != NGX_PROCESS_HELPER) {
        ngx_http_ebbtide_zone_publish(ngx_current_msec);
    }
}


static ngx_int_t
ngx_http_ebbtide_init_process(ngx_cycle_t *cycle)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_ebbtide_module);

    ngx_http_ebbtide_started = 1;
    ngx_http_ebbtide_vm_config()->started = 1;

    if (emcf == NULL || !emcf->enable) {
        return NGX_OK;
    }

    ngx_http_ebbtide_start(emcf);

    return NGX_OK;
}


static void
ngx_http_ebbtide_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_ebbtide_zone_leave();
}


static char *
ngx_http_ebbtide_idle(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *msec = data;

    ngx_str_t  *value;

    value = cf->args->elts;

    if (*msec < NGX_HTTP_EBBTIDE_IDLE_MIN || *msec > NGX_HTTP_EBBTIDE_IDLE_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\": \"ebbtide_idle\" must be "
                           "from 10ms to 1h", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_step(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
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
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\": \"ebbtide_step\" must be "
                           "from 50us to 100ms", &value[1]);
        return NGX_CONF_ERROR;
    }

    emcf->step_us = us;
    emcf->options.step_us = us;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_decay(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
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
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\": \"ebbtide_decay\" must be "
                           "a time from 0 to 1h", &value[1]);
        return NGX_CONF_ERROR;
    }

    emcf->options.decay_ms = ms ? ms : EBB_ZERO;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_retain(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
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
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\": \"ebbtide_retain\" must be "
                           "a size from 0 to 8192g", &value[1]);
        return NGX_CONF_ERROR;
    }

    emcf->options.retain = size ? size : EBB_ZERO;

    return NGX_CONF_OK;
}


/* off, a size, a share of the cgroup's memory (80%), or cgroup. */

static char *
ngx_http_ebbtide_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    off_t                      size;
    ngx_int_t                  percent;
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
        percent = ngx_atoi(value[1].data, value[1].len - 1);

        if (percent == NGX_ERROR || percent < 1 || percent > 100) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid value \"%V\": \"%V\" as a share of "
                               "the cgroup's memory must be from 1%% to 100%%",
                               &value[1], &value[0]);
            return NGX_CONF_ERROR;
        }

        limit->percent = percent;
        return NGX_CONF_OK;
    }

    size = ngx_parse_offset(&value[1]);

    if (size == NGX_ERROR || size < NGX_HTTP_EBBTIDE_LIMIT_MIN
        || size > NGX_HTTP_EBBTIDE_BYTES_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\": \"%V\" must be off, %sa size "
                           "from 8m to 8192g, or a share such as 80%%",
                           &value[1], &value[0], soft ? "cgroup, " : "");
        return NGX_CONF_ERROR;
    }

    limit->bytes = size;

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
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\": \"ebbtide_zone\" must be "
                           "off or a size from 128k", &value[1]);
        return NGX_CONF_ERROR;
    }

    emcf->zone_size = size;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_loc_conf_t *elcf = conf;

    ngx_http_core_loc_conf_t  *clcf;

    elcf->status = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_ebbtide_status_handler;

    return NGX_CONF_OK;
}


static char *
ngx_http_ebbtide_status_reclaim(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_ebbtide_loc_conf_t *elcf = conf;

    char                          *rv;
    ngx_http_ebbtide_main_conf_t  *emcf;

    rv = ngx_conf_set_flag_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK || !elcf->reclaim) {
        return rv;
    }

    elcf->reclaim_given = ngx_http_ebbtide_given_here(cf);
    if (elcf->reclaim_given == NULL) {
        return NGX_CONF_ERROR;
    }

    emcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_ebbtide_module);
    elcf->reclaim_given->next = emcf->reclaims;
    emcf->reclaims = elcf->reclaim_given;

    return NGX_CONF_OK;
}
