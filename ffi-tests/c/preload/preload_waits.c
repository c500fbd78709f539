/* What a program gets from the functions that wait: the same with the preload
 * library, while the heap of its VM exhales between the slices of each wait, as
 * without. The first argument is the Lua script that keeps the heap busy. */

#include "serving_vm.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

/* The least and the most that a wait of TIMEOUT_MS may take. */
#define TIMEOUT_MS 250
#define LATE_MS 20000
#define FOR_EVER (-1)

/* What poll() becomes under _FORTIFY_SOURCE. */
extern int __poll_chk(struct pollfd *descriptors, nfds_t count, int timeout,
                      size_t size);

/* The compiler would not have it called as wrongly as it is here. */
static int (*volatile any_poll)(struct pollfd *, nfds_t, int) = poll;

enum way { EPOLL_WAIT, EPOLL_PWAIT, POLL, POLL_CHK, SELECT, WAYS };

static const char *script;
static lua_State *vm;
/* A pipe: what is written to its end wakes up who waits for its start. */
static int pipe_start, pipe_end;
static volatile sig_atomic_t handled;

static double now_ms(void)
{
  struct timespec time;

  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void sleep_ms(long ms)
{
  struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

  nanosleep(&time, NULL);
}

/* Leaves the heap with memory to give back, now and for some time. */
static void stir(lua_State *L)
{
  ask(L, "load");
  ask(L, "rest");
}

static int wait_epoll(enum way way, int descriptor, int timeout_ms)
{
  struct epoll_event event;
  int epoll = epoll_create1(0), ready, saved;

  memset(&event, 0, sizeof event);
  event.events = EPOLLIN;
  event.data.fd = descriptor;
  REQUIRE(epoll >= 0);
  REQUIRE(epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0);
  memset(&event, 0, sizeof event);
  errno = ERRNO_MARK;
  ready = way == EPOLL_WAIT
            ? epoll_wait(epoll, &event, 1, timeout_ms)
            : epoll_pwait(epoll, &event, 1, timeout_ms, NULL);
  saved = errno;
  CHECK(ready != 1 || (event.data.fd == descriptor && event.events == EPOLLIN));
  close(epoll);
  errno = saved;
  return ready;
}

static int wait_poll(enum way way, int descriptor, int timeout_ms)
{
  struct pollfd asked = { descriptor, POLLIN, 0 };
  int ready;

  errno = ERRNO_MARK;
  ready = way == POLL ? poll(&asked, 1, timeout_ms)
                      : __poll_chk(&asked, 1, timeout_ms, sizeof asked);
  CHECK(ready < 0 || asked.revents == (ready == 1 ? POLLIN : 0));
  return ready;
}

static int wait_select(int descriptor, int timeout_ms)
{
  struct timeval time = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
  fd_set readable, writable;
  int ready;

  FD_ZERO(&readable);
  FD_ZERO(&writable);
  FD_SET(descriptor, &readable);
  errno = ERRNO_MARK;
  ready = select(descriptor + 1, &readable, &writable, NULL,
                 timeout_ms < 0 ? NULL : &time);
  /* Nothing ready: the set is emptied; an error: it is as it was. */
  CHECK(!!FD_ISSET(descriptor, &readable) == (ready != 0));
  if (timeout_ms >= 0 && ready == 0) {
    CHECK(time.tv_sec == 0 && time.tv_usec == 0);
  }
  return ready;
}

static int wait_in(enum way way, int descriptor, int timeout_ms)
{
  switch (way) {
  case EPOLL_WAIT:
  case EPOLL_PWAIT:
    return wait_epoll(way, descriptor, timeout_ms);
  case POLL:
  case POLL_CHK:
    return wait_poll(way, descriptor, timeout_ms);
  default:
    return wait_select(descriptor, timeout_ms);
  }
}

static void a_wait_takes_all_of_its_time(void)
{
  enum way way;

  for (way = 0; way < WAYS; way++) {
    double start, took;

    stir(vm);
    start = now_ms();
    CHECK_EQ(wait_in(way, pipe_start, TIMEOUT_MS), 0);
    CHECK_EQ(errno, ERRNO_MARK);
    took = now_ms() - start;
    CHECK(took >= TIMEOUT_MS && took < TIMEOUT_MS + LATE_MS);
    start = now_ms();
    CHECK_EQ(wait_in(way, pipe_start, 0), 0);
    CHECK(now_ms() - start < LATE_MS);
  }
}

static void *write_later(void *ms)
{
  sleep_ms((long)(size_t)ms);
  REQUIRE(write(pipe_end, "x", 1) == 1);
  return NULL;
}

static void what_becomes_ready_ends_a_wait(void)
{
  enum way way;

  for (way = 0; way < 2 * WAYS; way++) {
    pthread_t writer;
    char byte;

    stir(vm);
    pthread_create(&writer, NULL, write_later, (void *)(size_t)100);
    CHECK_EQ(wait_in(way % WAYS, pipe_start, way < WAYS ? FOR_EVER : 60000), 1);
    CHECK_EQ(errno, ERRNO_MARK);
    /* What is ready already is told as well. */
    CHECK_EQ(wait_in(way % WAYS, pipe_start, FOR_EVER), 1);
    pthread_join(writer, NULL);
    REQUIRE(read(pipe_start, &byte, 1) == 1);
  }
}

static void errors_come_as_they_are(void)
{
  struct epoll_event event;
  struct timeval negative = { -1, 0 }, time = { 1, 0 };
  struct pollfd none;
  fd_set readable;
  int epoll = epoll_create1(0);

  stir(vm);
  CHECK(epoll_wait(-1, &event, 1, FOR_EVER) == -1 && errno == EBADF);
  CHECK(epoll_wait(pipe_start, &event, 1, 1000) == -1 && errno == EINVAL);
  CHECK(epoll_wait(epoll, &event, 0, FOR_EVER) == -1 && errno == EINVAL);
  CHECK(epoll_pwait(-1, &event, 1, 1000, NULL) == -1 && errno == EBADF);
  CHECK(any_poll(&none, 0xfffffff0, FOR_EVER) == -1 && errno == EINVAL);
  CHECK(any_poll(NULL, 1, 1000) == -1 && errno == EFAULT);
  CHECK(select(-1, NULL, NULL, NULL, NULL) == -1 && errno == EINVAL);
  CHECK(select(0, NULL, NULL, NULL, &negative) == -1 && errno == EINVAL);
  close(epoll);
  FD_ZERO(&readable);
  FD_SET(epoll, &readable);
  CHECK(select(epoll + 1, &readable, NULL, NULL, &time) == -1);
  CHECK_EQ(errno, EBADF);
}

static void select_tells_what_is_left(void)
{
  struct timeval time = { 60, 0 };
  pthread_t writer;
  fd_set readable;
  char byte;

  stir(vm);
  FD_ZERO(&readable);
  FD_SET(pipe_start, &readable);
  pthread_create(&writer, NULL, write_later, (void *)(size_t)100);
  CHECK_EQ(select(pipe_start + 1, &readable, NULL, NULL, &time), 1);
  CHECK(time.tv_sec < 60 && time.tv_sec > 30);
  pthread_join(writer, NULL);
  REQUIRE(read(pipe_start, &byte, 1) == 1);
}

static void handler(int signal)
{
  (void)signal;
  handled++;
}

static int is_held(int signal)
{
  sigset_t held;

  pthread_sigmask(SIG_BLOCK, NULL, &held);
  return sigismember(&held, signal);
}

static volatile sig_atomic_t wait_is_over;

/* Signals until the wait has ended: some may come before it. */
static void *signal_later(void *thread)
{
  while (!wait_is_over) {
    sleep_ms(100);
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
  }
  return NULL;
}

static void a_signal_ends_a_wait(void)
{
  pthread_t self = pthread_self();
  enum way way;

  for (way = 0; way < 2 * WAYS; way++) {
    pthread_t signaller;

    stir(vm);
    wait_is_over = 0;
    pthread_create(&signaller, NULL, signal_later, &self);
    CHECK_EQ(wait_in(way % WAYS, pipe_start, way < WAYS ? FOR_EVER : 60000),
             -1);
    CHECK_EQ(errno, EINTR);
    CHECK(handled > 0);
    CHECK(!is_held(SIGUSR1) && !is_held(SIGTERM));
    wait_is_over = 1;
    pthread_join(signaller, NULL);
    handled = 0;
  }
}

static void *signal_soon(void *thread)
{
  struct rng rng = { 11 };
  int round;

  for (round = 0; round < 300; round++) {
    struct timespec time = { 0, (long)rng_below(&rng, 3000000) };

    nanosleep(&time, NULL);
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
    while (handled <= round) {
      sleep_ms(1);
    }
  }
  return NULL;
}

/* A signal that is held back but in the wait cannot be missed, whether it
 * comes before the wait, in it, or while the heap exhales. */
static void no_signal_is_lost(void)
{
  struct epoll_event event;
  sigset_t usr1, in_wait;
  pthread_t self = pthread_self(), signaller;
  int epoll = epoll_create1(0), round;

  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &usr1, &in_wait);
  handled = 0;
  pthread_create(&signaller, NULL, signal_soon, &self);
  for (round = 0; round < 300; round++) {
    if (round % 30 == 0) {
      stir(vm);
    }
    CHECK_EQ(epoll_pwait(epoll, &event, 1, FOR_EVER, &in_wait), -1);
    CHECK_EQ(errno, EINTR);
    CHECK_EQ(handled, round + 1);
    CHECK(is_held(SIGUSR1));
  }
  pthread_join(signaller, NULL);
  /* And the other way round: what the wait holds back does not end it. */
  pthread_sigmask(SIG_SETMASK, &in_wait, NULL);
  sigaddset(&in_wait, SIGUSR1);
  stir(vm);
  handled = 0;
  pthread_sigmask(SIG_BLOCK, &usr1, NULL);
  raise(SIGUSR1);
  CHECK_EQ(epoll_pwait(epoll, &event, 1, TIMEOUT_MS, &in_wait), 0);
  CHECK_EQ(handled, 0);
  pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
  CHECK_EQ(handled, 1);
  close(epoll);
}

static volatile sig_atomic_t cleaned, is_about_to_wait;

static void clean(void *argument)
{
  (void)argument;
  cleaned = 1;
}

static void *wait_for_ever(void *way)
{
  lua_State *L = vm_new(script);

  stir(L);
  pthread_cleanup_push(clean, NULL);
  is_about_to_wait = 1;
  wait_in((enum way)(size_t)way, pipe_start, FOR_EVER);
  check_failed(__FILE__, __LINE__, "a wait for ever has ended");
  pthread_cleanup_pop(0);
  return NULL;
}

static void a_thread_is_cancelled_while_it_waits(void)
{
  enum way way;

  for (way = 0; way < WAYS; way++) {
    pthread_t thread;
    void *result = NULL;

    cleaned = is_about_to_wait = 0;
    pthread_create(&thread, NULL, wait_for_ever, (void *)(size_t)way);
    while (!is_about_to_wait) {
      sleep_ms(1);
    }
    sleep_ms(150);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    CHECK(result == PTHREAD_CANCELED);
    CHECK_EQ(cleaned, 1);
  }
}

static void a_forked_child_goes_on(void)
{
  pid_t child;
  int status;

  stir(vm);
  fflush(stdout);
  child = fork();
  if (child == 0) {
    check_failures = 0;
    stir(vm);
    a_wait_takes_all_of_its_time();
    ask(vm, "check");
    lua_close(vm);
    _exit(check_status());
  }
  a_wait_takes_all_of_its_time();
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
  ask(vm, "check");
}

int main(int argc, char **argv)
{
  struct sigaction action;
  int ends[2];

  REQUIRE(argc == 2);
  /* What hangs has failed. */
  alarm(300);
  script = argv[1];
  vm = vm_new(script);
  REQUIRE(pipe(ends) == 0);
  pipe_start = ends[0];
  pipe_end = ends[1];
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, NULL);
  RUN(a_wait_takes_all_of_its_time);
  RUN(what_becomes_ready_ends_a_wait);
  RUN(errors_come_as_they_are);
  RUN(select_tells_what_is_left);
  RUN(a_signal_ends_a_wait);
  RUN(no_signal_is_lost);
  RUN(a_thread_is_cancelled_while_it_waits);
  RUN(a_forked_child_goes_on);
  ask(vm, "check");
  lua_close(vm);
  return check_status();
}
