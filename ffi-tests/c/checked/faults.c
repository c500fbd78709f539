/* Signals that tell of faults, in a program whose heaps are checked: those that
 * somebody sends, and the handlers that the program had before. Each in a child
 * whose first heap is made there. */

#include "check.h"

#include <signal.h>

static void has_heap(void)
{
  ebb_heap *heap = heap_of(0);

  REQUIRE(ebb_alloc(heap, NULL, 0, 100) != NULL);
}

/* The signal that ended a child, or 0. */
static int ended_by(void (*run)(void))
{
  int status;
  pid_t child = fork();

  REQUIRE(child >= 0);
  if (child == 0) {
    run();
    _exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child);
  if (WIFEXITED(status)) {
    CHECK_EQ(WEXITSTATUS(status), 0);
    return 0;
  }
  return WTERMSIG(status);
}

static void sends_faults_itself(void)
{
  has_heap();
  raise(SIGSEGV);
}

static void sends_errors_itself(void)
{
  has_heap();
  kill(getpid(), SIGBUS);
}

static void does_not_mind(void)
{
  signal(SIGSEGV, SIG_IGN);
  has_heap();
  raise(SIGSEGV);
  raise(SIGSEGV);
}

static void does_not_mind_and_reads(void)
{
  char *hidden;

  does_not_mind();
  hidden = (char *)mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                        0);
  (void)*(volatile char *)hidden;
}

static volatile sig_atomic_t handled;
static sigset_t blocked_meanwhile;

static void on_signal(int number)
{
  (void)number;
  handled++;
  pthread_sigmask(SIG_BLOCK, NULL, &blocked_meanwhile);
}

static void handles(int flags)
{
  struct sigaction action;

  memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGUSR1);
  REQUIRE(sigaction(SIGSEGV, &action, NULL) == 0);
  has_heap();
  raise(SIGSEGV);
  if (handled != 1 || sigismember(&blocked_meanwhile, SIGUSR1) != 1) {
    _exit(1);
  }
  if (sigismember(&blocked_meanwhile, SIGSEGV) != !(flags & SA_NODEFER)) {
    _exit(2);
  }
  pthread_sigmask(SIG_BLOCK, NULL, &blocked_meanwhile);
  if (sigismember(&blocked_meanwhile, SIGUSR1) == 1) {
    _exit(3);
  }
  raise(SIGSEGV);
  if (handled != 2) {
    _exit(4);
  }
}

static void handles_each(void)
{
  handles(0);
}

static void handles_and_may_be_interrupted(void)
{
  handles(SA_NODEFER);
}

static void handles_one(void)
{
  handles(SA_RESETHAND);
}

static void signals_that_are_sent_arrive(void)
{
  CHECK_EQ(ended_by(has_heap), 0);
  CHECK_EQ(ended_by(sends_faults_itself), SIGSEGV);
  CHECK_EQ(ended_by(sends_errors_itself), SIGBUS);
  CHECK_EQ(ended_by(does_not_mind), 0);
  CHECK_EQ(ended_by(does_not_mind_and_reads), SIGSEGV);
}

static void handlers_are_called_as_by_the_kernel(void)
{
  CHECK_EQ(ended_by(handles_each), 0);
  CHECK_EQ(ended_by(handles_and_may_be_interrupted), 0);
  CHECK_EQ(ended_by(handles_one), SIGSEGV);
}

int main(void)
{
  RUN(signals_that_are_sent_arrive);
  RUN(handlers_are_called_as_by_the_kernel);
  return check_status();
}
