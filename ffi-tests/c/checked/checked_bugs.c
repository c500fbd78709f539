/* A Lua program with one memory bug: in a C module, or in code that uses the
 * FFI.
 *
 *   checked_bugs SCRIPT CASE
 *
 * Runs the script in LuaJIT, on a heap as the environment asks for. It finds
 * the name of the bug in `case`, the heap in `heap`, and in `native` a C module
 * that takes its memory from the VM, as many do, and has each bug once.
 *
 * As a shared library it is the module alone, for programs that know nothing of
 * heaps. */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

#define SMALL 40
#define LONG 100000
/* At least what LuaJIT puts before a userdata's bytes. */
#define USERDATA_HEAD 64
/* Enough that one of them is sampled. */
#define TIMES 3000000

/* What a C module does for memory. */
static void *module_alloc(lua_State *L, void *block, size_t osize, size_t size)
{
  void *context;
  lua_Alloc function = lua_getallocf(L, &context);

  return function(context, block, osize, size);
}

static char *module_new(lua_State *L, size_t size)
{
  char *block = (char *)module_alloc(L, NULL, 0, size);

  REQUIRE(block != NULL);
  return block;
}

/* Whether a checked heap may have put SMALL bytes, with at most `head` bytes of
 * LuaJIT before them, into a guarded slot: a block there fills one end of a
 * page. The heap chooses one block in a thousand by chance and reports a bug
 * there in other words. Before every other block lie 16 bytes of the heap. */
static int is_guarded(const char *at, uintptr_t head)
{
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)at;

  return start % page <= head || (start + SMALL) % page == 0;
}

/* A block that is not in a guarded slot. */
static char *module_small(lua_State *L)
{
  char *block;

  do {
    block = module_new(L, SMALL);
  } while (is_guarded(block, 0));
  return block;
}

/* The compiler must not know better. */
static void put(char *at, char byte)
{
  *(volatile char *)at = byte;
}

static char look(const char *at)
{
  return *(volatile const char *)at;
}

static int none(lua_State *L)
{
  char *block = module_small(L);

  memset(block, 1, SMALL);
  block = (char *)module_alloc(L, block, SMALL, LONG);
  memset(block, 2, LONG);
  module_alloc(L, block, LONG, 0);
  return 0;
}

static int overflow(lua_State *L)
{
  char *block = module_small(L);

  put(block + SMALL, 1);
  module_alloc(L, block, SMALL, 0);
  return 0;
}

/* The collector frees it, or the end of the VM. */
static int overflow_userdata(lua_State *L)
{
  char *block;

  do {
    block = (char *)lua_newuserdata(L, SMALL);
  } while (is_guarded(block, USERDATA_HEAD));
  put(block + SMALL, 1);
  return 0;
}

static int underflow(lua_State *L)
{
  char *block = module_small(L);

  put(block - 1, 1);
  module_alloc(L, block, SMALL, 2 * SMALL);
  return 0;
}

static int large_overflow(lua_State *L)
{
  put(module_new(L, LONG) + LONG, 1);
  return 0;
}

static int large_read_freed(lua_State *L)
{
  char *block = module_new(L, LONG);

  module_alloc(L, block, LONG, 0);
  return look(block + 7) == 1;
}

static int double_free(lua_State *L)
{
  char *block = module_small(L);

  module_alloc(L, block, SMALL, 0);
  module_alloc(L, block, SMALL, 0);
  return 0;
}

static int write_freed(lua_State *L)
{
  char *block = module_small(L);

  module_alloc(L, block, SMALL, 0);
  put(block + 3, 1);
  return 0;
}

/* Between two guarded slots lies 250 times as long as handing one out took,
 * which is a quarter of a second at most: here is one within two seconds. */
static int read_freed(lua_State *L)
{
  static char *blocks[512];
  struct timespec start, now;
  int i, times, seen = 0;

  clock_gettime(CLOCK_MONOTONIC, &start);
  now = start;
  for (times = 0; times < TIMES / (int)COUNT_OF(blocks)
                  || now.tv_sec - start.tv_sec < 3; times++) {
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (i = 0; i < (int)COUNT_OF(blocks); i++) {
      blocks[i] = module_new(L, SMALL);
    }
    for (i = 0; i < (int)COUNT_OF(blocks); i++) {
      module_alloc(L, blocks[i], SMALL, 0);
      seen += look(blocks[i] + 3) == 1;
    }
  }
  return seen < 0;
}

static int wrong_size(lua_State *L)
{
  char *block = module_small(L);

  module_alloc(L, block, SMALL - 1, 0);
  return 0;
}

static int foreign(lua_State *L)
{
  module_alloc(L, malloc(SMALL), SMALL, 0);
  return 0;
}

/* A block of another heap: in a guarded slot there, or in none. */
static int other_block(lua_State *L, int guarded)
{
  ebb_heap *other = heap_of(0);
  char *block;
  int i;

  for (i = 0; i < TIMES; i++) {
    block = (char *)ebb_alloc(other, NULL, 0, SMALL);
    REQUIRE(block != NULL);
    if (is_guarded(block, 0) == guarded) {
      module_alloc(L, block, SMALL, 0);
      break;
    }
  }
  return 0;
}

static int other_heap(lua_State *L)
{
  return other_block(L, 0);
}

static int other_heap_guarded(lua_State *L)
{
  return other_block(L, 1);
}

static int middle(lua_State *L)
{
  char *block = module_small(L);

  module_alloc(L, block + 8, SMALL - 8, 0);
  return 0;
}

static void *use_heap(void *state)
{
  lua_State *L = (lua_State *)state;
  int i;

  for (i = 0; i < TIMES; i++) {
    module_alloc(L, module_new(L, SMALL), SMALL, 0);
  }
  return NULL;
}

static int two_threads(lua_State *L)
{
  pthread_t thread;

  REQUIRE(pthread_create(&thread, NULL, use_heap, L) == 0);
  use_heap(L);
  pthread_join(thread, NULL);
  return 0;
}

static void *tick_heap(void *heap)
{
  int i;

  for (i = 0; i < TIMES; i++) {
    ebb_tick((ebb_heap *)heap, 0);
  }
  return NULL;
}

static int thread_ticks(lua_State *L)
{
  pthread_t thread;
  void *heap;

  lua_getallocf(L, &heap);
  REQUIRE(pthread_create(&thread, NULL, tick_heap, heap) == 0);
  use_heap(L);
  pthread_join(thread, NULL);
  return 0;
}

static const luaL_Reg module[] = {
  { "none", none },
  { "overflow", overflow },
  { "overflow_userdata", overflow_userdata },
  { "underflow", underflow },
  { "large_overflow", large_overflow },
  { "large_read_freed", large_read_freed },
  { "double_free", double_free },
  { "write_freed", write_freed },
  { "read_freed", read_freed },
  { "wrong_size", wrong_size },
  { "foreign", foreign },
  { "other_heap", other_heap },
  { "other_heap_guarded", other_heap_guarded },
  { "middle", middle },
  { "two_threads", two_threads },
  { "thread_ticks", thread_ticks },
  { NULL, NULL }
};

int luaopen_native(lua_State *L);

int luaopen_native(lua_State *L)
{
  luaL_register(L, "native", module);
  return 1;
}

int main(int argc, char **argv)
{
  struct rlimit no_core = { 0, 0 };
  ebb_heap *heap;
  lua_State *L;

  setrlimit(RLIMIT_CORE, &no_core);
  REQUIRE(argc == 3);
  heap = heap_of(0);
  L = lua_newstate(ebb_alloc, heap);
  REQUIRE(L != NULL);
  luaL_openlibs(L);
  luaopen_native(L);
  lua_pop(L, 1);
  lua_pushstring(L, argv[2]);
  lua_setglobal(L, "case");
  lua_pushlightuserdata(L, heap);
  lua_setglobal(L, "heap");
  if (luaL_dofile(L, argv[1])) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
  }
  lua_close(L);
  ebb_heap_delete(heap);
  return 0;
}
