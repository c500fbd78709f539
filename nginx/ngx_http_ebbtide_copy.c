
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


static void *ngx_http_ebbtide_copy_handle(const Dl_info *object);
static void *ngx_http_ebbtide_copy_symbol(void *handle, const Dl_info *object,
    const char *name);
static const ngx_http_ebbtide_api_t *ngx_http_ebbtide_copy_api(void *handle,
    const Dl_info *object);


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
    void                         *handle, *ud;
    Dl_info                       object, own;
    ngx_http_ebbtide_version_pt   version;

    if (dladdr((void *) ngx_http_ebbtide_lua()->getallocf(L, &ud), &object) == 0
        || dladdr((void *) ngx_http_ebbtide_copy_handle, &own) == 0
        || object.dli_fbase == own.dli_fbase)
    {
        return &ngx_http_ebbtide_own;
    }

    handle = ngx_http_ebbtide_copy_handle(&object);
    version = (ngx_http_ebbtide_version_pt)
                  ngx_http_ebbtide_copy_symbol(handle, &object, "ebb_version");

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

    return ngx_http_ebbtide_copy_api(handle, &object);
}


/* It stays open: its functions will be called as long as there are VMs. */

static void *
ngx_http_ebbtide_copy_handle(const Dl_info *object)
{
    void  *handle;

    handle = dlopen(object->dli_fname, RTLD_LAZY|RTLD_NOLOAD);

    /* the program itself has a name by which it cannot be opened */
    return handle ? handle : dlopen(NULL, RTLD_LAZY);
}


/* A function that the object itself defines, not one that it was linked with. */

static void *
ngx_http_ebbtide_copy_symbol(void *handle, const Dl_info *object,
    const char *name)
{
    void     *symbol;
    Dl_info   info;

    symbol = handle ? dlsym(handle, name) : NULL;

    if (symbol == NULL || dladdr(symbol, &info) == 0
        || info.dli_fbase != object->dli_fbase)
    {
        return NULL;
    }

    return symbol;
}


/* There is one other copy at the most whose heaps the configuration's VMs have. */

static const ngx_http_ebbtide_api_t *
ngx_http_ebbtide_copy_api(void *handle, const Dl_info *object)
{
    void                           *symbol;
    ngx_uint_t                      i;
    static ngx_http_ebbtide_api_t   api;

    for (i = 0; ngx_http_ebbtide_api_names[i]; i++) {
        symbol = ngx_http_ebbtide_copy_symbol(handle, object,
                                              ngx_http_ebbtide_api_names[i]);
        if (symbol == NULL) {
            return &ngx_http_ebbtide_own;
        }

        ngx_memcpy((u_char *) &api + i * sizeof(symbol), &symbol,
                   sizeof(symbol));
    }

    return &api;
}
