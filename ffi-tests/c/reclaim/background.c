/* The background thread: free memory goes back whatever the program waits in. The
 * thread comes when there is something to return and goes when all is back; it
 * meets no signals, no deletions of heaps, and follows owners and options. */

#include "visits.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

static void by_nanosleep(void)
{
  sleep_ms(300);
}

static void by_read(void)
{
  int ends[2];
  char byte;
  pid_t child;

  REQUIRE(pipe(ends) == 0);
  child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    sleep_ms(300);
    _exit(0);
  }
  close(ends[1]);
  CHECK(read(ends[0], &byte, 1) == 0);
  close(ends[0]);
  REQUIRE(waitpid(child, NULL, 0) == child);
}

static void by_condition(void)
{
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
  struct timespec until;

  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec++;
  pthread_mutex_lock(&mutex);
  CHECK_EQ(pthread_cond_timedwait(&never, &mutex, &until), ETIMEDOUT);
  pthread_mutex_unlock(&mutex);
}

static void by_signal(void)
{
  struct timespec time = { 0, 300000000 };
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigtimedwait(&set, NULL, &time) < 0);
}

static void by_work(void)
{
  volatile unsigned sum = 0;
  uint64_t start = now_ms();

  while (now_ms() - start < 300) {
    sum++;
  }
}

static void by_yielding(void)
{
  uint64_t start = now_ms();

  while (now_ms() - start < 300) {
    sched_yield();
  }
}

static void (*const ways[])(void) = {
  by_nanosleep, by_read, by_condition, by_signal, by_work, by_yielding,
};

/* In every way to wait, in a process of its own. */
static void wait_in_a_way(const void *way)
{
  ebb_heap *heap = heap_of(256 * MIB);
  uint64_t start, before;

  /* What is free may go at any moment, so that is seen while all blocks live. */
  fill_slots(heap, BLOCKS);
  before = held(heap);
  CHECK(before > 12 * MIB);
  free_slots(heap, BLOCKS);
  start = now_ms();
  while (held(heap) > before / 8) {
    (*(void (*const *)(void))way)();
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  is_alone_in_the_end();
  is_as_low_as_reclaim_gets(heap);
  heap_ends_empty(heap);
}

static void every_way_to_wait(void)
{
  pid_t children[COUNT_OF(ways)];
  size_t i;

  for (i = 0; i < COUNT_OF(ways); i++) {
    children[i] = fork();
    REQUIRE(children[i] >= 0);
    if (children[i] == 0) {
      wait_in_a_way(&ways[i]);
      exit(check_status());
    }
  }
  for (i = 0; i < COUNT_OF(ways); i++) {
    int status;

    REQUIRE(waitpid(children[i], &status, 0) == children[i]);
    CHECK_EQ(status, 0);
  }
}

static void it_has_a_name_and_takes_no_signals(void)
{
  pid_t named = 0;
  ebb_heap *heap = heap_with_thread(&named);
  uint64_t blocked = thread_status(named, "SigBlk", 16);

  CHECK(blocked >> (SIGTERM - 1) & 1);
  CHECK(blocked >> (SIGUSR1 - 1) & 1);
  CHECK(blocked >> (SIGALRM - 1) & 1);
  set(heap, "decay_ms", 0);
  is_alone_in_the_end();
  heap_ends_empty(heap);
}

/* Where the option says so, and where the host ticks. */
static void it_is_not_there_when_it_should_not_be(void)
{
  ebb_options options = no_options();
  ebb_heap *heap;
  pid_t named;
  unsigned i;

  options.background = EBB_ZERO;
  /* So long that the frees return nothing themselves, however long they take. */
  options.decay_ms = 600000;
  heap = heap_from(&options);
  leave_blocks_free(heap);
  for (i = 0; i < 25; i++) {
    sleep_ms(100);
    CHECK_EQ(threads(&named), 1);
  }
  CHECK(held(heap) > 12 * MIB);
  /* Switched on, it comes, though the heap does nothing more. */
  set(heap, "decay_ms", 1000);
  set(heap, "background", 1);
  is_alone_in_the_end();
  CHECK(held(heap) < 4 * MIB);
  heap_ends_empty(heap);
}

/* What is freed may be deleted at any moment of its return. */
static void heaps_end_while_it_looks(void)
{
  ebb_options options = no_options();
  unsigned i;

  options.decay_ms = EBB_ZERO;
  for (i = 0; i < steps(100); i++) {
    ebb_heap *heap = heap_from(&options);
    struct timespec moment = { 0, (long)(i % 20) * 100000 };

    leave_blocks_free(heap);
    nanosleep(&moment, NULL);
    heap_ends_empty(heap);
  }
}

static void many_heaps_go_back(void)
{
  enum { HEAPS = 100 };
  ebb_heap *heaps[HEAPS];
  unsigned i;

  for (i = 0; i < HEAPS; i++) {
    heaps[i] = heap_of(64 * MIB);
    leave_blocks_free(heaps[i]);
  }
  is_alone_in_the_end();
  for (i = 0; i < HEAPS; i++) {
    CHECK(held(heaps[i]) < 2 * MIB);
    heap_ends_empty(heaps[i]);
  }
}

/* The heap looks at itself every 4 ms at most. What it then finds is too little to
 * call the thread for, and so is what is freed afterwards. */
static void little_adds_up(void)
{
  ebb_heap *heap = heap_of(256 * MIB);
  size_t i;

  for (i = 0; i < 920; i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, BLOCK);
    REQUIRE(blocks[i] != NULL);
    memset(blocks[i], 1, BLOCK);
  }
  for (i = 0; i < 920; i++) {
    if (i == 400) {
      sleep_ms(6);
    }
    ebb_alloc(heap, blocks[i], BLOCK, 0);
  }
  is_alone_in_the_end();
  CHECK(held(heap) < MIB);
  heap_ends_empty(heap);
}

/* Options that are changed while the heap rests: the thread was put off for ten
 * minutes, or was never there. */
static void options_reach_it_at_rest(void)
{
  ebb_heap *late = heap_of_decay(600000), *kept = heap_of(256 * MIB);

  set(kept, "retain", 64 * MIB);
  leave_blocks_free(kept);
  leave_blocks_free(late);
  CHECK(held(late) > 12 * MIB);
  CHECK(held(kept) > 12 * MIB);
  set(late, "decay_ms", 1);
  is_alone_in_the_end();
  CHECK(held(late) < 2 * MIB);
  set(kept, "retain", 0);
  is_alone_in_the_end();
  CHECK(held(kept) < 2 * MIB);
  heap_ends_empty(late);
  heap_ends_empty(kept);
}

static void *thread_that_leaves(void *heap)
{
  leave_blocks_free((ebb_heap *)heap);
  return NULL;
}

/* The thread that has the heap ends, and another one takes the heap over. */
static void owners_change(void)
{
  ebb_heap *heap = heap_of(256 * MIB);
  unsigned i;

  for (i = 0; i < steps(10); i++) {
    pthread_t thread;

    REQUIRE(pthread_create(&thread, NULL, thread_that_leaves, heap) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    leave_blocks_free(heap);
  }
  is_alone_in_the_end();
  CHECK(held(heap) < 2 * MIB);
  heap_ends_empty(heap);
}

int main(void)
{
  every_way_to_wait();
  it_has_a_name_and_takes_no_signals();
  it_is_not_there_when_it_should_not_be();
  heaps_end_while_it_looks();
  many_heaps_go_back();
  little_adds_up();
  owners_change();
  options_reach_it_at_rest();
  return check_status();
}
