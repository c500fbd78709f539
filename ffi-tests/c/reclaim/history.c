/* The history of a heap: a sample for each second in which something was done,
 * copied out for callers with smaller and larger samples than the library's. */

#include "tick_host.h"

#include <stddef.h>

#define ROOM 8

static struct block live;

/* Only ticks take samples, and nothing goes back but on request. */
static ebb_heap *heap_with_history(void)
{
  ebb_options options = no_options();

  options.history = 1;
  options.auto_ = EBB_ZERO;
  options.decay_ms = 3600000;
  options.limit_soft = 32 * MIB;
  return heap_from(&options);
}

static ebb_history room_for(ebb_sample *samples, size_t count)
{
  ebb_history history;

  memset(&history, 0, sizeof history);
  history.size = sizeof history;
  history.sample_size = sizeof *samples;
  history.samples = samples;
  history.count = count;
  return history;
}

static size_t samples_of(ebb_heap *heap, ebb_sample *samples, size_t count)
{
  ebb_history history = room_for(samples, count);

  memset(samples, 0xa5, count * sizeof *samples);
  CHECK_EQ(ebb_history_read(heap, &history), EBB_OK);
  CHECK(history.count <= count);
  return history.count;
}

static void sample_is_of(const ebb_sample *sample, const ebb_stats *stats)
{
  CHECK_EQ(sample->live, stats->live);
  CHECK_EQ(sample->free_resident, stats->free_resident);
  CHECK_EQ(sample->returned_total, stats->returned_total);
  CHECK_EQ(sample->refaulted_total, stats->refaulted_asked
                                        + stats->refaulted_idle
                                        + stats->refaulted_limit);
  CHECK_EQ(sample->pressure, stats->pressure);
  CHECK_EQ(sample->trend, stats->trend);
}

/* Changes the heap from second to second, until there are `count` samples;
 * notes what there was at each. */
static void take_samples(ebb_heap *heap, ebb_stats *stats, size_t count)
{
  ebb_sample samples[ROOM];
  uint64_t start = now_ms(), before;
  size_t taken = 0;

  while (taken < count) {
    size_t now;

    before = now_ms();
    CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
    now = samples_of(heap, samples, ROOM);
    if (now > taken) {
      CHECK_EQ(now, taken + 1);
      CHECK(samples[taken].time_ms >= before);
      CHECK(samples[taken].time_ms <= now_ms());
      taken = now;
      stats[taken - 1] = stats_of(heap, 0);
      sample_is_of(&samples[taken - 1], &stats[taken - 1]);
      CHECK(block_resize(heap, &live, live.size, taken * 15 * MIB, taken));
      leave_free(heap, taken * MIB);
      CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
      leave_free(heap, taken * 64 * KIB);
    }
    REQUIRE(now_ms() - start < DEADLINE_MS);
    sleep_ms(10);
  }
}

/* A caller that knows only the first fields, and one that knows more. */
static void samples_of_any_size_are_filled(ebb_heap *heap, size_t sample_size,
                                           const ebb_sample *samples,
                                           size_t count)
{
  unsigned char room[ROOM * 2 * sizeof(ebb_sample)];
  size_t filled = sample_size < sizeof *samples ? sample_size
                                                : sizeof *samples;
  ebb_history history = room_for((ebb_sample *)room, count);
  size_t i, at;

  history.sample_size = sample_size;
  memset(room, 0xa5, sizeof room);
  CHECK_EQ(ebb_history_read(heap, &history), EBB_OK);
  CHECK_EQ(history.count, count);
  CHECK_EQ(history.sample_size, sample_size);
  for (i = 0; i < count; i++) {
    CHECK(memcmp(room + i * sample_size, &samples[i], filled) == 0);
    for (at = i * sample_size + filled; at < (i + 1) * sample_size; at++) {
      CHECK_EQ(room[at], 0xa5);
    }
  }
  for (at = count * sample_size; at < sizeof room; at++) {
    CHECK_EQ(room[at], 0xa5);
  }
}

static void reads_what_was_sampled(ebb_heap *heap, const ebb_stats *stats)
{
  ebb_sample all[ROOM], few[ROOM];
  ebb_history none = room_for(NULL, 0);
  size_t i, count;

  CHECK_EQ(samples_of(heap, all, ROOM), 3);
  for (i = 0; i < 3; i++) {
    sample_is_of(&all[i], &stats[i]);
    CHECK(i == 0 || all[i].time_ms >= all[i - 1].time_ms + 1000);
  }
  CHECK_EQ(all[ROOM - 1].time_ms, 0xa5a5a5a5a5a5a5a5);
  for (count = 0; count <= 3; count++) {
    /* The newest of them. */
    CHECK_EQ(samples_of(heap, few, count), count);
    CHECK(memcmp(few, all + 3 - count, count * sizeof *few) == 0);
  }
  CHECK_EQ(ebb_history_read(heap, &none), EBB_OK);
  CHECK_EQ(none.count, 0);
  for (i = 8; i <= 2 * sizeof *all; i += 8) {
    samples_of_any_size_are_filled(heap, i, all, 3);
  }
}

static void each_second_has_a_sample(void)
{
  ebb_heap *heap = heap_with_history();
  ebb_sample samples[ROOM];
  ebb_stats stats[3];

  CHECK_EQ(samples_of(heap, samples, ROOM), 0);
  block_new(heap, &live, 10 * MIB, 1);
  take_samples(heap, stats, 3);
  reads_what_was_sampled(heap, stats);
  CHECK(stats[0].live < stats[1].live && stats[1].live < stats[2].live);
  CHECK(stats[2].pressure > 0);
  CHECK(stats[0].returned_total < stats[2].returned_total);
  /* What was kept stays readable. */
  set(heap, "history", 0);
  sleep_ms(1100);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(samples_of(heap, samples, ROOM), 3);
  block_end(heap, &live);
  heap_ends_empty(heap);
}

static void there_are_no_samples_while_it_is_off(void)
{
  ebb_heap *heap = heap_of(0);
  ebb_sample samples[ROOM];
  uint64_t metadata;

  leave_free(heap, MIB);
  metadata = stats_of(heap, 0).metadata;
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(samples_of(heap, samples, ROOM), 0);
  CHECK_EQ(stats_of(heap, 0).metadata, metadata);
  set(heap, "history", 1);
  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(samples_of(heap, samples, ROOM), 1);
  CHECK(stats_of(heap, 0).metadata <= metadata + 16 * KIB);
  heap_ends_empty(heap);
  /* Nor any of a heap that was deleted. */
  heap = heap_with_history();
  CHECK_EQ(samples_of(heap, samples, ROOM), 0);
  heap_ends_empty(heap);
}

/* Without a tick: whoever allocates takes them on the way. */
static void a_busy_heap_takes_samples_of_itself(void)
{
  ebb_heap *heap = heap_with_history();
  ebb_sample samples[ROOM];
  uint64_t start = now_ms();

  set(heap, "auto", 1);
  while (samples_of(heap, samples, ROOM) == 0) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    churn(heap);
    sleep_ms(1);
  }
  heap_ends_empty(heap);
}

static void is_refused(ebb_heap *heap, ebb_history *history)
{
  size_t count = history->count;

  CHECK_EQ(ebb_history_read(heap, history), EBB_ERR_ARGUMENT);
  CHECK(ebb_strerror(0)[0] != '\0');
  CHECK_EQ(history->count, count);
}

static void bad_arguments_are_refused(void)
{
  ebb_heap *heap = heap_with_history();
  ebb_sample samples[ROOM];
  ebb_history history;
  size_t size;

  CHECK_EQ(ebb_tick(heap, 0), EBB_OK);
  CHECK_EQ(ebb_history_read(heap, NULL), EBB_ERR_ARGUMENT);
  for (size = 0; size < sizeof history; size += 4) {
    history = room_for(samples, ROOM);
    history.size = size;
    is_refused(heap, &history);
    CHECK(strstr(ebb_strerror(0), "ebb_history") != NULL);
  }
  for (size = 0; size < 8; size++) {
    history = room_for(samples, ROOM);
    history.sample_size = size;
    is_refused(heap, &history);
    CHECK(strstr(ebb_strerror(0), "ebb_sample") != NULL);
  }
  history = room_for(NULL, 1);
  is_refused(heap, &history);
  CHECK(strstr(ebb_strerror(0), "samples is NULL") != NULL);
  history = room_for(samples, ROOM);
  is_refused(NULL, &history);
  CHECK(strstr(ebb_strerror(0), "heap is NULL") != NULL);
  heap_ends_empty(heap);
}

int main(void)
{
  RUN(each_second_has_a_sample);
  RUN(there_are_no_samples_while_it_is_off);
  RUN(a_busy_heap_takes_samples_of_itself);
  RUN(bad_arguments_are_refused);
  return check_status();
}
