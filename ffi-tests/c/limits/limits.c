/* Processes whose address space or memory is limited: heaps make do with less,
 * and say why when there is none. */

#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>

static void limit(int resource, size_t bytes)
{
  struct rlimit limit;

  REQUIRE(getrlimit(resource, &limit) == 0);
  limit.rlim_cur = bytes;
  REQUIRE(setrlimit(resource, &limit) == 0);
}

static void use(ebb_heap *heap, uint64_t seed)
{
  static struct block blocks[2000];
  struct rng rng = { seed };
  size_t i;

  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_new(heap, &blocks[i], rng_size(&rng, 60000), seed + i);
    REQUIRE(blocks[i].at != NULL);
  }
  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_end(heap, &blocks[i]);
  }
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
}

/* Mappings of this process that lie between two addresses. */
static unsigned mappings_between(uintptr_t from, uintptr_t to)
{
  uintptr_t start, end;
  unsigned count = 0;
  char line[512];
  FILE *maps = fopen("/proc/self/maps", "r");

  REQUIRE(maps != NULL);
  while (fgets(line, sizeof line, maps) != NULL) {
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &start, &end) == 2
        && start < to && end > from) {
      count++;
    }
  }
  fclose(maps);
  return count;
}

/* A heap is two mappings to the kernel however often it is extended, takes what
 * it uses, and gives all of it back. */
static void with_one_gib(const void *argument)
{
  static struct block blocks[10000];
  size_t before, i;
  ebb_options options;
  ebb_heap *heap;
  ebb_stats stats;
  int64_t reserve = -1;

  (void)argument;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.background = EBB_ZERO;
  limit(RLIMIT_AS, GIB);
  before = proc_bytes("/proc/self/status", "VmSize:");
  heap = heap_from(&options);
  CHECK_EQ(ebb_get(heap, "reserve", &reserve), EBB_OK);
  CHECK_EQ(reserve, 0);
  stats = stats_of(heap, 0);
  CHECK(stats.reserved < 256 * KIB);
  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_new(heap, &blocks[i], 20000, i);
    REQUIRE(blocks[i].at != NULL);
  }
  stats = stats_of(heap, EBB_STATS_KERNEL);
  CHECK(stats.commit_calls > 20);
  CHECK_EQ(proc_bytes("/proc/self/status", "VmSize:") - before, stats.reserved);
  CHECK(stats.reserved < stats.resident + stats.resident / 8 + MIB);
  CHECK(stats.kernel_resident <= stats.resident);
  CHECK(stats.kernel_resident > stats.live);
  CHECK_EQ(mappings_between((uintptr_t)heap - 256 * MIB,
                            (uintptr_t)heap + GIB), 2);
  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_end(heap, &blocks[i]);
  }
  use(heap, 9);
  heap_ends_empty(heap);
  /* One small heap is kept for the next VM. */
  CHECK(proc_bytes("/proc/self/status", "VmSize:") <= before + MIB);
}

static void a_heap_takes_what_it_uses(void)
{
  CHECK_EQ(in_child(with_one_gib, NULL), 0);
}

/* What the heap is refused is told, and the rest of the process may take what it
 * has left. */
static void up_to_the_limit(const void *argument)
{
  ebb_heap *heap;
  ebb_stats stats;
  void *last = NULL, *next;
  char wanted[64];

  (void)argument;
  limit(RLIMIT_AS, 512 * MIB);
  heap = heap_of(0);
  while ((next = ebb_alloc(heap, NULL, 0, MIB)) != NULL) {
    *(void **)next = last;
    last = next;
  }
  stats = stats_of(heap, 0);
  CHECK(stats.live > 448 * MIB);
  CHECK(stats.refused_allocations > 0);
  CHECK_EQ(stats.refused_address_space, stats.refused_allocations);
  CHECK_EQ(ebb_alloc(heap, NULL, 0, 100 * GIB) == NULL, 1);
  CHECK_EQ(stats_of(heap, 0).refused_address_space,
           stats.refused_allocations + 1);
  snprintf(wanted, sizeof wanted, "RLIMIT_AS (ulimit -v) is %zu bytes",
           512 * MIB);
  CHECK(strstr(ebb_strerror(0), wanted) != NULL);
  while (last != NULL) {
    next = *(void **)last;
    ebb_alloc(heap, last, MIB, 0);
    last = next;
  }
  use(heap, 10);
  heap_ends_empty(heap);
}

static void a_limit_that_binds_is_reported(void)
{
  CHECK_EQ(in_child(up_to_the_limit, NULL), 0);
}

/* A child extends what it has inherited, and the parent does not see it. */
static void extends_in_a_child(const void *argument)
{
  ebb_heap *heap;
  pid_t child;
  int status;
  uint64_t reserved;
  void *block;

  (void)argument;
  limit(RLIMIT_AS, GIB);
  heap = heap_of(0);
  use(heap, 11);
  reserved = stats_of(heap, 0).reserved;
  child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    block = ebb_alloc(heap, NULL, 0, 200 * MIB);
    REQUIRE(block != NULL);
    memset(block, 1, 200 * MIB);
    CHECK(stats_of(heap, 0).reserved > reserved + 200 * MIB);
    ebb_alloc(heap, block, 200 * MIB, 0);
    /* A large block's address space goes back when it is freed. */
    CHECK(stats_of(heap, 0).reserved < reserved + 50 * MIB);
    use(heap, 12);
    heap_ends_empty(heap);
    _exit(check_status());
  }
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
  CHECK_EQ(stats_of(heap, 0).reserved, reserved);
  use(heap, 13);
  heap_ends_empty(heap);
}

static void a_child_extends_its_own(void)
{
  CHECK_EQ(in_child(extends_in_a_child, NULL), 0);
}

/* The first heap must leave room for the others and for everything else. */
static void with_two_gib(const void *argument)
{
  ebb_heap *heaps[8];
  void *elsewhere;
  size_t i;

  (void)argument;
  limit(RLIMIT_AS, 2 * GIB);
  for (i = 0; i < COUNT_OF(heaps); i++) {
    heaps[i] = heap_of(0);
    use(heaps[i], i + 1);
  }
  elsewhere = malloc(256 * MIB);
  CHECK(elsewhere != NULL);
  free(elsewhere);
  for (i = 0; i < COUNT_OF(heaps); i++) {
    use(heaps[i], i + 1);
    heap_ends_empty(heaps[i]);
  }
}

static void with_next_to_none(const void *argument)
{
  size_t in_use = proc_bytes("/proc/self/status", "VmSize:");

  (void)argument;
  limit(RLIMIT_AS, in_use + 64 * KIB);
  errno = ERRNO_MARK;
  CHECK(ebb_heap_new(NULL) == NULL);
  check_errno();
  CHECK(strstr(ebb_strerror(0), "RLIMIT_AS (ulimit -v) is ") != NULL);
}

/* What was asked for is more than there is: half is tried, and so on. */
static void with_less_than_asked_for(const void *argument)
{
  ebb_heap *heap;
  ebb_stats stats;

  (void)argument;
  limit(RLIMIT_AS, 2 * GIB);
  errno = ERRNO_MARK;
  heap = heap_of((int64_t)GIB * 8);
  check_errno();
  stats = stats_of(heap, 0);
  CHECK(stats.reserved < 2 * GIB);
  CHECK(stats.reserved >= 512 * MIB);
  use(heap, 5);
  heap_ends_empty(heap);
}

/* There is address space, but the kernel gives no memory for it. */
static void with_little_memory(const void *argument)
{
  static struct block blocks[100000];
  ebb_heap *heap = heap_of(0);
  size_t in_use = proc_bytes("/proc/self/status", "VmData:");
  size_t count = 0, i;

  (void)argument;
  use(heap, 6);
  limit(RLIMIT_DATA, in_use + 8 * MIB);
  errno = ERRNO_MARK;
  CHECK(ebb_alloc(heap, NULL, 0, 64 * MIB) == NULL);
  check_errno();
  do {
    block_new(heap, &blocks[count], 1000, count);
    check_errno();
  } while (blocks[count++].at != NULL && count < COUNT_OF(blocks));
  count--;
  CHECK(count > 4000 && count < 16000);
  CHECK(stats_of(heap, 0).failed_calls > 0);
  CHECK(!block_resize(heap, &blocks[0], 1000, 64 * MIB, 0));
  check_errno();
  limit(RLIMIT_DATA, in_use + 512 * MIB);
  CHECK(block_resize(heap, &blocks[0], 1000, 64 * MIB, 0));
  for (i = 0; i < count; i++) {
    block_end(heap, &blocks[i]);
  }
  use(heap, 7);
  heap_ends_empty(heap);
}

static void heaps_live_within_two_gib(void)
{
  CHECK_EQ(in_child(with_two_gib, NULL), 0);
}

static void heaps_shrink_to_what_there_is(void)
{
  CHECK_EQ(in_child(with_less_than_asked_for, NULL), 0);
}

static void a_heap_survives_refusal(void)
{
  CHECK_EQ(in_child(with_little_memory, NULL), 0);
}

static void no_room_at_all_has_a_reason(void)
{
  CHECK_EQ(in_child(with_next_to_none, NULL), 0);
}

/* The mappings of a process are limited. At that limit the kernel moves no
 * pages and renews none, and a block that must move is copied. */
static void at_the_limit_of_mappings(const void *unused)
{
  const int access[] = { PROT_READ, PROT_NONE };
  ebb_heap *heap = heap_of(0);
  struct block block, neighbour;
  unsigned n;

  (void)unused;
  block_new(heap, &block, MIB, 1);
  block_new(heap, &neighbour, MIB, 2);
  /* What the block will move to is committed already. */
  ebb_alloc(heap, ebb_alloc(heap, NULL, 0, 16 * MIB), 16 * MIB, 0);
  /* Neighbours of unlike access do not merge. */
  for (n = 0; n < 1000000; n++) {
    if (mmap(NULL, 4096, access[n % 2], MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        == MAP_FAILED) {
      break;
    }
  }
  CHECK(block_resize(heap, &block, MIB, 2 * MIB, 3));
  CHECK(block_kept(&neighbour, neighbour.at, MIB));
  _exit(check_status());
}

static void moving_needs_no_mapping(void)
{
  CHECK_EQ(in_child(at_the_limit_of_mappings, NULL), 0);
}

int main(void)
{
  RUN(a_heap_takes_what_it_uses);
  RUN(a_limit_that_binds_is_reported);
  RUN(a_child_extends_its_own);
  RUN(heaps_live_within_two_gib);
  RUN(heaps_shrink_to_what_there_is);
  RUN(a_heap_survives_refusal);
  RUN(no_room_at_all_has_a_reason);
  RUN(moving_needs_no_mapping);
  return check_status();
}
