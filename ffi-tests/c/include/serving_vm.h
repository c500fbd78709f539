/* VMs of a host under the preload library, each with a Lua script that handles
 * requests. */

#ifndef SERVING_VM_H
#define SERVING_VM_H

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static inline lua_State *vm_new(const char *script)
{
  lua_State *L = luaL_newstate();

  REQUIRE(L != NULL);
  luaL_openlibs(L);
  REQUIRE(!luaL_dofile(L, script));
  return L;
}

static inline void ask(lua_State *L, const char *request)
{
  lua_getglobal(L, "handle");
  lua_pushstring(L, request);
  if (lua_pcall(L, 1, 0, 0) != 0) {
    check_failed(__FILE__, __LINE__, lua_tostring(L, -1));
    exit(1);
  }
}

#endif
