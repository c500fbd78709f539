/* Heaps whose every block is checked, used as they should be: random programs,
 * limits of every kind, children; and what the end of a heap finds. */

#include "check.h"
#include "refuse_call.h"

#include <signal.h>
#include <sys/resource.h>

#define BLOCKS 2000
#define LARGE 12000

static struct block blocks[BLOCKS];

static ebb_options checked_options(int64_t how)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.checked = how;
  return options;
}

static ebb_heap *checked_heap(int64_t how)
{
  ebb_options options = checked_options(how);

  return heap_from(&options);
}

/* The statistics tell what the program asked for, not what checking takes. */
static void stats_are_the_programs(ebb_heap *heap)
{
  ebb_stats stats = stats_of(heap, 0);

  check_live(&stats, blocks, BLOCKS);
  CHECK_EQ(stats.committed, stats.live + stats.waste + stats.free_resident
                              + stats.returned + stats.never_touched
                              + stats.metadata);
}

static void run_random_program(ebb_heap *heap, int exact)
{
  struct rng rng = { 88172645463325252u };
  struct block *block;
  unsigned i;

  errno = ERRNO_MARK;
  for (i = 0; i < steps(100000); i++) {
    block = &blocks[rng_below(&rng, BLOCKS)];
    block_step(heap, block, block->size, &rng);
    if (i % 5000 == 0) {
      check_errno();
      if (exact) {
        stats_are_the_programs(heap);
      }
      ebb_reclaim(heap, NULL, NULL);
      errno = ERRNO_MARK;
    }
  }
  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL) {
      block_end(heap, &blocks[i]);
    }
  }
}

static void random_programs_run_as_on_any_heap(void)
{
  int64_t how;

  for (how = 1; how <= 2; how++) {
    ebb_heap *heap = checked_heap(how);
    int64_t value = 0;

    CHECK_EQ(ebb_get(heap, "checked", &value), EBB_OK);
    CHECK_EQ(value, how);
    CHECK_EQ(ebb_set(heap, "checked", 0), EBB_ERR_FIXED);
    run_random_program(heap, how == 1);
    heap_ends_empty(heap);
  }
}

static void the_function_turns_checking_on(void)
{
  ebb_heap *heap = heap_of(0);
  void *block = ebb_alloc_checked(heap, NULL, 0, 100);
  int64_t value = 0;

  CHECK_EQ(ebb_get(heap, "checked", &value), EBB_OK);
  CHECK_EQ(value, 1);
  CHECK(ebb_alloc_checked(heap, block, 100, 0) == NULL);
  run_random_program(heap, 1);
  heap_ends_empty(heap);
}

/* Nothing of it is left to the next heap, which may get the memory. */
static void the_next_heap_is_none(void)
{
  ebb_heap *heap = checked_heap(1);
  int64_t value = 1;
  void *block;

  ebb_heap_delete(heap);
  heap = heap_of(0);
  CHECK_EQ(ebb_get(heap, "checked", &value), EBB_OK);
  CHECK_EQ(value, 0);
  block = ebb_alloc(heap, NULL, 0, 100);
  CHECK(ebb_alloc(heap, block, 7, 0) == NULL);
  ebb_heap_delete(heap);
}

/* Blocks that are guarded lie beside the heap's own address space, and what they
 * take of it is in the figures: 128 pages, and one around each. */
static void guarded_slots_count_as_reserved(void)
{
  ebb_options options = checked_options(1);
  ebb_heap *heap;
  int64_t own = 0;
  size_t i;

  /* Under RLIMIT_AS as well, where the figure would grow with the heap. */
  options.reserve = 64 * MIB;
  heap = heap_from(&options);
  CHECK_EQ(ebb_get(heap, "reserve", &own), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).reserved, own);
  for (i = 0; i < 5000; i++) {
    REQUIRE(ebb_alloc(heap, NULL, 0, 100) != NULL);
  }
  CHECK_EQ(stats_of(heap, 0).reserved - (uint64_t)own,
           257 * sysconf(_SC_PAGESIZE));
  ebb_heap_delete(heap);
}

/* Mappings that the kernel allows a process. */
static size_t mappings_allowed(void)
{
  FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
  size_t count = 65530;

  if (file != NULL) {
    CHECK_EQ(fscanf(file, "%zu", &count), 1);
    fclose(file);
  }
  return count;
}

/* Allocates `count` blocks and frees them again. Returns the number of mappings
 * that the process had with all of them. */
static size_t mappings_with(size_t count, size_t size)
{
  static void *large[LARGE];
  ebb_heap *heap = checked_heap(1);
  size_t i, mappings;

  for (i = 0; i < count; i++) {
    large[i] = ebb_alloc(heap, NULL, 0, size);
    REQUIRE(large[i] != NULL);
    memset(large[i], 1, 1000);
  }
  mappings = mapping_count();
  for (i = 0; i < count; i++) {
    ebb_alloc(heap, large[i], size, 0);
  }
  heap_ends_empty(heap);
  CHECK(mapping_count() < 500);
  return mappings;
}

/* Each block is long enough to pay for its guard pages, which are two mappings,
 * and all together would take more than the kernel allows in many a place. */
static void guards_take_a_share_of_the_mappings(void)
{
  size_t allowed = mappings_allowed();
  size_t mappings = mappings_with(LARGE, 512 * KIB);

  CHECK(mappings < allowed / 3);
  if (allowed / 3 < 2 * LARGE && sysconf(_SC_PAGESIZE) == 4096) {
    CHECK(mappings > allowed / 10);
  }
}

/* These are not: but for the first thousand or so they go without. */
static void guards_are_paid_for(void)
{
  CHECK(mappings_with(4000, 9000) < 3000);
}

/* Where large blocks have come and gone the kernel keeps no mappings for them,
 * whether the heap has mapped its pages at once or piece by piece. */
static void blocks_that_moved_leave_few_mappings(void)
{
  ebb_heap *heap = checked_heap(1);
  struct block moved[40];
  size_t before = mapping_count(), round, i;

  for (i = 0; i < COUNT_OF(moved); i++) {
    block_new(heap, &moved[i], 200 * KIB, i);
  }
  for (round = 1; round <= 20; round++) {
    for (i = 0; i < COUNT_OF(moved); i++) {
      size_t size = (200 + 30 * round + i) * KIB;

      REQUIRE(block_resize(heap, &moved[i], moved[i].size, size, round));
    }
  }
  CHECK(mapping_count() < before + 150);
  for (i = 0; i < COUNT_OF(moved); i++) {
    block_end(heap, &moved[i]);
  }
  heap_ends_empty(heap);
}

/* Allocates until there is no more. How many blocks those were. */
static size_t fill_up(ebb_heap *heap, size_t size)
{
  static void *all[1 << 20];
  size_t count = 0, i;

  while (count < COUNT_OF(all)
         && (all[count] = ebb_alloc(heap, NULL, 0, size)) != NULL) {
    memset(all[count++], 2, size);
  }
  CHECK(count < COUNT_OF(all));
  for (i = 0; i < count / 2; i++) {
    /* A shrink never fails. */
    CHECK((all[i] = ebb_alloc(heap, all[i], size, size / 2)) != NULL);
  }
  for (i = 0; i < count; i++) {
    ebb_alloc(heap, all[i], i < count / 2 ? size / 2 : size, 0);
  }
  return count;
}

/* What is held back goes before an allocation is refused. */
static void limits_are_kept_and_memory_comes_back(void)
{
  static const size_t sizes[] = { 40, 3000, 50000 };
  size_t i;

  for (i = 0; i < COUNT_OF(sizes); i++) {
    ebb_options options = checked_options(1);
    ebb_heap *heap;
    size_t first, again;

    options.limit_hard = 16 * MIB;
    heap = heap_from(&options);
    first = fill_up(heap, sizes[i]);
    again = fill_up(heap, sizes[i]);
    CHECK(first > 100);
    CHECK(again + again / 10 >= first);
    CHECK(stats_of(heap, 0).resident_peak <= 16 * MIB);
    heap_ends_empty(heap);
  }
}

static void without_address_space(const void *nothing)
{
  struct rlimit limit = { 64 * MIB, 64 * MIB };
  ebb_options options = checked_options(1);
  ebb_heap *heap;
  int i;

  (void)nothing;
  setrlimit(RLIMIT_AS, &limit);
  for (i = 0; i < 3; i++) {
    heap = ebb_heap_new(&options);
    REQUIRE(heap != NULL);
    fill_up(heap, 5000);
    fill_up(heap, 20000);
    heap_ends_empty(heap);
  }
}

static void an_end_of_address_space_is_survived(void)
{
  CHECK_EQ(in_child(without_address_space, NULL), 0);
}

struct child {
  ebb_heap *heap;
  char *block;
};

static void quiet(void)
{
  struct rlimit no_core = { 0, 0 };

  setrlimit(RLIMIT_CORE, &no_core);
  if (freopen("/dev/null", "w", stderr) == NULL) {
    exit(1);
  }
}

static void free_twice(const void *argument)
{
  const struct child *child = (const struct child *)argument;

  quiet();
  ebb_alloc(child->heap, child->block, 1000, 0);
  ebb_alloc(child->heap, child->block, 1000, 0);
}

static void go_on(const void *argument)
{
  const struct child *child = (const struct child *)argument;

  ebb_alloc(child->heap, child->block, 1000, 0);
  run_random_program(child->heap, 1);
  heap_ends_empty(child->heap);
}

static void parent_and_child_both_go_on(void)
{
  struct child child;
  int status;

  child.heap = checked_heap(1);
  child.block = (char *)ebb_alloc(child.heap, NULL, 0, 1000);
  CHECK_EQ(in_child(go_on, &child), 0);
  status = in_child(free_twice, &child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  go_on(&child);
}

static void delete_after_overflow(const void *argument)
{
  ebb_heap *heap = checked_heap(1);
  size_t size = *(const size_t *)argument;
  char *block = (char *)ebb_alloc(heap, NULL, 0, size);

  quiet();
  block[size] = 1;
  ebb_heap_delete(heap);
}

static void delete_after_late_write(const void *argument)
{
  ebb_heap *heap = checked_heap(1);
  size_t size = *(const size_t *)argument;
  char *block = (char *)ebb_alloc(heap, NULL, 0, size);

  quiet();
  ebb_alloc(heap, block, size, 0);
  block[size / 2] = 1;
  ebb_heap_delete(heap);
}

static void check_too_late(const void *argument)
{
  ebb_heap *heap = heap_of(0);

  (void)argument;
  quiet();
  ebb_alloc(heap, NULL, 0, 100);
  ebb_alloc_checked(heap, NULL, 0, 100);
}

static void the_end_of_a_heap_looks_at_all_that_is_left(void)
{
  static const size_t sizes[] = { 1, 40, 1001, 8001, 50001 };
  size_t i;
  int status;

  for (i = 0; i < COUNT_OF(sizes); i++) {
    status = in_child(delete_after_overflow, &sizes[i]);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    status = in_child(delete_after_late_write, &sizes[i]);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  }
  status = in_child(check_too_late, NULL);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static volatile sig_atomic_t faults;
static void *forbidden;

static void on_fault(int signal)
{
  faults++;
  mprotect(forbidden, 4096, PROT_READ | PROT_WRITE);
  (void)signal;
}

/* A fault that is none of ours goes where it went before. */
static void other_faults_are_left_to_others(const void *argument)
{
  struct sigaction action;
  ebb_heap *heap;

  (void)argument;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_fault;
  sigaction(SIGSEGV, &action, NULL);
  heap = checked_heap(1);
  forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(forbidden != MAP_FAILED);
  *(volatile char *)forbidden = 1;
  CHECK_EQ(faults, 1);
  ebb_heap_delete(heap);
}

static void crash(const void *argument)
{
  ebb_heap *heap = checked_heap(1);

  (void)argument;
  quiet();
  forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(heap != NULL && forbidden != MAP_FAILED);
  *(volatile char *)forbidden = 1;
}

static void faults_of_others(void)
{
  int status;

  CHECK_EQ(in_child(other_faults_are_left_to_others, NULL), 0);
  status = in_child(crash, NULL);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* The first block with inaccessible pages of the process. */
static void is_large(const void *nothing)
{
  ebb_heap *heap = checked_heap(1);
  void *block;

  (void)nothing;
  kill_who_opens();
  block = ebb_alloc(heap, NULL, 0, LARGE);
  REQUIRE(block != NULL);
  memset(block, 1, LARGE);
  ebb_alloc(heap, block, LARGE, 0);
}

static void files_are_opened_when_a_heap_is_made(void)
{
  CHECK_EQ(in_child(is_large, NULL), 0);
}

int main(void)
{
  /* First, while the process has no handler yet, and no checked heap. */
  RUN(faults_of_others);
  RUN(files_are_opened_when_a_heap_is_made);
  RUN(random_programs_run_as_on_any_heap);
  RUN(the_function_turns_checking_on);
  RUN(the_next_heap_is_none);
  RUN(guarded_slots_count_as_reserved);
  RUN(guards_take_a_share_of_the_mappings);
  RUN(blocks_that_moved_leave_few_mappings);
  RUN(guards_are_paid_for);
  RUN(limits_are_kept_and_memory_comes_back);
  RUN(an_end_of_address_space_is_survived);
  RUN(parent_and_child_both_go_on);
  RUN(the_end_of_a_heap_looks_at_all_that_is_left);
  return check_status();
}
