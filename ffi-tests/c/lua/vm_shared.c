/* ebb_on_close and ebb_share: who is told of the end of a VM, and a heap that
 * several threads use in turns. */

#include "refuse_call.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define DO(L, code)                                                           \
  (luaL_dostring(L, code) ? check_failed(__FILE__, __LINE__,                  \
                                         lua_tostring(L, -1))                 \
                          : (void)0)

/* Fills memory and lets go of it, with blocks of all sizes. */
static const char *const work =
  "local rounds = ... local total = 0 "
  "for round = 1, rounds do "
  "  local rows = {} "
  "  for i = 1, 2000 do rows[i] = { i, ('x'):rep(i) } end "
  "  for i = 1, #rows do total = total + #rows[i][2] end "
  "end "
  "return total";
#define ROUND_TOTAL (2000.0 * 2001 / 2)

static lua_State *vm(int attached)
{
  lua_State *L = attached ? luaL_newstate() : ebb_newstate(NULL);

  REQUIRE(L != NULL);
  luaL_openlibs(L);
  if (attached) {
    REQUIRE(ebb_attach(L, NULL) == EBB_OK);
  }
  return L;
}

struct ending {
  ebb_heap *heap;
  unsigned calls;
  uint64_t returned;
};

static void note_end(void *context)
{
  struct ending *ending = context;

  ending->calls++;
  ending->returned = stats_of(ending->heap, 0).returned_total;
}

static void the_end_of_a_vm_is_reported_once(void)
{
  int attached;

  for (attached = 0; attached < 2; attached++) {
    lua_State *L = vm(attached);
    struct ending ending = { ebb_heap_of(L), 0, 0 };
    struct ending other = { ending.heap, 0, 0 };

    CHECK_EQ(ebb_on_close(ending.heap, note_end, &other), EBB_OK);
    CHECK_EQ(ebb_on_close(ending.heap, note_end, &ending), EBB_OK);
    DO(L, "local t = {} for i = 1, 1e5 do t[i] = { i } end");
    lua_gc(L, LUA_GCCOLLECT, 0);
    CHECK_EQ(ebb_reclaim(ending.heap, NULL, NULL), EBB_OK);
    CHECK_EQ(ending.calls, 0);
    lua_close(L);
    CHECK_EQ(ending.calls, 1);
    CHECK_EQ(other.calls, 0);
    CHECK(ending.returned > 0);
  }
}

static void no_end_is_reported_after_an_unregistration(void)
{
  lua_State *L = vm(0);
  struct ending ending = { ebb_heap_of(L), 0, 0 };

  CHECK_EQ(ebb_on_close(ending.heap, note_end, &ending), EBB_OK);
  CHECK_EQ(ebb_on_close(ending.heap, NULL, NULL), EBB_OK);
  lua_close(L);
  CHECK_EQ(ending.calls, 0);
}

static void a_heap_without_a_vm_is_refused(void)
{
  ebb_heap *heap = ebb_heap_new(NULL);
  lua_State *L = lua_newstate(ebb_alloc, heap);

  REQUIRE(L != NULL);
  CHECK_EQ(ebb_on_close(heap, note_end, NULL), EBB_ERR_ARGUMENT);
  CHECK(strstr(ebb_strerror(0), "did not come with a VM") != NULL);
  CHECK_EQ(ebb_on_close(NULL, note_end, NULL), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_share(L), EBB_ERR_ARGUMENT);
  CHECK_EQ(ebb_share(NULL), EBB_ERR_ARGUMENT);
  lua_close(L);
  ebb_heap_delete(heap);
}

struct job {
  lua_State *L;
  unsigned rounds;
  double total;
  atomic_int is_done;
};

static void *run_job(void *argument)
{
  struct job *job = argument;
  lua_State *L = job->L;

  if (luaL_loadstring(L, work) != 0) {
    check_failed(__FILE__, __LINE__, lua_tostring(L, -1));
  }
  lua_pushnumber(L, job->rounds);
  if (lua_pcall(L, 1, 1, 0) != 0) {
    check_failed(__FILE__, __LINE__, lua_tostring(L, -1));
  }
  job->total = lua_tonumber(L, -1);
  lua_settop(L, 0);
  job->is_done = 1;
  return NULL;
}

/* From now on the kernel orders no threads for this process. */
static void refuse_membarrier(void)
{
  refuse_call(SYS_membarrier);
  REQUIRE(syscall(SYS_membarrier, 0, 0) == -1 && errno == EPERM);
}

/* When the kernel begins to refuse that. */
enum refusal { NEVER, BEFORE_SHARE, AFTER_SHARE };

/* One thread runs the VM, this one looks after its heap. */
static void look_after(int attached, enum refusal refusal)
{
  ebb_options options = { .size = sizeof options, .decay_ms = EBB_ZERO };
  struct job job = { attached ? vm(1) : ebb_newstate(&options),
                     steps(60), 0, 0 };
  struct ending ending = { ebb_heap_of(job.L), 0, 0 };
  pthread_t thread;
  int64_t retain;

  luaL_openlibs(job.L);
  CHECK_EQ(ebb_on_close(ending.heap, note_end, &ending), EBB_OK);
  if (refusal == BEFORE_SHARE) {
    refuse_membarrier();
  }
  CHECK_EQ(ebb_share(job.L), EBB_OK);
  CHECK_EQ(ebb_share(job.L), EBB_OK);
  if (refusal == AFTER_SHARE) {
    refuse_membarrier();
  }
  CHECK(ebb_heap_of(job.L) == ending.heap);
  REQUIRE(pthread_create(&thread, NULL, run_job, &job) == 0);
  while (!job.is_done) {
    ebb_stats stats = stats_of(ending.heap, 0);

    CHECK_EQ(stats.committed, stats.live + stats.waste + stats.free_resident
                                + stats.returned + stats.never_touched
                                + stats.metadata);
    CHECK(ebb_tick(ending.heap, 200) >= 0);
    CHECK(ebb_next_tick(ending.heap) >= 0);
    CHECK_EQ(ebb_set(ending.heap, "retain", 4096), EBB_OK);
    CHECK_EQ(ebb_get(ending.heap, "retain", &retain), EBB_OK);
    CHECK_EQ(ebb_set(ending.heap, "retain", 0), EBB_OK);
    CHECK(ebb_reclaim(ending.heap, NULL, NULL) >= 0);
  }
  REQUIRE(pthread_join(thread, NULL) == 0);
  CHECK(job.total == job.rounds * ROUND_TOTAL);
  CHECK_EQ(ending.calls, 0);
  lua_close(job.L);
  CHECK_EQ(ending.calls, 1);
}

static void two_threads_take_turns_in_a_heap(void)
{
  look_after(0, NEVER);
  look_after(1, NEVER);
}

static void look_after_refused(const void *refusal)
{
  look_after(0, *(const enum refusal *)refusal);
}

static void a_kernel_that_orders_no_threads_is_enough(void)
{
  enum refusal refusal;

  for (refusal = BEFORE_SHARE; refusal <= AFTER_SHARE; refusal++) {
    CHECK_EQ(in_child(look_after_refused, &refusal), 0);
  }
}

/* The Lua module calls for the heap that it allocates in. */
static void the_lua_module_knows_a_shared_heap(void)
{
  lua_State *L = vm(0);

  CHECK_EQ(ebb_share(L), EBB_OK);
  lua_pushcfunction(L, luaopen_ebbtide);
  CHECK_EQ(lua_pcall(L, 0, 1, 0), 0);
  lua_setglobal(L, "allocator");
  alarm(60);
  DO(L, "for _ = 1, 100 do "
        "  assert(allocator.heap().allocator == 'ebbtide') "
        "  assert(allocator.stats().live > 0 and #allocator.report() > 0) "
        "  assert(allocator.set('retain', 8192)) "
        "  assert(allocator.get('retain') == 8192) "
        "  assert(allocator.reclaim().live > 0 and allocator.pressure() == 0) "
        "  assert(allocator.configure { retain = 0 }) "
        "end");
  alarm(0);
  lua_close(L);
}

/* Whatever a thread that is not in the child was doing, the heap is whole. */
static void a_child_goes_on_with_a_shared_heap(void)
{
  struct job job = { vm(0), steps(60), 0, 0 };
  ebb_heap *heap = ebb_heap_of(job.L);
  pthread_t thread;

  CHECK_EQ(ebb_share(job.L), EBB_OK);
  REQUIRE(pthread_create(&thread, NULL, run_job, &job) == 0);
  while (!job.is_done) {
    int status;
    pid_t child = fork();

    REQUIRE(child >= 0);
    if (child == 0) {
      alarm(20);
      CHECK(stats_of(heap, 0).live > 0);
      CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
      _exit(check_status());
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
  }
  REQUIRE(pthread_join(thread, NULL) == 0);
  CHECK(job.total == job.rounds * ROUND_TOTAL);
  lua_close(job.L);
}

int main(void)
{
  RUN(the_end_of_a_vm_is_reported_once);
  RUN(no_end_is_reported_after_an_unregistration);
  RUN(a_heap_without_a_vm_is_refused);
  RUN(two_threads_take_turns_in_a_heap);
  RUN(a_kernel_that_orders_no_threads_is_enough);
  RUN(the_lua_module_knows_a_shared_heap);
  RUN(a_child_goes_on_with_a_shared_heap);
  return check_status();
}
