/* A VM at its hard limit works again when it has dropped what it held, though
 * nobody collects its garbage (ffi-tests/lua/recovery.lua).
 *
 *   recovery new|attach SCRIPT [-joff]
 *
 * And one that goes idle while its heap has the collector in a hurry has its own
 * pace again after a tick. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define LIMIT (32 * MIB)

#define STEPMUL 321

/* Keeps what it allocates until the heap has changed the step multiplier. */
static const char fill[] = "local kept, old = {}, collectgarbage('setstepmul', 321)\n"
                           "repeat\n"
                           "  kept[#kept + 1] = { #kept }\n"
                           "  old = collectgarbage('setstepmul', 321)\n"
                           "  collectgarbage('setstepmul', old)\n"
                           "until old ~= 321\n"
                           "_G.kept = kept\n";

static void check_tick(lua_State *L)
{
  ebb_heap *heap = ebb_heap_of(L);
  int stepmul;

  REQUIRE(luaL_dostring(L, fill) == 0);
  stepmul = lua_gc(L, LUA_GCSETSTEPMUL, STEPMUL);
  CHECK(stepmul == EBB_STEPMUL_WHOLE || stepmul == EBB_STEPMUL_LONG);
  lua_gc(L, LUA_GCSETSTEPMUL, stepmul);
  CHECK_EQ(ebb_next_tick(heap), 0);
  CHECK(ebb_tick(heap, 0) >= 0);
  CHECK_EQ(lua_gc(L, LUA_GCSETSTEPMUL, STEPMUL), STEPMUL);
}

int main(int argc, char **argv)
{
  ebb_options options = { .size = sizeof options, .limit_hard = LIMIT };
  lua_State *L;
  ebb_stats stats;
  int i;

  REQUIRE(argc > 2);
  if (strcmp(argv[1], "new") == 0) {
    L = ebb_newstate(&options);
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
  check_tick(L);
  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  CHECK_EQ(ebb_stats_read(ebb_heap_of(L), &stats), EBB_OK);
  CHECK(stats.resident_peak <= LIMIT + LIMIT / 32);
  CHECK(stats.refused_allocations > 10);
  lua_close(L);
  return check_status();
}
