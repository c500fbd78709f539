/* Breathing in steps: memory goes back in the course of allocation, or in ticks
 * with a budget, a little at a time. */

#include "tick_host.h"
#include "scatter.h"

#define COUNT 100000

/* Nobody ticks: allocation and free do it on the way. */
static void a_busy_heap_needs_no_ticks(void)
{
  ebb_heap *heap = heap_of_decay(60000);
  struct rng rng = { 40 };
  uint64_t start;

  scatter(heap, &rng, COUNT, 100);
  CHECK(stats_of(heap, 0).free_resident > 10 * MIB);
  set(heap, "decay_ms", 50);
  start = now_ms();
  while (stats_of(heap, 0).returned_idle < 10 * MIB) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    churn(heap);
    sleep_ms(1);
  }
  CHECK_EQ(stats_of(heap, 0).returned_idle, stats_of(heap, 0).returned_total);
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

static void with_auto_off_only_a_tick_gives_back(void)
{
  ebb_heap *heap = heap_of_decay(20);
  struct rng rng = { 41 };
  uint64_t start;

  set(heap, "auto", 0);
  scatter(heap, &rng, COUNT, 100);
  start = now_ms();
  while (now_ms() - start < 300) {
    churn(heap);
    sleep_ms(1);
  }
  CHECK_EQ(stats_of(heap, 0).returned_total, 0);
  CHECK_EQ(stats_of(heap, 0).purge_calls, 0);
  be_idle(heap);
  CHECK(stats_of(heap, 0).returned_idle > 10 * MIB);
  end_survivors(heap, COUNT);
}

/* No allocation waits for more than one step if it may take no time. */
static void an_allocation_takes_one_step_at_a_time(void)
{
  ebb_options options = no_options();
  ebb_stats before, after;
  uint64_t start = now_ms();
  ebb_heap *heap;

  options.decay_ms = 20;
  options.step_us = 1;
  heap = heap_from(&options);
  leave_free(heap, 40 * MIB);
  after = stats_of(heap, 0);
  do {
    void *block;

    REQUIRE(now_ms() - start < DEADLINE_MS);
    before = after;
    block = ebb_alloc(heap, NULL, 0, 100 * KIB);
    after = stats_of(heap, 0);
    CHECK(after.returned_total - before.returned_total <= MIB);
    CHECK(after.purge_calls - before.purge_calls <= 1);
    before = after;
    ebb_alloc(heap, block, 100 * KIB, 0);
    after = stats_of(heap, 0);
    CHECK(after.returned_total - before.returned_total <= MIB);
    CHECK(after.purge_calls - before.purge_calls <= 1);
  } while (after.returned_total < 30 * MIB);
  CHECK(after.steps >= 30);
  heap_ends_empty(heap);
}

static void a_budget_takes_one_step_at_a_time(void)
{
  ebb_heap *heap = heap_of_decay(EBB_ZERO);
  ebb_stats before, after;
  unsigned ticks = 0, more = 0;
  int result, next;

  set(heap, "auto", 0);
  leave_free(heap, 40 * MIB);
  /* Until it is seen that it is free, and no more is wanted. */
  do {
    sleep_ms(2);
    CHECK(ebb_tick(heap, 1) >= EBB_OK);
    after = stats_of(heap, 0);
    CHECK(after.returned_total <= MIB);
  } while (after.returned_total == 0);
  do {
    before = after;
    result = ebb_tick(heap, 1);
    REQUIRE(result == EBB_OK || result == EBB_MORE);
    more += result == EBB_MORE;
    after = stats_of(heap, 0);
    CHECK(after.purge_calls - before.purge_calls <= 1);
    CHECK(after.returned_total - before.returned_total <= MIB);
    CHECK(result == EBB_OK || ebb_next_tick(heap) == 0);
    REQUIRE(++ticks < 150);
    next = ebb_next_tick(heap);
    sleep_ms(next == EBB_NEVER ? 0 : (unsigned)next);
  } while (next != EBB_NEVER);
  CHECK_EQ(result, EBB_OK);
  CHECK(ticks >= 39);
  CHECK(more >= 30);
  CHECK(after.steps >= 40);
  CHECK_EQ(after.free_resident, 0);
  CHECK_EQ(after.returned_total, 40 * MIB);
  heap_ends_empty(heap);
}

/* The same for the holes in spans, with blocks around them. */
static void a_budget_reaches_everything_in_the_end(void)
{
  ebb_heap *heap = heap_of_decay(50);
  struct rng rng = { 50 };
  unsigned ticks = 0;
  int next;

  /* So that all of it is left to the ticks. */
  set(heap, "auto", 0);
  scatter(heap, &rng, COUNT, 100);
  while ((next = ebb_next_tick(heap)) != EBB_NEVER) {
    sleep_ms((unsigned)next);
    CHECK(ebb_tick(heap, 1) >= EBB_OK);
    REQUIRE(++ticks < 150);
  }
  CHECK(ticks > 10);
  is_as_low_as_reclaim_gets(heap);
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

int main(void)
{
  RUN(a_busy_heap_needs_no_ticks);
  RUN(with_auto_off_only_a_tick_gives_back);
  RUN(an_allocation_takes_one_step_at_a_time);
  RUN(a_budget_takes_one_step_at_a_time);
  RUN(a_budget_reaches_everything_in_the_end);
  return check_status();
}
