/* One memory bug, in a block of the C library's allocator or of a heap: for
 * AddressSanitizer and valgrind to find.
 *
 *   tool_bugs libc|ebbtide CASE */

#include "check.h"
#include "libc_alloc.h"

#define SMALL 24
#define LONG 100000

typedef void *allocate(void *ud, void *ptr, size_t osize, size_t nsize);

static allocate *function;
static void *context;

static char *block_of(size_t size)
{
  char *block = (char *)function(context, NULL, 0, size);

  REQUIRE(block != NULL);
  return block;
}

static char *resized(char *block, size_t osize, size_t size)
{
  return (char *)function(context, block, osize, size);
}

static char *freed(size_t size)
{
  char *block = block_of(size);

  resized(block, size, 0);
  return block;
}

/* The compiler must not know better. */
static void put(char *at)
{
  *(volatile char *)at = 1;
}

static int look(const char *at)
{
  return *(volatile const char *)at == 1;
}

/* Another mapping gets addresses that a heap had. */
static void use_page_of(const char *block)
{
  char *start = (char *)((uintptr_t)block & ~(uintptr_t)4095);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

  REQUIRE(mmap(start, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == start);
  put(start);
  REQUIRE(look(start) && !look(start + 4095));
}

static int none(void)
{
  size_t size;
  char *block = block_of(1);

  for (size = 1; size < 3 * LONG; size += size / 3 + 1) {
    size_t larger = size + size / 3 + 1;

    block = resized(block, size, larger);
    memset(block + size, 1, larger - size);
    block = resized(block, larger, size);
    REQUIRE(look(block + size - 1) || size == 1);
    block = resized(block, size, larger);
    memset(block, 1, larger);
  }
  resized(block, size, 0);
  if (context != NULL) {
    heap_ends_empty((ebb_heap *)context);
    use_page_of(block);
  }
  return 0;
}

static int overflow(void)
{
  char *block = block_of(SMALL);

  put(block + SMALL);
  return 0;
}

static int underflow(void)
{
  char *block = block_of(SMALL);

  return look(block - 1);
}

static int shrunk(void)
{
  char *block = resized(block_of(SMALL), SMALL, SMALL - 11);

  return look(block + SMALL - 11);
}

static int read_freed(void)
{
  return look(freed(SMALL) + 3);
}

static int write_freed(void)
{
  put(freed(SMALL) + 3);
  return 0;
}

static int read_moved(void)
{
  char *block = block_of(SMALL);

  memset(block, 1, SMALL);
  resized(block, SMALL, LONG);
  return look(block + 3);
}

static int large_overflow(void)
{
  char *block = block_of(LONG);

  put(block + LONG);
  return 0;
}

static int large_read_freed(void)
{
  return look(freed(LONG) + LONG / 2);
}

static int unset(void)
{
  char *block = block_of(SMALL);

  put(block);
  return look(block) && look(block + 1);
}

/* What was set stays so when the block moves, and the rest is not. */
static int moved_unset(void)
{
  char *block = block_of(SMALL);

  put(block);
  block = resized(block, SMALL, LONG);
  return look(block) && look(block + SMALL);
}

static int leak(void)
{
  static char *kept;

  kept = block_of(SMALL);
  *(char **)(void *)kept = block_of(SMALL);
  block_of(SMALL + 1);
  return 0;
}

static const struct {
  const char *name;
  int (*run)(void);
} cases[] = {
  { "none", none },
  { "overflow", overflow },
  { "underflow", underflow },
  { "shrunk", shrunk },
  { "read_freed", read_freed },
  { "write_freed", write_freed },
  { "read_moved", read_moved },
  { "large_overflow", large_overflow },
  { "large_read_freed", large_read_freed },
  { "unset", unset },
  { "moved_unset", moved_unset },
  { "leak", leak },
};

int main(int argc, char **argv)
{
  size_t i;

  REQUIRE(argc == 3);
  if (strcmp(argv[1], "libc") == 0) {
    function = libc_alloc;
  } else {
    function = ebb_alloc;
    context = heap_of(0);
  }
  for (i = 0; i < COUNT_OF(cases); i++) {
    if (strcmp(argv[2], cases[i].name) == 0) {
      printf("%s: %d\n", argv[2], cases[i].run());
      return 0;
    }
  }
  REQUIRE(!"a case of this name");
  return 1;
}
