/* Pointers that are no live block of the heap: each must end the process with
 * SIGABRT and one line that names the heap, the pointer and what is wrong. */

#include "check.h"

#include <signal.h>
#include <sys/resource.h>

/* One hostile call, and what it is done to. */
struct attack {
  ebb_heap *heap;
  void *pointer;
  size_t osize;
  size_t nsize;
};

/* What the line says is wrong. */
#define FOREIGN "is not of this heap"
#define TABLES "own tables"
#define UNUSED "is not"
#define INSIDE "inside"
#define FREED "was freed before"
/* Freed, and by now perhaps its page too. */
#define GONE "free"

static int stderr_pipe[2];

static void hit(const void *argument)
{
  const struct attack *attack = (const struct attack *)argument;
  struct rlimit no_core = { 0, 0 };

  setrlimit(RLIMIT_CORE, &no_core);
  dup2(stderr_pipe[1], STDERR_FILENO);
  ebb_alloc(attack->heap, attack->pointer, attack->osize, attack->nsize);
}

/* What the child wrote to stderr, as text. */
static void read_stderr(char *text, size_t room)
{
  size_t used = 0;
  ssize_t got;

  close(stderr_pipe[1]);
  while ((got = read(stderr_pipe[0], text + used, room - 1 - used)) > 0) {
    used += (size_t)got;
  }
  text[used] = '\0';
  close(stderr_pipe[0]);
}

static int names_address(const char *text, const void *address)
{
  char name[32];
  const char *at;

  snprintf(name, sizeof name, "0x%" PRIxPTR, (uintptr_t)address);
  at = strstr(text, name);
  return at != NULL && strspn(at + 2, "0123456789abcdef") == strlen(name) - 2;
}

/* One line, ours, that names all there is to name. */
static int line_is_right(const char *text, const struct attack *attack,
                         const char *why)
{
  return strchr(text, '\n') == text + strlen(text) - 1
         && strncmp(text, "ebbtide: ", 9) == 0
         && names_address(text, attack->heap)
         && names_address(text, attack->pointer) && strstr(text, why) != NULL;
}

/* Whether the attack was answered as it should be. */
static int attempt(const struct attack *attack, const char *why)
{
  char said[1024], failure[1200];
  int status;

  REQUIRE(pipe(stderr_pipe) == 0);
  status = in_child(hit, attack);
  read_stderr(said, sizeof said);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT
      && line_is_right(said, attack, why)) {
    return 1;
  }
  said[strcspn(said, "\n")] = '\0';
  snprintf(failure, sizeof failure,
           "want SIGABRT and \"%s\", got status %#x and \"%s\"", why, status,
           said);
  check_failed(__FILE__, __LINE__, failure);
  return 0;
}

/* Frees and resizes, with old sizes small and large. */
static void attempt_all(ebb_heap *heap, void *pointer, const char *why)
{
  static const size_t osizes[] = { 0, 24, MIB };
  static const size_t nsizes[] = { 0, 1, 20000 };
  struct attack attack;
  size_t i, j;

  attack.heap = heap;
  attack.pointer = pointer;
  for (i = 0; i < COUNT_OF(osizes); i++) {
    for (j = 0; j < COUNT_OF(nsizes); j++) {
      attack.osize = osizes[i];
      attack.nsize = nsizes[j];
      if (!attempt(&attack, why)) {
        return;
      }
    }
  }
}

static void pointers_from_elsewhere(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_heap *other = heap_of(0);
  uint64_t on_stack[4] = { 0 };
  void *from_malloc = malloc(100);
  size_t reserved = stats_of(heap, 0).reserved;

  attempt_all(heap, on_stack, FOREIGN);
  attempt_all(heap, from_malloc, FOREIGN);
  attempt_all(heap, (void *)8, FOREIGN);
  attempt_all(heap, (void *)(uintptr_t)-16, FOREIGN);
  attempt_all(heap, ebb_alloc(other, NULL, 0, 100), FOREIGN);
  attempt_all(heap, (char *)heap + reserved, FOREIGN);
  attempt_all(heap, (char *)heap - 4096, FOREIGN);
  free(from_malloc);
  ebb_heap_delete(other);
  ebb_heap_delete(heap);
}

static void pointers_into_the_heaps_own_tables(void)
{
  ebb_heap *heap = heap_of(0);

  attempt_all(heap, heap, TABLES);
  attempt_all(heap, (char *)heap + 64, TABLES);
  ebb_heap_delete(heap);
}

static void pointers_to_pages_never_used(void)
{
  ebb_heap *heap = heap_of(0);
  char *block = (char *)ebb_alloc(heap, NULL, 0, 100);

  attempt_all(heap, block + 16 * MIB, UNUSED);
  attempt_all(heap, (char *)heap + 32 * GIB, UNUSED);
  ebb_heap_delete(heap);
}

static void pointers_into_a_block(void)
{
  static const size_t sizes[] = { 24, 1000, 6000, 8192, 20000, MIB };
  ebb_heap *heap = heap_of(0);
  size_t i;

  for (i = 0; i < COUNT_OF(sizes); i++) {
    char *block = (char *)ebb_alloc(heap, NULL, 0, sizes[i]);

    attempt_all(heap, block + 1, INSIDE);
    attempt_all(heap, block + 8, INSIDE);
    attempt_all(heap, block + sizes[i] - 1, INSIDE);
  }
  ebb_heap_delete(heap);
}

static void pages_inside_a_large_block(void)
{
  ebb_heap *heap = heap_of(0);
  char *block = (char *)ebb_alloc(heap, NULL, 0, MIB);

  attempt_all(heap, block + 4096, INSIDE);
  attempt_all(heap, block + MIB - 4096, INSIDE);
  ebb_heap_delete(heap);
}

/* A span of 40 byte slots has 16 bytes over, where no slot starts. */
static void addresses_just_past_a_row_of_slots(void)
{
  ebb_heap *heap = heap_of(0);
  char *first = (char *)ebb_alloc(heap, NULL, 0, 40);
  char *page = first - (uintptr_t)first % 4096;
  size_t at;

  for (at = 0; at < 48; at += 8) {
    if ((page + at - first) % 40 != 0) {
      attempt_all(heap, page + at, INSIDE);
    }
    if ((page + 4088 - at - first) % 40 != 0) {
      attempt_all(heap, page + 4088 - at, INSIDE);
    }
  }
  ebb_heap_delete(heap);
}

/* A small one among others, and one whose span is empty after it. */
static void small_blocks_freed_twice(void)
{
  ebb_heap *heap = heap_of(0);
  void *blocks[3000];
  size_t i;

  for (i = 0; i < COUNT_OF(blocks); i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, 40);
  }
  ebb_alloc(heap, blocks[1], 40, 0);
  attempt_all(heap, blocks[1], FREED);
  ebb_alloc(heap, blocks[1000], 40, 0);
  attempt_all(heap, blocks[1], FREED);
  attempt_all(heap, blocks[1000], FREED);
  for (i = 0; i < COUNT_OF(blocks); i++) {
    if (i != 1 && i != 1000) {
      ebb_alloc(heap, blocks[i], 40, 0);
    }
  }
  attempt_all(heap, blocks[1], GONE);
  attempt_all(heap, blocks[2000], GONE);
  ebb_reclaim(heap, NULL, NULL);
  attempt_all(heap, blocks[2000], GONE);
  ebb_heap_delete(heap);
}

static void large_blocks_freed_twice(void)
{
  ebb_heap *heap = heap_of(0);
  void *first = ebb_alloc(heap, NULL, 0, MIB);
  void *second = ebb_alloc(heap, NULL, 0, MIB);

  ebb_alloc(heap, first, MIB, 0);
  attempt_all(heap, first, GONE);
  ebb_reclaim(heap, NULL, NULL);
  attempt_all(heap, first, GONE);
  ebb_alloc(heap, second, MIB, 0);
  attempt_all(heap, first, GONE);
  attempt_all(heap, second, GONE);
  ebb_heap_delete(heap);
}

int main(void)
{
  RUN(pointers_from_elsewhere);
  RUN(pointers_into_the_heaps_own_tables);
  RUN(pointers_to_pages_never_used);
  RUN(pointers_into_a_block);
  RUN(addresses_just_past_a_row_of_slots);
  RUN(pages_inside_a_large_block);
  RUN(small_blocks_freed_twice);
  RUN(large_blocks_freed_twice);
  return check_status();
}
