/* Every system call fails once. A workload of C and Lua makes, grows, resizes,
 * reclaims, ticks and deletes heaps; for each kind of call, for each call of
 * that kind, and for each reason that the kernel may have, that call is refused,
 * alone and with all after it. Nothing may be lost, whatever happens.
 *
 *   syscall_faults [silent]
 *
 * With `silent` a refused call returns success: the program must notice each
 * kind. Prints a line for each kind: calls, refusals, and those that ended badly.
 */

#include "faulty_calls.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <sys/prctl.h>

#define BLOCKS 200

static struct block blocks[BLOCKS];

/* One refusal to try. */
struct trial {
  enum fault_call call;
  int error;
  enum fault_way way;
};

static const struct trial trials[] = {
  { CALL_MMAP, ENOMEM, WAY_ERRNO },     { CALL_MMAP, EAGAIN, WAY_ERRNO },
  { CALL_MMAP, EPERM, WAY_ERRNO },      { CALL_MPROTECT, ENOMEM, WAY_ERRNO },
  { CALL_MPROTECT, EAGAIN, WAY_ERRNO }, { CALL_MPROTECT, EPERM, WAY_ERRNO },
  { CALL_MADVISE, ENOMEM, WAY_ERRNO },  { CALL_MADVISE, EAGAIN, WAY_ERRNO },
  { CALL_MADVISE, EINTR, WAY_ERRNO },   { CALL_MADVISE, EPERM, WAY_ERRNO },
  { CALL_BATCH, ENOMEM, WAY_ERRNO },    { CALL_BATCH, EAGAIN, WAY_ERRNO },
  { CALL_BATCH, EINTR, WAY_ERRNO },     { CALL_BATCH, EPERM, WAY_ERRNO },
  { CALL_BATCH, ENOSYS, WAY_ERRNO },    { CALL_BATCH, ENOMEM, WAY_PARTLY },
  { CALL_MREMAP, ENOMEM, WAY_ERRNO },   { CALL_MREMAP, EAGAIN, WAY_ERRNO },
  { CALL_MREMAP, EPERM, WAY_ERRNO },    { CALL_MREMAP, ENOMEM, WAY_HARSHLY },
  { CALL_MREMAP, ENOMEM, WAY_BLINDLY },
  { CALL_MINCORE, ENOMEM, WAY_ERRNO },  { CALL_MINCORE, EAGAIN, WAY_ERRNO },
  { CALL_OPEN, ENOENT, WAY_ERRNO },     { CALL_OPEN, EINTR, WAY_ERRNO },
  { CALL_OPEN, EMFILE, WAY_ERRNO },     { CALL_READ, EINTR, WAY_ERRNO },
  { CALL_READ, EAGAIN, WAY_ERRNO },     { CALL_READ, EIO, WAY_ERRNO },
  { CALL_GETRLIMIT, EPERM, WAY_ERRNO }
};

static const char *const names[CALL_COUNT] = {
  "mmap",   "munmap",  "mprotect", "madvise", "process_madvise",
  "mremap", "mincore", "open",     "read",    "getrlimit"
};

static void grow_and_shrink(ebb_heap *heap)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    resize(heap, &blocks[i], i % 10 == 0 ? 9000 + i * 40 : 20 + i * 12);
  }
  for (i = 0; i < BLOCKS; i += 40) {
    resize(heap, &blocks[i], 200 * KIB);
    resize(heap, &blocks[i + 1], 150 * KIB);
    resize(heap, &blocks[i], 300 * KIB);
  }
  for (i = 0; i < BLOCKS; i++) {
    if (i % 4 != 0) {
      resize(heap, &blocks[i], 0);
    }
  }
  is_true(heap);
}

/* A block so long that the heap gives its pages' commitment up when they have gone
 * back, and takes some of it again. */
static void rise_and_fall(ebb_heap *heap)
{
  size_t sizes[] = { 20 * MIB, 10 * MIB, 22 * MIB }, i;

  for (i = 0; i < COUNT_OF(sizes); i++) {
    size_t last = sizes[i] - 1;
    unsigned char *at = (unsigned char *)faulty_alloc(heap, NULL, 0, sizes[i]);

    if (at != NULL) {
      at[0] = at[last / 2] = at[last] = 7;
      CHECK_EQ(at[0] + at[last / 2] + at[last], 21);
      faulty_alloc(heap, at, sizes[i], 0);
    }
    reclaim(heap, 0);
    is_true(heap);
  }
}

static void life(void)
{
  ebb_options options;
  ebb_heap *heap;
  size_t i;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.reserve = 64 * MIB;
  heap = make(&options);
  grow_and_shrink(heap);
  reclaim(heap, 20);
  pause_and_tick(heap, 1200);
  grow_and_shrink(heap);
  reclaim(heap, 0);
  rise_and_fall(heap);
  change(heap, "thp", 1);
  change(heap, "thp", 0);
  change(heap, "limit_soft", EBB_CGROUP);
  pause_and_tick(heap, 1100);
  change(heap, "limit_soft", 2 * MIB);
  change(heap, "history", 1);
  grow_and_shrink(heap);
  change(heap, "limit_hard", 3 * MIB);
  limited = 1;
  grow_and_shrink(heap);
  pause_and_tick(heap, 3000);
  is_true(heap);
  for (i = 0; i < BLOCKS; i++) {
    CHECK(block_kept(&blocks[i], blocks[i].at, blocks[i].size));
  }
  /* The heap can all it could before. */
  stop_refusing();
  change(heap, "limit_hard", 0);
  limited = 0;
  for (i = 0; i < BLOCKS; i++) {
    resize(heap, &blocks[i], i * 100 + 1);
    REQUIRE(blocks[i].at != NULL);
    resize(heap, &blocks[i], 0);
  }
  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  CHECK_EQ(stats_of(heap, 0).free_resident, 0);
  is_true(heap);
  heap_ends_empty(heap);
}

/* Heaps that come and go while calls are refused: one is kept for the next. */
static void births(void)
{
  int i;

  for (i = 0; i < 6; i++) {
    ebb_options options;
    ebb_heap *heap;
    void *block;

    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.reserve = (int64_t)(i % 2 ? 4 * MIB : 0);
    heap = make(&options);
    block = faulty_alloc(heap, NULL, 0, i == 2 ? 3 * MIB : 40 * KIB);
    if (block != NULL) {
      memset(block, 1, 40 * KIB);
    }
    is_true(heap);
    CALLING(ebb_heap_delete(heap));
    CALLED();
  }
  stop_refusing();
}

static const char *const script =
  "local t, n = {}, 0\n"
  "for i = 1, 3000 do t[i] = { i, 'text ' .. i % 700 } end\n"
  "for i = 1, 3000, 3 do t[i] = false end\n"
  "for i = 1, 12 do t.s = (t.s or 'x'):rep(3) end t.s = #t.s\n"
  "collectgarbage()\n"
  "for i = 2, 3000, 3 do n = n + t[i][1] end return n + t.s";

static int run_script(lua_State *L)
{
  luaL_openlibs(L);
  if (luaL_loadstring(L, script) != 0) {
    return lua_error(L);
  }
  lua_call(L, 0, 1);
  return 1;
}

/* Runs the script: right, or out of memory. Leaves nothing on the stack. */
static void run_lua(lua_State *L)
{
  int status;

  lua_pushcfunction(L, run_script);
  status = lua_pcall(L, 0, 1, 0);
  CHECK(status == LUA_ERRMEM
        || (status == 0 && lua_tointeger(L, -1) == 1500500 + 531441)
        || (status != 0
            && strstr(lua_tostring(L, -1), "not enough memory") != NULL));
  lua_settop(L, 0);
}

static void lua(void)
{
  ebb_heap *heap = make(NULL);
  lua_State *L = lua_newstate(faulty_alloc, heap);

  if (L != NULL) {
    run_lua(L);
    reclaim(heap, 0);
    pause_and_tick(heap, 2000);
    run_lua(L);
    lua_close(L);
  }
  CHECK_EQ(stats_of(heap, 0).blocks, 0);
  CALLING(ebb_heap_delete(heap));
  CALLED();
  stop_refusing();
}

/* A VM on LuaJIT's own allocator: reclaimed in place, then changed over. */
static void attached(void)
{
  lua_State *L = luaL_newstate();
  ebb_heap *heap;
  int result;

  REQUIRE(L != NULL);
  run_lua(L);
  judge(CALLING(ebb_builtin_reclaim(L, NULL, NULL)));
  CALLED();
  result = CALLING(ebb_attach(L, NULL));
  CALLED();
  judge(result);
  heap = ebb_heap_of(L);
  CHECK((result == EBB_OK) == (heap != NULL));
  run_lua(L);
  if (heap != NULL) {
    reclaim(heap, 0);
    pause_and_tick(heap, 2000);
    is_true(heap);
  }
  faults_enter();
  lua_close(L);
  faults_leave();
  stop_refusing();
}

static void (*const workloads[])(void) = { life, births, lua, attached };

/* What all children write. */
struct tally {
  uint64_t calls[COUNT_OF(workloads)][CALL_COUNT];
  uint64_t refused[CALL_COUNT];
};

static struct tally *tally;

static void without_refusals(void)
{
  memset(&faults, 0, sizeof faults);
  faults.frozen = 1;
  faults.now_us = 1000000;
  faults.look_us = 3;
  faults.overwrite = 1;
}

static void count_calls(const void *argument)
{
  size_t which = *(const size_t *)argument;

  without_refusals();
  workloads[which]();
  memcpy(tally->calls[which], counted, sizeof counted);
}

struct refusal {
  size_t workload;
  struct trial trial;
  uint64_t at;
  int lasting, silent;
};

static void refuse(const void *argument)
{
  const struct refusal *refusal = (const struct refusal *)argument;

  if (refusal->silent) {
    /* What goes wrong is expected, and told by the count alone. */
    if (freopen("/dev/null", "w", stderr) == NULL) {
      _exit(3);
    }
  }
  without_refusals();
  faults.victim = refusal->trial.call;
  faults.error = refusal->trial.error;
  faults.way = refusal->trial.way;
  faults.at = refusal->at;
  faults.lasting = refusal->lasting;
  faults.silent = refusal->silent;
  workloads[refusal->workload]();
  tally->refused[refusal->trial.call] += faults.refused[refusal->trial.call];
  if (faults.refused[refusal->trial.call] == 0) {
    check_failed(__FILE__, __LINE__, "the call was never made");
  }
}

/* Whether it ended well. */
static int try_refusal(const struct refusal *refusal)
{
  int status = in_child(refuse, refusal);

  if (status != 0 && !refusal->silent) {
    fprintf(stderr, "workload %zu, %s %" PRIu64 "%s refused with %d in way %d: "
            "status %#x\n", refusal->workload, names[refusal->trial.call],
            refusal->at, refusal->lasting ? " and all after" : "",
            refusal->trial.error, (int)refusal->trial.way, (unsigned)status);
  }
  return status == 0;
}

/* Refuses each call that the workload made in one way; returns how many of the
 * refusals ended badly. */
static uint64_t refuse_each(size_t workload, const struct trial *trial,
                            int silent)
{
  struct refusal refusal;
  uint64_t calls = tally->calls[workload][trial->call], bad = 0;

  refusal.workload = workload;
  refusal.trial = *trial;
  refusal.silent = silent;
  for (refusal.at = 1; refusal.at <= calls; refusal.at++) {
    refusal.lasting = 0;
    bad += !try_refusal(&refusal);
    /* All after it, from a few points on; signals do not come for ever. */
    if (!silent && (refusal.at & (refusal.at - 1)) == 0
        && trial->error != EINTR) {
      refusal.lasting = 1;
      bad += !try_refusal(&refusal);
    }
  }
  return bad;
}

/* Between the two changes of thp the kernel's khugepaged may fill the free pages
 * of a heap, which the heap does not count. It visits a process every ten seconds
 * or so, so under load it comes just then. Children inherit the switch. */
static void leave_no_huge_pages(void)
{
  REQUIRE(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
}

int main(int argc, char **argv)
{
  int silent = argc > 1 && strcmp(argv[1], "silent") == 0;
  uint64_t bad[CALL_COUNT] = { 0 }, calls, all_bad = 0;
  size_t w, i, call;

  leave_no_huge_pages();
  tally = (struct tally *)mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(tally != MAP_FAILED);
  for (w = 0; w < COUNT_OF(workloads); w++) {
    REQUIRE(in_child(count_calls, &w) == 0);
    for (i = 0; i < COUNT_OF(trials); i++) {
      int first = i == 0 || trials[i].call != trials[i - 1].call;

      if (first || !silent) {
        bad[trials[i].call] += refuse_each(w, &trials[i], silent);
      }
    }
  }
  for (call = 0; call < CALL_COUNT; call++) {
    for (calls = 0, w = 0; w < COUNT_OF(workloads); w++) {
      calls += tally->calls[w][call];
    }
    printf("%s calls=%" PRIu64 " refused=%" PRIu64 " bad=%" PRIu64 "\n",
           names[call], calls, tally->refused[call], bad[call]);
    all_bad += bad[call];
  }
  return all_bad > 0 && !silent;
}
