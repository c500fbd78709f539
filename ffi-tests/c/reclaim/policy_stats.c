/* What a heap says of its breathing: its trend, how long memory has been free,
 * what went back and why, what of it was needed again, and what it learns. */

#include "tick_host.h"

static void *take(ebb_heap *heap, size_t bytes)
{
  void *block = ebb_alloc(heap, NULL, 0, bytes);

  REQUIRE(block != NULL);
  memset(block, 1, bytes);
  return block;
}

static void give(ebb_heap *heap, void *block, size_t bytes)
{
  CHECK(ebb_alloc(heap, block, bytes, 0) == NULL);
}

static ebb_stats after_a_tick(ebb_heap *heap)
{
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  return stats_of(heap, 0);
}

/* Growth is believed in for a quarter of the decay, and a heap shrinks up to the
 * end of it. Unless the machine stood still: then it is tried again. */
static void the_trend_follows_demand(void)
{
  uint64_t start, ms;

  do {
    ebb_heap *heap = heap_of_decay(3600000);
    uint32_t trend;
    void *block;

    CHECK_EQ(stats_of(heap, 0).trend, EBB_TREND_STEADY);
    block = take(heap, 16 * MIB);
    CHECK_EQ(after_a_tick(heap).trend, EBB_TREND_GROWING);
    start = now_ms();
    set(heap, "decay_ms", 1000);
    give(heap, block, 16 * MIB);
    sleep_ms(400);
    trend = after_a_tick(heap).trend;
    ms = now_ms() - start;
    CHECK(ms >= 900 || trend == EBB_TREND_SHRINKING);
    set(heap, "decay_ms", 0);
    sleep_ms(2);
    after_a_tick(heap);
    sleep_ms(2);
    CHECK_EQ(after_a_tick(heap).trend, EBB_TREND_STEADY);
    heap_ends_empty(heap);
  } while (ms >= 900);
}

static void growth_keeps_what_is_free(void)
{
  ebb_options options = no_options();
  ebb_stats stats;
  ebb_heap *heap;
  void *block;

  options.decay_ms = 60000;
  options.retain_max = 100 * MIB;
  heap = heap_from(&options);
  block = take(heap, 16 * MIB);
  stats = after_a_tick(heap);
  CHECK_EQ(stats.trend, EBB_TREND_GROWING);
  CHECK_EQ(stats.keep, 100 * MIB);
  CHECK_EQ(stats.floor, 0);
  CHECK_EQ(stats.floor_reason, EBB_FLOOR_NONE);
  CHECK_EQ(stats.due, 0);
  give(heap, block, 16 * MIB);
  heap_ends_empty(heap);
}

/* To an eighth of the decay. Unless the machine stood still: then the memory has
 * gone, and it is tried again. */
static void free_memory_ages(void)
{
  uint64_t start, ms, age, later;

  do {
    ebb_heap *heap = heap_of_decay(2000);
    void *block = take(heap, 16 * MIB);

    CHECK_EQ(after_a_tick(heap).idle_age_ms, 0);
    start = now_ms();
    give(heap, block, 16 * MIB);
    after_a_tick(heap);
    sleep_ms(600);
    age = after_a_tick(heap).idle_age_ms;
    CHECK(age <= now_ms() - start + 250);
    /* As much again, but young: half as old on average. */
    block = take(heap, 32 * MIB);
    sleep_ms(2);
    after_a_tick(heap);
    give(heap, block, 32 * MIB);
    sleep_ms(2);
    later = after_a_tick(heap).idle_age_ms;
    ms = now_ms() - start;
    heap_ends_empty(heap);
  } while (ms >= 1000);
  CHECK(age >= 599);
  CHECK(later < age);
}

static void what_the_host_asked_for_is_counted_as_asked(void)
{
  ebb_heap *heap = heap_of_decay(60000);
  void *block = take(heap, 16 * MIB);
  ebb_stats stats;

  /* Else the block would go back when it is freed. */
  set(heap, "auto", 0);
  give(heap, block, 16 * MIB);
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  stats = stats_of(heap, 0);
  CHECK_EQ(stats.returned_asked, 16 * MIB);
  CHECK_EQ(stats.returned_idle + stats.returned_limit, 0);
  CHECK_EQ(stats.refaulted_asked, 0);
  block = take(heap, 8 * MIB);
  stats = stats_of(heap, 0);
  CHECK_EQ(stats.refaulted_asked, 8 * MIB);
  CHECK(stats.premature_refaults_asked <= stats.refaulted_asked);
  CHECK_EQ(stats.refaulted_idle + stats.refaulted_limit, 0);
  give(heap, block, 8 * MIB);
  heap_ends_empty(heap);
}

/* Within a second, unless the machine stood still: then it is tried again. */
static void what_is_needed_again_soon_is_premature(void)
{
  ebb_heap *heap = heap_of_decay(EBB_ZERO);
  ebb_stats before, after;
  uint64_t start, ms;

  do {
    uint64_t returned = stats_of(heap, 0).returned_idle;
    void *block;

    start = now_ms();
    give(heap, take(heap, 16 * MIB), 16 * MIB);
    be_idle(heap);
    before = stats_of(heap, 0);
    CHECK_EQ(before.returned_idle - returned, 16 * MIB);
    block = take(heap, 16 * MIB);
    ms = now_ms() - start;
    after = stats_of(heap, 0);
    give(heap, block, 16 * MIB);
    be_idle(heap);
  } while (ms >= 1000);
  CHECK_EQ(after.refaulted_idle - before.refaulted_idle, 16 * MIB);
  CHECK_EQ(after.premature_refaults_idle - before.premature_refaults_idle, 16 * MIB);
  heap_ends_empty(heap);
}

static void what_is_needed_later_is_not_premature(void)
{
  ebb_heap *heap = heap_of_decay(EBB_ZERO);
  ebb_stats stats;
  void *block;

  give(heap, take(heap, 16 * MIB), 16 * MIB);
  be_idle(heap);
  CHECK_EQ(stats_of(heap, 0).returned_idle, 16 * MIB);
  sleep_ms(1400);
  block = take(heap, 16 * MIB);
  stats = stats_of(heap, 0);
  CHECK_EQ(stats.refaulted_idle, 16 * MIB);
  CHECK_EQ(stats.premature_refaults_idle, 0);
  give(heap, block, 16 * MIB);
  heap_ends_empty(heap);
}

/* Something else goes on, for memory stays in a busy heap only. */
static void work_for(ebb_heap *heap, uint64_t ms)
{
  uint64_t start = now_ms();

  do {
    churn(heap);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    sleep_ms(5);
  } while (now_ms() - start < ms);
}

/* Demand that comes and goes: after a few times the memory stays. When the
 * heap is left alone, it goes nonetheless. */
static void a_heap_learns_what_comes_back(void)
{
  const size_t bytes = 48 * MIB;
  ebb_heap *heap = heap_of_decay(20);
  uint64_t start = now_ms(), returned;
  ebb_stats stats;

  do {
    void *block = take(heap, bytes);

    REQUIRE(now_ms() - start < DEADLINE_MS);
    work_for(heap, 80);
    returned = stats_of(heap, 0).returned_total;
    give(heap, block, bytes);
    work_for(heap, 60);
    stats = stats_of(heap, 0);
  } while (stats.returned_total > returned || stats.floor < bytes / 2);
  CHECK(stats.floor_reason == EBB_FLOOR_SWING
        || stats.floor_reason == EBB_FLOOR_PREMATURE);
  CHECK(stats.keep >= stats.floor);
  CHECK(stats.free_resident >= bytes / 2);
  CHECK(be_idle(heap).asked_ms < 2000);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  heap_ends_empty(heap);
}

/* Also what is made of one that was deleted. */
static void a_new_heap_has_learned_nothing(void)
{
  unsigned i;

  for (i = 0; i < 3; i++) {
    ebb_options options = no_options();
    ebb_heap *heap = heap_from(&options);
    ebb_stats stats = stats_of(heap, 0);
    uint64_t used = stats.resident - stats.free_resident - stats.metadata;

    CHECK_EQ(used, 0);
    CHECK_EQ(stats.trend, EBB_TREND_STEADY);
    CHECK_EQ(stats.returned_total, 0);
    CHECK_EQ(stats.refaulted_asked + stats.refaulted_idle, 0);
    CHECK_EQ(stats.steps, 0);
    CHECK_EQ(stats.step_max_us, 0);
    CHECK_EQ(stats.step_p99_us, 0);
    CHECK_EQ(stats.floor, 0);
    CHECK_EQ(stats.limit_hard + stats.limit_soft, 0);
    CHECK_EQ(stats.pressure, 0);
    set(heap, "decay_ms", 0);
    set(heap, "limit_hard", 64 * MIB);
    set(heap, "limit_soft", 4 * MIB);
    set(heap, "history", 1);
    give(heap, take(heap, 5 * MIB), 5 * MIB);
    be_idle(heap);
    CHECK(stats_of(heap, 0).steps > 0);
    give(heap, take(heap, MIB), MIB);
    ebb_heap_delete(heap);
  }
}

int main(void)
{
  RUN(the_trend_follows_demand);
  RUN(growth_keeps_what_is_free);
  RUN(free_memory_ages);
  RUN(what_the_host_asked_for_is_counted_as_asked);
  RUN(what_is_needed_again_soon_is_premature);
  RUN(what_is_needed_later_is_not_premature);
  RUN(a_heap_learns_what_comes_back);
  RUN(a_new_heap_has_learned_nothing);
  return check_status();
}
