/* How often the background thread wakes: at most once a second while a program
 * works, and not at all while the program rests. Counted are the thread's waits
 * for its futex. The kernel's count of context switches would have those for
 * locks of the kernel, too. */

#include "visits.h"
#include "wrapped.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>

/* A machine that is busy with something else makes figures worse, never better,
 * so the best of some tries counts. */
#define TRIES 4
/* The thread learns in the first seconds that the program does not sleep. */
#define WARM_UP_MS 3000
#define WINDOW_MS 10000
/* One in 1.1 s, and three for early visits in 40 s. */
#define APART_MS 1000

/* What a request uses, in blocks of 2 KB: 100 MB. */
#define REQUEST 50000
/* What stays meanwhile, at most. */
#define LIVE_MOST 30000

static void *request[REQUEST], *live[LIVE_MOST];
static size_t live_count;
static struct rng rng = { 3 };

/* How often the thread has gone to sleep so far. */
static atomic_uint sleeps;

int __real_madvise(void *, size_t, int);
int __wrap_madvise(void *, size_t, int);
int __real_nanosleep(const struct timespec *, struct timespec *);
int __wrap_nanosleep(const struct timespec *, struct timespec *);

int __wrap_madvise(void *at, size_t bytes, int advice)
{
  return __real_madvise(at, bytes, advice);
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
  return __real_nanosleep(time, left);
}

static long wrapped_call(long number, long *arguments)
{
  if (number == SYS_futex && arguments[1] == FUTEX_WAIT_PRIVATE) {
    sleeps++;
  }
  return real_call(number, arguments);
}

static size_t live_size(size_t i)
{
  return 1 + i * 7919 % 3000;
}

/* Blocks of up to 3 KB come and go, for some milliseconds. */
static void work_for(ebb_heap *heap, unsigned ms)
{
  uint64_t start = now_ms();
  unsigned i;

  while (now_ms() - start < ms) {
    for (i = 0; i < 100; i++) {
      size_t k = rng_below(&rng, live_count);

      if (live[k] != NULL) {
        ebb_alloc(heap, live[k], live_size(k), 0);
      }
      live[k] = ebb_alloc(heap, NULL, 0, live_size(k));
      REQUIRE(live[k] != NULL);
    }
  }
}

/* Takes 100 MB and drops them. */
static void serve(ebb_heap *heap)
{
  size_t i;

  for (i = 0; i < REQUEST; i++) {
    request[i] = ebb_alloc(heap, NULL, 0, BLOCK);
    REQUIRE(request[i] != NULL);
    memset(request[i], 1, BLOCK);
  }
  for (i = 0; i < REQUEST; i++) {
    ebb_alloc(heap, request[i], BLOCK, 0);
  }
}

/* A heap that always has something due, in ten minutes, so that the thread stays. */
static void start_idle_thread(void)
{
  ebb_heap *heap = heap_of_decay(600000);
  uint64_t start = now_ms();
  pid_t named;

  leave_blocks_free(heap);
  while (threads(&named), named == 0) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    sleep_ms(1);
  }
}

struct service {
  const char *name;
  size_t live;
  /* Milliseconds between two requests; 0: there are none. */
  unsigned every_ms;
};

static const struct service services[] = {
  { "steady", LIVE_MOST, 0 },
  { "sawtooth", 4000, 300 },
};

static void serve_for(const struct service *service, ebb_heap *heap, unsigned ms)
{
  uint64_t start = now_ms();

  while (now_ms() - start < ms) {
    if (service->every_ms > 0) {
      serve(heap);
    }
    work_for(heap, service->every_ms > 0 ? service->every_ms : 100);
  }
}

static void drop_live(ebb_heap *heap)
{
  size_t i;

  for (i = 0; i < live_count; i++) {
    if (live[i] != NULL) {
      ebb_alloc(heap, live[i], live_size(i), 0);
      live[i] = NULL;
    }
  }
}

static void wakes_seldom(const void *which)
{
  const struct service *service = (const struct service *)which;
  ebb_heap *heap = heap_of(256 * MIB);
  uint64_t start, lasted;
  unsigned i, before, least;
  int is_seldom = 0;

  start_idle_thread();
  live_count = service->live;
  serve_for(service, heap, WARM_UP_MS);
  for (i = 0; i < TRIES && !is_seldom; i++) {
    start = now_ms();
    before = sleeps;
    serve_for(service, heap, WINDOW_MS);
    before = sleeps - before;
    lasted = now_ms() - start;
    is_seldom = (uint64_t)before * APART_MS <= lasted;
    printf("%s: %u wake-ups in %" PRIu64 " ms\n", service->name, before, lasted);
    fflush(stdout);
  }
  CHECK(is_seldom);

  /* At rest the thread looks every 5 s whether it is the last of the process. */
  drop_live(heap);
  least = UINT_MAX;
  for (i = 0; i < TRIES && least > 1; i++) {
    sleep_ms(2500);
    before = sleeps;
    sleep_ms(2000);
    before = sleeps - before;
    least = before < least ? before : least;
  }
  CHECK(least <= 1);
  heap_ends_empty(heap);
}

/* A program that rests has no such thread. */
static void is_gone_at_rest(const void *unused)
{
  ebb_heap *heap = heap_of(256 * MIB);
  pid_t named;
  unsigned i;

  (void)unused;
  serve(heap);
  is_alone_in_the_end();
  for (i = 0; i < 20; i++) {
    sleep_ms(100);
    CHECK_EQ(threads(&named), 1);
  }
  heap_ends_empty(heap);
}

int main(void)
{
  pid_t children[COUNT_OF(services) + 1];
  size_t i;

  for (i = 0; i < COUNT_OF(children); i++) {
    children[i] = fork();
    REQUIRE(children[i] >= 0);
    if (children[i] == 0) {
      if (i < COUNT_OF(services)) {
        wakes_seldom(&services[i]);
      } else {
        is_gone_at_rest(NULL);
      }
      _exit(check_status());
    }
  }
  for (i = 0; i < COUNT_OF(children); i++) {
    int status;

    REQUIRE(waitpid(children[i], &status, 0) == children[i]);
    CHECK_EQ(status, 0);
  }
  return check_status();
}
