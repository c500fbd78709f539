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

static uint64_t cpu_ms(void)
{
  struct timespec used;

  REQUIRE(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
  return (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
}

/* Calls that the thread makes, or has made for it. */
static const unsigned calls[] = {
  SYS_madvise, SYS_process_madvise, SYS_membarrier, SYS_futex,
  SYS_prctl, SYS_rt_sigprocmask, SYS_process_vm_readv, SYS_sched_yield,
  SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap,
  SYS_nanosleep, SYS_clock_nanosleep, SYS_set_robust_list,
};

/* Whatever is refused, the program goes on, nothing spins, and the memory goes
 * back when the heap's own thread ticks. */
static void a_call_is_refused(const void *call)
{
  ebb_heap *heap = heap_of(256 * MIB);
  uint64_t used, start;
  unsigned i;

  leave_blocks_free(heap);
  refuse_call(*(const unsigned *)call);
  for (i = 0; i < 3; i++) {
    leave_blocks_free(heap);
  }
  used = cpu_ms();
  start = now_ms();
  while (now_ms() - start < 2500) {
    struct timeval wait = { 0, 50000 };

    select(0, NULL, NULL, NULL, &wait);
  }
  CHECK(cpu_ms() - used < 1250);
  leave_blocks_free(heap);
  CHECK(ebb_reclaim(heap, NULL, NULL) >= 0);
  CHECK(held(heap) < 2 * MIB);
  ebb_heap_delete(heap);
}

static void each_call_is_refused(void)
{
  pid_t children[COUNT_OF(calls)];
  size_t i;

  fflush(NULL);
  for (i = 0; i < COUNT_OF(calls); i++) {
    children[i] = fork();
    REQUIRE(children[i] >= 0);
    if (children[i] == 0) {
      check_failures = 0;
      a_call_is_refused(&calls[i]);
      _exit(check_status());
    }
  }
  for (i = 0; i < COUNT_OF(calls); i++) {
    int status;

    REQUIRE(waitpid(children[i], &status, 0) == children[i]);
    check_equal(__FILE__, __LINE__, "a refused call", status, 0);
    if (status != 0) {
      fprintf(stderr, "refused: system call %u\n", calls[i]);
    }
  }
}

int main(void)
{
  RUN(signals_at_5_khz);
  RUN(a_thousand_heaps_go_back);
  RUN(each_call_is_refused);
  return check_status();
}
