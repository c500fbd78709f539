/* What the tests of memory limits share: heaps that have one, and whether they
 * keep to it. */

#ifndef LIMITED_H
#define LIMITED_H

#include "tick_host.h"
#include "scatter.h"

#define PAGE ((size_t)4096)
#define LIMIT (16 * MIB)

static inline ebb_heap *heap_of_limits(int64_t soft, int64_t hard)
{
  ebb_options options = no_options();

  options.limit_soft = soft;
  options.limit_hard = hard;
  /* So that only a limit makes anything go. */
  options.decay_ms = 3600000;
  return heap_from(&options);
}

/* To a few pages of the heap's own tables, now; and ever, to all of them. */
static inline void is_within(ebb_heap *heap, size_t limit)
{
  ebb_stats stats = stats_of(heap, EBB_STATS_KERNEL);

  CHECK(stats.resident <= limit + 4 * PAGE);
  CHECK(stats.kernel_resident <= limit + 4 * PAGE);
  CHECK(stats.resident_peak <= limit + limit / 32);
}

#endif /* LIMITED_H */
