/* Many heaps under limits on address space: each heap maps what it uses, and
 * none has a reservation instead, which could not grow as far. Plans become
 * shorter as heaps become more. */

#include "check.h"

#include <sys/resource.h>

#define HEAPS 1500
#define AGAIN 3000

static ebb_heap *heaps[HEAPS];

/* A heap without blocks maps some hundred KiB; a reservation is 1 MiB or more. */
static void is_planned(ebb_heap *heap)
{
  ebb_stats stats = { .size = sizeof(stats) };

  REQUIRE(heap != NULL);
  CHECK_EQ(ebb_stats_read(heap, &stats), EBB_OK);
  CHECK(stats.reserved < MIB);
}

static void all_are_planned(uint64_t limit)
{
  const struct rlimit bytes = { limit, limit };
  unsigned i;

  REQUIRE(setrlimit(RLIMIT_AS, &bytes) == 0);
  for (i = 0; i < HEAPS; i++) {
    heaps[i] = ebb_heap_new(NULL);
    is_planned(heaps[i]);
  }
  /* The older half stays, the younger half comes and goes. */
  for (i = 0; i < AGAIN; i++) {
    ebb_heap **heap = &heaps[HEAPS / 2 + i % (HEAPS / 2)];

    ebb_heap_delete(*heap);
    *heap = ebb_heap_new(NULL);
    is_planned(*heap);
  }
  for (i = 0; i < HEAPS; i++) {
    ebb_heap_delete(heaps[i]);
  }
}

/* The limit is lowered from one to the next, which needs no privilege. */
static void heaps_have_plans_under_every_limit(void)
{
  all_are_planned(64 * GIB);
  all_are_planned(16 * GIB);
  all_are_planned(4 * GIB);
}

int main(void)
{
  RUN(heaps_have_plans_under_every_limit);
  return check_status();
}
