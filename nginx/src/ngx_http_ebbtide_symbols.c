
#include "ngx_http_ebbtide_symbols.h"

/* dladdr() and RTLD_NOLOAD: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


/*
 * The function of this name that is defined by the object (the program or a
 * library) that holds the address. NULL: that object defines none.
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
 * The function of this name that a module of this configuration defines. The
 * configuration before may have loaded another file with the same function:
 * that file is still loaded, and the linker finds it first. So each module's
 * own file is searched. NULL: no module defines the function.
 */

void *
ngx_http_ebbtide_symbol(ngx_cycle_t *cycle, const char *name)
{
    void        *base, *symbol;
    Dl_info      object;
    ngx_uint_t   i;

    base = NULL;

    for (i = 0; cycle->modules[i]; i++) {

        if (dladdr(cycle->modules[i], &object) == 0
            || object.dli_fbase == base)
        {
            continue;
        }

        /* most modules lie in the program, one after the other */
        base = object.dli_fbase;
        symbol = ngx_http_ebbtide_symbol_beside(cycle->modules[i], name);

        if (symbol) {
            return symbol;
        }
    }

    return NULL;
}


/* Whether there is an HTTP Lua module, which makes VMs. */

ngx_uint_t
ngx_http_ebbtide_has_lua_module(ngx_cycle_t *cycle)
{
    return ngx_http_ebbtide_symbol(cycle, "ngx_http_lua_get_global_state")
           != NULL;
}


/*
 * Fills in what the functions of the stream Lua module take. NGX_DECLINED:
 * there is no stream module, or no block for it.
 */

ngx_int_t
ngx_http_ebbtide_stream_conf(ngx_cycle_t *cycle, ngx_conf_t *conf)
{
    ngx_module_t  *stream;

    stream = ngx_http_ebbtide_symbol(cycle, "ngx_stream_module");

    if (stream == NULL || stream->index == NGX_MODULE_UNSET_INDEX
        || cycle->conf_ctx[stream->index] == NULL)
    {
        return NGX_DECLINED;
    }

    ngx_memzero(conf, sizeof(ngx_conf_t));
    conf->ctx = cycle->conf_ctx[stream->index];
    conf->cycle = cycle;
    conf->pool = cycle->pool;
    conf->log = cycle->log;

    return NGX_OK;
}
