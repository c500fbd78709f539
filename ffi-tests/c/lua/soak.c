/* Many VMs for a long time: several threads make them in every way, attach,
 * work, reclaim, tick, fork, close, on heaps of which some are checked, and at
 * the end the process has no more mappings, file descriptors and memory than
 * at the start.
 *
 *   soak SECONDS [heap|file|memory]
 *
 * With a name something leaks on purpose: it must be found. Each thread then closes
 * LEAKS VMs at least, however long that takes. */

#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <malloc.h>
#include <pthread.h>
#include <time.h>

#define THREADS 4
#define VMS 3
#define LEAKS 100

/* What may differ at the end: the C library's arenas and stacks, and the heap
 * that is kept for the next VM. */
#define SLACK_BYTES (6 * MIB)
#define SLACK_MAPPINGS 12

/* Libgcc, which LuaJIT tells of its machine code, has a lock that does not
 * survive a fork in the middle of it: nobody is in a VM when somebody forks. */
static pthread_rwlock_t in_vms;

/* The option checked. */
enum { OFF, ON, SAMPLE };

static const char *leak;
static time_t end;

static const char *const scripts[] = {
  "local t = {} for i = 1, 4000 do t[i] = { i, name = 'n' .. i } end\n"
  "for i = 1, 4000, 2 do t[i] = nil end collectgarbage() return #t",
  "local s = {} for i = 1, 200 do s[i] = ('x'):rep(i * 40) end\n"
  "return #table.concat(s)",
  "local c = {} for i = 1, 100 do c[i] = coroutine.wrap(function()\n"
  "  for j = 1, 20 do coroutine.yield(j) end end) end\n"
  "for j = 1, 10 do for i = 1, 100 do c[i]() end end return 1",
  "return #('abc'):rep(700000)"
};

/* VMs by what their heaps' option checked is. */
static uint64_t kinds[3];

/* A VM, and its heap if the host made that. */
struct vm {
  lua_State *L;
  ebb_heap *heap;
};

/* The heap of a VM: every block checked, a few, or none as in most. */
static ebb_options choose(struct rng *rng)
{
  static const int64_t checked[] = { EBB_ZERO, EBB_ZERO, ON, SAMPLE };
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.reserve = rng_below(rng, 2) ? 0 : (int64_t)(64 * MIB);
  options.checked = checked[rng_below(rng, COUNT_OF(checked))];
  return options;
}

static lua_State *with_libraries(lua_State *L)
{
  REQUIRE(L != NULL);
  luaL_openlibs(L);
  return L;
}

static void vm_open(struct vm *vm, struct rng *rng)
{
  ebb_options options = choose(rng);
  int is_on = options.checked == ON;
  int64_t checked = -1;

  vm->heap = NULL;
  switch (rng_below(rng, 3)) {
  case 0:
    vm->heap = heap_from(&options);
    vm->L = with_libraries(lua_newstate(
      is_on && rng_below(rng, 2) ? ebb_alloc_checked : ebb_alloc, vm->heap));
    break;
  case 1:
    vm->L = with_libraries(ebb_newstate(&options));
    break;
  default:
    vm->L = with_libraries(luaL_newstate());
    CHECK_EQ(ebb_attach(vm->L, &options), EBB_OK);
  }
  CHECK_EQ(ebb_get(ebb_heap_of(vm->L), "checked", &checked), EBB_OK);
  CHECK_EQ(checked, options.checked == EBB_ZERO ? OFF : options.checked);
  REQUIRE(checked >= OFF && checked <= SAMPLE);
  __atomic_fetch_add(&kinds[checked], 1, __ATOMIC_RELAXED);
}

static void vm_work(struct vm *vm, struct rng *rng)
{
  ebb_heap *heap = ebb_heap_of(vm->L);

  REQUIRE(heap != NULL);
  CHECK_EQ(luaL_dostring(vm->L, scripts[rng_below(rng, COUNT_OF(scripts))]),
           0);
  lua_settop(vm->L, 0);
  switch (rng_below(rng, 4)) {
  case 0:
    lua_gc(vm->L, LUA_GCCOLLECT, 0);
    CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
    break;
  case 1:
    CHECK(ebb_tick(heap, 200) >= 0);
    break;
  case 2:
    CHECK_EQ(ebb_set(heap, "decay_ms", (int64_t)rng_below(rng, 50)), EBB_OK);
    break;
  default:
    CHECK_EQ(stats_of(heap, 0).previous_live == 0, vm->heap != NULL
             || stats_of(heap, 0).previous_reserved == 0);
  }
}

static void vm_close(struct vm *vm)
{
  lua_close(vm->L);
  vm->L = NULL;
  if (vm->heap != NULL) {
    CHECK_EQ(stats_of(vm->heap, 0).blocks, 0);
    if (leak == NULL || strcmp(leak, "heap") != 0) {
      ebb_heap_delete(vm->heap);
    }
  }
  if (leak != NULL && strcmp(leak, "file") == 0) {
    (void)!open("/dev/null", O_RDONLY);
  }
  if (leak != NULL && strcmp(leak, "memory") == 0) {
    volatile char *lost = (volatile char *)malloc(100 * KIB);
    size_t i;

    for (i = 0; lost != NULL && i < 100 * KIB; i += 512) {
      lost[i] = 1;
    }
  }
}

/* A child goes on with a copy of each VM, and ends. */
static void fork_one(struct vm *vms, struct rng *rng)
{
  int status = -1;
  pid_t child;

  pthread_rwlock_wrlock(&in_vms);
  child = fork();
  if (child != 0) {
    pthread_rwlock_unlock(&in_vms);
  }
  REQUIRE(child >= 0);
  if (child == 0) {
    size_t i;

    for (i = 0; i < VMS; i++) {
      if (vms[i].L != NULL) {
        vm_work(&vms[i], rng);
        vm_close(&vms[i]);
      }
    }
    _exit(check_status());
  }
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
}

static uint64_t closed[THREADS];

static void *live(void *argument)
{
  uint64_t *count = (uint64_t *)argument, least = leak ? *count + LEAKS : 0;
  struct rng rng = { 77 + (uint64_t)(count - closed) };
  struct vm vms[VMS];
  size_t i;

  memset(vms, 0, sizeof vms);
  while (time(NULL) < end || *count < least) {
    struct vm *vm = &vms[rng_below(&rng, VMS)];

    pthread_rwlock_rdlock(&in_vms);
    if (vm->L == NULL) {
      vm_open(vm, &rng);
    } else if (rng_below(&rng, 3) == 0) {
      vm_close(vm);
      ++*count;
    } else {
      vm_work(vm, &rng);
    }
    pthread_rwlock_unlock(&in_vms);
    if (rng_below(&rng, 40) == 0) {
      fork_one(vms, &rng);
    }
  }
  for (i = 0; i < VMS; i++) {
    if (vms[i].L != NULL) {
      vm_close(&vms[i]);
    }
  }
  return NULL;
}

static void live_for(time_t seconds)
{
  pthread_t threads[THREADS];
  size_t i;

  end = time(NULL) + seconds;
  for (i = 0; i < THREADS; i++) {
    REQUIRE(pthread_create(&threads[i], NULL, live, &closed[i]) == 0);
  }
  for (i = 0; i < THREADS; i++) {
    REQUIRE(pthread_join(threads[i], NULL) == 0);
  }
  malloc_trim(0);
}

static size_t file_count(void)
{
  DIR *folder = opendir("/proc/self/fd");
  size_t count = 0;

  REQUIRE(folder != NULL);
  while (readdir(folder) != NULL) {
    count++;
  }
  closedir(folder);
  return count;
}

int main(int argc, char **argv)
{
  time_t seconds = argc > 1 ? atol(argv[1]) : 3600;
  size_t mappings, files, bytes;
  uint64_t vms = 0;
  size_t i;
  pthread_rwlockattr_t writers;

  pthread_rwlockattr_init(&writers);
  pthread_rwlockattr_setkind_np(&writers,
                                PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init(&in_vms, &writers);
  /* What the C library and LuaJIT keep is there afterwards. */
  live_for(2);
  mappings = mapping_count();
  files = file_count();
  bytes = rss_bytes();
  leak = argc > 2 ? argv[2] : NULL;
  live_for(seconds);
  CHECK(mapping_count() <= mappings + SLACK_MAPPINGS);
  CHECK_EQ(file_count(), files);
  CHECK(rss_bytes() <= bytes + SLACK_BYTES);
  for (i = 0; i < THREADS; i++) {
    vms += closed[i];
  }
  CHECK(kinds[OFF] > 0 && kinds[ON] > 0 && kinds[SAMPLE] > 0);
  printf("%" PRIu64 " VMs, %" PRIu64 " checked, %" PRIu64 " sampled; "
         "mappings %zu, then %zu; files %zu, %zu; resident "
         "KiB %zu, %zu\n", vms, kinds[ON], kinds[SAMPLE], mappings,
         mapping_count(), files, file_count(), bytes / KIB, rss_bytes() / KIB);
  return check_status();
}
