/* A VM at its hard limit works again when it has dropped what it held, though
 * nobody collects its garbage (ffi-tests/lua/recovery.lua).
 *
 *   recovery new|attach|plain SCRIPT [-joff] */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define LIMIT (32 * MIB)

int main(int argc, char **argv)
{
  ebb_options options = { .size = sizeof options, .limit_hard = LIMIT };
  ebb_heap *heap = NULL;
  lua_State *L;
  ebb_stats stats;
  int i;

  REQUIRE(argc > 2);
  if (strcmp(argv[1], "new") == 0) {
    L = ebb_newstate(&options);
  } else if (strcmp(argv[1], "plain") == 0) {
    heap = ebb_heap_new(&options);
    L = lua_newstate(ebb_alloc, heap);
  } else {
    L = luaL_newstate();
    CHECK_EQ(ebb_attach(L, &options), EBB_OK);
  }
  REQUIRE(L != NULL);
  luaL_openlibs(L);
  REQUIRE(luaL_loadfile(L, argv[2]) == 0);
  for (i = 3; i < argc; i++) {
    lua_pushstring(L, argv[i]);
  }
  if (lua_pcall(L, argc - 3, 0, 0) != 0) {
    check_failed(argv[1], __LINE__, lua_tostring(L, -1));
  }
  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  CHECK_EQ(ebb_stats_read(ebb_heap_of(L), &stats), EBB_OK);
  CHECK(stats.resident_peak <= LIMIT + LIMIT / 32);
  CHECK(stats.refused_allocations > 10);
  lua_close(L);
  ebb_heap_delete(heap);
  return check_status();
}
