/* Many blocks of many sizes, most of them freed again: those that are left lie
 * far apart, each on a page of its own at worst. */

#ifndef SCATTER_H
#define SCATTER_H

#include "check.h"

#define BLOCKS_MAX 400000

/* Freed blocks stay on record, for the pages that they lay on. */
static struct block blocks[BLOCKS_MAX];
static unsigned char live[BLOCKS_MAX];

/* One of many sizes, about 200 bytes on average, up to several pages. */
static inline size_t mixed_size(struct rng *rng)
{
  size_t size = (size_t)16 << rng_below(rng, rng_below(rng, 16) == 0 ? 10 : 5);

  return size + rng_below(rng, size);
}

static inline void take(ebb_heap *heap, size_t i, size_t size)
{
  block_new(heap, &blocks[i], size, i);
  REQUIRE(blocks[i].at != NULL);
  live[i] = 1;
}

static inline void drop(ebb_heap *heap, size_t i)
{
  struct block block = blocks[i];

  block_end(heap, &block);
  live[i] = 0;
}

/* Fills heap with blocks, and frees all but one in keep of them. */
static inline void scatter(ebb_heap *heap, struct rng *rng, size_t count,
                           size_t keep)
{
  size_t i;

  for (i = 0; i < count; i++) {
    take(heap, i, mixed_size(rng));
  }
  for (i = 0; i < count; i++) {
    if (rng_below(rng, keep) != 0) {
      drop(heap, i);
    }
  }
}

static inline void survivors_are_unchanged(size_t count)
{
  size_t i, changed = 0;

  for (i = 0; i < count; i++) {
    changed +=
        live[i] && !block_kept(&blocks[i], blocks[i].at, blocks[i].size);
  }
  CHECK_EQ(changed, 0);
}

static inline void drop_survivors(ebb_heap *heap, size_t count)
{
  size_t i;

  for (i = 0; i < count; i++) {
    if (live[i]) {
      drop(heap, i);
    }
  }
}

static inline void end_survivors(ebb_heap *heap, size_t count)
{
  drop_survivors(heap, count);
  heap_ends_empty(heap);
}

#endif /* SCATTER_H */
