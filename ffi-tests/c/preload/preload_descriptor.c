/* A program that has no use for standard error: its database becomes
 * descriptor 2. The first argument is the database, the second tells whether
 * the VM is closed ("close") or left open to the end ("exit"). */

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  lua_State *L;

  close(2);
  if (argc != 3 || open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600) != 2) {
    return 2;
  }
  L = luaL_newstate();
  if (L == NULL) {
    return 3;
  }
  luaL_openlibs(L);
  if (luaL_dostring(L, "local t = {} for i = 1, 1e4 do t[i] = { i } end")) {
    return 4;
  }
  if (strcmp(argv[2], "close") == 0) {
    lua_close(L);
  }
  return 0;
}
