/* Every form of call that a Lua VM makes, at every size, and what each one
 * promises: contents, alignment, addresses, errno, failure. */

#include "check.h"

static const size_t sizes[] = {
  1,    7,    8,    9,     15,    16,    17,     24,     48,      100,
  127,  128,  129,  500,   1000,  1024,  4000,   4096,   4097,    8191,
  8192, 8193, 9000, 16384, 20000, 65536, 131071, 131072, 1048576, 5000001,
};

/* No heap can hold these. */
static const size_t impossible[] = {
  SIZE_MAX,     SIZE_MAX - 7,    SIZE_MAX - 4095,  SIZE_MAX - 4096,
  SIZE_MAX / 2, (size_t)1 << 47, (size_t)17 << 40,
};

static void nothing_to_nothing_is_nothing(void)
{
  ebb_heap *heap = heap_of(0);

  CHECK(ebb_alloc(heap, NULL, 0, 0) == NULL);
  CHECK(ebb_alloc(heap, NULL, 100, 0) == NULL);
  heap_ends_empty(heap);
}

static void each_size_is_allocated_and_freed(void)
{
  ebb_heap *heap = heap_of(0);
  struct block blocks[COUNT_OF(sizes)];
  size_t i;

  for (i = 0; i < COUNT_OF(sizes); i++) {
    block_new(heap, &blocks[i], sizes[i], i);
    REQUIRE(blocks[i].at != NULL);
  }
  CHECK_EQ(stats_of(heap, 0).blocks, COUNT_OF(sizes));
  for (i = 0; i < COUNT_OF(sizes); i++) {
    block_end(heap, &blocks[i]);
  }
  heap_ends_empty(heap);
}

static void each_small_size_is_aligned(void)
{
  ebb_heap *heap = heap_of(0);
  struct block blocks[16];
  size_t size, i;

  for (size = 1; size <= 10000; size += size < 1200 ? 1 : 16) {
    for (i = 0; i < COUNT_OF(blocks); i++) {
      block_new(heap, &blocks[i], size, size + i);
    }
    for (i = 0; i < COUNT_OF(blocks); i++) {
      block_end(heap, &blocks[i]);
    }
  }
  heap_ends_empty(heap);
}

static void each_size_is_resized_to_each(void)
{
  ebb_heap *heap = heap_of(0);
  struct block block;
  size_t from, to;

  for (from = 0; from < COUNT_OF(sizes); from++) {
    for (to = 0; to < COUNT_OF(sizes); to++) {
      block_new(heap, &block, sizes[from], from);
      REQUIRE(block_resize(heap, &block, block.size, sizes[to], to));
      CHECK(block_placed(block.at, block.size));
      block_end(heap, &block);
    }
  }
  heap_ends_empty(heap);
}

static void resize_of_null_allocates(void)
{
  ebb_heap *heap = heap_of(0);
  struct block block;

  /* Lua passes the kind of object as osize when ptr is NULL. */
  block.at = (unsigned char *)ebb_alloc(heap, NULL, 8, 50);
  block.size = 50;
  REQUIRE(block.at != NULL);
  block_fill(&block, 1);
  block_end(heap, &block);
  heap_ends_empty(heap);
}

static void a_ladder_of_resizes_keeps_contents(void)
{
  ebb_heap *heap = heap_of(0);
  struct block block, below, above;
  size_t size;

  block_new(heap, &below, 3 * MIB, 1);
  block_new(heap, &block, 1, 2);
  block_new(heap, &above, 3 * MIB, 3);
  for (size = 1; size < 40 * MIB; size += size / 3 + 1) {
    REQUIRE(block_resize(heap, &block, block.size, size, size));
  }
  for (; size > 0; size -= size / 5 + 1) {
    REQUIRE(block_resize(heap, &block, block.size, size, size));
  }
  block_end(heap, &below);
  block_end(heap, &above);
  block_end(heap, &block);
  heap_ends_empty(heap);
}

/* Large blocks side by side can only grow by moving, and each range of pages
 * that moved may be a mapping of its own, of which a process has few. */
static void moves_leave_few_mappings(void)
{
  ebb_heap *heap = heap_of(0);
  struct block blocks[40];
  size_t before = mapping_count(), most = 0, round, i;

  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_new(heap, &blocks[i], 200 * KIB, i);
  }
  for (round = 1; round <= 20; round++) {
    for (i = 0; i < COUNT_OF(blocks); i++) {
      size_t size = (200 + 30 * round + i) * KIB;

      REQUIRE(block_resize(heap, &blocks[i], blocks[i].size, size, round));
    }
    most = mapping_count() > most ? mapping_count() : most;
  }
  CHECK(most < before + 200);
  if (kernel_moves_pages()) {
    ebb_stats stats = stats_of(heap, 0);

    /* After one refusal the heap copies: it makes no second call. */
    CHECK(stats.remap_calls > 100);
    CHECK_EQ(stats.failed_calls, 0);
  }
  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_end(heap, &blocks[i]);
  }
  /* Each run of free pages that gave up its commitment is two more. */
  CHECK(mapping_count() < before + 16);
  heap_ends_empty(heap);
}

/* Several GiB in one block, of which only the ends are ever touched. */
static void blocks_of_several_gib(void)
{
  ebb_heap *heap = heap_of(0);
  size_t step = light() ? 64 * MIB : GIB;
  size_t size = step;
  unsigned char *block = (unsigned char *)ebb_alloc(heap, NULL, 0, size);

  REQUIRE(block != NULL);
  block[0] = 1;
  block[size - 1] = 2;
  for (; size < 6 * step; size += step) {
    block = (unsigned char *)ebb_alloc(heap, block, size, size + step);
    REQUIRE(block != NULL);
    CHECK(block_placed(block, size + step));
    CHECK_EQ(block[0], 1);
    CHECK_EQ(block[size - 1], 2);
    block[size + step - 1] = 2;
  }
  CHECK(stats_of(heap, EBB_STATS_KERNEL).kernel_resident < 8 * MIB);
  block = (unsigned char *)ebb_alloc(heap, block, size, 100);
  REQUIRE(block != NULL);
  CHECK_EQ(block[0], 1);
  CHECK(ebb_alloc(heap, block, 100, 0) == NULL);
  heap_ends_empty(heap);
}

/* Growing, moving, reclaiming and measuring all make system calls. */
static void errno_is_left_alone(void)
{
  ebb_heap *heap = heap_of(256 * (int64_t)MIB);
  ebb_reclaim_report report;
  void *blocks[100];
  size_t i;

  /* So that something is left for the call, however long this takes. */
  CHECK_EQ(ebb_set(heap, "decay_ms", 3600000), EBB_OK);
  errno = ERRNO_MARK;
  for (i = 0; i < COUNT_OF(blocks); i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, i * 3000 + 1);
    check_errno();
  }
  CHECK(ebb_alloc(heap, NULL, 0, 512 * MIB) == NULL);
  check_errno();
  CHECK(ebb_alloc(heap, blocks[0], 1, SIZE_MAX) == NULL);
  check_errno();
  blocks[1] = ebb_alloc(heap, blocks[1], 3001, 20 * MIB);
  REQUIRE(blocks[1] != NULL);
  check_errno();
  blocks[1] = ebb_alloc(heap, blocks[1], 20 * MIB, 30 * MIB);
  REQUIRE(blocks[1] != NULL);
  check_errno();
  blocks[1] = ebb_alloc(heap, blocks[1], 30 * MIB, 3001);
  check_errno();
  for (i = 0; i < COUNT_OF(blocks); i++) {
    ebb_alloc(heap, blocks[i], i * 3000 + 1, 0);
    check_errno();
  }
  memset(&report, 0, sizeof report);
  report.size = sizeof report;
  CHECK_EQ(ebb_reclaim(heap, NULL, &report), EBB_OK);
  check_errno();
  CHECK(report.returned > 0);
  stats_of(heap, EBB_STATS_KERNEL);
  check_errno();
  ebb_heap_delete(heap);
  check_errno();
  CHECK(ebb_heap_new(NULL) != NULL);
  check_errno();
}

static void failure_leaves_the_block_alone(void)
{
  static const size_t from[] = { 1, 100, 5000, 10000, MIB };
  ebb_heap *heap = heap_of(16 * (int64_t)MIB);
  struct block block;
  size_t i, j;

  for (i = 0; i < COUNT_OF(from); i++) {
    block_new(heap, &block, from[i], i);
    REQUIRE(block.at != NULL);
    for (j = 0; j < COUNT_OF(impossible); j++) {
      CHECK(ebb_alloc(heap, NULL, 0, impossible[j]) == NULL);
      CHECK(!block_resize(heap, &block, block.size, impossible[j], 0));
    }
    CHECK(!block_resize(heap, &block, block.size, 16 * MIB, 0));
    CHECK(!block_resize(heap, &block, block.size, 16 * MIB + 1, 0));
    CHECK(block_resize(heap, &block, block.size, block.size + 50, 9));
    block_end(heap, &block);
  }
  heap_ends_empty(heap);
}

#define FULL_MAX 100000

/* Blocks that leave no room for one of 8 bytes: many small, then ever smaller
 * ones into what is left. Returns how many. */
static size_t fill(ebb_heap *heap, struct block *blocks)
{
  static const size_t limits[] = { 200000, 30000, 5000, 900, 150, 25, 8 };
  struct rng rng = { 7 };
  size_t used, i = 0;

  for (used = 0; used < FULL_MAX; used++) {
    size_t limit = used < 5000 ? 300 : limits[i];

    block_new(heap, &blocks[used], 1 + rng_below(&rng, limit), used);
    if (blocks[used].at == NULL && ++i == COUNT_OF(limits)) {
      return used;
    }
    used -= blocks[used].at == NULL;
  }
  CHECK(!"the heap is ever full");
  return 0;
}

static void shrinking_never_fails(void)
{
  static struct block blocks[FULL_MAX];
  ebb_heap *heap = heap_of(4 * (int64_t)MIB);
  struct rng rng = { 8 };
  size_t count = fill(heap, blocks), i;

  for (i = 0; i < count; i++) {
    size_t size = 1 + rng_below(&rng, blocks[i].size);

    REQUIRE(block_resize(heap, &blocks[i], blocks[i].size, size, i));
  }
  for (i = 0; i < count; i++) {
    block_end(heap, &blocks[i]);
  }
  heap_ends_empty(heap);
}

/* What no block lies on any more serves every size again. */
static void an_emptied_heap_is_as_good_as_new(void)
{
  static struct block blocks[FULL_MAX];
  ebb_heap *heap = heap_of(4 * (int64_t)MIB);
  size_t round, count, i;
  struct block large;

  for (round = 0; round < 3; round++) {
    count = fill(heap, blocks);
    for (i = 0; i < count; i++) {
      block_end(heap, &blocks[i]);
    }
    block_new(heap, &large, 3 * MIB, round);
    REQUIRE(large.at != NULL);
    block_end(heap, &large);
  }
  heap_ends_empty(heap);
}

/* The heap deleted last may be kept for the next one; no other may. */
static void blocks_do_not_outlive_their_heap(void)
{
  size_t before = 0, round;

  for (round = 0; round < 50; round++) {
    ebb_heap *heaps[3];
    size_t i;

    for (i = 0; i < COUNT_OF(heaps); i++) {
      heaps[i] = heap_of(0);
      REQUIRE(ebb_alloc(heaps[i], NULL, 0, 100) != NULL);
      REQUIRE(ebb_alloc(heaps[i], NULL, 0, MIB) != NULL);
    }
    for (i = 0; i < COUNT_OF(heaps); i++) {
      CHECK_EQ(stats_of(heaps[i], 0).blocks, 2);
      ebb_heap_delete(heaps[i]);
    }
    before = round == 0 ? mapping_count() : before;
    /* Valgrind maps more for itself with each place that a heap has lain at. */
    CHECK(light() || mapping_count() <= before + 2);
  }
}

int main(void)
{
  /* The stack of the background thread would be a mapping, too. */
  setenv("EBBTIDE_BACKGROUND", "off", 1);
  RUN(nothing_to_nothing_is_nothing);
  RUN(each_size_is_allocated_and_freed);
  RUN(each_small_size_is_aligned);
  RUN(each_size_is_resized_to_each);
  RUN(resize_of_null_allocates);
  RUN(a_ladder_of_resizes_keeps_contents);
  RUN(moves_leave_few_mappings);
  RUN(blocks_of_several_gib);
  RUN(errno_is_left_alone);
  RUN(failure_leaves_the_block_alone);
  RUN(shrinking_never_fails);
  RUN(an_emptied_heap_is_as_good_as_new);
  RUN(blocks_do_not_outlive_their_heap);
  return check_status();
}
