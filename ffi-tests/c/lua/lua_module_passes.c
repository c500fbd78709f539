/* A VM that was attached, whose built-in heap was damaged or has grown since:
 * passes over that heap leave it alone, report damage once, to a host that never
 * reclaims too, and open no file. Nor does the end of the VM. */

#include "builtin_heap.h"
#include "refuse_call.h"

#include <time.h>

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
struct reporter {
  void (*act)(const void *argument);
  int error;
};

static void report_to(const void *argument)
{
  const struct reporter *reporter = (const struct reporter *)argument;

  alarm(120);
  REQUIRE(dup2(reporter->error, 2) == 2);
  reporter->act(NULL);
}

#define LINE "ebbtide: a VM's heap from before attach() "
#define NOT "not LuaJIT's own heap: 0x"

/* What a child writes: these lines, but for the address in front of the end of
 * the last. */
static void expect_lines(void (*act)(const void *), const char *start,
                         const char *end)
{
  struct reporter reporter;
  char text[1024];
  ssize_t length;
  int ends[2];

  REQUIRE(pipe(ends) == 0);
  reporter.act = act;
  reporter.error = ends[1];
  CHECK_EQ(in_child(report_to, &reporter), 0);
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

static void damage_is_reported_once(void)
{
  expect_lines(tick_over_damage,
               LINE "has grown or is damaged, and its free pages stay until a "
               "reclaim tells which: " NOT "400000000000: no segment's record\n"
               LINE "is damaged, and its free pages stay: " NOT,
               ": no segment's record\n");
  expect_lines(work_over_damage,
               LINE "is damaged, and its free pages stay: " NOT,
               ": not a fencepost\n");
  expect_lines(close_over_damage,
               LINE "is damaged, and stays mapped after the VM's end: " NOT,
               ": not a fencepost\n");
  expect_lines(close_over_bad_link,
               LINE "is damaged, and stays mapped after the VM's end: " NOT,
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
  RUN(damage_is_reported_once);
  RUN(neither_passes_nor_the_end_open_a_file);
  lua_close(L);
  return check_status();
}
