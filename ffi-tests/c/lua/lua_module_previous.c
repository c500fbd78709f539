/* The allocator that a VM had before ebb_attach(): its pages go back when blocks
 * are freed, in ticks, and at the VM's end, also when no file can be opened; its
 * blocks survive a resize that finds no memory. */

#include "work_vm.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>

enum { BLOCKS = 20000, BYTES = 1000, STAYS = 50, AT_ONCE = 200 };

static void *old_blocks[BLOCKS];

/* An attached VM that has 20 MB of blocks from before. */
static lua_State *vm_with_old_blocks(void)
{
  lua_State *L = vm();
  void *state;
  lua_Alloc alloc = lua_getallocf(L, &state);
  int i;

  for (i = 0; i < BLOCKS; i++) {
    old_blocks[i] = alloc(state, NULL, 0, BYTES);
    REQUIRE(old_blocks[i] != NULL);
    memset(old_blocks[i], 1, BYTES);
  }
  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  return L;
}

/* Frees some of these blocks but for a few, which keep their segments. */
static void free_old_blocks(lua_State *L, int from, int to)
{
  void *state;
  lua_Alloc alloc = lua_getallocf(L, &state);
  int i;

  for (i = from; i < to; i++) {
    if (i % STAYS != 0) {
      alloc(state, old_blocks[i], BYTES, 0);
    }
  }
}

static void close_with_old_blocks(lua_State *L)
{
  int i;

  for (i = 0; i < BLOCKS; i += STAYS) {
    CHECK(*(char *)old_blocks[i] == 1);
  }
  lua_close(L);
}

/* Frees of blocks from before ebb_attach() are enough for their pages to go
 * back: no allocation, no tick. Passes have a share of the time, and the pause
 * after attach()'s own pass is one second at most. */
static void frees_return_pages(int is_shared)
{
  const struct timespec pause = { 1, 100 * 1000 * 1000 };
  lua_State *L = vm_with_old_blocks();
  uint64_t before;
  int i;

  if (is_shared) {
    CHECK_EQ(ebb_share(L), EBB_OK);
  }
  before = stats_of(ebb_heap_of(L), 0).previous_resident;
  nanosleep(&pause, NULL);
  for (i = 0; i < BLOCKS; i += AT_ONCE) {
    free_old_blocks(L, i, i + AT_ONCE);
  }
  CHECK(stats_of(ebb_heap_of(L), 0).previous_resident < before);
  close_with_old_blocks(L);
}

static void frees_return_pages_of_one_thread(void)
{
  frees_return_pages(0);
}

static void frees_return_pages_of_a_shared_vm(void)
{
  frees_return_pages(1);
}

/* Ticks return those pages without opening a file, and say when to come. */
static void ticks_return_pages_without_files(void)
{
  struct rlimit limit, none;
  lua_State *L = vm_with_old_blocks();
  int next;

  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  none = limit;
  none.rlim_cur = 0;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  free_old_blocks(L, 0, BLOCKS);
  while ((next = ebb_next_tick(ebb_heap_of(L))) != EBB_NEVER) {
    const struct timespec pause = { next / 1000, next % 1000 * 1000 * 1000 };

    nanosleep(&pause, NULL);
    CHECK(ebb_tick(ebb_heap_of(L), 500) >= EBB_OK);
  }
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(builtin_of(L).returned > 10 * MIB);
  CHECK(builtin_of(L).returnable < MIB);
  close_with_old_blocks(L);
}

/* Bytes of memory in use in a list of mappings that was opened before. */
static size_t used_bytes(int maps)
{
  static char text[1 << 20];
  size_t length = 0, start, end, bytes = 0;
  ssize_t count;
  char access[8], *line;

  REQUIRE(lseek(maps, 0, SEEK_SET) == 0);
  while ((count = read(maps, text + length, sizeof text - 1 - length)) > 0) {
    length += (size_t)count;
  }
  REQUIRE(length > 0 && length < sizeof text - 1);
  text[length] = '\0';
  for (line = text; line != NULL && *line != '\0';) {
    if (sscanf(line, "%zx-%zx %7s", &start, &end, access) == 3
        && strcmp(access, "rw-p") == 0) {
      bytes += end - start;
    }
    line = strchr(line, '\n');
    line = line != NULL ? line + 1 : NULL;
  }
  return bytes;
}

/* Occupies what lies around the newest segment, so that the next is another. */
static void fence(const void *state)
{
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
  uintptr_t record[2];

  memcpy(record, (const char *)state + 840, sizeof record);
  mmap((void *)(record[0] - 4096), 4096, PROT_NONE, flags, -1, 0);
  mmap((void *)(record[0] + record[1]), 4096, PROT_NONE, flags, -1, 0);
}

static void refused_without_files(lua_State *L)
{
  ebb_builtin_stats stats = { .size = sizeof stats };

  REQUIRE(open("/dev/null", O_RDONLY) < 0 && errno == EMFILE);
  CHECK_EQ(ebb_attach(L, NULL), EBB_ERR_SYSTEM);
  CHECK_EQ(ebb_builtin_read(L, &stats), EBB_ERR_SYSTEM);
  CHECK(strstr(ebb_strerror(0), "/proc/self/maps cannot be read: errno 24"));
  DO(L, "for _, name in ipairs { 'stats', 'reclaim', 'attach' } do "
        "local done, why = require('ebbtide')[name]() "
        "assert(done == nil and why:find('^/proc/self/maps.*24'), why) end");
  CHECK(ebb_heap_of(L) == NULL);
}

/* So that memory that stays for the next VM is no news. */
static void close_attached(void)
{
  lua_State *L = vm();

  DO(L, work);
  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  DO(L, work);
  lua_close(L);
}

/* The old heap goes, too, when no file can be opened any more. */
static void close_without_files(void)
{
  struct rlimit limit, none;
  int i, maps = open("/proc/self/maps", O_RDONLY);
  size_t before, held;
  void *state;
  lua_State *L;

  REQUIRE(maps >= 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
  close_attached();
  before = used_bytes(maps);
  L = vm();
  preload(L);
  lua_getallocf(L, &state);
  for (i = 0; i < 4; i++) {
    DO(L, work);
    DO(L, "all = { all, kept } kept = {}");
    fence(state);
  }
  CHECK(builtin_of(L).segments > 1);
  held = builtin_of(L).reserved;
  none = limit;
  none.rlim_cur = 0;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  refused_without_files(L);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  CHECK_EQ(ebb_reclaim(ebb_heap_of(L), NULL, NULL), EBB_OK);
  DO(L, "assert(require('ebbtide').reclaim().refused == 0)");
  lua_close(L);
  CHECK(is_gone(state));
  CHECK(held > 2 * MIB);
  CHECK(used_bytes(maps) < before + held / 4);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  close(maps);
}

/* A block from before that is resized moves over. When the new heap has no room
 * for it, it stays where it is: a shrink cannot fail, and a growth harms it not. */
static void resize_without_memory(void)
{
  ebb_options options = { .size = sizeof options, .limit_hard = 512 * KIB };
  unsigned char *old, *more, *last = NULL;
  struct block block;
  void *ud;
  lua_Alloc alloc;
  lua_State *L = vm();

  alloc = lua_getallocf(L, &ud);
  block.size = 1000;
  block.at = old = alloc(ud, NULL, 0, block.size);
  REQUIRE(old != NULL);
  block_fill(&block, 7);
  CHECK_EQ(ebb_attach(L, &options), EBB_OK);
  alloc = lua_getallocf(L, &ud);
  /* All that there is, in blocks of each size that is asked for below. */
  for (block.size = 2048; block.size >= 8; block.size -= 8) {
    while ((more = alloc(ud, NULL, 0, block.size)) != NULL) {
      memcpy(more, &last, sizeof last);
      last = more;
    }
  }
  block.size = 1000;
  CHECK(alloc(ud, old, 1000, 2000) == NULL);
  CHECK(block_kept(&block, old, 1000));
  CHECK(alloc(ud, old, 1000, 500) == old);
  CHECK(alloc(ud, old, 500, 16) == old);
  CHECK(block_kept(&block, old, 1000));
  for (; last != NULL; last = more) {
    memcpy(&more, last, sizeof more);
    alloc(ud, last, 0, 0);
  }
  more = alloc(ud, old, 1000, 500);
  CHECK(more != NULL && more != old && block_kept(&block, more, 500));
  alloc(ud, more, 500, 0);
  lua_close(L);
}

int main(void)
{
  if (!light()) {
    RUN(frees_return_pages_of_one_thread);
    RUN(frees_return_pages_of_a_shared_vm);
    RUN(ticks_return_pages_without_files);
  }
  RUN(close_without_files);
  RUN(resize_without_memory);
  return check_status();
}
