/* What a program sees of its signals: the same with the preload library, a
 * report on SIGTERM and one on SIGUSR2 as without. The first argument:
 *
 * plain     SIGUSR2 would end the program: it is not raised without a handler
 * reported  SIGUSR2 is the chosen signal and does nothing but a report
 * exits     prints "ready", and ends with status 3 by _exit when SIGTERM comes
 * busy      prints "ready", and works in Lua without ever waiting
 * leaves    waits for SIGTERM on a thread's mask, as many daemons do, and ends
 *           by _exit; children that end so before are not worth a report
 * survives  handles SIGTERM, and ends by _exit after as many ms as the second
 *           argument says
 * stuck     fills standard error, closes half of its VMs, prints "ready", and
 *           waits for SIGTERM */

#include "check.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>

/* sigset is deprecated, and used. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

/* Exported by the C library, with or without a declaration. */
extern int __sigaction(int, const struct sigaction *, struct sigaction *);
extern void (*bsd_signal(int, void (*)(int)))(int);

static volatile sig_atomic_t calls, last_signal, last_value, held_inside;
static sigjmp_buf back;

static void one_argument(int signal)
{
  calls++;
  last_signal = signal;
}

static void other(int signal)
{
  calls += 100;
  last_signal = signal;
}

static void three_arguments(int signal, siginfo_t *info, void *context)
{
  sigset_t held;

  CHECK(context != NULL);
  sigprocmask(SIG_BLOCK, NULL, &held);
  held_inside = sigismember(&held, SIGUSR1);
  last_value = info->si_value.sival_int;
  one_argument(signal);
}

static void jumps(int signal)
{
  (void)signal;
  siglongjmp(back, 1);
}

static void (*action_of(int signal))(int)
{
  struct sigaction now;

  CHECK_EQ(sigaction(signal, NULL, &now), 0);
  return now.sa_handler;
}

/* How many calls of a handler a signal brings. */
static int calls_of(int signal)
{
  calls = 0;
  CHECK_EQ(raise(signal), 0);
  return calls;
}

static void actions_at_the_start_are_defaults(void)
{
  struct sigaction now;

  CHECK(action_of(SIGTERM) == SIG_DFL);
  CHECK_EQ(sigaction(SIGUSR2, NULL, &now), 0);
  CHECK(now.sa_handler == SIG_DFL);
  CHECK_EQ(now.sa_flags & (SA_RESTART | SA_ONSTACK | SA_SIGINFO), 0);
}

static void handlers_are_called_and_reported(void)
{
  static const int signals[] = { SIGTERM, SIGUSR2, SIGUSR1 };
  struct sigaction mine, old;
  union sigval value;
  size_t i;

  for (i = 0; i < COUNT_OF(signals); i++) {
    memset(&mine, 0, sizeof mine);
    mine.sa_sigaction = three_arguments;
    mine.sa_flags = SA_SIGINFO | SA_RESTART;
    sigemptyset(&mine.sa_mask);
    sigaddset(&mine.sa_mask, SIGUSR1);
    CHECK_EQ(sigaction(signals[i], &mine, &old), 0);
    CHECK(old.sa_handler == SIG_DFL);
    value.sival_int = 4711;
    calls = 0;
    CHECK_EQ(sigqueue(getpid(), signals[i], value), 0);
    CHECK_EQ(calls, 1);
    CHECK_EQ(last_signal, signals[i]);
    CHECK_EQ(last_value, 4711);
    CHECK_EQ(held_inside, 1);
    CHECK_EQ(sigaction(signals[i], NULL, &old), 0);
    CHECK(old.sa_sigaction == three_arguments);
    CHECK_EQ(old.sa_flags & (SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_NODEFER),
             SA_SIGINFO | SA_RESTART);
    CHECK_EQ(sigismember(&old.sa_mask, SIGUSR1), 1);
    signal(signals[i], one_argument);
    CHECK(action_of(signals[i]) == one_argument);
    CHECK_EQ(calls_of(signals[i]), 1);
    CHECK(signal(signals[i], SIG_IGN) == one_argument);
    CHECK_EQ(calls_of(signals[i]), 0);
    CHECK(action_of(signals[i]) == SIG_IGN);
    CHECK(signal(signals[i], SIG_DFL) == SIG_IGN);
    CHECK(action_of(signals[i]) == SIG_DFL);
  }
}

static void a_handler_for_once_is_called_once(void)
{
  struct sigaction mine;

  memset(&mine, 0, sizeof mine);
  mine.sa_handler = one_argument;
  mine.sa_flags = (int)SA_RESETHAND;
  CHECK_EQ(sigaction(SIGUSR2, &mine, NULL), 0);
  CHECK_EQ(calls_of(SIGUSR2), 1);
  CHECK(action_of(SIGUSR2) == SIG_DFL);
  CHECK(sysv_signal(SIGUSR2, one_argument) == SIG_DFL);
  CHECK_EQ(calls_of(SIGUSR2), 1);
  CHECK(action_of(SIGUSR2) == SIG_DFL);
  CHECK(sysv_signal(SIGUSR2, one_argument) == SIG_DFL);
  CHECK(sysv_signal(SIGUSR2, SIG_DFL) == one_argument);
}

static void sets_of_signals_are_as_ever(void)
{
  sigset_t held;

  CHECK(sigset(SIGTERM, one_argument) == SIG_DFL);
  CHECK_EQ(calls_of(SIGTERM), 1);
  CHECK(sigset(SIGTERM, SIG_HOLD) == one_argument);
  sigprocmask(SIG_BLOCK, NULL, &held);
  CHECK_EQ(sigismember(&held, SIGTERM), 1);
  CHECK(sigset(SIGTERM, SIG_DFL) == SIG_HOLD);
  CHECK(action_of(SIGTERM) == SIG_DFL);
  CHECK(signal(SIGTERM, SIG_ERR) == SIG_ERR);
}

/* Each function sets what the others see. */
static void other_names_do_the_same(void)
{
  static const int signals[] = { SIGTERM, SIGUSR2 };
  struct sigaction mine, old;
  size_t i;

  for (i = 0; i < COUNT_OF(signals); i++) {
    CHECK(ssignal(signals[i], one_argument) == SIG_DFL);
    CHECK(action_of(signals[i]) == one_argument);
    CHECK_EQ(calls_of(signals[i]), 1);
    CHECK(bsd_signal(signals[i], other) == one_argument);
    CHECK(action_of(signals[i]) == other);
    CHECK_EQ(calls_of(signals[i]), 100);
    memset(&mine, 0, sizeof mine);
    mine.sa_handler = one_argument;
    CHECK_EQ(__sigaction(signals[i], &mine, &old), 0);
    CHECK(old.sa_handler == other);
    CHECK(action_of(signals[i]) == one_argument);
    CHECK_EQ(calls_of(signals[i]), 1);
    CHECK_EQ(sigignore(signals[i]), 0);
    CHECK_EQ(calls_of(signals[i]), 0);
    CHECK_EQ(__sigaction(signals[i], NULL, &old), 0);
    CHECK(old.sa_handler == SIG_IGN);
    CHECK(bsd_signal(signals[i], SIG_DFL) == SIG_IGN);
    CHECK(ssignal(signals[i], SIG_DFL) == SIG_DFL);
    CHECK(action_of(signals[i]) == SIG_DFL);
  }
}

#define H(n)                                                                  \
  static void handler_##n(int signal)                                         \
  {                                                                           \
    calls += n;                                                               \
    last_signal = signal;                                                     \
  }
H(1) H(2) H(3) H(4) H(5) H(6) H(7) H(8) H(9) H(10) H(11) H(12) H(13) H(14)
H(15) H(16) H(17) H(18) H(19) H(20)

static void there_may_be_many_handlers(void)
{
  static void (*const handlers[])(int) = {
    handler_1,  handler_2,  handler_3,  handler_4,  handler_5,
    handler_6,  handler_7,  handler_8,  handler_9,  handler_10,
    handler_11, handler_12, handler_13, handler_14, handler_15,
    handler_16, handler_17, handler_18, handler_19, handler_20,
  };
  void (*before)(int) = SIG_DFL;
  size_t turn, i;

  for (turn = 0; turn < 2; turn++) {
    for (i = 0; i < COUNT_OF(handlers); i++) {
      CHECK(signal(SIGUSR2, handlers[i]) == before);
      before = handlers[i];
      CHECK(action_of(SIGUSR2) == before);
      CHECK_EQ(calls_of(SIGUSR2), i + 1);
    }
  }
  signal(SIGUSR2, SIG_DFL);
}

static void a_handler_may_jump(void)
{
  signal(SIGTERM, jumps);
  if (sigsetjmp(back, 1) == 0) {
    raise(SIGTERM);
    CHECK(!"it jumps");
  }
  signal(SIGTERM, SIG_DFL);
}

/* The child has this process's memory, and signals of its own. */
static void a_child_of_vfork_changes_nothing(void)
{
  pid_t child;
  int status;

  signal(SIGTERM, one_argument);
  child = vfork();
  if (child == 0) {
    signal(SIGTERM, other);
    _exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(action_of(SIGTERM) == one_argument);
  CHECK_EQ(calls_of(SIGTERM), 1);
  signal(SIGTERM, SIG_DFL);
}

static void a_child_ends_by_its_signal(void)
{
  pid_t child = fork();
  int status;

  if (child == 0) {
    raise(SIGTERM);
    _exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

/* Sends a signal to this process until it is told to stop. */
static pid_t sender(int signal)
{
  pid_t child, parent = getpid();

  child = fork();
  if (child == 0) {
    for (;;) {
      usleep(20000);
      kill(parent, signal);
    }
  }
  return child;
}

static void stop(pid_t child)
{
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

/* Whether signals end a wait. */
static int ends_a_wait(int signal, int wait_ms)
{
  pid_t child = sender(signal);
  int result = poll(NULL, 0, wait_ms);
  int error = errno;

  stop(child);
  CHECK(result == 0 || error == EINTR);
  return result != 0;
}

static void handlers_end_waits(void)
{
  signal(SIGUSR2, one_argument);
  CHECK(ends_a_wait(SIGUSR2, 60000));
  signal(SIGUSR2, SIG_DFL);
  signal(SIGALRM, one_argument);
  CHECK(ends_a_wait(SIGALRM, 60000));
  signal(SIGALRM, SIG_DFL);
}

static void reports_end_no_waits(void)
{
  sigset_t set, pending;

  CHECK_EQ(calls_of(SIGUSR2), 0);
  CHECK(!ends_a_wait(SIGUSR2, 1000));
  CHECK(action_of(SIGUSR2) == SIG_DFL);
  /* Who holds the signal back reads it from somewhere: it is left. */
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, NULL);
  raise(SIGUSR2);
  CHECK(!ends_a_wait(SIGUSR2, 1000));
  CHECK_EQ(sigpending(&pending), 0);
  CHECK_EQ(sigismember(&pending, SIGUSR2), 1);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void works_on(lua_State *L)
{
  CHECK(!luaL_dostring(L, "local t = {}\n"
                          "for i = 1, 3e5 do t[i] = { i } end\n"
                          "print('ready') io.stdout:flush()\n"
                          "while true do t[#t + 1] = nil end\n"));
}

static void leaves(void)
{
  sigset_t set;
  pid_t child;
  int signal;

  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  child = vfork();
  if (child == 0) {
    _exit(0);
  }
  waitpid(child, NULL, 0);
  child = fork();
  if (child == 0) {
    _exit(0);
  }
  waitpid(child, NULL, 0);
  puts("ready");
  fflush(stdout);
  sigwait(&set, &signal);
  _exit(signal == SIGTERM ? 4 : 5);
}

/* VMs of a program whose standard error nobody reads. */
#define STUCK_VMS 300

static void stuck(void)
{
  static const char text[4096];
  lua_State *vms[STUCK_VMS];
  int flags = fcntl(STDERR_FILENO, F_GETFL);
  size_t i;

  for (i = 0; i < STUCK_VMS; i++) {
    vms[i] = luaL_newstate();
    REQUIRE(vms[i] != NULL);
  }
  REQUIRE(fcntl(STDERR_FILENO, F_SETFL, flags | O_NONBLOCK) == 0);
  while (write(STDERR_FILENO, text, sizeof text) > 0) {
  }
  REQUIRE(errno == EAGAIN);
  REQUIRE(fcntl(STDERR_FILENO, F_SETFL, flags) == 0);
  for (i = 0; i < STUCK_VMS / 2; i++) {
    lua_close(vms[i]);
  }
  puts("ready");
  fflush(stdout);
  sleep(120);
}

static void survives(const char *ms)
{
  signal(SIGTERM, one_argument);
  REQUIRE(calls_of(SIGTERM) == 1);
  usleep((useconds_t)atoi(ms) * 1000);
  _exit(0);
}

static void exits(int signal)
{
  (void)signal;
  _exit(3);
}

int main(int argc, char **argv)
{
  lua_State *L = luaL_newstate();

  REQUIRE(argc >= 2 && L != NULL);
  luaL_openlibs(L);
  if (strcmp(argv[1], "busy") == 0) {
    works_on(L);
    return 1;
  }
  if (strcmp(argv[1], "leaves") == 0) {
    leaves();
  }
  if (strcmp(argv[1], "survives") == 0) {
    REQUIRE(argc == 3);
    survives(argv[2]);
  }
  if (strcmp(argv[1], "stuck") == 0) {
    stuck();
    return 1;
  }
  if (strcmp(argv[1], "exits") == 0) {
    signal(SIGTERM, exits);
    puts("ready");
    fflush(stdout);
    for (;;) {
      pause();
    }
  }
  RUN(actions_at_the_start_are_defaults);
  RUN(handlers_are_called_and_reported);
  RUN(a_handler_for_once_is_called_once);
  RUN(sets_of_signals_are_as_ever);
  RUN(other_names_do_the_same);
  RUN(there_may_be_many_handlers);
  RUN(a_handler_may_jump);
  RUN(a_child_of_vfork_changes_nothing);
  RUN(a_child_ends_by_its_signal);
  RUN(handlers_end_waits);
  if (strcmp(argv[1], "reported") == 0) {
    RUN(reports_end_no_waits);
  }
  lua_close(L);
  return check_status();
}
