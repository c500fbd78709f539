/* VMs and threads: sixty-four VMs on eight threads, and VMs that go from hand
 * to hand while the thread that made them waits. The first argument is the Lua
 * script that each VM runs. */

#include "serving_vm.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>

#define THREADS 8
#define VMS_EACH 8
#define TURNS 1500

static const char *script;

static void *serve_eight(void *argument)
{
  lua_State *vms[VMS_EACH];
  int round, i;

  (void)argument;
  for (i = 0; i < VMS_EACH; i++) {
    vms[i] = vm_new(script);
  }
  for (round = 0; round < 5; round++) {
    for (i = 0; i < VMS_EACH; i++) {
      ask(vms[i], round == 0 ? "load" : "some");
      poll(NULL, 0, 1 + i);
      ask(vms[i], i % 2 ? "rest" : "check");
    }
    poll(NULL, 0, 100);
  }
  for (i = 0; i < VMS_EACH; i++) {
    ask(vms[i], "check");
    lua_close(vms[i]);
  }
  return NULL;
}

static void sixty_four_vms_on_eight_threads(void)
{
  pthread_t threads[THREADS];
  int i;

  for (i = 0; i < THREADS; i++) {
    REQUIRE(pthread_create(&threads[i], NULL, serve_eight, NULL) == 0);
  }
  for (i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
}

/* VMs that nobody uses at the moment. */
static struct {
  pthread_mutex_t lock;
  lua_State *vms[THREADS];
  int count;
  int turns;
} bench = { .lock = PTHREAD_MUTEX_INITIALIZER };

static lua_State *take(void)
{
  lua_State *L = NULL;

  pthread_mutex_lock(&bench.lock);
  if (bench.turns < TURNS && bench.count > 0) {
    /* The one that waits the longest: it was another thread's. */
    L = bench.vms[0];
    bench.count--;
    memmove(bench.vms, bench.vms + 1, (size_t)bench.count * sizeof L);
    bench.turns++;
  }
  pthread_mutex_unlock(&bench.lock);
  return L;
}

static void put_back(lua_State *L)
{
  pthread_mutex_lock(&bench.lock);
  bench.vms[bench.count++] = L;
  pthread_mutex_unlock(&bench.lock);
}

static int turns(void)
{
  int so_far;

  pthread_mutex_lock(&bench.lock);
  so_far = bench.turns;
  pthread_mutex_unlock(&bench.lock);
  return so_far;
}

static void *work(void *argument)
{
  struct rng rng = { (uint64_t)(size_t)argument };

  while (turns() < TURNS) {
    lua_State *L = take();

    if (L != NULL) {
      ask(L, "some");
      if (rng_below(&rng, 5) == 0) {
        ask(L, "rest");
      }
      if (rng_below(&rng, 2) == 0) {
        /* It waits with the VM in its hands, too. */
        poll(NULL, 0, (int)rng_below(&rng, 4));
      }
      ask(L, "check");
      put_back(L);
    }
    poll(NULL, 0, 1 + (int)rng_below(&rng, 3));
  }
  return NULL;
}

/* The main thread makes the VMs, and is about to exhale them when others have
 * long begun to use them. */
static void vms_go_from_hand_to_hand(void)
{
  pthread_t threads[4];
  struct epoll_event event;
  int epoll = epoll_create1(0);
  size_t i;

  for (i = 0; i < THREADS; i++) {
    lua_State *L = vm_new(script);

    ask(L, "load");
    ask(L, "rest");
    put_back(L);
  }
  for (i = 0; i < COUNT_OF(threads); i++) {
    REQUIRE(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
  }
  while (turns() < TURNS) {
    CHECK_EQ(epoll_wait(epoll, &event, 1, 3), 0);
  }
  for (i = 0; i < COUNT_OF(threads); i++) {
    pthread_join(threads[i], NULL);
  }
  /* Last used by others, closed here. */
  CHECK_EQ(bench.count, THREADS);
  for (i = 0; i < THREADS; i++) {
    ask(bench.vms[i], "check");
    lua_close(bench.vms[i]);
  }
  close(epoll);
}

int main(int argc, char **argv)
{
  REQUIRE(argc == 2);
  /* What hangs has failed. */
  alarm(300);
  script = argv[1];
  RUN(sixty_four_vms_on_eight_threads);
  RUN(vms_go_from_hand_to_hand);
  return check_status();
}
