/* A LuaJIT command of the simplest kind: runs a script with arguments. */

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <stdio.h>

#include "new_vm.h"

int main(int argc, char **argv)
{
  lua_State *L = new_vm();
  int i, failed;

  if (L == NULL || argc < 2) {
    fprintf(stderr, "no VM, or no script\n");
    return 2;
  }
  luaL_openlibs(L);
  lua_createtable(L, argc, 1);
  for (i = 1; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - 1);
  }
  lua_setglobal(L, "arg");
  failed = luaL_dofile(L, argv[1]);
  if (failed) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
  }
  close_vm(L);
  return failed;
}
