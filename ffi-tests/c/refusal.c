/* A kernel that refuses to take memory back: the heap says so, goes on with
 * all that it holds, and does not ask all the time. */

#include "breath.h"
#include "scatter.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define COUNT 50000

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* From now on this process gives nothing back. */
static void refuse_madvise(void)
{
  struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 1, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_madvise, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = { COUNT_OF(filter), filter };

  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int says_refused(void)
{
  return strstr(ebb_strerror(0), "refused") != NULL;
}

/* Ticks as it is asked to for a while; returns how often it was refused. */
static unsigned ticks_refused(ebb_heap *heap, uint64_t ms, unsigned ticks_max)
{
  uint64_t start = now_ms();
  unsigned ticks = 0, refused = 0;

  while (now_ms() - start < ms) {
    int next = ebb_next_tick(heap), result;

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
  return refused;
}

static void tick_when_refused(const void *argument)
{
  struct rng rng = { 1 };
  ebb_heap *heap = heap_of_decay(50);
  ebb_stats stats;

  (void)argument;
  refuse_madvise();
  scatter(heap, &rng, COUNT, 100);
  CHECK(ticks_refused(heap, 2500, 60) > 0);
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
  uint64_t calls, start;

  (void)argument;
  refuse_madvise();
  scatter(heap, &rng, COUNT, 100);
  sleep_ms(100);
  calls = stats_of(heap, 0).purge_calls;
  start = now_ms();
  while (now_ms() - start < 1000) {
    churn(heap);
  }
  calls = stats_of(heap, 0).purge_calls - calls;
  CHECK(calls > 0);
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
  REQUIRE(mlock(block + 8 * MIB, locked) == 0);
  CHECK(ticks_refused(heap, 500, 60) > 0);
  CHECK(stats_of(heap, 0).failed_calls > 0);
  CHECK(stats_of(heap, 0).free_resident >= locked);
  REQUIRE(munlock(block + 8 * MIB, locked) == 0);
  be_idle(heap);
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
  CHECK(ticks_refused(heap, 500, 60) > 0);
  CHECK(stats_of(heap, 0).free_resident > 2 * MIB);
  REQUIRE(munlock((void *)low, high - low) == 0);
  be_idle(heap);
  CHECK(stats_of(heap, 0).free_resident < MIB);
  survivors_are_unchanged(1000);
  end_survivors(heap, 1000);
}

int main(void)
{
  RUN(a_refused_tick_rests);
  RUN(a_refused_heap_goes_on_working);
  RUN(a_limit_holds_though_nothing_goes_back);
  RUN(a_refused_heap_above_its_limit_rests);
  RUN(what_was_refused_goes_back_later);
  RUN(holes_that_were_refused_go_back_later);
  return check_status();
}
