/* ebbtide: the memory allocator for LuaJIT that gives memory back.
 * Generated from src/capi.rs by cbindgen; `make header` writes it anew.
 *
 * These rules hold for all functions:
 *
 * threads    A heap belongs to one thread at a time. A host that passes a heap
 *            to another thread synchronises the two threads. Threads with one
 *            heap each need no lock. Making a heap reads the environment: no
 *            thread may change the environment meanwhile.
 * signals    A handler may interrupt any call. The handler must return to the
 *            call and must not longjmp() away. A system call interrupted by a
 *            signal counts as refused; the heap stays consistent. A handler may
 *            call ebb_alloc() with a heap that was made before, that nothing
 *            else uses and that is not checked, and no other function. A handler
 *            that enters a checked heap at work ends the process with a report.
 * fork       Parent and child both go on, each with its own copy of all heaps.
 *            A heap that another thread was working in is of no use to the
 *            child.
 * lua_close  A heap from ebb_heap_new() stays, with the blocks that are left in
 *            it, until ebb_heap_delete(). Every other heap ends with its VM,
 *            that of ebb_attach() included.
 * memory     When memory runs out, ebb_alloc() returns NULL, and the block that
 *            was to grow is unchanged. Shrinking and freeing never fail.
 * bugs       A pointer that is no live block ends the process, with a line on
 *            standard error and abort(), where the heap notices: see
 *            ebb_alloc(). A wrong osize makes statistics wrong. A checked heap
 *            finds more bugs: see ebb_options.checked.
 * tools      AddressSanitizer and valgrind see one mapping without blocks, so
 *            they find nothing in a heap, unless the library was built for them
 *            (make SANITIZERS=1). Under these tools every heap of such a library
 *            is checked. */

#ifndef EBBTIDE_H
#define EBBTIDE_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header; ebb_version() returns that of the library. */
#define EBB_VERSION "0.1.0"

/** A Lua VM, as lua.h declares it. */
struct lua_State;

/**
 * Done.
 */
#define EBB_OK 0

/**
 * ebb_reclaim(), ebb_tick(): the budget ran out and more remains; call again.
 */
#define EBB_MORE 1

/**
 * An argument is NULL or malformed.
 */
#define EBB_ERR_ARGUMENT (-1)

/**
 * There is no option of that name.
 */
#define EBB_ERR_OPTION (-2)

/**
 * The option does not take that value.
 */
#define EBB_ERR_RANGE (-3)

/**
 * The option is fixed once the heap is made.
 */
#define EBB_ERR_FIXED (-4)

/**
 * There is no room: address space or memory.
 */
#define EBB_ERR_MEMORY (-5)

/**
 * The kernel refused; what could be done is done, and the heap goes on.
 */
#define EBB_ERR_SYSTEM (-6)

/**
 * What the VM runs on is not known beyond doubt; nothing was touched.
 */
#define EBB_ERR_UNKNOWN (-7)

/**
 * ebb_next_tick(): never. As a timeout it is 24 days, which does no harm.
 */
#define EBB_NEVER 2147483647

/**
 * The collector's step multiplier (LUA_GCSETSTEPMUL) that a heap sets from seven
 * eighths of limit_hard on, and when an allocation was refused, until memory is
 * there again: the next step is a whole collection. A host that changes the
 * multiplier at run time leaves this one, or calls ebb_tick(), which sets the
 * program's own until the VM allocates again, unless the VM is shared.
 */
#define EBB_STEPMUL_WHOLE 400000003

/**
 * The same for a LuaJIT from before August 2023: the next step is a long one.
 */
#define EBB_STEPMUL_LONG 100003

/**
 * In a field of ebb_options: 0, where a field that is 0 takes another value.
 */
#define EBB_ZERO (-1)

/**
 * The value of limit_soft that takes the limit from the cgroup.
 */
#define EBB_CGROUP (-2)

/**
 * ebb_stats.trend: demand is higher than it was before. Nothing goes back
 * but what exceeds retain_max.
 */
#define EBB_TREND_GROWING 1

/**
 * ebb_stats.trend: demand comes and goes as before, or climbs back fast.
 */
#define EBB_TREND_STEADY 2

/**
 * ebb_stats.trend: memory goes back, and new blocks go into the fullest spans.
 */
#define EBB_TREND_SHRINKING 3

/**
 * ebb_stats.floor_reason: there is no floor.
 */
#define EBB_FLOOR_NONE 0

/**
 * ebb_stats.floor_reason: the option retain.
 */
#define EBB_FLOOR_RETAIN 1

/**
 * ebb_stats.floor_reason: demand swings, and has come back before.
 */
#define EBB_FLOOR_SWING 2

/**
 * ebb_stats.floor_reason: memory was needed again soon after it went back.
 */
#define EBB_FLOOR_PREMATURE 3

/**
 * ebb_stats.floor_reason: none, because the heap holds more than the lower of its limits.
 */
#define EBB_FLOOR_LIMIT 4

/**
 * ebb_stats.floor_reason: demand climbs back so fast that it will be needed.
 */
#define EBB_FLOOR_CLIMB 5

/**
 * ebb_stats.flags: measure kernel_resident too. Takes time in proportion to the heap.
 */
#define EBB_STATS_KERNEL 1

/**
 * Size classes of free chunks: powers of two from 32 bytes on.
 */
#define EBB_FREE_SIZES 24

/**
 * The heap of one Lua VM. Opaque.
 */
typedef struct ebb_heap ebb_heap;

/**
 * How a heap is made. Set size to sizeof(ebb_options) and the rest to 0, then
 * what you want. A field that is 0 takes the value of the environment variable
 * of the same name (EBBTIDE_RESERVE=4g; k, m, g and t are powers of 1024, and
 * switches take on and off; an empty variable counts as unset), or else the default.
 * EBB_ZERO stands for 0.
 */
typedef struct ebb_options {
  /**
   * sizeof(ebb_options).
   */
  size_t size;
  /**
   * Bytes of address space, from 1 MiB to 8 TiB: more than the heap can ever
   * hold at once. Costs no memory. When the kernel refuses, half is tried, and
   * so on down to 1 MiB. Default: 64 GiB, or less when other heaps leave less.
   * Where RLIMIT_AS (ulimit -v) limits the address space of the process, nothing
   * is reserved by default, and ebb_get() says 0: the heap maps what it uses, and
   * grows until the limit is reached. Fixed once the heap is made.
   */
  int64_t reserve;
  /**
   * 1 asks the kernel for transparent huge pages, 0 keeps them off the heap,
   * since they refill the holes that reclaim made. Default: 0.
   */
  int64_t thp;
  /**
   * Blocks of this many bytes and more are moved by remapping their pages
   * instead of copying them, from 4 KiB to 8 TiB. Default: 128 KiB.
   */
  int64_t remap_min;
  /**
   * Milliseconds that free memory stays, in case it is needed again; then it
   * goes over half as long again. Where much is free that nobody needs, all but
   * 4 MiB or a sixteenth of what is in use goes sooner: at 1000 more than 9 MiB
   * after 250, and more than 72 MiB after 31. From 0, for at once, to
   * 3600000. Shorter saves memory and costs page faults. Default: 1000.
   */
  int64_t decay_ms;
  /**
   * Bytes of free memory that may always stay, but above limit_soft. For a
   * service whose next request must find memory ready. Default: 0.
   */
  int64_t retain;
  /**
   * Bytes of free memory that may stay at most, however soon they will be
   * needed. Default: 1 GiB.
   */
  int64_t retain_max;
  /**
   * Bytes held resident above which no idle memory stays. Before the heap grows
   * beyond, idle memory goes back until the growth fits. If that is not enough, the
   * heap grows nonetheless, and searches spans again after one second. EBB_CGROUP
   * (EBBTIDE_LIMIT_SOFT=cgroup): nine tenths of what the limits of the process's
   * cgroup leave, read again at most once a second: in ebb_tick(), and with auto
   * also inside of ebb_alloc(), while pages change hands. A number above limit_hard is
   * refused, and one below 512 KiB. 0: no limit. Default: 0.
   */
  int64_t limit_soft;
  /**
   * Bytes held resident, the heap's tables included, up to which the heap grows.
   * An allocation that does not fit, even after all free memory went back, is
   * refused. Small blocks may still fit on pages that are there. When the limit is
   * set below what is held, free memory goes back at once, as far as needed. Where
   * the heap knows its VM, the heap makes LuaJIT's garbage collector due at seven
   * eighths of the limit and after a refusal; the last 32nd is for the collector.
   * At least 512 KiB, which a VM needs. 0: no limit. Default: 0.
   */
  int64_t limit_hard;
  /**
   * Microseconds that memory may go back for at a time inside of ebb_alloc(),
   * from 1 to 1000000; up to 32 times as long when it was not called off the
   * hot path for a while, but never more than a sixteenth of that while. One
   * call to the kernel is made in any case: at most 1 MiB, about 150 us. At a
   * limit, with decay_ms 0, and when a block of 128 KiB or more is freed, it
   * may take longer. Default: 250.
   */
  int64_t step_us;
  /**
   * 1: memory goes back inside of ebb_alloc() too, off the hot path; 0: only
   * in ebb_tick() and ebb_reclaim(), and at the limits. In C the field is
   * auto_, for auto is a keyword; everywhere else the name is auto. Default: 1.
   */
  int64_t auto_;
  /**
   * 1 takes a sample of the heap for ebb_history_read(), at most once a second:
   * in ebb_tick(), and with auto also inside of ebb_alloc(), while pages change
   * hands. The last 256 are kept, in 16 KiB that count as resident from then on:
   * ebb_set() says EBB_ERR_MEMORY where limit_hard leaves no room. Default: 0.
   */
  int64_t history;
  /**
   * Finds memory bugs of C modules and of FFI code. 1 (on): every block is verified
   * when it comes back. These bugs end the process with a report on standard error
   * and abort(): a wrong osize, a pointer that is no live block, a write past the end
   * of a block, before a block, or into a freed block (of up to 1 MiB, and beyond 32
   * KiB near its ends), and two threads in the heap at once. Large blocks (not all,
   * where they come very often) and by chance a few small blocks lie between
   * inaccessible pages: a read there is reported too, when it is made. The heap
   * holds up to 4 MiB of freed blocks back. 2 (sample): only those few small blocks
   * are checked, which is cheap enough for production. 0 (off): nothing is. The state
   * of a checked heap, up to 200 KiB, comes from the process's own allocator.
   * Accesses are reported by handlers for SIGSEGV and SIGBUS, which pass others on.
   * Fixed once the heap is made. Default: 0.
   */
  int64_t checked;
  /**
   * Whether a thread of the library's returns what is due while the heap's own thread
   * does something else: 1 (on); EBB_ZERO (off); default 2 (auto): unless the host
   * calls ebb_tick() or ebb_next_tick() at least once a second. The process has
   * one such thread, named "ebbtide", for all heaps. The thread starts when more
   * than 1 MiB will be due, ends when all is back, and wakes once a second at
   * most while the heap is at work. All signals are held back in it. It returns pages
   * without live blocks, and takes no lock: a call waits for it only where it needs
   * pages that are just going back, for some 0.2 ms. fork(), exit() and
   * ebb_heap_delete() need no preparation. off is for programs that must not have a
   * second thread: seccomp filters that kill at clone(), unshare(CLONE_NEWUSER),
   * privileges that are dropped in one thread, Python's warning at os.fork().
   */
  int64_t background;
  /**
   * Whether the preload library collects the garbage of a VM whose thread waits in
   * epoll_wait(), poll() or select() outside of Lua: 1 (on); EBB_ZERO (off); default
   * 2 (auto): in nginx alone, see docs/preload.md. The VM was quiet for a second, and was
   * never used by a second thread. Finalizers run inside the wait then. 1 has no
   * effect on other heaps, and the library says so: ebb_set() with
   * EBB_ERR_ARGUMENT, calls that make a heap by a line on standard error.
   */
  int64_t collect;
} ebb_options;

/**
 * How much ebb_reclaim() may do.
 */
typedef struct ebb_reclaim_options {
  /**
   * sizeof(ebb_reclaim_options).
   */
  size_t size;
  /**
   * Microseconds after which to stop; 0: no limit.
   */
  uint32_t budget_us;
} ebb_reclaim_options;

/**
 * What ebb_reclaim() did. Bytes, unless a name says otherwise.
 */
typedef struct ebb_reclaim_report {
  /**
   * sizeof(ebb_reclaim_report); set it before the call.
   */
  size_t size;
  /**
   * Given back to the kernel by this call. Descriptors of free pages go back
   * beside this.
   */
  uint64_t returned;
  /**
   * In live blocks.
   */
  uint64_t live;
  /**
   * Held resident after the call, by the heap's own account.
   */
  uint64_t resident;
  /**
   * Microseconds that the call took.
   */
  uint64_t elapsed_us;
  /**
   * Calls to the kernel that it took (a count). One call takes many ranges
   * where the kernel can: Linux 6.14 and later.
   */
  uint64_t purge_calls;
  /**
   * Ranges that the kernel refused since the pass began (a count).
   */
  uint64_t refused;
} ebb_reclaim_report;

/**
 * One size class, as ebb_stats_read() reports it.
 */
typedef struct ebb_class_stats {
  /**
   * Bytes per slot.
   */
  uint32_t slot_size;
  /**
   * Bytes per span. Under RLIMIT_AS one span of a class may be shorter.
   */
  uint32_t span_size;
  /**
   * Live blocks.
   */
  uint64_t blocks;
  /**
   * Spans.
   */
  uint64_t spans;
} ebb_class_stats;

/**
 * What a heap holds. Bytes, unless a name says otherwise. At every moment
 * committed is the sum of live, waste, free_resident, returned, never_touched
 * and metadata.
 */
typedef struct ebb_stats {
  /**
   * sizeof(ebb_stats); set it before the call.
   */
  size_t size;
  /**
   * In: 0, or EBB_STATS_KERNEL.
   */
  uint32_t flags;
  /**
   * In: how many entries classes has room for. Out: how many there are, at
   * most that many.
   */
  uint32_t class_count;
  /**
   * In: NULL, or room for the table by size class, smallest first.
   */
  struct ebb_class_stats *classes;
  /**
   * Address space of the heap: its reservation, or what it has mapped where
   * RLIMIT_AS limits the address space of the process.
   */
  uint64_t reserved;
  /**
   * Of that, readable and writable: what limits and strict overcommit count.
   * Long runs of free pages that were returned are not in it.
   */
  uint64_t committed;
  /**
   * In live blocks, as asked for. Relies on the osize given to ebb_alloc()
   * and is kept within what the size classes allow.
   */
  uint64_t live;
  /**
   * Lost in live blocks to rounding, and at the ends of spans.
   */
  uint64_t waste;
  /**
   * Free, and held resident.
   */
  uint64_t free_resident;
  /**
   * Free, given back to the kernel, and still committed; with descriptors
   * that were given back.
   */
  uint64_t returned;
  /**
   * Committed and not used yet.
   */
  uint64_t never_touched;
  /**
   * The heap's own tables, with a descriptor of 64 bytes for each page, those
   * inside large blocks included, though they are never written. Descriptors
   * of free pages that were given back are not in it.
   */
  uint64_t metadata;
  /**
   * live + waste + free_resident + metadata. A page counts from the moment a
   * block or span is placed on it, so the kernel may count fewer.
   */
  uint64_t resident;
  /**
   * The most that resident has been.
   */
  uint64_t resident_peak;
  /**
   * What the kernel says is resident of the heap's range. 0 unless asked for.
   */
  uint64_t kernel_resident;
  /**
   * Live blocks (a count).
   */
  uint64_t blocks;
  /**
   * Of these, large ones: whole pages (a count).
   */
  uint64_t large_blocks;
  /**
   * Spans of small blocks (a count).
   */
  uint64_t spans;
  /**
   * mprotect calls, to grow (a count).
   */
  uint64_t commit_calls;
  /**
   * Calls to give memory back: madvise and process_madvise, or where a sandbox
   * refuses these, mremap and mmap (a count).
   */
  uint64_t purge_calls;
  /**
   * mremap calls, to move large blocks (a count).
   */
  uint64_t remap_calls;
  /**
   * System calls that failed (a count).
   */
  uint64_t failed_calls;
  /**
   * ebb_reclaim() calls (a count).
   */
  uint64_t reclaim_passes;
  /**
   * Given back over the life of the heap.
   */
  uint64_t returned_total;
  /**
   * What the heap was doing when it was last looked at: EBB_TREND_GROWING,
   * EBB_TREND_STEADY or EBB_TREND_SHRINKING.
   */
  uint64_t trend;
  /**
   * Free memory that may stay for now.
   */
  uint64_t keep;
  /**
   * Of that, what stays for longer than decay_ms while the heap is busy.
   */
  uint64_t floor;
  /**
   * What the floor rests on: EBB_FLOOR_NONE and so on.
   */
  uint64_t floor_reason;
  /**
   * Free memory that should go back now.
   */
  uint64_t due;
  /**
   * How long free memory outside of spans has been free, in milliseconds, on
   * average, to an eighth of decay_ms.
   */
  uint64_t idle_age_ms;
  /**
   * The limits in force; 0: none. With EBB_CGROUP the soft one moves.
   */
  uint64_t limit_soft;
  /**
   * See limit_soft.
   */
  uint64_t limit_hard;
  /**
   * What ebb_pressure() says.
   */
  uint64_t pressure;
  /**
   * Steps in which memory went back in ebb_alloc() or ebb_tick(), those at a
   * limit included (a count).
   */
  uint64_t steps;
  /**
   * Microseconds that half of the steps did not exceed, to a fifth.
   */
  uint64_t step_p50_us;
  /**
   * Microseconds that 99 of 100 steps did not exceed, to a fifth.
   */
  uint64_t step_p99_us;
  /**
   * Microseconds that the longest step took.
   */
  uint64_t step_max_us;
  /**
   * Given back because the host asked, over the life of the heap.
   */
  uint64_t returned_asked;
  /**
   * Given back because it was idle.
   */
  uint64_t returned_idle;
  /**
   * Given back because of a limit, or because a large block took as much new
   * memory.
   */
  uint64_t returned_limit;
  /**
   * Of returned_asked, used again. To 256 KiB: see premature_refaults_asked.
   */
  uint64_t refaulted_asked;
  /**
   * Of returned_idle, used again.
   */
  uint64_t refaulted_idle;
  /**
   * Of returned_limit, used again.
   */
  uint64_t refaulted_limit;
  /**
   * Of refaulted_asked, used again within a second. The time of return is kept
   * per 256 KiB, so this is an upper bound.
   */
  uint64_t premature_refaults_asked;
  /**
   * Of refaulted_idle, used again within a second: a mistake.
   */
  uint64_t premature_refaults_idle;
  /**
   * Of refaulted_limit, used again within a second.
   */
  uint64_t premature_refaults_limit;
  /**
   * In blocks that the VM has had since before ebb_attach(), on LuaJIT's own
   * allocator. In no other figure.
   */
  uint64_t previous_live;
  /**
   * That allocator's, mapped: live, free or returned. ebb_builtin_read() tells
   * them apart.
   */
  uint64_t previous_reserved;
  /**
   * Of that, resident at most: as counted at ebb_attach() and by each
   * ebb_reclaim() without a budget, less what went back since.
   */
  uint64_t previous_resident;
  /**
   * Ranges that the kernel refused to take back, over the life of the heap (a
   * count).
   */
  uint64_t purge_refused;
  /**
   * The errno with which it refused the last one; 0 when it refused none, or has
   * taken one since. Where it stays, free memory cannot go back: it is locked
   * (mlock), or a sandbox allows none of madvise(), process_madvise(), mremap()
   * and mmap().
   */
  uint64_t purge_errno;
  /**
   * Allocations that were refused over the life of the heap: ebb_alloc() returned
   * NULL though bytes were wanted (a count).
   */
  uint64_t refused_allocations;
  /**
   * 1 while the heap is thrashing: 13 MiB or more a second go back because of a
   * limit and are used again within a second, which takes a hundredth of the time,
   * for three seconds in a row. What the program needs does not fit below the
   * limit. 0 again after three seconds in which it is less.
   */
  uint64_t thrashing;
  /**
   * Of the refused allocations, those for which RLIMIT_AS (ulimit -v) left no
   * address space (a count).
   */
  uint64_t refused_address_space;
  /**
   * 1 when what LuaJIT's own allocator has from before ebb_attach() was found
   * damaged: the program has overwritten its records, and a line in the log says
   * where. Its free pages stay. 0 again once an ebb_reclaim() without a budget
   * finds it in order.
   */
  uint64_t previous_damaged;
} ebb_stats;

/**
 * A heap at a moment, from its history. Bytes, unless a name says otherwise.
 */
typedef struct ebb_sample {
  /**
   * Milliseconds on the system's monotonic clock.
   */
  uint64_t time_ms;
  /**
   * In live blocks.
   */
  uint64_t live;
  /**
   * Held resident, by the heap's own account.
   */
  uint64_t resident;
  /**
   * Of that, free.
   */
  uint64_t free_resident;
  /**
   * Given back over the life of the heap.
   */
  uint64_t returned_total;
  /**
   * Of that, used again.
   */
  uint64_t refaulted_total;
  /**
   * As from ebb_pressure().
   */
  uint64_t pressure;
  /**
   * As in ebb_stats.
   */
  uint64_t trend;
} ebb_sample;

/**
 * Where ebb_history_read() writes.
 */
typedef struct ebb_history {
  /**
   * sizeof(ebb_history); set it before the call.
   */
  size_t size;
  /**
   * In: sizeof(ebb_sample).
   */
  size_t sample_size;
  /**
   * Room for samples. The oldest comes first.
   */
  struct ebb_sample *samples;
  /**
   * In: how many samples there is room for. Out: how many there are.
   */
  size_t count;
} ebb_history;

/**
 * Free chunks of about one size.
 */
typedef struct ebb_free_chunks {
  /**
   * Bytes of the largest of them, at most.
   */
  uint64_t up_to;
  /**
   * How many there are (a count).
   */
  uint64_t count;
  /**
   * Bytes of all.
   */
  uint64_t bytes;
  /**
   * Of these, bytes on whole pages that hold memory and can go back.
   */
  uint64_t returnable;
} ebb_free_chunks;

/**
 * What the heap of LuaJIT's own allocator holds. Blocks of 128 KiB and more are
 * mapped apart and are in no figure. Bytes, unless a name says otherwise.
 */
typedef struct ebb_builtin_stats {
  /**
   * sizeof(ebb_builtin_stats); set it before the call.
   */
  size_t size;
  /**
   * Mapped, in all segments.
   */
  uint64_t reserved;
  /**
   * Segments (a count). One goes back only when it is wholly free.
   */
  uint64_t segments;
  /**
   * In blocks in use, 8 bytes for each included.
   */
  uint64_t live;
  /**
   * Blocks in use (a count).
   */
  uint64_t blocks;
  /**
   * The allocator's own. reserved is the sum of live, metadata and free.
   */
  uint64_t metadata;
  /**
   * In free chunks.
   */
  uint64_t free;
  /**
   * Free chunks (a count).
   */
  uint64_t free_chunks;
  /**
   * The largest free chunk.
   */
  uint64_t largest_free;
  /**
   * Whole pages inside free chunks that hold memory and can go back.
   */
  uint64_t returnable;
  /**
   * Whole pages inside free chunks that hold none.
   */
  uint64_t returned;
  /**
   * Held resident, as the kernel says.
   */
  uint64_t resident;
  /**
   * Free chunks by size; the last entry has all that are larger.
   */
  struct ebb_free_chunks free_by_size[EBB_FREE_SIZES];
} ebb_builtin_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Makes a heap.
 *
 * options   NULL for the defaults and the environment.
 *
 * Returns the heap; NULL when an option or environment variable makes no
 * sense or there is no address space or memory: ebb_strerror(0) then says why.
 * Delete it with ebb_heap_delete(). A heap belongs to one thread at a time,
 * not to one thread for ever.
 */
struct ebb_heap *ebb_heap_new(const struct ebb_options *options);

/**
 * Deletes a heap and every block in it. NULL is allowed.
 *
 * The process keeps the heap that was deleted last, if it was small, and 512
 * KiB of its memory, so that the next heap is made faster.
 *
 * heap      from ebb_heap_new(). After lua_close(), if a VM ran on it.
 *
 * A call on a heap that was deleted aborts the process with one line, where the
 * library can tell: for the heap that was kept last every call, for other heaps
 * every call but ebb_alloc(), unless many more heaps were deleted since.
 */
void ebb_heap_delete(struct ebb_heap *heap);

/**
 * Allocates, resizes or frees one block. The signature is lua_Alloc's:
 * lua_newstate(ebb_alloc, heap).
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * ptr       NULL, or a live block of this heap.
 * osize     the size last asked for ptr. A hint for the statistics: a wrong
 *           value does no harm.
 * nsize     bytes wanted; 0 frees.
 *
 * Returns the block with its first min(osize, nsize) bytes kept; NULL when
 * nsize is 0, and when memory ran out: then ptr is unchanged and still live.
 * Blocks are aligned to 8 bytes, and to 16 if their size is a multiple of 16;
 * their addresses are below 2^47. Shrinking never fails: where there is no
 * memory for a smaller block, ptr stays where it is, with the alignment of its
 * previous size. Leaves errno alone.
 *
 * LuaJIT does not collect garbage when memory runs out. The host of a VM on
 * plain lua_newstate(ebb_alloc, heap) collects after an error that it caught:
 * lua_gc(L, LUA_GCCOLLECT, 0). For other VMs the heap makes the collector due.
 *
 * A ptr that is no live block aborts the process with one line that says what
 * is wrong. Every heap notices a pointer from elsewhere (in a VM that was attached
 * such a pointer goes to LuaJIT's allocator), a pointer into a block, and a block
 * freed twice while its slot is still free. Only a checked heap
 * (ebb_options.checked) notices a wrong osize, a block freed twice after its memory
 * was handed out anew, and a write past the end of a block.
 */
void *ebb_alloc(void *heap,
                void *ptr,
                size_t osize,
                size_t nsize);

/**
 * Gives free memory back to the kernel: every free page, and every page without a
 * live block inside spans that are partly used. Live blocks stay where they are.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * options   NULL: everything, at once.
 * report    NULL, or room for what was done.
 *
 * Returns EBB_MORE when the budget ran out: the next call with a budget goes on
 * from there, and memory that is freed meanwhile may wait for the next pass.
 * Returns EBB_OK at the end of a pass, or EBB_ERR_SYSTEM when the kernel refused
 * a part; the report is valid in each case. EBB_ERR_ARGUMENT. A call with a
 * budget takes at least one step, of at most 1 MiB, and stops when another step
 * would not fit.
 *
 * For a VM that was attached, the call reclaims both heaps, and the report counts
 * both.
 */
int ebb_reclaim(struct ebb_heap *heap,
                const struct ebb_reclaim_options *options,
                struct ebb_reclaim_report *report);

/**
 * Gives back what is due: memory that was free for long enough. For event loops
 * and idle callbacks.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * budget_us  microseconds after which to stop; 0: no limit.
 *
 * Returns EBB_MORE when the budget ran out and more is due; EBB_OK when all is
 * done that is due now; EBB_ERR_SYSTEM when the kernel refused some of it,
 * which is tried again later; EBB_ERR_ARGUMENT. Takes at least one step, of at
 * most 1 MiB, if anything is due, and stops when another step would not fit.
 */
int ebb_tick(struct ebb_heap *heap, uint32_t budget_us);

/**
 * Returns when to call ebb_tick() next. Cheap enough for a call before each wait
 * of an event loop: takes as long as reading the clock two or three times.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 *
 * Returns milliseconds; 0 when something is due now; EBB_NEVER when nothing will
 * be due unless the heap is used again. EBB_ERR_ARGUMENT.
 */
int ebb_next_tick(struct ebb_heap *heap);

/**
 * Returns how near the heap is to its memory limit, so that a host can drive its
 * garbage collector: step it from 50 on, say, and collect in full from 90 on.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 *
 * Returns 0 while live blocks, what is wasted in them, and the heap's tables
 * take up to half of limit_soft (or of limit_hard if that is lower), then more,
 * up to 100 when they take all of it; 0 without a limit. EBB_ERR_ARGUMENT.
 */
int ebb_pressure(struct ebb_heap *heap);

/**
 * Reads what the heap holds, in constant time unless a flag says otherwise.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * stats     size, flags, class_count and classes are read; the rest is filled.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_SYSTEM when the kernel would not
 * say what is resident (the rest is valid).
 */
int ebb_stats_read(struct ebb_heap *heap, struct ebb_stats *stats);

/**
 * Copies out the newest samples of a heap's history: one for each second in which
 * the heap was looked at (see the option history), at most 256. Between two
 * samples the heap did not change.
 *
 * heap      from ebb_heap_new(), with the option history on. One thread at a
 *           time.
 * history   size, sample_size, samples and count are read; count is set.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT. No samples were taken while the option was
 * off.
 */
int ebb_history_read(struct ebb_heap *heap,
                     struct ebb_history *history);

/**
 * Changes an option of a heap in use.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * name      the option's name, as in ebb_options.
 * value     its new value. A limit_hard below what is held makes the heap return
 *           what is free, and grow no more; live blocks stay.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_OPTION; EBB_ERR_RANGE;
 * EBB_ERR_FIXED; EBB_ERR_MEMORY; EBB_ERR_SYSTEM. After an error ebb_strerror(0)
 * names the option and its range, and nothing was changed. A limit_soft above
 * limit_hard is refused, and so is a retain above either. To raise them, set
 * limit_hard first, then limit_soft, then retain. To lower them, use the opposite
 * order.
 */
int ebb_set(struct ebb_heap *heap,
            const char *name,
            int64_t value);

/**
 * Reads an option.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * name      the option's name, as in ebb_options.
 * value     receives its value.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_OPTION.
 */
int ebb_get(struct ebb_heap *heap, const char *name, int64_t *value);

/**
 * Says in words what a result means.
 *
 * code      a result of this library; 0 for the reason of the last failure on
 *           this thread, with names, values and ranges.
 *
 * Returns a static text, or for 0 one that holds until this thread's next
 * failure. Never NULL; empty for 0 when nothing failed yet. An allocation that
 * is refused, where ebb_alloc() returns NULL, is a failure too. Any thread.
 */
const char *ebb_strerror(int code);

/**
 * Returns how much memory the cgroup of the process, or a cgroup around it, allows:
 * the lowest of these limits. For hosts that divide memory among processes.
 *
 * Returns bytes; 0 without a limit. Reads a few files. Any thread.
 */
uint64_t ebb_cgroup_limit(void);

/**
 * Returns the version of the library, as "major.minor.patch". Any thread.
 */
const char *ebb_version(void);

/**
 * ebb_alloc() with every block of the heap checked: for finding memory
 * bugs of C modules and of code that uses the FFI. Given to lua_newstate() as its
 * allocation function, or used for the first block of a heap, it turns on what
 * EBBTIDE_CHECKED=1 turns on for all heaps: see ebb_options.checked.
 *
 * heap      from ebb_heap_new(), without blocks when this is called first:
 *           otherwise the process stops with one line.
 * ptr, osize, nsize  as for ebb_alloc(), but that osize has to be the size last
 *           asked for ptr.
 *
 * Returns what ebb_alloc() does. From the first call on ebb_alloc() with this heap
 * checks as much.
 */
void *ebb_alloc_checked(void *heap,
                        void *ptr,
                        size_t osize,
                        size_t nsize);

/**
 * Checks the variables of the environment whose names begin with EBBTIDE_. For
 * hosts with a log: call it once, before the first heap is made.
 *
 * warning   NULL, or room for size bytes. Receives one line on variables that have
 *           no effect: those that no option has, with the nearest names, and
 *           EBBTIDE_REPORT, EBBTIDE_REPORT_SIGNAL and EBBTIDE_VERBOSE without
 *           the preload library (the nginx module warns of those itself). An
 *           empty string if there are none. What does not fit is cut off. A host
 *           that takes the line logs it: the library does not write it to
 *           standard error any more, as it otherwise does with the process's
 *           first heap or Lua module.
 * size      bytes at warning; 320 are enough for every line.
 *
 * Returns EBB_OK; EBB_ERR_RANGE when a value makes no sense, and no heap can be made
 * from this environment: ebb_strerror(0) names the variable and what it takes;
 * EBB_ERR_ARGUMENT when size is 0. Any thread, while none changes the environment.
 */
int ebb_environment_check(char *warning,
                          size_t size);

/**
 * Makes a VM on a heap of its own, which lua_close() deletes with it. Like
 * luaL_newstate(), but without its panic function.
 *
 * options   as for ebb_heap_new().
 *
 * Returns the VM, or NULL: ebb_strerror(0) then says why. The Lua is the one
 * that the process has: of several the one whose functions the dynamic linker
 * finds first. A 64-bit LuaJIT must be built with GC64, as it is by default.
 */
struct lua_State *ebb_newstate(const struct ebb_options *options);

/**
 * Changes a running VM over from LuaJIT's own allocator to a heap. The blocks
 * that it has stay where they are and go back to that allocator when they are
 * freed; what is resized moves over. At the end lua_close() unmaps the one and
 * deletes the other.
 *
 * Free pages of that allocator are given back at once, after a walk of its heap:
 * 20 ms for each million blocks, and an eighth of a second for each GB that is
 * free. Later ones go back on the slow path of ebb_alloc(), in ebb_tick() and in
 * ebb_reclaim(). With the option auto off all go back in the last two only.
 *
 * L         a VM of this thread's, or any coroutine of one, at any age.
 * options   as for ebb_heap_new().
 *
 * Returns EBB_OK; EBB_MORE when the VM was on a heap already, and then nothing
 * has changed; EBB_ERR_UNKNOWN when it does not run on LuaJIT's own allocator
 * beyond doubt, and then nothing was touched; EBB_ERR_SYSTEM when the kernel's list
 * of mappings cannot be read; what else ebb_heap_new() can fail with. C modules
 * that have kept the allocation function of before and go on using it for blocks
 * of their own do no harm.
 */
int ebb_attach(struct lua_State *L,
               const struct ebb_options *options);

/**
 * Finds the heap of a VM.
 *
 * L         a VM of this thread's, or any coroutine of one.
 *
 * Returns the heap, which is the VM's: do not delete it unless you made it.
 * NULL when the VM runs on another allocator.
 *
 * Under libebbtide_preload.so the thread that calls this has the VM from then on,
 * until another one allocates in it or calls this too; when it waits, the heap
 * exhales. That is not noticed of a thread that uses the heap alone: one that is to
 * call ebb_tick() and the like calls this first, while no other is in the VM.
 */
struct ebb_heap *ebb_heap_of(struct lua_State *L);

/**
 * Lets several threads use the heap of a VM: one may run the VM while another one
 * calls ebb_tick(), ebb_stats_read() and the like. From now on each of these calls
 * waits while the VM allocates or another such call is made, and the VM waits for
 * them. Two threads that allocate at once are not kept apart: run the VM, and call
 * what lua_getallocf() returns, in one thread at a time.
 *
 * L         a VM of this thread's, or any coroutine of one.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT when the VM has no heap that came with it
 * (ebb_newstate(), ebb_attach(), preloaded). The VM is closed while no other
 * thread makes a call for its heap.
 */
int ebb_share(struct lua_State *L);

/**
 * Has a function called when the VM of a heap is closed: after its last block was
 * freed and before the heap is deleted, by the thread that closes the VM. A heap
 * has one such function; NULL takes it away again.
 *
 * heap      of a VM, from ebb_heap_of().
 * closed    is called with `context`. It may read the heap's statistics, and keeps
 *           no pointer to the heap.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT when the heap did not come with a VM
 * (ebb_newstate(), ebb_attach(), preloaded): you delete such a heap yourself.
 */
int ebb_on_close(struct ebb_heap *heap,
                 void (*closed)(void *context),
                 void *context);

/**
 * Looks at the heap of LuaJIT's own allocator, on which a VM runs or, if it was
 * attached, has run before. Walks all of it, read-only: about 20 ms for each
 * million blocks.
 *
 * L         a VM of this thread's, or any coroutine of one.
 * stats     size is read; the rest is filled.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_UNKNOWN when it is another
 * allocator, or a heap that does not add up; EBB_ERR_MEMORY or EBB_ERR_SYSTEM when
 * there is no room for notes, or the kernel does not say what is mapped.
 */
int ebb_builtin_read(struct lua_State *L,
                     struct ebb_builtin_stats *stats);

/**
 * Gives free pages inside the heap of LuaJIT's own allocator back, in place.
 * ebb_reclaim() does that too for a VM that was attached.
 *
 * L         a VM of this thread's that runs on that allocator.
 * options   NULL: everything, at once. With a budget, a call goes on where the
 *           last one of the thread stopped; a walk of all blocks, when the
 *           thread's last one was for another VM, is not held to it.
 * report    NULL, or room for what was done; live and resident are 0 when there
 *           was a budget.
 *
 * Returns EBB_MORE when the budget ran out; EBB_OK; EBB_ERR_SYSTEM when the
 * kernel refused some of it, or does not say what is mapped; EBB_ERR_ARGUMENT;
 * EBB_ERR_UNKNOWN, and then nothing was touched.
 */
int ebb_builtin_reclaim(struct lua_State *L,
                        const struct ebb_reclaim_options *options,
                        struct ebb_reclaim_report *report);

/**
 * For the linker: what lua_newstate() becomes in a LuaJIT that is linked with
 * --wrap=lua_newstate. A VM that asks for LuaJIT's own allocator gets a heap
 * instead, or, when there is none to be had, what it asked for; standard error
 * then says why. The program must export Lua's functions (-rdynamic), as luajit
 * does; else there is no VM.
 */
struct lua_State *__wrap_lua_newstate(void *function, void *context);

/**
 * For libebbtide_preload.so: makes a VM on a heap of its own, with the functions
 * of the Lua that the program uses. Its heap notices which thread has the VM.
 *
 * Returns the VM, or NULL: ebb_strerror(0) then says why.
 */
struct lua_State *ebb_preload_newstate(void *newstate,
                                       void *setallocf);

/**
 * For libebbtide_preload.so, before the calling thread waits: does what is due in the
 * heaps of those VMs made by ebb_preload_newstate() that the thread used last, and a
 * step of a garbage collection in one of the VMs, where that is asked for and due.
 *
 * budget_us  microseconds after which to stop, for all heaps together, and again for
 *            the step.
 *
 * Returns in how many milliseconds to call again; EBB_NEVER.
 */
int ebb_preload_idle(uint32_t budget_us);

/**
 * For libebbtide_preload.so, before the first VM: lines for people go through a
 * function from now on.
 *
 * say       takes the text of one line, without its end, its bytes, and in `last`
 *           not 0 where the process ends with that line and those around it.
 *           Returns 0 where it drops the line. Signal handlers may call it.
 * what      what is reported besides, as a sum. 1: each VM reports what it held and gave
 *           back when it is closed. 2: the first allocation that RLIMIT_AS refuses.
 */
void ebb_preload_listen(int (*say)(const char *text, size_t bytes, int last),
                        int what);

/**
 * For libebbtide_preload.so: reports what each VM made by ebb_preload_newstate()
 * that is still open holds and gave back.
 *
 * exact     0: what each heap was last seen to hold, at most a few milliseconds
 *           ago while it is in use; then signal handlers may call this. Not 0: of
 *           VMs that the calling thread used last, what they hold now; the thread
 *           is in none of them.
 *
 * Returns the number of VMs that are open.
 */
int ebb_preload_report(int exact);

/**
 * Opens the Lua module: leaves its table on the stack, as `require` expects. For hosts that
 * preload it: put it into package.preload.ebbtide.
 *
 * L         a VM of this thread's.
 *
 * Returns 1. Throws a Lua error when memory runs out. Returns 0 in a program that
 * does not export Lua's functions, and says so on standard error: nothing can be
 * thrown without them.
 */
int luaopen_ebbtide(struct lua_State *L);

/**
 * Opens `ebbtide.core`, which lua/ebbtide.lua asks for when it is loaded from a file.
 */
int luaopen_ebbtide_core(struct lua_State *L);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* EBBTIDE_H */
