/* VMs on LuaJIT's own allocator, work for them whose result can be checked, and
 * what their allocator holds. */

#ifndef WORK_VM_H
#define WORK_VM_H

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define DO(L, code)                                                           \
  (luaL_dostring(L, code) ? check_failed(__FILE__, __LINE__,                  \
                                         lua_tostring(L, -1))                 \
                          : (void)0)

/* Lua code; what it makes is seen by check_work. */
static const char *const work =
  "local kept = kept or {} _G.kept = kept "
  "for i = 1, 2000 do kept[i] = { i, 'row ' .. i, ('x'):rep(i) } end "
  "big = ('y'):rep(2 ^ 18)";
static const char *const check_work =
  "for i = 1, 2000 do local row = kept[i] "
  "assert(row[1] == i and row[2] == 'row ' .. i) "
  "assert(row[3] == ('x'):rep(i)) end "
  "assert(big == ('y'):rep(2 ^ 18))";

static inline lua_State *vm(void)
{
  lua_State *L = luaL_newstate();

  REQUIRE(L != NULL);
  luaL_openlibs(L);
  if (light()) {
    DO(L, "jit.off()");
  }
  return L;
}

static inline ebb_builtin_stats builtin_of(lua_State *L)
{
  ebb_builtin_stats stats;

  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  CHECK_EQ(ebb_builtin_read(L, &stats), EBB_OK);
  CHECK_EQ(stats.reserved, stats.live + stats.metadata + stats.free);
  return stats;
}

/* Whether nothing is mapped where a VM's own allocator was. */
static inline int is_gone(const void *state)
{
  unsigned char resident;
  uintptr_t page = (uintptr_t)state & ~(uintptr_t)4095;

  return mincore((void *)page, 1, &resident) != 0 && errno == ENOMEM;
}

/* Puts the library's module where require looks. */
static inline void preload(lua_State *L)
{
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_ebbtide);
  lua_setfield(L, -2, "ebbtide");
  lua_settop(L, 0);
}

#endif
