/* Loads LuaJIT (the first argument) and another library with a function
 * lua_newstate (the second) where nobody else sees them, and has each make what
 * it makes. Prints whether LuaJIT's VM is on a heap. */

#include "check.h"

#include <dlfcn.h>

static void *load(const char *library)
{
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);

  if (handle == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return handle;
}

/* ISO C has no conversion of a pointer to a function. */
static void function(void *at, size_t size, void *handle, const char *name)
{
  void *found = dlsym(handle, name);

  REQUIRE(found != NULL && size == sizeof found);
  memcpy(at, &found, size);
}

#define FUNCTION(handle, name) function(&name, sizeof name, handle, #name)

int main(int argc, char **argv)
{
  void *luajit, *other;
  void *(*luaL_newstate)(void);
  void (*lua_close)(void *);
  int (*other_newstate)(void);
  void *L;

  REQUIRE(argc == 3);
  /* The preload library may have been named by a path from here. */
  REQUIRE(chdir("/") == 0);
  luajit = load(argv[1]);
  other = load(argv[2]);
  FUNCTION(luajit, luaL_newstate);
  FUNCTION(luajit, lua_close);
  FUNCTION(other, other_newstate);
  L = luaL_newstate();
  REQUIRE(L != NULL);
  CHECK(other_newstate());
  puts(dlsym(RTLD_DEFAULT, "ebb_alloc") ? "on a heap" : "on its own");
  lua_close(L);
  return check_status();
}
