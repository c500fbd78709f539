/* The C functions that know Lua: ebb_newstate, ebb_attach, ebb_heap_of,
 * ebb_builtin_read, ebb_builtin_reclaim, luaopen_ebbtide; from any coroutine,
 * called wrongly, and what is left after lua_close(). */

#include "work_vm.h"
#include "libc_alloc.h"

#include <stddef.h>

static void attach_and_close(void)
{
  void *state;
  lua_State *L = vm();

  lua_getallocf(L, &state);
  DO(L, work);
  CHECK(ebb_heap_of(L) == NULL);
  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  CHECK(ebb_heap_of(L) != NULL);
  CHECK_EQ(ebb_attach(L, NULL), EBB_MORE);
  DO(L, check_work);
  CHECK(stats_of(ebb_heap_of(L), 0).previous_live > 100 * KIB);
  CHECK_EQ(builtin_of(L).blocks > 2000, 1);
  DO(L, "kept, big = nil collectgarbage() collectgarbage()");
  CHECK_EQ(ebb_reclaim(ebb_heap_of(L), NULL, NULL), EBB_OK);
  CHECK(builtin_of(L).returnable == 0 && builtin_of(L).returned > 0);
  DO(L, work);
  DO(L, check_work);
  CHECK(!is_gone(state));
  lua_close(L);
  CHECK(is_gone(state));
}

static void attach_from_a_coroutine(void)
{
  void *state;
  lua_State *L = vm(), *C = lua_newthread(L);
  ebb_options options = { .size = sizeof options, .decay_ms = 77 };
  int64_t value = 0;

  DO(C, work);
  lua_getallocf(C, &state);
  CHECK(builtin_of(C).live == builtin_of(L).live);
  CHECK_EQ(ebb_attach(C, &options), EBB_OK);
  CHECK(ebb_heap_of(C) != NULL && ebb_heap_of(C) == ebb_heap_of(L));
  CHECK_EQ(ebb_get(ebb_heap_of(L), "decay_ms", &value), EBB_OK);
  CHECK_EQ(value, 77);
  CHECK(lua_isthread(L, -1) && lua_gettop(L) == 1 && lua_gettop(C) == 0);
  DO(L, check_work);
  lua_close(L);
  CHECK(is_gone(state));
}

static void reclaim_in_place(void)
{
  ebb_reclaim_options options = { sizeof options, 1 };
  ebb_reclaim_report report = { .size = sizeof report };
  lua_State *L = vm();

  DO(L, work);
  DO(L, "for i = 1, 2000 do if i % 50 > 0 then kept[i] = nil end end "
        "collectgarbage() collectgarbage()");
  CHECK(builtin_of(L).returnable > 100 * KIB);
  CHECK(ebb_builtin_reclaim(L, &options, &report) >= 0);
  CHECK(report.returned > 0 && report.live == 0 && report.resident == 0);
  CHECK_EQ(ebb_builtin_reclaim(L, NULL, &report), EBB_OK);
  CHECK(report.live > 0 && report.resident > 0 && report.refused == 0);
  CHECK_EQ(builtin_of(L).returnable, 0);
  DO(L, work);
  DO(L, check_work);
  CHECK(ebb_heap_of(L) == NULL);
  lua_close(L);
}

static void newstate(void)
{
  ebb_options options = { .size = sizeof options, .limit_hard = 64 << 20 };
  ebb_builtin_stats builtin = { .size = sizeof builtin };
  lua_State *L = ebb_newstate(&options);
  size_t mappings;

  REQUIRE(L != NULL);
  luaL_openlibs(L);
  DO(L, work);
  CHECK(ebb_heap_of(L) != NULL);
  CHECK(ebb_heap_of(lua_newthread(L)) == ebb_heap_of(L));
  CHECK_EQ(ebb_attach(L, NULL), EBB_MORE);
  CHECK_EQ(ebb_builtin_read(L, &builtin), EBB_ERR_UNKNOWN);
  CHECK_EQ(ebb_builtin_reclaim(L, NULL, NULL), EBB_ERR_UNKNOWN);
  CHECK(luaL_dostring(L, "return ('z'):rep(2 ^ 28)") != 0);
  DO(L, check_work);
  lua_close(L);
  mappings = mapping_count();
  L = ebb_newstate(NULL);
  REQUIRE(L != NULL);
  lua_close(L);
  CHECK(light() || mapping_count() <= mappings + 1);
  options.limit_hard = 0;
  options.retain = -5;
  CHECK(ebb_newstate(&options) == NULL);
  CHECK(strstr(ebb_strerror(0), "retain") != NULL);
}

/* A limit that leaves no room for a VM is refused before a VM is made, since
 * some LuaJITs crash when only their first blocks are to be had. What is left
 * is enough for a VM and its libraries. */
static void no_limit_is_too_low_for_a_vm(void)
{
  static const int64_t low[] = { 1, 8192, 64 * KIB, 72 * KIB, 512 * KIB - 1 };
  ebb_options options = { .size = sizeof options };
  lua_State *L = vm(), *M;
  ebb_heap *heap;
  size_t i, mappings = mapping_count();

  for (i = 0; i < COUNT_OF(low); i++) {
    options.limit_hard = low[i];
    CHECK(ebb_newstate(&options) == NULL);
    CHECK(strstr(ebb_strerror(0), "limit_hard") != NULL);
    CHECK(strstr(ebb_strerror(0), "512k") != NULL);
    CHECK_EQ(ebb_attach(L, &options), EBB_ERR_RANGE);
    CHECK(ebb_heap_of(L) == NULL);
    CHECK(ebb_heap_new(&options) == NULL);
    CHECK(strstr(ebb_strerror(0), "512k") != NULL);
  }
  CHECK(light() || mapping_count() <= mappings + 1);
  options.limit_hard = 512 * KIB;
  M = ebb_newstate(&options);
  REQUIRE(M != NULL);
  luaL_openlibs(M);
  DO(M, "local t = {} for i = 1, 1000 do t[i] = { i } end");
  CHECK_EQ(ebb_set(ebb_heap_of(M), "limit_hard", 64 * KIB), EBB_ERR_RANGE);
  /* Below what is held: it grows no more, and keeps all that it has. */
  CHECK_EQ(ebb_set(ebb_heap_of(M), "limit_hard", 8 * MIB), EBB_OK);
  DO(M, "kept = {} for i = 1, 20000 do kept[i] = { i } end");
  CHECK_EQ(ebb_set(ebb_heap_of(M), "limit_hard", 512 * KIB), EBB_OK);
  CHECK(luaL_dostring(M, "return ('x'):rep(2 ^ 20)") != 0);
  CHECK_EQ(ebb_set(ebb_heap_of(M), "limit_hard", 0), EBB_OK);
  DO(M, "assert(#kept == 20000 and kept[20000][1] == 20000)");
  lua_close(M);
  lua_close(L);
  heap = ebb_heap_new(&options);
  REQUIRE(heap != NULL);
  M = lua_newstate(ebb_alloc, heap);
  REQUIRE(M != NULL);
  luaL_openlibs(M);
  DO(M, "local t = {} for i = 1, 1000 do t[i] = { i } end");
  lua_close(M);
  ebb_heap_delete(heap);
}

/* A block that is refused leaves a reason, and errno alone. */
static void a_refused_allocation_says_why(void)
{
  ebb_options options = { .size = sizeof options, .limit_hard = MIB };
  ebb_heap *heap = heap_from(&options);
  void *block;
  size_t count = 0;
  uint64_t refused;

  errno = ERRNO_MARK;
  CHECK(ebb_alloc(heap, NULL, 0, 2 * MIB) == NULL);
  check_errno();
  CHECK(strstr(ebb_strerror(0), "limit_hard is 1048576") != NULL);
  CHECK(strstr(ebb_strerror(0), "2097152 bytes") != NULL);
  CHECK_EQ(stats_of(heap, 0).refused_allocations, 1);
  block = ebb_alloc(heap, NULL, 0, 1000);
  while (ebb_alloc(heap, NULL, 0, 1000) != NULL) {
    REQUIRE(++count < 2000);
  }
  check_errno();
  CHECK_EQ(stats_of(heap, 0).refused_allocations, 2);
  CHECK(strstr(ebb_strerror(0), "no room for 1000 bytes") != NULL);
  while (ebb_alloc(heap, NULL, 0, 40) != NULL) {
    REQUIRE(++count < 100000);
  }
  CHECK(ebb_alloc(heap, block, 1000, 3000) == NULL);
  CHECK(strstr(ebb_strerror(0), "3000 bytes") != NULL);
  refused = stats_of(heap, 0).refused_allocations;
  CHECK_EQ(refused, 4);
  /* A shrink is none, though there is no smaller block. */
  CHECK(ebb_alloc(heap, block, 1000, 40) == block);
  CHECK_EQ(stats_of(heap, 0).refused_allocations, refused);
  CHECK(ebb_alloc(heap, NULL, 0, SIZE_MAX / 2) == NULL);
  CHECK(ebb_alloc(heap, NULL, 0, 0) == NULL);
  CHECK_EQ(stats_of(heap, 0).refused_allocations, refused + 1);
  ebb_heap_delete(heap);
  options.limit_hard = 0;
  options.reserve = MIB;
  heap = heap_from(&options);
  CHECK(ebb_alloc(heap, NULL, 0, 2 * MIB) == NULL);
  CHECK(strstr(ebb_strerror(0), "reserve of 1048576") != NULL);
  ebb_heap_delete(heap);
}

static void refused(lua_State *L)
{
  ebb_builtin_stats stats = { .size = sizeof stats };

  CHECK_EQ(ebb_attach(L, NULL), EBB_ERR_UNKNOWN);
  CHECK_EQ(ebb_builtin_read(L, &stats), EBB_ERR_UNKNOWN);
  CHECK_EQ(ebb_builtin_reclaim(L, NULL, NULL), EBB_ERR_UNKNOWN);
  CHECK(strstr(ebb_strerror(0), "LuaJIT's own") != NULL);
}

static void other_allocators(void)
{
  ebb_heap *heap = heap_of(0);
  lua_State *L = lua_newstate(libc_alloc, NULL);

  REQUIRE(L != NULL);
  refused(L);
  CHECK(ebb_heap_of(L) == NULL);
  lua_close(L);
  L = lua_newstate(ebb_alloc, heap);
  REQUIRE(L != NULL);
  CHECK(ebb_heap_of(L) == heap);
  CHECK_EQ(ebb_attach(L, NULL), EBB_MORE);
  lua_close(L);
  heap_ends_empty(heap);
}

static void wrong_calls(void)
{
  ebb_builtin_stats stats = { .size = 3 };
  ebb_options options = { .size = sizeof options, .retain = -5 };
  ebb_reclaim_report report = { .size = 3 };
  void *state, *after;
  lua_State *L = vm();

  lua_getallocf(L, &state);
  CHECK_EQ(ebb_attach(NULL, NULL), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_builtin_read(NULL, &stats), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_builtin_read(L, NULL), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_builtin_read(L, &stats), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_builtin_reclaim(NULL, NULL, NULL), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_builtin_reclaim(L, NULL, &report), EBB_ERR_ARGUMENT);
  CHECK(ebb_heap_of(NULL) == NULL);
  CHECK_EQ(ebb_attach(L, &options), EBB_ERR_RANGE);
  lua_getallocf(L, &after);
  CHECK(state == after && lua_gettop(L) == 0);
  /* As much as there is room for. */
  stats.size = offsetof(ebb_builtin_stats, segments);
  stats.segments = 4711;
  CHECK_EQ(ebb_builtin_read(L, &stats), EBB_OK);
  CHECK(stats.reserved > 0 && stats.segments == 4711);
  lua_close(L);
}

static void errno_stays(void)
{
  lua_State *L = vm();

  errno = ERRNO_MARK;
  builtin_of(L);
  check_errno();
  CHECK(ebb_builtin_reclaim(L, NULL, NULL) >= 0);
  check_errno();
  CHECK_EQ(ebb_attach(L, NULL), EBB_OK);
  check_errno();
  lua_close(L);
  errno = ERRNO_MARK;
  refused(L = lua_newstate(libc_alloc, NULL));
  check_errno();
  lua_close(L);
}

/* A host that puts the module where require looks. */
static void preloaded(void)
{
  lua_State *L = vm();

  preload(L);
  DO(L, "local a = require 'ebbtide' assert(a.stats()) assert(a.attach()) "
        "assert(a.stats().attached and a.reclaim())");
  CHECK(ebb_heap_of(L) != NULL);
  lua_close(L);
}

int main(void)
{
  RUN(attach_and_close);
  RUN(attach_from_a_coroutine);
  RUN(reclaim_in_place);
  RUN(newstate);
  RUN(no_limit_is_too_low_for_a_vm);
  RUN(a_refused_allocation_says_why);
  RUN(other_allocators);
  RUN(wrong_calls);
  RUN(errno_stays);
  RUN(preloaded);
  return check_status();
}
