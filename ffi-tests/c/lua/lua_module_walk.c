/* The built-in heap against a model: random blocks of known sizes through the
 * VM's own allocation function, thousands of rounds. What a walk finds live
 * must be what they add up to, by the rounding that LuaJIT does; and what is in
 * them must be there after each reclaim. At the end the VM is attached among
 * them. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define ROUNDS 2000
#define APART (128 * KIB)

static lua_State *L;
static lua_Alloc alloc;
static void *state;
static struct block blocks[3000];
static struct rng rng = { 0x9e3779b97f4a7c15u };

/* What the blocks add up to at least, and how many are not mapped apart. */
static size_t sum, count;

/* A block's chunk: 8 bytes more, in steps of 8, at least 32. A remainder too
 * small for a chunk stays with it: at most 24 bytes. */
static size_t chunk_of(size_t size)
{
  size_t chunk = (size + 15) & ~(size_t)7;

  return chunk < 32 ? 32 : chunk;
}

/* Whether a block is in no segment: it says so in front of itself. Large ones
 * may find a place in one, and such as were mapped apart may have shrunk. */
static int is_apart(const struct block *block)
{
  const size_t *words = (const size_t *)(const void *)block->at;

  return chunk_of(block->size) >= 256 && (words[-1] & 1) == 0
         && (words[-2] & 1) == 1;
}

static void note(const struct block *block, int is_new)
{
  if (!is_apart(block)) {
    sum += is_new ? chunk_of(block->size) : -chunk_of(block->size);
    count += is_new ? (size_t)1 : (size_t)-1;
  }
}

static size_t random_size(void)
{
  return rng_below(&rng, 300) == 0 ? APART + rng_below(&rng, MIB)
                                   : rng_size(&rng, 100 * KIB);
}

static void change(struct block *block)
{
  size_t size = random_size(), kept;

  if (block->at == NULL) {
    block->at = alloc(state, NULL, 0, size);
  } else {
    CHECK(block_kept(block, block->at, block->size));
    note(block, 0);
    if (rng_below(&rng, 2) == 0) {
      alloc(state, block->at, block->size, 0);
      block->at = NULL;
      return;
    }
    kept = size < block->size ? size : block->size;
    block->at = alloc(state, block->at, block->size, size);
    CHECK(block_kept(block, block->at, kept));
  }
  REQUIRE(block->at != NULL);
  block->size = size;
  block_fill(block, rng_next(&rng));
  note(block, 1);
}

static void contents_are_there(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(blocks); i++) {
    CHECK(blocks[i].at == NULL
          || block_kept(&blocks[i], blocks[i].at, blocks[i].size));
  }
}

static ebb_builtin_stats read_heap(void)
{
  ebb_builtin_stats stats;

  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  CHECK_EQ(ebb_builtin_read(L, &stats), EBB_OK);
  CHECK_EQ(stats.reserved, stats.live + stats.metadata + stats.free);
  CHECK(stats.returnable + stats.returned <= stats.free);
  CHECK(stats.resident <= stats.reserved);
  return stats;
}

/* The least that a call can do. One that goes on where the last one stopped may
 * find nothing up to the end. */
static int reclaim_a_step(void)
{
  ebb_reclaim_options options = { sizeof options, 1 };
  int result = ebb_builtin_reclaim(L, &options, NULL);

  CHECK(result >= 0);
  return result;
}

/* Whatever was begun before, two passes to the end return everything. */
static void reclaim_in_steps(void)
{
  size_t calls = 0, passes = 0;

  while (passes < 2) {
    passes += reclaim_a_step() == EBB_OK;
    CHECK(++calls < 100000);
  }
  CHECK_EQ(read_heap().returnable, 0);
}

/* Reclaims in place: at once, or in steps between which the heap changes. */
static void reclaim(void)
{
  ebb_reclaim_report report = { .size = sizeof report };
  uint64_t returnable = read_heap().returnable;

  switch (rng_below(&rng, 8)) {
  case 0:
    reclaim_in_steps();
    return;
  case 1: case 2: case 3:
    reclaim_a_step();
    return;
  default:
    break;
  }
  CHECK_EQ(ebb_builtin_reclaim(L, NULL, &report), EBB_OK);
  CHECK_EQ(report.returned, returnable);
  CHECK_EQ(read_heap().returnable, 0);
  CHECK_EQ(read_heap().live, report.live);
}

static void live_is_what_the_blocks_add_up_to(void)
{
  ebb_builtin_stats before = read_heap(), now;
  size_t i, round;

  for (round = 0; round < steps(ROUNDS); round++) {
    for (i = 0; i < 20; i++) {
      /* Demand comes and goes, so that the heap does. */
      size_t most = round / 500 % 2 == 0 ? COUNT_OF(blocks) : 300;

      change(&blocks[rng_below(&rng, most)]);
    }
    now = read_heap();
    CHECK_EQ(now.blocks - before.blocks, count);
    CHECK(now.live - before.live >= sum);
    CHECK(now.live - before.live <= sum + 24 * count);
    if (round % 25 == 24) {
      reclaim();
      contents_are_there();
    }
  }
}

/* A C module may have kept the function of before: its blocks stay its own. */
static void attached_among_them(void)
{
  size_t i;
  ebb_builtin_stats before = read_heap();
  ebb_stats stats;

  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  stats = stats_of(ebb_heap_of(L), 0);
  CHECK(stats.previous_live <= before.live);
  CHECK(stats.previous_live >= before.live / 2);
  CHECK_EQ(luaL_dostring(L, "for i = 1, 1e4 do _G[i] = {i} end"), 0);
  for (i = 0; i < 5000; i++) {
    change(&blocks[rng_below(&rng, COUNT_OF(blocks))]);
  }
  CHECK_EQ(ebb_reclaim(ebb_heap_of(L), NULL, NULL), EBB_OK);
  CHECK_EQ(read_heap().returnable, 0);
  contents_are_there();
}

/* Blocks that the VM's function of now is given are taken over. */
static void taken_over(void)
{
  size_t i;
  void *context;
  lua_Alloc function = lua_getallocf(L, &context);

  CHECK(context == ebb_heap_of(L));
  for (i = 0; i < COUNT_OF(blocks); i++) {
    struct block *block = &blocks[i];
    size_t size = random_size(), kept = size < block->size ? size : block->size;

    if (block->at != NULL && rng_below(&rng, 3) != 0) {
      block->at = function(context, block->at, block->size, size);
      REQUIRE(block->at != NULL);
      CHECK(block_kept(block, block->at, kept));
      CHECK(block_placed(block->at, size));
      block->size = size;
      block_fill(block, i);
    }
  }
  contents_are_there();
  for (i = 0; i < COUNT_OF(blocks); i++) {
    if (blocks[i].at != NULL) {
      function(context, blocks[i].at, blocks[i].size, 0);
    }
  }
  CHECK_EQ(luaL_dostring(L, "for i = 1, 1e4 do assert(_G[i][1] == i) end"), 0);
}

int main(void)
{
  L = luaL_newstate();
  REQUIRE(L != NULL);
  luaL_openlibs(L);
  alloc = lua_getallocf(L, &state);
  RUN(live_is_what_the_blocks_add_up_to);
  RUN(attached_among_them);
  RUN(taken_over);
  lua_close(L);
  return check_status();
}
