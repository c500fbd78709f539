/* Options, from the structure, the environment and ebb_set(): what makes
 * sense is taken, what does not is refused by name with what is accepted. */

#include "check.h"

#include <sys/resource.h>

/* An environment variable, and what a heap makes of it. */
struct setting {
  const char *variable;
  const char *text;
  const char *option;
  int64_t value;
};

static const struct setting good_settings[] = {
  { "EBBTIDE_RESERVE", "4g", "reserve", (int64_t)4 << 30 },
  { "EBBTIDE_RESERVE", "4G", "reserve", (int64_t)4 << 30 },
  { "EBBTIDE_RESERVE", "1048576", "reserve", 1 << 20 },
  { "EBBTIDE_RESERVE", "2048k", "reserve", 2 << 20 },
  { "EBBTIDE_RESERVE", "512m", "reserve", 512 << 20 },
  { "EBBTIDE_THP", "1", "thp", 1 },
  { "EBBTIDE_THP", "0", "thp", 0 },
  { "EBBTIDE_REMAP_MIN", "4k", "remap_min", 4096 },
  { "EBBTIDE_REMAP_MIN", "8t", "remap_min", (int64_t)8 << 40 },
};

static const struct setting bad_settings[] = {
  { "EBBTIDE_RESERVE", "banana", "reserve", 0 },
  { "EBBTIDE_RESERVE", "-1", "reserve", 0 },
  { "EBBTIDE_RESERVE", "3", "reserve", 0 },
  { "EBBTIDE_RESERVE", "1048575", "reserve", 0 },
  { "EBBTIDE_RESERVE", "9t", "reserve", 0 },
  { "EBBTIDE_RESERVE", "99999t", "reserve", 0 },
  { "EBBTIDE_RESERVE", "99999999999999999999", "reserve", 0 },
  { "EBBTIDE_RESERVE", "", "reserve", 0 },
  { "EBBTIDE_RESERVE", "g", "reserve", 0 },
  { "EBBTIDE_RESERVE", "4gg", "reserve", 0 },
  { "EBBTIDE_RESERVE", "4 g", "reserve", 0 },
  { "EBBTIDE_RESERVE", "4.5g", "reserve", 0 },
  { "EBBTIDE_THP", "2", "thp", 0 },
  { "EBBTIDE_THP", "yes", "thp", 0 },
  { "EBBTIDE_REMAP_MIN", "1", "remap_min", 0 },
  { "EBBTIDE_REMAP_MIN", "32t", "remap_min", 0 },
};

static int64_t option_of(ebb_heap *heap, const char *name)
{
  int64_t value = -1;

  CHECK_EQ(ebb_get(heap, name, &value), EBB_OK);
  return value;
}

static int says(const char *what)
{
  return strstr(ebb_strerror(0), what) != NULL;
}

/* An option's lowest and highest value, as the message must give them. */
static int says_range_of(const char *option)
{
  if (strcmp(option, "reserve") == 0) {
    return says("1048576") && says("8796093022208");
  }
  if (strcmp(option, "thp") == 0) {
    return says("0") && says("1");
  }
  return says("4096") && says("8796093022208");
}

static void with_good_setting(const void *argument)
{
  const struct setting *setting = (const struct setting *)argument;
  ebb_heap *heap;

  setenv(setting->variable, setting->text, 1);
  heap = heap_from(NULL);
  CHECK_EQ(option_of(heap, setting->option), setting->value);
  heap_ends_empty(heap);
}

static void with_bad_setting(const void *argument)
{
  const struct setting *setting = (const struct setting *)argument;

  setenv(setting->variable, setting->text, 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  if (!says(setting->variable) || !says(setting->text)
      || !says_range_of(setting->option)) {
    check_failed(setting->variable, __LINE__, ebb_strerror(0));
  }
}

static void sensible_settings_are_taken(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(good_settings); i++) {
    CHECK_EQ(in_child(with_good_setting, &good_settings[i]), 0);
  }
}

static void senseless_settings_are_refused_by_name(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(bad_settings); i++) {
    CHECK_EQ(in_child(with_bad_setting, &bad_settings[i]), 0);
  }
}

/* A field that is not 0 wins. */
static void with_both(const void *argument)
{
  ebb_heap *heap;

  (void)argument;
  setenv("EBBTIDE_RESERVE", "4g", 1);
  heap = heap_of((int64_t)GIB);
  CHECK_EQ(option_of(heap, "reserve"), GIB);
  CHECK_EQ(stats_of(heap, 0).reserved, GIB);
  heap_ends_empty(heap);
}

static void a_field_goes_before_the_environment(void)
{
  CHECK_EQ(in_child(with_both, NULL), 0);
}

static void defaults_are_as_documented(void)
{
  ebb_heap *heap = heap_from(NULL);
  struct rlimit space;

  /* A limit on address space makes it less. */
  CHECK_EQ(getrlimit(RLIMIT_AS, &space), 0);
  if (space.rlim_cur == RLIM_INFINITY) {
    CHECK_EQ(option_of(heap, "reserve"), 64 * GIB);
  }
  CHECK_EQ(stats_of(heap, 0).reserved, option_of(heap, "reserve"));
  CHECK_EQ(option_of(heap, "thp"), 0);
  CHECK_EQ(option_of(heap, "remap_min"), 128 * KIB);
  heap_ends_empty(heap);
}

static void refused(int64_t reserve, int64_t thp, int64_t remap_min,
                    const char *option)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.reserve = reserve;
  options.thp = thp;
  options.remap_min = remap_min;
  CHECK(ebb_heap_new(&options) == NULL);
  CHECK(says(option));
  CHECK(says_range_of(option));
}

static void senseless_fields_are_refused_by_name(void)
{
  refused(-1, 0, 0, "reserve");
  refused(3, 0, 0, "reserve");
  refused(((int64_t)8 << 40) + 1, 0, 0, "reserve");
  refused(INT64_MAX, 0, 0, "reserve");
  refused(INT64_MIN, 0, 0, "reserve");
  refused(0, 2, 0, "thp");
  refused(0, -1, 0, "thp");
  refused(0, 0, 4095, "remap_min");
  refused(0, 0, ((int64_t)8 << 40) + 1, "remap_min");
  refused(0, 0, -4096, "remap_min");
}

static void options_are_set_in_use(void)
{
  ebb_heap *heap = heap_from(NULL);
  struct block block;

  CHECK_EQ(ebb_set(heap, "thp", 1), EBB_OK);
  CHECK_EQ(option_of(heap, "thp"), 1);
  CHECK_EQ(ebb_set(heap, "thp", 0), EBB_OK);
  CHECK_EQ(option_of(heap, "thp"), 0);
  CHECK_EQ(ebb_set(heap, "remap_min", (int64_t)8 << 40), EBB_OK);
  CHECK_EQ(option_of(heap, "remap_min"), (int64_t)8 << 40);
  block_new(heap, &block, MIB, 1);
  CHECK(block_resize(heap, &block, MIB, 4 * MIB, 2));
  CHECK_EQ(ebb_set(heap, "remap_min", 4096), EBB_OK);
  CHECK_EQ(option_of(heap, "remap_min"), 4096);
  CHECK(block_resize(heap, &block, 4 * MIB, 9 * MIB, 3));
  block_end(heap, &block);
  heap_ends_empty(heap);
}

static void a_refused_set_changes_nothing(void)
{
  ebb_heap *heap = heap_from(NULL);
  int64_t value = 77;

  CHECK_EQ(ebb_set(heap, "nonsense", 1), EBB_ERR_OPTION);
  CHECK(says("nonsense"));
  CHECK_EQ(ebb_get(heap, "nonsense", &value), EBB_ERR_OPTION);
  CHECK(says("nonsense"));
  CHECK_EQ(value, 77);
  CHECK_EQ(ebb_set(heap, "", 1), EBB_ERR_OPTION);
  CHECK_EQ(ebb_set(heap, "size", 1), EBB_ERR_OPTION);
  CHECK_EQ(ebb_set(heap, "thpx", 1), EBB_ERR_OPTION);

  CHECK_EQ(ebb_set(heap, "reserve", (int64_t)1 << 30), EBB_ERR_FIXED);
  CHECK(says("reserve"));
  CHECK_EQ(option_of(heap, "reserve"), 64 * GIB);

  CHECK_EQ(ebb_set(heap, "thp", 2), EBB_ERR_RANGE);
  CHECK(says("thp") && says_range_of("thp"));
  CHECK_EQ(ebb_set(heap, "thp", -1), EBB_ERR_RANGE);
  CHECK_EQ(option_of(heap, "thp"), 0);
  CHECK_EQ(ebb_set(heap, "remap_min", 0), EBB_ERR_RANGE);
  CHECK_EQ(ebb_set(heap, "remap_min", 1), EBB_ERR_RANGE);
  CHECK_EQ(ebb_set(heap, "remap_min", INT64_MAX), EBB_ERR_RANGE);
  CHECK(says("remap_min") && says_range_of("remap_min"));
  CHECK_EQ(option_of(heap, "remap_min"), 128 * KIB);
  heap_ends_empty(heap);
}

/* A process that has not failed yet has no reason to give. */
static void no_failure_has_no_reason(void)
{
  CHECK_EQ(ebb_strerror(0)[0], '\0');
}

int main(void)
{
  RUN(no_failure_has_no_reason);
  RUN(sensible_settings_are_taken);
  RUN(senseless_settings_are_refused_by_name);
  RUN(a_field_goes_before_the_environment);
  RUN(defaults_are_as_documented);
  RUN(senseless_fields_are_refused_by_name);
  RUN(options_are_set_in_use);
  RUN(a_refused_set_changes_nothing);
  return check_status();
}
