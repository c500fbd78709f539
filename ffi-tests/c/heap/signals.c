/* Signals in the midst of a heap's work: a timer interrupts a thread that
 * allocates, resizes, frees and gives memory back, two thousand times a second,
 * and calls to the kernel are not begun anew. The handler has a heap of its
 * own, which nobody else uses. One that comes into the heap at work is told of,
 * where that heap is checked. */

#include "tick_host.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>

#define BLOCKS 2000
#define HANDLERS_BLOCKS 64
#define INTERVAL_US 500
/* How long a heap is worked on, and how many signals come in that time at least: on
 * a machine that has other work it takes longer. */
#define WORK_MS 1500
#define SIGNALS_MIN 200

static struct block blocks[BLOCKS];

/* What the handler has to itself. */
static struct {
  ebb_heap *heap;
  struct rng rng;
  struct block blocks[HANDLERS_BLOCKS];
  volatile sig_atomic_t signals;
  volatile sig_atomic_t wrong;
} handler;

static void handler_fills(struct block *block, unsigned char *at, size_t size)
{
  block->at = at;
  block->size = size;
  if (at != NULL) {
    handler.wrong += !block_placed(at, size);
    block_fill(block, rng_next(&handler.rng));
  } else {
    handler.wrong += size > 0;
  }
}

/* Makes, resizes or frees a block. What is wrong it only counts. */
static void handler_step(void)
{
  size_t which = rng_below(&handler.rng, HANDLERS_BLOCKS);
  struct block *block = &handler.blocks[which];
  size_t size = rng_size(&handler.rng, 64 * KIB);
  size_t old = block->at == NULL ? 0 : block->size;
  size_t kept;
  unsigned char *at;

  if (old > 0) {
    handler.wrong += !block_kept(block, block->at, old);
    size = rng_below(&handler.rng, 2) == 0 ? 0 : size;
  }
  kept = size < old ? size : old;
  at = (unsigned char *)ebb_alloc(handler.heap, block->at, old, size);
  handler.wrong += at != NULL && !block_kept(block, at, kept);
  handler_fills(block, at, size);
}

static void on_signal(int number)
{
  (void)number;
  handler_step();
  handler.signals++;
}

/* A handler, and a timer that calls it; an interval of 0 stops that. */
static void signals_come(void (*function)(int), suseconds_t interval_us)
{
  struct itimerval timer;
  struct sigaction action;

  memset(&action, 0, sizeof action);
  memset(&timer, 0, sizeof timer);
  action.sa_handler = function;
  timer.it_interval.tv_usec = interval_us;
  timer.it_value.tv_usec = interval_us;
  if (interval_us > 0) {
    REQUIRE(sigaction(SIGALRM, &action, NULL) == 0);
  }
  REQUIRE(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void handler_starts(void)
{
  memset(&handler, 0, sizeof handler);
  handler.heap = heap_of_decay(EBB_ZERO);
  handler.rng.state = 77;
  signals_come(on_signal, INTERVAL_US);
}

static void handler_ends(void)
{
  size_t i;

  signals_come(on_signal, 0);
  CHECK_EQ(handler.wrong, 0);
  for (i = 0; i < HANDLERS_BLOCKS; i++) {
    if (handler.blocks[i].at != NULL) {
      block_end(handler.heap, &handler.blocks[i]);
    }
  }
  heap_ends_empty(handler.heap);
}

/* The kernel may refuse what a signal interrupts, and no more than that. */
static void returns(int result)
{
  CHECK(result == EBB_OK || result == EBB_MORE || result == EBB_ERR_SYSTEM);
}

/* What a host does with a heap, beside using it, and with others. */
static void host_step(ebb_heap *heap, struct rng *rng)
{
  ebb_reclaim_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.budget_us = (uint32_t)rng_below(rng, 100);
  switch (rng_below(rng, 4)) {
  case 0:
    returns(ebb_reclaim(heap, &options, NULL));
    break;
  case 1:
    CHECK(ebb_next_tick(heap) >= 0);
    returns(ebb_tick(heap, options.budget_us));
    break;
  case 2:
    CHECK(stats_of(heap, EBB_STATS_KERNEL).live > 0);
    break;
  default:
    heap = heap_of(0);
    leave_free(heap, MIB);
    ebb_heap_delete(heap);
  }
}

/* Works for a while, then ends the heap. */
static void work(ebb_heap *heap)
{
  struct rng rng = { 5 };
  uint64_t start = now_ms();
  size_t i;

  errno = ERRNO_MARK;
  while (now_ms() - start < WORK_MS || handler.signals < SIGNALS_MIN) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    for (i = 0; i < 100; i++) {
      struct block *block = &blocks[rng_below(&rng, BLOCKS)];

      block_step(heap, block, block->size, &rng);
    }
    check_errno();
    host_step(heap, &rng);
    errno = ERRNO_MARK;
  }
  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL) {
      block_end(heap, &blocks[i]);
    }
  }
}

/* A heap that is never at rest: it moves and returns pages all the time. */
static ebb_heap *restless_heap(int64_t checked)
{
  ebb_options options = no_options();

  options.decay_ms = EBB_ZERO;
  options.step_us = 1;
  options.remap_min = 16 * KIB;
  options.checked = checked;
  return heap_from(&options);
}

static void is_not_disturbed(int64_t checked)
{
  ebb_heap *heap = restless_heap(checked);

  handler_starts();
  work(heap);
  handler_ends();
  heap_ends_empty(heap);
}

static void a_heap_is_not_disturbed_by_signals(void)
{
  is_not_disturbed(EBB_ZERO);
}

static void nor_is_one_that_is_checked(void)
{
  is_not_disturbed(1);
  is_not_disturbed(2);
}

static ebb_heap *intruded;

static void on_signal_intrude(int number)
{
  (void)number;
  handler.signals++;
  ebb_alloc(intruded, ebb_alloc(intruded, NULL, 0, 40), 40, 0);
}

static void is_intruded(const void *argument)
{
  struct rlimit no_core = { 0, 0 };
  const int *said = (const int *)argument;

  setrlimit(RLIMIT_CORE, &no_core);
  dup2(said[1], STDERR_FILENO);
  intruded = restless_heap(1);
  handler.signals = 0;
  signals_come(on_signal_intrude, INTERVAL_US);
  work(intruded);
}

static void a_handler_in_a_checked_heap_is_reported(void)
{
  static const char what[] = "by a signal handler of the same thread";
  char report[4096];
  int said[2], status;
  ssize_t length;

  REQUIRE(pipe(said) == 0);
  status = in_child(is_intruded, said);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  close(said[1]);
  length = read(said[0], report, sizeof report - 1);
  close(said[0]);
  report[length > 0 ? length : 0] = 0;
  CHECK(strstr(report, what) != NULL);
}

int main(void)
{
  RUN(a_heap_is_not_disturbed_by_signals);
  RUN(nor_is_one_that_is_checked);
  RUN(a_handler_in_a_checked_heap_is_reported);
  return check_status();
}
