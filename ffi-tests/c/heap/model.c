/* Random programs against a model of what each block holds: with right and
 * with wrong old sizes, with memory going back between the steps and in them.
 */

#include "tick_host.h"

#define BLOCKS 3000

static struct block blocks[BLOCKS];

/* What a library that calls the allocator carelessly gives as the old size. */
static size_t wrong_osize(struct rng *rng, size_t size)
{
  switch (rng_below(rng, 8)) {
  case 0:
    return 0;
  case 1:
    return 1;
  case 2:
    return size / 2;
  case 3:
    return size - 1;
  case 4:
    return size + 1;
  case 5:
    return size * 3 + 5000;
  case 6:
    return SIZE_MAX;
  default:
    return rng_below(rng, 100000);
  }
}

static size_t right_osize(struct rng *rng, size_t size)
{
  (void)rng;
  return size;
}

typedef size_t osize_function(struct rng *rng, size_t size);

static void step(ebb_heap *heap, struct rng *rng, osize_function *osize)
{
  struct block *block = &blocks[rng_below(rng, BLOCKS)];

  block_step(heap, block, osize(rng, block->size), rng);
}

static void reclaim_some(ebb_heap *heap, struct rng *rng)
{
  ebb_reclaim_options options;
  int result;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.budget_us = (uint32_t)rng_below(rng, 50);
  result = ebb_reclaim(heap, &options, NULL);
  CHECK(result == EBB_OK || (result == EBB_MORE && options.budget_us > 0));
  result = ebb_tick(heap, options.budget_us);
  CHECK(result == EBB_OK || (result == EBB_MORE && options.budget_us > 0));
}

static void run_program(ebb_heap *heap, uint64_t seed, osize_function *osize)
{
  struct rng rng = { seed };
  unsigned i;

  for (i = 0; i < steps(200000); i++) {
    step(heap, &rng, osize);
    if (rng_below(&rng, 5000) == 0) {
      reclaim_some(heap, &rng);
    }
  }
  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL) {
      block_end_as(heap, &blocks[i], osize(&rng, blocks[i].size));
    }
  }
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  heap_ends_empty(heap);
}

static void contents_survive(void)
{
  run_program(heap_of(0), 1, right_osize);
  run_program(heap_of(0), 2, right_osize);
}

static void contents_survive_wrong_old_sizes(void)
{
  run_program(heap_of(0), 3, wrong_osize);
  run_program(heap_of(0), 4, wrong_osize);
}

/* Everything goes back as soon as it is free. */
static void contents_survive_restless_breathing(void)
{
  ebb_options options = no_options();

  options.decay_ms = EBB_ZERO;
  options.step_us = 1;
  run_program(heap_from(&options), 5, right_osize);
  options.limit_soft = MIB;
  run_program(heap_from(&options), 6, wrong_osize);
}

int main(void)
{
  RUN(contents_survive);
  RUN(contents_survive_wrong_old_sizes);
  RUN(contents_survive_restless_breathing);
  return check_status();
}
