
/*
 * Heaps of other copies of the library.
 *
 * LuaJIT may have one inside, another may be preloaded, a third one may have
 * been loaded by Lua. A VM is of the copy that its allocation function is part
 * of, and only that copy may be called for its heap.
 */


#include "ngx_http_ebbtide.h"

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


/* other copies whose heaps the configuration's VMs have, or had */
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
 * The functions for the heap of a VM; those of this module, as long as the VM is
 * on no heap. NULL: the heap is of a copy that is not understood.
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
 * A function that the object itself defines in which an address lies, not one
 * that it was linked with.
 */

void *
ngx_http_ebbtide_symbol_beside(const void *address, const char *name)
{
    void     *handle, *symbol;
    Dl_info   object, info;

    if (dladdr(address, &object) == 0) {
        return NULL;
    }

    handle = dlopen(object.dli_fname, RTLD_LAZY|RTLD_NOLOAD);

    if (handle == NULL) {
        /* the program itself has a name by which it cannot be opened */
        handle = dlopen(NULL, RTLD_LAZY);
    }

    if (handle == NULL) {
        return NULL;
    }

    symbol = dlsym(handle, name);
    (void) dlclose(handle);

    if (symbol == NULL || dladdr(symbol, &info) == 0
        || info.dli_fbase != object.dli_fbase)
    {
        return NULL;
    }

    return symbol;
}


/*
 * The functions of a copy are looked up once, and kept as the copy is. NULL:
 * there is no memory.
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
 * Whether this process runs under "ebbtide run": no other library has a function
 * of Lua's beside one that waits.
 */

ngx_uint_t
ngx_http_ebbtide_preloaded(void)
{
    void  *wait;

    wait = dlsym(RTLD_DEFAULT, "epoll_wait");

    return wait && ngx_http_ebbtide_symbol_beside(wait, "lua_newstate");
}


/* Whether LuaJIT has a copy of the library inside, which makes the heaps. */

ngx_uint_t
ngx_http_ebbtide_linked(void)
{
    void     *newstate;
    Dl_info   object, own;

    newstate = dlsym(RTLD_DEFAULT, "lua_newstate");

    return newstate
           && ngx_http_ebbtide_symbol_beside(newstate, "ebb_version")
           && dladdr(newstate, &object)
           && dladdr((void *) ngx_http_ebbtide_linked, &own)
           && object.dli_fbase != own.dli_fbase;
}
