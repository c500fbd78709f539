/* The header from C and C++: it stands alone, may come twice, and says of
 * structures, version and codes what the library says. */

#include <ebbtide.h>
#include <ebbtide.h>

#include "check.h"

#include <stddef.h>

/* Larger than any structure of this version, for callers of a later one. */
union room {
  ebb_options options;
  ebb_reclaim_options reclaim_options;
  ebb_reclaim_report report;
  ebb_stats stats;
  ebb_history history;
  unsigned char bytes[1024];
};

#define CANARY 0xa5

static size_t bytes_changed_from(const union room *room, size_t start)
{
  size_t i, changed = 0;

  for (i = start; i < sizeof *room; i++) {
    changed += room->bytes[i] != CANARY;
  }
  return changed;
}

static void version_is_the_librarys(void)
{
  CHECK(strcmp(EBB_VERSION, ebb_version()) == 0);
}

static void current_sizes_are_accepted(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_reclaim_options options;
  ebb_reclaim_report report;

  memset(&options, 0, sizeof options);
  memset(&report, 0, sizeof report);
  options.size = sizeof options;
  report.size = sizeof report;
  CHECK_EQ(ebb_reclaim(heap, &options, &report), EBB_OK);
  CHECK_EQ(report.size, sizeof report);
  CHECK_EQ(stats_of(heap, 0).size, sizeof(ebb_stats));
  heap_ends_empty(heap);
}

/* A program built with an older header knows only the first fields. */
static void older_options_are_read_to_their_size(void)
{
  size_t size = offsetof(ebb_options, decay_ms);
  int64_t value = 0;
  union room room;
  ebb_heap *heap;

  memset(&room, CANARY, sizeof room);
  memset(&room, 0, size);
  room.options.size = size;
  room.options.remap_min = 8192;
  heap = heap_from(&room.options);
  CHECK_EQ(ebb_get(heap, "remap_min", &value), EBB_OK);
  CHECK_EQ(value, 8192);
  CHECK_EQ(ebb_get(heap, "decay_ms", &value), EBB_OK);
  CHECK_EQ(value, 1000);
  heap_ends_empty(heap);
}

/* Whatever was the last field then. */
static void older_stats_are_filled_to_their_size(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_stats all = stats_of(heap, 0);
  size_t size;

  for (size = offsetof(ebb_stats, reserved); size <= sizeof all; size++) {
    union room room;

    memset(&room, CANARY, sizeof room);
    room.stats.size = size;
    room.stats.flags = 0;
    room.stats.class_count = 0;
    room.stats.classes = NULL;
    CHECK_EQ(ebb_stats_read(heap, &room.stats), EBB_OK);
    CHECK_EQ(room.stats.size, size);
    all.size = size;
    CHECK(memcmp(&room, &all, size) == 0);
    CHECK_EQ(bytes_changed_from(&room, size), 0);
  }
  heap_ends_empty(heap);
}

static void older_reports_are_filled_to_their_size(void)
{
  size_t size = offsetof(ebb_reclaim_report, resident);
  ebb_heap *heap = heap_of(0);
  void *block = ebb_alloc(heap, NULL, 0, 100);
  union room room;

  memset(&room, CANARY, sizeof room);
  room.report.size = size;
  CHECK_EQ(ebb_reclaim(heap, NULL, &room.report), EBB_OK);
  CHECK_EQ(room.report.live, 100);
  CHECK_EQ(bytes_changed_from(&room, size), 0);
  ebb_alloc(heap, block, 100, 0);
  heap_ends_empty(heap);
}

/* A program built with a newer header brings fields unknown here, at 0. */
static void newer_structures_are_accepted(void)
{
  union room room;
  ebb_heap *heap;

  memset(&room, 0, sizeof room);
  room.options.size = sizeof room;
  heap = heap_from(&room.options);

  memset(&room, 0, sizeof room);
  room.stats.size = sizeof room;
  CHECK_EQ(ebb_stats_read(heap, &room.stats), EBB_OK);
  CHECK(room.stats.reserved > 0);

  memset(&room, 0, sizeof room);
  room.reclaim_options.size = sizeof room;
  CHECK_EQ(ebb_reclaim(heap, &room.reclaim_options, NULL), EBB_OK);

  memset(&room, 0, sizeof room);
  room.report.size = sizeof room;
  CHECK_EQ(ebb_reclaim(heap, NULL, &room.report), EBB_OK);
  heap_ends_empty(heap);
}

/* What they ask for must not be lost in silence. */
static void newer_options_are_refused_when_they_are_set(void)
{
  union room room;

  memset(&room, 0, sizeof room);
  room.options.size = sizeof room.options + 16;
  room.bytes[sizeof room.options + 8] = 1;
  CHECK(ebb_heap_new(&room.options) == NULL);
  CHECK(strstr(ebb_strerror(0), ebb_version()) != NULL);
}

/* Too small to hold their own size. */
static void stunted_structures_are_refused(void)
{
  ebb_heap *heap = heap_of(0);
  union room room;
  size_t size;

  for (size = 0; size < sizeof(size_t); size++) {
    memset(&room, 0, sizeof room);
    room.options.size = size;
    CHECK(ebb_heap_new(&room.options) == NULL);
    CHECK(ebb_strerror(0)[0] != '\0');
    CHECK_EQ(ebb_reclaim(heap, &room.reclaim_options, NULL), EBB_ERR_ARGUMENT);
    CHECK_EQ(ebb_reclaim(heap, NULL, &room.report), EBB_ERR_ARGUMENT);
    CHECK_EQ(ebb_stats_read(heap, &room.stats), EBB_ERR_ARGUMENT);
    CHECK_EQ(ebb_history_read(heap, &room.history), EBB_ERR_ARGUMENT);
  }
  heap_ends_empty(heap);
}

/* Each time with a reason that names the argument. */
static void is_refused(int result, const char *argument)
{
  char reason[100];

  snprintf(reason, sizeof reason, "%s is NULL", argument);
  CHECK_EQ(result, EBB_ERR_ARGUMENT);
  CHECK(strcmp(ebb_strerror(0), reason) == 0);
}

static void a_null_heap_is_refused(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_stats stats = stats_of(heap, 0);
  ebb_history history;
  int64_t value = 0;

  memset(&history, 0, sizeof history);
  history.size = sizeof history;
  history.sample_size = sizeof(ebb_sample);
  is_refused(ebb_reclaim(NULL, NULL, NULL), "heap");
  is_refused(ebb_tick(NULL, 0), "heap");
  is_refused(ebb_tick(NULL, 100), "heap");
  is_refused(ebb_next_tick(NULL), "heap");
  is_refused(ebb_pressure(NULL), "heap");
  is_refused(ebb_stats_read(NULL, &stats), "heap");
  is_refused(ebb_history_read(NULL, &history), "heap");
  is_refused(ebb_set(NULL, "thp", 1), "heap");
  is_refused(ebb_get(NULL, "thp", &value), "heap");
  heap_ends_empty(heap);
}

static void null_arguments_are_refused(void)
{
  ebb_heap *heap = heap_of(0);
  int64_t value = 0;

  is_refused(ebb_stats_read(heap, NULL), "stats");
  is_refused(ebb_history_read(heap, NULL), "history");
  is_refused(ebb_set(heap, NULL, 1), "name");
  is_refused(ebb_get(heap, NULL, &value), "name");
  is_refused(ebb_get(heap, "thp", NULL), "value");
  ebb_heap_delete(NULL);
  heap_ends_empty(heap);
}

static void every_code_has_a_text_of_its_own(void)
{
  static const int codes[] = {
    EBB_OK,        EBB_MORE,      EBB_ERR_ARGUMENT, EBB_ERR_OPTION,
    EBB_ERR_RANGE, EBB_ERR_FIXED, EBB_ERR_MEMORY,   EBB_ERR_SYSTEM,
    EBB_ERR_UNKNOWN,
  };
  size_t i, j;

  /* 0 asks for the reason of the last failure instead. */
  for (i = 1; i < COUNT_OF(codes); i++) {
    CHECK(ebb_strerror(codes[i])[0] != '\0');
    for (j = 1; j < i; j++) {
      CHECK(codes[i] != codes[j]);
      CHECK(strcmp(ebb_strerror(codes[i]), ebb_strerror(codes[j])) != 0);
    }
  }
  CHECK(ebb_strerror(-1000) != NULL);
}

int main(void)
{
  RUN(version_is_the_librarys);
  RUN(current_sizes_are_accepted);
  RUN(older_options_are_read_to_their_size);
  RUN(older_stats_are_filled_to_their_size);
  RUN(older_reports_are_filled_to_their_size);
  RUN(newer_structures_are_accepted);
  RUN(newer_options_are_refused_when_they_are_set);
  RUN(stunted_structures_are_refused);
  RUN(a_null_heap_is_refused);
  RUN(null_arguments_are_refused);
  RUN(every_code_has_a_text_of_its_own);
  return check_status();
}
