/* The background thread where much happens at once, or little is allowed: signals
 * five thousand times a second, a thousand heaps, and a kernel that refuses the
 * calls that the thread makes. */

#include "refuse_call.h"
#include "visits.h"

#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define KEPT 100
#define HEAPS 1000

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

static volatile sig_atomic_t signals;

static void note_signal(int number)
{
  (void)number;
  signals++;
}

static void send_every(long us)
{
  struct itimerval timer = { { 0, us }, { 0, us } };

  REQUIRE(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void signals_at_5_khz(void)
{
  static struct block kept[KEPT];
  struct sigaction action;
  struct rng rng = { 5 };
  ebb_heap *heap = heap_of_decay(EBB_ZERO);
  uint64_t start = now_ms();
  unsigned i;

  memset(&action, 0, sizeof action);
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  REQUIRE(sigaction(SIGALRM, &action, NULL) == 0);
  send_every(200);
  for (i = 0; i < 20 || now_ms() - start < 1000 || signals <= 100; i++) {
    unsigned k;

    REQUIRE(now_ms() - start < DEADLINE_MS);
    leave_blocks_free(heap);
    for (k = 0; k < 2000; k++) {
      struct block *block = &kept[rng_below(&rng, KEPT)];

      block_step(heap, block, block->size, &rng);
    }
    sleep_ms(1);
  }
  for (i = 0; i < KEPT; i++) {
    if (kept[i].at != NULL) {
      block_end(heap, &kept[i]);
    }
  }
  is_alone_in_the_end();
  send_every(0);
  CHECK(held(heap) < 2 * MIB);
  heap_ends_empty(heap);
}

/* Of 2 MB each. Less than 1 MiB may stay in each until its thread does something. */
static void a_thousand_heaps_go_back(void)
{
  static ebb_heap *heaps[HEAPS];
  size_t i;

  for (i = 0; i < HEAPS; i++) {
    heaps[i] = heap_of(8 * MIB);
    leave_slots_free(heaps[i], 1000);
  }
  is_alone_in_the_end();
  for (i = 0; i < HEAPS; i++) {
    CHECK(held(heaps[i]) < 1280 * KIB);
    heap_ends_empty(heaps[i]);
  }
}

/* What becomes of the thread, and of the memory that it should return. */
enum outcome {
  COMES,    /* the thread starts, returns the memory, and sleeps */
  MAY_COME, /* the C library needs the call to start a thread, or does not */
  NO_THREAD,
  STAYS     /* the kernel takes nothing back */
};

struct refusal {
  int calls[CALLS_MOST];
  unsigned error;
  enum outcome outcome;
};

/* Calls that the thread makes, or that are made to start, wake and end it. Not
 * exit and rseq: the C library spins, or ends the process, where these are
 * refused to a thread. */
static const struct refusal refusals[] = {
  { { SYS_futex }, EPERM, COMES },
  { { SYS_futex }, ENOSYS, COMES },
  { { SYS_futex }, EAGAIN, COMES },
  { { SYS_futex, SYS_nanosleep, SYS_clock_nanosleep }, EPERM, COMES },
  { { SYS_nanosleep, SYS_clock_nanosleep }, EPERM, COMES },
  { { SYS_madvise }, EPERM, COMES },
  { { SYS_madvise }, ENOSYS, COMES },
  { { SYS_process_madvise }, EPERM, COMES },
  { { SYS_process_madvise }, ENOSYS, COMES },
  { { SYS_process_madvise }, EAGAIN, COMES },
  { { SYS_madvise, SYS_process_madvise }, EPERM, COMES },
  { { SYS_madvise, SYS_process_madvise, SYS_mremap }, EPERM, COMES },
  { { SYS_madvise, SYS_process_madvise, SYS_mremap, SYS_mmap }, EPERM, STAYS },
  { { SYS_membarrier }, EPERM, COMES },
  { { SYS_process_vm_readv }, EPERM, COMES },
  { { SYS_process_vm_readv }, ENOSYS, COMES },
  { { SYS_prctl }, EPERM, COMES },
  { { SYS_rt_sigprocmask }, EPERM, COMES },
  { { SYS_set_robust_list }, EPERM, COMES },
  { { SYS_mremap }, EPERM, COMES },
  { { SYS_munmap }, EPERM, COMES },
  { { SYS_mprotect }, EPERM, MAY_COME },
  { { SYS_mmap }, EPERM, MAY_COME },
  { { SYS_clone, SYS_clone3 }, EPERM, NO_THREAD },
  { { SYS_clone, SYS_clone3 }, ENOSYS, NO_THREAD },
};

/* 17.5 MiB in blocks of 64 KiB: enough for the thread to close the run of pages. */
#define PIECE (64 * KIB)
#define PIECES 280
/* Enough to call the thread for. */
#define FEW 100

static void fill(ebb_heap *heap, void **pieces, size_t count)
{
  size_t i;

  for (i = 0; i < count; i++) {
    pieces[i] = ebb_alloc(heap, NULL, 0, PIECE);
    REQUIRE(pieces[i] != NULL);
    memset(pieces[i], 1, PIECE);
  }
}

static void wait_ms(long ms)
{
  uint64_t start = now_ms();

  do {
    struct timeval wait = { 0, 10000 };

    select(0, NULL, NULL, NULL, &wait);
  } while (now_ms() - start < (uint64_t)ms);
}

/* The heap has looked at what is free when this ends. */
static void drop(ebb_heap *heap, void **pieces, size_t count)
{
  size_t i;

  for (i = 0; i < count; i++) {
    ebb_alloc(heap, pieces[i], PIECE, 0);
  }
  wait_ms(10);
  churn(heap);
}

/* The processor time of all threads but this one, those that ended too. */
static uint64_t cpu_ms_of_others(void)
{
  static const clockid_t clocks[] = { CLOCK_THREAD_CPUTIME_ID,
                                      CLOCK_PROCESS_CPUTIME_ID };
  uint64_t ms[2];
  size_t i;

  for (i = 0; i < 2; i++) {
    struct timespec used;

    REQUIRE(clock_gettime(clocks[i], &used) == 0);
    ms[i] = (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
  }
  return ms[1] - ms[0];
}

/* What the thread returns is 35 MiB at most, in some milliseconds of processor time. A
 * thread that spins uses them all the time: far more, also beside others. */
#define RESTS_MS 2500
#define WORK_MS 250

/* Waits until the thread is there, and has returned what is free in the heap. */
static void comes_and_returns(ebb_heap *heap)
{
  uint64_t start = now_ms();
  pid_t named;

  while (threads(&named) != 2 || held(heap) > 2 * MIB) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    wait_ms(50);
  }
}

/* Whatever is refused, the program goes on, the thread does not spin, and the
 * memory goes back, but where the kernel takes none. The thread starts after the
 * call was refused, so that the call is refused to the thread as well. */
static void calls_are_refused(const void *which)
{
  static void *pieces[PIECES], *later[FEW];
  const struct refusal *refusal = (const struct refusal *)which;
  /* The one for which the thread stays, when all of the other is back. */
  ebb_heap *heap = heap_of(256 * MIB), *idle = heap_of_decay(600000);
  pid_t named;

  fill(heap, pieces, PIECES);
  fill(idle, later, FEW);
  CHECK(held(heap) >= PIECES * PIECE);
  CHECK_EQ(threads(&named), 1);
  answer_calls(refusal->calls, SECCOMP_RET_ERRNO | refusal->error);
  drop(idle, later, FEW);
  drop(heap, pieces, PIECES);
  if (refusal->outcome == COMES) {
    comes_and_returns(heap);
  }
  wait_ms(RESTS_MS);
  if (refusal->outcome == COMES) {
    /* The thread has rested for so long that it looks whether it is the last. */
    fill(heap, pieces, PIECES);
    drop(heap, pieces, PIECES);
    comes_and_returns(heap);
  }
  CHECK(refusal->outcome != NO_THREAD || threads(&named) == 1);
  CHECK(cpu_ms_of_others() < WORK_MS);
  if (refusal->outcome == STAYS) {
    CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_ERR_SYSTEM);
    CHECK(held(heap) >= PIECES * PIECE);
    CHECK(stats_of(heap, 0).purge_refused > 0);
  } else {
    CHECK(ebb_reclaim(heap, NULL, NULL) >= 0);
    CHECK(held(heap) < 2 * MIB);
  }
  /* What is free already is there for blocks, whatever is refused. */
  churn(idle);
  ebb_heap_delete(heap);
  ebb_heap_delete(idle);
}

static void each_call_is_refused(void)
{
  pid_t children[COUNT_OF(refusals)];
  size_t i;

  fflush(NULL);
  for (i = 0; i < COUNT_OF(refusals); i++) {
    children[i] = fork();
    REQUIRE(children[i] >= 0);
    if (children[i] == 0) {
      check_failures = 0;
      calls_are_refused(&refusals[i]);
      _exit(check_status());
    }
  }
  for (i = 0; i < COUNT_OF(refusals); i++) {
    int status;

    REQUIRE(waitpid(children[i], &status, 0) == children[i]);
    check_equal(__FILE__, __LINE__, "a refused call", status, 0);
    if (status != 0) {
      fprintf(stderr, "refused: system call %d and others, with errno %u\n",
              refusals[i].calls[0], refusals[i].error);
    }
  }
}

/* The first thread of a process needs a page that is wiped in the child of a fork,
 * by madvise. Without there is none, and ticks return the memory. */
static void madvise_is_refused_from_the_start(const void *unused)
{
  static void *pieces[PIECES];
  ebb_heap *heap = heap_of(256 * MIB);
  pid_t named;

  (void)unused;
  fill(heap, pieces, PIECES);
  refuse_call(SYS_madvise);
  drop(heap, pieces, PIECES);
  CHECK_EQ(threads(&named), 1);
  be_idle(heap);
  CHECK(held(heap) < 2 * MIB);
  heap_ends_empty(heap);
}

int main(void)
{
  CHECK_EQ(in_child(madvise_is_refused_from_the_start, NULL), 0);
  /* The thread comes and goes, so that its page is there. */
  RUN(signals_at_5_khz);
  RUN(a_thousand_heaps_go_back);
  RUN(each_call_is_refused);
  return check_status();
}
