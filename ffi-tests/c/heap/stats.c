/* Statistics: the parts add up to the whole at every moment, also while memory
 * breathes, the counts are exact, and the kernel agrees. */

#include "tick_host.h"

#include <stddef.h>

#define BLOCKS 2000
#define CLASSES_MAX 200

static struct block blocks[BLOCKS];

static void parts_add_up(const ebb_stats *s)
{
  CHECK_EQ(s->committed, s->live + s->waste + s->free_resident + s->returned
                             + s->never_touched + s->metadata);
  CHECK_EQ(s->resident, s->live + s->waste + s->free_resident + s->metadata);
  CHECK(s->committed <= s->reserved);
  CHECK(s->resident <= s->resident_peak);
  /* Under a limit on address space the heap's end is unmapped. */
  CHECK(s->resident_peak <= s->reserved || is_limited());
  CHECK(s->large_blocks <= s->blocks);
  CHECK_EQ(s->returned_total,
           s->returned_asked + s->returned_idle + s->returned_limit);
  CHECK(s->premature_refaults_asked <= s->refaulted_asked);
  CHECK(s->premature_refaults_idle <= s->refaulted_idle);
  CHECK(s->premature_refaults_limit <= s->refaulted_limit);
  CHECK(s->floor <= s->keep || s->trend == EBB_TREND_GROWING);
  CHECK(s->due <= s->free_resident);
  CHECK(s->trend >= EBB_TREND_GROWING && s->trend <= EBB_TREND_SHRINKING);
  CHECK(s->pressure <= 100);
}

static void random_step(ebb_heap *heap, struct rng *rng, size_t large)
{
  struct block *block = &blocks[rng_below(rng, BLOCKS)];
  size_t size = rng_size(rng, large);

  if (block->at == NULL) {
    block_new(heap, block, size, size);
  } else if (rng_below(rng, 2) == 0) {
    block_resize(heap, block, block->size, size, size);
  } else {
    block_end(heap, block);
  }
}

static void end_all(ebb_heap *heap)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL) {
      block_end(heap, &blocks[i]);
    }
  }
  heap_ends_empty(heap);
}

static void parts_add_up_after_every_step(void)
{
  struct rng rng = { 21 };
  ebb_heap *heap = heap_of(0);
  unsigned i;

  for (i = 0; i < steps(60000); i++) {
    ebb_stats stats;

    random_step(heap, &rng, 300000);
    if (rng_below(&rng, 2000) == 0) {
      CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
    }
    stats = stats_of(heap, 0);
    parts_add_up(&stats);
    if (i % 100 == 0) {
      check_live(&stats, blocks, BLOCKS);
    }
  }
  end_all(heap);
}

/* The soft limit never lies above the hard one. */
static void set_limits(ebb_heap *heap, int64_t soft, int64_t hard)
{
  set(heap, "limit_soft", 0);
  set(heap, "limit_hard", hard);
  set(heap, "limit_soft", hard > 0 && soft > hard ? hard : soft);
}

/* Memory goes back for every reason there is, between the steps and in them. */
static void parts_add_up_while_memory_breathes(void)
{
  struct rng rng = { 25 };
  ebb_options options = no_options();
  ebb_stats stats;
  ebb_heap *heap;
  int64_t hard = 0;
  unsigned i;

  options.decay_ms = EBB_ZERO;
  options.history = 1;
  heap = heap_from(&options);
  for (i = 0; i < steps(60000); i++) {
    random_step(heap, &rng, 300000);
    switch (rng_below(&rng, 400)) {
    case 0:
      CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
      break;
    case 1:
      set_limits(heap, (int64_t)(512 * KIB + rng_below(&rng, 16 * MIB)), hard);
      break;
    case 2:
      hard = (int64_t)rng_below(&rng, 4) * 4 * MIB;
      set_limits(heap, (int64_t)(512 * KIB + rng_below(&rng, 16 * MIB)), hard);
      break;
    case 3:
      set(heap, "decay_ms", (int64_t)rng_below(&rng, 3));
      break;
    default:
      CHECK(ebb_tick(heap, (uint32_t)rng_below(&rng, 20)) >= EBB_OK);
    }
    stats = stats_of(heap, 0);
    parts_add_up(&stats);
  }
  CHECK(stats.returned_asked > 0);
  CHECK(stats.returned_limit > 0);
  set(heap, "limit_soft", 0);
  set(heap, "limit_hard", 0);
  leave_free(heap, MIB);
  be_idle(heap);
  stats = stats_of(heap, 0);
  parts_add_up(&stats);
  CHECK(stats.returned_idle > 0);
  end_all(heap);
}

static void parts_add_up_when_full(void)
{
  struct rng rng = { 22 };
  ebb_heap *heap = heap_of(4 * (int64_t)MIB);
  unsigned i;

  for (i = 0; i < steps(20000); i++) {
    ebb_stats stats;

    random_step(heap, &rng, MIB);
    stats = stats_of(heap, 0);
    parts_add_up(&stats);
    check_live(&stats, blocks, BLOCKS);
  }
  end_all(heap);
}

static void a_fresh_heap_is_small(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_stats stats = stats_of(heap, EBB_STATS_KERNEL);

  parts_add_up(&stats);
  CHECK_EQ(stats.live, 0);
  CHECK_EQ(stats.blocks, 0);
  CHECK_EQ(stats.spans, 0);
  CHECK_EQ(stats.returned_total, 0);
  CHECK_EQ(stats.reclaim_passes, 0);
  CHECK_EQ(stats.failed_calls, 0);
  CHECK(stats.kernel_resident <= stats.resident);
  CHECK(stats.resident <= MIB);
  heap_ends_empty(heap);
}

/* live <= kernel_resident <= resident, once each block was written. */
static void kernel_within_bounds(ebb_heap *heap)
{
  ebb_stats stats = stats_of(heap, EBB_STATS_KERNEL);

  CHECK(stats.live <= stats.kernel_resident);
  CHECK(stats.kernel_resident <= stats.resident);
}

static void the_kernel_agrees(void)
{
  struct rng rng = { 23 };
  ebb_heap *heap = heap_of(0);
  unsigned round, i;

  for (round = 0; round < 20; round++) {
    for (i = 0; i < steps(5000); i++) {
      random_step(heap, &rng, 60000);
    }
    kernel_within_bounds(heap);
    set(heap, "decay_ms", 0);
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    kernel_within_bounds(heap);
    set(heap, "decay_ms", 1000);
    CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
    kernel_within_bounds(heap);
  }
  CHECK_EQ(stats_of(heap, 0).kernel_resident, 0);
  end_all(heap);
}

/* Whole pages, all written: nothing is left to round. */
static void the_kernel_agrees_to_the_page(void)
{
  ebb_heap *heap = heap_of_decay(60000);
  unsigned char *at[50];
  ebb_stats stats;
  size_t i;

  for (i = 0; i < COUNT_OF(at); i++) {
    at[i] = (unsigned char *)ebb_alloc(heap, NULL, 0, 64 * KIB);
    REQUIRE(at[i] != NULL);
    memset(at[i], 1, 64 * KIB);
  }
  for (i = 0; i < COUNT_OF(at); i += 2) {
    ebb_alloc(heap, at[i], 64 * KIB, 0);
  }
  stats = stats_of(heap, EBB_STATS_KERNEL);
  CHECK_EQ(stats.live, 25 * 64 * KIB);
  CHECK_EQ(stats.free_resident, 25 * 64 * KIB);
  CHECK(stats.kernel_resident <= stats.resident);
  CHECK(stats.kernel_resident + stats.metadata >= stats.resident);
  ebb_reclaim(heap, NULL, NULL);
  stats = stats_of(heap, EBB_STATS_KERNEL);
  CHECK_EQ(stats.free_resident, 0);
  CHECK_EQ(stats.returned, 25 * 64 * KIB);
  CHECK(stats.kernel_resident <= stats.resident);
  CHECK(stats.kernel_resident + stats.metadata >= stats.resident);
  ebb_heap_delete(heap);
}

static uint32_t read_classes(ebb_heap *heap, ebb_class_stats *classes,
                             uint32_t room, ebb_stats *stats)
{
  memset(stats, 0, sizeof *stats);
  stats->size = sizeof *stats;
  stats->class_count = room;
  stats->classes = classes;
  CHECK_EQ(ebb_stats_read(heap, stats), EBB_OK);
  CHECK(stats->class_count <= room);
  return stats->class_count;
}

static void classes_add_up(void)
{
  struct rng rng = { 24 };
  ebb_heap *heap = heap_of(0);
  ebb_class_stats classes[CLASSES_MAX];
  ebb_stats stats;
  uint64_t count = 0, spans = 0, bytes = 0;
  uint32_t n, i;

  for (i = 0; i < 20000; i++) {
    random_step(heap, &rng, 60000);
  }
  n = read_classes(heap, classes, CLASSES_MAX, &stats);
  CHECK(n > 10 && n < CLASSES_MAX);
  for (i = 0; i < n; i++) {
    CHECK(i == 0 || classes[i].slot_size > classes[i - 1].slot_size);
    CHECK(classes[i].span_size % 4096 == 0);
    CHECK(classes[i].blocks * classes[i].slot_size
          <= classes[i].spans * classes[i].span_size);
    count += classes[i].blocks;
    spans += classes[i].spans;
    bytes += classes[i].spans * classes[i].span_size;
  }
  CHECK_EQ(count, stats.blocks - stats.large_blocks);
  CHECK_EQ(spans, stats.spans);
  CHECK(bytes <= stats.committed);
  end_all(heap);
}

/* The slot of a block is the smallest that holds it. */
static void a_block_counts_in_its_class(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_class_stats classes[CLASSES_MAX];
  ebb_stats stats;
  size_t size;
  uint32_t n, i;

  for (size = 8; size <= 4096; size += 8) {
    void *block = ebb_alloc(heap, NULL, 0, size);

    n = read_classes(heap, classes, CLASSES_MAX, &stats);
    for (i = 0; i < n && classes[i].blocks == 0; i++) {
    }
    REQUIRE(i < n);
    CHECK_EQ(classes[i].blocks, 1);
    CHECK(classes[i].slot_size >= size);
    CHECK(classes[i].slot_size <= size + size / 4 + 8);
    ebb_alloc(heap, block, size, 0);
  }
  heap_ends_empty(heap);
}

static void classes_fill_the_room_they_are_given(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_class_stats classes[CLASSES_MAX], few[4];
  ebb_stats stats;

  memset(few, 0xa5, sizeof few);
  CHECK_EQ(read_classes(heap, few, 3, &stats), 3);
  CHECK_EQ(few[3].slot_size, 0xa5a5a5a5);
  CHECK(read_classes(heap, classes, CLASSES_MAX, &stats) > 3);
  CHECK_EQ(classes[2].slot_size, few[2].slot_size);
  heap_ends_empty(heap);
}

static void unknown_flags_are_refused(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_stats stats;

  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  stats.flags = 0x80000000u;
  CHECK_EQ(ebb_stats_read(heap, &stats), EBB_ERR_ARGUMENT);
  heap_ends_empty(heap);
}

int main(void)
{
  RUN(parts_add_up_after_every_step);
  RUN(parts_add_up_while_memory_breathes);
  RUN(parts_add_up_when_full);
  RUN(a_fresh_heap_is_small);
  RUN(the_kernel_agrees);
  RUN(the_kernel_agrees_to_the_page);
  RUN(classes_add_up);
  RUN(a_block_counts_in_its_class);
  RUN(classes_fill_the_room_they_are_given);
  RUN(unknown_flags_are_refused);
  return check_status();
}
