
/*
 * The Lua VMs of this process that have heaps, and what each of them holds.
 *
 * A VM is listed until its heap reports that the VM was closed. The thread of
 * the event loop makes and closes the VMs that are listed.
 *
 * Uses lua_api, copy.
 */


#ifndef _NGX_HTTP_EBBTIDE_VM_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_VM_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ebbtide.h>

#include "ngx_http_ebbtide_lua_api.h"
#include "ngx_http_ebbtide_copy.h"


/* Whether the configuration made the VM, or a request or a thread. */

typedef enum {
    NGX_HTTP_EBBTIDE_MAIN = 0,
    NGX_HTTP_EBBTIDE_OTHER
} ngx_http_ebbtide_kind_e;

#define NGX_HTTP_EBBTIDE_KINDS  2


/* What a VM, or the VMs of a kind, hold, in bytes. */

typedef struct {
    /* VMs */
    uint64_t                       count;
    uint64_t                       live;
    uint64_t                       waste;
    uint64_t                       free_resident;
    uint64_t                       returned;
    uint64_t                       metadata;
    uint64_t                       resident;
    uint64_t                       committed;
    uint64_t                       reserved;
    uint64_t                       returned_total;
    uint64_t                       refaulted_total;
    uint64_t                       premature_refaults_total;
    /* allocations refused, ever */
    uint64_t                       refused_total;
    /* of these, refused for want of address space below RLIMIT_AS */
    uint64_t                       refused_space_total;
    /* VMs that need at once again what their limit makes them return */
    uint64_t                       thrashing;
    /* VMs whose records on LuaJIT's own allocator are overwritten */
    uint64_t                       previous_damaged;
    /* with which the kernel last refused to take memory back; 0: none */
    uint64_t                       purge_errno;
} ngx_http_ebbtide_usage_t;


typedef enum {
    /* Lua runs: only what is due is returned */
    NGX_HTTP_EBBTIDE_BUSY = 0,
    /* Lua was quiet for ebbtide_idle: garbage is collected */
    NGX_HTTP_EBBTIDE_COLLECTING,
    /* free memory is returned */
    NGX_HTTP_EBBTIDE_RETURNING,
    /* nothing is left to do */
    NGX_HTTP_EBBTIDE_SETTLED
} ngx_http_ebbtide_phase_e;


typedef struct {
    ngx_queue_t                    queue;
    lua_State                     *lua;
    ebb_heap                      *heap;
    /* of the copy of the library that the heap belongs to */
    const ngx_http_ebbtide_api_t  *api;

    /* the configuration made the VM, and the workers inherit it */
    unsigned                       configured:1;
    /* the VM was made before it got its heap */
    unsigned                       attached:1;
    /* this module made the heap, with the options of the configuration */
    unsigned                       own_heap:1;

    /* what the VM held when it was last read */
    ngx_http_ebbtide_usage_t       usage;

    /* the rest is of VMs that run on the thread of the event loop */

    /* of phase: */

    ngx_http_ebbtide_phase_e       phase;
    /* a reclaim was requested: traffic does not stop it */
    unsigned                       requested:1;
    /* there was traffic meanwhile, or garbage is left: collect once more */
    unsigned                       recollect:1;
    /* bytes that Lua counts; they change when Lua runs */
    uint64_t                       bytes;
    /* these when the VM was last active, or its garbage was collected */
    uint64_t                       quiet_bytes;
    ngx_msec_t                     active_at;
    /* these when the last collection ended, and when that was */
    uint64_t                       collected_bytes;
    ngx_msec_t                     settled_at;
    /* how long a quiet VM is left alone before it is collected again */
    ngx_msec_t                     recollect_after;

    /* of collect: */

    /* the function that collects is in the VM's registry */
    unsigned                       prepared:1;
    /* a weak value is set, which the end of a marking clears */
    unsigned                       marker_set:1;
    /* ends of markings since the collection in slices began */
    ngx_uint_t                     markings;
    /* bytes that Lua counted when the collection in slices began */
    uint64_t                       begin_bytes;

    /* of pace: */

    /* the pace of the collector is that of a VM near its limit */
    unsigned                       paced:1;
    /* the collector's settings of the program, and those that pace made */
    int                            pause;
    int                            stepmul;
    int                            our_pause;
    int                            our_stepmul;
} ngx_http_ebbtide_vm_t;


ngx_queue_t *ngx_http_ebbtide_vms(void);
ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_configured(
    ngx_http_ebbtide_vm_t *before);
ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_find(lua_State *L);
ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_add(lua_State *L,
    const ngx_http_ebbtide_api_t *api, ngx_uint_t configured);
ngx_http_ebbtide_kind_e ngx_http_ebbtide_vm_kind(
    const ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_vm_read(ngx_http_ebbtide_vm_t *vm,
    ebb_stats *stats);
const ngx_http_ebbtide_usage_t *ngx_http_ebbtide_vms_closed(void);
const char *ngx_http_ebbtide_kind_name(ngx_http_ebbtide_kind_e kind);
const char *ngx_http_ebbtide_phase_name(ngx_http_ebbtide_phase_e phase);


#endif /* _NGX_HTTP_EBBTIDE_VM_H_INCLUDED_ */
