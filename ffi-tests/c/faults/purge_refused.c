/* A kernel that refuses to take memory back: the heap says so, goes on with
 * all that it holds, and does not ask all the time. */

#include "tick_host.h"
#include "scatter.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define COUNT 50000

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* Calls that a sandbox refuses. */
enum refused {
  REFUSE_MADVISE = 1,
  REFUSE_LISTS = 2,    /* process_madvise */
  REFUSE_MREMAP = 4,
  REFUSE_MUNMAP = 8,
  REFUSE_MMAP = 16,    /* over what is mapped */
  REFUSE_ALL = 23      /* by which memory goes back; a heap can be ended */
};

/* Jumps over the rest of the filter when a call is not that one. */
#define ON_CALL(number, rest)                                                 \
  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),      \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, rest)

static void install(struct sock_filter *filter, unsigned short length)
{
  struct sock_fprog program;

  program.len = length;
  program.filter = filter;
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* From now on this process may not make these calls. */
static void refuse(unsigned calls, unsigned error)
{
  static const unsigned numbers[] = { SYS_madvise, SYS_process_madvise,
                                      SYS_mremap, SYS_munmap };
  struct sock_filter fixed[] = {
    ON_CALL(SYS_mmap, 3),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_FIXED, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  size_t i;

  for (i = 0; i < COUNT_OF(numbers); i++) {
    struct sock_filter filter[] = {
      ON_CALL(numbers[i], 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };

    if (calls & 1u << i) {
      install(filter, COUNT_OF(filter));
    }
  }
  if (calls & REFUSE_MMAP) {
    install(fixed, COUNT_OF(fixed));
  }
}

/* From now on this process gives nothing back. */
static void refuse_madvise(void)
{
  refuse(REFUSE_ALL, EINVAL);
}

static int says_refused(void)
{
  return strstr(ebb_strerror(0), "refused") != NULL;
}

/* Ticks as it is asked to for a while, and until it is refused: an allocation may
 * have been refused before, and then the next tick comes later. */
static void ticks_refused(ebb_heap *heap, uint64_t ms, unsigned ticks_max)
{
  uint64_t start = now_ms();
  unsigned ticks = 0, refused = 0;

  while (now_ms() - start < ms || refused == 0) {
    int next = ebb_next_tick(heap), result;

    REQUIRE(now_ms() - start < DEADLINE_MS);
    CHECK(next >= 0);
    sleep_ms(next < 100 ? (unsigned)next : 100);
    if (next > 100) {
      continue;
    }
    errno = ERRNO_MARK;
    result = ebb_tick(heap, 0);
    check_errno();
    CHECK(result == EBB_OK || (result == EBB_ERR_SYSTEM && says_refused()));
    refused += result == EBB_ERR_SYSTEM;
    REQUIRE(++ticks <= ticks_max);
  }
}

static void tick_when_refused(const void *argument)
{
  struct rng rng = { 1 };
  ebb_heap *heap = heap_of_decay(50);
  ebb_stats stats;

  (void)argument;
  refuse_madvise();
  scatter(heap, &rng, COUNT, 100);
  ticks_refused(heap, 2500, 60);
  stats = stats_of(heap, 0);
  CHECK(stats.failed_calls > 0);
  CHECK_EQ(stats.returned_total, 0);
  CHECK(stats.free_resident > 5 * MIB);
  survivors_are_unchanged(COUNT);
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_ERR_SYSTEM);
  CHECK(says_refused());
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

static void a_refused_tick_rests(void)
{
  CHECK_EQ(in_child(tick_when_refused, NULL), 0);
}

/* Nor does it ask all the time on the slow path. */
static void churn_when_refused(const void *argument)
{
  ebb_heap *heap = heap_of_decay(20);
  struct rng rng = { 2 };
  uint64_t before, calls = 0, start;

  (void)argument;
  refuse_madvise();
  scatter(heap, &rng, COUNT, 100);
  sleep_ms(100);
  before = stats_of(heap, 0).purge_calls;
  start = now_ms();
  while (now_ms() - start < 1000 || calls == 0) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    churn(heap);
    calls = stats_of(heap, 0).purge_calls - before;
  }
  CHECK(calls < 20000);
  CHECK_EQ(stats_of(heap, 0).returned_total, 0);
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

static void a_refused_heap_goes_on_working(void)
{
  CHECK_EQ(in_child(churn_when_refused, NULL), 0);
}

/* Nothing makes room then: what does not fit is refused, as always. */
static void fill_when_refused(const void *argument)
{
  ebb_options options = no_options();
  ebb_heap *heap;
  size_t count, i;

  (void)argument;
  options.limit_hard = 16 * MIB;
  heap = heap_from(&options);
  refuse_madvise();
  for (count = 0; count < COUNT; count++) {
    block_new(heap, &blocks[count], 1000, count);
    if (blocks[count].at == NULL) {
      break;
    }
    live[count] = 1;
  }
  CHECK(count > 14000 && count < 17000);
  for (i = 0; i < count; i++) {
    if (i % 100 != 0) {
      drop(heap, i);
    }
  }
  errno = ERRNO_MARK;
  for (i = 0; i < 100; i++) {
    CHECK(ebb_alloc(heap, NULL, 0, 15 * MIB) == NULL);
    check_errno();
  }
  CHECK(stats_of(heap, 0).resident <= 16 * MIB);
  take(heap, 1, 1000);
  survivors_are_unchanged(count);
  end_survivors(heap, count);
}

static void a_limit_holds_though_nothing_goes_back(void)
{
  CHECK_EQ(in_child(fill_when_refused, NULL), 0);
}

/* Above a limit it does not ask for each page anew. */
static void grow_when_refused(const void *argument)
{
  const char *limit = (const char *)argument;
  ebb_heap *heap = heap_of(0);
  uint64_t calls;
  size_t i;

  refuse_madvise();
  for (i = 0; i < 2000; i++) {
    take(heap, i, 12 * KIB);
  }
  for (i = 0; i < 2000; i += 2) {
    drop(heap, i);
  }
  set(heap, limit, MIB);
  calls = stats_of(heap, 0).purge_calls;
  for (i = 2000; i < 2500; i++) {
    block_new(heap, &blocks[i], 20 * KIB, i);
    live[i] = blocks[i].at != NULL;
    CHECK_EQ(live[i], strcmp(limit, "limit_soft") == 0);
  }
  CHECK(stats_of(heap, 0).purge_calls - calls < 20000);
  survivors_are_unchanged(2500);
  end_survivors(heap, 2500);
}

static void a_refused_heap_above_its_limit_rests(void)
{
  CHECK_EQ(in_child(grow_when_refused, "limit_soft"), 0);
  CHECK_EQ(in_child(grow_when_refused, "limit_hard"), 0);
}

/* The kernel refuses to take back what is locked, until it is unlocked. */
static void what_was_refused_goes_back_later(void)
{
  const size_t locked = 32 * KIB;
  ebb_heap *heap = heap_of_decay(20);
  unsigned char *block = (unsigned char *)ebb_alloc(heap, NULL, 0, 16 * MIB);

  REQUIRE(block != NULL);
  memset(block, 1, 16 * MIB);
  ebb_alloc(heap, block, 16 * MIB, 0);
  REQUIRE(mlock(block + 2 * MIB, locked) == 0);
  ticks_refused(heap, 500, 60);
  CHECK(stats_of(heap, 0).failed_calls > 0);
  CHECK(stats_of(heap, 0).free_resident >= locked);
  CHECK(stats_of(heap, 0).purge_refused > 0);
  REQUIRE(munlock(block + 2 * MIB, locked) == 0);
  be_idle(heap);
  CHECK_EQ(stats_of(heap, 0).purge_errno, 0);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  heap_ends_empty(heap);
}

/* The same for holes in spans, which nothing else would look for again. */
static void holes_that_were_refused_go_back_later(void)
{
  ebb_heap *heap = heap_of_decay(20);
  uintptr_t low = UINTPTR_MAX, high = 0, at;
  size_t i;

  for (i = 0; i < 1000; i++) {
    take(heap, i, 3000);
    at = (uintptr_t)blocks[i].at;
    low = at < low ? at : low;
    high = at + 3000 > high ? at + 3000 : high;
  }
  low -= low % 4096;
  REQUIRE(mlock((void *)low, high - low) == 0);
  for (i = 0; i < 1000; i++) {
    if (i % 8 != 0) {
      drop(heap, i);
    }
  }
  ticks_refused(heap, 500, 60);
  CHECK(stats_of(heap, 0).free_resident > 2 * MIB);
  REQUIRE(munlock((void *)low, high - low) == 0);
  be_idle(heap);
  CHECK(stats_of(heap, 0).free_resident < MIB);
  survivors_are_unchanged(1000);
  end_survivors(heap, 1000);
}

struct sandbox {
  unsigned calls;
  unsigned error;
  int late; /* it begins when the heap is there */
};

static size_t mappings(void)
{
  FILE *maps = fopen("/proc/self/maps", "r");
  size_t lines = 0;
  int byte;

  REQUIRE(maps != NULL);
  while ((byte = getc(maps)) != EOF) {
    lines += byte == '\n';
  }
  fclose(maps);
  return lines;
}

/* Where one call is left that can, everything goes back, and what stays is
 * unchanged. */
static void give_back_in_a_sandbox(const void *argument)
{
  const struct sandbox *sandbox = (const struct sandbox *)argument;
  struct rng rng = { 3 };
  ebb_heap *heap = NULL;
  ebb_reclaim_report report;
  ebb_stats stats, kernel;
  size_t before, i;

  memset(&report, 0, sizeof report);
  report.size = sizeof report;
  if (!sandbox->late) {
    refuse(sandbox->calls, sandbox->error);
  }
  heap = heap_of_decay(50);
  scatter(heap, &rng, COUNT, 100);
  before = mappings();
  if (sandbox->late) {
    refuse(sandbox->calls, sandbox->error);
  }
  be_idle(heap);
  errno = ERRNO_MARK;
  CHECK_EQ(ebb_reclaim(heap, NULL, &report), EBB_OK);
  check_errno();
  CHECK_EQ(report.refused, 0);
  stats = stats_of(heap, 0);
  CHECK(stats.returned_total > 5 * MIB);
  CHECK_EQ(stats.purge_refused, 0);
  CHECK_EQ(stats.purge_errno, 0);
  kernel = stats_of(heap, EBB_STATS_KERNEL);
  CHECK(kernel.kernel_resident <= kernel.resident);
  /* Only what is mapped anew, and not as its neighbours, is a mapping more. */
  if (!(sandbox->calls & (REFUSE_MREMAP | REFUSE_MUNMAP))) {
    CHECK(mappings() <= before + 8);
  }
  survivors_are_unchanged(COUNT);
  for (i = 0; i < 1000; i++) {
    churn(heap);
  }
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

static void another_call_gives_back_where_one_is_refused(void)
{
  static const unsigned calls[] = {
    REFUSE_MADVISE, REFUSE_LISTS, REFUSE_MADVISE | REFUSE_LISTS,
    REFUSE_MADVISE | REFUSE_LISTS | REFUSE_MREMAP,
    REFUSE_MADVISE | REFUSE_LISTS | REFUSE_MUNMAP,
  };
  static const unsigned errors[] = { EPERM, EINVAL, ENOSYS };
  struct sandbox sandbox;
  size_t i, j;

  for (i = 0; i < COUNT_OF(calls); i++) {
    for (j = 0; j < COUNT_OF(errors); j++) {
      sandbox.calls = calls[i];
      sandbox.error = errors[j];
      sandbox.late = j > 0;
      CHECK_EQ(in_child(give_back_in_a_sandbox, &sandbox), 0);
    }
  }
}

/* The statistics say so, and the reason says why. */
static void keep_all_in_a_sandbox(const void *argument)
{
  ebb_heap *heap = heap_of_decay(20);
  struct rng rng = { 4 };
  uint64_t before;
  ebb_stats stats;

  CHECK_EQ(stats_of(heap, 0).purge_errno, 0);
  scatter(heap, &rng, COUNT, 100);
  refuse(*(const unsigned *)argument, EACCES);
  /* Whoever is slow has had memory go back in allocations. */
  before = stats_of(heap, 0).returned_total;
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_ERR_SYSTEM);
  CHECK(says_refused());
  CHECK(strstr(ebb_strerror(0), strerror(EACCES)) != NULL);
  stats = stats_of(heap, 0);
  CHECK_EQ(stats.purge_errno, EACCES);
  CHECK(stats.purge_refused > 0);
  CHECK_EQ(stats.returned_total, before);
  survivors_are_unchanged(COUNT);
  end_survivors(heap, COUNT);
}

static void a_heap_that_can_return_nothing_says_why(void)
{
  /* What moves away cannot be unmapped there, and comes back. */
  static const unsigned calls[] = {
    REFUSE_ALL, REFUSE_ALL - REFUSE_MREMAP + REFUSE_MUNMAP,
  };
  size_t i;

  for (i = 0; i < COUNT_OF(calls); i++) {
    CHECK_EQ(in_child(keep_all_in_a_sandbox, &calls[i]), 0);
  }
}

/* Only address space stays. */
static void end_heaps_in_a_sandbox(const void *argument)
{
  ebb_heap *heaps[4];
  size_t before, i;
  void *block;

  for (i = 0; i < COUNT_OF(heaps); i++) {
    heaps[i] = heap_from(NULL);
    block = ebb_alloc(heaps[i], NULL, 0, 16 * MIB);
    REQUIRE(block != NULL);
    memset(block, 1, 16 * MIB);
  }
  refuse(*(const unsigned *)argument, EPERM);
  before = rss_bytes();
  errno = ERRNO_MARK;
  for (i = 0; i < COUNT_OF(heaps); i++) {
    ebb_heap_delete(heaps[i]);
  }
  check_errno();
  CHECK(rss_bytes() + 56 * MIB < before);
}

static void heaps_that_end_give_back_where_munmap_is_refused(void)
{
  static const unsigned calls[] = { REFUSE_MUNMAP, REFUSE_MUNMAP | REFUSE_MMAP };
  size_t i;

  for (i = 0; i < COUNT_OF(calls); i++) {
    CHECK_EQ(in_child(end_heaps_in_a_sandbox, &calls[i]), 0);
  }
}

int main(void)
{
  RUN(heaps_that_end_give_back_where_munmap_is_refused);
  RUN(another_call_gives_back_where_one_is_refused);
  RUN(a_heap_that_can_return_nothing_says_why);
  RUN(a_refused_tick_rests);
  RUN(a_refused_heap_goes_on_working);
  RUN(a_limit_holds_though_nothing_goes_back);
  RUN(a_refused_heap_above_its_limit_rests);
  RUN(what_was_refused_goes_back_later);
  RUN(holes_that_were_refused_go_back_later);
  return check_status();
}
