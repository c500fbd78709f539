
#include "ngx_http_ebbtide_copy.h"
#include "ngx_http_ebbtide_symbols.h"

/* dladdr() and RTLD_NOLOAD: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


typedef const char *(*ngx_http_ebbtide_version_pt)(void);


typedef struct ngx_http_ebbtide_copy_s  ngx_http_ebbtide_copy_t;

struct ngx_http_ebbtide_copy_s {
    ngx_http_ebbtide_copy_t  *next;
    /* where the copy is loaded */
    void                     *base;
    ngx_http_ebbtide_api_t    api;
};


static const ngx_http_ebbtide_api_t *ngx_http_ebbtide_copy_api(
    const void *alloc, const Dl_info *object, ngx_log_t *log);


/* the other copies that VMs of the configuration have, or had, heaps of */
static ngx_http_ebbtide_copy_t  *ngx_http_ebbtide_copies;

static const ngx_http_ebbtide_api_t  ngx_http_ebbtide_own = {
    ebb_heap_of,
    ebb_on_close,
    ebb_share,
    ebb_tick,
    ebb_next_tick,
    ebb_reclaim,
    ebb_pressure,
    ebb_stats_read,
    ebb_get,
    ebb_set,
    ebb_strerror
};


/* in the order of the structure */

static const char  *ngx_http_ebbtide_api_names[] = {
    "ebb_heap_of",
    "ebb_on_close",
    "ebb_share",
    "ebb_tick",
    "ebb_next_tick",
    "ebb_reclaim",
    "ebb_pressure",
    "ebb_stats_read",
    "ebb_get",
    "ebb_set",
    "ebb_strerror",
    NULL
};


/* The functions of the copy that is linked into this module. */

const ngx_http_ebbtide_api_t *
ngx_http_ebbtide_own_api(void)
{
    return &ngx_http_ebbtide_own;
}


/*
 * The functions for a VM's heap; the module's own while the VM has no heap.
 * NULL: the heap belongs to a copy of another version.
 */

const ngx_http_ebbtide_api_t *
ngx_http_ebbtide_api_of(lua_State *L, ngx_log_t *log)
{
    void                         *alloc, *ud;
    Dl_info                       object, own;
    ngx_http_ebbtide_version_pt   version;

    alloc = (void *) ngx_http_ebbtide_lua()->getallocf(L, &ud);

    if (dladdr(alloc, &object) == 0
        || dladdr((void *) ngx_http_ebbtide_copy_api, &own) == 0
        || object.dli_fbase == own.dli_fbase)
    {
        return &ngx_http_ebbtide_own;
    }

    version = (ngx_http_ebbtide_version_pt)
                  ngx_http_ebbtide_symbol_beside(alloc, "ebb_version");

    if (version == NULL) {
        return &ngx_http_ebbtide_own;
    }

    if (ngx_strcmp(version(), ebb_version()) != 0) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "ebbtide: a Lua VM is on a heap of ebbtide %s in %s, "
                      "which this module, of ebbtide %s, leaves alone",
                      version(), object.dli_fname, ebb_version());
        return NULL;
    }

    return ngx_http_ebbtide_copy_api(alloc, &object, log);
}


/*
 * Looks the functions of a copy up once, and keeps them as long as the process
 * runs. NULL: there is no memory.
 */

static const ngx_http_ebbtide_api_t *
ngx_http_ebbtide_copy_api(const void *alloc, const Dl_info *object,
    ngx_log_t *log)
{
    void                     *symbol;
    ngx_uint_t                i;
    ngx_http_ebbtide_copy_t  *copy;

    for (copy = ngx_http_ebbtide_copies; copy; copy = copy->next) {
        if (copy->base == object->dli_fbase) {
            return &copy->api;
        }
    }

    copy = ngx_alloc(sizeof(ngx_http_ebbtide_copy_t), log);
    if (copy == NULL) {
        return NULL;
    }

    for (i = 0; ngx_http_ebbtide_api_names[i]; i++) {
        symbol = ngx_http_ebbtide_symbol_beside(alloc,
                                              ngx_http_ebbtide_api_names[i]);
        if (symbol == NULL) {
            ngx_free(copy);
            return &ngx_http_ebbtide_own;
        }

        ngx_memcpy((u_char *) &copy->api + i * sizeof(symbol), &symbol,
                   sizeof(symbol));
    }

    /* it stays loaded: its functions are called as long as there are VMs */
    (void) dlopen(object->dli_fname, RTLD_LAZY|RTLD_NOLOAD);

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "ebbtide: heaps of another copy of the library, in %s, are "
                  "looked after through that copy", object->dli_fname);

    copy->base = object->dli_fbase;
    copy->next = ngx_http_ebbtide_copies;
    ngx_http_ebbtide_copies = copy;

    return &copy->api;
}


/*
 * Whether this process runs under "ebbtide run": only the preload library
 * defines both a function of Lua's and one that waits.
 */

ngx_uint_t
ngx_http_ebbtide_is_preloaded(void)
{
    void  *wait;

    wait = dlsym(RTLD_DEFAULT, "epoll_wait");

    return wait && ngx_http_ebbtide_symbol_beside(wait, "lua_newstate");
}


/* Whether LuaJIT has a copy of the library inside, which makes the heaps. */

ngx_uint_t
ngx_http_ebbtide_luajit_has_copy(void)
{
    void     *newstate;
    Dl_info   object, own;

    newstate = dlsym(RTLD_DEFAULT, "lua_newstate");

    return newstate
           && ngx_http_ebbtide_symbol_beside(newstate, "ebb_version")
           && dladdr(newstate, &object)
           && dladdr((void *) ngx_http_ebbtide_luajit_has_copy, &own)
           && object.dli_fbase != own.dli_fbase;
}
