
/*
 * ebbtide for nginx: gives every Lua VM a heap that gives memory back.
 *
 * ngx_http_ebbtide_module.c    directives; the life of processes
 * ngx_http_ebbtide_hooks.c     calls to Lua that come here first
 * ngx_http_ebbtide_copy.c      heaps of other copies of the library
 * ngx_http_ebbtide_settings.c  what contradicts itself is refused
 * ngx_http_ebbtide_variables.c variables, and what has no effect
 * ngx_http_ebbtide_limits.c    retain and the limits of each heap
 * ngx_http_ebbtide_vm.c        the VMs, and how they come to their heaps
 * ngx_http_ebbtide_idle.c      when they collect garbage and return memory
 * ngx_http_ebbtide_collect.c   the garbage collector of a VM, in slices
 * ngx_http_ebbtide_zone.c      the figures of all workers, in shared memory
 * ngx_http_ebbtide_resty.c     require "resty.ebbtide"
 * ngx_http_ebbtide_status.c    the page, JSON, and Prometheus
 */


#ifndef _NGX_HTTP_EBBTIDE_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ebbtide.h>


typedef struct lua_State  lua_State;


/* What of Lua's interface is called; found when the first VM is made. */

typedef void *(*ngx_http_ebbtide_lua_alloc_pt)(void *ud, void *ptr,
    size_t osize, size_t nsize);
typedef int (*ngx_http_ebbtide_lua_pt)(lua_State *L);

typedef struct {
    int          (*gc)(lua_State *L, int what, int data);
    ngx_http_ebbtide_lua_pt
                 (*atpanic)(lua_State *L, ngx_http_ebbtide_lua_pt func);
    int          (*cpcall)(lua_State *L, ngx_http_ebbtide_lua_pt func,
                           void *ud);
    int          (*pcall)(lua_State *L, int args, int results, int handler);
    void         (*pushlightuserdata)(lua_State *L, void *p);
    void         (*rawget)(lua_State *L, int index);
    void         (*settop)(lua_State *L, int index);
    int          (*gettop)(lua_State *L);
    int          (*type)(lua_State *L, int index);
    const char  *(*tolstring)(lua_State *L, int index, size_t *len);
    void         (*pushnumber)(lua_State *L, double n);
    void         (*pushnil)(lua_State *L);
    void         (*pushlstring)(lua_State *L, const char *s, size_t len);
    void         (*pushvalue)(lua_State *L, int index);
    void         (*pushcclosure)(lua_State *L, ngx_http_ebbtide_lua_pt func,
                                 int n);
    void         (*createtable)(lua_State *L, int array, int hash);
    void         (*getfield)(lua_State *L, int index, const char *name);
    void         (*setfield)(lua_State *L, int index, const char *name);
    void         (*rawset)(lua_State *L, int index);
    void         (*rawgeti)(lua_State *L, int index, int n);
    void         (*rawseti)(lua_State *L, int index, int n);
    int          (*setmetatable)(lua_State *L, int index);
    int          (*next)(lua_State *L, int index);
    void         (*insert)(lua_State *L, int index);
    void         (*call)(lua_State *L, int args, int results);
    ngx_http_ebbtide_lua_alloc_pt
                 (*getallocf)(lua_State *L, void **ud);
    void         (*setallocf)(lua_State *L, ngx_http_ebbtide_lua_alloc_pt f,
                              void *ud);
} ngx_http_ebbtide_lua_t;


#define NGX_HTTP_EBBTIDE_LUA_REGISTRY      (-10000)
#define NGX_HTTP_EBBTIDE_LUA_GLOBALS       (-10002)

#define NGX_HTTP_EBBTIDE_LUA_ERRMEM        4

#define NGX_HTTP_EBBTIDE_LUA_TNIL          0
#define NGX_HTTP_EBBTIDE_LUA_TSTRING       4

#define NGX_HTTP_EBBTIDE_LUA_GCRESTART     1
#define NGX_HTTP_EBBTIDE_LUA_GCCOLLECT     2
#define NGX_HTTP_EBBTIDE_LUA_GCCOUNT       3
#define NGX_HTTP_EBBTIDE_LUA_GCCOUNTB      4
#define NGX_HTTP_EBBTIDE_LUA_GCSETPAUSE    6
#define NGX_HTTP_EBBTIDE_LUA_GCSETSTEPMUL  7
#define NGX_HTTP_EBBTIDE_LUA_GCISRUNNING   9


/*
 * What is called for a heap. Another copy of the library in the process has
 * functions of its own for its heaps.
 */

typedef struct {
    ebb_heap    *(*heap_of)(struct lua_State *L);
    int          (*on_close)(ebb_heap *heap, void (*closed)(void *context),
                             void *context);
    int          (*share)(struct lua_State *L);
    int          (*tick)(ebb_heap *heap, uint32_t budget_us);
    int          (*next_tick)(ebb_heap *heap);
    int          (*reclaim)(ebb_heap *heap, const ebb_reclaim_options *options,
                            ebb_reclaim_report *report);
    int          (*pressure)(ebb_heap *heap);
    int          (*stats_read)(ebb_heap *heap, ebb_stats *stats);
    int          (*get)(ebb_heap *heap, const char *name, int64_t *value);
    int          (*set)(ebb_heap *heap, const char *name, int64_t value);
    const char  *(*strerror)(int code);
} ngx_http_ebbtide_api_t;


/* A function whose calls are hooked. */

typedef struct {
    const char                *name;
    /* what is called in its place */
    void                      *function;
    void                      *real;
    /* how many slots lead to the hook */
    ngx_uint_t                 slots;
} ngx_http_ebbtide_hook_t;

#define NGX_HTTP_EBBTIDE_HOOK_NEWSTATE  0
#define NGX_HTTP_EBBTIDE_HOOK_CLOSE     1
#define NGX_HTTP_EBBTIDE_HOOK_PCALL     2
#define NGX_HTTP_EBBTIDE_HOOK_LOAD      3


typedef enum {
    /* Lua runs: only what is due goes back */
    NGX_HTTP_EBBTIDE_BUSY = 0,
    /* Lua was quiet for ebbtide_idle: garbage is collected */
    NGX_HTTP_EBBTIDE_COLLECTING,
    /* what is free goes back */
    NGX_HTTP_EBBTIDE_RETURNING,
    /* nothing is left to do */
    NGX_HTTP_EBBTIDE_SETTLED
} ngx_http_ebbtide_phase_e;


/* What the VMs of a kind hold, in bytes. */

typedef struct {
    uint64_t                   count;
    uint64_t                   live;
    uint64_t                   waste;
    uint64_t                   free_resident;
    uint64_t                   returned;
    uint64_t                   metadata;
    uint64_t                   resident;
    uint64_t                   committed;
    uint64_t                   reserved;
    uint64_t                   returned_total;
    uint64_t                   refaulted_total;
    uint64_t                   premature_refaults_total;
    /* how often an allocation was refused */
    uint64_t                   refused_total;
    /* of these, for want of address space below RLIMIT_AS */
    uint64_t                   refused_space_total;
    /* VMs that need again at once what their limit has them give back */
    uint64_t                   thrashing;
    /* with which the kernel last took no memory back; 0: it does */
    uint64_t                   purge_errno;
} ngx_http_ebbtide_usage_t;


typedef struct {
    ngx_queue_t                queue;
    lua_State                 *lua;
    ebb_heap                  *heap;
    /* of the copy of the library that the heap is of */
    const ngx_http_ebbtide_api_t
                              *api;

    /* made with the configuration, and inherited by the workers */
    unsigned                   configured:1;
    unsigned                   attached:1;
    /* the heap was made with the options of the config */
    unsigned                   born:1;

    /* what it held when it was last looked at */
    ngx_http_ebbtide_usage_t  usage;

    /* the rest is of VMs that run on the thread of the event loop */

    ngx_http_ebbtide_phase_e   phase;
    /* somebody asked for it: traffic does not stop it */
    unsigned                   asked:1;
    /* and there was some, or garbage is left: it is to be collected again */
    unsigned                   recollect:1;
    unsigned                   hurried:1;
    /* the function that collects is in the VM's registry */
    unsigned                   prepared:1;
    /* a weak value is there that the end of a marking clears */
    unsigned                   watched:1;
    /* bytes that Lua counts; they change when it runs */
    uint64_t                   bytes;
    /* as they were when it was active, or its garbage was collected */
    uint64_t                   quiet_bytes;
    ngx_msec_t                 active;
    /* ends of markings since the collection in slices began */
    ngx_uint_t                 markings;
    /* what there was when a collection in slices began, and when it ended */
    uint64_t                   begun;
    uint64_t                   collected;
    /* when it ended, and for how long no other follows what little came since */
    ngx_msec_t                 settled_at;
    ngx_msec_t                 recollect_after;
    /* the collector as the program set it, and as it was set here */
    int                        pause;
    int                        stepmul;
    int                        our_pause;
    int                        our_stepmul;
} ngx_http_ebbtide_vm_t;


/* How VMs are made. */

typedef struct {
    /* on heaps, with these options */
    ngx_flag_t                 enabled;
    /* the configuration says that none is to be */
    ngx_flag_t                 off;
    ebb_options                options;
    /* what directives alone say, for a heap that is there already */
    ebb_options                directives;
    /* requests are served: of one of these or of a thread, not configured */
    ngx_uint_t                 started;
} ngx_http_ebbtide_vm_config_t;


/* How VMs came to their heaps, for the log. */

#define NGX_HTTP_EBBTIDE_NO_VM     0
#define NGX_HTTP_EBBTIDE_MADE      1
#define NGX_HTTP_EBBTIDE_ATTACHED  2


typedef struct {
    /* bytes, EBB_ZERO for off, or EBB_CGROUP */
    int64_t                    bytes;
    /* of the memory that the cgroup allows; 0: not given so */
    ngx_uint_t                 percent;
} ngx_http_ebbtide_limit_t;


/* Where a directive stands, and whether it has any effect. */

typedef struct ngx_http_ebbtide_given_s  ngx_http_ebbtide_given_t;

struct ngx_http_ebbtide_given_s {
    ngx_http_ebbtide_given_t  *next;
    ngx_str_t                  file;
    ngx_uint_t                 line;
    ngx_uint_t                 used;
};


typedef struct {
    ngx_flag_t                 enable;
    ngx_msec_t                 idle;
    ngx_uint_t                 step_us;
    ebb_options                options;
    ngx_http_ebbtide_limit_t   limit_soft;
    ngx_http_ebbtide_limit_t   limit_hard;
    size_t                     zone_size;
    ngx_shm_zone_t            *zone;
    /* which one this is of the configurations that the master has read */
    uint32_t                   generation;
    /* directives that are given, with commas between them, for the log */
    ngx_str_t                  given;
    /* where ebbtide_status_reclaim is switched on */
    ngx_http_ebbtide_given_t  *reclaims;
    /* "env" directives that were looked at */
    ngx_uint_t                 env_checked;
} ngx_http_ebbtide_main_conf_t;


typedef struct {
    ngx_flag_t                 reclaim;
    /* the directive that switched it on */
    ngx_http_ebbtide_given_t  *reclaim_given;
    /* whether the page is here */
    ngx_uint_t                 status;
} ngx_http_ebbtide_loc_conf_t;


typedef struct {
    ngx_msec_t                 time;
    uint64_t                   live;
    uint64_t                   free_resident;
    uint64_t                   returned;
    uint64_t                   rss;
} ngx_http_ebbtide_sample_t;


/* one a second: those of five minutes, and some */
#define NGX_HTTP_EBBTIDE_SAMPLES  320

#define NGX_HTTP_EBBTIDE_MAIN     0
#define NGX_HTTP_EBBTIDE_OTHER    1
#define NGX_HTTP_EBBTIDE_KINDS    2

/* a VM needs some, and its libraries */
#define NGX_HTTP_EBBTIDE_LIMIT_MIN     (8 * 1024 * 1024)

/* bytes of a size as text, "51.2m", with the zero at its end */
#define NGX_HTTP_EBBTIDE_SIZE_LEN      (NGX_INT64_LEN + 4)

/* bytes of the name of a kind of process, with the zero at its end */
#define NGX_HTTP_EBBTIDE_PROCESS_NAME  32


/* The figures of one process. Times are those of ngx_current_msec. */

typedef struct {
    /* "worker", "privileged agent", "cache manager" or another helper's name */
    char                       process[NGX_HTTP_EBBTIDE_PROCESS_NAME];
    /* the number of a worker; other processes have none */
    ngx_uint_t                worker;
    ngx_uint_t                exiting;
    ngx_msec_t                since;
    ngx_msec_t                updated;
    uint64_t                  rss;
    ngx_http_ebbtide_usage_t  usage[NGX_HTTP_EBBTIDE_KINDS];
    uint64_t                  limit_soft;
    uint64_t                  limit_hard;
    uint64_t                  pressure;
    /* how often a worker of this number was started anew */
    uint64_t                   restarts;
    uint64_t                   trend;
    ngx_http_ebbtide_phase_e   phase;
    uint64_t                   steps;
    uint64_t                   step_p50_us;
    uint64_t                   step_p99_us;
    uint64_t                   step_max_us;
    ngx_uint_t                 sample_count;
    ngx_http_ebbtide_sample_t  samples[NGX_HTTP_EBBTIDE_SAMPLES];
} ngx_http_ebbtide_stats_t;


typedef struct {
    /* whose it is; 0: nobody's */
    ngx_atomic_t               pid;
    /* odd while the figures are written */
    ngx_atomic_t              sequence;
    ngx_http_ebbtide_stats_t  stats;
} ngx_http_ebbtide_slot_t;


/* The workers of a number, one after the other. */

typedef struct {
    /* of the last one's configuration; 0: there was none */
    uint32_t                   generation;
    uint32_t                   restarts;
} ngx_http_ebbtide_seat_t;


/* those of workers from this number on are not counted */
#define NGX_HTTP_EBBTIDE_SEATS    256
/* beside them that of the privileged agent */
#define NGX_HTTP_EBBTIDE_AGENT    NGX_HTTP_EBBTIDE_SEATS


typedef struct {
    ngx_atomic_t               asked;
    ngx_http_ebbtide_seat_t    seats[NGX_HTTP_EBBTIDE_SEATS + 1];
    ngx_uint_t                 slot_count;
    ngx_http_ebbtide_slot_t    slots[1];
} ngx_http_ebbtide_zone_t;


/* ngx_http_ebbtide_hooks.c */

ngx_int_t ngx_http_ebbtide_hooks_set(ngx_pool_t *pool);
ngx_uint_t ngx_http_ebbtide_hooks_count(void);
ngx_err_t ngx_http_ebbtide_hooks_failed(void);
void *ngx_http_ebbtide_hooked(ngx_uint_t hook);

/* ngx_http_ebbtide_copy.c */

const ngx_http_ebbtide_api_t *ngx_http_ebbtide_own_api(void);
const ngx_http_ebbtide_api_t *ngx_http_ebbtide_api_of(lua_State *L,
    ngx_log_t *log);
void *ngx_http_ebbtide_symbol_beside(const void *address, const char *name);
ngx_uint_t ngx_http_ebbtide_preloaded(void);
ngx_uint_t ngx_http_ebbtide_linked(void);

/* ngx_http_ebbtide_settings.c */

ngx_int_t ngx_http_ebbtide_settings_check(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
ngx_int_t ngx_http_ebbtide_given_list(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
ngx_http_ebbtide_given_t *ngx_http_ebbtide_given_here(ngx_conf_t *cf);

/* ngx_http_ebbtide_variables.c */

ngx_int_t ngx_http_ebbtide_environment(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
char **ngx_http_ebbtide_env(ngx_cycle_t *cycle, ngx_core_conf_t *ccf);
ngx_int_t ngx_http_ebbtide_no_effect(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_no_lua(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_env_check_rest(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf);

/* ngx_http_ebbtide_limits.c */

void ngx_http_ebbtide_options(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf, ebb_options *options);
void ngx_http_ebbtide_limits(ngx_cycle_t *cycle,
    ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_vm_bounds(ngx_http_ebbtide_vm_t *vm,
    const ebb_options *given, const ebb_options *directives, ngx_log_t *log);
int64_t ngx_http_ebbtide_limit_bytes(ngx_cycle_t *cycle,
    ngx_http_ebbtide_limit_t *limit, const char *name);
const char *ngx_http_ebbtide_size(u_char *text, int64_t bytes);

/* ngx_http_ebbtide_vm.c */

ngx_http_ebbtide_vm_config_t *ngx_http_ebbtide_vm_config(void);
ngx_queue_t *ngx_http_ebbtide_vms(void);
ngx_http_ebbtide_vm_t *ngx_http_ebbtide_vm_configured(
    ngx_http_ebbtide_vm_t *before);
ngx_int_t ngx_http_ebbtide_vms_watch(ngx_cycle_t *cycle);
void ngx_http_ebbtide_vms_take_early(ngx_conf_t *cf);
void ngx_http_ebbtide_vms_take_stream(ngx_cycle_t *cycle);
ngx_int_t ngx_http_ebbtide_stream_conf(ngx_cycle_t *cycle, ngx_conf_t *conf);
ngx_uint_t ngx_http_ebbtide_vms_reading(void);
void ngx_http_ebbtide_vms_complete(void);
void *ngx_http_ebbtide_symbol(ngx_cycle_t *cycle, const char *name);
ngx_uint_t ngx_http_ebbtide_vms_expected(ngx_cycle_t *cycle);
ngx_uint_t ngx_http_ebbtide_vms_way(void);
lua_State *ngx_http_ebbtide_newstate(void);
void ngx_http_ebbtide_close(lua_State *L);
int ngx_http_ebbtide_pcall(lua_State *L, int args, int results, int handler);
const ngx_http_ebbtide_lua_t *ngx_http_ebbtide_lua(void);

/* ngx_http_ebbtide_idle.c */

void ngx_http_ebbtide_idle_reclaim(ngx_log_t *log);
void ngx_http_ebbtide_idle_slices(ngx_http_ebbtide_stats_t *stats);
void ngx_http_ebbtide_idle_start(ngx_http_ebbtide_main_conf_t *emcf);

uint64_t ngx_http_ebbtide_now_us(void);

/* ngx_http_ebbtide_collect.c */

ngx_int_t ngx_http_ebbtide_collect_ready(ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_collect_all(ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_collect_task_ready(lua_State *L);
void ngx_http_ebbtide_collect_task(lua_State *L);
void ngx_http_ebbtide_collect_begin(ngx_http_ebbtide_vm_t *vm);
ngx_int_t ngx_http_ebbtide_collect(ngx_http_ebbtide_vm_t *vm,
    uint64_t until_us);
ngx_uint_t ngx_http_ebbtide_collect_hurry(ngx_http_ebbtide_vm_t *vm);
uint64_t ngx_http_ebbtide_lua_bytes(ngx_http_ebbtide_vm_t *vm);

/* ngx_http_ebbtide_zone.c */

char *ngx_http_ebbtide_zone_add(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
ngx_http_ebbtide_zone_t *ngx_http_ebbtide_zone(void);
void ngx_http_ebbtide_zone_open(ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_zone_leave(void);
ngx_uint_t ngx_http_ebbtide_is_worker(ngx_http_ebbtide_stats_t *stats);
ngx_uint_t ngx_http_ebbtide_zone_publish(ngx_msec_t now);
ngx_uint_t ngx_http_ebbtide_zone_request_reclaim(ngx_log_t *log);
ngx_uint_t ngx_http_ebbtide_zone_reclaim_requested(void);
ngx_http_ebbtide_stats_t *ngx_http_ebbtide_zone_copy(ngx_uint_t index,
    ngx_pid_t *pid);
void ngx_http_ebbtide_usage(ngx_http_ebbtide_stats_t *stats);
void ngx_http_ebbtide_usage_closed(ngx_http_ebbtide_vm_t *vm);
ngx_msec_t ngx_http_ebbtide_ago(ngx_msec_t then);

/* ngx_http_ebbtide_resty.c */

ngx_int_t ngx_http_ebbtide_lua_preload(ngx_conf_t *cf);
void ngx_http_ebbtide_lua_preload_stream(ngx_cycle_t *cycle);
void ngx_http_ebbtide_lua_preload_vm(lua_State *L);

/* ngx_http_ebbtide_status.c */

ngx_int_t ngx_http_ebbtide_status_handler(ngx_http_request_t *r);

extern ngx_module_t  ngx_http_ebbtide_module;

extern const char  *ngx_http_ebbtide_trends[];
extern const char  *ngx_http_ebbtide_phases[];


#endif /* _NGX_HTTP_EBBTIDE_H_INCLUDED_ */
