/* PUC Lua 5.2 and later: the functions that take or make a VM are refused, and
 * say what a C host does instead. Then the host does that. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static void says_what_to_do(void)
{
  CHECK(strstr(ebb_strerror(0), "Lua 5.2 or later") != NULL);
  CHECK(strstr(ebb_strerror(0), "C functions that take or make a VM") != NULL);
  CHECK(strstr(ebb_strerror(0), "lua_newstate(ebb_alloc, heap)") != NULL);
}

static void vms_are_refused(void)
{
  lua_State *L = luaL_newstate();
  ebb_builtin_stats builtin = { .size = sizeof builtin };

  CHECK(L != NULL);
  CHECK_EQ(ebb_attach((struct lua_State *)L, NULL), EBB_ERR_UNKNOWN);
  says_what_to_do();
  CHECK_EQ(ebb_builtin_read((struct lua_State *)L, &builtin), EBB_ERR_UNKNOWN);
  says_what_to_do();
  CHECK(ebb_newstate(NULL) == NULL);
  says_what_to_do();
  lua_close(L);
}

static void a_host_has_a_vm_on_a_heap(void)
{
  ebb_heap *heap = ebb_heap_new(NULL);
  lua_State *L = lua_newstate(ebb_alloc, heap);
  ebb_stats stats = { .size = sizeof stats };

  CHECK(L != NULL);
  luaL_openlibs(L);
  CHECK_EQ(luaL_dostring(L, "t = {} for i = 1, 1000 do t[i] = { i } end"), 0);
  CHECK_EQ(ebb_stats_read(heap, &stats), EBB_OK);
  CHECK(stats.live > 50000);
  lua_close(L);
  ebb_heap_delete(heap);
}

int main(void)
{
  RUN(vms_are_refused);
  RUN(a_host_has_a_vm_on_a_heap);
  return check_status();
}
