/* A fork server: the parent makes a VM and loads it; each child serves from its
 * own copy, waits, gives memory back and ends, while the parent waits for it.
 * Before that, a child of a host with a thread that has a VM, which the child
 * has not. The first argument is the Lua script. */

#include "serving_vm.h"

#include <poll.h>
#include <pthread.h>

#define CHILDREN 12
#define AT_ONCE 4

static int serve(lua_State *L, const char *script)
{
  lua_State *own = vm_new(script);

  ask(L, "check");
  ask(L, "load");
  ask(own, "load");
  ask(L, "rest");
  CHECK_EQ(poll(NULL, 0, 200), 0);
  ask(L, "load");
  ask(L, "check");
  ask(own, "check");
  lua_close(own);
  lua_close(L);
  return check_status();
}

/* A thread that has a VM with much to give back, and does not come to wait. */
static struct {
  const char *script;
  pthread_t thread;
  lua_State *L;
  int ready[2];
  int end[2];
} owner;

static void *have_a_vm(void *argument)
{
  char byte = 0;
  int i;

  (void)argument;
  owner.L = vm_new(owner.script);
  for (i = 0; i < 6; i++) {
    ask(owner.L, "load");
  }
  ask(owner.L, "rest");
  REQUIRE(write(owner.ready[1], &byte, 1) == 1);
  REQUIRE(read(owner.end[0], &byte, 1) == 1);
  ask(owner.L, "check");
  lua_close(owner.L);
  return NULL;
}

/* In the child, where a new thread has the number of the one that was the
 * owner: the VM is nobody's until it is used. */
static void *come_after(void *argument)
{
  size_t before = rss_bytes();
  int i;

  (void)argument;
  REQUIRE(pthread_equal(pthread_self(), owner.thread));
  for (i = 0; i < 20; i++) {
    poll(NULL, 0, 15);
  }
  CHECK(rss_bytes() + MIB > before);
  ask(owner.L, "check");
  for (i = 0; i < 1000 && rss_bytes() + 4 * MIB > before; i++) {
    poll(NULL, 0, 15);
  }
  CHECK(rss_bytes() + 4 * MIB < before);
  ask(owner.L, "check");
  lua_close(owner.L);
  return NULL;
}

static void child_of_threads(const void *argument)
{
  pthread_t thread;

  (void)argument;
  REQUIRE(pthread_create(&thread, NULL, come_after, NULL) == 0);
  pthread_join(thread, NULL);
}

static void fork_beside_a_thread(const char *script)
{
  char byte = 0;

  owner.script = script;
  REQUIRE(pipe(owner.ready) == 0 && pipe(owner.end) == 0);
  REQUIRE(pthread_create(&owner.thread, NULL, have_a_vm, NULL) == 0);
  REQUIRE(read(owner.ready[0], &byte, 1) == 1);
  CHECK_EQ(in_child(child_of_threads, NULL), 0);
  REQUIRE(write(owner.end[1], &byte, 1) == 1);
  pthread_join(owner.thread, NULL);
}

int main(int argc, char **argv)
{
  lua_State *L;
  int started, ended = 0;

  REQUIRE(argc == 2);
  /* What hangs has failed. */
  alarm(300);
  fork_beside_a_thread(argv[1]);
  L = vm_new(argv[1]);
  ask(L, "load");
  for (started = 0; ended < CHILDREN;) {
    int status;

    if (started < CHILDREN && started - ended < AT_ONCE) {
      pid_t child = fork();

      if (child == 0) {
        _exit(serve(L, argv[1]));
      }
      REQUIRE(child > 0);
      started++;
    }
    ask(L, started % 2 ? "load" : "rest");
    poll(NULL, 0, 10);
    while (waitpid(-1, &status, WNOHANG) > 0) {
      CHECK_EQ(status, 0);
      ended++;
    }
  }
  ask(L, "check");
  lua_close(L);
  return check_status();
}
