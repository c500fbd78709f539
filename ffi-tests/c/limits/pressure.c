/* The soft memory limit: above it nothing idle stays, and how near it is tells
 * the pressure, as for the hard one. */

#include "limited.h"

static void without_a_limit_there_is_no_pressure(void)
{
  ebb_heap *heap = heap_of_limits(0, 0);

  CHECK_EQ(ebb_pressure(heap), 0);
  take(heap, 0, 100 * MIB);
  CHECK_EQ(ebb_pressure(heap), 0);
  CHECK_EQ(stats_of(heap, 0).limit_soft, 0);
  CHECK_EQ(stats_of(heap, 0).limit_hard, 0);
  end_survivors(heap, 1);
}

/* 0 up to half of the limit, 100 at all of it, for what cannot go back. */
static void pressure_is_right(ebb_heap *heap, uint64_t limit)
{
  ebb_stats stats = stats_of(heap, 0);
  uint64_t half = limit / 2, held = stats.resident - stats.free_resident;
  uint64_t expected = held > half ? (held - half) * 100 / (limit - half) : 0;

  CHECK_EQ(ebb_pressure(heap), expected > 100 ? 100 : expected);
  CHECK_EQ(stats.pressure, ebb_pressure(heap));
}

static void pressure_rises_with_what_is_live(int64_t soft, int64_t hard)
{
  ebb_heap *heap = heap_of_limits(soft, hard);
  size_t i, count;

  CHECK_EQ(stats_of(heap, 0).limit_soft, soft);
  CHECK_EQ(stats_of(heap, 0).limit_hard, hard);
  CHECK_EQ(ebb_pressure(heap), 0);
  for (count = 0; count < 15; count++) {
    take(heap, count, MIB);
    pressure_is_right(heap, LIMIT);
  }
  CHECK(ebb_pressure(heap) > 80);
  /* What is free can go back, and does not count. */
  for (i = 0; i < 8; i++) {
    drop(heap, i);
    pressure_is_right(heap, LIMIT);
  }
  CHECK_EQ(ebb_pressure(heap), 0);
  CHECK_EQ(stats_of(heap, 0).returned_total, 0);
  end_survivors(heap, count);
}

static void pressure_is_that_of_the_lower_limit(void)
{
  pressure_rises_with_what_is_live(LIMIT, 0);
  pressure_rises_with_what_is_live(0, LIMIT);
  pressure_rises_with_what_is_live(LIMIT, 2 * LIMIT);
  pressure_rises_with_what_is_live(LIMIT, LIMIT);
}

static void live_blocks_may_exceed_the_soft_limit(void)
{
  ebb_heap *heap = heap_of_limits(LIMIT, 0);
  size_t i;

  for (i = 0; i < 100; i++) {
    take(heap, i, MIB);
  }
  CHECK_EQ(ebb_pressure(heap), 100);
  survivors_are_unchanged(100);
  for (i = 0; i < 90; i++) {
    drop(heap, i);
  }
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK(stats_of(heap, 0).resident <= LIMIT);
  CHECK(stats_of(heap, 0).returned_limit > 0);
  end_survivors(heap, 100);
}

/* The same for memory that was to be kept. */
static void nothing_idle_stays_above_the_soft_limit(void)
{
  ebb_heap *heap = heap_of_limits(0, 0);

  set(heap, "retain", LIMIT);
  take(heap, 0, 2 * LIMIT);
  leave_free(heap, LIMIT);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).free_resident, LIMIT);
  set(heap, "limit_soft", LIMIT);
  CHECK_EQ(ebb_next_tick(heap), 0);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  CHECK_EQ(stats_of(heap, 0).returned_limit, LIMIT);
  CHECK_EQ(stats_of(heap, 0).floor_reason, EBB_FLOOR_LIMIT);
  end_survivors(heap, 1);
}

/* Replaces blocks at random that add up to at most three quarters of the
 * limit. */
static void churn_below(ebb_heap *heap, unsigned count, unsigned times,
                        size_t small, size_t large)
{
  struct rng rng = { 7 };
  size_t sum = 0;
  unsigned n;

  for (n = 0; n < times; n++) {
    size_t i = rng_below(&rng, count);
    size_t size = small + rng_below(&rng, large - small);

    if (live[i]) {
      sum -= blocks[i].size;
      drop(heap, i);
    } else if (sum + size <= LIMIT / 4 * 3) {
      sum += size;
      take(heap, i, size);
    }
  }
}

static void idle_memory_goes_before_the_heap_grows(void)
{
  ebb_heap *heap = heap_of_limits(LIMIT, 0);

  churn_below(heap, 100, 20000, 4 * PAGE, MIB);
  is_within(heap, LIMIT);
  CHECK(stats_of(heap, 0).returned_limit > 0);
  CHECK_EQ(stats_of(heap, 0).returned_idle, 0);
  survivors_are_unchanged(100);
  end_survivors(heap, 100);
}

/* Holes in spans are found less readily. */
static void small_blocks_stay_near_the_soft_limit(void)
{
  ebb_heap *heap = heap_of_limits(LIMIT, 0);
  size_t size;

  for (size = 100; size < 8000; size += size / 2) {
    churn_below(heap, 100000, 100000, size, size + size / 4);
    survivors_are_unchanged(100000);
    drop_survivors(heap, 100000);
  }
  is_within(heap, LIMIT + LIMIT / 4);
  heap_ends_empty(heap);
}

/* The limit in a file of a cgroup; UINT64_MAX: none, or no such file. */
static uint64_t limit_in(const char *root, const char *path, const char *name)
{
  unsigned long long limit = UINT64_MAX;
  char file[512];
  FILE *stream;

  snprintf(file, sizeof file, "%s%s/%s", root, path, name);
  stream = fopen(file, "r");
  if (stream != NULL) {
    /* "max" is no number; without a limit v1 shows one near 2^63. */
    if (fscanf(stream, "%llu", &limit) != 1 || limit >= 1ull << 60) {
      limit = UINT64_MAX;
    }
    fclose(stream);
  }
  return limit;
}

/* The lower one of the limits of this process's cgroup and of the outermost;
 * those between may be lower still. */
static uint64_t limit_in_sight(void)
{
  char line[512], path[512] = "";
  FILE *stream = fopen("/proc/self/cgroup", "r");
  const char *root = "/sys/fs/cgroup", *name = "memory.max";
  uint64_t own, outermost;

  while (stream != NULL && fgets(line, sizeof line, stream) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "0::", 3) == 0 && path[0] == '\0') {
      strcpy(path, line + 3);
    } else if (strstr(line, ":memory:") != NULL) {
      strcpy(path, strstr(line, ":memory:") + 8);
      root = "/sys/fs/cgroup/memory";
      name = "memory.limit_in_bytes";
      break;
    }
  }
  if (stream != NULL) {
    fclose(stream);
  }
  own = limit_in(root, path, name);
  outermost = limit_in(root, "", name);
  return own < outermost ? own : outermost;
}

/* The limit is what the heap holds and at most nine tenths of what is seen. */
static void limit_is_from_the_cgroup(ebb_heap *heap)
{
  uint64_t seen = limit_in_sight();
  ebb_stats stats;

  set(heap, "limit_soft", 0);
  CHECK_EQ(stats_of(heap, 0).limit_soft, 0);
  set(heap, "limit_soft", EBB_CGROUP);
  stats = stats_of(heap, 0);
  if (seen != UINT64_MAX) {
    CHECK(stats.limit_soft > 0);
    CHECK(stats.limit_soft <= stats.resident + seen / 10 * 9);
  }
  if (stats.limit_soft > 0) {
    pressure_is_right(heap, stats.limit_soft);
  } else {
    CHECK_EQ(stats.pressure, 0);
    CHECK_EQ(stats.returned_limit, 0);
  }
}

/* Whether there is one or not, or a file system to tell. */
static void works_with_the_limit_of_the_cgroup(const void *argument)
{
  struct rng rng = { 9 };
  int64_t value = 0;
  ebb_heap *heap;

  (void)argument;
  setenv("EBBTIDE_LIMIT_SOFT", "cgroup", 1);
  setenv("EBBTIDE_DECAY_MS", "20", 1);
  heap = heap_from(NULL);
  CHECK_EQ(ebb_get(heap, "limit_soft", &value), EBB_OK);
  CHECK_EQ(value, EBB_CGROUP);
  limit_is_from_the_cgroup(heap);
  scatter(heap, &rng, 50000, 50);
  limit_is_from_the_cgroup(heap);
  be_idle(heap);
  CHECK_EQ(ebb_pressure(heap), stats_of(heap, 0).pressure);
  survivors_are_unchanged(50000);
  end_survivors(heap, 50000);
}

static void the_limit_of_the_cgroup_can_be_taken(void)
{
  CHECK_EQ(in_child(works_with_the_limit_of_the_cgroup, NULL), 0);
}

int main(void)
{
  RUN(without_a_limit_there_is_no_pressure);
  RUN(pressure_is_that_of_the_lower_limit);
  RUN(live_blocks_may_exceed_the_soft_limit);
  RUN(nothing_idle_stays_above_the_soft_limit);
  RUN(idle_memory_goes_before_the_heap_grows);
  RUN(small_blocks_stay_near_the_soft_limit);
  RUN(the_limit_of_the_cgroup_can_be_taken);
  return check_status();
}
