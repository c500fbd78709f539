/* Variables of the environment that have no effect: the process is told once,
 * with the nearest name, on standard error or in the host's own log. A soft
 * limit above the hard one is refused, whichever way the two are given. */

#include "check.h"

#include <fcntl.h>

#define LINE_MAX_BYTES 320

/* Variables, and what is said of them. */
struct told {
  const char *variables[2];
  const char *text;
};

static const struct told lines[] = {
  { { "EBBTIDE_DECAY=500", NULL },
    "unknown option EBBTIDE_DECAY; did you mean EBBTIDE_DECAY_MS?" },
  { { "EBBTIDE_CHEKED=1", "EBBTIDE_RETAIN=1m" },
    "unknown option EBBTIDE_CHEKED; did you mean EBBTIDE_CHECKED?" },
  { { "EBBTIDE_SOFT_LIMIT=1g", NULL },
    "unknown option EBBTIDE_SOFT_LIMIT; did you mean EBBTIDE_LIMIT_SOFT?" },
  { { "EBBTIDE_BANANA=1", NULL }, "unknown option EBBTIDE_BANANA" },
  { { "EBBTIDE_BANANA=", "EBBTIDE_REPORT=1" },
    "EBBTIDE_REPORT has an effect under ebbtide run only" },
  { { "EBBTIDE_VERBOSE=1", "EBBTIDE_REPORT_SIGNAL=USR1" },
    "EBBTIDE_VERBOSE has an effect under ebbtide run only; "
    "EBBTIDE_REPORT_SIGNAL has an effect under ebbtide run only" },
  { { "EBBTIDE_VERBOSE=0", "EBBTIDE_REPORT=off" }, "" },
  { { "EBBTIDE_RETAIN=1m", "EBBTIDE_PRELOAD=/lib" }, "" },
};

static void set_variables(const struct told *told)
{
  size_t i;

  for (i = 0; i < COUNT_OF(told->variables); i++) {
    if (told->variables[i] != NULL) {
      CHECK_EQ(putenv((char *)told->variables[i]), 0);
    }
  }
}

/* Has standard error lead to a file until said_since(). */
static int kept_stderr, said_in;

static void keep_stderr(void)
{
  char name[] = "/tmp/ebbtide-XXXXXX";
  int to_write;

  said_in = mkstemp(name);
  REQUIRE(said_in >= 0);
  to_write = open(name, O_WRONLY);
  REQUIRE(to_write >= 0);
  REQUIRE(unlink(name) == 0);
  kept_stderr = dup(STDERR_FILENO);
  REQUIRE(kept_stderr >= 0);
  REQUIRE(dup2(to_write, STDERR_FILENO) == STDERR_FILENO);
  close(to_write);
}

/* What was written to it meanwhile. */
static const char *said_since(void)
{
  static char text[4096];
  ssize_t length = pread(said_in, text, sizeof text - 1, 0);

  REQUIRE(length >= 0);
  text[length] = '\0';
  REQUIRE(dup2(kept_stderr, STDERR_FILENO) == STDERR_FILENO);
  close(kept_stderr);
  close(said_in);
  return text;
}

static void check_text(const char *got, const char *want)
{
  if (strcmp(got, want) != 0) {
    check_failed(want, __LINE__, got);
  }
}

static void heap_comes_and_goes(void)
{
  ebb_heap_delete(heap_from(NULL));
}

/* Two heaps, one line. */
static void with_heaps(const void *argument)
{
  const struct told *told = (const struct told *)argument;
  char line[LINE_MAX_BYTES + 20] = "";

  if (told->text[0] != '\0') {
    snprintf(line, sizeof line, "ebbtide: %s\n", told->text);
  }
  set_variables(told);
  keep_stderr();
  heap_comes_and_goes();
  heap_comes_and_goes();
  check_text(said_since(), line);
}

static void with_log(const void *argument)
{
  const struct told *told = (const struct told *)argument;
  char warning[LINE_MAX_BYTES], small[10];

  set_variables(told);
  keep_stderr();
  /* Who does not take the text has not told it. */
  CHECK_EQ(ebb_environment_check(NULL, 0), EBB_OK);
  CHECK_EQ(ebb_environment_check(warning, 0), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_environment_check(warning, sizeof warning), EBB_OK);
  CHECK_EQ(ebb_environment_check(small, sizeof small), EBB_OK);
  heap_comes_and_goes();
  check_text(said_since(), "");
  check_text(warning, told->text);
  CHECK_EQ(strlen(small), strlen(told->text) < 9 ? strlen(told->text) : 9);
  CHECK_EQ(strncmp(small, told->text, strlen(small)), 0);
}

static void variables_without_effect_are_reported_once(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(lines); i++) {
    CHECK_EQ(in_child(with_heaps, &lines[i]), 0);
    CHECK_EQ(in_child(with_log, &lines[i]), 0);
  }
}

/* Where another file has become descriptor 2 since the library was first used,
 * the line does not go into that file. */
static void with_another_file(const void *argument)
{
  (void)argument;
  setenv("EBBTIDE_DECAY", "500", 1);
  CHECK_EQ(ebb_environment_check(NULL, 0), EBB_OK);
  keep_stderr();
  heap_comes_and_goes();
  check_text(said_since(), "");
}

/* Nor where descriptor 2 was closed before. */
static void with_closed_stderr(const void *argument)
{
  int kept = dup(STDERR_FILENO);

  (void)argument;
  setenv("EBBTIDE_DECAY", "500", 1);
  close(STDERR_FILENO);
  errno = ERRNO_MARK;
  CHECK_EQ(ebb_environment_check(NULL, 0), EBB_OK);
  check_errno();
  CHECK(dup2(kept, STDERR_FILENO) == STDERR_FILENO);
  keep_stderr();
  heap_comes_and_goes();
  check_text(said_since(), "");
}

static void other_files_are_left_alone(void)
{
  CHECK_EQ(in_child(with_another_file, NULL), 0);
  CHECK_EQ(in_child(with_closed_stderr, NULL), 0);
}

/* Long names fill the line and no more. */
static void with_long_names(const void *argument)
{
  char name[600], warning[LINE_MAX_BYTES + 1];

  (void)argument;
  snprintf(name, sizeof name, "EBBTIDE_%0*d", 500, 7);
  setenv(name, "1", 1);
  memset(warning, 'x', sizeof warning);
  CHECK_EQ(ebb_environment_check(warning, LINE_MAX_BYTES), EBB_OK);
  CHECK_EQ(strlen(warning), LINE_MAX_BYTES - 1);
  CHECK_EQ(warning[LINE_MAX_BYTES], 'x');
  clearenv();
  CHECK_EQ(ebb_environment_check(warning, LINE_MAX_BYTES), EBB_OK);
  check_text(warning, "");
}

static void a_line_has_an_end(void)
{
  CHECK_EQ(in_child(with_long_names, NULL), 0);
}

static int says(const char *what)
{
  return strstr(ebb_strerror(0), what) != NULL;
}

static void with_bad_value(const void *argument)
{
  char warning[LINE_MAX_BYTES];

  (void)argument;
  setenv("EBBTIDE_RETAIN", "lots", 1);
  CHECK_EQ(ebb_environment_check(warning, sizeof warning), EBB_ERR_RANGE);
  CHECK(says("EBBTIDE_RETAIN=lots: takes a number from 0 to 8t"));
  check_text(warning, "");
}

static void bad_values_are_found_before_a_heap_is_made(void)
{
  CHECK_EQ(in_child(with_bad_value, NULL), 0);
}

static void with_crossed_variables(const void *argument)
{
  (void)argument;
  setenv("EBBTIDE_LIMIT_SOFT", "200m", 1);
  setenv("EBBTIDE_LIMIT_HARD", "100m", 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  CHECK(says("EBBTIDE_LIMIT_SOFT=200m: is above EBBTIDE_LIMIT_HARD=100m"));
  CHECK_EQ(ebb_environment_check(NULL, 0), EBB_ERR_RANGE);
}

static void a_soft_limit_above_the_hard_one_is_refused(void)
{
  ebb_options options = { .size = sizeof options,
                          .limit_soft = 200 * MIB,
                          .limit_hard = 100 * MIB };
  ebb_heap *heap;

  CHECK_EQ(in_child(with_crossed_variables, NULL), 0);
  CHECK(ebb_heap_new(&options) == NULL);
  CHECK(says("limit_soft=200m: is above limit_hard=100m"));

  options.limit_soft = 100 * MIB;
  heap = heap_from(&options);
  CHECK_EQ(ebb_set(heap, "limit_soft", 101 * MIB), EBB_ERR_RANGE);
  CHECK(says("limit_soft=101m: is above limit_hard=100m"));
  CHECK_EQ(ebb_set(heap, "limit_hard", 99 * MIB), EBB_ERR_RANGE);
  CHECK(says("limit_soft=100m: is above limit_hard=99m"));
  CHECK_EQ(stats_of(heap, 0).limit_soft, 100 * MIB);
  CHECK_EQ(stats_of(heap, 0).limit_hard, 100 * MIB);

  /* Up with the hard one first, down with the soft one first. */
  CHECK_EQ(ebb_set(heap, "limit_hard", 300 * MIB), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_soft", 200 * MIB), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_soft", 50 * MIB), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_hard", 60 * MIB), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_soft", EBB_CGROUP), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_hard", 0), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_soft", GIB), EBB_OK);
  heap_ends_empty(heap);
}

/* With the same words as for a new heap, whichever of the two changes. */
static void retain_above_a_limit_is_refused(void)
{
  static const struct {
    const char *limit, *words;
  } limits[] = {
    { "limit_hard", "retain=30m: is above limit_hard=20m, which the heap does "
                    "not exceed; lower the first or raise the second" },
    { "limit_soft", "retain=30m: is above limit_soft=20m, above which no free "
                    "memory stays; lower the first or raise the second" },
  };
  size_t i;

  for (i = 0; i < COUNT_OF(limits); i++) {
    int is_hard = strcmp(limits[i].limit, "limit_hard") == 0;
    ebb_options options = { .size = sizeof options,
                            .retain = 30 * MIB };
    ebb_heap *heap;

    *(is_hard ? &options.limit_hard : &options.limit_soft) = 20 * MIB;
    CHECK(ebb_heap_new(&options) == NULL);
    CHECK(says(limits[i].words));
    options.retain = 20 * MIB;
    heap = heap_from(&options);
    CHECK_EQ(ebb_set(heap, "retain", 30 * MIB), EBB_ERR_RANGE);
    CHECK(says(limits[i].words));
    CHECK_EQ(ebb_set(heap, limits[i].limit, 40 * MIB), EBB_OK);
    CHECK_EQ(ebb_set(heap, "retain", 30 * MIB), EBB_OK);
    CHECK_EQ(ebb_set(heap, limits[i].limit, 20 * MIB), EBB_ERR_RANGE);
    CHECK(says(limits[i].words));
    CHECK_EQ(ebb_set(heap, limits[i].limit, 0), EBB_OK);
    CHECK_EQ(ebb_set(heap, "retain", GIB), EBB_OK);
    heap_ends_empty(heap);
  }
}

static void with_hard_limit_for_no_vm(const void *argument)
{
  (void)argument;
  setenv("EBBTIDE_LIMIT_HARD", "100k", 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  CHECK(says("EBBTIDE_LIMIT_HARD=100k: too small for a VM: takes 0 for no "
             "limit, or 512k and more"));
  CHECK_EQ(ebb_environment_check(NULL, 0), EBB_ERR_RANGE);
  CHECK(says("a number alone counts bytes, and k, m, g and t behind it"));
  setenv("EBBTIDE_LIMIT_HARD", "none", 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  CHECK(says("EBBTIDE_LIMIT_HARD=none: takes 0, or a number from 512k to 8t"));
}

/* Bytes, where megabytes were meant. */
static void with_soft_limit_without_unit(const void *argument)
{
  (void)argument;
  setenv("EBBTIDE_LIMIT_SOFT", "100", 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  CHECK(says("EBBTIDE_LIMIT_SOFT=100: too small for a VM: takes 0 for no "
             "limit, or 512k and more; a number alone counts bytes"));
  CHECK_EQ(ebb_environment_check(NULL, 0), EBB_ERR_RANGE);
  setenv("EBBTIDE_LIMIT_SOFT", "none", 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  CHECK(says("EBBTIDE_LIMIT_SOFT=none: takes 0, or a number from 512k to 8t "
             "or cgroup"));
}

static void a_soft_limit_for_no_vm_is_refused(void)
{
  ebb_options options = { .size = sizeof options, .limit_soft = 100 };
  ebb_heap *heap;

  CHECK_EQ(in_child(with_soft_limit_without_unit, NULL), 0);
  CHECK(ebb_heap_new(&options) == NULL);
  CHECK(says("limit_soft=100: too small for a VM"));
  options.limit_soft = 512 * (int64_t)KIB;
  heap = heap_from(&options);
  CHECK_EQ(ebb_set(heap, "limit_soft", 512 * KIB - 1), EBB_ERR_RANGE);
  CHECK(says("limit_soft=524287: too small for a VM"));
  CHECK_EQ(ebb_set(heap, "limit_soft", 0), EBB_OK);
  CHECK_EQ(ebb_set(heap, "limit_soft", EBB_CGROUP), EBB_OK);
  heap_ends_empty(heap);
}

static void a_hard_limit_for_no_vm_is_refused(void)
{
  ebb_options options = { .size = sizeof options, .limit_hard = 100 << 10 };
  ebb_heap *heap;

  CHECK_EQ(in_child(with_hard_limit_for_no_vm, NULL), 0);
  CHECK(ebb_heap_new(&options) == NULL);
  CHECK(says("limit_hard=100k: too small for a VM: takes 0 for no limit"));
  heap = heap_of(0);
  CHECK_EQ(ebb_set(heap, "limit_hard", 1000), EBB_ERR_RANGE);
  CHECK(says("limit_hard=1000: too small for a VM: takes 0 for no limit"));
  CHECK_EQ(ebb_set(heap, "limit_hard", -7), EBB_ERR_RANGE);
  CHECK(says("limit_hard: -7 is not 0, or from 512k to 8t"));
  heap_ends_empty(heap);
}

int main(void)
{
  RUN(variables_without_effect_are_reported_once);
  RUN(other_files_are_left_alone);
  RUN(a_line_has_an_end);
  RUN(bad_values_are_found_before_a_heap_is_made);
  RUN(a_soft_limit_above_the_hard_one_is_refused);
  RUN(retain_above_a_limit_is_refused);
  RUN(a_hard_limit_for_no_vm_is_refused);
  RUN(a_soft_limit_for_no_vm_is_refused);
  return check_status();
}
