/* A library with the outer shape of LuaJIT 2.0 on 64 bits: luaL_newstate does
 * not go by lua_newstate, which refuses. */

#include <stddef.h>
#include <stdio.h>

void luaJIT_version_2_0_5(void);
int luaJIT_setmode(void *L, int index, int mode);
void *lua_newstate(void *alloc, void *context);
void *luaL_newstate(void);
void lua_close(void *L);

void luaJIT_version_2_0_5(void)
{
}

int luaJIT_setmode(void *L, int index, int mode)
{
  (void)L;
  return index == mode;
}

void *lua_newstate(void *alloc, void *context)
{
  (void)alloc;
  (void)context;
  fputs("Must use luaL_newstate() for 64 bit target\n", stderr);
  return NULL;
}

void *luaL_newstate(void)
{
  static int state;

  return &state;
}

void lua_close(void *L)
{
  (void)L;
}
