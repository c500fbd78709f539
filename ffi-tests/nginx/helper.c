/*
 * A module of nginx that makes one worker look like OpenResty's privileged agent, which nginx has
 * with OpenResty's patch alone: a helper process that runs Lua, and the variable that tells it.
 * Loaded after the Lua module, which closes the VM of helper processes when they start.
 *
 *   agent_worker NUMBER;    this worker is the privileged agent
 */

#include <ngx_config.h>
#include <ngx_core.h>

/* As the patch calls it. */
ngx_uint_t ngx_is_privileged_agent;

static ngx_int_t chosen = -1;

static char *read_directive(ngx_conf_t *cf, ngx_command_t *command, void *conf);
static ngx_int_t init_process(ngx_cycle_t *cycle);

static ngx_command_t commands[] = {
    {ngx_string("agent_worker"), NGX_MAIN_CONF | NGX_DIRECT_CONF | NGX_CONF_TAKE1,
     read_directive, 0, 0, NULL},
    ngx_null_command,
};

static ngx_core_module_t context = {ngx_string("helper"), NULL, NULL};

ngx_module_t ngx_helper_module = {
    NGX_MODULE_V1, &context,     commands, NGX_CORE_MODULE, NULL, NULL,
    init_process,  NULL,         NULL,     NULL,            NULL, NGX_MODULE_V1_PADDING,
};

/* What nginx looks for in a module's file. */
ngx_module_t *ngx_modules[] = {&ngx_helper_module, NULL};
char *ngx_module_names[] = {"ngx_helper_module", NULL};
char *ngx_module_order[] = {NULL};

static char *read_directive(ngx_conf_t *cf, ngx_command_t *command, void *conf)
{
    ngx_str_t *words = cf->args->elts;

    chosen = ngx_atoi(words[1].data, words[1].len);
    return chosen == NGX_ERROR ? "takes the number of a worker" : NGX_CONF_OK;
}

static ngx_int_t init_process(ngx_cycle_t *cycle)
{
    if (ngx_process == NGX_PROCESS_WORKER && (ngx_int_t) ngx_worker == chosen) {
        ngx_process = NGX_PROCESS_HELPER;
        ngx_is_privileged_agent = 1;
        /* as in the agent, which has no number */
        ngx_worker = 0;
    }
    return NGX_OK;
}
