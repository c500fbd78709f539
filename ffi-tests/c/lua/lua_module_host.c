/* A Lua host that knows nothing of ebbtide, unless it is compiled WITH_EBBTIDE:
 *
 *   lua_module_host [-joff] [--vms N] [--alloc own|heap|newstate] script [argument]
 *
 * Makes a VM, runs the script in it, closes it; N times. The script finds its
 * arguments in arg, and the number of the VM in vm.
 *
 * With more than WARM VMs the process must have no more memory mapped after the
 * last of them than after the first few, and the module's library must still be
 * there.
 *
 *   own        the VM gets its memory from realloc
 *   heap       WITH_EBBTIDE: lua_newstate(ebb_alloc, heap)
 *   newstate   WITH_EBBTIDE: ebb_newstate()
 */

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_EBBTIDE
#include <ebbtide.h>
#endif

#include "libc_alloc.h"

#define WARM 5
/* What the C library's own heap may grow by. */
#define SLACK ((size_t)1 << 20)

static const char *alloc_kind = "builtin";
static int jit_off;

static void fail(const char *what)
{
  fprintf(stderr, "lua_module_host: %s\n", what);
  exit(1);
}

/* Bytes of all private mappings without a file, and whether a library of
 * ebbtide's is mapped. */
static size_t mapped(int *has_library)
{
  size_t start, end, inode, bytes = 0;
  char line[512], access[8];
  FILE *maps = fopen("/proc/self/maps", "r");

  if (maps == NULL) {
    fail("no /proc/self/maps");
  }
  while (fgets(line, sizeof line, maps) != NULL) {
    if (sscanf(line, "%zx-%zx %7s %*s %*s %zu", &start, &end, access, &inode)
          == 4
        && inode == 0 && access[3] == 'p' && strstr(line, "[stack]") == NULL) {
      bytes += end - start;
    }
    *has_library |= strstr(line, "libebbtide") != NULL;
  }
  fclose(maps);
  return bytes;
}

#ifdef WITH_EBBTIDE
static ebb_heap *heap;

static lua_State *new_vm(void)
{
  if (strcmp(alloc_kind, "newstate") == 0) {
    return ebb_newstate(NULL);
  }
  if (strcmp(alloc_kind, "heap") == 0) {
    heap = ebb_heap_new(NULL);
    return heap != NULL ? lua_newstate(ebb_alloc, heap) : NULL;
  }
  return luaL_newstate();
}

static void after_close(void)
{
  ebb_heap_delete(heap);
  heap = NULL;
}
#else
static lua_State *new_vm(void)
{
  int is_own = strcmp(alloc_kind, "own") == 0;

  return is_own ? lua_newstate(libc_alloc, NULL) : luaL_newstate();
}

static void after_close(void)
{
}
#endif

static void set_globals(lua_State *L, int argc, char **argv, int vm)
{
  int i;

  lua_createtable(L, argc, 1);
  for (i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_setglobal(L, "arg");
  lua_pushinteger(L, vm);
  lua_setglobal(L, "vm");
}

static void run(int argc, char **argv, int vm)
{
  lua_State *L = new_vm();

  if (L == NULL) {
    fail("no VM");
  }
  luaL_openlibs(L);
  set_globals(L, argc, argv, vm);
  if ((jit_off && luaL_dostring(L, "jit.off()")) || luaL_dofile(L, argv[0])) {
    fail(lua_tostring(L, -1));
  }
  lua_close(L);
  after_close();
}

static void run_all(int argc, char **argv, int vms)
{
  size_t before = 0, after;
  int vm, has_library = 0;

  for (vm = 1; vm <= vms; vm++) {
    run(argc, argv, vm);
    if (vm == WARM) {
      before = mapped(&has_library);
    }
  }
  if (vms <= WARM) {
    return;
  }
  has_library = 0;
  after = mapped(&has_library);
  if (!has_library) {
    fail("the library is no longer mapped");
  }
  if (after > before + SLACK) {
    fprintf(stderr, "%zu bytes mapped after %d VMs, %zu after %d\n", before,
            WARM, after, vms);
    fail("closed VMs left something behind");
  }
}

int main(int argc, char **argv)
{
  int i, vms = 1;

  for (i = 1; i < argc && argv[i][0] == '-'; i++) {
    if (strcmp(argv[i], "-joff") == 0) {
      jit_off = 1;
    } else if (strcmp(argv[i], "--vms") == 0 && i + 1 < argc) {
      vms = atoi(argv[++i]);
    } else if (strcmp(argv[i], "--alloc") == 0 && i + 1 < argc) {
      alloc_kind = argv[++i];
    } else {
      fail("wrong option");
    }
  }
  if (i == argc) {
    fail("no script");
  }
  run_all(argc - i, argv + i, vms);
  return 0;
}
