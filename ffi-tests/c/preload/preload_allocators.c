/* Which VMs are taken over. The first argument says what this program does:
 *
 * own     makes a VM with an allocator of its own
 * option  makes a VM and prints the heap's option of the name in the second
 *         argument, or "none" when it is not on a heap */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>

#include <dlfcn.h>

static size_t own_calls;

static void *own_alloc(void *context, void *block, size_t osize, size_t nsize)
{
  (void)osize;
  CHECK(context == &own_calls);
  own_calls++;
  if (nsize == 0) {
    free(block);
    return NULL;
  }
  return realloc(block, nsize);
}

static void own(void)
{
  lua_State *L = lua_newstate(own_alloc, &own_calls);
  void *context = NULL;

  REQUIRE(L != NULL);
  CHECK(lua_getallocf(L, &context) == own_alloc && context == &own_calls);
  lua_createtable(L, 100, 100);
  lua_close(L);
  CHECK(own_calls > 10);
}

/* ISO C has no conversion of a pointer to a function. */
static void function(void *at, size_t size, void *handle, const char *name)
{
  void *found = dlsym(handle, name);

  REQUIRE(found != NULL && size == sizeof found);
  memcpy(at, &found, size);
}

#define FUNCTION(handle, name) function(&name, sizeof name, handle, #name)

static void option(const char *name)
{
  lua_State *L = luaL_newstate();
  ebb_heap *(*ebb_heap_of)(lua_State *);
  int (*ebb_get)(ebb_heap *, const char *, int64_t *);
  int64_t value;

  REQUIRE(L != NULL);
  if (dlsym(RTLD_DEFAULT, "ebb_heap_of") == NULL) {
    puts("none");
  } else {
    FUNCTION(RTLD_DEFAULT, ebb_heap_of);
    FUNCTION(RTLD_DEFAULT, ebb_get);
    if (ebb_heap_of(L) == NULL) {
      puts("none");
    } else {
      CHECK_EQ(ebb_get(ebb_heap_of(L), name, &value), EBB_OK);
      printf("%" PRId64 "\n", value);
    }
  }
  lua_close(L);
}

int main(int argc, char **argv)
{
  if (argc == 2 && strcmp(argv[1], "own") == 0) {
    own();
  } else if (argc == 3 && strcmp(argv[1], "option") == 0) {
    option(argv[2]);
  } else {
    fprintf(stderr, "own, or option NAME\n");
    return 2;
  }
  return check_status();
}
