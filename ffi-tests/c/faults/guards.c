/* Between blocks and what is not theirs lie pages that nobody can access.
 *
 *   guards [address]
 *
 * With `address` it prints where a heap lies, which must be elsewhere in each
 * process. */

#include "check.h"
#include "syscall_faults.h"

#include <signal.h>

#define SIZE ((size_t)64 * KIB)
/* Spans of so small blocks are a page each. */
#define SMALL ((size_t)16)

/* The heap is asked for the last slot there is. */
static void fill(ebb_heap *heap)
{
  void *block;

  while ((block = ebb_alloc(heap, NULL, 0, SIZE)) != NULL) {
    memset(block, 1, SIZE);
  }
  while ((block = ebb_alloc(heap, NULL, 0, 1000)) != NULL) {
    memset(block, 1, 1000);
  }
}

static void write_to(const void *address)
{
  *(volatile unsigned char *)(uintptr_t)address = 1;
}

static int is_inaccessible(const unsigned char *address)
{
  int status = in_child(write_to, address);

  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void nothing_reaches_from_a_block_into_the_tables(void)
{
  ebb_heap *heap = heap_of(0);
  unsigned char *block = (unsigned char *)ebb_alloc(heap, NULL, 0, SMALL);
  unsigned char *page;

  REQUIRE(block != NULL);
  /* The lowest page is the first to be taken. */
  page = block - (uintptr_t)block % FAULTS_PAGE;
  CHECK(!is_inaccessible(page));
  CHECK(is_inaccessible(page - 1));
  CHECK(is_inaccessible(page - FAULTS_PAGE));
  CHECK(!is_inaccessible(page - FAULTS_PAGE - 1));
  ebb_alloc(heap, block, SMALL, 0);
  heap_ends_empty(heap);
}

static void nothing_reaches_from_a_full_heap_into_what_is_beside_it(void)
{
  ebb_heap *heap;

  faults_enter();
  heap = heap_of(4 * MIB);
  faults_leave();
  REQUIRE(faults.reserved_bytes == 4 * MIB);
  fill(heap);
  CHECK(is_inaccessible(faults.reserved));
  CHECK(is_inaccessible(faults.reserved + FAULTS_PAGE - 1));
  CHECK(!is_inaccessible(faults.reserved + FAULTS_PAGE));
  CHECK(is_inaccessible(faults.reserved + 4 * MIB - FAULTS_PAGE));
  CHECK(is_inaccessible(faults.reserved + 4 * MIB - 1));
  ebb_heap_delete(heap);
}

/* A heap that is kept for the next one keeps its guard, and so does a child. */
static void guards_outlast_heaps_and_forks(void)
{
  int i;

  for (i = 0; i < 3; i++) {
    nothing_reaches_from_a_block_into_the_tables();
  }
}

/* Before Linux 6.13 they are mappings. */
static void without_the_kernels_own_guards_there_are_mappings(void)
{
  faults_enter();
  faults.kinds = 1u << CALL_MADVISE;
  faults.pattern = 2;
  faults.error = EINVAL;
  nothing_reaches_from_a_block_into_the_tables();
  CHECK_EQ(faults.refused[CALL_MADVISE], 1);
  faults_leave();
}

int main(int argc, char **argv)
{
  if (argc > 1 && strcmp(argv[1], "address") == 0) {
    printf("%p\n", (void *)heap_of(0));
    return 0;
  }
  RUN(nothing_reaches_from_a_block_into_the_tables);
  RUN(guards_outlast_heaps_and_forks);
  RUN(nothing_reaches_from_a_full_heap_into_what_is_beside_it);
  RUN(without_the_kernels_own_guards_there_are_mappings);
  return check_status();
}
