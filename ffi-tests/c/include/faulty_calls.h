/* Calls of the library on a kernel that refuses: each may fail only when the
 * kernel refused something in it, and the account stays that of the kernel. */

#ifndef FAULTY_CALLS_H
#define FAULTY_CALLS_H

#include "check.h"
#include "syscall_faults.h"

/* The calls that were made before stop_refusing(). */
static uint64_t counted[CALL_COUNT];

/* A limit may leave no room, though nothing was refused. */
static int limited;

/* From here on nothing is refused. */
static inline void stop_refusing(void)
{
  memcpy(counted, faults.calls, sizeof counted);
  faults.at = 0;
}

/* Calls that may fail only when the kernel refused something in them. */
static inline uint64_t refusals(void)
{
  uint64_t sum = 0;
  int call;

  for (call = 0; call < CALL_COUNT; call++) {
    sum += faults.refused[call];
  }
  return sum;
}

#define CALLING(call) (errno = ERRNO_MARK, faults_enter(), (call))
#define CALLED() (faults_leave(), check_errno())

static inline ebb_heap *make(const ebb_options *options)
{
  uint64_t before = refusals();
  ebb_heap *heap = CALLING(ebb_heap_new(options));

  CALLED();
  CHECK(heap != NULL || refusals() > before);
  if (heap == NULL) {
    /* It was refused once. Where all are, the kernel comes round. */
    faults.lasting = 0;
    heap = CALLING(ebb_heap_new(options));
    CALLED();
  }
  REQUIRE(heap != NULL);
  return heap;
}

static inline void *faulty_alloc(void *heap, void *ptr, size_t osize, size_t nsize)
{
  uint64_t before = refusals();
  void *got = CALLING(ebb_alloc(heap, ptr, osize, nsize));

  CALLED();
  CHECK(got != NULL || nsize == 0 || refusals() > before
        || faults.lasting || limited);
  return got;
}

static inline void resize(ebb_heap *heap, struct block *block, size_t size)
{
  unsigned char *at;
  size_t kept;

  if (block->at == NULL) {
    block->size = 0;
  }
  kept = size < block->size ? size : block->size;
  at = (unsigned char *)faulty_alloc(heap, block->at, block->size, size);
  if (at == NULL && size != 0) {
    CHECK(size > block->size);
    CHECK(block_kept(block, block->at, block->size));
    return;
  }
  CHECK(size == 0 || block_kept(block, at, kept));
  block->at = at;
  block->size = size;
  if (size != 0) {
    block_fill(block, (uintptr_t)at ^ size);
  }
}

/* A result that says that the kernel refused must be true. */
static inline void judge(int result)
{
  CHECK(result == EBB_OK || result == EBB_MORE
        || (result < 0 && refusals() > 0));
}

static inline void pause_and_tick(ebb_heap *heap, uint64_t ms)
{
  faults.now_us += ms * 1000;
  CHECK(CALLING(ebb_next_tick(heap)) >= 0);
  judge(ebb_tick(heap, 0));
  CALLED();
}

static inline void reclaim(ebb_heap *heap, uint32_t budget_us)
{
  ebb_reclaim_options options = { sizeof options, budget_us };

  judge(CALLING(ebb_reclaim(heap, &options, NULL)));
  CALLED();
}

static inline void change(ebb_heap *heap, const char *name, int64_t value)
{
  judge(CALLING(ebb_set(heap, name, value)));
  CALLED();
}

/* The account against the kernel, which must not have been refused for that. */
static inline void is_true(ebb_heap *heap)
{
  ebb_stats stats;

  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  stats.flags = EBB_STATS_KERNEL;
  judge(CALLING(ebb_stats_read(heap, &stats)));
  CALLED();
  CHECK_EQ(stats.live + stats.waste + stats.free_resident + stats.returned
             + stats.never_touched + stats.metadata,
           stats.committed);
  CHECK(stats.kernel_resident <= stats.resident);
}

#endif
