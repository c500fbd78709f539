
/*
 * The variables of the environment: values that make no sense, and variables
 * and directives that have no effect.
 */


#include "ngx_http_ebbtide.h"


/* bytes of the report on variables that have no effect */
#define NGX_HTTP_EBBTIDE_UNKNOWN    320


static ngx_int_t ngx_http_ebbtide_env_check(ngx_cycle_t *cycle,
    ngx_core_conf_t *ccf, ngx_uint_t level);
static ngx_int_t ngx_http_ebbtide_variables_check(ngx_log_t *log,
    ngx_uint_t level, ngx_uint_t warn, const char *where);
static int ngx_http_ebbtide_library_check(char **variables, char *unknown);
static void ngx_http_ebbtide_run_unused(ngx_conf_t *cf);
static void ngx_http_ebbtide_unknown(ngx_log_t *log, char **variables,
    const char *where);
static void ngx_http_ebbtide_heaps_unused(ngx_log_t *log, char **theirs,
    const char *why);
static void ngx_http_ebbtide_heaps_unused_in(ngx_log_t *log, char **variables,
    const char *where, const char *why);
static ngx_uint_t ngx_http_ebbtide_variables_list(char **variables,
    ngx_uint_t of_run, u_char *text);
static ngx_uint_t ngx_http_ebbtide_is_of_run(const char *variable);
static ngx_uint_t ngx_http_ebbtide_is_off(const char *value);
static ngx_uint_t ngx_http_ebbtide_is_unknown(char *variable);


static const char  ngx_http_ebbtide_own[] = "in the environment of nginx";
static const char  ngx_http_ebbtide_theirs[] = "in an \"env\" directive";

/*
 * Whether it was told which variables of nginx's own environment no option has.
 * That environment stays the same as long as nginx runs.
 */
static ngx_uint_t  ngx_http_ebbtide_unknown_told;


/*
 * The variables of nginx's own environment, whose values the VM of the
 * configuration has, and those that "env" directives set for the workers.
 */

ngx_int_t
ngx_http_ebbtide_environment(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_core_conf_t  *ccf;

    if (ngx_http_ebbtide_variables_check(cf->log, NGX_LOG_EMERG,
                                         !ngx_http_ebbtide_unknown_told,
                                         ngx_http_ebbtide_own)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_http_ebbtide_unknown_told = 1;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    emcf->env_checked = ccf->env.nelts;

    return ngx_http_ebbtide_env_check(cf->cycle, ccf, NGX_LOG_EMERG);
}


/* As the workers will see them: there is nothing else of ours in theirs. */

static ngx_int_t
ngx_http_ebbtide_env_check(ngx_cycle_t *cycle, ngx_core_conf_t *ccf,
    ngx_uint_t level)
{
    char       **own, **theirs;
    ngx_int_t    rc;

    theirs = ngx_http_ebbtide_env(cycle, ccf);
    if (theirs == NULL) {
        return NGX_ERROR;
    }

    own = environ;
    environ = theirs;

    rc = ngx_http_ebbtide_variables_check(cycle->log, level, 1,
                                          ngx_http_ebbtide_theirs);

    environ = own;

    return rc;
}


/* An environment of the variables whose values "env" directives set. */

char **
ngx_http_ebbtide_env(ngx_cycle_t *cycle, ngx_core_conf_t *ccf)
{
    char        **theirs;
    ngx_str_t    *env;
    ngx_uint_t    i, n;

    theirs = ngx_palloc(cycle->pool, (ccf->env.nelts + 1) * sizeof(char *));
    if (theirs == NULL) {
        return NULL;
    }

    env = ccf->env.elts;
    n = 0;

    for (i = 0; i < ccf->env.nelts; i++) {
        if (env[i].data[env[i].len] == '=') {
            theirs[n++] = (char *) env[i].data;
        }
    }

    theirs[n] = NULL;

    return theirs;
}


/* NGX_ERROR: a value makes no sense, and no heap can be made. */

static ngx_int_t
ngx_http_ebbtide_variables_check(ngx_log_t *log, ngx_uint_t level,
    ngx_uint_t warn, const char *where)
{
    int   rc;
    char  unknown[NGX_HTTP_EBBTIDE_UNKNOWN];

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


/* What the library says of these variables; NGX_HTTP_EBBTIDE_UNKNOWN bytes. */

static int
ngx_http_ebbtide_library_check(char **variables, char *unknown)
{
    int     rc;
    char  **own;

    own = environ;
    environ = variables;

    rc = ebb_environment_check(unknown, NGX_HTTP_EBBTIDE_UNKNOWN);

    environ = own;

    return rc;
}


/* Warns of directives and variables that others make useless. */

ngx_int_t
ngx_http_ebbtide_no_effect(ngx_conf_t *cf, ngx_http_ebbtide_main_conf_t *emcf)
{
    char             **theirs;
    ngx_uint_t         preloaded;
    ngx_core_conf_t   *ccf;

    if (!emcf->enable && emcf->given.len) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"ebbtide\" is off, so these have no effect: %V",
                           &emcf->given);
    }

    preloaded = ngx_http_ebbtide_preloaded();

    if (!preloaded) {
        ngx_http_ebbtide_run_unused(cf);
    }

    if (emcf->enable || preloaded || ngx_http_ebbtide_linked()) {
        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    theirs = ngx_http_ebbtide_env(cf->cycle, ccf);
    if (theirs == NULL) {
        return NGX_ERROR;
    }

    if (!ngx_http_ebbtide_unknown_told) {
        ngx_http_ebbtide_unknown(cf->log, environ, ngx_http_ebbtide_own);
    }

    ngx_http_ebbtide_unknown_told = 1;
    ngx_http_ebbtide_unknown(cf->log, theirs, ngx_http_ebbtide_theirs);
    ngx_http_ebbtide_heaps_unused(cf->log, theirs, "\"ebbtide\" is off, so "
                                  "these have no effect unless Lua calls "
                                  "attach()");

    return NGX_OK;
}


/*
 * Variables of "ebbtide run" in a process that it has not started. Told once: the
 * environment of nginx stays the same as long as nginx runs.
 */

static void
ngx_http_ebbtide_run_unused(ngx_conf_t *cf)
{
    u_char              text[NGX_HTTP_EBBTIDE_UNKNOWN];
    static ngx_uint_t   told;

    if (!told && ngx_http_ebbtide_variables_list(environ, 1, text)) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "ebbtide: in the environment of nginx: these have an "
                      "effect under \"ebbtide run\" only: %s", text);
    }

    told = 1;
}


/* Variables that no option has: no call from Lua gives them an effect. */

static void
ngx_http_ebbtide_unknown(ngx_log_t *log, char **variables, const char *where)
{
    char  unknown[NGX_HTTP_EBBTIDE_UNKNOWN];

    (void) ngx_http_ebbtide_library_check(variables, unknown);

    if (unknown[0]) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide: %s: %s", where, unknown);
    }
}


/* Variables of heaps where none is made. */

static void
ngx_http_ebbtide_heaps_unused(ngx_log_t *log, char **theirs, const char *why)
{
    static ngx_uint_t  told;

    if (!told) {
        ngx_http_ebbtide_heaps_unused_in(log, environ, ngx_http_ebbtide_own,
                                         why);
    }

    told = 1;

    ngx_http_ebbtide_heaps_unused_in(log, theirs, ngx_http_ebbtide_theirs, why);
}


static void
ngx_http_ebbtide_heaps_unused_in(ngx_log_t *log, char **variables,
    const char *where, const char *why)
{
    u_char  text[NGX_HTTP_EBBTIDE_UNKNOWN];

    if (ngx_http_ebbtide_variables_list(variables, 0, text)) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide: %s: %s: %s", where, why,
                      text);
    }
}


/*
 * The names of our variables that ask for something: of "ebbtide run", or of
 * heaps. What does not fit is cut off. Returns how many there are.
 */

static ngx_uint_t
ngx_http_ebbtide_variables_list(char **variables, ngx_uint_t of_run,
    u_char *text)
{
    char        *value;
    u_char      *p, *last;
    ngx_uint_t   n;

    p = text;
    last = text + NGX_HTTP_EBBTIDE_UNKNOWN - 1;
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


/* Told of in other words, with the name that may be meant. */

static ngx_uint_t
ngx_http_ebbtide_is_unknown(char *variable)
{
    char  *alone[] = { variable, NULL };
    char   unknown[NGX_HTTP_EBBTIDE_UNKNOWN];

    (void) ngx_http_ebbtide_library_check(alone, unknown);

    return unknown[0] != '\0';
}


/* Warns of directives and variables where no module makes a VM. */

void
ngx_http_ebbtide_no_lua(ngx_cycle_t *cycle, ngx_http_ebbtide_main_conf_t *emcf)
{
    char             **theirs;
    ngx_core_conf_t   *ccf;

    if (ngx_http_ebbtide_vms_expected(cycle)) {
        return;
    }

    if (emcf->given.len) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "the Lua module is not loaded, so these have no effect: "
                      "%V", &emcf->given);
    }

    /* other VMs than nginx's may have heaps */
    if (ngx_http_ebbtide_preloaded() || ngx_http_ebbtide_linked()) {
        return;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    theirs = ngx_http_ebbtide_env(cycle, ccf);

    if (theirs) {
        ngx_http_ebbtide_heaps_unused(cycle->log, theirs, "the Lua module is "
                                      "not loaded, so these have no effect");
    }
}


/* Some "env" directives stand behind "http", where nothing can be refused. */

void
ngx_http_ebbtide_env_check_rest(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    if (ccf->env.nelts != emcf->env_checked) {
        (void) ngx_http_ebbtide_env_check(cycle, ccf, NGX_LOG_WARN);
    }
}
