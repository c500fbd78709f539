/* A VM on LuaJIT's own allocator, with a heap of several segments, and the
 * places of that heap's words. The layout is LuaJIT's. */

#ifndef BUILTIN_HEAP_H
#define BUILTIN_HEAP_H

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

enum {
  DV_SIZE = 8, TOP_SIZE = 16, DV = 24, TOP = 32, TRIM = 40, LISTS = 56, TREES = 584,
  SEGMENT = 840, STATE_END = 864,
  FOOT = 0, HEAD = 8, FD = 16, BK = 24, CHILDREN = 32, PARENT = 48, INDEX = 56,
  PREV = 1, USED = 2, FLAGS = 7
};

static lua_State *L;
static lua_Alloc alloc;
static void *state;
static struct block blocks[1500];
static struct rng rng = { 88172645463325252u };

static inline size_t *word(uintptr_t at)
{
  return (size_t *)at;
}

static inline uintptr_t in_state(size_t offset)
{
  return (uintptr_t)state + offset;
}

/* Building the heap. What is in blocks cannot be taken for a chunk's head. */

static inline void block_make(struct block *block)
{
  static const size_t sizes[] = { 24, 40, 100, 240, 300, 700, 1500, 6000 };
  size_t head, kind = rng_below(&rng, 2 * COUNT_OF(sizes));

  block->size = 1 + rng_below(&rng, 3000);
  if (kind < COUNT_OF(sizes)) {
    block->size = sizes[kind];
  }
  block->at = alloc(state, NULL, 0, block->size);
  REQUIRE(block->at != NULL);
  head = *word((uintptr_t)block->at - 8);
  memset(block->at, 0xa5, (head & ~(size_t)FLAGS) - 8);
}

static inline void block_drop(struct block *block)
{
  alloc(state, block->at, block->size, 0);
  block->at = NULL;
}

static inline int read_heap(ebb_builtin_stats *stats)
{
  memset(stats, 0, sizeof *stats);
  stats->size = sizeof *stats;
  return ebb_builtin_read(L, stats);
}

static inline void build(void)
{
  size_t i;
  ebb_builtin_stats stats;

  L = luaL_newstate();
  REQUIRE(L != NULL);
  luaL_openlibs(L);
  alloc = lua_getallocf(L, &state);
  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_make(&blocks[i]);
    if (i % 200 == 0) {
      /* In the way of the segment that would adjoin. */
      REQUIRE(mmap(NULL, 64 * KIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0) != MAP_FAILED);
    }
  }
  for (i = 0; i < COUNT_OF(blocks); i++) {
    if (rng_below(&rng, 2) == 0) {
      block_drop(&blocks[i]);
    }
  }
  while (*word(in_state(DV)) == 0) {
    block_make(&blocks[rng_below(&rng, 2) == 0 ? 0 : 1]);
  }
  REQUIRE(read_heap(&stats) == EBB_OK);
  CHECK(stats.segments >= 3);
}

/* Whether the attached VM knows of damage. */
static inline uint64_t is_damaged(void)
{
  return stats_of(ebb_heap_of(L), 0).previous_damaged;
}

#endif
