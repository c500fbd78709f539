/* The hard memory limit: the heap does not cross it, finds all room that there
 * is below it, and goes on when there is none. */

#include "limited.h"

/* Fills a heap to its limit; returns how many blocks that took. */
static size_t fill(ebb_heap *heap, size_t size)
{
  size_t count;

  for (count = 0; count < BLOCKS_MAX; count++) {
    errno = ERRNO_MARK;
    block_new(heap, &blocks[count], size, count);
    check_errno();
    if (blocks[count].at == NULL) {
      return count;
    }
    live[count] = 1;
  }
  REQUIRE(!"the heap is never full");
  return 0;
}

static void what_does_not_fit_is_refused_again_and_again(void)
{
  static const size_t sizes[] = { 48, 1000, 3000, 20000, MIB };
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t s, i, count;

  for (s = 0; s < COUNT_OF(sizes); s++) {
    uint64_t calls;

    count = fill(heap, sizes[s]);
    CHECK(count * sizes[s] > LIMIT / 10 * 9);
    CHECK(ebb_pressure(heap) > 80);
    calls = stats_of(heap, 0).purge_calls;
    for (i = 0; i < 10000; i++) {
      CHECK(ebb_alloc(heap, NULL, 0, MIB) == NULL);
      CHECK(ebb_alloc(heap, blocks[0].at, sizes[s], 2 * MIB) == NULL);
    }
    CHECK(stats_of(heap, 0).purge_calls <= calls + 2);
    survivors_are_unchanged(count);
    is_within(heap, LIMIT);
    drop_survivors(heap, count);
  }
  CHECK_EQ(stats_of(heap, 0).failed_calls, 0);
  heap_ends_empty(heap);
}

/* Shrinking never fails, nor does a new size that takes no more memory. */
static void at_the_limit_what_takes_no_memory_succeeds(void)
{
  static const size_t sizes[] = { 1000, 3000, 20000, MIB };
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t s, i, count;

  for (s = 0; s < COUNT_OF(sizes); s++) {
    size_t size = sizes[s];

    count = fill(heap, size);
    for (i = 0; i < count; i++) {
      CHECK(block_resize(heap, &blocks[i], size, size - 8, i));
      CHECK(block_resize(heap, &blocks[i], size - 8, size, i));
    }
    for (i = 0; i < count; i += 7) {
      CHECK(block_resize(heap, &blocks[i], size, size / 3, i));
      CHECK(block_resize(heap, &blocks[i], size / 3, 1, i));
    }
    survivors_are_unchanged(count);
    is_within(heap, LIMIT);
    drop_survivors(heap, count);
  }
  heap_ends_empty(heap);
}

/* As a garbage collector at the limit does: free some, go on. */
static void what_was_freed_can_be_taken_again(void)
{
  static const size_t sizes[] = { 48, 1000, 3000, 20000, MIB };
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t s, i, count;

  for (s = 0; s < COUNT_OF(sizes); s++) {
    count = fill(heap, sizes[s]);
    for (i = count / 4; i < count / 2; i++) {
      drop(heap, i);
    }
    for (i = count / 4; i < count / 2 - 64 * KIB / sizes[s]; i++) {
      take(heap, i, sizes[s]);
    }
    survivors_are_unchanged(count);
    is_within(heap, LIMIT);
    drop_survivors(heap, count);
  }
  heap_ends_empty(heap);
}

/* One in twenty, too few in a span to be worth a visit at other times. */
static void what_was_freed_here_and_there_can_be_taken_again(void)
{
  static const size_t sizes[] = { 48, 200, 1000, 3000 };
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  struct rng rng = { 11 };
  size_t s, i, count, freed;

  for (s = 0; s < COUNT_OF(sizes); s++) {
    count = fill(heap, sizes[s]);
    for (i = freed = 0; i < count; i++) {
      if (rng_below(&rng, 20) == 0) {
        drop(heap, i);
        freed++;
      }
    }
    for (i = 0; i < count; i++) {
      if (!live[i]) {
        take(heap, i, sizes[s]);
      }
    }
    CHECK(freed > count / 30);
    survivors_are_unchanged(count);
    is_within(heap, LIMIT);
    drop_survivors(heap, count);
  }
  heap_ends_empty(heap);
}

/* Freeing a little and failing again does not search the heap each time. */
static void refusals_are_cheap_though_a_little_is_freed_each_time(void)
{
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t i, count = fill(heap, 200);
  uint64_t steps;

  CHECK(ebb_alloc(heap, NULL, 0, MIB) == NULL);
  steps = stats_of(heap, 0).steps;
  CHECK(steps > 0);
  for (i = 0; i < count; i += 20) {
    drop(heap, i);
    CHECK(ebb_alloc(heap, NULL, 0, MIB) == NULL);
  }
  /* Once in a while it does. */
  CHECK(stats_of(heap, 0).steps - steps < 400);
  steps = stats_of(heap, 0).steps;
  set(heap, "step_us", 300);
  CHECK_EQ(stats_of(heap, 0).steps, steps);
  survivors_are_unchanged(count);
  end_survivors(heap, count);
}

static void history_needs_room_below_the_limit(void)
{
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t count = fill(heap, 3 * PAGE);

  CHECK_EQ(ebb_set(heap, "history", 1), EBB_ERR_MEMORY);
  CHECK(strstr(ebb_strerror(0), "limit_hard") != NULL);
  CHECK(stats_of(heap, 0).resident <= LIMIT);
  drop(heap, 0);
  drop(heap, 1);
  set(heap, "history", 1);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK(stats_of(heap, 0).resident <= LIMIT);
  end_survivors(heap, count);
}

static int by_address(const void *left, const void *right)
{
  const unsigned char *l = ((const struct block *)left)->at;
  const unsigned char *r = ((const struct block *)right)->at;

  return (l > r) - (l < r);
}

/* Frees all but every eighth block, from low to high, which is to say one or
 * more in every span, so that spans stay with holes in them. */
static void leave_holes(ebb_heap *heap, size_t count, size_t osize)
{
  size_t i;

  qsort(blocks, count, sizeof *blocks, by_address);
  for (i = 0; i < count; i++) {
    if (i % 8 != 0) {
      CHECK(block_kept(&blocks[i], blocks[i].at, blocks[i].size));
      ebb_alloc(heap, blocks[i].at, osize, 0);
      live[i] = 0;
    }
  }
}

/* Large blocks take the place of holes, to near the limit. */
static void there_is_room(ebb_heap *heap)
{
  ebb_stats stats = stats_of(heap, 0);
  size_t room = (LIMIT - stats.resident + stats.free_resident) / 10 * 7;
  struct block block;

  CHECK(room > LIMIT / 2);
  block_new(heap, &block, room, 1);
  CHECK(block.at != NULL);
  if (block.at != NULL) {
    block_end(heap, &block);
  }
  is_within(heap, LIMIT);
}

static void holes_make_room_at_the_limit(void)
{
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t count = fill(heap, 3000);

  leave_holes(heap, count, 3000);
  CHECK(stats_of(heap, 0).returned < MIB);
  there_is_room(heap);
  survivors_are_unchanged(count);
  end_survivors(heap, count);
}

/* The old size is a hint for the statistics only. */
static void holes_are_found_whatever_old_sizes_were_given(void)
{
  static const size_t osizes[] = { 0, 1, 6000, SIZE_MAX };
  size_t i, count;

  for (i = 0; i < COUNT_OF(osizes); i++) {
    ebb_heap *heap = heap_of_limits(0, LIMIT);

    count = fill(heap, 3000);
    leave_holes(heap, count, osizes[i]);
    there_is_room(heap);
    survivors_are_unchanged(count);
    ebb_heap_delete(heap);
    memset(live, 0, sizeof live);
  }
}

/* A block on each page, and nothing can go back. Later there are others. */
static void holes_are_found_though_there_were_none_once(void)
{
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t i, count = fill(heap, 200);
  uintptr_t page = 0;

  qsort(blocks, count, sizeof *blocks, by_address);
  for (i = 0; i < count; i++) {
    if ((uintptr_t)blocks[i].at / PAGE == page) {
      drop(heap, i);
    }
    page = (uintptr_t)blocks[i].at / PAGE;
  }
  CHECK(ebb_alloc(heap, NULL, 0, MIB) == NULL);
  drop_survivors(heap, count);
  for (i = 0; i < LIMIT / 3200; i++) {
    take(heap, i, 3000);
  }
  count = i;
  leave_holes(heap, count, 3000);
  there_is_room(heap);
  survivors_are_unchanged(count);
  end_survivors(heap, count);
}

static void one_class_makes_room_for_another(void)
{
  static const size_t sizes[] = { 48, 3000, 100, 5000, 1000, 64, 8000, 300 };
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t s, count;

  for (s = 0; s < COUNT_OF(sizes); s++) {
    count = fill(heap, sizes[s]);
    CHECK(count * sizes[s] > LIMIT / 10 * 9);
    survivors_are_unchanged(count);
    drop_survivors(heap, count);
  }
  is_within(heap, LIMIT);
  CHECK(stats_of(heap, 0).returned_limit > 0);
  heap_ends_empty(heap);
}

/* The kernel moves its pages, so that it is never there twice. */
static void a_block_may_grow_up_to_the_limit(void)
{
  ebb_heap *heap = heap_of_limits(0, LIMIT);
  size_t mib;

  take(heap, 0, LIMIT / 2);
  for (mib = LIMIT / 2 / MIB; mib < LIMIT / MIB; mib++) {
    /* In the way, so that it must move. */
    take(heap, 1, PAGE);
    CHECK(block_resize(heap, &blocks[0], blocks[0].size, mib * MIB, mib));
    drop(heap, 1);
    is_within(heap, LIMIT);
  }
  CHECK(!block_resize(heap, &blocks[0], blocks[0].size, LIMIT, 0));
  end_survivors(heap, 1);
}

static void a_limit_below_what_is_held_stops_growth_only(void)
{
  ebb_heap *heap = heap_of_limits(0, 0);
  size_t i;

  for (i = 0; i < 64; i++) {
    take(heap, i, MIB);
  }
  set(heap, "limit_hard", LIMIT);
  CHECK_EQ(ebb_pressure(heap), 100);
  CHECK(ebb_alloc(heap, NULL, 0, MIB) == NULL);
  CHECK(block_resize(heap, &blocks[0], MIB, MIB / 2, 0));
  survivors_are_unchanged(64);
  set(heap, "limit_hard", 0);
  CHECK_EQ(ebb_pressure(heap), 0);
  take(heap, 64, LIMIT);
  end_survivors(heap, 65);
}

/* What would be used again is above the limit like everything else. */
static void a_limit_below_what_is_free_counts_at_once(void)
{
  ebb_heap *heap = heap_of_limits(0, 0);

  leave_free(heap, 4 * LIMIT);
  set(heap, "limit_hard", LIMIT);
  take(heap, 0, LIMIT / 2);
  CHECK(ebb_alloc(heap, NULL, 0, LIMIT) == NULL);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK(stats_of(heap, 0).resident <= LIMIT);
  ebb_alloc(heap, blocks[0].at, LIMIT / 2, 0);
  ebb_heap_delete(heap);
}

/* A page that is used for the first time takes its descriptor with it. */
static void the_heaps_own_tables_count(void)
{
  size_t less;

  for (less = 64 * KIB; less <= 512 * KIB; less += 32 * KIB) {
    ebb_heap *heap = heap_of_limits(0, LIMIT);
    void *block = ebb_alloc(heap, NULL, 0, LIMIT - less);

    is_within(heap, LIMIT);
    ebb_alloc(heap, block, LIMIT - less, 0);
    ebb_heap_delete(heap);
  }
}

static void a_limit_below_what_a_vm_needs_is_refused(void)
{
  ebb_options options = no_options();
  ebb_heap *heap = heap_of_limits(0, 512 * KIB);

  for (options.limit_hard = 1; options.limit_hard < (int64_t)(512 * KIB);
       options.limit_hard = options.limit_hard * 2 + 1) {
    CHECK(ebb_heap_new(&options) == NULL);
    CHECK(strstr(ebb_strerror(0), "512k") != NULL);
    CHECK_EQ(ebb_set(heap, "limit_hard", options.limit_hard), EBB_ERR_RANGE);
    CHECK(strstr(ebb_strerror(0), "512k") != NULL);
  }
  CHECK_EQ(stats_of(heap, 0).limit_hard, 512 * KIB);
  heap_ends_empty(heap);
}

static void a_limit_that_is_reached_refuses_everything(void)
{
  ebb_heap *heap = heap_of_limits(0, 0);
  void *block = ebb_alloc(heap, NULL, 0, MIB);

  set(heap, "limit_hard", 512 * KIB);
  CHECK_EQ(ebb_pressure(heap), 100);
  CHECK(ebb_alloc(heap, NULL, 0, 8) == NULL);
  CHECK(ebb_alloc(heap, NULL, 0, MIB) == NULL);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  ebb_alloc(heap, block, MIB, 0);
  heap_ends_empty(heap);
}

int main(void)
{
  RUN(what_does_not_fit_is_refused_again_and_again);
  RUN(at_the_limit_what_takes_no_memory_succeeds);
  RUN(what_was_freed_can_be_taken_again);
  RUN(what_was_freed_here_and_there_can_be_taken_again);
  RUN(refusals_are_cheap_though_a_little_is_freed_each_time);
  RUN(history_needs_room_below_the_limit);
  RUN(holes_make_room_at_the_limit);
  RUN(holes_are_found_whatever_old_sizes_were_given);
  RUN(holes_are_found_though_there_were_none_once);
  RUN(one_class_makes_room_for_another);
  RUN(a_block_may_grow_up_to_the_limit);
  RUN(a_limit_below_what_is_held_stops_growth_only);
  RUN(a_limit_below_what_is_free_counts_at_once);
  RUN(the_heaps_own_tables_count);
  RUN(a_limit_below_what_a_vm_needs_is_refused);
  RUN(a_limit_that_is_reached_refuses_everything);
  return check_status();
}
