/* The library's background thread, while the program uses the heaps.
 *
 * By turns: one of the two runs at a time. The thread stops before and after each
 * call to the kernel and when it sleeps. It goes on when the program says so, and
 * whenever the owner waits for it. So the same program does the same again.
 *
 * At once: both run. The thread's calls are the real kernel's, and time passes as
 * soon as the thread sleeps. What is lost shows, but no program does the same again. */

#ifndef BACKGROUND_H
#define BACKGROUND_H

#include "syscall_faults.h"

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
} background;

int __real_nanosleep(const struct timespec *, struct timespec *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *,
                          void *(*)(void *), void *);
int __wrap_nanosleep(const struct timespec *, struct timespec *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *,
                          void *(*)(void *), void *);

static unsigned background_alive(void)
{
  return __atomic_load_n(&background.alive, __ATOMIC_ACQUIRE);
}

static void background_await(sem_t *goes)
{
  while (sem_wait(goes) != 0) {
  }
}

/* It is no earlier than that from now on. */
static void background_clock_reaches(uint64_t us)
{
  uint64_t now = __atomic_load_n(&faults.now_us, __ATOMIC_RELAXED);

  while (now < us
         && !__atomic_compare_exchange_n(&faults.now_us, &now, us, 1,
                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

static void background_nap(void)
{
  struct timespec nap = { 0, NAP_NS };

  __real_nanosleep(&nap, NULL);
}

/* The thread: the owner goes on, until it lets the thread. */
static void background_stop(void)
{
  int saved = errno;

  if (background.company == BY_TURNS) {
    sem_post(&background.owner_goes);
    background_await(&background.thread_goes);
  }
  errno = saved;
}

static void background_purged(void)
{
  __atomic_fetch_add(&background.purges, 1, __ATOMIC_RELAXED);
}

static void background_sleep(uint64_t us)
{
  uint64_t wakes_us = __atomic_load_n(&faults.now_us, __ATOMIC_RELAXED) + us;

  if (background.company == AT_ONCE) {
    background_nap();
    background_clock_reaches(wakes_us);
    return;
  }
  background.wakes_us = wakes_us;
  background.sleeps = 1;
  background_stop();
  background.sleeps = 0;
}

/* The owner: the thread goes on to where it stops next. */
static void background_pass(void)
{
  int saved = errno;

  if (background.company == BY_TURNS && background_alive() > 0) {
    sem_post(&background.thread_goes);
    background_await(&background.owner_goes);
  }
  errno = saved;
}

/* The library's thread holds all signals back: with these unblocked, the report
 * of a crash names the program. */
static void background_unblock_faults(void)
{
  sigset_t ends;

  sigemptyset(&ends);
  sigaddset(&ends, SIGSEGV);
  sigaddset(&ends, SIGBUS);
  sigaddset(&ends, SIGILL);
  pthread_sigmask(SIG_UNBLOCK, &ends, NULL);
}

static void *background_run(void *unused)
{
  static const struct background_hooks thread = { background_stop,
                                                  background_purged,
                                                  background_sleep };

  (void)unused;
  background_unblock_faults();
  background_hooks = &thread;
  if (background.company == BY_TURNS) {
    background_await(&background.thread_goes);
    faults_enter();
  }
  background.run(background.argument);
  purge_again(NULL, 0);
  __atomic_fetch_sub(&background.alive, 1, __ATOMIC_RELEASE);
  if (background.company == BY_TURNS) {
    sem_post(&background.owner_goes);
  }
  return NULL;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *), void *argument)
{
  int error;

  if (!faults_inside || background.company == ALONE) {
    return __real_pthread_create(thread, attributes, run, argument);
  }
  /* It needs a stack. */
  if (faults_refuse(CALL_MMAP)) {
    return EAGAIN;
  }
  background.run = run;
  background.argument = argument;
  __atomic_fetch_add(&background.alive, 1, __ATOMIC_ACQUIRE);
  error = __real_pthread_create(thread, attributes, background_run, NULL);
  if (error != 0) {
    __atomic_fetch_sub(&background.alive, 1, __ATOMIC_RELAXED);
  }
  return error;
}

/* The library's owner of a heap does so when it waits for the thread. */
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
  if (!faults_inside || background.company == ALONE) {
    return __real_nanosleep(time, left);
  }
  if (background.company == BY_TURNS) {
    background_pass();
  } else {
    background_nap();
  }
  return 0;
}

/* There are no heaps any more: so the thread ends. */
static void background_end(void)
{
  while (background_alive() > 0) {
    background_clock_reaches(LONG_US);
    if (background.company == BY_TURNS) {
      background_pass();
    } else {
      background_nap();
    }
  }
  background.company = ALONE;
}

static void background_begin(enum company company)
{
  sem_init(&background.owner_goes, 0, 0);
  sem_init(&background.thread_goes, 0, 0);
  background.company = company;
}

#endif /* BACKGROUND_H */
