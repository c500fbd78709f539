/* A host with an event loop, which leaves garbage and then waits, as the second
 * argument says, for as many milliseconds as the third; again, 30 times at most,
 * while it holds more MB than the fourth, if there is one, or more than 3 MB by
 * Lua's count, or some finalizer has not run. The first argument is the function to
 * wait in.
 *
 *   rest       waits in C, outside of Lua
 *   yielded    the same, with coroutines that have yielded, to C and to Lua
 *   jit        the same, after loops that were compiled
 *   called     waits in a C function that Lua has called
 *   nested     the same, in a coroutine that has resumed another one, which yielded
 *   ffi        waits in a call through the FFI
 *   compiled   the same, in compiled code
 *   thread     another thread has used the VM
 *   events     an event comes every two milliseconds
 *   errors     finalizers throw, allocate, and try to yield
 *   stopped    the program has stopped its collector
 *   prompt     each finalizer takes a millisecond, and writes what ends the wait
 *   waits      finalizers wait
 *   watched    the program looks after its VM itself
 *
 * Prints how many MB of the kernel's Pss the process has before and after the
 * wait, how many MB Lua counts then, how many finalizers ran, how often the wait
 * returned because there was something to read, and the most bytes that were
 * there at once. */

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

/* As many as there are below. */
#define FINALIZERS 100

static const char *way;
static int epoll_fd;
static int pipe_fds[2];
static int ready_count;
static int ready_most;

/* In the function that the first argument names. Exported, for the FFI. */
int wait_ms(int ms)
{
  struct epoll_event event;
  struct pollfd descriptor = { pipe_fds[0], POLLIN, 0 };
  struct timeval time = { ms / 1000, ms % 1000 * 1000 };
  fd_set set;

  if (strcmp(way, "epoll_wait") == 0) {
    return epoll_wait(epoll_fd, &event, 1, ms);
  }
  if (strcmp(way, "epoll_pwait") == 0) {
    return epoll_pwait(epoll_fd, &event, 1, ms, NULL);
  }
  if (strcmp(way, "poll") == 0) {
    return poll(&descriptor, 1, ms);
  }
  FD_ZERO(&set);
  FD_SET(pipe_fds[0], &set);
  return select(pipe_fds[0] + 1, &set, NULL, NULL, &time);
}

static long long now_ms(void)
{
  struct timespec time;

  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static long pss_mb(void)
{
  FILE *file = fopen("/proc/self/smaps_rollup", "r");
  char line[256];
  long kb = -1;

  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "Pss: %ld", &kb) == 1) {
      break;
    }
  }
  if (file != NULL) {
    fclose(file);
  }
  return kb / 1024;
}

static void fail(const char *what)
{
  fprintf(stderr, "failed: %s\n", what);
  exit(1);
}

static void run(lua_State *L, const char *code)
{
  if (luaL_dostring(L, code)) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    exit(1);
  }
  lua_settop(L, 0);
}

/* Waits until the time is over, and reads what comes meanwhile. */
static void wait_outside(int ms)
{
  long long end = now_ms() + ms;
  long long left;
  char bytes[4096];

  while ((left = end - now_ms()) > 0) {
    if (wait_ms((int)left) > 0) {
      int count = (int)read(pipe_fds[0], bytes, sizeof bytes);

      if (count <= 0) {
        fail("read");
      }
      ready_count++;
      ready_most = count > ready_most ? count : ready_most;
    }
  }
}

static int l_wait(lua_State *L)
{
  wait_outside((int)lua_tonumber(L, 1));
  return 0;
}

/* For finalizers. */
static int l_event(lua_State *L)
{
  struct timespec start, now;

  (void)L;
  clock_gettime(CLOCK_MONOTONIC, &start);
  do {
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - start.tv_sec) * 1000000000LL + now.tv_nsec - start.tv_nsec
           < 1000000);
  if (write(pipe_fds[1], "x", 1) != 1) {
    fail("write");
  }
  return 0;
}

static int l_wait_shortly(lua_State *L)
{
  (void)L;
  wait_ms(2);
  return 0;
}

/* In a coroutine: has another one yield, and waits. */
static int l_nested(lua_State *L)
{
  lua_State *other = lua_newthread(L);

  if (luaL_loadstring(other, "coroutine.yield()") != 0
      || lua_resume(other, 0) != LUA_YIELD)
  {
    fail("no coroutine");
  }
  return l_wait(L);
}

static int l_yield(lua_State *L)
{
  return lua_yield(L, 0);
}

/* Runs code in a new coroutine, which stays on the stack. */
static void resume(lua_State *L, const char *code)
{
  lua_State *other = lua_newthread(L);

  if (luaL_loadstring(other, code) != 0) {
    fail("no code");
  }
  if (lua_resume(other, 0) > LUA_YIELD) {
    fail(lua_tostring(other, -1));
  }
}

static void *use(void *L)
{
  run(L, "other = {}; for i = 1, 100 do other[i] = { i } end");
  return NULL;
}

/* The bytes that Lua holds, in MB: read only. */
static long lua_mb(lua_State *L)
{
  return lua_gc(L, LUA_GCCOUNT, 0) / 1024;
}

static const char *const garbage =
  "finalized = 0\n"
  "keep = {}\n"
  "for i = 1, 2000 do keep[i] = { i, tostring(i) } end\n"
  "collectgarbage('stop')\n"
  "local rows = {}\n"
  "for i = 1, 300000 do rows[i] = { i, 'row ' .. i } end\n"
  "for i = 1, 100 do\n"
  "  local p = newproxy(true)\n"
  "  getmetatable(p).__gc = function() finalizer() end\n"
  "  rows[p] = i\n"
  "end\n"
  "rows = nil\n";

static void *send(void *ms)
{
  long long end = now_ms() + *(int *)ms;

  while (now_ms() < end) {
    if (write(pipe_fds[1], "x", 1) != 1) {
      break;
    }
    usleep(2000);
  }
  return NULL;
}

static void wait_as(lua_State *L, const char *what, int ms)
{
  char code[256];
  pthread_t thread;

  snprintf(code, sizeof code, "wait(%d)", ms);
  if (strcmp(what, "called") == 0) {
    run(L, code);
  } else if (strcmp(what, "nested") == 0) {
    snprintf(code, sizeof code, "nested(%d)", ms);
    resume(L, code);
  } else if (strcmp(what, "ffi") == 0) {
    snprintf(code, sizeof code,
             "local ffi = require 'ffi' ffi.cdef 'int wait_ms(int);' jit.off()"
             "ffi.C.wait_ms(%d)", ms);
    run(L, code);
  } else if (strcmp(what, "compiled") == 0) {
    snprintf(code, sizeof code,
             "local ffi = require 'ffi' ffi.cdef 'int wait_ms(int);'"
             "local C = ffi.C for i = 1, 300 do C.wait_ms(i == 300 and %d or 0) end",
             ms);
    run(L, code);
  } else if (strcmp(what, "events") == 0) {
    pthread_create(&thread, NULL, send, &ms);
    wait_outside(ms);
    pthread_join(thread, NULL);
  } else {
    wait_outside(ms);
  }
}

static void closed(void *context)
{
  (void)context;
}

static int finalized(lua_State *L)
{
  int count;

  lua_getglobal(L, "finalized");
  count = (int)lua_tonumber(L, -1);
  lua_pop(L, 1);
  return count;
}

static int is_collected(lua_State *L, long most_mb)
{
  return pss_mb() <= most_mb && lua_mb(L) <= 3 && finalized(L) == FINALIZERS;
}

/* As a host does that knows of the heap. */
static void watch(lua_State *L)
{
  void *(*heap_of)(lua_State *);
  int (*on_close)(void *, void (*)(void *), void *);

  *(void **)&heap_of = dlsym(RTLD_DEFAULT, "ebb_heap_of");
  *(void **)&on_close = dlsym(RTLD_DEFAULT, "ebb_on_close");
  if (heap_of == NULL || on_close == NULL
      || on_close(heap_of(L), closed, NULL) != 0)
  {
    fail("no heap");
  }
}

static void prepare(lua_State *L, const char *what)
{
  pthread_t thread;

  if (strcmp(what, "watched") == 0) {
    watch(L);
  } else if (strcmp(what, "yielded") == 0) {
    resume(L, "cyield()");
    resume(L, "coroutine.yield()");
    resume(L, "coroutine.wrap(function() cyield() end)()");
  } else if (strcmp(what, "jit") == 0) {
    run(L, "local n = 0 for i = 1, 1e6 do n = n + i % 7 end");
  } else if (strcmp(what, "thread") == 0) {
    pthread_create(&thread, NULL, use, L);
    pthread_join(thread, NULL);
    /* and the first one has it again */
    run(L, "mine = {} for i = 1, 100 do mine[i] = { i } end");
  }
  if (strcmp(what, "prompt") == 0) {
    run(L, "function finalizer() finalized = finalized + 1 event() end");
  } else if (strcmp(what, "waits") == 0) {
    run(L, "function finalizer() finalized = finalized + 1 shortly() end");
  } else if (strcmp(what, "errors") == 0) {
    run(L, "function finalizer()\n"
           "  finalized = finalized + 1\n"
           "  if finalized % 3 == 0 then error('thrown ' .. finalized) end\n"
           "  if finalized % 3 == 1 then coroutine.yield() end\n"
           "  local t = {} for i = 1, 1000 do t[i] = { i } end\n"
           "end");
  } else {
    run(L, "function finalizer() finalized = finalized + 1 end");
  }
}

int main(int argc, char **argv)
{
  const char *what = argc > 2 ? argv[2] : "";
  int ms = argc > 3 ? atoi(argv[3]) : 0;
  long most_mb = argc > 4 ? atol(argv[4]) : 0;
  int rounds;
  struct epoll_event event = { .events = EPOLLIN };
  lua_State *L = luaL_newstate();
  long before, after, lua_before, lua_after;

  way = argc > 1 ? argv[1] : "";
  epoll_fd = epoll_create1(0);
  if (L == NULL || ms == 0 || pipe(pipe_fds) != 0
      || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pipe_fds[0], &event) != 0)
  {
    fail("no loop");
  }
  luaL_openlibs(L);
  lua_register(L, "wait", l_wait);
  lua_register(L, "nested", l_nested);
  lua_register(L, "cyield", l_yield);
  lua_register(L, "event", l_event);
  lua_register(L, "shortly", l_wait_shortly);
  prepare(L, what);
  run(L, garbage);
  if (strcmp(what, "stopped") != 0) {
    run(L, "collectgarbage('restart')");
  }
  before = pss_mb();
  lua_before = lua_mb(L);
  wait_as(L, what, ms);
  for (rounds = 1; argc > 4 && rounds < 30 && !is_collected(L, most_mb); rounds++) {
    wait_as(L, what, ms);
  }
  after = pss_mb();
  lua_after = lua_mb(L);
  run(L, "for i = 1, 2000 do assert(keep[i][1] == i and keep[i][2] == tostring(i)) end");
  printf("%ld %ld %ld %ld %d %d %d\n", before, after, lua_before, lua_after,
         finalized(L), ready_count, ready_most);
  lua_close(L);
  return 0;
}
