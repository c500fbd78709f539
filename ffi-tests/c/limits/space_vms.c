/* VMs in a process of little address space, with blocks of malloc beside them.
 *
 *   space_vms stock|ebbtide [VMS [BLOCKS]]
 *
 * Makes N = VMS VMs (2,000) with their libraries in an address space of 2 GiB,
 * and beside each VM the N-th part of BLOCKS blocks (1,000) of 1 MB. Then takes
 * blocks of 1 MB until malloc refuses one, and prints how many VMs and blocks
 * there are. Each VM must work then, and be closed. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <sys/resource.h>

#define VMS_MAX 10000

static lua_State *vms[VMS_MAX];

static lua_State *vm_new(const char *kind)
{
  return strcmp(kind, "stock") == 0 ? luaL_newstate() : ebb_newstate(NULL);
}

/* Links a new block of 1 MB to the others. */
static int block_of_malloc(void **last)
{
  void **block = (void **)malloc(1000000);

  if (block == NULL) {
    return 0;
  }
  *block = *last;
  *last = block;
  return 1;
}

int main(int argc, char **argv)
{
  const struct rlimit limit = { 2 * GIB, 2 * GIB };
  unsigned count = argc > 2 ? (unsigned)atoi(argv[2]) : 2000;
  unsigned blocks = argc > 3 ? (unsigned)atoi(argv[3]) : 1000;
  unsigned made = 0, taken = 0, i;
  void *last = NULL, *next;

  REQUIRE(argc > 1 && count <= VMS_MAX);
  REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
  for (; made < count; made++) {
    vms[made] = vm_new(argv[1]);
    if (vms[made] == NULL) {
      break;
    }
    luaL_openlibs(vms[made]);
    while ((uint64_t)taken * count < (uint64_t)blocks * (made + 1)
           && block_of_malloc(&last)) {
      taken++;
    }
  }
  while (block_of_malloc(&last)) {
    taken++;
  }
  printf("%u %u\n", made, taken);
  for (; last != NULL; last = next) {
    next = *(void **)last;
    free(last);
  }
  for (i = 0; i < made; i++) {
    CHECK_EQ(luaL_dostring(vms[i], "local t = {} for i = 1, 100 do t[i] = { i } "
                                   "end assert(#t == 100)"),
             0);
    lua_close(vms[i]);
  }
  return check_status();
}
