/* Breathing: what is free goes back by itself, when its time has come and not
 * before, until nothing is left to do. */

#include "tick_host.h"
#include "scatter.h"

#define COUNT 100000

/* Loads a heap and frees most or all; returns what it held at its most. */
static uint64_t load(ebb_heap *heap, uint64_t seed, size_t keep)
{
  struct rng rng = { seed };
  uint64_t resident;

  scatter(heap, &rng, COUNT, keep);
  if (keep > COUNT) {
    drop_survivors(heap, COUNT);
  }
  resident = stats_of(heap, 0).resident_peak;
  CHECK(resident > 10 * MIB);
  return resident;
}

#define NONE_KEPT (COUNT + 1)

static void settles(ebb_heap *heap, uint64_t seed, size_t keep)
{
  uint64_t loaded = load(heap, seed, keep);
  struct idle idle = be_idle(heap);
  ebb_stats stats = stats_of(heap, 0);

  CHECK(idle.ticks < 60);
  CHECK(stats.resident < loaded / 2);
  CHECK_EQ(stats.due, 0);
  CHECK_EQ(stats.returned_asked, 0);
  CHECK_EQ(stats.returned_idle, stats.returned_total);
  CHECK(stats.steps > 0);
  CHECK(stats.step_p50_us <= stats.step_p99_us);
  CHECK(stats.step_p99_us <= stats.step_max_us);
  survivors_are_unchanged(COUNT);
}

static void an_idle_heap_settles_for_good(void)
{
  ebb_heap *heap = heap_of(0);

  settles(heap, 1, 100);
  stays_settled(heap, 3000);
  is_as_low_as_reclaim_gets(heap);
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

static void an_empty_heap_settles_soon_with_a_short_decay(void)
{
  ebb_heap *heap = heap_of_decay(100);

  settles(heap, 2, NONE_KEPT);
  is_as_low_as_reclaim_gets(heap);
  CHECK(stats_of(heap, 0).resident < MIB);
  heap_ends_empty(heap);
}

static void a_heap_that_is_used_again_asks_again(void)
{
  ebb_heap *heap = heap_of_decay(50);
  unsigned round;

  CHECK_EQ(ebb_next_tick(heap), EBB_NEVER);
  for (round = 0; round < 3; round++) {
    settles(heap, 10 + round, 50);
    stays_settled(heap, 100);
    drop_survivors(heap, COUNT);
    leave_free(heap, MIB);
    CHECK(ebb_next_tick(heap) != EBB_NEVER);
    be_idle(heap);
    leave_free(heap, 20 * KIB);
    CHECK(ebb_next_tick(heap) != EBB_NEVER);
    be_idle(heap);
    is_as_low_as_reclaim_gets(heap);
  }
  heap_ends_empty(heap);
}

/* Blocks were freed, but no page: a block is left in each span. */
static void holes_alone_are_noticed(void)
{
  ebb_heap *heap = heap_of_decay(50);
  size_t i;

  for (i = 0; i < 10000; i++) {
    take(heap, i, 3000);
  }
  /* So that nothing goes while blocks are freed, however long that takes. */
  set(heap, "decay_ms", 60000);
  be_idle(heap);
  for (i = 0; i < 10000; i++) {
    if (i % 8 != 0) {
      drop(heap, i);
    }
  }
  CHECK(ebb_next_tick(heap) != EBB_NEVER);
  set(heap, "decay_ms", 50);
  be_idle(heap);
  is_as_low_as_reclaim_gets(heap);
  survivors_are_unchanged(10000);
  end_survivors(heap, 10000);
}

/* Whoever ticks more often than he is asked to gets the same. */
static void ticks_out_of_turn_do_no_harm(void)
{
  ebb_heap *heap = heap_of_decay(100);
  uint64_t start;

  load(heap, 20, 100);
  start = now_ms();
  while (ebb_next_tick(heap) != EBB_NEVER) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    sleep_ms(1);
  }
  is_as_low_as_reclaim_gets(heap);
  end_survivors(heap, COUNT);
}

static void nothing_goes_back_before_its_time(void)
{
  ebb_heap *heap = heap_of_decay(1000);
  uint64_t start = now_ms(), now;
  uint64_t returned;

  leave_free(heap, 3 * MIB);
  do {
    churn(heap);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    returned = stats_of(heap, 0).returned_total;
    now = now_ms();
    REQUIRE(now - start < DEADLINE_MS);
    sleep_ms(10);
  } while (returned == 0);
  CHECK(now - start >= 1000);
  heap_ends_empty(heap);
}

static void a_long_decay_keeps_everything(void)
{
  ebb_heap *heap = heap_of_decay(60000);
  unsigned i;

  load(heap, 31, 100);
  for (i = 0; i < 30; i++) {
    churn(heap);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    sleep_ms(10);
  }
  CHECK_EQ(stats_of(heap, 0).returned_total, 0);
  CHECK_EQ(stats_of(heap, 0).purge_calls, 0);
  CHECK(ebb_next_tick(heap) > 1000);
  CHECK(ebb_next_tick(heap) < EBB_NEVER);
  end_survivors(heap, COUNT);
}

/* A look takes a moment to see that demand has stopped to rise. */
static void without_decay_everything_goes_at_once(void)
{
  ebb_heap *heap = heap_of_decay(EBB_ZERO);
  struct idle idle;

  load(heap, 32, NONE_KEPT);
  idle = be_idle(heap);
  CHECK(idle.asked_ms < 1000);
  CHECK(stats_of(heap, 0).resident < MIB);
  leave_free(heap, 8 * MIB);
  idle = be_idle(heap);
  CHECK(idle.asked_ms < 1000);
  CHECK(stats_of(heap, 0).resident < MIB);
  heap_ends_empty(heap);
}

static void retained_memory_stays(void)
{
  ebb_options options = no_options();
  ebb_stats stats;
  ebb_heap *heap;

  options.decay_ms = 50;
  options.retain = 8 * MIB;
  heap = heap_from(&options);
  leave_free(heap, 40 * MIB);
  be_idle(heap);
  stats = stats_of(heap, 0);
  CHECK(stats.free_resident >= 8 * MIB - 256 * KIB);
  CHECK(stats.free_resident <= 8 * MIB + 256 * KIB);
  CHECK_EQ(stats.floor, 8 * MIB);
  CHECK_EQ(stats.keep, 8 * MIB);
  CHECK_EQ(stats.floor_reason, EBB_FLOOR_RETAIN);
  stays_settled(heap, 200);
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  heap_ends_empty(heap);
}

static void no_tick_leaves_more_than_may_be_retained(void)
{
  ebb_options options = no_options();
  unsigned round;
  ebb_heap *heap;

  options.decay_ms = 60000;
  options.retain_max = 4 * MIB;
  heap = heap_from(&options);
  for (round = 1; round < 20; round++) {
    leave_free(heap, round * 2 * MIB);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    CHECK(stats_of(heap, 0).free_resident <= 4 * MIB);
  }
  CHECK_EQ(stats_of(heap, 0).free_resident, 4 * MIB);
  set(heap, "retain_max", 0);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  heap_ends_empty(heap);
}

/* A timer that goes off now and then. */
static void small_work_keeps_no_memory(void)
{
  ebb_heap *heap = heap_of_decay(100);
  uint64_t start = now_ms();

  leave_free(heap, 40 * MIB);
  do {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    leave_free(heap, 100);
    leave_free(heap, 16 * KIB);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    sleep_ms(5);
  } while (stats_of(heap, 0).free_resident > MIB);
  heap_ends_empty(heap);
}

/* A host that asks when to tick learns of the change. */
static void changes_take_effect_at_once(void)
{
  ebb_heap *heap = heap_of_decay(60000);

  leave_free(heap, 40 * MIB);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).returned_total, 0);
  set(heap, "retain", 8 * MIB);
  set(heap, "decay_ms", 20);
  be_idle(heap);
  CHECK_EQ(stats_of(heap, 0).free_resident, 8 * MIB);
  set(heap, "retain", 2 * MIB);
  be_idle(heap);
  CHECK_EQ(stats_of(heap, 0).free_resident, 2 * MIB);
  set(heap, "retain_max", MIB);
  be_idle(heap);
  CHECK_EQ(stats_of(heap, 0).free_resident, MIB);
  set(heap, "retain", 0);
  be_idle(heap);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  heap_ends_empty(heap);
}

int main(void)
{
  RUN(an_idle_heap_settles_for_good);
  RUN(an_empty_heap_settles_soon_with_a_short_decay);
  RUN(a_heap_that_is_used_again_asks_again);
  RUN(holes_alone_are_noticed);
  RUN(ticks_out_of_turn_do_no_harm);
  RUN(nothing_goes_back_before_its_time);
  RUN(a_long_decay_keeps_everything);
  RUN(without_decay_everything_goes_at_once);
  RUN(retained_memory_stays);
  RUN(no_tick_leaves_more_than_may_be_retained);
  RUN(small_work_keeps_no_memory);
  RUN(changes_take_effect_at_once);
  return check_status();
}
