
/*
 * retain, the soft limit and the hard limit of each heap, and where their values
 * come from.
 *
 * In each heap retain <= limit_soft <= limit_hard. A directive sets a value; one
 * that no directive names stays as the environment or the program has set it. A
 * share of the cgroup's memory that comes to no limit names no value. Of two
 * values that contradict each other the one that stands first in this order is
 * lowered to the other, so that no hard limit is lowered.
 */


#include "ngx_http_ebbtide.h"


#define NGX_HTTP_EBBTIDE_RETAIN  0
#define NGX_HTTP_EBBTIDE_SOFT    1
#define NGX_HTTP_EBBTIDE_HARD    2
#define NGX_HTTP_EBBTIDE_BOUNDS  3


/* The three values, in bytes; 0: no limit; of the soft limit also EBB_CGROUP. */

typedef struct {
    int64_t  of[NGX_HTTP_EBBTIDE_BOUNDS];
} ngx_http_ebbtide_bounds_t;


/* Where a value comes from. */

typedef enum {
    NGX_HTTP_EBBTIDE_BY_DIRECTIVE = 0,
    NGX_HTTP_EBBTIDE_BY_ENVIRONMENT,
    NGX_HTTP_EBBTIDE_BY_PROGRAM
} ngx_http_ebbtide_origin_e;


static int64_t ngx_http_ebbtide_as_set(int64_t given);
static ngx_http_ebbtide_bounds_t ngx_http_ebbtide_given_bounds(
    const ebb_options *options);
static int64_t ngx_http_ebbtide_unless_given(const ngx_http_ebbtide_vm_t *vm,
    ngx_uint_t i, int64_t had, const ebb_options *directives);
static int64_t ngx_http_ebbtide_of_environment(ngx_uint_t i);
static ngx_http_ebbtide_bounds_t ngx_http_ebbtide_ordered(
    ngx_http_ebbtide_bounds_t want);
static ngx_uint_t ngx_http_ebbtide_lowered_by(ngx_uint_t i,
    const ngx_http_ebbtide_bounds_t *is);
static ngx_http_ebbtide_origin_e ngx_http_ebbtide_origin(ngx_uint_t i,
    int64_t value, const ebb_options *options);
static void ngx_http_ebbtide_lowered(ngx_log_t *log,
    const ngx_http_ebbtide_bounds_t *want, const ngx_http_ebbtide_bounds_t *is,
    const ebb_options *options, ngx_uint_t of_program);
static void ngx_http_ebbtide_vm_set(ngx_http_ebbtide_vm_t *vm, ngx_uint_t i,
    int64_t value, ngx_log_t *log);


static const char  *ngx_http_ebbtide_bound_names[] = {
    "retain", "limit_soft", "limit_hard"
};

/* a row for each origin */

static const char  *ngx_http_ebbtide_bound_labels[][NGX_HTTP_EBBTIDE_BOUNDS] = {
    { "\"ebbtide_retain\"", "\"ebbtide_limit_soft\"",
      "\"ebbtide_limit_hard\"" },
    { "\"EBBTIDE_RETAIN\"", "\"EBBTIDE_LIMIT_SOFT\"",
      "\"EBBTIDE_LIMIT_HARD\"" },
    { "the VM's \"retain\", set by Lua or a C module,",
      "the VM's \"limit_soft\", set by Lua or a C module,",
      "the VM's \"limit_hard\", set by Lua or a C module," }
};


/*
 * What VMs are made with while the configuration is read: a share is divided
 * among the workers that are known by then. Directives that a limit lowers later
 * are lowered here, for the library refuses values that contradict each other;
 * only variables can do that then.
 */

void
ngx_http_ebbtide_options(ngx_cycle_t *cycle, ngx_http_ebbtide_main_conf_t *emcf,
    ebb_options *options)
{
    *options = emcf->options;
    options->limit_soft = ngx_http_ebbtide_limit_bytes(cycle,
                                                       &emcf->limit_soft, NULL);
    options->limit_hard = ngx_http_ebbtide_limit_bytes(cycle,
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
 * The limits in bytes, when the cgroup's memory and the number of workers are
 * known, for the VMs that there are and for those to come.
 */

void
ngx_http_ebbtide_limits(ngx_cycle_t *cycle, ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_uint_t                  i;
    ebb_options                 options, shares;
    ngx_http_ebbtide_vm_t      *vm;
    ngx_http_ebbtide_bounds_t   want, is;

    ngx_http_ebbtide_env_check_rest(cycle, emcf);

    emcf->options.limit_soft = ngx_http_ebbtide_limit_bytes(cycle,
                                               &emcf->limit_soft, "limit_soft");
    emcf->options.limit_hard = ngx_http_ebbtide_limit_bytes(cycle,
                                               &emcf->limit_hard, "limit_hard");

    if (emcf->options.limit_soft == EBB_CGROUP && ebb_cgroup_limit() == 0) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "\"ebbtide_limit_soft\" is off until the cgroup of nginx "
                      "has a memory limit");
    }

    options = emcf->options;
    want = ngx_http_ebbtide_given_bounds(&options);

    for (i = 0; i < NGX_HTTP_EBBTIDE_BOUNDS; i++) {
        want.of[i] = want.of[i] ? ngx_http_ebbtide_as_set(want.of[i])
                                : ngx_http_ebbtide_of_environment(i);
    }

    is = ngx_http_ebbtide_ordered(want);
    ngx_http_ebbtide_lowered(cycle->log, &want, &is, &options, 0);

    if (is.of[NGX_HTTP_EBBTIDE_RETAIN] != want.of[NGX_HTTP_EBBTIDE_RETAIN]) {
        emcf->options.retain = is.of[NGX_HTTP_EBBTIDE_RETAIN];
    }

    if (is.of[NGX_HTTP_EBBTIDE_SOFT] != want.of[NGX_HTTP_EBBTIDE_SOFT]) {
        emcf->options.limit_soft = is.of[NGX_HTTP_EBBTIDE_SOFT];
    }

    /* sizes are in the heaps already; what Lua has changed since stays */

    ngx_memzero(&shares, sizeof(ebb_options));
    shares.limit_soft = emcf->limit_soft.percent ? options.limit_soft : 0;
    shares.limit_hard = emcf->limit_hard.percent ? options.limit_hard : 0;

    if (emcf->limit_soft.percent == 0 && emcf->limit_hard.percent == 0) {
        return;
    }

    for (vm = ngx_http_ebbtide_vm_configured(NULL); vm;
         vm = ngx_http_ebbtide_vm_configured(vm))
    {
        ngx_http_ebbtide_vm_bounds(vm, &shares, &options, cycle->log);
    }
}


/*
 * Sets in a heap what is given; what is not given keeps its value, as far as it
 * contradicts nothing. The directives say where values come from.
 */

void
ngx_http_ebbtide_vm_bounds(ngx_http_ebbtide_vm_t *vm, const ebb_options *given,
    const ebb_options *directives, ngx_log_t *log)
{
    ngx_uint_t                 i;
    ngx_http_ebbtide_bounds_t  had, want, is;

    want = ngx_http_ebbtide_given_bounds(given);

    for (i = 0; i < NGX_HTTP_EBBTIDE_BOUNDS; i++) {
        if (vm->api->get(vm->heap, ngx_http_ebbtide_bound_names[i], &had.of[i])
            != EBB_OK)
        {
            ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide_%s: %s",
                          ngx_http_ebbtide_bound_names[i],
                          vm->api->strerror(0));
            had.of[i] = 0;
        }

        want.of[i] = want.of[i] ? ngx_http_ebbtide_as_set(want.of[i])
                                : ngx_http_ebbtide_unless_given(vm, i,
                                                       had.of[i], directives);
    }

    is = ngx_http_ebbtide_ordered(want);
    ngx_http_ebbtide_lowered(log, &want, &is, directives, 1);

    if (ngx_memcmp(&is, &had, sizeof(is)) == 0) {
        return;
    }

    /* the order holds after each step, whatever the heap had before */

    ngx_http_ebbtide_vm_set(vm, NGX_HTTP_EBBTIDE_RETAIN, 0, log);
    ngx_http_ebbtide_vm_set(vm, NGX_HTTP_EBBTIDE_SOFT, 0, log);

    for (i = NGX_HTTP_EBBTIDE_BOUNDS; i-- > 0; /* void */ ) {
        ngx_http_ebbtide_vm_set(vm, i, is.of[i], log);
    }
}


static void
ngx_http_ebbtide_vm_set(ngx_http_ebbtide_vm_t *vm, ngx_uint_t i, int64_t value,
    ngx_log_t *log)
{
    const char  *name;

    name = ngx_http_ebbtide_bound_names[i];

    if (vm->api->set(vm->heap, name, value) != EBB_OK) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide_%s: %s", name,
                      vm->api->strerror(0));
    }
}


/* 0: no directive gives a value. */

static ngx_http_ebbtide_bounds_t
ngx_http_ebbtide_given_bounds(const ebb_options *options)
{
    ngx_http_ebbtide_bounds_t  given;

    given.of[NGX_HTTP_EBBTIDE_RETAIN] = options->retain;
    given.of[NGX_HTTP_EBBTIDE_SOFT] = options->limit_soft;
    given.of[NGX_HTTP_EBBTIDE_HARD] = options->limit_hard;

    return given;
}


/* The value that a heap has by what is given. */

static int64_t
ngx_http_ebbtide_as_set(int64_t given)
{
    return given == EBB_ZERO ? 0 : given;
}


/*
 * What a heap has, unless that is a value it was created with that directives have
 * not come to: then what they have come to, or the environment has.
 */

static int64_t
ngx_http_ebbtide_unless_given(const ngx_http_ebbtide_vm_t *vm, ngx_uint_t i,
    int64_t had, const ebb_options *directives)
{
    ngx_http_ebbtide_bounds_t      created, given;
    ngx_http_ebbtide_vm_config_t  *config;

    config = ngx_http_ebbtide_vm_config();
    created = ngx_http_ebbtide_given_bounds(&config->options);
    given = ngx_http_ebbtide_given_bounds(directives);

    if (!vm->born || created.of[i] == given.of[i]
        || had != ngx_http_ebbtide_as_set(created.of[i]))
    {
        return had;
    }

    return given.of[i] ? ngx_http_ebbtide_as_set(given.of[i])
                       : ngx_http_ebbtide_of_environment(i);
}


/* What a heap has that nothing but the environment sets; 0: nothing. */

static int64_t
ngx_http_ebbtide_of_environment(ngx_uint_t i)
{
    int64_t       value;
    ebb_heap     *heap;
    ebb_options   options;

    ngx_memzero(&options, sizeof(ebb_options));
    options.size = sizeof(ebb_options);
    options.reserve = 1024 * 1024;

    /* the others may contradict this one */
    options.retain = i == NGX_HTTP_EBBTIDE_RETAIN ? 0 : EBB_ZERO;
    options.limit_soft = i == NGX_HTTP_EBBTIDE_SOFT ? 0 : EBB_ZERO;
    options.limit_hard = i == NGX_HTTP_EBBTIDE_HARD ? 0 : EBB_ZERO;

    heap = ebb_heap_new(&options);

    if (heap == NULL
        || ebb_get(heap, ngx_http_ebbtide_bound_names[i], &value) != EBB_OK)
    {
        value = 0;
    }

    ebb_heap_delete(heap);

    return value;
}


/* A limit that is off, or that the cgroup sets, is no number to compare with. */

static ngx_http_ebbtide_bounds_t
ngx_http_ebbtide_ordered(ngx_http_ebbtide_bounds_t want)
{
    int64_t                    most;
    ngx_uint_t                 i;
    ngx_http_ebbtide_bounds_t  is;

    is = want;

    for (i = NGX_HTTP_EBBTIDE_HARD; i-- > 0; /* void */ ) {
        most = is.of[ngx_http_ebbtide_lowered_by(i, &is)];

        if (most > 0 && is.of[i] > most) {
            is.of[i] = most;
        }
    }

    return is;
}


/* The limit that a value must not exceed: of two the less, or the hard one. */

static ngx_uint_t
ngx_http_ebbtide_lowered_by(ngx_uint_t i, const ngx_http_ebbtide_bounds_t *is)
{
    int64_t  soft, hard;

    soft = is->of[NGX_HTTP_EBBTIDE_SOFT];
    hard = is->of[NGX_HTTP_EBBTIDE_HARD];

    return i == NGX_HTTP_EBBTIDE_RETAIN && soft > 0
           && (hard <= 0 || soft < hard) ? NGX_HTTP_EBBTIDE_SOFT
                                         : NGX_HTTP_EBBTIDE_HARD;
}


/* Nothing but its value tells where it comes from. */

static ngx_http_ebbtide_origin_e
ngx_http_ebbtide_origin(ngx_uint_t i, int64_t value, const ebb_options *options)
{
    ngx_http_ebbtide_bounds_t  given;

    given = ngx_http_ebbtide_given_bounds(options);

    return value == given.of[i] ? NGX_HTTP_EBBTIDE_BY_DIRECTIVE
           : value == ngx_http_ebbtide_of_environment(i)
           ? NGX_HTTP_EBBTIDE_BY_ENVIRONMENT
           : NGX_HTTP_EBBTIDE_BY_PROGRAM;
}


/*
 * Warns of each value that is lowered. What directives and the environment have
 * is the same in all heaps, and told once; what the program has set in a heap is
 * told for that heap.
 */

static void
ngx_http_ebbtide_lowered(ngx_log_t *log, const ngx_http_ebbtide_bounds_t *want,
    const ngx_http_ebbtide_bounds_t *is, const ebb_options *options,
    ngx_uint_t of_program)
{
    u_char                      text[NGX_HTTP_EBBTIDE_SIZE_LEN];
    u_char                      most_text[NGX_HTTP_EBBTIDE_SIZE_LEN];
    ngx_uint_t                  i, by;
    ngx_http_ebbtide_origin_e   origin, by_origin;

    for (i = NGX_HTTP_EBBTIDE_HARD; i-- > 0; /* void */ ) {

        if (is->of[i] == want->of[i]) {
            continue;
        }

        by = ngx_http_ebbtide_lowered_by(i, is);
        origin = ngx_http_ebbtide_origin(i, want->of[i], options);
        by_origin = ngx_http_ebbtide_origin(by, want->of[by], options);

        if (of_program != (origin == NGX_HTTP_EBBTIDE_BY_PROGRAM
                           || by_origin == NGX_HTTP_EBBTIDE_BY_PROGRAM))
        {
            continue;
        }

        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "%s of %s is lowered to %s, which is what %s comes to",
                      ngx_http_ebbtide_bound_labels[origin][i],
                      ngx_http_ebbtide_size(text, want->of[i]),
                      ngx_http_ebbtide_size(most_text, is->of[i]),
                      ngx_http_ebbtide_bound_labels[by_origin][by]);
    }
}


/*
 * What a limit comes to: a share is divided among the workers. 0: no limit is
 * given; a share that comes to none is reported by the directive's name, if any.
 */

int64_t
ngx_http_ebbtide_limit_bytes(ngx_cycle_t *cycle,
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
                          "of the memory limit of the cgroup, and the cgroup of "
                          "nginx has none", name, limit->percent);
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


/* As nginx's directives take it, rounded to a tenth of a unit. */

const char *
ngx_http_ebbtide_size(u_char *text, int64_t bytes)
{
    u_char      *p;
    int64_t      tenths;
    ngx_uint_t   shift;

    shift = bytes < (1 << 20) ? 10 : bytes < (1 << 30) ? 20 : 30;
    tenths = (bytes * 10 + ((int64_t) 1 << (shift - 1))) >> shift;

    p = ngx_sprintf(text, "%L", tenths / 10);

    if (tenths % 10) {
        p = ngx_sprintf(p, ".%L", tenths % 10);
    }

    *p++ = shift == 10 ? 'k' : shift == 20 ? 'm' : 'g';
    *p = '\0';

    return (const char *) text;
}
