/* The built-in heap of a VM, spoilt one word at a time: every word of its
 * state, and heads, feet and links of chunks and segments of every kind. Who
 * looks at it must refuse it, unless nobody ever reads the word, and must not
 * crash. Each place is spoilt in a child, in several ways; then the VM is
 * attached, and each is spoilt again. The layout is LuaJIT's. */

#include "check.h"
#include "refuse_call.h"

#include <fcntl.h>
#include <time.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define PLACES_MAX 4096
#define WAYS 9

enum {
  DV_SIZE = 8, TOP_SIZE = 16, DV = 24, TOP = 32, TRIM = 40, LISTS = 56, TREES = 584,
  SEGMENT = 840, STATE_END = 864,
  FOOT = 0, HEAD = 8, FD = 16, BK = 24, CHILDREN = 32, PARENT = 48, INDEX = 56,
  PREV = 1, USED = 2, FLAGS = 7
};

/* A word to spoil; which bits of it mean anything. */
struct place {
  uintptr_t at;
  size_t bits;
  const char *name;
  int is_harmless;
};

static lua_State *L;
static lua_Alloc alloc;
static void *state;
static struct block blocks[1500];
static struct place places[PLACES_MAX];
static size_t place_count;
static struct rng rng = { 88172645463325252u };

static size_t *word(uintptr_t at)
{
  return (size_t *)at;
}

static uintptr_t in_state(size_t offset)
{
  return (uintptr_t)state + offset;
}

static void add(uintptr_t at, const char *name, size_t bits)
{
  if (place_count < PLACES_MAX) {
    places[place_count].at = at;
    places[place_count].name = name;
    places[place_count++].bits = bits;
  }
}

/* Building the heap. What is in blocks cannot be taken for a chunk's head. */

static void block_make(struct block *block)
{
  static const size_t sizes[] = { 24, 40, 100, 240, 300, 700, 1500, 6000 };
  size_t head, kind = rng_below(&rng, 2 * COUNT_OF(sizes));

  block->size = 1 + rng_below(&rng, 3000);
  if (kind < COUNT_OF(sizes)) {
    block->size = sizes[kind];
  }
  block->at = alloc(state, NULL, 0, block->size);
  REQUIRE(block->at != NULL);
  head = *word((uintptr_t)block->at - 8);
  memset(block->at, 0xa5, (head & ~(size_t)FLAGS) - 8);
}

static void block_drop(struct block *block)
{
  alloc(state, block->at, block->size, 0);
  block->at = NULL;
}

static int read_heap(ebb_builtin_stats *stats)
{
  memset(stats, 0, sizeof *stats);
  stats->size = sizeof *stats;
  return ebb_builtin_read(L, stats);
}

static void build(void)
{
  size_t i;
  ebb_builtin_stats stats;

  L = luaL_newstate();
  REQUIRE(L != NULL);
  luaL_openlibs(L);
  alloc = lua_getallocf(L, &state);
  for (i = 0; i < COUNT_OF(blocks); i++) {
    block_make(&blocks[i]);
    if (i % 200 == 0) {
      /* In the way of the segment that would adjoin. */
      REQUIRE(mmap(NULL, 64 * KIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0) != MAP_FAILED);
    }
  }
  for (i = 0; i < COUNT_OF(blocks); i++) {
    if (rng_below(&rng, 2) == 0) {
      block_drop(&blocks[i]);
    }
  }
  while (*word(in_state(DV)) == 0) {
    block_make(&blocks[rng_below(&rng, 2) == 0 ? 0 : 1]);
  }
  REQUIRE(read_heap(&stats) == EBB_OK);
  CHECK(stats.segments >= 3);
}

/* Places in it */

/* Nobody reads what is in the head of an empty list, nor what counts down to
 * the next try to trim. */
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

/* One of so many chunks of each kind; of those in use only such as lie before
 * one whose contents are known, so that no wrong size leads to a right one. */
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

static uint64_t is_damaged(void)
{
  return stats_of(ebb_heap_of(L), 0).previous_damaged;
}

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

static void *attach_without_thread(int64_t auto_)
{
  ebb_options options;
  void *heap;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.auto_ = auto_;
  options.background = EBB_ZERO;
  REQUIRE(ebb_attach(L, &options) == EBB_OK);
  lua_getallocf(L, &heap);
  return heap;
}

static void drop_all(void *heap)
{
  lua_Alloc function = lua_getallocf(L, NULL);
  size_t i;

  for (i = 0; i < COUNT_OF(blocks); i++) {
    if (blocks[i].at != NULL) {
      function(heap, blocks[i].at, 0, 0);
    }
  }
}

/* Until no tick will be due, or the kernel has refused something. */
static int tick_on(void *heap)
{
  const struct timespec pause = { 0, 10 * 1000 * 1000 };
  int result;

  do {
    nanosleep(&pause, NULL);
    result = ebb_tick(heap, 500);
  } while (result >= EBB_OK && ebb_next_tick(heap) != EBB_NEVER);
  return result;
}

/* Free blocks, then damage: a tick that meets it cannot tell it from growth,
 * says so, and none comes again until a reclaim has found the heap in order.
 * One that finds damage says so once. */
static void tick_over_damage(const void *argument)
{
  uintptr_t link = in_state(SEGMENT + 16);
  size_t was;
  void *heap;

  (void)argument;
  heap = attach_without_thread(EBB_ZERO);
  drop_all(heap);
  was = *word(link);
  *word(link) = (size_t)1 << 46;
  CHECK_EQ(ebb_next_tick(heap), 0);
  CHECK(tick_on(heap) >= EBB_OK);
  CHECK(!is_damaged());
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  CHECK(is_damaged());
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  CHECK(is_damaged());
  *word(link) = was;
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  CHECK(!is_damaged());
}

/* The last fencepost of the oldest segment, which is never unmapped before the
 * end. LuaJIT reads none. */
static uintptr_t last_fencepost(void)
{
  uintptr_t record = in_state(SEGMENT);

  while (*word(record + 16) != 0) {
    record = *word(record + 16);
  }
  return *word(record) + *word(record + 8) - 8;
}

/* A host that neither ticks nor reclaims: a pass by itself meets the damage,
 * and the end of the VM adds nothing. */
static void work_over_damage(const void *argument)
{
  const struct timespec pause = { 0, 10 * 1000 * 1000 };
  void *heap = attach_without_thread(1);

  (void)argument;
  CHECK_EQ(ebb_set(heap, "banana", 1), EBB_ERR_OPTION);
  *word(last_fencepost()) = 0;
  drop_all(heap);
  while (!is_damaged()) {
    nanosleep(&pause, NULL);
    REQUIRE(luaL_dostring(L, "for i = 1, 1e4 do local t = {i} end") == 0);
  }
  /* Nobody asked for these passes: the last error is that of a call. */
  CHECK(strstr(ebb_strerror(0), "banana") != NULL);
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  CHECK(is_damaged());
  lua_close(L);
}

/* No pass has come until the end of the VM. */
static void close_over_damage(const void *argument)
{
  (void)argument;
  attach_without_thread(EBB_ZERO);
  *word(last_fencepost()) = 0;
  lua_close(L);
}

/* The list of segments leads to memory that is mapped and inaccessible. LuaJIT
 * does not follow the list at a free: it is far from the next try to trim. */
static void close_over_bad_link(const void *argument)
{
  void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  (void)argument;
  REQUIRE(page != MAP_FAILED);
  attach_without_thread(EBB_ZERO);
  *word(in_state(TRIM)) = ~(size_t)0;
  *word(in_state(TRIM + 8)) = ~(size_t)0;
  *word(in_state(SEGMENT + 16)) = (uintptr_t)page;
  lua_close(L);
}

/* A function, and where its lines go. */
struct teller {
  void (*act)(const void *argument);
  int error;
};

static void tell(const void *argument)
{
  const struct teller *teller = (const struct teller *)argument;

  alarm(120);
  REQUIRE(dup2(teller->error, 2) == 2);
  teller->act(NULL);
}

#define TOLD "ebbtide: a VM's heap from before attach() "
#define NOT "not LuaJIT's own heap: 0x"

/* What a child writes: these lines, but for the address in front of the end of
 * the last. */
static void expect_lines(void (*act)(const void *), const char *start,
                         const char *end)
{
  struct teller teller;
  char text[1024];
  ssize_t length;
  int ends[2];

  REQUIRE(pipe(ends) == 0);
  teller.act = act;
  teller.error = ends[1];
  CHECK_EQ(in_child(tell, &teller), 0);
  close(ends[1]);
  length = read(ends[0], text, sizeof text - 1);
  REQUIRE(length >= 0);
  close(ends[0]);
  text[length] = '\0';
  if (strncmp(text, start, strlen(start)) != 0
      || strcmp(text + strlen(start) + strspn(text + strlen(start),
                                              "0123456789abcdef"), end) != 0) {
    check_failed(__FILE__, __LINE__, text);
  }
}

static void damage_is_told_once(void)
{
  expect_lines(tick_over_damage,
               TOLD "has grown or is damaged, and its free pages stay until a "
               "reclaim tells which: " NOT "400000000000: no segment's record\n"
               TOLD "is damaged, and its free pages stay: " NOT,
               ": no segment's record\n");
  expect_lines(work_over_damage,
               TOLD "is damaged, and its free pages stay: " NOT,
               ": not a fencepost\n");
  expect_lines(close_over_damage,
               TOLD "is damaged, and stays mapped after the VM's end: " NOT,
               ": not a fencepost\n");
  expect_lines(close_over_bad_link,
               TOLD "is damaged, and stays mapped after the VM's end: " NOT,
               ": no segment's record\n");
}

#define SEGMENTS_MAX 200

/* Closes the VM; checks that no page of the allocator's segments is left. */
static void close_and_find_all_unmapped(void)
{
  uintptr_t record, at, bases[SEGMENTS_MAX], ends[SEGMENTS_MAX];
  size_t count = 0, i;

  for (record = in_state(SEGMENT); record != 0; record = *word(record + 16)) {
    REQUIRE(count < SEGMENTS_MAX);
    bases[count] = *word(record);
    ends[count] = bases[count] + *word(record + 8);
    count++;
  }
  CHECK(count > 1);
  lua_close(L);
  for (i = 0; i < count; i++) {
    for (at = bases[i]; at < ends[i]; at += 4096) {
      CHECK(msync((void *)at, 4096, MS_ASYNC) != 0 && errno == ENOMEM);
    }
  }
}

/* A sandbox that kills who opens a file. The previous allocator grows, for a C
 * module still has it: passes stop, and nothing is damaged. The end of the VM
 * unmaps what has grown, too. */
static void grow_in_sandbox(const void *argument)
{
  void *heap = attach_without_thread(1);
  size_t i;

  (void)argument;
  alarm(120);
  kill_who_opens();
  for (i = 0; i < 40; i++) {
    REQUIRE(alloc(state, NULL, 0, 100 * KIB) != NULL);
  }
  drop_all(heap);
  CHECK(tick_on(heap) >= EBB_OK);
  CHECK(!is_damaged());
  close_and_find_all_unmapped();
}

/* The same, and mincore is refused: passes end so, and come again. */
static void pass_without_mincore(const void *argument)
{
  void *heap = attach_without_thread(1);

  (void)argument;
  alarm(120);
  kill_who_opens();
  refuse_call(SYS_mincore);
  drop_all(heap);
  CHECK_EQ(tick_on(heap), EBB_ERR_SYSTEM);
  CHECK(ebb_next_tick(heap) != EBB_NEVER);
  CHECK(!is_damaged());
}

/* The end of the VM opens no file either, and unmaps what was noted. */
static void close_in_sandbox(const void *argument)
{
  (void)argument;
  alarm(120);
  attach_without_thread(1);
  kill_who_opens();
  refuse_call(SYS_mincore);
  close_and_find_all_unmapped();
}

static void neither_passes_nor_the_end_open_a_file(void)
{
  CHECK_EQ(in_child(grow_in_sandbox, NULL), 0);
  CHECK_EQ(in_child(pass_without_mincore, NULL), 0);
  CHECK_EQ(in_child(close_in_sandbox, NULL), 0);
}

int main(void)
{
  build();
  RUN(every_single_word_is_noticed);
  RUN(many_words_do_not_crash_it);
  RUN(damage_is_told_once);
  RUN(neither_passes_nor_the_end_open_a_file);
  RUN(an_attached_vm_leaves_damage_alone);
  lua_close(L);
  return check_status();
}
