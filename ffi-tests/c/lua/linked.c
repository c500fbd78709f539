/* Runs a Lua script as any program does that embeds LuaJIT: no word of heaps in it. Makes and closes as
 * many other VMs before as it is told, and looks that nothing of them stays. */

#include <stdio.h>
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

/* What a heap that is kept for the next may hold, and then some. */
#define SLACK_KB 4096

static long resident_kb(void)
{
  FILE *file = fopen("/proc/self/statm", "r");
  long size = 0, resident = 0;

  if (file == NULL || fscanf(file, "%ld %ld", &size, &resident) != 2)
    exit(2);
  fclose(file);
  return resident * 4;
}

static void run(const char *chunk)
{
  lua_State *L = luaL_newstate();

  if (L == NULL)
    exit(2);
  luaL_openlibs(L);
  if (luaL_dostring(L, chunk) != 0) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    exit(1);
  }
  lua_close(L);
}

int main(int argc, char **argv)
{
  lua_State *L;
  long before;
  int i, failed;

  if (argc != 2 && argc != 3)
    return 2;
  run("local t = {} for i = 1, 20000 do t[i] = { i } end");
  before = resident_kb();
  for (i = 0; i < (argc == 3 ? atoi(argv[2]) : 0); i++)
    run("local t = {} for i = 1, 20000 do t[i] = { i } end");
  if (resident_kb() > before + SLACK_KB) {
    fprintf(stderr, "VMs that are closed stay: %ld KB, now %ld KB\n", before, resident_kb());
    return 1;
  }
  L = luaL_newstate();
  luaL_openlibs(L);
  lua_newtable(L);
  lua_pushstring(L, argv[1]);
  lua_rawseti(L, -2, 0);
  lua_setglobal(L, "arg");
  failed = luaL_dofile(L, argv[1]);
  if (failed)
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_close(L);
  return failed;
}
