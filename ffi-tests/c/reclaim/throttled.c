/* The background thread, and an owner of a heap that at times has no processor.
 * Neither waits for the other for longer than a call to the kernel takes, and
 * nothing is lost.
 *
 * The linker's --wrap hands the library's calls of madvise, process_madvise and
 * nanosleep to the functions here. A call of the background thread's lasts until
 * the owner has waited for it, or has worked meanwhile. Each third one finds the
 * owner stopped, at whatever the owner does, and ends before the owner goes on.
 * The tests count calls, naps and turns. So they come to the same on any machine,
 * and under a quota that stops all threads of the process. */

#include "visits.h"
#include "wrapped.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

/* The most that the background thread returns before it lets go of the pages:
 * 1 MiB, and a row of 64 pages. */
#define GO (MIB + 256 * KIB)

/* Blocks are runs of pages: many of 12 pages, and one of 28 that no hole between
 * two of them has room for. A larger one would go back when it is freed. */
#define PIECE ((size_t)12 * 4 * KIB - 500)
#define PIECES 2048
#define WIDE ((size_t)28 * 4 * KIB - 500)
/* Blocks in spans, which the background thread looks through for holes. */
#define SMALL 500

/* A run of pages lies in two rows, and has its descriptors in two sheets, at most.
 * The owner waits for each of them once. */
#define WAITS 4
/* The naps of a wait see the background thread before a GO has ended and after
 * that. The last nap may begin later, wherever the thread is by then. */
#define SEEN (3 * WAITS)

extern int __real_madvise(void *, size_t, int);
extern int __real_nanosleep(const struct timespec *, struct timespec *);
int __wrap_madvise(void *, size_t, int);
int __wrap_nanosleep(const struct timespec *, struct timespec *);

static pthread_t owner;

/* What the owner does. */
static atomic_int is_ready; /* for calls that last, or come while it is stopped */
static atomic_int is_stopped;
static atomic_uint turns, naps;
/* How far the background thread was at the last nap, in GOs, how many different
 * places it was at in the naps of this turn, and in those of any turn at most. */
static size_t nap_at;
static unsigned turn_naps, seen, most_seen;

/* What the background thread does. */
static atomic_uint begun, ended;
static atomic_size_t returned;
static atomic_uint ready_calls; /* begun while the owner was ready */

static int is_owner(void)
{
  return pthread_equal(pthread_self(), owner);
}

static void nap_us(long us)
{
  struct timespec time = { 0, us * 1000 };

  __real_nanosleep(&time, NULL);
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
  if (is_owner()) {
    size_t at = returned / GO;

    seen += turn_naps++ == 0 || at != nap_at;
    nap_at = at;
    naps++;
  }
  return __real_nanosleep(time, left);
}

/* The owner has no processor until a call has ended, and for some time more. */
static void stop_owner(int number)
{
  unsigned before = ended;
  int saved = errno;

  (void)number;
  is_stopped = 1;
  while (ended == before) {
    nap_us(100);
  }
  nap_us((long)(before * 7919 % 20000));
  is_stopped = 0;
  errno = saved;
}

static void await_stop(void)
{
  uint64_t start = now_ms();

  REQUIRE(pthread_kill(owner, SIGUSR1) == 0);
  while (!is_stopped) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    nap_us(100);
  }
}

/* The owner naps twice, or works. */
static void await_owner(void)
{
  unsigned turns_before = turns, naps_before = naps;
  uint64_t start = now_ms();

  while (is_ready && naps - naps_before < 2 && turns - turns_before < 20) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    nap_us(100);
  }
}

static void begin_call(void)
{
  begun++;
  if (is_ready && ++ready_calls % 3 == 0) {
    await_stop();
  } else {
    await_owner();
  }
}

static void end_call(uint64_t bytes)
{
  returned += bytes;
  ended++;
}

int __wrap_madvise(void *at, size_t bytes, int advice)
{
  int result;

  if (advice != MADV_DONTNEED || is_owner()) {
    return __real_madvise(at, bytes, advice);
  }
  begin_call();
  result = __real_madvise(at, bytes, advice);
  end_call(bytes);
  return result;
}

static long wrapped_call(long number, long *arguments)
{
  long result;

  if (number != SYS_process_madvise || is_owner()) {
    return real_call(number, arguments);
  }
  begin_call();
  result = real_call(number, arguments);
  end_call(result < 0 ? 0 : batch_bytes(arguments));
  return result;
}

static struct block pieces[PIECES], wide, small[SMALL];

static void begin_turn(void)
{
  turn_naps = 0;
  seen = 0;
}

static void end_turn(void)
{
  most_seen = seen > most_seen ? seen : most_seen;
  turns++;
}

static void allocate(ebb_heap *heap, struct block *block, size_t size)
{
  begin_turn();
  block->at = ebb_alloc(heap, NULL, 0, size);
  end_turn();
  REQUIRE(block->at != NULL);
  block->size = size;
  block_fill(block, turns);
}

static void free_block(ebb_heap *heap, struct block *block)
{
  CHECK(block_kept(block, block->at, block->size));
  begin_turn();
  ebb_alloc(heap, block->at, block->size, 0);
  end_turn();
  block->at = NULL;
}

/* Allocates the block, or frees it. */
static void toggle(ebb_heap *heap, struct block *block, size_t size)
{
  if (block->at == NULL) {
    allocate(heap, block, size);
  } else {
    free_block(heap, block);
  }
}

/* All are there, in the places that they had in the first round. */
static void allocate_all(ebb_heap *heap, unsigned count_small)
{
  unsigned i;

  for (i = 0; i < count_small; i++) {
    if (small[i].at == NULL) {
      allocate(heap, &small[i], 100 + i * 5);
    }
  }
  for (i = 0; i < PIECES; i++) {
    if (pieces[i].at == NULL) {
      allocate(heap, &pieces[i], PIECE);
    }
  }
}

static void free_all(ebb_heap *heap, struct block *blocks, unsigned count)
{
  unsigned i;

  for (i = 0; i < count; i++) {
    if (blocks[i].at != NULL) {
      free_block(heap, &blocks[i]);
    }
  }
}

/* Every other piece is free, and a wide place at the end, and all of that is due.
 * Returns when the background thread has begun, or the owner has returned most. */
static void fall_due(ebb_heap *heap, unsigned count_small)
{
  unsigned before, i;

  is_alone_in_the_end();
  set(heap, "retain", 256 * MIB);
  allocate_all(heap, count_small);
  for (i = 0; i < PIECES; i += 2) {
    free_block(heap, &pieces[i]);
  }
  free_block(heap, &pieces[PIECES - 3]);
  free_block(heap, &pieces[PIECES - 1]);
  before = begun;
  ready_calls = 0;
  is_ready = 1;
  set(heap, "retain", 0);
  while (begun == before && stats_of(heap, 0).free_resident > 8 * MIB) {
    allocate(heap, &wide, WIDE);
    free_block(heap, &wide);
    nap_us(1000);
  }
}

/* The highest pages go back first: the wide block needs some of those that are on
 * their way. */
static void work_while_it_goes_back(ebb_heap *heap, unsigned count_small)
{
  static struct rng rng = { 3 };
  unsigned calls = ended, i, k;

  for (i = 0; i < 200 || (ended < calls + 10 && i < 20000); i++) {
    toggle(heap, &wide, WIDE);
    for (k = 0; k < 10 && count_small > 0; k++) {
      unsigned n = (unsigned)rng_below(&rng, count_small);

      toggle(heap, &small[n], 100 + n * 5);
    }
  }
  is_ready = 0;
  free_all(heap, &wide, 1);
}

/* Two rounds, and more until the owner has waited in as many as wanted. */
static void rounds(unsigned count_small, unsigned wanted)
{
  ebb_options options = no_options();
  unsigned waited = 0, count;
  ebb_heap *heap;

  options.background = 1;
  options.decay_ms = 1;
  heap = heap_from(&options);
  for (count = 0; count < 2 || waited < wanted; count++) {
    unsigned before = naps;

    REQUIRE(count < 50);
    fall_due(heap, count_small);
    work_while_it_goes_back(heap, count_small);
    waited += naps > before;
  }
  is_alone_in_the_end();
  is_as_low_as_reclaim_gets(heap);
  free_all(heap, pieces, PIECES);
  free_all(heap, small, count_small);
  heap_ends_empty(heap);
}

static void an_owner_waits_for_what_goes_back_in_one_go(void)
{
  most_seen = 0;
  rounds(0, 2);
  CHECK(most_seen <= SEEN);
  printf("at most %u places, %u calls, %u naps, %u turns\n", most_seen, ended,
         naps, turns);
}

static void spans_lose_nothing(void)
{
  rounds(SMALL, 0);
}

int main(void)
{
  struct sigaction action;

  owner = pthread_self();
  memset(&action, 0, sizeof action);
  action.sa_handler = stop_owner;
  action.sa_flags = SA_RESTART;
  REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
  RUN(an_owner_waits_for_what_goes_back_in_one_go);
  RUN(spans_lose_nothing);
  return check_status();
}
