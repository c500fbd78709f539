
/*
 * The figures of all workers, in shared memory.
 *
 * A process takes a slot when it starts and leaves it when it ends. The slot of
 * one that was killed is taken by the next that needs one. Only its owner
 * writes a slot; a reader tries again when it was written meanwhile.
 */


#include "ngx_http_ebbtide.h"

#include <ngx_channel.h>

/* RTLD_DEFAULT: nginx defines _GNU_SOURCE on Linux */
#include <dlfcn.h>


#define NGX_HTTP_EBBTIDE_TRIES   100

#define NGX_HTTP_EBBTIDE_WORKER  "worker"

/* that VMs thrash is reported no more often than this */
#define NGX_HTTP_EBBTIDE_TELL    60000


static ngx_int_t ngx_http_ebbtide_zone_init(ngx_shm_zone_t *shm_zone,
    void *data);
static void ngx_http_ebbtide_zone_sit(uint32_t generation);
static void ngx_http_ebbtide_zone_enter(void);
static ngx_uint_t ngx_http_ebbtide_is_agent(void);
static void ngx_http_ebbtide_process_name(char *name);
static void ngx_http_ebbtide_helper_name(char *name);
static ngx_uint_t ngx_http_ebbtide_pid_is_gone(ngx_pid_t pid);
static ngx_http_ebbtide_sample_t *ngx_http_ebbtide_next_sample(
    ngx_http_ebbtide_stats_t *stats, ngx_msec_t now);
static ngx_uint_t ngx_http_ebbtide_tell(ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now);
static void ngx_http_ebbtide_wake(ngx_pid_t pid, ngx_log_t *log);
static void ngx_http_ebbtide_usage_read(ngx_http_ebbtide_stats_t *stats,
    ngx_http_ebbtide_vm_t *vm);
static uint64_t ngx_http_ebbtide_rss(void);


static ngx_http_ebbtide_zone_t  *ngx_http_ebbtide_zone_data;
/* this process's slot */
static ngx_http_ebbtide_slot_t  *ngx_http_ebbtide_slot;
/* which number's it is; NULL: it is not counted */
static ngx_http_ebbtide_seat_t  *ngx_http_ebbtide_seat;
/* when this process started */
static ngx_msec_t                ngx_http_ebbtide_since;
/* what VMs that are closed gave back */
static ngx_http_ebbtide_usage_t
    ngx_http_ebbtide_closed[NGX_HTTP_EBBTIDE_KINDS];
/* requests to reclaim that were seen */
static ngx_atomic_uint_t         ngx_http_ebbtide_reclaims_seen;
static ngx_fd_t                  ngx_http_ebbtide_statm = NGX_INVALID_FILE;


char *
ngx_http_ebbtide_zone_add(ngx_conf_t *cf, ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_str_t  name = ngx_string("ngx_http_ebbtide");

    emcf->zone = ngx_shared_memory_add(cf, &name, emcf->zone_size,
                                       &ngx_http_ebbtide_module);
    if (emcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    emcf->zone->init = ngx_http_ebbtide_zone_init;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_ebbtide_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    size_t                    size;
    ngx_slab_pool_t          *pool;
    ngx_http_ebbtide_zone_t  *zone;

    pool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data) {
        /* a reload: the old workers go on in it */
        shm_zone->data = data;
        return NGX_OK;
    }

    if (shm_zone->shm.exists) {
        shm_zone->data = pool->data;
        return NGX_OK;
    }

    size = pool->pfree * ngx_pagesize;
    zone = ngx_slab_calloc(pool, size);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->slot_count = (size - offsetof(ngx_http_ebbtide_zone_t, slots))
                       / sizeof(ngx_http_ebbtide_slot_t);
    pool->data = zone;
    shm_zone->data = zone;

    return NGX_OK;
}


/* NULL: the zone is off. */

ngx_http_ebbtide_zone_t *
ngx_http_ebbtide_zone(void)
{
    return ngx_http_ebbtide_zone_data;
}


/* From now on this process publishes its figures there. */

void
ngx_http_ebbtide_zone_open(ngx_http_ebbtide_main_conf_t *emcf)
{
    ngx_http_ebbtide_zone_data = emcf->zone ? emcf->zone->data : NULL;
    ngx_http_ebbtide_since = ngx_current_msec;

    if (ngx_http_ebbtide_zone_data) {
        ngx_http_ebbtide_reclaims_seen = ngx_http_ebbtide_zone_data->asked;
        ngx_http_ebbtide_zone_sit(emcf->generation);
    }
}


/*
 * Each configuration starts one worker of a number. Another one of the same
 * configuration is there because the one before it has died.
 */

static void
ngx_http_ebbtide_zone_sit(uint32_t generation)
{
    ngx_uint_t                number;
    ngx_http_ebbtide_seat_t  *seat;

    if (ngx_http_ebbtide_is_agent()) {
        number = NGX_HTTP_EBBTIDE_AGENT;

    } else if (ngx_process != NGX_PROCESS_HELPER
               && ngx_worker < NGX_HTTP_EBBTIDE_SEATS)
    {
        number = ngx_worker;

    } else {
        return;
    }

    seat = &ngx_http_ebbtide_zone_data->seats[number];

    if (seat->generation == generation) {
        seat->restarts++;
    }

    seat->generation = generation;
    ngx_http_ebbtide_seat = seat;
}


/*
 * Takes a slot; where there is none, one may be left later. Those of processes
 * that are gone are given up, all of them, before others get their numbers.
 */

static void
ngx_http_ebbtide_zone_enter(void)
{
    ngx_uint_t                i;
    ngx_atomic_uint_t         pid;
    ngx_http_ebbtide_slot_t  *slot;
    ngx_http_ebbtide_zone_t  *zone;
    static ngx_uint_t         told;

    zone = ngx_http_ebbtide_zone_data;

    if (zone == NULL) {
        return;
    }

    slot = NULL;

    for (i = 0; i < zone->slot_count; i++) {
        pid = zone->slots[i].pid;

        /* this process has no slot yet: its number was another's before */
        if (pid
            && (pid == (ngx_atomic_uint_t) ngx_pid
                || ngx_http_ebbtide_pid_is_gone(pid))
            && ngx_atomic_cmp_set(&zone->slots[i].pid, pid, 0))
        {
            pid = 0;
        }

        if (slot == NULL && pid == 0
            && ngx_atomic_cmp_set(&zone->slots[i].pid, 0, ngx_pid))
        {
            slot = &zone->slots[i];
        }
    }

    if (slot == NULL) {
        if (!told) {
            told = 1;
            ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                          "ebbtide: no room for the figures of this process; "
                          "raise ebbtide_zone");
        }

        return;
    }

    slot->sequence |= 1;
    ngx_memory_barrier();
    ngx_memzero(&slot->stats, sizeof(ngx_http_ebbtide_stats_t));
    slot->stats.since = ngx_http_ebbtide_since;
    slot->stats.phase = NGX_HTTP_EBBTIDE_SETTLED;
    ngx_memory_barrier();
    slot->sequence++;

    ngx_http_ebbtide_slot = slot;
    ngx_http_ebbtide_statm = ngx_open_file("/proc/self/statm", NGX_FILE_RDONLY,
                                           NGX_FILE_OPEN, 0);

    if (ngx_http_ebbtide_statm != NGX_INVALID_FILE) {
        (void) fcntl(ngx_http_ebbtide_statm, F_SETFD, FD_CLOEXEC);
    }
}


void
ngx_http_ebbtide_zone_leave(void)
{
    ngx_http_ebbtide_zone_data = NULL;
    ngx_http_ebbtide_seat = NULL;

    if (ngx_http_ebbtide_slot) {
        ngx_http_ebbtide_slot->pid = 0;
        ngx_http_ebbtide_slot = NULL;
    }

    if (ngx_http_ebbtide_statm != NGX_INVALID_FILE) {
        (void) ngx_close_file(ngx_http_ebbtide_statm);
        ngx_http_ebbtide_statm = NGX_INVALID_FILE;
    }
}


static ngx_uint_t
ngx_http_ebbtide_pid_is_gone(ngx_pid_t pid)
{
    return kill(pid, 0) == -1 && ngx_errno == ESRCH;
}


ngx_uint_t
ngx_http_ebbtide_is_worker(ngx_http_ebbtide_stats_t *stats)
{
    return ngx_strcmp(stats->process, NGX_HTTP_EBBTIDE_WORKER) == 0;
}


/*
 * OpenResty's privileged agent is a helper process that sets a variable, which
 * nginx has with OpenResty's patch alone.
 */

static ngx_uint_t
ngx_http_ebbtide_is_agent(void)
{
    ngx_uint_t         *agent;
    static ngx_uint_t   looked;
    static void        *symbol;

    if (!looked) {
        looked = 1;
        symbol = dlsym(RTLD_DEFAULT, "ngx_is_privileged_agent");
    }

    agent = symbol;

    return agent && *agent;
}


/*
 * Names the kind of this process. The number of a worker says nothing of other
 * processes: ngx_worker is 0 in all of them.
 */

static void
ngx_http_ebbtide_process_name(char *name)
{
    if (ngx_http_ebbtide_is_agent()) {
        (void) ngx_cpystrn((u_char *) name, (u_char *) "privileged agent",
                           NGX_HTTP_EBBTIDE_PROCESS_NAME);

    } else if (ngx_process == NGX_PROCESS_HELPER) {
        ngx_http_ebbtide_helper_name(name);

    } else {
        /* the only process of "master_process off" serves as worker 0 */
        (void) ngx_cpystrn((u_char *) name, (u_char *) NGX_HTTP_EBBTIDE_WORKER,
                           NGX_HTTP_EBBTIDE_PROCESS_NAME);
    }
}


/*
 * The title of a helper process, "nginx: cache manager process", is the one
 * place where nginx keeps its name. The name goes into JSON and into labels.
 */

static void
ngx_http_ebbtide_helper_name(char *name)
{
    char        *title;
    u_char       c;
    size_t       len, i;
    const char   end[] = " process";

    title = ngx_os_argv[0];

    if (ngx_strncmp(title, "nginx: ", 7) != 0) {
        title = "nginx: helper";
    }

    title += 7;
    len = ngx_strlen(title);

    if (len > sizeof(end) - 1
        && ngx_strcmp(title + len - (sizeof(end) - 1), end) == 0)
    {
        len -= sizeof(end) - 1;
    }

    len = ngx_min(len, NGX_HTTP_EBBTIDE_PROCESS_NAME - 1);

    for (i = 0; i < len; i++) {
        c = title[i];

        name[i] = ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z')
                   || (c >= 'a' && c <= 'z') || c == ' ' || c == '-')
                  ? c : '_';
    }

    name[len] = '\0';
}


/* Returns whether VMs of this process thrash: that ends by time alone. */

ngx_uint_t
ngx_http_ebbtide_zone_publish(ngx_msec_t now)
{
    ngx_uint_t                       i;
    ngx_http_ebbtide_slot_t         *slot;
    ngx_http_ebbtide_sample_t       *sample;
    ngx_http_ebbtide_stats_t        *stats;
    static ngx_http_ebbtide_stats_t  unpublished;

    if (ngx_http_ebbtide_slot == NULL) {
        ngx_http_ebbtide_zone_enter();
    }

    slot = ngx_http_ebbtide_slot;
    if (slot == NULL) {
        ngx_http_ebbtide_usage(&unpublished);
        return ngx_http_ebbtide_tell(&unpublished, now);
    }

    stats = &slot->stats;

    slot->sequence |= 1;
    ngx_memory_barrier();

    ngx_http_ebbtide_usage(stats);
    ngx_http_ebbtide_idle_slices(stats);
    ngx_http_ebbtide_process_name(stats->process);
    stats->worker = ngx_worker;
    stats->exiting = ngx_exiting || ngx_terminate;
    stats->updated = now;
    stats->rss = ngx_http_ebbtide_rss();
    stats->restarts = ngx_http_ebbtide_seat ? ngx_http_ebbtide_seat->restarts
                                              : 0;

    sample = ngx_http_ebbtide_next_sample(stats, now);
    ngx_memzero(sample, sizeof(ngx_http_ebbtide_sample_t));
    sample->time = now;
    sample->rss = stats->rss;

    for (i = 0; i < NGX_HTTP_EBBTIDE_KINDS; i++) {
        sample->live += stats->usage[i].live;
        sample->free_resident += stats->usage[i].free_resident;
        sample->returned += stats->usage[i].returned;
    }

    ngx_memory_barrier();
    slot->sequence++;

    return ngx_http_ebbtide_tell(stats, now);
}


/*
 * Writes to the error log what keeps VMs from what they are to do: that they
 * thrash, that they do not any more, that the kernel takes nothing back, and
 * that the address space is used up.
 */

static ngx_uint_t
ngx_http_ebbtide_tell(ngx_http_ebbtide_stats_t *stats, ngx_msec_t now)
{
    u_char              text[NGX_HTTP_EBBTIDE_SIZE_LEN];
    uint64_t            limit;
    ngx_err_t           err;
    ngx_uint_t          thrashing;
    static ngx_msec_t   last;
    static ngx_uint_t   told, ever, refused, space;

    err = ngx_max(stats->usage[NGX_HTTP_EBBTIDE_MAIN].purge_errno,
                  stats->usage[NGX_HTTP_EBBTIDE_OTHER].purge_errno);

    if (err && !refused) {
        refused = 1;
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, err,
                      "ebbtide: the kernel takes no memory back from a Lua VM: "
                      "it is locked (mlockall), or a sandbox forbids the calls");
    }

    if (!space
        && (stats->usage[NGX_HTTP_EBBTIDE_MAIN].refused_space_total
            || stats->usage[NGX_HTTP_EBBTIDE_OTHER].refused_space_total))
    {
        space = 1;
        limit = stats->usage[NGX_HTTP_EBBTIDE_MAIN].reserved
                + stats->usage[NGX_HTTP_EBBTIDE_OTHER].reserved;

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM was refused memory, for the address "
                      "space that RLIMIT_AS allows (ulimit -v) is used up: "
                      "%s of it by the heaps; raise the limit, or have Lua "
                      "hold less", ngx_http_ebbtide_size(text, limit));
    }

    thrashing = stats->usage[NGX_HTTP_EBBTIDE_MAIN].thrashing
                || stats->usage[NGX_HTTP_EBBTIDE_OTHER].thrashing;

    if (thrashing && !told && (!ever || now - last >= NGX_HTTP_EBBTIDE_TELL)) {
        told = 1;
        ever = 1;
        last = now;

        limit = stats->limit_soft;

        if (stats->limit_hard
            && (limit == 0 || stats->limit_hard < limit))
        {
            limit = stats->limit_hard;
        }

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "ebbtide: a Lua VM is thrashing at its limit of %s: what "
                      "goes back to the kernel is used again within a second; "
                      "raise the limit, or have Lua hold less",
                      ngx_http_ebbtide_size(text, limit));
    }

    if (!thrashing && told) {
        told = 0;
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "ebbtide: no Lua VM is thrashing any more");
    }

    return thrashing;
}


/* One for each second: readers have the figures written more often. */

static ngx_http_ebbtide_sample_t *
ngx_http_ebbtide_next_sample(ngx_http_ebbtide_stats_t *stats,
    ngx_msec_t now)
{
    ngx_http_ebbtide_sample_t  *newest;

    newest = &stats->samples[(stats->sample_count - 1)
                               % NGX_HTTP_EBBTIDE_SAMPLES];

    if (stats->sample_count && newest->time / 1000 == now / 1000) {
        return newest;
    }

    return &stats->samples[stats->sample_count++
                             % NGX_HTTP_EBBTIDE_SAMPLES];
}


/*
 * What the VMs of this process hold now; what closed ones gave back stays
 * counted.
 */

void
ngx_http_ebbtide_usage(ngx_http_ebbtide_stats_t *stats)
{
    ngx_queue_t               *q, *vms;
    ngx_http_ebbtide_vm_t     *vm;
    ngx_http_ebbtide_usage_t  *usage;

    ngx_memcpy(stats->usage, ngx_http_ebbtide_closed, sizeof(stats->usage));
    stats->pressure = 0;

    vms = ngx_http_ebbtide_vms();

    for (q = ngx_queue_head(vms); q != ngx_queue_sentinel(vms);
         q = ngx_queue_next(q))
    {
        vm = ngx_queue_data(q, ngx_http_ebbtide_vm_t, queue);

        ngx_http_ebbtide_usage_read(stats, vm);

        usage = &stats->usage[vm->configured ? NGX_HTTP_EBBTIDE_MAIN
                                             : NGX_HTTP_EBBTIDE_OTHER];
        usage->count++;
        usage->live += vm->usage.live;
        usage->waste += vm->usage.waste;
        usage->free_resident += vm->usage.free_resident;
        usage->returned += vm->usage.returned;
        usage->metadata += vm->usage.metadata;
        usage->resident += vm->usage.resident;
        usage->committed += vm->usage.committed;
        usage->reserved += vm->usage.reserved;
        usage->returned_total += vm->usage.returned_total;
        usage->refaulted_total += vm->usage.refaulted_total;
        usage->premature_refaults_total += vm->usage.premature_refaults_total;
        usage->refused_total += vm->usage.refused_total;
        usage->refused_space_total += vm->usage.refused_space_total;
        usage->thrashing += vm->usage.thrashing;

        if (vm->usage.purge_errno) {
            usage->purge_errno = vm->usage.purge_errno;
        }
    }
}


static void
ngx_http_ebbtide_usage_read(ngx_http_ebbtide_stats_t *stats,
    ngx_http_ebbtide_vm_t *vm)
{
    ebb_stats                  heap;
    ngx_http_ebbtide_usage_t  *usage;

    ngx_memzero(&heap, sizeof(ebb_stats));
    heap.size = sizeof(ebb_stats);

    if (vm->api->stats_read(vm->heap, &heap) != EBB_OK) {
        return;
    }

    /* with what a VM that was changed over still has on LuaJIT's allocator */

    usage = &vm->usage;
    usage->live = heap.live + heap.previous_live;
    usage->waste = heap.waste;
    usage->free_resident = heap.free_resident;
    usage->returned = heap.returned;
    usage->metadata = heap.metadata;
    usage->resident = heap.resident + heap.previous_resident;
    usage->committed = heap.committed + heap.previous_reserved;
    usage->reserved = heap.reserved + heap.previous_reserved;
    usage->returned_total = heap.returned_total;
    usage->refaulted_total = heap.refaulted_asked + heap.refaulted_idle
                            + heap.refaulted_limit;
    usage->premature_refaults_total = heap.premature_refaults_asked + heap.premature_refaults_idle
                            + heap.premature_refaults_limit;
    usage->refused_total = heap.refused_allocations;
    usage->refused_space_total = heap.refused_address_space;
    usage->thrashing = heap.thrashing;
    usage->purge_errno = heap.purge_errno;

    /* of several VMs, what the one says that is nearest to its limit */

    if (vm->configured && stats && heap.pressure >= stats->pressure) {
        stats->limit_soft = heap.limit_soft;
        stats->limit_hard = heap.limit_hard;
        stats->pressure = heap.pressure;
        stats->trend = heap.trend;
        stats->phase = vm->phase;
    }
}


/* Keeps what a VM that is about to be closed gave back, for counters rise. */

void
ngx_http_ebbtide_usage_closed(ngx_http_ebbtide_vm_t *vm)
{
    ngx_http_ebbtide_usage_t  *closed;

    ngx_http_ebbtide_usage_read(NULL, vm);

    closed = &ngx_http_ebbtide_closed[vm->configured ? NGX_HTTP_EBBTIDE_MAIN
                                                     : NGX_HTTP_EBBTIDE_OTHER];
    closed->returned_total += vm->usage.returned_total;
    closed->refaulted_total += vm->usage.refaulted_total;
    closed->premature_refaults_total += vm->usage.premature_refaults_total;
    closed->refused_total += vm->usage.refused_total;
    closed->refused_space_total += vm->usage.refused_space_total;
}


/* How long ago a time is, by which another process may be ahead. */

ngx_msec_t
ngx_http_ebbtide_ago(ngx_msec_t then)
{
    ngx_msec_int_t  ago;

    ago = (ngx_msec_int_t) (ngx_current_msec - then);

    return ngx_max(ago, 0);
}


/* What the kernel says that this process holds resident. */

static uint64_t
ngx_http_ebbtide_rss(void)
{
    ssize_t   n;
    u_char    text[128], *p, *last;
    uint64_t  pages;

    if (ngx_http_ebbtide_statm == NGX_INVALID_FILE) {
        return 0;
    }

    n = pread(ngx_http_ebbtide_statm, text, sizeof(text), 0);
    last = text + (n > 0 ? n : 0);

    p = ngx_strlchr(text, last, ' ');
    pages = 0;

    for (p = p ? p + 1 : last; p < last && *p >= '0' && *p <= '9'; p++) {
        pages = pages * 10 + (*p - '0');
    }

    return pages * ngx_pagesize;
}


/* Asks all workers to collect and reclaim now. Returns how many there are. */

ngx_uint_t
ngx_http_ebbtide_zone_request_reclaim(ngx_log_t *log)
{
    ngx_pid_t                 pid;
    ngx_uint_t                i, count;
    ngx_http_ebbtide_zone_t  *zone;

    zone = ngx_http_ebbtide_zone_data;
    if (zone == NULL) {
        return 0;
    }

    (void) ngx_atomic_fetch_add(&zone->asked, 1);

    count = 0;

    for (i = 0; i < zone->slot_count; i++) {
        pid = zone->slots[i].pid;

        if (pid == 0 || ngx_http_ebbtide_pid_is_gone(pid)) {
            continue;
        }

        count++;

        if (pid != ngx_pid) {
            ngx_http_ebbtide_wake(pid, log);
        }
    }

    return count;
}


/*
 * Ends the wait of another worker, by a message with no command in the channel
 * through which the master commands it: workers have each other's ends.
 */

static void
ngx_http_ebbtide_wake(ngx_pid_t pid, ngx_log_t *log)
{
    ngx_int_t      i;
    ngx_channel_t  ch;

    ngx_memzero(&ch, sizeof(ngx_channel_t));
    ch.fd = -1;

    /* ngx_last_process counts those alone that were there before this one */

    for (i = 0; i < NGX_MAX_PROCESSES; i++) {

        if (ngx_processes[i].pid == pid && ngx_processes[i].channel[0] > 0) {
            (void) ngx_write_channel(ngx_processes[i].channel[0], &ch,
                                     sizeof(ngx_channel_t), log);
        }
    }
}


/* Whether somebody has asked since the last time. */

ngx_uint_t
ngx_http_ebbtide_zone_reclaim_requested(void)
{
    ngx_atomic_uint_t  asked;

    if (ngx_http_ebbtide_zone_data == NULL) {
        return 0;
    }

    asked = ngx_http_ebbtide_zone_data->asked;

    if (asked == ngx_http_ebbtide_reclaims_seen) {
        return 0;
    }

    ngx_http_ebbtide_reclaims_seen = asked;

    return 1;
}


/*
 * Copies the figures of a slot to a place that the next call takes again.
 * Returns NULL when they are nobody's.
 */

ngx_http_ebbtide_stats_t *
ngx_http_ebbtide_zone_copy(ngx_uint_t index, ngx_pid_t *pid)
{
    ngx_uint_t                       tries;
    ngx_atomic_uint_t                sequence;
    ngx_http_ebbtide_slot_t         *slot;
    static ngx_http_ebbtide_stats_t  copy;

    slot = &ngx_http_ebbtide_zone_data->slots[index];

    for (tries = 0; tries < NGX_HTTP_EBBTIDE_TRIES; tries++) {
        *pid = slot->pid;

        if (*pid == 0 || ngx_http_ebbtide_pid_is_gone(*pid)) {
            return NULL;
        }

        sequence = slot->sequence;
        ngx_memory_barrier();

        if (sequence % 2 == 0) {
            copy = slot->stats;
            ngx_memory_barrier();

            if (slot->sequence == sequence
                && slot->pid == (ngx_atomic_uint_t) *pid)
            {
                return &copy;
            }
        }

        ngx_sched_yield();
    }

    return NULL;
}
