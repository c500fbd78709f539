
#include "ngx_http_ebbtide_elf.h"

#include <elf.h>
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


/* The entries of an object's dynamic section that are read here. */

typedef struct {
    const ElfW(Sym)   *symbols;
    const char        *names;
    const ElfW(Rela)  *relocations;
    size_t             relocation_bytes;
    const ElfW(Rela)  *jumps;
    size_t             jump_bytes;
} ngx_http_ebbtide_tables_t;


static int ngx_http_ebbtide_objects_add(struct dl_phdr_info *info,
    size_t size, void *data);
static void ngx_http_ebbtide_object_tables(
    const ngx_http_ebbtide_object_t *object,
    ngx_http_ebbtide_tables_t *tables);
static const void *ngx_http_ebbtide_object_address(
    const ngx_http_ebbtide_object_t *object, ElfW(Addr) value);
static void ngx_http_ebbtide_object_relocations(
    const ngx_http_ebbtide_object_t *object,
    const ngx_http_ebbtide_tables_t *tables, const ElfW(Rela) *relocation,
    size_t bytes, ngx_http_ebbtide_slot_pt handler);
static ngx_uint_t ngx_http_ebbtide_slot_is_read_only(
    const ngx_http_ebbtide_object_t *object, void **slot);


/* Lists the loaded objects, each an ngx_http_ebbtide_object_t. */

ngx_int_t
ngx_http_ebbtide_objects_list(ngx_array_t *objects)
{
    /* the loader holds a lock while it lists: the objects are used later */

    return dl_iterate_phdr(ngx_http_ebbtide_objects_add, objects) == 0
           ? NGX_OK : NGX_ERROR;
}


static int
ngx_http_ebbtide_objects_add(struct dl_phdr_info *info, size_t size,
    void *data)
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


/* Whether an address lies in what is loaded of an object. */

ngx_uint_t
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


/* Calls the handler for each slot of an object. */

void
ngx_http_ebbtide_object_slots(const ngx_http_ebbtide_object_t *object,
    ngx_http_ebbtide_slot_pt handler)
{
    ngx_http_ebbtide_tables_t  tables;

    ngx_memzero(&tables, sizeof(ngx_http_ebbtide_tables_t));
    ngx_http_ebbtide_object_tables(object, &tables);

    if (tables.symbols == NULL || tables.names == NULL) {
        return;
    }

    ngx_http_ebbtide_object_relocations(object, &tables, tables.relocations,
                                        tables.relocation_bytes, handler);
    ngx_http_ebbtide_object_relocations(object, &tables, tables.jumps,
                                        tables.jump_bytes, handler);
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
 * In most dynamic sections the linker has made the addresses absolute. They
 * stay relative to the base in sections that are read-only, and in other C
 * libraries.
 */

static const void *
ngx_http_ebbtide_object_address(const ngx_http_ebbtide_object_t *object,
    ElfW(Addr) value)
{
    return (const void *) (value < object->base ? object->base + value : value);
}


static void
ngx_http_ebbtide_object_relocations(const ngx_http_ebbtide_object_t *object,
    const ngx_http_ebbtide_tables_t *tables, const ElfW(Rela) *relocation,
    size_t bytes, ngx_http_ebbtide_slot_pt handler)
{
    ngx_uint_t         type;
    const ElfW(Sym)   *symbol;
    const ElfW(Rela)  *end;

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
            /* the object defines the function itself */
            continue;
        }

        handler(object, tables->names + symbol->st_name,
                (void **) (object->base + relocation->r_offset),
                type == NGX_HTTP_EBBTIDE_R_SLOT);
    }
}


/*
 * Makes a slot lead to another function. Returns 0, or the errno of
 * mprotect().
 */

ngx_err_t
ngx_http_ebbtide_object_write(const ngx_http_ebbtide_object_t *object,
    void **slot, void *function)
{
    void        *page;
    size_t       size;
    ngx_uint_t   read_only;

    page = (void *) ((uintptr_t) slot & ~((uintptr_t) ngx_pagesize - 1));
    size = (u_char *) (slot + 1) - (u_char *) page;
    read_only = ngx_http_ebbtide_slot_is_read_only(object, slot);

    if (read_only && mprotect(page, size, PROT_READ|PROT_WRITE) == -1) {
        return ngx_errno;
    }

    *slot = function;

    if (read_only) {
        (void) mprotect(page, size, PROT_READ);
    }

    return 0;
}


/*
 * Whether the linker has made the slot's page read-only after it filled the
 * slot in.
 */

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

        /* a page that the section covers only partly stays writable */
        start = (object->base + header->p_vaddr) & ~(ngx_pagesize - 1);
        end = (object->base + header->p_vaddr + header->p_memsz)
              & ~(ngx_pagesize - 1);

        if ((ElfW(Addr)) slot >= start && (ElfW(Addr)) slot < end) {
            return 1;
        }
    }

    return 0;
}
