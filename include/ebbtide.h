/* ebbtide: the memory allocator for LuaJIT that gives memory back.
 * Generated from src/capi.rs by cbindgen; `make header` writes it anew. */

#ifndef EBBTIDE_H
#define EBBTIDE_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header; ebb_version() tells that of the library. */
#define EBB_VERSION "0.1.0"

/**
 * Done.
 */
#define EBB_OK 0

/**
 * ebb_reclaim(): the budget ran out and more remains; call again.
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
 * ebb_stats.flags: measure kernel_resident too. Takes time in proportion to the heap.
 */
#define EBB_STATS_KERNEL 1

/**
 * The heap of one Lua VM. Opaque.
 */
typedef struct ebb_heap ebb_heap;

/**
 * How a heap is made. Set size to sizeof(ebb_options) and the rest to 0, then
 * what you want. A field that is 0 takes the value of the environment variable
 * of the same name (EBBTIDE_RESERVE=4g; k, m, g and t are powers of 1024), or
 * else the default.
 */
typedef struct ebb_options {
  /**
   * sizeof(ebb_options).
   */
  size_t size;
  /**
   * Bytes of address space, from 1 MiB to 8 TiB: more than the heap can ever
   * hold at once. Costs no memory. When the kernel refuses, half is tried, and
   * so on down to 1 MiB. Default: 64 GiB, or less when other heaps or a limit
   * on address space leave less. Fixed once the heap is made.
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
   * Given back to the kernel by this call.
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
   * Bytes per span.
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
   * Address space of the heap.
   */
  uint64_t reserved;
  /**
   * Of that, readable and writable.
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
   * Free, and given back to the kernel.
   */
  uint64_t returned;
  /**
   * Committed and not used yet.
   */
  uint64_t never_touched;
  /**
   * The heap's own tables, with a descriptor of 64 bytes for each page, those
   * inside large blocks included, though they are never written.
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
   * madvise and process_madvise calls, to give back (a count).
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
} ebb_stats;

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
 * nsize is 0 and when memory ran out, and then ptr is untouched and still
 * yours. Blocks are aligned to 8 bytes, those whose size is a multiple of 16
 * to 16; their addresses are below 2^47. Shrinking never fails. Leaves errno
 * alone.
 *
 * A ptr that is no live block aborts the process with one line that says what
 * is wrong. Told at once: a pointer from elsewhere, one into the middle of a
 * block, a block freed twice while its slot is still free. Not told: a block
 * freed twice after its memory was handed out anew, and writes past the end.
 */
void *ebb_alloc(void *heap, void *ptr, size_t osize, size_t nsize);

/**
 * Gives free memory back to the kernel: every free page, those inside partly
 * used spans included. Live blocks stay where they are.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * options   NULL: everything, at once.
 * report    NULL, or room for what was done.
 *
 * Returns EBB_MORE when the budget ran out: the next call with a budget goes
 * on from there, and what is freed meanwhile may have to wait for the pass
 * after. At the end of a pass EBB_OK, or EBB_ERR_SYSTEM when the kernel
 * refused some of it; the report is valid in each case. EBB_ERR_ARGUMENT.
 * A call with a budget takes one step of at most 1 MiB at least, and stops
 * when another would not fit.
 */
int ebb_reclaim(struct ebb_heap *heap,
                const struct ebb_reclaim_options *options,
                struct ebb_reclaim_report *report);

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
 * Changes an option of a heap in use.
 *
 * heap      from ebb_heap_new(). One thread at a time.
 * name      the option's name, as in ebb_options.
 * value     its new value.
 *
 * Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_OPTION; EBB_ERR_RANGE;
 * EBB_ERR_FIXED; EBB_ERR_SYSTEM. ebb_strerror(0) then names the option and
 * what it takes; nothing was changed.
 */
int ebb_set(struct ebb_heap *heap, const char *name, int64_t value);

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
 * failure. Never NULL; empty for 0 when nothing failed yet. Any thread.
 */
const char *ebb_strerror(int code);

/**
 * Tells the version of the library, as "major.minor.patch". Any thread.
 */
const char *ebb_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* EBBTIDE_H */
