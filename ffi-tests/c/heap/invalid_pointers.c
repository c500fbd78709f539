/* Pointers that are no live block of the heap, and calls on a heap that was
 * deleted: each must end the process with SIGABRT and one line that names the
 * heap, the pointer and what is wrong. */

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

/* A call on a heap that was deleted. */
enum late_call {
  LATE_DELETE,
  LATE_ALLOCATE,
  LATE_ALLOCATE_LARGE,
  LATE_FREE,
  LATE_RESIZE,
  LATE_RECLAIM,
  LATE_TICK,
  LATE_NEXT_TICK,
  LATE_PRESSURE,
  LATE_STATS,
  LATE_HISTORY,
  LATE_SET,
  LATE_GET,
  LATE_COUNT
};

struct late {
  enum late_call call;
  ebb_heap *heap;
  void *block;
};

static void call_late(const void *argument)
{
  const struct late *late = (const struct late *)argument;
  struct rlimit no_core = { 0, 0 };
  ebb_stats stats;
  ebb_history history;
  int64_t value;

  memset(&stats, 0, sizeof stats);
  memset(&history, 0, sizeof history);
  stats.size = sizeof stats;
  history.size = sizeof history;
  history.sample_size = sizeof(ebb_sample);
  setrlimit(RLIMIT_CORE, &no_core);
  dup2(stderr_pipe[1], STDERR_FILENO);
  switch (late->call) {
  case LATE_DELETE:
    ebb_heap_delete(late->heap);
    break;
  case LATE_ALLOCATE:
    ebb_alloc(late->heap, NULL, 0, 40);
    break;
  case LATE_ALLOCATE_LARGE:
    ebb_alloc(late->heap, NULL, 0, MIB);
    break;
  case LATE_FREE:
    ebb_alloc(late->heap, late->block, 40, 0);
    break;
  case LATE_RESIZE:
    ebb_alloc(late->heap, late->block, 40, 41);
    break;
  case LATE_RECLAIM:
    ebb_reclaim(late->heap, NULL, NULL);
    break;
  case LATE_TICK:
    ebb_tick(late->heap, 0);
    break;
  case LATE_NEXT_TICK:
    ebb_next_tick(late->heap);
    break;
  case LATE_PRESSURE:
    ebb_pressure(late->heap);
    break;
  case LATE_STATS:
    ebb_stats_read(late->heap, &stats);
    break;
  case LATE_HISTORY:
    ebb_history_read(late->heap, &history);
    break;
  case LATE_SET:
    ebb_set(late->heap, "retain", 0);
    break;
  case LATE_GET:
    ebb_get(late->heap, "retain", &value);
    break;
  case LATE_COUNT:
    break;
  }
}

static void attempt_late(ebb_heap *heap, void *block, enum late_call call)
{
  struct late late;
  char said[1024], failure[1200];
  int status;

  late.call = call;
  late.heap = heap;
  late.block = block;
  REQUIRE(pipe(stderr_pipe) == 0);
  status = in_child(call_late, &late);
  read_stderr(said, sizeof said);
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT
      || strchr(said, '\n') != said + strlen(said) - 1
      || strncmp(said, "ebbtide: heap 0x", 16) != 0
      || !names_address(said, heap) || strstr(said, "deleted before") == NULL) {
    said[strcspn(said, "\n")] = '\0';
    snprintf(failure, sizeof failure, "call %d: status %#x and \"%s\"",
             (int)call, status, said);
    check_failed(__FILE__, __LINE__, failure);
  }
}

static void calls_on_the_heap_that_is_kept(void)
{
  ebb_heap *heap = heap_of(0);
  void *block = ebb_alloc(heap, NULL, 0, 40);
  int call;

  ebb_heap_delete(heap);
  for (call = 0; call < LATE_COUNT; call++) {
    attempt_late(heap, block, (enum late_call)call);
  }
  /* None of that has harmed it. */
  CHECK(heap_of(0) == heap);
  block = ebb_alloc(heap, NULL, 0, 40);
  CHECK(block != NULL);
  ebb_alloc(heap, block, 40, 0);
  CHECK(ebb_alloc(heap, NULL, 0, MIB) != NULL);
  ebb_heap_delete(heap);
}

/* Their addresses may be mapped by then, or not. */
static void calls_on_heaps_that_are_gone(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_heap *other = heap_of(0);
  int call, mapped;

  REQUIRE(ebb_alloc(heap, NULL, 0, 64 * MIB) != NULL);
  ebb_heap_delete(heap);
  for (mapped = 0; mapped < 2; mapped++) {
    attempt_late(heap, NULL, LATE_DELETE);
    for (call = LATE_RECLAIM; call < LATE_COUNT; call++) {
      attempt_late(heap, NULL, (enum late_call)call);
    }
    REQUIRE(mmap(heap, 4096, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == heap);
  }
  munmap(heap, 4096);
  ebb_heap_delete(other);
}

/* New heaps get addresses of deleted ones. */
static void addresses_that_are_used_again(void)
{
  ebb_heap *heaps[40];
  size_t round, i;

  for (round = 0; round < 100; round++) {
    for (i = 0; i < COUNT_OF(heaps); i++) {
      heaps[i] = heap_of(MIB);
      CHECK_EQ(ebb_tick(heaps[i], 0), EBB_OK);
    }
    for (i = 0; i < COUNT_OF(heaps); i++) {
      ebb_heap_delete(heaps[i]);
    }
  }
}

int main(void)
{
  RUN(calls_on_the_heap_that_is_kept);
  RUN(calls_on_heaps_that_are_gone);
  RUN(addresses_that_are_used_again);
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
