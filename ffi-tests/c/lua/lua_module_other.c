/* A LuaJIT whose VMs have another allocator than its own, for this program takes
 * luaL_newstate() over as the preload library may: recognised so by one VM. */

#include "check.h"
#include "libc_alloc.h"

#include <lauxlib.h>
#include <lua.h>

static unsigned vms;

lua_State *luaL_newstate(void)
{
  vms++;
  return lua_newstate(libc_alloc, NULL);
}

static void it_is_asked_once(void)
{
  ebb_builtin_stats stats = { .size = sizeof stats };
  lua_State *L = luaL_newstate();
  int i;

  REQUIRE(L != NULL);
  for (i = 0; i < 5; i++) {
    CHECK_EQ(ebb_builtin_read(L, &stats), EBB_ERR_UNKNOWN);
    CHECK(strstr(ebb_strerror(0), "another allocator than its own") != NULL);
    CHECK_EQ(ebb_attach(L, NULL), EBB_ERR_UNKNOWN);
  }
  CHECK_EQ(vms, 2);
  lua_close(L);
}

int main(void)
{
  RUN(it_is_asked_once);
  return check_status();
}
