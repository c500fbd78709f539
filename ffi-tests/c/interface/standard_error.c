/* Where lines go: the last ones of a process that stops for a bug, and those of
 * one that goes on. Not into a file that has become descriptor 2 by chance, and
 * a pipe that nobody reads ends nothing. */

#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#define TEXT_MAX 8192

/* What becomes of descriptor 2 before the bug, and what is checked. */
struct fate {
  void (*happens)(void);
  const char *checked;
};

/* In the child: a file without a name, which the parent can read. */
static int file;

static void stop_for_a_bug(const void *argument)
{
  const struct fate *fate = (const struct fate *)argument;
  struct rlimit no_core = { 0, 0 };
  ebb_heap *heap;
  int on_stack = 7;

  setrlimit(RLIMIT_CORE, &no_core);
  signal(SIGPIPE, SIG_DFL);
  setenv("EBBTIDE_CHECKED", fate->checked, 1);
  heap = heap_of(0);
  fate->happens();
  ebb_alloc(heap, &on_stack, sizeof on_stack, 0);
}

static void make_file(void)
{
  char name[] = "/tmp/ebbtide-XXXXXX";

  file = mkstemp(name);
  REQUIRE(file >= 0);
  REQUIRE(unlink(name) == 0);
}

/* What stands in it, which is closed. */
static const char *text_of_file(void)
{
  static char text[TEXT_MAX];
  ssize_t length = pread(file, text, sizeof text - 1, 0);

  REQUIRE(length >= 0);
  text[length] = '\0';
  close(file);
  return text;
}

/* Runs it; returns what stands in the file then. */
static const char *stopped(void (*happens)(void), const char *checked)
{
  struct fate fate;
  int status;

  make_file();
  fate.happens = happens;
  fate.checked = checked;
  status = in_child(stop_for_a_bug, &fate);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  return text_of_file();
}

/* The file is opened once more, as a program does that knows it by its name. */
static void open_as_stderr(int flags)
{
  char path[64];

  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  close(STDERR_FILENO);
  REQUIRE(open(path, flags) == STDERR_FILENO);
}

static void becomes_a_database(void)
{
  open_as_stderr(O_RDWR);
}

static void becomes_a_file_to_write(void)
{
  open_as_stderr(O_WRONLY);
}

static void becomes_a_log(void)
{
  open_as_stderr(O_WRONLY | O_APPEND);
}

static void becomes_closed(void)
{
  close(STDERR_FILENO);
}

static void becomes_a_pipe_without_reader(void)
{
  int ends[2];

  REQUIRE(pipe(ends) == 0);
  REQUIRE(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
  close(ends[0]);
}

static void nothing_more_happens(void)
{
}

/* The first heap has a line, and a bug follows, which has lines, too. */
static void begin_with(const void *happens)
{
  struct fate fate = { nothing_more_happens, "off" };

  setenv("EBBTIDE_CHEKED", "1", 1);
  ((const struct fate *)happens)->happens();
  stop_for_a_bug(&fate);
}

/* What stands in the file after the first use of the library. */
static const char *begun_with(void (*happens)(void))
{
  struct fate fate = { happens, "off" };

  make_file();
  CHECK(WIFSIGNALED(in_child(begin_with, &fate)));
  return text_of_file();
}

static int has_line(const char *text)
{
  return strstr(text, "did you mean EBBTIDE_CHECKED?") != NULL;
}

/* Descriptor 2 was closed and has become another file when the library is first
 * used. What is open for writing alone may be `program 2>log`. */
static void a_database_of_before_the_first_use_stays_as_it_is(void)
{
  CHECK_EQ(strlen(begun_with(becomes_a_database)), 0);
  CHECK_EQ(strlen(begun_with(becomes_closed)), 0);
  CHECK(has_line(begun_with(becomes_a_file_to_write)));
  CHECK(has_line(begun_with(becomes_a_log)));
}

static const char *const ways[] = { "off", "on" };

static void a_file_that_is_no_standard_error_stays_as_it_is(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(ways); i++) {
    CHECK_EQ(strlen(stopped(becomes_a_database, ways[i])), 0);
    CHECK_EQ(strlen(stopped(becomes_a_file_to_write, ways[i])), 0);
    CHECK_EQ(strlen(stopped(becomes_closed, ways[i])), 0);
  }
}

static void a_log_has_the_last_lines(void)
{
  const char *text;
  size_t i;

  for (i = 0; i < COUNT_OF(ways); i++) {
    text = stopped(becomes_a_log, ways[i]);
    CHECK(strncmp(text, "ebbtide: heap 0x", 16) == 0);
    CHECK(strstr(text, "is not of this heap") != NULL);
  }
  /* The functions, by their file, and all lines are ours. */
  CHECK(strstr(text, "standard_error") != NULL);
  for (; *text != '\0'; text = strchr(text, '\n') + 1) {
    CHECK(strncmp(text, "ebbtide: ", 9) == 0);
    REQUIRE(strchr(text, '\n') != NULL);
  }
}

static void the_last_lines_raise_no_sigpipe(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(ways); i++) {
    stopped(becomes_a_pipe_without_reader, ways[i]);
  }
}

/* In the child: the write end of a pipe. */
static int full_pipe;

static void becomes_full(void)
{
  static const char page[4096];

  REQUIRE(dup2(full_pipe, STDERR_FILENO) == STDERR_FILENO);
  close(full_pipe);
  REQUIRE(fcntl(STDERR_FILENO, F_SETFL, O_WRONLY | O_NONBLOCK) == 0);
  while (write(STDERR_FILENO, page, sizeof page) > 0) {
  }
  REQUIRE(fcntl(STDERR_FILENO, F_SETFL, O_WRONLY) == 0);
}

/* Begins to read after so long, or reads when it has ended. */
static void stop_with_full_pipe(const char *checked, unsigned reads_after_s)
{
  struct fate fate = { becomes_full, checked };
  char text[TEXT_MAX];
  int ends[2], status, is_told = 0;
  ssize_t length;
  pid_t child;

  REQUIRE(pipe(ends) == 0);
  full_pipe = ends[1];
  fflush(NULL);
  child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(ends[0]);
    stop_for_a_bug(&fate);
    _exit(0);
  }
  close(ends[1]);
  if (reads_after_s == 0) {
    REQUIRE(waitpid(child, &status, 0) == child);
  }
  sleep(reads_after_s);
  while ((length = read(ends[0], text, sizeof text)) > 0) {
    is_told |= memmem(text, (size_t)length, "is not of this heap", 19) != NULL;
  }
  if (reads_after_s != 0) {
    REQUIRE(waitpid(child, &status, 0) == child);
  }
  close(ends[0]);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  CHECK_EQ(is_told, reads_after_s != 0);
}

static void the_last_lines_wait_for_a_reader(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(ways); i++) {
    stop_with_full_pipe(ways[i], 1);
  }
}

static void the_last_lines_do_not_wait_for_ever(void)
{
  stop_with_full_pipe("on", 0);
}

static int is_pending(void)
{
  sigset_t pending;

  REQUIRE(sigpending(&pending) == 0);
  return sigismember(&pending, SIGPIPE);
}

/* A line of a process that goes on: the heap is made, with errno as it was. */
static void line_without_reader(const void *argument)
{
  sigset_t pipes, now;

  signal(SIGPIPE, SIG_DFL);
  sigemptyset(&pipes);
  sigaddset(&pipes, SIGPIPE);
  if (argument != NULL) {
    /* One that was there before is the program's. */
    sigprocmask(SIG_BLOCK, &pipes, NULL);
    raise(SIGPIPE);
  }
  setenv("EBBTIDE_BANANA", "1", 1);
  becomes_a_pipe_without_reader();
  errno = ERRNO_MARK;
  ebb_heap_delete(heap_of(0));
  check_errno();
  CHECK_EQ(is_pending(), argument != NULL);
  sigprocmask(SIG_BLOCK, NULL, &now);
  CHECK_EQ(sigismember(&now, SIGPIPE), argument != NULL);
  signal(SIGPIPE, SIG_IGN);
}

static void a_line_raises_no_sigpipe(void)
{
  CHECK_EQ(in_child(line_without_reader, NULL), 0);
  CHECK_EQ(in_child(line_without_reader, ""), 0);
}

/* With a pipe whose reader does not read, a line of a process that goes on is
 * dropped. */
static void line_to_full_pipe(const void *argument)
{
  (void)argument;
  alarm(60);
  setenv("EBBTIDE_BANANA", "1", 1);
  becomes_full();
  errno = ERRNO_MARK;
  ebb_heap_delete(heap_of(0));
  check_errno();
}

static void a_line_does_not_wait_for_ever(void)
{
  static char text[64 * 4096];
  ssize_t length;
  int ends[2], is_told = 0;

  REQUIRE(pipe(ends) == 0);
  full_pipe = ends[1];
  CHECK_EQ(in_child(line_to_full_pipe, NULL), 0);
  close(ends[1]);
  while ((length = read(ends[0], text, sizeof text)) > 0) {
    is_told |= memmem(text, (size_t)length, "BANANA", 6) != NULL;
  }
  close(ends[0]);
  CHECK(!is_told);
}

int main(void)
{
  RUN(a_database_of_before_the_first_use_stays_as_it_is);
  RUN(a_file_that_is_no_standard_error_stays_as_it_is);
  RUN(a_log_has_the_last_lines);
  RUN(the_last_lines_raise_no_sigpipe);
  RUN(the_last_lines_wait_for_a_reader);
  RUN(the_last_lines_do_not_wait_for_ever);
  RUN(a_line_raises_no_sigpipe);
  RUN(a_line_does_not_wait_for_ever);
  return check_status();
}
