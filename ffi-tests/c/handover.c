/* A heap that passes from thread to thread, and one that lives through a
 * fork: whoever holds it goes on where the last one stopped. */

#include "check.h"

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
  session.heap = heap_of(0);
  session.rng.state = seed;
}

/* Allocates, resizes, frees and reclaims for a while. */
static void session_go_on(void)
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
  CHECK_EQ(ebb_reclaim(session.heap, NULL, NULL), EBB_OK);
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
  RUN(parent_and_child_go_on);
  RUN(a_child_of_a_thread_goes_on);
  return check_status();
}
