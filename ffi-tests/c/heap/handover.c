/* A heap that passes from thread to thread, and one that lives through a
 * fork: whoever holds it goes on where the last one stopped, with work and
 * with giving memory back. */

#include "tick_host.h"

#include <pthread.h>

#define BLOCKS 5000

struct session {
  ebb_heap *heap;
  struct rng rng;
  struct block blocks[BLOCKS];
};

static struct session session;

static void session_start(uint64_t seed)
{
  memset(&session, 0, sizeof session);
  session.heap = heap_of_decay(20);
  session.rng.state = seed;
}

/* Allocates, resizes and frees for a while. */
static void session_work(void)
{
  unsigned i;

  for (i = 0; i < steps(30000); i++) {
    struct block *block = &session.blocks[rng_below(&session.rng, BLOCKS)];
    size_t size = rng_size(&session.rng, MIB);

    if (block->at == NULL) {
      block_new(session.heap, block, size, i);
    } else if (rng_below(&session.rng, 2) == 0) {
      CHECK(block_resize(session.heap, block, block->size, size, i));
    } else {
      block_end(session.heap, block);
    }
  }
}

static void session_go_on(void)
{
  session_work();
  CHECK_EQ(ebb_reclaim(session.heap, NULL, NULL), EBB_OK);
}

static void session_is_unharmed(void)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    struct block *block = &session.blocks[i];

    CHECK(block->at == NULL || block_kept(block, block->at, block->size));
  }
}

/* Works, and gives back a part of what is due. */
static void session_breathe(void)
{
  unsigned i;

  session_work();
  for (i = 0; i < 10; i++) {
    leave_free(session.heap, 4 * MIB);
    sleep_ms(5);
    CHECK(ebb_tick(session.heap, 1) >= EBB_OK);
  }
  session_is_unharmed();
}

/* Gives back all that is due and nothing that is needed. */
static void session_rest(void)
{
  be_idle(session.heap);
  CHECK(stats_of(session.heap, 0).returned_idle > 0);
  CHECK_EQ(stats_of(session.heap, 0).due, 0);
  session_is_unharmed();
}

static void session_end(void)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    if (session.blocks[i].at != NULL) {
      block_end(session.heap, &session.blocks[i]);
    }
  }
  heap_ends_empty(session.heap);
}

static void *on_thread(void *body)
{
  (*(void (**)(void))body)();
  return NULL;
}

static void in_thread(void (*body)(void))
{
  pthread_t thread;

  REQUIRE(pthread_create(&thread, NULL, on_thread, &body) == 0);
  REQUIRE(pthread_join(thread, NULL) == 0);
}

static void threads_take_turns(void)
{
  unsigned turn;

  session_start(31);
  for (turn = 0; turn < 5; turn++) {
    in_thread(session_go_on);
  }
  session_go_on();
  in_thread(session_end);
}

static void threads_breathe_in_turn(void)
{
  unsigned turn;

  session_start(35);
  for (turn = 0; turn < 5; turn++) {
    in_thread(session_breathe);
    in_thread(session_rest);
    session_breathe();
  }
  in_thread(session_rest);
  in_thread(session_end);
}

static void child_goes_on(const void *argument)
{
  (void)argument;
  session_go_on();
  session_end();
}

static void parent_and_child_go_on(void)
{
  unsigned generation;

  session_start(32);
  for (generation = 0; generation < 3; generation++) {
    session_go_on();
    CHECK_EQ(in_child(child_goes_on, NULL), 0);
  }
  session_go_on();
  session_end();
}

static void child_rests(const void *argument)
{
  (void)argument;
  session_rest();
  session_breathe();
  session_rest();
  session_end();
}

/* Much is due when the process forks; then both give it back. */
static void parent_and_child_breathe(void)
{
  unsigned generation;

  session_start(36);
  for (generation = 0; generation < 3; generation++) {
    session_breathe();
    leave_free(session.heap, 40 * MIB);
    CHECK_EQ(in_child(child_rests, NULL), 0);
    session_rest();
    CHECK(stats_of(session.heap, 0).free_resident < 4 * MIB);
  }
  session_end();
}

/* Its own heap first, then the one that it got from its parent. */
static void child_makes_heaps(const void *argument)
{
  struct session inherited = session;

  (void)argument;
  session_start(34);
  session_go_on();
  session_end();
  session = inherited;
  session_go_on();
  session_end();
}

static void a_child_of_a_thread_goes_on(void)
{
  session_start(33);
  in_thread(session_go_on);
  CHECK_EQ(in_child(child_makes_heaps, NULL), 0);
  in_thread(session_end);
}

int main(void)
{
  RUN(threads_take_turns);
  RUN(threads_breathe_in_turn);
  RUN(parent_and_child_go_on);
  RUN(parent_and_child_breathe);
  RUN(a_child_of_a_thread_goes_on);
  return check_status();
}
