/* The library's background thread, beside the owner of the heaps.
 *
 * By turns: one of the two runs at a time. The thread stops before and after each
 * call to the kernel and when it sleeps. It goes on when the program says so, and
 * whenever the owner waits for it. So the same program does the same again.
 *
 * At once: both run. The thread's calls are the real kernel's, and time passes as
 * soon as the thread sleeps. What is lost shows, but no program does the same again. */

#ifndef BESIDE_H
#define BESIDE_H

#include "../../ffi-tests/c/include/syscall_faults.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

enum company { ALONE, BY_TURNS, AT_ONCE };

/* Between two visits of a thread that runs at once. */
#define NAP_NS 20000
/* Later than any heap wants a visit, from the time at which a program begins. */
#define LONG_US 1000000000000

static struct {
  enum company company;
  sem_t owner_goes, thread_goes;
  unsigned alive; /* threads that have not ended */
  uint64_t purges; /* in all programs */
  int sleeps;
  uint64_t wakes_us;
  void *(*run)(void *); /* the thread's function, and its argument */
  void *argument;
} beside;

int __real_nanosleep(const struct timespec *, struct timespec *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *,
                          void *(*)(void *), void *);
int __wrap_nanosleep(const struct timespec *, struct timespec *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *,
                          void *(*)(void *), void *);

static unsigned beside_alive(void)
{
  return __atomic_load_n(&beside.alive, __ATOMIC_ACQUIRE);
}

static void beside_await(sem_t *goes)
{
  while (sem_wait(goes) != 0) {
  }
}

/* It is no earlier than that from now on. */
static void beside_time_is(uint64_t us)
{
  uint64_t now = __atomic_load_n(&unkind.now_us, __ATOMIC_RELAXED);

  while (now < us
         && !__atomic_compare_exchange_n(&unkind.now_us, &now, us, 1,
                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

static void beside_nap(void)
{
  struct timespec nap = { 0, NAP_NS };

  __real_nanosleep(&nap, NULL);
}

/* The thread: the owner goes on, until it lets the thread. */
static void beside_stop(void)
{
  int saved = errno;

  if (beside.company == BY_TURNS) {
    sem_post(&beside.owner_goes);
    beside_await(&beside.thread_goes);
  }
  errno = saved;
}

static void beside_purged(void)
{
  __atomic_fetch_add(&beside.purges, 1, __ATOMIC_RELAXED);
}

static void beside_sleep(uint64_t us)
{
  uint64_t wakes_us = __atomic_load_n(&unkind.now_us, __ATOMIC_RELAXED) + us;

  if (beside.company == AT_ONCE) {
    beside_nap();
    beside_time_is(wakes_us);
    return;
  }
  beside.wakes_us = wakes_us;
  beside.sleeps = 1;
  beside_stop();
  beside.sleeps = 0;
}

/* The owner: the thread goes on to where it stops next. */
static void beside_pass(void)
{
  int saved = errno;

  if (beside.company == BY_TURNS && beside_alive() > 0) {
    sem_post(&beside.thread_goes);
    beside_await(&beside.owner_goes);
  }
  errno = saved;
}

/* The library's thread holds all signals back: without these nobody is told in
 * which program it was. */
static void beside_tells_of_its_end(void)
{
  sigset_t ends;

  sigemptyset(&ends);
  sigaddset(&ends, SIGSEGV);
  sigaddset(&ends, SIGBUS);
  sigaddset(&ends, SIGILL);
  pthread_sigmask(SIG_UNBLOCK, &ends, NULL);
}

static void *beside_run(void *unused)
{
  static const struct unkind_beside thread = { beside_stop, beside_purged,
                                               beside_sleep };

  (void)unused;
  beside_tells_of_its_end();
  unkind_beside = &thread;
  if (beside.company == BY_TURNS) {
    beside_await(&beside.thread_goes);
    unkind_enter();
  }
  beside.run(beside.argument);
  unkind_again(NULL, 0);
  __atomic_fetch_sub(&beside.alive, 1, __ATOMIC_RELEASE);
  if (beside.company == BY_TURNS) {
    sem_post(&beside.owner_goes);
  }
  return NULL;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *), void *argument)
{
  int error;

  if (!unkind_inside || beside.company == ALONE) {
    return __real_pthread_create(thread, attributes, run, argument);
  }
  /* It needs a stack. */
  if (unkind_refuses(CALL_MMAP)) {
    return EAGAIN;
  }
  beside.run = run;
  beside.argument = argument;
  __atomic_fetch_add(&beside.alive, 1, __ATOMIC_ACQUIRE);
  error = __real_pthread_create(thread, attributes, beside_run, NULL);
  if (error != 0) {
    __atomic_fetch_sub(&beside.alive, 1, __ATOMIC_RELAXED);
  }
  return error;
}

/* The library's owner of a heap does so when it waits for the thread. */
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
  if (!unkind_inside || beside.company == ALONE) {
    return __real_nanosleep(time, left);
  }
  if (beside.company == BY_TURNS) {
    beside_pass();
  } else {
    beside_nap();
  }
  return 0;
}

/* There are no heaps any more: so the thread ends. */
static void beside_ends(void)
{
  while (beside_alive() > 0) {
    beside_time_is(LONG_US);
    if (beside.company == BY_TURNS) {
      beside_pass();
    } else {
      beside_nap();
    }
  }
  beside.company = ALONE;
}

static void beside_begins(enum company company)
{
  sem_init(&beside.owner_goes, 0, 0);
  sem_init(&beside.thread_goes, 0, 0);
  beside.company = company;
}

#endif /* BESIDE_H */
