/* A host that knows ebbtide: its VM is on a heap that it has made. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>

int main(void)
{
  ebb_heap *heap = ebb_heap_new(NULL);
  lua_State *L;

  REQUIRE(heap != NULL);
  L = lua_newstate(ebb_alloc, heap);
  REQUIRE(L != NULL);
  lua_createtable(L, 100, 100);
  lua_close(L);
  ebb_heap_delete(heap);
  return check_status();
}
