/* Heaps that come and go: one is kept for the next (see src/heap/lifecycle/heap_cache.rs). Over
 * random programs, options, forks, and refusals of the kernel, a heap holds no
 * page that it does not count, nor does one that was made from the heap before.
 *
 *   heap_cache [SEED [LIVES]] */

#include "check.h"
#include "syscall_faults.h"

#define BLOCKS 400

static struct block blocks[BLOCKS];

/* What the kernel holds of huge pages that it was allowed is not counted. */
static int huge;

static void is_true(ebb_heap *heap, const char *when, unsigned life)
{
  ebb_stats stats = stats_of(heap, EBB_STATS_KERNEL);

  if (!huge && stats.kernel_resident > stats.resident) {
    fprintf(stderr, "life %u, %s: %" PRIu64 " bytes held, %" PRIu64
            " counted\n", life, when, stats.kernel_resident, stats.resident);
    check_failed(__FILE__, __LINE__, "more is held than counted");
  }
}

static void resize(ebb_heap *heap, struct block *block, size_t size,
                   uint64_t seed)
{
  unsigned char *at;
  size_t kept = block->size < size ? block->size : size;

  at = (unsigned char *)ebb_alloc(heap, block->at, block->size, size);
  if (at == NULL && size != 0) {
    return;
  }
  CHECK(size == 0 || block_kept(block, at, kept));
  block->at = at;
  block->size = size;
  if (size != 0) {
    block_fill(block, seed);
  }
}

static void choose(struct rng *rng, ebb_options *options)
{
  static const int64_t reserves[] = { 0, 0, 0, 4 * MIB, 64 * MIB };
  static const int64_t remaps[] = { 0, 4 * KIB, 16 * KIB, 64 * KIB };
  static const int64_t decays[] = { 0, EBB_ZERO, 5 };

  memset(options, 0, sizeof *options);
  options->size = sizeof *options;
  options->reserve = reserves[rng_below(rng, COUNT_OF(reserves))];
  options->remap_min = remaps[rng_below(rng, COUNT_OF(remaps))];
  options->decay_ms = decays[rng_below(rng, COUNT_OF(decays))];
  options->history = rng_below(rng, 3) == 0;
  options->thp = huge = rng_below(rng, 8) == 0;
  if (rng_below(rng, 3) == 0) {
    options->limit_hard = (int64_t)(rng_below(rng, 4000) * KIB + 512 * KIB);
  }
  if (rng_below(rng, 3) == 0) {
    options->limit_soft = (int64_t)(rng_below(rng, 4000) * KIB + 512 * KIB);
    if (options->limit_hard != 0 && options->limit_soft > options->limit_hard) {
      options->limit_soft = options->limit_hard;
    }
  }
}

/* Refuses about every eighth call of some kinds for a while, or none. */
static void plan_faults(struct rng *rng)
{
  static const uint32_t kinds[] = {
    0, 0, 0, 1u << CALL_MADVISE, 1u << CALL_BATCH, 1u << CALL_MREMAP,
    1u << CALL_MPROTECT,
    1u << CALL_MADVISE | 1u << CALL_BATCH | 1u << CALL_MREMAP
  };

  faults.kinds = kinds[rng_below(rng, COUNT_OF(kinds))];
  faults.pattern = rng_next(rng) & rng_next(rng) & rng_next(rng);
  faults.error = rng_below(rng, 2) ? ENOMEM : EAGAIN;
}

static void use(ebb_heap *heap, struct rng *rng, unsigned life)
{
  size_t large = (size_t)1 << (10 + rng_below(rng, 14)), i;
  unsigned step, count = (unsigned)rng_below(rng, 2500);
  unsigned many = 1 + (unsigned)rng_below(rng, BLOCKS);

  for (step = 0; step < count; step++) {
    struct block *block = &blocks[rng_below(rng, many)];

    faults.now_us += rng_below(rng, 2000);
    switch (rng_below(rng, 40)) {
    case 0:
      ebb_tick(heap, (uint32_t)rng_below(rng, 3) * 20);
      break;
    case 1:
      if (rng_below(rng, 10) == 0) {
        ebb_reclaim(heap, NULL, NULL);
      }
      break;
    case 2:
      if (rng_below(rng, 100) == 0) {
        huge = 1;
        ebb_set(heap, "thp", rng_next(rng) & 1);
      }
      break;
    case 3:
      is_true(heap, "in use", life);
      break;
    default:
      resize(heap, block, rng_below(rng, 3) ? rng_size(rng, large) : 0,
             rng_next(rng));
    }
  }
  is_true(heap, "after use", life);
  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL && rng_below(rng, 8) != 0) {
      resize(heap, &blocks[i], 0, 0);
    }
  }
  is_true(heap, "before it goes", life);
}

static void live(struct rng *rng, unsigned life)
{
  ebb_options options;
  ebb_heap *heap;

  choose(rng, &options);
  heap = ebb_heap_new(&options);
  if (heap == NULL) {
    return;
  }
  is_true(heap, "new", life);
  use(heap, rng, life);
  ebb_heap_delete(heap);
  memset(blocks, 0, sizeof blocks);
}

static uint64_t seed = 1;
static unsigned lives = 400;

static void in_a_fork(const void *argument)
{
  struct rng rng = { *(const uint64_t *)argument };
  unsigned life;

  for (life = 0; life < 5; life++) {
    live(&rng, life);
  }
}

static void heaps_hold_what_they_count(void)
{
  struct rng rng = { seed };
  unsigned life;

  for (life = 0; life < lives; life++) {
    plan_faults(&rng);
    live(&rng, life);
    if (rng_below(&rng, 50) == 0) {
      uint64_t other = rng_next(&rng);

      CHECK_EQ(in_child(in_a_fork, &other), 0);
    }
  }
}

/* A huge page may lie on tables that were never touched. */
static void the_next_heap_has_none_of_the_huge_pages_of_the_last(void)
{
  ebb_heap *heap = heap_of(0);
  void *block;

  CHECK_EQ(ebb_set(heap, "thp", 1), EBB_OK);
  block = ebb_alloc(heap, NULL, 0, 5 * MIB);
  REQUIRE(block != NULL);
  memset(block, 1, 5 * MIB);
  ebb_alloc(heap, block, 5 * MIB, 0);
  CHECK_EQ(ebb_set(heap, "thp", 0), EBB_OK);
  ebb_heap_delete(heap);
  huge = 0;
  heap = heap_of(0);
  is_true(heap, "new", 0);
  ebb_heap_delete(heap);
}

int main(int argc, char **argv)
{
  if (argc > 1) {
    seed = strtoull(argv[1], NULL, 10);
  }
  if (argc > 2) {
    lives = (unsigned)strtoul(argv[2], NULL, 10);
  }
  faults_enter();
  faults.frozen = 1;
  faults.now_us = 1000000;
  faults.look_us = 2;
  RUN(the_next_heap_has_none_of_the_huge_pages_of_the_last);
  RUN(heaps_hold_what_they_count);
  return check_status();
}
