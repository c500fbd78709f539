/* Blocks of a VM's allocator: see blocks.h. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lauxlib.h>

#include "blocks.h"

static uint64_t next_random(uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* Blocks that live, with what was asked for each beside them. */
typedef struct {
  lua_Alloc alloc;
  void *ud;
  void **blocks;
  unsigned char *sizes; /* bytes, divided by 8 */
} block_set;

static void renew_block(lua_State *L, block_set *set, size_t i,
                        uint64_t random)
{
  set->sizes[i] = (unsigned char)(2 + (random >> 32) % 18);
  set->blocks[i] = set->alloc(set->ud, NULL, 0, set->sizes[i] * 8);
  if (set->blocks[i] == NULL)
    luaL_error(L, "replace_blocks: out of memory");
}

static void free_block(block_set *set, size_t i)
{
  set->alloc(set->ud, set->blocks[i], set->sizes[i] * 8, 0);
}

int blocks_replace(lua_State *L)
{
  lua_Number live_wanted = luaL_checknumber(L, 1);
  size_t live = (size_t)live_wanted;
  long count = (long)luaL_checknumber(L, 2);
  block_set set;
  uint64_t state = 88172645463325252u;
  clock_t start;
  size_t i;
  long n;

  luaL_argcheck(L, live_wanted >= 1 && live_wanted < 4e9, 1, "1 to 4e9 blocks");
  set.alloc = lua_getallocf(L, &set.ud);
  set.blocks = (void **)malloc(live * sizeof(*set.blocks));
  set.sizes = (unsigned char *)malloc(live);
  if (set.blocks == NULL || set.sizes == NULL)
    return luaL_error(L, "replace_blocks: out of memory");
  for (i = 0; i < live; i++) {
    renew_block(L, &set, i, next_random(&state));
    memset(set.blocks[i], 1, set.sizes[i] * 8);
  }
  start = clock();
  for (n = 0; n < count; n++) {
    uint64_t random = next_random(&state);

    i = (size_t)((random & 0xffffffff) * live >> 32);
    free_block(&set, i);
    renew_block(L, &set, i, random);
  }
  lua_pushnumber(L, (double)(clock() - start) * 1e9 / CLOCKS_PER_SEC / count);
  for (i = 0; i < live; i++)
    free_block(&set, i);
  free(set.blocks);
  free(set.sizes);
  return 1;
}
