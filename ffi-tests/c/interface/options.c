/* Options, from the structure, the environment and ebb_set(): what makes
 * sense is taken, what does not is refused by name with what is accepted. */

#include "check.h"

#include <stddef.h>

#define TIB ((int64_t)1 << 40)

/* An option as the header documents it. */
struct option {
  const char *name;
  int64_t min;
  int64_t max;
  int64_t value; /* by default; 0 for reserve, where it depends */
  int fixed;
  size_t field;
  const char *range; /* as messages give it */
  const char *words; /* what a variable takes that is a switch */
};

#define FIELD(name) offsetof(ebb_options, name)

static const struct option all[] = {
  { "reserve", 1 << 20, 8 * TIB, 0, 1, FIELD(reserve),
    "from 1m to 8t", NULL },
  { "thp", 0, 1, 0, 0, FIELD(thp),
    "from 0 to 1", "off or on" },
  { "remap_min", 4096, 8 * TIB, 128 << 10, 0, FIELD(remap_min),
    "from 4k to 8t", NULL },
  { "decay_ms", 0, 3600000, 1000, 0, FIELD(decay_ms),
    "from 0 to 3600000 ms", NULL },
  { "retain", 0, 8 * TIB, 0, 0, FIELD(retain),
    "from 0 to 8t", NULL },
  { "retain_max", 0, 8 * TIB, 1 << 30, 0, FIELD(retain_max),
    "from 0 to 8t", NULL },
  { "limit_soft", 0, 8 * TIB, 0, 0, FIELD(limit_soft),
    "from 512k to 8t or cgroup", NULL },
  { "limit_hard", 0, 8 * TIB, 0, 0, FIELD(limit_hard),
    "from 512k to 8t", NULL },
  { "step_us", 1, 1000000, 250, 0, FIELD(step_us),
    "from 1 to 1000000 us", NULL },
  { "auto", 0, 1, 1, 0, FIELD(auto_),
    "from 0 to 1", "off or on" },
  { "history", 0, 1, 0, 0, FIELD(history),
    "from 0 to 1", "off or on" },
  { "checked", 0, 2, 0, 1, FIELD(checked),
    "from 0 to 2", "off, on or sample" },
  { "background", 0, 2, 2, 0, FIELD(background),
    "from 0 to 2", "off, on or auto" },
  { "collect", 0, 2, 2, 0, FIELD(collect),
    "from 0 to 2", "off, on or auto" },
};

/* An environment variable, and what a heap makes of it. */
struct setting {
  const char *variable;
  const char *text;
  int64_t value;
};

static const struct setting good_settings[] = {
  { "EBBTIDE_RESERVE", "4g", (int64_t)4 << 30 },
  { "EBBTIDE_RESERVE", "4G", (int64_t)4 << 30 },
  { "EBBTIDE_RESERVE", "1048576", 1 << 20 },
  { "EBBTIDE_RESERVE", "2048k", 2 << 20 },
  { "EBBTIDE_RESERVE", "512m", 512 << 20 },
  { "EBBTIDE_RETAIN", "", 0 },
  { "EBBTIDE_DECAY_MS", "", 1000 },
  { "EBBTIDE_AUTO", "", 1 },
  { "EBBTIDE_LIMIT_HARD", "", 0 },
  { "EBBTIDE_THP", "1", 1 },
  { "EBBTIDE_THP", "0", 0 },
  { "EBBTIDE_THP", "on", 1 },
  { "EBBTIDE_THP", "off", 0 },
  { "EBBTIDE_REMAP_MIN", "4k", 4096 },
  { "EBBTIDE_REMAP_MIN", "8t", 8 * TIB },
  { "EBBTIDE_DECAY_MS", "0", 0 },
  { "EBBTIDE_DECAY_MS", "100", 100 },
  { "EBBTIDE_DECAY_MS", "3600000", 3600000 },
  { "EBBTIDE_RETAIN", "64m", 64 << 20 },
  { "EBBTIDE_RETAIN", "0", 0 },
  { "EBBTIDE_RETAIN_MAX", "0", 0 },
  { "EBBTIDE_RETAIN_MAX", "2g", (int64_t)2 << 30 },
  { "EBBTIDE_LIMIT_SOFT", "cgroup", EBB_CGROUP },
  { "EBBTIDE_LIMIT_SOFT", "100m", 100 << 20 },
  { "EBBTIDE_LIMIT_SOFT", "0", 0 },
  { "EBBTIDE_LIMIT_HARD", "1g", 1 << 30 },
  { "EBBTIDE_LIMIT_HARD", "512k", 512 << 10 },
  { "EBBTIDE_LIMIT_HARD", "0", 0 },
  { "EBBTIDE_STEP_US", "1", 1 },
  { "EBBTIDE_STEP_US", "1000000", 1000000 },
  { "EBBTIDE_STEP_US", "1k", 1024 },
  { "EBBTIDE_AUTO", "off", 0 },
  { "EBBTIDE_AUTO", "on", 1 },
  { "EBBTIDE_AUTO", "0", 0 },
  { "EBBTIDE_HISTORY", "on", 1 },
  { "EBBTIDE_HISTORY", "1", 1 },
};

static const struct setting bad_settings[] = {
  { "EBBTIDE_RESERVE", "banana", 0 },
  { "EBBTIDE_RESERVE", "-1", 0 },
  { "EBBTIDE_RESERVE", "3", 0 },
  { "EBBTIDE_RESERVE", "1048575", 0 },
  { "EBBTIDE_RESERVE", "9t", 0 },
  { "EBBTIDE_RESERVE", "99999t", 0 },
  { "EBBTIDE_RESERVE", "99999999999999999999", 0 },
  { "EBBTIDE_RESERVE", "g", 0 },
  { "EBBTIDE_RESERVE", "4gg", 0 },
  { "EBBTIDE_RESERVE", "4 g", 0 },
  { "EBBTIDE_RESERVE", "4.5g", 0 },
  { "EBBTIDE_RESERVE", "on", 0 },
  { "EBBTIDE_RESERVE", "cgroup", 0 },
  { "EBBTIDE_THP", "2", 0 },
  { "EBBTIDE_THP", "yes", 0 },
  { "EBBTIDE_THP", "ON", 0 },
  { "EBBTIDE_REMAP_MIN", "1", 0 },
  { "EBBTIDE_REMAP_MIN", "32t", 0 },
  { "EBBTIDE_DECAY_MS", "3600001", 0 },
  { "EBBTIDE_DECAY_MS", "1s", 0 },
  { "EBBTIDE_DECAY_MS", "-1", 0 },
  { "EBBTIDE_DECAY_MS", "off", 0 },
  { "EBBTIDE_RETAIN", "9t", 0 },
  { "EBBTIDE_RETAIN", "on", 0 },
  { "EBBTIDE_RETAIN_MAX", "-1", 0 },
  { "EBBTIDE_RETAIN_MAX", "all", 0 },
  { "EBBTIDE_LIMIT_SOFT", "cgroups", 0 },
  { "EBBTIDE_LIMIT_SOFT", "CGROUP", 0 },
  { "EBBTIDE_LIMIT_SOFT", "-1", 0 },
  { "EBBTIDE_LIMIT_SOFT", "-2", 0 },
  { "EBBTIDE_LIMIT_SOFT", "9t", 0 },
  { "EBBTIDE_LIMIT_HARD", "cgroup", 0 },
  { "EBBTIDE_STEP_US", "0", 0 },
  { "EBBTIDE_STEP_US", "1000001", 0 },
  { "EBBTIDE_AUTO", "2", 0 },
  { "EBBTIDE_AUTO", "auto", 0 },
  { "EBBTIDE_AUTO", "true", 0 },
  { "EBBTIDE_CHECKED", "3", 0 },
  { "EBBTIDE_CHECKED", "true", 0 },
  { "EBBTIDE_CHECKED", "samples", 0 },
  { "EBBTIDE_HISTORY", "true", 0 },
  { "EBBTIDE_HISTORY", " on", 0 },
};

/* The option that a variable sets: its name is the same in capitals. */
static const struct option *option_behind(const char *variable)
{
  size_t i, c;

  for (i = 0; i < COUNT_OF(all); i++) {
    const char *name = variable + strlen("EBBTIDE_");

    for (c = 0; name[c] != '\0' && (name[c] | 0x20) == (all[i].name[c] | 0x20);
         c++) {
    }
    if (name[c] == '\0' && all[i].name[c] == '\0') {
      return &all[i];
    }
  }
  REQUIRE(!"a variable without an option");
  return NULL;
}

static int64_t option_of(ebb_heap *heap, const char *name)
{
  int64_t value = -77;

  CHECK_EQ(ebb_get(heap, name, &value), EBB_OK);
  return value;
}

static int says(const char *what)
{
  return strstr(ebb_strerror(0), what) != NULL;
}

/* The message gives the lowest and the highest value in units, and the words
 * that are taken though they stand for no number; of a variable that is a
 * switch, its words. */
static int says_range_of(const struct option *option)
{
  return says(option->range);
}

static int says_what_it_takes(const struct option *option)
{
  char takes[100];

  if (option->words == NULL) {
    return says_range_of(option);
  }
  snprintf(takes, sizeof takes, "takes %s", option->words);
  return says(takes);
}

static void with_good_setting(const void *argument)
{
  const struct setting *setting = (const struct setting *)argument;
  ebb_heap *heap;

  setenv(setting->variable, setting->text, 1);
  heap = heap_from(NULL);
  CHECK_EQ(option_of(heap, option_behind(setting->variable)->name),
           setting->value);
  heap_ends_empty(heap);
}

static void with_bad_setting(const void *argument)
{
  const struct setting *setting = (const struct setting *)argument;
  char assignment[100];

  setenv(setting->variable, setting->text, 1);
  CHECK(ebb_heap_new(NULL) == NULL);
  snprintf(assignment, sizeof assignment, "%s=%s: ", setting->variable,
           setting->text);
  /* A word that is refused may be one that the message must not name. */
  if (!says(assignment)
      || (strstr(setting->text, "cgroup") == NULL
          && !says_what_it_takes(option_behind(setting->variable)))) {
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

/* A structure with one field set. */
static ebb_options with_field(const struct option *option, int64_t value)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  memcpy((char *)&options + option->field, &value, sizeof value);
  return options;
}

/* A field that is not 0 wins, and EBB_ZERO is not 0. */
static void with_both(const void *argument)
{
  ebb_options options;
  ebb_heap *heap;

  (void)argument;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.reserve = GIB;
  options.decay_ms = EBB_ZERO;
  options.auto_ = EBB_ZERO;
  options.limit_soft = EBB_ZERO;
  options.limit_hard = 100 * MIB;
  setenv("EBBTIDE_RESERVE", "4g", 1);
  setenv("EBBTIDE_DECAY_MS", "5000", 1);
  setenv("EBBTIDE_AUTO", "on", 1);
  setenv("EBBTIDE_LIMIT_SOFT", "1g", 1);
  setenv("EBBTIDE_LIMIT_HARD", "2g", 1);
  setenv("EBBTIDE_STEP_US", "77", 1);
  heap = heap_from(&options);
  CHECK_EQ(option_of(heap, "reserve"), GIB);
  CHECK_EQ(stats_of(heap, 0).reserved, GIB);
  CHECK_EQ(option_of(heap, "decay_ms"), 0);
  CHECK_EQ(option_of(heap, "auto"), 0);
  CHECK_EQ(option_of(heap, "limit_soft"), 0);
  CHECK_EQ(option_of(heap, "limit_hard"), 100 * MIB);
  CHECK_EQ(option_of(heap, "step_us"), 77);
  heap_ends_empty(heap);
}

static void a_field_goes_before_the_environment(void)
{
  CHECK_EQ(in_child(with_both, NULL), 0);
}

static void defaults_are_as_documented(void)
{
  ebb_heap *heap = heap_from(NULL);
  size_t i;

  /* Under a limit on address space nothing is reserved. */
  if (!is_limited()) {
    CHECK_EQ(option_of(heap, "reserve"), 64 * GIB);
    CHECK_EQ(stats_of(heap, 0).reserved, 64 * GIB);
  } else {
    CHECK_EQ(option_of(heap, "reserve"), 0);
    CHECK(stats_of(heap, 0).reserved < MIB);
  }
  for (i = 1; i < COUNT_OF(all); i++) {
    CHECK_EQ(option_of(heap, all[i].name), all[i].value);
  }
  heap_ends_empty(heap);
}

static void field_is_taken(const struct option *option, int64_t field,
                           int64_t value)
{
  ebb_options options = with_field(option, field);
  ebb_heap *heap = heap_from(&options);

  CHECK_EQ(option_of(heap, option->name), value);
  heap_ends_empty(heap);
}

static void sensible_fields_are_taken(void)
{
  size_t i;

  field_is_taken(&all[0], all[0].min, all[0].min);
  for (i = 1; i < COUNT_OF(all); i++) {
    if (all[i].min == 0) {
      field_is_taken(&all[i], EBB_ZERO, 0);
    } else {
      field_is_taken(&all[i], all[i].min, all[i].min);
    }
    if (strncmp(all[i].name, "limit_", 6) == 0) {
      field_is_taken(&all[i], 512 << 10, 512 << 10);
    } else {
      field_is_taken(&all[i], all[i].min + 1, all[i].min + 1);
    }
    field_is_taken(&all[i], all[i].max, all[i].max);
  }
  field_is_taken(option_behind("EBBTIDE_LIMIT_SOFT"), EBB_CGROUP, EBB_CGROUP);
}

static void field_is_refused(const struct option *option, int64_t value)
{
  ebb_options options = with_field(option, value);

  CHECK(ebb_heap_new(&options) == NULL);
  CHECK(says(option->name) && says_range_of(option));
}

static void senseless_fields_are_refused_by_name(void)
{
  size_t i;

  for (i = 0; i < COUNT_OF(all); i++) {
    field_is_refused(&all[i], all[i].max + 1);
    field_is_refused(&all[i], INT64_MAX);
    field_is_refused(&all[i], INT64_MIN);
    field_is_refused(&all[i], -3);
    if (all[i].min > 0) {
      field_is_refused(&all[i], EBB_ZERO);
    }
    if (all[i].min > 1) {
      field_is_refused(&all[i], all[i].min - 1);
    }
    if (strcmp(all[i].name, "limit_soft") != 0) {
      field_is_refused(&all[i], EBB_CGROUP);
    }
  }
}

/* Sets each option to both ends of its range, with blocks alive. */
static void options_are_set_in_use(void)
{
  ebb_heap *heap = heap_from(NULL);
  struct block block;
  size_t i;

  block_new(heap, &block, MIB, 1);
  for (i = 0; i < COUNT_OF(all); i++) {
    if (all[i].fixed) {
      continue;
    }
    CHECK_EQ(ebb_set(heap, all[i].name, all[i].max), EBB_OK);
    CHECK_EQ(option_of(heap, all[i].name), all[i].max);
    CHECK(block_resize(heap, &block, block.size, 4 * MIB, i));
    CHECK_EQ(ebb_set(heap, all[i].name, all[i].min), EBB_OK);
    CHECK_EQ(option_of(heap, all[i].name), all[i].min);
    CHECK(block_resize(heap, &block, block.size, 9 * MIB, i));
    CHECK(block_resize(heap, &block, block.size, MIB, i));
  }
  CHECK_EQ(ebb_set(heap, "limit_soft", EBB_CGROUP), EBB_OK);
  CHECK_EQ(option_of(heap, "limit_soft"), EBB_CGROUP);
  block_end(heap, &block);
  heap_ends_empty(heap);
}

static void unknown_names_are_refused(void)
{
  static const char *const names[] = {
    "nonsense", "", "size", "thpx", "th", "auto_", "DECAY_MS", "decay", "none",
  };
  ebb_heap *heap = heap_from(NULL);
  int64_t value = 77;
  size_t i;

  for (i = 0; i < COUNT_OF(names); i++) {
    CHECK_EQ(ebb_set(heap, names[i], 1), EBB_ERR_OPTION);
    CHECK(says(names[i]));
    CHECK_EQ(ebb_get(heap, names[i], &value), EBB_ERR_OPTION);
    CHECK(says(names[i]));
    CHECK_EQ(value, 77);
  }
  heap_ends_empty(heap);
}

static void set_is_refused(ebb_heap *heap, const struct option *option,
                           int64_t value)
{
  int64_t before = option_of(heap, option->name);

  if (option->fixed) {
    CHECK_EQ(ebb_set(heap, option->name, value), EBB_ERR_FIXED);
    CHECK(says(option->name));
  } else {
    CHECK_EQ(ebb_set(heap, option->name, value), EBB_ERR_RANGE);
    CHECK(says(option->name) && says_range_of(option));
  }
  CHECK_EQ(option_of(heap, option->name), before);
}

/* EBB_ZERO is for fields. */
static void a_refused_set_changes_nothing(void)
{
  ebb_heap *heap = heap_from(NULL);
  size_t i;

  for (i = 0; i < COUNT_OF(all); i++) {
    set_is_refused(heap, &all[i], all[i].max + 1);
    set_is_refused(heap, &all[i], all[i].min - 1);
    set_is_refused(heap, &all[i], EBB_ZERO);
    set_is_refused(heap, &all[i], INT64_MAX);
    set_is_refused(heap, &all[i], INT64_MIN);
    if (strcmp(all[i].name, "limit_soft") != 0) {
      set_is_refused(heap, &all[i], EBB_CGROUP);
    }
  }
  CHECK_EQ(ebb_set(heap, "reserve", (int64_t)1 << 30), EBB_ERR_FIXED);
  /* Nobody watches when a VM on this heap waits. */
  CHECK_EQ(ebb_set(heap, "collect", 1), EBB_ERR_ARGUMENT);
  CHECK(strstr(ebb_strerror(0), "collect=on has no effect here") != NULL);
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
  RUN(sensible_fields_are_taken);
  RUN(senseless_fields_are_refused_by_name);
  RUN(options_are_set_in_use);
  RUN(unknown_names_are_refused);
  RUN(a_refused_set_changes_nothing);
  return check_status();
}
