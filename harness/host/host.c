/* A small Lua host: runs one script on the allocator that is asked for.
 *
 *   host [--allocator builtin|malloc|ebbtide|attached|inplace|FILE]
 *        [--jit on|off] [--events] [--drop] script.lua [argument...]
 *   host --version
 *
 * Built against LuaJIT or PUC Lua 5.1 to 5.4, and against ebbtide. The script
 * finds its arguments in `arg`, the module ebbtide, and the globals below.
 * What is there on ebbtide is so on attached, too: a VM on the built-in
 * allocator that is attached before the script begins. On inplace, which is the
 * built-in allocator, reclaim() gives memory back in place. A FILE, which has a
 * slash in it, is a library with another allocator: see peer.h.
 *
 *   wait_until(s)   sleeps until s seconds after the start, not if that is
 *                   past; on ebbtide as an event loop does, with ticks for the
 *                   heap. Returns the seconds since the start
 *   replace_blocks(live, count)
 *                   on the VM's allocator, without Lua: see blocks.h
 *   event(label)    with --events: says what is live in Lua and resident, and
 *                   on ebbtide what heap_stats() says, with heap_ before it
 *   reclaim()       on ebbtide: gives all free memory back, returns the report
 *   heap_stats()    on ebbtide: what ebb_stats_read() says, as a table
 *   set(name, value)
 *                   on ebbtide: changes an option; an error says why it did not
 *
 * With --events, event() and reclaim() write one line each to standard output:
 * the word "event", then key=value fields, separated by tabs. Sizes are bytes.
 *
 * With --drop, what the script made is dropped and collected when it has ended.
 * Then comes the event "all dropped"; what can be is given back, whatever the
 * allocator; and then comes the event "all purged". Its field aside_us is the
 * CPU time of the events and the purge, which no script would have paid.
 *
 * After lua_close() the ebbtide heap must hold nothing. Whatever is wrong is
 * said in one line, and the exit status is 1 (2 for a wrong command line).
 */

#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>
#ifdef LUA_JITLIBNAME
#include <luajit.h>
#endif

#include "arguments.h"
#include "blocks.h"
#include "ebbtide.h"
#include "peer.h"

#ifdef LUAJIT_VERSION
#define RUNTIME LUAJIT_VERSION
#else
#define RUNTIME LUA_RELEASE
#endif

typedef struct {
  arguments arguments;
  ebb_heap *heap;   /* NULL but on ebbtide and attached */
  peer peer;        /* on malloc and on a FILE */
  int64_t start;    /* nanoseconds on the monotonic clock */
} host;

/* One host per process: C functions that Lua calls find it here. */
static host self;

/* Time: nanoseconds on the monotonic clock */

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

static int64_t now_ns(void)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* Returns at once when that time is past. */
static void sleep_until(int64_t time)
{
  struct timespec until;

  until.tv_sec = (time_t)(time / NS_PER_S);
  until.tv_nsec = (long)(time % NS_PER_S);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)
         == EINTR)
    ;
}

/* Allocators */

static lua_State *attached_vm(void)
{
  lua_State *L = luaL_newstate();

  if (L != NULL && ebb_attach(L, NULL) != EBB_OK)
    fail(1, "ebb_attach: %s", ebb_strerror(0));
  self.heap = ebb_heap_of(L);
  return L;
}

static lua_State *new_vm(void)
{
  switch (self.arguments.allocator) {
  case MALLOC:
  case PEER:
    return lua_newstate(self.peer.alloc, NULL);
  case EBBTIDE:
    self.heap = ebb_heap_new(NULL);
    if (self.heap == NULL)
      fail(1, "no ebbtide heap: %s", ebb_strerror(0));
    return lua_newstate(ebb_alloc, self.heap);
  case ATTACHED:
    return attached_vm();
  default:
    return luaL_newstate();
  }
}

static void read_stats(ebb_stats *stats)
{
  int result;

  memset(stats, 0, sizeof(*stats));
  stats->size = sizeof(*stats);
  result = ebb_stats_read(self.heap, stats);
  if (result != EBB_OK)
    fail(1, "ebb_stats_read: %s", ebb_strerror(result));
}

/* The VM is closed: what it asked for must have come back. */
static void delete_heap(void)
{
  ebb_stats stats;

  read_stats(&stats);
  if (stats.blocks != 0 || stats.live != 0)
    fail(1, "the heap holds %llu blocks, %llu bytes after lua_close",
         (unsigned long long)stats.blocks, (unsigned long long)stats.live);
  ebb_heap_delete(self.heap);
}

/* What scripts call */

/* All but kernel_resident, which takes time in proportion to the heap. */
#define STATS_FIELD(name) { #name, offsetof(ebb_stats, name) }

static const struct {
  const char *name;
  size_t offset;
} stats_fields[] = {
  STATS_FIELD(reserved),        STATS_FIELD(committed),
  STATS_FIELD(live),            STATS_FIELD(waste),
  STATS_FIELD(free_resident),   STATS_FIELD(returned),
  STATS_FIELD(never_touched),   STATS_FIELD(metadata),
  STATS_FIELD(resident),        STATS_FIELD(resident_peak),
  STATS_FIELD(blocks),          STATS_FIELD(large_blocks),
  STATS_FIELD(spans),           STATS_FIELD(commit_calls),
  STATS_FIELD(purge_calls),     STATS_FIELD(remap_calls),
  STATS_FIELD(failed_calls),    STATS_FIELD(reclaim_passes),
  STATS_FIELD(returned_total),  STATS_FIELD(trend),
  STATS_FIELD(keep),            STATS_FIELD(floor),
  STATS_FIELD(floor_reason),    STATS_FIELD(due),
  STATS_FIELD(idle_age_ms),     STATS_FIELD(limit_soft),
  STATS_FIELD(limit_hard),      STATS_FIELD(pressure),
  STATS_FIELD(steps),           STATS_FIELD(step_p50_us),
  STATS_FIELD(step_p99_us),     STATS_FIELD(step_max_us),
  STATS_FIELD(returned_asked),  STATS_FIELD(returned_idle),
  STATS_FIELD(returned_limit),  STATS_FIELD(refaulted_asked),
  STATS_FIELD(refaulted_idle),  STATS_FIELD(refaulted_limit),
  STATS_FIELD(premature_refaults_asked), STATS_FIELD(premature_refaults_idle),
  STATS_FIELD(premature_refaults_limit)
};

#define STATS_FIELDS (sizeof(stats_fields) / sizeof(*stats_fields))

static uint64_t stats_value(const ebb_stats *stats, size_t field)
{
  uint64_t value;

  memcpy(&value, (const char *)stats + stats_fields[field].offset,
         sizeof(value));
  return value;
}

static void print_stats(void)
{
  ebb_stats stats;
  size_t i;

  read_stats(&stats);
  for (i = 0; i < STATS_FIELDS; i++)
    printf("\theap_%s=%llu", stats_fields[i].name,
           (unsigned long long)stats_value(&stats, i));
}

/* A line of smaps_rollup, in bytes. Allocates nothing. */
static long long resident(const char *text, const char *field)
{
  const char *line = strstr(text, field);

  return line == NULL ? -1 : 1024 * strtoll(line + strlen(field), NULL, 10);
}

/* Begins the line of an event. Allocates nothing. */
static void print_event(lua_State *L, const char *label)
{
  long long live = 1024LL * lua_gc(L, LUA_GCCOUNT, 0)
    + lua_gc(L, LUA_GCCOUNTB, 0);
  char text[2048];
  size_t length = 0;
  FILE *file = fopen("/proc/self/smaps_rollup", "r");

  if (file != NULL) {
    length = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
  }
  text[length] = '\0';
  printf("event\tlabel=%s\tlive=%lld\trss=%lld\tpss=%lld", label, live,
         resident(text, "\nRss:"), resident(text, "\nPss:"));
  if (self.heap != NULL)
    print_stats();
}

static void end_event(void)
{
  putchar('\n');
  fflush(stdout);
}

static int l_event(lua_State *L)
{
  print_event(L, luaL_checkstring(L, 1));
  end_event();
  return 0;
}

/* What an event loop lets the heap take of its time at once. */
#define TICK_BUDGET_US 500

/* Sleeps until the heap wants a tick, or until then, and lets it tick. */
static void wait_for_tick(int64_t until)
{
  int next_ms = ebb_next_tick(self.heap);
  int64_t wake;
  int result;

  if (next_ms < 0)
    fail(1, "ebb_next_tick: %s", ebb_strerror(next_ms));
  wake = now_ns() + next_ms * NS_PER_MS;
  sleep_until(wake < until ? wake : until);
  result = ebb_tick(self.heap, TICK_BUDGET_US);
  if (result != EBB_OK && result != EBB_MORE)
    fail(1, "ebb_tick: %s", ebb_strerror(result));
}

static int l_wait_until(lua_State *L)
{
  double seconds = luaL_checknumber(L, 1);
  int64_t until;

  luaL_argcheck(L, seconds >= 0 && seconds < 1e9, 1, "from 0 to 1e9 seconds");
  until = self.start + (int64_t)(seconds * NS_PER_S);
  while (self.heap != NULL && now_ns() < until)
    wait_for_tick(until);
  sleep_until(until);
  lua_pushnumber(L, (lua_Number)(now_ns() - self.start) / NS_PER_S);
  return 1;
}

static void set_field(lua_State *L, const char *name, uint64_t value)
{
  lua_pushnumber(L, (lua_Number)value);
  lua_setfield(L, -2, name);
}

static int l_reclaim(lua_State *L)
{
  ebb_reclaim_report report;
  int result;

  memset(&report, 0, sizeof(report));
  report.size = sizeof(report);
  result = self.heap != NULL ? ebb_reclaim(self.heap, NULL, &report)
                             : ebb_builtin_reclaim(L, NULL, &report);
  if (result != EBB_OK)
    return luaL_error(L, "reclaim: %s", ebb_strerror(0));
  if (self.arguments.events) {
    printf("event\tlabel=reclaim\treturned=%llu\tlive=%llu\tresident=%llu"
           "\telapsed_us=%llu\tpurge_calls=%llu\n",
           (unsigned long long)report.returned,
           (unsigned long long)report.live,
           (unsigned long long)report.resident,
           (unsigned long long)report.elapsed_us,
           (unsigned long long)report.purge_calls);
    fflush(stdout);
  }
  lua_newtable(L);
  set_field(L, "returned", report.returned);
  set_field(L, "live", report.live);
  set_field(L, "resident", report.resident);
  set_field(L, "elapsed_us", report.elapsed_us);
  set_field(L, "purge_calls", report.purge_calls);
  return 1;
}

static int l_heap_stats(lua_State *L)
{
  ebb_stats stats;
  size_t i;

  read_stats(&stats);
  lua_newtable(L);
  for (i = 0; i < STATS_FIELDS; i++)
    set_field(L, stats_fields[i].name, stats_value(&stats, i));
  return 1;
}

static int l_set(lua_State *L)
{
  const char *name = luaL_checkstring(L, 1);
  lua_Number value = luaL_checknumber(L, 2);

  luaL_argcheck(L, value > -9e18 && value < 9e18, 2, "beyond 64 bits");
  if (ebb_set(self.heap, name, (int64_t)value) != EBB_OK)
    return luaL_error(L, "%s", ebb_strerror(0));
  return 0;
}

/* What --drop does */

static void purge(lua_State *L)
{
  if (self.heap != NULL)
    ebb_reclaim(self.heap, NULL, NULL);
  else if (self.arguments.allocator == IN_PLACE)
    ebb_builtin_reclaim(L, NULL, NULL);
  else if (self.peer.purge != NULL)
    self.peer.purge();
}

/* CPU time of this process, in microseconds. */
static long long cpu_us(void)
{
  return (long long)clock() * 1000000 / CLOCKS_PER_SEC;
}

static void drop(lua_State *L)
{
  long long start;

  lua_gc(L, LUA_GCCOLLECT, 0);
  lua_gc(L, LUA_GCCOLLECT, 0);
  start = cpu_us();
  print_event(L, "all dropped");
  end_event();
  purge(L);
  print_event(L, "all purged");
  printf("\taside_us=%lld", cpu_us() - start);
  end_event();
}

/* The run */

static void set_globals(lua_State *L)
{
  int i;

  lua_newtable(L);
  for (i = 0; i < self.arguments.argc; i++) {
    lua_pushstring(L, self.arguments.argv[i]);
    lua_rawseti(L, -2, i - self.arguments.script);
  }
  lua_setglobal(L, "arg");
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_ebbtide);
  lua_setfield(L, -2, "ebbtide");
  lua_pop(L, 2);
  lua_register(L, "wait_until", l_wait_until);
  lua_register(L, "replace_blocks", blocks_replace);
  if (self.arguments.events)
    lua_register(L, "event", l_event);
  if (self.heap != NULL || self.arguments.allocator == IN_PLACE)
    lua_register(L, "reclaim", l_reclaim);
  if (self.heap != NULL) {
    lua_register(L, "heap_stats", l_heap_stats);
    lua_register(L, "set", l_set);
  }
}

static void set_jit(lua_State *L)
{
  int on = self.arguments.jit;

  if (on < 0)
    return;
#ifdef LUAJIT_VERSION
  if (!luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE
                      | (on ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF)))
    luaL_error(L, "this LuaJIT cannot set --jit");
#else
  luaL_error(L, "--jit: " RUNTIME " has no JIT");
#endif
}

/* Runs protected, so that every error comes out in one place. */
static int run(lua_State *L)
{
  luaL_openlibs(L);
  set_globals(L);
  set_jit(L);
  if (luaL_loadfile(L, self.arguments.argv[self.arguments.script]) != 0)
    return lua_error(L);
  lua_call(L, 0, 0);
  if (self.arguments.drop)
    drop(L);
  return 0;
}

static int panic(lua_State *L)
{
  const char *message = lua_tostring(L, -1);

  fail(1, "outside protection: %s", message ? message : "(no message)");
  return 0;
}

static void run_script(void)
{
  const char *message;
  lua_State *L = new_vm();

  if (L == NULL)
    fail(1, "cannot create a VM: out of memory, or an address the VM refuses");
  lua_atpanic(L, panic);
  lua_pushcfunction(L, run);
  if (lua_pcall(L, 0, 0, 0) != 0) {
    message = lua_tostring(L, -1);
    fail(1, "%s", message ? message : "(the error is not a string)");
  }
  lua_close(L);
  /* One that was attached has gone with the VM. */
  if (self.arguments.allocator == EBBTIDE)
    delete_heap();
}

/* The allocator that is not ebbtide's or the VM's own. */
static void load_peer(void)
{
  const char *why;

  if (self.arguments.allocator == MALLOC)
    peer_libc(&self.peer);
  if (self.arguments.allocator == PEER) {
    why = peer_load(&self.peer, self.arguments.peer);
    if (why != NULL)
      fail(1, "cannot load %s: %s", self.arguments.peer, why);
  }
}

int main(int argc, char **argv)
{
  self.start = now_ns();
  arguments_parse(&self.arguments, argc, argv);
  if (self.arguments.version) {
    printf("%s\nebbtide %s\n", RUNTIME, ebb_version());
    return 0;
  }
  load_peer();
  run_script();
  return 0;
}
