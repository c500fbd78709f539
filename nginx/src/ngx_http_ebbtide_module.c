
/*
 * The module's place in nginx: its configuration is read, its processes begin
 * and end.
 *
 * Uses symbols, hooks, conf, stage, environment, limits, settings, zone,
 * idle, resty, newstate, attach, variables, directives.
 */


#include "ngx_http_ebbtide_symbols.h"
#include "ngx_http_ebbtide_hooks.h"
#include "ngx_http_ebbtide_conf.h"
#include "ngx_http_ebbtide_stage.h"
#include "ngx_http_ebbtide_environment.h"
#include "ngx_http_ebbtide_limits.h"
#include "ngx_http_ebbtide_settings.h"
#include "ngx_http_ebbtide_zone.h"
#include "ngx_http_ebbtide_idle.h"
#include "ngx_http_ebbtide_resty.h"
#include "ngx_http_ebbtide_newstate.h"
#include "ngx_http_ebbtide_attach.h"
#include "ngx_http_ebbtide_variables.h"
#include "ngx_http_ebbtide_directives.h"


static void *ngx_http_ebbtide_create_core_conf(ngx_cycle_t *cycle);
static char *ngx_http_ebbtide_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_int_t ngx_http_ebbtide_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_ebbtide_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_ebbtide_log_way(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_ebbtide_init_process(ngx_cycle_t *cycle);
static void ngx_http_ebbtide_start(ngx_http_ebbtide_main_conf_t *emcf);
static void ngx_http_ebbtide_exit_process(ngx_cycle_t *cycle);


/* this process serves requests; with "master_process off" it also reloads */
static ngx_uint_t  ngx_http_ebbtide_started;
/* configurations that were complete */
static uint32_t    ngx_http_ebbtide_generation;


static ngx_http_module_t  ngx_http_ebbtide_module_ctx = {
    ngx_http_ebbtide_variables_add,        /* preconfiguration */
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
 * The configuration of a core module is created before any block of the
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


static void *
ngx_http_ebbtide_create_core_conf(ngx_cycle_t *cycle)
{
    ngx_http_ebbtide_hook_calls();

    if (ngx_http_ebbtide_stage_begin(cycle) != NGX_OK
        || ngx_http_ebbtide_hooks_set(cycle->pool) != NGX_OK)
    {
        return NULL;
    }

    /* there is nothing to configure; NULL would be a failure */
    return &ngx_ebbtide_core_module_ctx;
}


static char *
ngx_http_ebbtide_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_ebbtide_main_conf_t *emcf = conf;

    ngx_http_ebbtide_vm_config_t  *config;

    if (ngx_http_ebbtide_conf_note_given(cf, emcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_http_ebbtide_conf_defaults(emcf);

    if (ngx_http_ebbtide_warn_no_effect(cf, emcf) != NGX_OK) {
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
    ngx_http_ebbtide_first_options(cf->cycle, emcf, &config->options);

    if (!emcf->enable) {
        return NGX_CONF_OK;
    }

    /* the Lua module runs init_by_lua in its postconfiguration */

    if (ngx_http_ebbtide_resty_preload(cf) == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    return emcf->zone_size ? ngx_http_ebbtide_zone_add(cf, emcf) : NGX_CONF_OK;
}


static ngx_int_t
ngx_http_ebbtide_postconfiguration(ngx_conf_t *cf)
{
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_ebbtide_module);

    ngx_http_ebbtide_warn_reclaims_unused(cf, emcf);

    if (emcf->enable) {
        ngx_http_ebbtide_attach_http(cf);
    }

    return NGX_OK;
}


/* The configuration is complete; the workers are forked after this. */

static ngx_int_t
ngx_http_ebbtide_init_module(ngx_cycle_t *cycle)
{
    ngx_http_ebbtide_vm_config_t  *config;
    ngx_http_ebbtide_main_conf_t  *emcf;

    emcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_ebbtide_module);

    if (ngx_http_ebbtide_hooks_set(cycle->pool) != NGX_OK) {
        return NGX_ERROR;
    }

    if (emcf && emcf->enable) {
        ngx_http_ebbtide_attach_stream(cycle);
        ngx_http_ebbtide_resty_preload_stream(cycle);
    }

    ngx_http_ebbtide_stage_commit();

    /* VMs made from now on are of the next configuration, which may be off */
    config = ngx_http_ebbtide_vm_config();
    config->enabled = 0;
    config->started = ngx_http_ebbtide_started;

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

    ngx_http_ebbtide_environment_check_rest(cycle, emcf);
    ngx_http_ebbtide_resolve_limits(cycle, emcf);

    if (ngx_http_ebbtide_log_way(cycle) == NGX_DECLINED) {
        ngx_http_ebbtide_warn_no_lua(cycle, emcf);
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


/* Logs how the VM came to its heap. NGX_DECLINED: there is no VM. */

static ngx_int_t
ngx_http_ebbtide_log_way(ngx_cycle_t *cycle)
{
    if (ngx_http_ebbtide_hooks_error()) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, ngx_http_ebbtide_hooks_error(),
                      "ebbtide: mprotect() failed, so that VMs of worker "
                      "threads, and of requests while lua_code_cache is off, "
                      "keep LuaJIT's allocator");
    }

    switch (ngx_http_ebbtide_vm_way()) {

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
                      || ngx_http_ebbtide_hooks_error() ? ""
                      : "; VMs of worker threads, and of requests while "
                        "lua_code_cache is off, keep LuaJIT's allocator, for "
                        "LuaJIT is part of the program: use a shared "
                        "libluajit, or build this module in (--add-module)");
        return NGX_OK;

    default: /* NGX_HTTP_EBBTIDE_NO_VM */
        /* nginx -t makes none */
        if (!ngx_test_config || !ngx_http_ebbtide_has_lua_module(cycle)) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "ebbtide %s: there is no Lua VM to look after: the "
                          "Lua module is not loaded, or nothing uses it",
                          ebb_version());
        }

        return NGX_DECLINED;
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

    /* helpers such as the cache manager publish when they have run Lua */

    if (ngx_process != NGX_PROCESS_HELPER) {
        (void) ngx_http_ebbtide_zone_publish(ngx_current_msec);
    }
}


static void
ngx_http_ebbtide_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_ebbtide_zone_leave();
}
