/* What the tests of returned memory share: heaps with options, the time, and a host
 * that does nothing but tick when it is asked to. */

#ifndef TICK_HOST_H
#define TICK_HOST_H

#include "check.h"

#include <time.h>

/* What these tests see is what ticks and allocations return. */
#ifndef TICK_HOST_WITH_THREAD
__attribute__((constructor)) static void without_thread(void)
{
  setenv("EBBTIDE_BACKGROUND", "off", 1);
}
#endif

/* Longer than anything here takes, but on a machine that stands still. */
#define DEADLINE_MS 20000

static inline uint64_t now_ms(void)
{
  struct timespec now;

  REQUIRE(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline void sleep_ms(unsigned ms)
{
  struct timespec time;

  time.tv_sec = (time_t)(ms / 1000);
  time.tv_nsec = (long)(ms % 1000) * 1000000;
  nanosleep(&time, NULL);
}

static inline ebb_options no_options(void)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  return options;
}

/* A heap whose free memory stays for so long; EBB_ZERO: not at all. */
static inline ebb_heap *heap_of_decay(int64_t decay_ms)
{
  ebb_options options = no_options();

  options.decay_ms = decay_ms;
  return heap_from(&options);
}

static inline void set(ebb_heap *heap, const char *name, int64_t value)
{
  CHECK_EQ(ebb_set(heap, name, value), EBB_OK);
}

/* What an idle host did. */
struct idle {
  /* What it was asked to wait for in all: no time that the machine took. */
  uint64_t asked_ms;
  unsigned ticks;
};

/* Ticks when ebb_next_tick() asks for it, until it asks no more. */
static inline struct idle be_idle(ebb_heap *heap)
{
  struct idle idle = { 0, 0 };
  uint64_t start = now_ms();
  int next;

  while ((next = ebb_next_tick(heap)) != EBB_NEVER) {
    REQUIRE(next >= 0 && next < DEADLINE_MS);
    REQUIRE(now_ms() - start < DEADLINE_MS);
    sleep_ms((unsigned)next);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    idle.asked_ms += (unsigned)next;
    idle.ticks++;
  }
  return idle;
}

/* Asks for a while, as a host does that wakes up for other reasons. */
static inline void stays_settled(ebb_heap *heap, uint64_t ms)
{
  uint64_t returned = stats_of(heap, 0).returned_total;
  uint64_t start = now_ms();

  while (now_ms() - start < ms) {
    REQUIRE(ebb_next_tick(heap) == EBB_NEVER);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    sleep_ms(20);
  }
  CHECK_EQ(ebb_next_tick(heap), EBB_NEVER);
  CHECK_EQ(stats_of(heap, 0).returned_total, returned);
}

/* Leaves `bytes` of free memory that was written. */
static inline void leave_free(ebb_heap *heap, size_t bytes)
{
  /* In blocks that do not go back when they are freed, as those of 128 KiB do. */
  enum { PIECE = 64 * 1024, PIECES = 4096 };
  static void *pieces[PIECES];
  size_t count = bytes / PIECE, rest = bytes % PIECE, i;

  REQUIRE(count < PIECES);
  for (i = 0; i <= count; i++) {
    size_t size = i < count ? PIECE : rest;

    pieces[i] = size > 0 ? ebb_alloc(heap, NULL, 0, size) : NULL;
    REQUIRE(pieces[i] != NULL || size == 0);
    if (size > 0) memset(pieces[i], 1, size);
  }
  for (i = 0; i <= count; i++) {
    if (pieces[i] != NULL) ebb_alloc(heap, pieces[i], i < count ? PIECE : rest, 0);
  }
}

/* What is left to reclaim is next to nothing. */
static inline void is_as_low_as_reclaim_gets(ebb_heap *heap)
{
  uint64_t settled = stats_of(heap, EBB_STATS_KERNEL).kernel_resident;
  uint64_t reclaimed;

  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  reclaimed = stats_of(heap, EBB_STATS_KERNEL).kernel_resident;
  CHECK(settled <= reclaimed + reclaimed / 10 + MIB);
}

/* Work on the slow path for a moment: pages change hands. */
static inline void churn(ebb_heap *heap)
{
  unsigned i;

  for (i = 0; i < 50; i++) {
    ebb_alloc(heap, ebb_alloc(heap, NULL, 0, 64 * KIB), 64 * KIB, 0);
  }
}

#endif /* TICK_HOST_H */
