
/*
 * Hooks: calls from nginx and its modules to luaL_newstate, lua_close and
 * lua_pcall, and from nginx to dlopen, come here first. What else is loaded, C
 * modules of Lua for example, makes and runs its VMs as ever.
 *
 * An object calls a function of another one through a slot in a table of its
 * own, which the dynamic linker has filled in. The relocations of the object say
 * where the slots are, and for which functions. A hook is an address written
 * into such a slot. Nothing has to be loaded in any order, and LuaJIT itself
 * stays as it is.
 *
 * What a program calls that has LuaJIT inside has no slot, and no hook: the VM
 * of the HTTP Lua module is then changed over.
 */


#include "ngx_http_ebbtide.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>


#if (defined __x86_64__)

#define NGX_HTTP_EBBTIDE_R_SLOT      R_X86_64_JUMP_SLOT
#define NGX_HTTP_EBBTIDE_R_DATA      R_X86_64_GLOB_DAT
#define NGX_HTTP_EBBTIDE_R_ABSOLUTE  R_X86_64_64

#elif (defined __aarch64__)

#define NGX_HTTP_EBBTIDE_R_SLOT      R_AARCH64_JUMP_SLOT
#define NGX_HTTP_EBBTIDE_R_DATA      R_AARCH64_GLOB_DAT
#define NGX_HTTP_EBBTIDE_R_ABSOLUTE  R_AARCH64_ABS64

#else
#error "ebbtide runs on x86-64 and arm64"
#endif


typedef void *(*ngx_http_ebbtide_dlopen_pt)(const char *name, int flags);


/* a loaded object: the program or a library */

typedef struct {
    ElfW(Addr)         base;
    const ElfW(Phdr)  *headers;
    ngx_uint_t         header_count;
    const char        *name;
} ngx_http_ebbtide_object_t;


/* its dynamic section, as far as it matters here */

typedef struct {
    const ElfW(Sym)   *symbols;
    const char        *names;
    const ElfW(Rela)  *relocations;
    size_t             relocation_bytes;
    const ElfW(Rela)  *jumps;
    size_t             jump_bytes;
} ngx_http_ebbtide_tables_t;


static int ngx_http_ebbtide_hooks_list(struct dl_phdr_info *info, size_t size,
    void *data);
static ngx_uint_t ngx_http_ebbtide_object_holds(
    const ngx_http_ebbtide_object_t *object, const void *address);
static ngx_uint_t ngx_http_ebbtide_object_is_nginx(
    const ngx_http_ebbtide_object_t *object);
static void ngx_http_ebbtide_object_hook(
    const ngx_http_ebbtide_object_t *object);
static void ngx_http_ebbtide_object_tables(
    const ngx_http_ebbtide_object_t *object, ngx_http_ebbtide_tables_t *tables);
static const void *ngx_http_ebbtide_object_address(
    const ngx_http_ebbtide_object_t *object, ElfW(Addr) value);
static void ngx_http_ebbtide_hook_relocations(
    const ngx_http_ebbtide_object_t *object,
    const ngx_http_ebbtide_tables_t *tables, const ElfW(Rela) *relocation,
    size_t bytes);
static void ngx_http_ebbtide_hook_slot(const ngx_http_ebbtide_object_t *object,
    ngx_http_ebbtide_hook_t *hook, void **slot, ngx_uint_t may_be_lazy);
static ngx_uint_t ngx_http_ebbtide_slot_is_read_only(
    const ngx_http_ebbtide_object_t *object, void **slot);
static void *ngx_http_ebbtide_load(const char *name, int flags);


/*
 * A program that this module is built into, and LuaJIT too, calls these:
 * nginx/config has the linker see to it (--wrap).
 */

lua_State *__wrap_luaL_newstate(void);
void __wrap_lua_close(lua_State *L);
int __wrap_lua_pcall(lua_State *L, int args, int results, int handler);
/* NULL in any other program */
extern lua_State *__real_luaL_newstate(void) __attribute__((weak));


/* why a table could not be written into, if one could not */
static ngx_err_t                ngx_http_ebbtide_hooks_errno;

static ngx_http_ebbtide_hook_t  ngx_http_ebbtide_hooks[] = {
    { "luaL_newstate", (void *) ngx_http_ebbtide_newstate, NULL, 0 },
    { "lua_close", (void *) ngx_http_ebbtide_close, NULL, 0 },
    { "lua_pcall", (void *) ngx_http_ebbtide_pcall, NULL, 0 },
    { "dlopen", (void *) ngx_http_ebbtide_load, NULL, 0 },
    { NULL, NULL, NULL, 0 }
};


/*
 * Sets the hooks in all objects that are loaded, unless they are there. The
 * thread is the only one, or no other loads anything meanwhile.
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
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* the loader holds a lock while it lists: what else is asked of it waits */

    if (dl_iterate_phdr(ngx_http_ebbtide_hooks_list, &objects) != 0) {
        return NGX_ERROR;
    }

    object = objects.elts;

    for (i = 0; i < objects.nelts; i++) {
        ngx_http_ebbtide_object_hook(&object[i]);
    }

    ngx_array_destroy(&objects);

    return NGX_OK;
}


static int
ngx_http_ebbtide_hooks_list(struct dl_phdr_info *info, size_t size, void *data)
{
    ngx_array_t                *objects = data;
    ngx_http_ebbtide_object_t  *object;

    object = ngx_array_push(objects);
    if (object == NULL) {
        return NGX_ERROR;
    }

    object->base = info->dlpi_addr;
    object->headers = info->dlpi_phdr;
    object->header_count = info->dlpi_phnum;
    object->name = info->dlpi_name;

    return NGX_OK;
}


lua_State *
__wrap_luaL_newstate(void)
{
    return ngx_http_ebbtide_newstate();
}


void
__wrap_lua_close(lua_State *L)
{
    ngx_http_ebbtide_close(L);
}


int
__wrap_lua_pcall(lua_State *L, int args, int results, int handler)
{
    return ngx_http_ebbtide_pcall(L, args, results, handler);
}


/* Why there are no more of them: 0, if no table kept its hook off. */

ngx_err_t
ngx_http_ebbtide_hooks_failed(void)
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


/* The function that a hook stands before. NULL: the process has none. */

void *
ngx_http_ebbtide_hooked(ngx_uint_t hook)
{
    return ngx_http_ebbtide_hooks[hook].real;
}


static ngx_uint_t
ngx_http_ebbtide_object_holds(const ngx_http_ebbtide_object_t *object,
    const void *address)
{
    ngx_uint_t         i;
    ElfW(Addr)         start;
    const ElfW(Phdr)  *header;

    for (i = 0; i < object->header_count; i++) {
        header = &object->headers[i];
        start = object->base + header->p_vaddr;

        if (header->p_type == PT_LOAD
            && (ElfW(Addr)) address - start < header->p_memsz)
        {
            return 1;
        }
    }

    return 0;
}


/* Whether an object is nginx, or one of its modules but this one. */

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


static void
ngx_http_ebbtide_object_hook(const ngx_http_ebbtide_object_t *object)
{
    ngx_http_ebbtide_tables_t  tables;

    if (!ngx_http_ebbtide_object_is_nginx(object)) {
        return;
    }

    ngx_memzero(&tables, sizeof(ngx_http_ebbtide_tables_t));
    ngx_http_ebbtide_object_tables(object, &tables);

    if (tables.symbols == NULL || tables.names == NULL) {
        return;
    }

    ngx_http_ebbtide_hook_relocations(object, &tables, tables.relocations,
                                      tables.relocation_bytes);
    ngx_http_ebbtide_hook_relocations(object, &tables, tables.jumps,
                                      tables.jump_bytes);
}


static void
ngx_http_ebbtide_object_tables(const ngx_http_ebbtide_object_t *object,
    ngx_http_ebbtide_tables_t *tables)
{
    ngx_uint_t        i;
    const ElfW(Dyn)  *entry;

    entry = NULL;

    for (i = 0; i < object->header_count; i++) {
        if (object->headers[i].p_type == PT_DYNAMIC) {
            entry = (const ElfW(Dyn) *)
                        (object->base + object->headers[i].p_vaddr);
        }
    }

    for ( /* void */ ; entry && entry->d_tag != DT_NULL; entry++) {

        switch (entry->d_tag) {

        case DT_SYMTAB:
            tables->symbols = ngx_http_ebbtide_object_address(object,
                                                          entry->d_un.d_ptr);
            break;

        case DT_STRTAB:
            tables->names = ngx_http_ebbtide_object_address(object,
                                                          entry->d_un.d_ptr);
            break;

        case DT_RELA:
            tables->relocations = ngx_http_ebbtide_object_address(object,
                                                          entry->d_un.d_ptr);
            break;

        case DT_RELASZ:
            tables->relocation_bytes = entry->d_un.d_val;
            break;

        case DT_JMPREL:
            tables->jumps = ngx_http_ebbtide_object_address(object,
                                                          entry->d_un.d_ptr);
            break;

        case DT_PLTRELSZ:
            tables->jump_bytes = entry->d_un.d_val;
            break;
        }
    }
}


/*
 * The linker has made absolute addresses of those in most dynamic sections; of
 * those that it may not write to, and in other C libraries, they are relative.
 */

static const void *
ngx_http_ebbtide_object_address(const ngx_http_ebbtide_object_t *object,
    ElfW(Addr) value)
{
    return (const void *) (value < object->base ? object->base + value : value);
}


static void
ngx_http_ebbtide_hook_relocations(const ngx_http_ebbtide_object_t *object,
    const ngx_http_ebbtide_tables_t *tables, const ElfW(Rela) *relocation,
    size_t bytes)
{
    void                    **slot;
    ngx_uint_t                type;
    const char               *name;
    const ElfW(Sym)          *symbol;
    const ElfW(Rela)         *end;
    ngx_http_ebbtide_hook_t  *hook;

    if (relocation == NULL) {
        return;
    }

    end = relocation + bytes / sizeof(ElfW(Rela));

    for ( /* void */ ; relocation < end; relocation++) {
        type = ELF64_R_TYPE(relocation->r_info);

        if (type != NGX_HTTP_EBBTIDE_R_SLOT
            && type != NGX_HTTP_EBBTIDE_R_DATA
            && (type != NGX_HTTP_EBBTIDE_R_ABSOLUTE || relocation->r_addend))
        {
            continue;
        }

        symbol = &tables->symbols[ELF64_R_SYM(relocation->r_info)];

        if (symbol->st_shndx != SHN_UNDEF) {
            /* a function of its own */
            continue;
        }

        name = tables->names + symbol->st_name;

        for (hook = ngx_http_ebbtide_hooks; hook->name; hook++) {

            if (ngx_strcmp(name, hook->name) == 0) {
                slot = (void **) (object->base + relocation->r_offset);
                ngx_http_ebbtide_hook_slot(object, hook, slot,
                                      type == NGX_HTTP_EBBTIDE_R_SLOT);
            }
        }
    }
}


static void
ngx_http_ebbtide_hook_slot(const ngx_http_ebbtide_object_t *object,
    ngx_http_ebbtide_hook_t *hook, void **slot, ngx_uint_t may_be_lazy)
{
    void        *page;
    size_t       size;
    ngx_uint_t   read_only;

    if (*slot == hook->function) {
        hook->slots++;
        return;
    }

    /*
     * Another function of this name, as of a Lua that a module brings along, is
     * none of ours. A slot for calls alone that leads into its own object waits
     * for the first call, when the linker fills it in.
     */

    if (hook->real == NULL
        || (*slot != hook->real
            && !(may_be_lazy && ngx_http_ebbtide_object_holds(object, *slot))))
    {
        return;
    }

    /* LuaJIT calls its own functions, and nginx alone loads modules */

    if (ngx_http_ebbtide_object_holds(object, hook->real)
        || (hook->function == (void *) ngx_http_ebbtide_load
            && !ngx_http_ebbtide_object_holds(object, (void *) ngx_alloc)))
    {
        return;
    }

    page = (void *) ((uintptr_t) slot & ~((uintptr_t) ngx_pagesize - 1));
    size = (u_char *) (slot + 1) - (u_char *) page;
    read_only = ngx_http_ebbtide_slot_is_read_only(object, slot);

    if (read_only && mprotect(page, size, PROT_READ|PROT_WRITE) == -1) {
        ngx_http_ebbtide_hooks_errno = ngx_errno;
        return;
    }

    *slot = hook->function;
    hook->slots++;

    if (read_only) {
        (void) mprotect(page, size, PROT_READ);
    }
}


/* What lies there was made read-only when it had been filled in. */

static ngx_uint_t
ngx_http_ebbtide_slot_is_read_only(const ngx_http_ebbtide_object_t *object,
    void **slot)
{
    ngx_uint_t         i;
    ElfW(Addr)         start, end;
    const ElfW(Phdr)  *header;

    for (i = 0; i < object->header_count; i++) {
        header = &object->headers[i];

        if (header->p_type != PT_GNU_RELRO) {
            continue;
        }

        /* of a page that is only partly meant, the linker leaves all as it is */
        start = (object->base + header->p_vaddr) & ~(ngx_pagesize - 1);
        end = (object->base + header->p_vaddr + header->p_memsz)
              & ~(ngx_pagesize - 1);

        if ((ElfW(Addr)) slot >= start && (ElfW(Addr)) slot < end) {
            return 1;
        }
    }

    return 0;
}


/* nginx loads a module, whose calls are to be hooked before it is used. */

static void *
ngx_http_ebbtide_load(const char *name, int flags)
{
    void                        *handle;
    ngx_pool_t                  *pool;
    ngx_http_ebbtide_dlopen_pt   real;

    real = (ngx_http_ebbtide_dlopen_pt)
               ngx_http_ebbtide_hooks[NGX_HTTP_EBBTIDE_HOOK_LOAD].real;
    handle = real(name, flags);

    /* a program with LuaJIT inside loads modules of Lua by this function, too */

    if (handle == NULL || !ngx_http_ebbtide_vms_reading()) {
        return handle;
    }

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, ngx_cycle->log);

    if (pool) {
        (void) ngx_http_ebbtide_hooks_set(pool);
        ngx_destroy_pool(pool);
    }

    return handle;
}
