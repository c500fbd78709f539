/* A fork server: the parent makes a VM and loads it; each child serves from its
 * own copy, waits, gives memory back and ends, while the parent waits for it.
 * The first argument is the Lua script. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <poll.h>

#define CHILDREN 12
#define AT_ONCE 4

static void ask(lua_State *L, const char *request)
{
  lua_getglobal(L, "handle");
  lua_pushstring(L, request);
  if (lua_pcall(L, 1, 0, 0) != 0) {
    check_failed(__FILE__, __LINE__, lua_tostring(L, -1));
    exit(1);
  }
}

static lua_State *vm_new(const char *script)
{
  lua_State *L = luaL_newstate();

  REQUIRE(L != NULL);
  luaL_openlibs(L);
  REQUIRE(!luaL_dofile(L, script));
  return L;
}

static int serve(lua_State *L, const char *script)
{
  lua_State *own = vm_new(script);

  ask(L, "check");
  ask(L, "load");
  ask(own, "load");
  ask(L, "rest");
  CHECK_EQ(poll(NULL, 0, 200), 0);
  ask(L, "load");
  ask(L, "check");
  ask(own, "check");
  lua_close(own);
  lua_close(L);
  return check_status();
}

int main(int argc, char **argv)
{
  lua_State *L;
  int started, ended = 0;

  REQUIRE(argc == 2);
  /* What hangs has failed. */
  alarm(300);
  L = vm_new(argv[1]);
  ask(L, "load");
  for (started = 0; ended < CHILDREN;) {
    int status;

    if (started < CHILDREN && started - ended < AT_ONCE) {
      pid_t child = fork();

      if (child == 0) {
        _exit(serve(L, argv[1]));
      }
      REQUIRE(child > 0);
      started++;
    }
    ask(L, started % 2 ? "load" : "rest");
    poll(NULL, 0, 10);
    while (waitpid(-1, &status, WNOHANG) > 0) {
      CHECK_EQ(status, 0);
      ended++;
    }
  }
  ask(L, "check");
  lua_close(L);
  return check_status();
}
