
#include "ngx_http_ebbtide_environment.h"
#include "ngx_http_ebbtide_symbols.h"
#include "ngx_http_ebbtide_copy.h"


/* bytes of a list of variables that have no effect */
#define NGX_HTTP_EBBTIDE_NAMES_LEN  320


static ngx_int_t ngx_http_ebbtide_workers_env_check(ngx_cycle_t *cycle,
    ngx_core_conf_t *ccf, ngx_uint_t level);
static ngx_int_t ngx_http_ebbtide_variables_check(ngx_log_t *log,
    ngx_uint_t level, ngx_uint_t warn, const char *where);
static int ngx_http_ebbtide_library_check(char **variables, char *unknown);
static void ngx_http_ebbtide_warn_run(ngx_conf_t *cf);
static void ngx_http_ebbtide_warn_unknown(ngx_log_t *log, char **variables,
    const char *where);
static void ngx_http_ebbtide_warn_heaps(ngx_log_t *log,
    char **workers_env, const char *why);
static void ngx_http_ebbtide_warn_heap_names(ngx_log_t *log,
    char **variables, const char *where, const char *why);
static ngx_uint_t ngx_http_ebbtide_variables_list(char **variables,
    ngx_uint_t of_run, u_char *text);
static ngx_uint_t ngx_http_ebbtide_is_of_run(const char *variable);
static ngx_uint_t ngx_http_ebbtide_is_off(const char *value);
static ngx_uint_t ngx_http_ebbtide_is_unknown(char *variable);


static const char  ngx_http_ebbtide_of_nginx[] = "in the environment of nginx";
static const char  ngx_http_ebbtide_of_workers[] = "in an \"env\" directive";

/*
 * The unknown variables of nginx's own environment were logged. That
 * environment stays the same as long as nginx runs.
 */
static ngx_uint_t  ngx_http_ebbtide_unknown_logged;


/*
 * Checks the variables of nginx's own environment, which apply to the VM of
 * the configuration, and those that "env" directives set for the workers.
 */

ngx_int_t
ngx_http_ebbtide_environment_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_core_conf_t  *ccf;

    if (ngx_http_ebbtide_variables_check(cf->log, NGX_LOG_EMERG,
                                         !ngx_http_ebbtide_unknown_logged,
                                         ngx_http_ebbtide_of_nginx)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_http_ebbtide_unknown_logged = 1;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    emcf->env_checked = ccf->env.nelts;

    return ngx_http_ebbtide_workers_env_check(cf->cycle, ccf, NGX_LOG_EMERG);
}


/*
 * Checks "env" directives that stand behind "http". They are known too late to
 * refuse the configuration.
 */

void
ngx_http_ebbtide_environment_check_rest(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    if (ccf->env.nelts != emcf->env_checked) {
        (void) ngx_http_ebbtide_workers_env_check(cycle, ccf, NGX_LOG_WARN);
    }
}


/* The workers have no variables of ours but those of "env" directives. */

static ngx_int_t
ngx_http_ebbtide_workers_env_check(ngx_cycle_t *cycle, ngx_core_conf_t *ccf,
    ngx_uint_t level)
{
    char       **own, **workers_env;
    ngx_int_t    rc;

    workers_env = ngx_http_ebbtide_workers_env(cycle, ccf);
    if (workers_env == NULL) {
        return NGX_ERROR;
    }

    own = environ;
    environ = workers_env;

    rc = ngx_http_ebbtide_variables_check(cycle->log, level, 1,
                                          ngx_http_ebbtide_of_workers);

    environ = own;

    return rc;
}


/* An environment of the variables whose values "env" directives set. */

char **
ngx_http_ebbtide_workers_env(ngx_cycle_t *cycle,
    ngx_core_conf_t *ccf)
{
    char        **workers_env;
    ngx_str_t    *env;
    ngx_uint_t    i, n;

    workers_env = ngx_palloc(cycle->pool,
                             (ccf->env.nelts + 1) * sizeof(char *));
    if (workers_env == NULL) {
        return NULL;
    }

    env = ccf->env.elts;
    n = 0;

    for (i = 0; i < ccf->env.nelts; i++) {
        if (env[i].data[env[i].len] == '=') {
            workers_env[n++] = (char *) env[i].data;
        }
    }

    workers_env[n] = NULL;

    return workers_env;
}


/* NGX_ERROR: a value makes no sense, and no heap can be made. */

static ngx_int_t
ngx_http_ebbtide_variables_check(ngx_log_t *log, ngx_uint_t level,
    ngx_uint_t warn, const char *where)
{
    int   rc;
    char  unknown[NGX_HTTP_EBBTIDE_NAMES_LEN];

    rc = ngx_http_ebbtide_library_check(environ, unknown);

    if (warn && unknown[0]) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide: %s: %s", where, unknown);
    }

    if (rc != EBB_OK) {
        ngx_log_error(level, log, 0, "ebbtide: %s: %s", where,
                      ebb_strerror(0));
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * The library checks these variables, and names the unknown ones in
 * NGX_HTTP_EBBTIDE_NAMES_LEN bytes.
 */

static int
ngx_http_ebbtide_library_check(char **variables, char *unknown)
{
    int     rc;
    char  **own;

    own = environ;
    environ = variables;

    rc = ebb_environment_check(unknown, NGX_HTTP_EBBTIDE_NAMES_LEN);

    environ = own;

    return rc;
}


/* Warns of directives and variables that other settings make useless. */

ngx_int_t
ngx_http_ebbtide_warn_no_effect(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    char             **workers_env;
    ngx_uint_t         preloaded;
    ngx_core_conf_t   *ccf;

    if (!emcf->enable && emcf->given.len) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"ebbtide\" is off, so these have no effect: %V",
                           &emcf->given);
    }

    preloaded = ngx_http_ebbtide_is_preloaded();

    if (!preloaded) {
        ngx_http_ebbtide_warn_run(cf);
    }

    if (emcf->enable || preloaded || ngx_http_ebbtide_luajit_has_copy()) {
        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    workers_env = ngx_http_ebbtide_workers_env(cf->cycle, ccf);
    if (workers_env == NULL) {
        return NGX_ERROR;
    }

    if (!ngx_http_ebbtide_unknown_logged) {
        ngx_http_ebbtide_warn_unknown(cf->log, environ,
                                      ngx_http_ebbtide_of_nginx);
    }

    ngx_http_ebbtide_unknown_logged = 1;
    ngx_http_ebbtide_warn_unknown(cf->log, workers_env,
                                  ngx_http_ebbtide_of_workers);
    ngx_http_ebbtide_warn_heaps(cf->log, workers_env,
                                "\"ebbtide\" is off, so these have no effect "
                                "unless Lua calls attach()");

    return NGX_OK;
}


/* Warns of directives and variables where no module makes a VM. */

void
ngx_http_ebbtide_warn_no_lua(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    char             **workers_env;
    ngx_core_conf_t   *ccf;

    if (ngx_http_ebbtide_has_lua_module(cycle)) {
        return;
    }

    if (emcf->given.len) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "the Lua module is not loaded, so these have no effect: "
                      "%V", &emcf->given);
    }

    /* other VMs than nginx's may have heaps */
    if (ngx_http_ebbtide_is_preloaded() || ngx_http_ebbtide_luajit_has_copy()) {
        return;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    workers_env = ngx_http_ebbtide_workers_env(cycle, ccf);

    if (workers_env) {
        ngx_http_ebbtide_warn_heaps(cycle->log, workers_env,
                                    "the Lua module is not loaded, so these "
                                    "have no effect");
    }
}


/*
 * Warns, once, of variables of "ebbtide run" in a process that "ebbtide run"
 * has not started. The environment of nginx stays the same as long as nginx
 * runs.
 */

static void
ngx_http_ebbtide_warn_run(ngx_conf_t *cf)
{
    u_char              text[NGX_HTTP_EBBTIDE_NAMES_LEN];
    static ngx_uint_t   logged;

    if (!logged && ngx_http_ebbtide_variables_list(environ, 1, text)) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "ebbtide: in the environment of nginx: these have an "
                      "effect under \"ebbtide run\" only: %s", text);
    }

    logged = 1;
}


/* Warns of variables that are no option: no call from Lua changes that. */

static void
ngx_http_ebbtide_warn_unknown(ngx_log_t *log, char **variables,
    const char *where)
{
    char  unknown[NGX_HTTP_EBBTIDE_NAMES_LEN];

    (void) ngx_http_ebbtide_library_check(variables, unknown);

    if (unknown[0]) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide: %s: %s", where, unknown);
    }
}


/* Warns of variables of heaps where no heap is made. */

static void
ngx_http_ebbtide_warn_heaps(ngx_log_t *log, char **workers_env,
    const char *why)
{
    static ngx_uint_t  logged;

    if (!logged) {
        ngx_http_ebbtide_warn_heap_names(log, environ,
                                         ngx_http_ebbtide_of_nginx, why);
    }

    logged = 1;

    ngx_http_ebbtide_warn_heap_names(log, workers_env,
                                     ngx_http_ebbtide_of_workers, why);
}


static void
ngx_http_ebbtide_warn_heap_names(ngx_log_t *log, char **variables,
    const char *where, const char *why)
{
    u_char  text[NGX_HTTP_EBBTIDE_NAMES_LEN];

    if (ngx_http_ebbtide_variables_list(variables, 0, text)) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide: %s: %s: %s", where, why,
                      text);
    }
}


/*
 * Lists the names of our variables that have a value and are no unknown ones:
 * those of "ebbtide run", or those of heaps. Cuts off what does not fit.
 * Returns how many there are.
 */

static ngx_uint_t
ngx_http_ebbtide_variables_list(char **variables, ngx_uint_t of_run,
    u_char *text)
{
    char        *value;
    u_char      *p, *last;
    ngx_uint_t   n;

    p = text;
    last = text + NGX_HTTP_EBBTIDE_NAMES_LEN - 1;
    n = 0;

    for ( /* void */ ; variables && *variables; variables++) {
        value = ngx_strchr(*variables, '=');

        if (value == NULL || value[1] == '\0'
            || ngx_strncasecmp((u_char *) *variables, (u_char *) "EBBTIDE_", 8)
               != 0
            || ngx_strncmp(*variables, "EBBTIDE_PRELOAD=", 16) == 0
            || ngx_http_ebbtide_is_of_run(*variables) != of_run
            || (of_run ? ngx_http_ebbtide_is_off(value + 1)
                       : ngx_http_ebbtide_is_unknown(*variables)))
        {
            continue;
        }

        p = ngx_slprintf(p, last, "%s%*s", n++ ? ", " : "",
                         (size_t) (value - *variables), *variables);
    }

    *p = '\0';

    return n;
}


static ngx_uint_t
ngx_http_ebbtide_is_of_run(const char *variable)
{
    return ngx_strncmp(variable, "EBBTIDE_VERBOSE=", 16) == 0
           || ngx_strncmp(variable, "EBBTIDE_REPORT=", 15) == 0
           || ngx_strncmp(variable, "EBBTIDE_REPORT_SIGNAL=", 22) == 0;
}


/* A switch that is off asks for nothing. */

static ngx_uint_t
ngx_http_ebbtide_is_off(const char *value)
{
    return ngx_strcmp(value, "off") == 0 || ngx_strcmp(value, "0") == 0;
}


/* Unknown variables are reported elsewhere, each with the nearest option. */

static ngx_uint_t
ngx_http_ebbtide_is_unknown(char *variable)
{
    char  *alone[] = { variable, NULL };
    char   unknown[NGX_HTTP_EBBTIDE_NAMES_LEN];

    (void) ngx_http_ebbtide_library_check(alone, unknown);

    return unknown[0] != '\0';
}
