/* Every allocation fails once. For each of some Lua programs, and for every N,
 * the N-th allocation or growth is refused. LuaJIT must say "not enough memory"
 * or go on, work afterwards, and leave no live block when it is closed, but where
 * it does so on every allocator.
 *
 *   oom_injection ebbtide|malloc|builtin [leak|lose] [every [only]]
 *
 * The same on the C library's malloc and on LuaJIT's own allocator shows what
 * is LuaJIT's own doing. With `leak` or `lose` the allocator under test has a
 * defect: it must be found. `every` takes only each so manieth N. Prints one
 * line for each program: its name, refusals, errors told, after how many blocks
 * were left, and crashes. */

#include "check.h"
#include "libc_alloc.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <luajit.h>

/* The most allocations of a program. */
#define ALLOCATIONS_MAX 20000

struct program {
  const char *name;
  const char *text;
};

static const struct program programs[] = {
  { "nothing", "" },
  { "tables",
    "local t = {} for i = 1, 200 do t[i] = { i, name = i } end\n"
    "for i = 1, 200 do t['k' .. i % 50] = t[i] end\n"
    "for i = 1, 200 do t[i] = nil end collectgarbage() return #t" },
  { "strings",
    "local t = {} for i = 1, 300 do t[i] = 'string ' .. i * 7919 end\n"
    "return #table.concat(t, ',')" },
  { "buffers",
    "local s = string.rep('abc', 20000) s = s:upper():reverse()\n"
    "for i = 1, 20 do s = s:sub(1, -100) .. i end\n"
    "return #s:gsub('B', 'xyz')" },
  { "closures",
    "local function counter() local n = 0\n"
    "  return function() n = n + 1 return n end end\n"
    "local all = {} for i = 1, 150 do all[i] = counter() all[i]() end\n"
    "return all[150]()" },
  { "coroutines",
    "local all = {}\n"
    "for i = 1, 40 do all[i] = coroutine.wrap(function(a)\n"
    "  local function deep(n) if n > 0 then return 1 + deep(n - 1) end\n"
    "    return coroutine.yield(a) end\n"
    "  return deep(30) end) all[i](i) end\n"
    "for i = 1, 40 do all[i](i) end" },
  { "traces",
    "local sum, t = 0, {}\n"
    "for i = 1, 300 do sum = sum + i t[i % 10 + 1] = sum .. '' end\n"
    "for i = 1, 200 do t = { x = i, y = t.x } if i % 3 == 0 then\n"
    "  sum = sum + #tostring(t.x) end end return sum" },
  { "loading",
    "for i = 1, 20 do local text = 'local a = { ' .. ('1, '):rep(i * 5) ..\n"
    "  '} return function(x) return a[x], \"s' .. i .. '\" end'\n"
    "  local f, reason = loadstring(text) if not f then error(reason, 0) end\n"
    "  assert(f())(1) string.dump(f) end" },
  { "errors",
    "for i = 1, 60 do local ok, text = pcall(error, 'error ' .. i)\n"
    "  if text ~= 'error ' .. i then error(text, 0) end\n"
    "  select(2, pcall(nil)) end\n"
    "return (select(2, xpcall(function() local x = nil + 1 end,\n"
    "  debug.traceback)))" },
  { "metatables",
    "local mt = { __index = function(t, k) return k .. '!' end,\n"
    "  __gc = function() end, __mode = 'k' }\n"
    "local weak = setmetatable({}, mt)\n"
    "for i = 1, 60 do weak[{}] = newproxy(true)\n"
    "  getmetatable(newproxy(true)).__gc = function() return {} end\n"
    "  local x = weak[i] end collectgarbage() collectgarbage()" },
  { "cdata",
    "local ffi = require 'ffi'\n"
    "ffi.cdef 'typedef struct { int a; double b[4]; } every_t;'\n"
    "local all = {} for i = 1, 60 do all[i] = ffi.new('every_t', i)\n"
    "  all[i].b[1] = i ffi.gc(ffi.new('char[?]', 100 + i), function() end) end\n"
    "return tonumber(all[60].b[1])" },
  { "modules",
    "local names = {} for name in pairs(package.loaded) do\n"
    "  names[#names + 1] = name end table.sort(names)\n"
    "local f = io.open('/dev/null') f:close()\n"
    "return string.format('%s %q', table.concat(names), os.date())" }
};

enum defect { SOUND, LEAK, LOSE };

/* The allocator between LuaJIT and the one under test. */
struct thrift {
  lua_Alloc alloc;
  void *ud;
  enum defect defect;
  long count;   /* allocations and growths so far */
  long refused; /* the one to refuse; 0: none */
  long blocks;  /* alive */
};

static void *thrift_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
  struct thrift *thrift = (struct thrift *)ud;
  void *got;

  if (nsize > (ptr == NULL ? 0 : osize)
      && ++thrift->count == thrift->refused) {
    if (thrift->defect == LEAK) {
      (void)!thrift->alloc(thrift->ud, NULL, 0, 40);
    }
    if (thrift->defect == LOSE && ptr != NULL) {
      memset(ptr, 0, osize);
    }
    return NULL;
  }
  got = thrift->alloc(thrift->ud, ptr, osize, nsize);
  if (ptr == NULL) {
    thrift->blocks += got != NULL;
  } else if (nsize == 0) {
    thrift->blocks--;
  }
  return got;
}

/* What one run said. */
enum outcome { DONE, NO_VM, OUT_OF_MEMORY, WRONG };

static enum outcome told(lua_State *L, int status)
{
  const char *text;

  if (status == 0) {
    return DONE;
  }
  text = lua_tostring(L, -1);
  /* string.dump says why it cannot in no other words. */
  if (status == LUA_ERRMEM || status == LUA_ERRERR
      || (text != NULL && (strstr(text, "not enough memory") != NULL
                           || strstr(text, "unable to dump") != NULL))) {
    return OUT_OF_MEMORY;
  }
  fprintf(stderr, "status %d: %s\n", status, text ? text : "(no text)");
  return WRONG;
}

static int open_and_run(lua_State *L)
{
  const char *text = (const char *)lua_touserdata(L, 1);

  luaL_openlibs(L);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
  if (luaL_dostring(L, "require('jit.opt').start('hotloop=5', 'hotexit=2')")
      != 0
      || luaL_loadstring(L, text) != 0) {
    return lua_error(L);
  }
  lua_call(L, 0, 0);
  return 0;
}

/* A VM from its making to its end. */
static enum outcome run_vm(struct thrift *thrift, const char *text)
{
  lua_State *L = lua_newstate(thrift_alloc, thrift);
  enum outcome outcome;

  if (L == NULL) {
    return NO_VM;
  }
  outcome = told(L, lua_cpcall(L, open_and_run, (void *)(size_t)text));
  lua_settop(L, 0);
  /* What was refused was refused once: the VM works again. */
  if (outcome == OUT_OF_MEMORY
      && luaL_dostring(L, "local t = {} for i = 1, 50 do t[i] = i .. '' end\n"
                          "local n = 0 for i = 1, #t do n = n + t[i] end\n"
                          "return n") != 0) {
    outcome = told(L, 1) == OUT_OF_MEMORY ? WRONG : outcome;
  } else if (outcome == OUT_OF_MEMORY && lua_tointeger(L, -1) != 1275) {
    fprintf(stderr, "the VM counts wrong afterwards\n");
    outcome = WRONG;
  }
  lua_close(L);
  return outcome;
}

static enum outcome run_on(const char *allocator, struct thrift *thrift,
                           const char *text)
{
  lua_State *owner = NULL;
  ebb_heap *heap = NULL;
  enum outcome outcome;

  thrift->count = 0;
  thrift->blocks = 0;
  thrift->alloc = libc_alloc;
  thrift->ud = NULL;
  if (strcmp(allocator, "ebbtide") == 0) {
    heap = heap_of(0);
    thrift->alloc = ebb_alloc;
    thrift->ud = heap;
  } else if (strcmp(allocator, "builtin") == 0) {
    owner = luaL_newstate();
    REQUIRE(owner != NULL);
    thrift->alloc = lua_getallocf(owner, &thrift->ud);
  }
  outcome = run_vm(thrift, text);
  if (heap != NULL) {
    ebb_stats stats = stats_of(heap, 0);

    if (thrift->defect == SOUND) {
      CHECK_EQ(stats.blocks, thrift->blocks);
      CHECK((stats.live == 0) == (thrift->blocks == 0));
    }
    thrift->blocks = (long)stats.blocks;
    ebb_heap_delete(heap);
  }
  if (owner != NULL) {
    lua_close(owner);
  }
  return outcome;
}

/* What the child has done so far, for the parent to read when it crashed. */
struct progress {
  long n;       /* now being refused */
  int complete; /* there are no more */
  long refusals, errors, left, wrong;
};

static void refuse_in_turn(const char *allocator, struct thrift *thrift,
                           const char *text, long every,
                           volatile struct progress *progress)
{
  enum outcome outcome;

  for (;; progress->n += every) {
    thrift->refused = progress->n;
    outcome = run_on(allocator, thrift, text);
    progress->left += thrift->blocks != 0;
    if (thrift->count < progress->n) {
      break;
    }
    progress->refusals++;
    progress->errors += outcome == OUT_OF_MEMORY || outcome == NO_VM;
    progress->wrong += outcome == WRONG || check_failures > 0;
    REQUIRE(progress->n < ALLOCATIONS_MAX);
  }
  progress->complete = 1;
}

static int run_program(const char *allocator, enum defect defect, long every,
                       const struct program *program)
{
  struct thrift thrift;
  struct progress *progress;
  long crashes = 0;
  int bad;

  memset(&thrift, 0, sizeof thrift);
  thrift.defect = defect;
  progress = (struct progress *)mmap(NULL, sizeof *progress,
                                     PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(progress != MAP_FAILED);
  progress->n = 1;
  while (!progress->complete) {
    int status = -1;
    pid_t child;

    fflush(NULL);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      refuse_in_turn(allocator, &thrift, program->text, every, progress);
      _exit(0);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!progress->complete) {
      fprintf(stderr, "%s on %s: refusal %ld: %s %d\n", program->name,
              allocator, progress->n,
              WIFSIGNALED(status) ? "signal" : "exit status",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
      crashes++;
      progress->refusals++;
      progress->n += every;
    }
    REQUIRE(crashes < 200);
  }
  printf("%s refusals=%ld errors=%ld left=%ld crashes=%ld\n", program->name,
         progress->refusals, progress->errors, progress->left, crashes);
  bad = progress->wrong > 0 || progress->refusals == 0;
  munmap(progress, sizeof *progress);
  return bad;
}

int main(int argc, char **argv)
{
  const char *allocator = argc > 1 ? argv[1] : "ebbtide";
  const char *kind = argc > 2 ? argv[2] : "sound";
  long every = argc > 3 ? atol(argv[3]) : 1;
  enum defect defect = strcmp(kind, "leak") == 0   ? LEAK
                       : strcmp(kind, "lose") == 0 ? LOSE
                                                   : SOUND;
  int bad = 0;
  size_t i;

  for (i = 0; i < COUNT_OF(programs); i++) {
    if (argc <= 4 || strcmp(argv[4], programs[i].name) == 0) {
      bad += run_program(allocator, defect, every, &programs[i]);
    }
  }
  return bad > 0 ? 1 : 0;
}
