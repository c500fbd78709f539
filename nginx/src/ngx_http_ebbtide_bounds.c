
#include "ngx_http_ebbtide_bounds.h"
#include "ngx_http_ebbtide_util.h"
#include "ngx_http_ebbtide_stage.h"


#define NGX_HTTP_EBBTIDE_RETAIN  0
#define NGX_HTTP_EBBTIDE_SOFT    1
#define NGX_HTTP_EBBTIDE_HARD    2
#define NGX_HTTP_EBBTIDE_BOUNDS  3


/* In bytes. 0: no limit. The soft limit may also be EBB_CGROUP. */

typedef struct {
    int64_t  of[NGX_HTTP_EBBTIDE_BOUNDS];
} ngx_http_ebbtide_bounds_t;


/* Where the value of a bound comes from. */

typedef enum {
    NGX_HTTP_EBBTIDE_BY_DIRECTIVE = 0,
    NGX_HTTP_EBBTIDE_BY_ENVIRONMENT,
    NGX_HTTP_EBBTIDE_BY_PROGRAM
} ngx_http_ebbtide_origin_e;


static void ngx_http_ebbtide_vm_set_bound(ngx_http_ebbtide_vm_t *vm,
    ngx_uint_t i, int64_t value, ngx_log_t *log);
static ngx_http_ebbtide_bounds_t ngx_http_ebbtide_bounds_given(
    const ebb_options *options);
static int64_t ngx_http_ebbtide_bound_value(int64_t given);
static int64_t ngx_http_ebbtide_bound_not_given(
    const ngx_http_ebbtide_vm_t *vm, ngx_uint_t i, int64_t had,
    const ebb_options *directives);
static int64_t ngx_http_ebbtide_bound_of_environment(ngx_uint_t i);
static ngx_http_ebbtide_bounds_t ngx_http_ebbtide_bounds_in_order(
    ngx_http_ebbtide_bounds_t want);
static ngx_uint_t ngx_http_ebbtide_bound_above(ngx_uint_t i,
    const ngx_http_ebbtide_bounds_t *is);
static ngx_http_ebbtide_origin_e ngx_http_ebbtide_bound_origin(ngx_uint_t i,
    int64_t value, const ebb_options *options);
static void ngx_http_ebbtide_log_lowered(ngx_log_t *log,
    const ngx_http_ebbtide_bounds_t *want,
    const ngx_http_ebbtide_bounds_t *is, const ebb_options *options,
    ngx_uint_t of_program);


static const char  *ngx_http_ebbtide_bound_names[] = {
    "retain", "limit_soft", "limit_hard"
};

/* a row for each origin, a column for each bound */

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
 * Lowers what the directives say by what they and the environment say, and
 * warns of each value that is lowered.
 */

void
ngx_http_ebbtide_options_lower(ebb_options *options, ngx_log_t *log)
{
    ngx_uint_t                  i;
    ngx_http_ebbtide_bounds_t   want, is;

    want = ngx_http_ebbtide_bounds_given(options);

    for (i = 0; i < NGX_HTTP_EBBTIDE_BOUNDS; i++) {
        want.of[i] = want.of[i] ? ngx_http_ebbtide_bound_value(want.of[i])
                                : ngx_http_ebbtide_bound_of_environment(i);
    }

    is = ngx_http_ebbtide_bounds_in_order(want);
    ngx_http_ebbtide_log_lowered(log, &want, &is, options, 0);

    if (is.of[NGX_HTTP_EBBTIDE_RETAIN] != want.of[NGX_HTTP_EBBTIDE_RETAIN]) {
        options->retain = is.of[NGX_HTTP_EBBTIDE_RETAIN];
    }

    if (is.of[NGX_HTTP_EBBTIDE_SOFT] != want.of[NGX_HTTP_EBBTIDE_SOFT]) {
        options->limit_soft = is.of[NGX_HTTP_EBBTIDE_SOFT];
    }
}


/*
 * Sets the bounds of a heap that are given. The others keep their values,
 * unless these contradict a given one. The directives say where values come
 * from.
 */

void
ngx_http_ebbtide_vm_bounds(ngx_http_ebbtide_vm_t *vm, const ebb_options *given,
    const ebb_options *directives, ngx_log_t *log)
{
    ngx_uint_t                 i;
    ngx_http_ebbtide_bounds_t  had, want, is;

    want = ngx_http_ebbtide_bounds_given(given);

    for (i = 0; i < NGX_HTTP_EBBTIDE_BOUNDS; i++) {
        if (vm->api->get(vm->heap, ngx_http_ebbtide_bound_names[i], &had.of[i])
            != EBB_OK)
        {
            ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide_%s: %s",
                          ngx_http_ebbtide_bound_names[i],
                          vm->api->strerror(0));
            had.of[i] = 0;
        }

        want.of[i] = want.of[i] ? ngx_http_ebbtide_bound_value(want.of[i])
                                : ngx_http_ebbtide_bound_not_given(vm, i,
                                                       had.of[i], directives);
    }

    is = ngx_http_ebbtide_bounds_in_order(want);
    ngx_http_ebbtide_log_lowered(log, &want, &is, directives, 1);

    if (ngx_memcmp(&is, &had, sizeof(is)) == 0) {
        return;
    }

    /* the order holds after each step, whatever the heap had before */

    ngx_http_ebbtide_vm_set_bound(vm, NGX_HTTP_EBBTIDE_RETAIN, 0, log);
    ngx_http_ebbtide_vm_set_bound(vm, NGX_HTTP_EBBTIDE_SOFT, 0, log);

    for (i = NGX_HTTP_EBBTIDE_BOUNDS; i-- > 0; /* void */ ) {
        ngx_http_ebbtide_vm_set_bound(vm, i, is.of[i], log);
    }
}


static void
ngx_http_ebbtide_vm_set_bound(ngx_http_ebbtide_vm_t *vm, ngx_uint_t i,
    int64_t value, ngx_log_t *log)
{
    const char  *name;

    name = ngx_http_ebbtide_bound_names[i];

    if (vm->api->set(vm->heap, name, value) != EBB_OK) {
        ngx_log_error(NGX_LOG_WARN, log, 0, "ebbtide_%s: %s", name,
                      vm->api->strerror(0));
    }
}


/* An entry is 0 where no directive gives a value. */

static ngx_http_ebbtide_bounds_t
ngx_http_ebbtide_bounds_given(const ebb_options *options)
{
    ngx_http_ebbtide_bounds_t  given;

    given.of[NGX_HTTP_EBBTIDE_RETAIN] = options->retain;
    given.of[NGX_HTTP_EBBTIDE_SOFT] = options->limit_soft;
    given.of[NGX_HTTP_EBBTIDE_HARD] = options->limit_hard;

    return given;
}


/* The value that a heap has by what is given. */

static int64_t
ngx_http_ebbtide_bound_value(int64_t given)
{
    return given == EBB_ZERO ? 0 : given;
}


/*
 * The value of a bound that is not given. A heap of ours may have one by
 * options that the directives have changed since: then what the directives say
 * now, or the environment. Any other value stays.
 */

static int64_t
ngx_http_ebbtide_bound_not_given(const ngx_http_ebbtide_vm_t *vm, ngx_uint_t i,
    int64_t had, const ebb_options *directives)
{
    ngx_http_ebbtide_bounds_t      created, given;
    ngx_http_ebbtide_vm_config_t  *config;

    config = ngx_http_ebbtide_vm_config();
    created = ngx_http_ebbtide_bounds_given(&config->options);
    given = ngx_http_ebbtide_bounds_given(directives);

    if (!vm->own_heap || created.of[i] == given.of[i]
        || had != ngx_http_ebbtide_bound_value(created.of[i]))
    {
        return had;
    }

    return given.of[i] ? ngx_http_ebbtide_bound_value(given.of[i])
                       : ngx_http_ebbtide_bound_of_environment(i);
}


/*
 * The value of a bound in a heap for which the environment alone sets it. 0:
 * the environment sets none.
 */

static int64_t
ngx_http_ebbtide_bound_of_environment(ngx_uint_t i)
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


/*
 * A limit that is off, or that the cgroup sets, is no number to compare with.
 */

static ngx_http_ebbtide_bounds_t
ngx_http_ebbtide_bounds_in_order(ngx_http_ebbtide_bounds_t want)
{
    int64_t                    most;
    ngx_uint_t                 i;
    ngx_http_ebbtide_bounds_t  is;

    is = want;

    for (i = NGX_HTTP_EBBTIDE_HARD; i-- > 0; /* void */ ) {
        most = is.of[ngx_http_ebbtide_bound_above(i, &is)];

        if (most > 0 && is.of[i] > most) {
            is.of[i] = most;
        }
    }

    return is;
}


/*
 * The limit that a bound must not exceed: the lower one of two, or the hard
 * one.
 */

static ngx_uint_t
ngx_http_ebbtide_bound_above(ngx_uint_t i, const ngx_http_ebbtide_bounds_t *is)
{
    int64_t  soft, hard;

    soft = is->of[NGX_HTTP_EBBTIDE_SOFT];
    hard = is->of[NGX_HTTP_EBBTIDE_HARD];

    return i == NGX_HTTP_EBBTIDE_RETAIN && soft > 0
           && (hard <= 0 || soft < hard) ? NGX_HTTP_EBBTIDE_SOFT
                                         : NGX_HTTP_EBBTIDE_HARD;
}


/* Recognises the origin of a value by the value alone. */

static ngx_http_ebbtide_origin_e
ngx_http_ebbtide_bound_origin(ngx_uint_t i, int64_t value,
    const ebb_options *options)
{
    ngx_http_ebbtide_bounds_t  given;

    given = ngx_http_ebbtide_bounds_given(options);

    return value == given.of[i] ? NGX_HTTP_EBBTIDE_BY_DIRECTIVE
           : value == ngx_http_ebbtide_bound_of_environment(i)
           ? NGX_HTTP_EBBTIDE_BY_ENVIRONMENT
           : NGX_HTTP_EBBTIDE_BY_PROGRAM;
}


/*
 * Warns of each bound that is lowered. Bounds of directives and the
 * environment are the same in all heaps and are reported once; those that the
 * program has set (of_program) are reported for their heap.
 */

static void
ngx_http_ebbtide_log_lowered(ngx_log_t *log,
    const ngx_http_ebbtide_bounds_t *want,
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

        by = ngx_http_ebbtide_bound_above(i, is);
        origin = ngx_http_ebbtide_bound_origin(i, want->of[i], options);
        by_origin = ngx_http_ebbtide_bound_origin(by, want->of[by], options);

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
