
#include "ngx_http_ebbtide_hooks.h"
#include "ngx_http_ebbtide_elf.h"

/* RTLD_DEFAULT: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


typedef void *(*ngx_http_ebbtide_dlopen_pt)(const char *name, int flags);


/* A function whose calls are hooked. */

typedef struct {
    const char                *name;
    /* what is called instead */
    void                      *function;
    void                      *real;
    /* slots that lead to the hook */
    ngx_uint_t                 slots;
} ngx_http_ebbtide_hook_t;


static ngx_uint_t ngx_http_ebbtide_object_is_nginx(
    const ngx_http_ebbtide_object_t *object);
static void ngx_http_ebbtide_hook_slot(
    const ngx_http_ebbtide_object_t *object, const char *name, void **slot,
    ngx_uint_t may_be_lazy);
static ngx_uint_t ngx_http_ebbtide_hook_fits(
    const ngx_http_ebbtide_object_t *object,
    const ngx_http_ebbtide_hook_t *hook, const void *function,
    ngx_uint_t may_be_lazy);


/*
 * In a program that has both LuaJIT and this module inside, nginx/config has
 * the linker replace the calls (--wrap). NULL in any other program.
 */
extern void *__real_luaL_newstate(void) __attribute__((weak));


/* with which mprotect() last kept a hook out of a slot, if any */
static ngx_err_t                ngx_http_ebbtide_hooks_errno;

/* in the order of ngx_http_ebbtide_hook_e */

static ngx_http_ebbtide_hook_t  ngx_http_ebbtide_hooks[] = {
    { "luaL_newstate", NULL, NULL, 0 },
    { "lua_close", NULL, NULL, 0 },
    { "lua_pcall", NULL, NULL, 0 },
    { "dlopen", NULL, NULL, 0 },
    { NULL, NULL, NULL, 0 }
};


/* Names the function that a hook leads to. */

void
ngx_http_ebbtide_hook(ngx_http_ebbtide_hook_e hook, void *function)
{
    ngx_http_ebbtide_hooks[hook].function = function;
}


/*
 * Sets the hooks in all objects that are loaded, unless they are there. No
 * other thread may load an object meanwhile.
 */

ngx_int_t
ngx_http_ebbtide_hooks_set(ngx_pool_t *pool)
{
    ngx_uint_t                  i;
    ngx_array_t                 objects;
    ngx_http_ebbtide_hook_t    *hook;
    ngx_http_ebbtide_object_t  *object;

    for (hook = ngx_http_ebbtide_hooks; hook->name; hook++) {
        hook->real = dlsym(RTLD_DEFAULT, hook->name);
        hook->slots = 0;
    }

    ngx_http_ebbtide_hooks_errno = 0;

    if (ngx_array_init(&objects, pool, 64, sizeof(ngx_http_ebbtide_object_t))
        != NGX_OK
        || ngx_http_ebbtide_objects_list(&objects) != NGX_OK)
    {
        return NGX_ERROR;
    }

    object = objects.elts;

    for (i = 0; i < objects.nelts; i++) {
        if (ngx_http_ebbtide_object_is_nginx(&object[i])) {
            ngx_http_ebbtide_object_slots(&object[i],
                                          ngx_http_ebbtide_hook_slot);
        }
    }

    ngx_array_destroy(&objects);

    return NGX_OK;
}


/* Whether an object is nginx, or one of its modules other than this one. */

static ngx_uint_t
ngx_http_ebbtide_object_is_nginx(const ngx_http_ebbtide_object_t *object)
{
    void                        *handle, *modules;
    ngx_http_ebbtide_dlopen_pt   real;

    if (ngx_http_ebbtide_object_holds(object, (void *) ngx_alloc)) {
        return 1;
    }

    if (ngx_http_ebbtide_object_holds(object,
                                  (void *) ngx_http_ebbtide_object_is_nginx))
    {
        return 0;
    }

    /* where this is part of the program, its calls are hooked too */
    real = (ngx_http_ebbtide_dlopen_pt)
               ngx_http_ebbtide_hooks[NGX_HTTP_EBBTIDE_HOOK_LOAD].real;
    handle = real(object->name, RTLD_LAZY|RTLD_NOLOAD);
    if (handle == NULL) {
        return 0;
    }

    /* what nginx looks for in the file of a module */
    modules = dlsym(handle, "ngx_modules");
    (void) dlclose(handle);

    return modules && ngx_http_ebbtide_object_holds(object, modules);
}


/* Sets the hook for the function that a slot leads to, if there is a hook. */

static void
ngx_http_ebbtide_hook_slot(const ngx_http_ebbtide_object_t *object,
    const char *name, void **slot, ngx_uint_t may_be_lazy)
{
    ngx_err_t                 err;
    ngx_http_ebbtide_hook_t  *hook;

    for (hook = ngx_http_ebbtide_hooks; hook->name; hook++) {

        if (ngx_strcmp(name, hook->name) != 0) {
            continue;
        }

        if (*slot != hook->function) {

            if (!ngx_http_ebbtide_hook_fits(object, hook, *slot, may_be_lazy)) {
                return;
            }

            err = ngx_http_ebbtide_object_write(object, slot, hook->function);

            if (err) {
                ngx_http_ebbtide_hooks_errno = err;
                return;
            }
        }

        hook->slots++;
        return;
    }
}


/* Whether a hook may replace the function that an object's slot leads to. */

static ngx_uint_t
ngx_http_ebbtide_hook_fits(const ngx_http_ebbtide_object_t *object,
    const ngx_http_ebbtide_hook_t *hook, const void *function,
    ngx_uint_t may_be_lazy)
{
    /*
     * Another function of this name, such as that of a Lua that a module
     * brings along, is not hooked. A lazy slot that leads into its own object
     * waits for the first call.
     */

    if (hook->real == NULL
        || (function != hook->real
            && !(may_be_lazy
                 && ngx_http_ebbtide_object_holds(object, function))))
    {
        return 0;
    }

    /* LuaJIT calls its own functions */

    if (ngx_http_ebbtide_object_holds(object, hook->real)) {
        return 0;
    }

    /* nginx alone loads modules of nginx */

    return hook != &ngx_http_ebbtide_hooks[NGX_HTTP_EBBTIDE_HOOK_LOAD]
           || ngx_http_ebbtide_object_holds(object, (void *) ngx_alloc);
}


/* The errno for which a slot has no hook. 0: each slot has its hook. */

ngx_err_t
ngx_http_ebbtide_hooks_error(void)
{
    return ngx_http_ebbtide_hooks_errno;
}


/* How many places that make VMs are hooked. */

ngx_uint_t
ngx_http_ebbtide_hooks_count(void)
{
    return ngx_http_ebbtide_hooks[NGX_HTTP_EBBTIDE_HOOK_NEWSTATE].slots
           + (__real_luaL_newstate != NULL);
}


/* The real function of a hook. NULL: the process has none. */

void *
ngx_http_ebbtide_real_function(ngx_http_ebbtide_hook_e hook)
{
    return ngx_http_ebbtide_hooks[hook].real;
}
