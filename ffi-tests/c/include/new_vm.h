/* The VM of a host: on LuaJIT's own allocator or, compiled ON_A_HEAP, on a heap
 * of the library's, which the host then leaves alone. */

#ifndef NEW_VM_H
#define NEW_VM_H

#include <lauxlib.h>
#include <lua.h>

#ifdef ON_A_HEAP
#include <ebbtide.h>

static ebb_heap *heap;

static lua_State *new_vm(void)
{
  heap = ebb_heap_new(NULL);
  return heap != NULL ? lua_newstate(ebb_alloc, heap) : NULL;
}

static void close_vm(lua_State *L)
{
  lua_close(L);
  ebb_heap_delete(heap);
}
#else
static lua_State *new_vm(void)
{
  return luaL_newstate();
}

static void close_vm(lua_State *L)
{
  lua_close(L);
}
#endif

#endif
