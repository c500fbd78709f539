/* The built-in heap of a VM, spoilt one word at a time: every word of its
 * state, and heads, feet and links of chunks and segments of every kind. Each
 * function that reads the heap must refuse it, unless LuaJIT never reads the
 * word, and must not crash. Each place is spoilt in a child, in several ways;
 * then the VM is attached, and each is spoilt again. */

#include "builtin_heap.h"

#include <fcntl.h>

#define PLACES_MAX 4096
#define WAYS 9

/* A word to spoil; which bits of it mean anything. */
struct place {
  uintptr_t at;
  size_t bits;
  const char *name;
  int is_harmless;
};

static struct place places[PLACES_MAX];
static size_t place_count;

/* The places in the heap */

static void add(uintptr_t at, const char *name, size_t bits)
{
  if (place_count < PLACES_MAX) {
    places[place_count].at = at;
    places[place_count].name = name;
    places[place_count++].bits = bits;
  }
}

/* LuaJIT reads neither the head of an empty list nor, here, the countdown to the
 * next try to trim. */
static int state_harmless(size_t offset)
{
  size_t list = (offset - LISTS) / 16 - 1;

  if (offset == TRIM || offset == TRIM + 8) {
    return 1;
  }
  if (offset < LISTS || offset >= TREES) {
    return 0;
  }
  return offset < LISTS + 16 || (*word(in_state(0)) >> list & 1) == 0;
}

static void add_state(void)
{
  size_t offset;

  for (offset = 0; offset < STATE_END; offset += 8) {
    add(in_state(offset), "state", ~(size_t)0);
    places[place_count - 1].is_harmless = state_harmless(offset);
  }
}

/* In a bin, a chunk has links; the large have a place in a tree. */
static void add_free_chunk(uintptr_t chunk, size_t size)
{
  size_t offset;

  add(chunk + HEAD, "head of a free chunk", ~(size_t)0);
  if (chunk == *word(in_state(TOP))) {
    return;
  }
  add(chunk + size + FOOT, "foot of a free chunk", ~(size_t)0);
  if (chunk == *word(in_state(DV))) {
    return;
  }
  add(chunk + FD, "forward link", ~(size_t)0);
  add(chunk + BK, "back link", ~(size_t)0);
  for (offset = CHILDREN; size >= 256 && offset <= PARENT; offset += 8) {
    add(chunk + offset, "link in a tree", ~(size_t)0);
  }
  if (size >= 256) {
    add(chunk + INDEX, "index of a tree", 0xffffffffu);
  }
}

static int is_mine(uintptr_t chunk)
{
  size_t i;

  for (i = 0; i < COUNT_OF(blocks); i++) {
    if ((uintptr_t)blocks[i].at == chunk + 16) {
      return 1;
    }
  }
  return 0;
}

/* One free chunk in 8, and one chunk in use in 12. Of those in use only such as
 * lie before one whose contents are known, so that no wrong size leads to a
 * right one. */
static void add_chunk(uintptr_t chunk, size_t head)
{
  size_t size = head & ~(size_t)FLAGS;
  uintptr_t next = chunk + size;
  int is_last = next >= *word(in_state(TOP)) && chunk <= *word(in_state(TOP));

  if ((head & USED) == 0) {
    if (rng_below(&rng, 8) == 0 || chunk == *word(in_state(DV))) {
      add_free_chunk(chunk, size);
    }
  } else if (rng_below(&rng, 12) == 0 && !is_last && is_mine(chunk)
             && is_mine(next)) {
    add(chunk + HEAD, "head of a chunk in use", ~(size_t)0);
  }
}

/* From its first chunk to the top or to the chunk of its record. */
static void add_segment(uintptr_t record, int is_newest)
{
  uintptr_t at, chunk = *word(record), end = chunk + *word(record + 8);
  uintptr_t last = is_newest ? *word(in_state(TOP)) : record - 16;

  while (chunk < last) {
    add_chunk(chunk, *word(chunk + HEAD));
    chunk += *word(chunk + HEAD) & ~(size_t)FLAGS;
  }
  REQUIRE(chunk == last);
  if (is_newest) {
    add(last + HEAD, "head of the top", ~(size_t)0);
    add(end - 64 + HEAD, "end of the newest segment", ~(size_t)0);
    return;
  }
  for (at = record - 16 + HEAD; at < end; at += 8) {
    add(at, "end of a segment", ~(size_t)0);
  }
}

static void add_segments(void)
{
  uintptr_t record;

  for (record = in_state(SEGMENT); record != 0; record = *word(record + 16)) {
    add_segment(record, record == in_state(SEGMENT));
  }
}

/* Spoiling */

static size_t spoilt(size_t value, size_t way)
{
  switch (way) {
  case 0: return 0;
  case 1: return ~(size_t)0;
  case 2: return value ^ 1;
  case 3: return value ^ 2;
  case 4: return value ^ 4;
  case 5: return value + 8;
  case 6: return value - 8;
  case 7: return value ^ (size_t)1 << (40 + rng_below(&rng, 24));
  default: return (size_t)state + 8 * rng_below(&rng, 100);
  }
}

static void expect(const struct place *place, const char *call, size_t value,
                   size_t was, int result)
{
  char text[256];

  if (result == EBB_ERR_UNKNOWN || (place->is_harmless && result == EBB_OK)) {
    return;
  }
  snprintf(text, sizeof text,
           "%s: %s, at state + %#zx: %#zx instead of %#zx: %d, %s", call,
           place->name, (size_t)(place->at - (uintptr_t)state), value, was,
           result, ebb_strerror(0));
  check_failed(__FILE__, __LINE__, text);
}

static void spoil(const void *argument)
{
  const struct place *place = (const struct place *)argument;
  size_t was = *word(place->at), way, value;
  ebb_builtin_stats stats;

  alarm(120);
  for (way = 0; way < WAYS; way++) {
    value = (spoilt(was, way) & place->bits) | (was & ~place->bits);
    if (value == was) {
      continue;
    }
    *word(place->at) = value;
    expect(place, "read", value, was, read_heap(&stats));
    if (!place->is_harmless && way % 2 == 0) {
      expect(place, "reclaim", value, was, ebb_builtin_reclaim(L, NULL, NULL));
      expect(place, "attach", value, was, ebb_attach(L, NULL));
      CHECK(ebb_heap_of(L) == NULL);
    }
    *word(place->at) = was;
  }
  CHECK_EQ(read_heap(&stats), EBB_OK);
}

static void every_single_word_is_noticed(void)
{
  size_t i;

  add_state();
  add_segments();
  for (i = 0; i < place_count; i++) {
    if (in_child(spoil, &places[i]) != 0) {
      fprintf(stderr, "%s at %#zx\n", places[i].name, (size_t)places[i].at);
      check_failed(__FILE__, __LINE__, "a child failed or crashed");
    }
  }
  CHECK(place_count > 300 && place_count < PLACES_MAX);
}

/* Several words at once, with anything: whatever comes of it, no crash. */
static void spoil_many(const void *argument)
{
  size_t *was[4], value[4], i, round;
  ebb_builtin_stats stats;
  int result;

  alarm(120);
  rng.state += *(const uint64_t *)argument;
  for (round = 0; round < 20; round++) {
    for (i = 0; i < COUNT_OF(was); i++) {
      was[i] = word(places[rng_below(&rng, place_count)].at);
      value[i] = *was[i];
      *was[i] = spoilt(*word(places[rng_below(&rng, place_count)].at),
                       rng_below(&rng, WAYS + 1));
    }
    result = read_heap(&stats);
    CHECK(result == EBB_ERR_UNKNOWN || result == EBB_OK);
    while (i-- > 0) {
      *was[i] = value[i];
    }
  }
  CHECK_EQ(read_heap(&stats), EBB_OK);
}

static void many_words_do_not_crash_it(void)
{
  uint64_t seed;

  for (seed = 1; seed <= 40; seed++) {
    CHECK_EQ(in_child(spoil_many, &seed), 0);
  }
}

/* After ebb_attach() */

/* What damages a heap that is known, whatever else is in order: what it is
 * read from first. */
static int is_read_first(const struct place *place)
{
  size_t offset = place->at - (uintptr_t)state;

  return offset == TOP || offset == TOP_SIZE
         || (offset >= SEGMENT && offset < STATE_END);
}

/* Lines on standard error are for people, and there would be hundreds. */
static void reclaim_silently(void)
{
  int error = dup(2), null = open("/dev/null", O_WRONLY);

  REQUIRE(error >= 0 && null >= 0 && dup2(null, 2) == 2);
  CHECK_EQ(ebb_reclaim(ebb_heap_of(L), NULL, NULL), EBB_OK);
  REQUIRE(dup2(error, 2) == 2);
  close(error);
  close(null);
}

static void spoil_attached(const void *argument)
{
  const struct place *place = (const struct place *)argument;
  size_t was = *word(place->at), way, value;

  alarm(120);
  for (way = 0; way < WAYS; way++) {
    value = (spoilt(was, way) & place->bits) | (was & ~place->bits);
    if (value == was) {
      continue;
    }
    *word(place->at) = value;
    CHECK(ebb_tick(ebb_heap_of(L), 500) >= EBB_OK);
    reclaim_silently();
    CHECK(is_damaged() || !is_read_first(place));
    CHECK(!is_damaged() || !place->is_harmless);
    *word(place->at) = was;
    reclaim_silently();
    CHECK(!is_damaged());
  }
}

static void an_attached_vm_leaves_damage_alone(void)
{
  size_t i;

  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  CHECK(!is_damaged());
  for (i = 0; i < place_count; i++) {
    if (in_child(spoil_attached, &places[i]) != 0) {
      fprintf(stderr, "%s at %#zx\n", places[i].name, (size_t)places[i].at);
      check_failed(__FILE__, __LINE__, "a child failed or crashed");
    }
  }
}

int main(void)
{
  build();
  RUN(every_single_word_is_noticed);
  RUN(many_words_do_not_crash_it);
  RUN(an_attached_vm_leaves_damage_alone);
  lua_close(L);
  return check_status();
}
