/* A library that has a function lua_newstate and is no LuaJIT, as another Lua
 * would be. It calls it as a Lua does: through the loader. */

#include <stddef.h>

typedef void *(*lua_Alloc)(void *, void *, size_t, size_t);

void *lua_newstate(lua_Alloc alloc, void *context, unsigned seed);
int other_newstate(void);

static void *no_alloc(void *context, void *block, size_t osize, size_t nsize)
{
  (void)context;
  (void)block;
  (void)osize;
  (void)nsize;
  return NULL;
}

/* From Lua 5.5 on there is a third argument. */
void *lua_newstate(lua_Alloc alloc, void *context, unsigned seed)
{
  return alloc == no_alloc && seed == 4711 ? context : NULL;
}

/* Whether the call has come to the function above. */
int other_newstate(void)
{
  int here;

  return lua_newstate(no_alloc, &here, 4711) == &here;
}
