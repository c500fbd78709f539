/* Heaps across fork, in the orders that servers fork in: nginx, which makes its
 * VM before its workers and a new one with each reload; pre-forking servers,
 * whose children are forked between requests and fork themselves; daemons;
 * hosts with threads; and os.execute. Parent and child both go on with what
 * they have: use it, return it, delete it, make more. Nobody sees what the
 * other does. */

#include "tick_host.h"

#include <pthread.h>
#include <spawn.h>

#define BLOCKS 600
#define VMS 3

extern char **environ;

/* As much as a VM has: a heap, and blocks in it. */
struct vm {
  ebb_heap *heap;
  struct rng rng;
  struct block blocks[BLOCKS];
};

static struct vm vms[VMS];

static void vm_start(struct vm *vm, uint64_t seed)
{
  memset(vm, 0, sizeof *vm);
  vm->heap = heap_of_decay(20);
  vm->rng.state = seed * 2 + 1;
}

static void vm_work(struct vm *vm)
{
  unsigned i;

  for (i = 0; i < steps(3000); i++) {
    struct block *block = &vm->blocks[rng_below(&vm->rng, BLOCKS)];
    size_t size = rng_size(&vm->rng, MIB / 2);

    if (block->at == NULL) {
      block_new(vm->heap, block, size, rng_next(&vm->rng));
    } else if (rng_below(&vm->rng, 2) == 0) {
      CHECK(block_resize(vm->heap, block, block->size, size, i));
    } else {
      block_end(vm->heap, block);
    }
  }
}

static void vm_is_unharmed(struct vm *vm)
{
  ebb_stats stats = stats_of(vm->heap, EBB_STATS_KERNEL);
  size_t i, count = 0;

  for (i = 0; i < BLOCKS; i++) {
    struct block *block = &vm->blocks[i];

    CHECK(block->at == NULL || block_kept(block, block->at, block->size));
    count += block->at != NULL;
  }
  CHECK_EQ(stats.blocks, count);
  CHECK(stats.kernel_resident <= stats.resident);
}

static void vm_end(struct vm *vm)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    if (vm->blocks[i].at != NULL) {
      block_end(vm->heap, &vm->blocks[i]);
    }
  }
  heap_ends_empty(vm->heap);
}

/* What anybody does with a VM, in some order. */
static void vm_any(struct vm *vm, struct rng *rng)
{
  switch (rng_below(rng, 6)) {
  case 0:
    CHECK_EQ(ebb_reclaim(vm->heap, NULL, NULL), EBB_OK);
    break;
  case 1:
    CHECK(ebb_tick(vm->heap, (uint32_t)rng_below(rng, 2) * 50) >= 0);
    break;
  case 2:
    vm_end(vm);
    vm_start(vm, rng_next(rng));
    break;
  case 3:
    /* With all that is in it, as a process does that ends a VM in haste. */
    ebb_heap_delete(vm->heap);
    vm_start(vm, rng_next(rng));
    break;
  default:
    vm_work(vm);
  }
  vm_is_unharmed(vm);
}

static void live(uint64_t seed, unsigned times)
{
  struct rng rng = { seed * 2 + 1 };
  unsigned i;

  for (i = 0; i < times; i++) {
    vm_any(&vms[rng_below(&rng, VMS)], &rng);
  }
}

static void vms_start(void)
{
  size_t i;

  for (i = 0; i < VMS; i++) {
    vm_start(&vms[i], i + 1);
    vm_work(&vms[i]);
  }
}

static void vms_end(void)
{
  size_t i;

  for (i = 0; i < VMS; i++) {
    vm_is_unharmed(&vms[i]);
    vm_end(&vms[i]);
  }
}

/* Starts a child that lives by a seed and, if it is to be a parent, forks. */
static pid_t start(uint64_t seed, int generations)
{
  pid_t child;

  fflush(NULL);
  child = fork();
  REQUIRE(child >= 0);
  if (child != 0) {
    return child;
  }
  check_failures = 0;
  live(seed, steps(12));
  if (generations > 1) {
    pid_t grandchild = start(seed + 100, generations - 1);
    int status;

    live(seed + 1, steps(6));
    REQUIRE(waitpid(grandchild, &status, 0) == grandchild);
    CHECK_EQ(status, 0);
  }
  vms_end();
  fflush(NULL);
  _exit(check_status());
}

static void ends_well(pid_t child)
{
  int status;

  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
}

static void workers_and_their_parent_all_go_on(void)
{
  pid_t workers[4];
  size_t i;

  vms_start();
  for (i = 0; i < COUNT_OF(workers); i++) {
    workers[i] = start(i, 1);
    live(50 + i, 3);
  }
  for (i = 0; i < COUNT_OF(workers); i++) {
    ends_well(workers[i]);
  }
  vms_end();
}

/* Old workers finish while new ones serve from a VM that they have not. */
static void a_reload_makes_a_vm_and_workers_anew(void)
{
  pid_t before = 0;
  size_t round;

  vms_start();
  for (round = 0; round < 5; round++) {
    pid_t worker;

    vm_end(&vms[round % VMS]);
    vm_start(&vms[round % VMS], round + 20);
    vm_work(&vms[round % VMS]);
    worker = start(round + 30, 1);
    if (before != 0) {
      ends_well(before);
    }
    before = worker;
  }
  ends_well(before);
  vms_end();
}

/* A daemon forks twice, and ends in between. */
static void children_of_children_go_on(void)
{
  vms_start();
  ends_well(start(3, 4));
  vms_end();
}

/* Unless every block of it is checked. */
static int is_kept(ebb_heap *heap)
{
  int64_t checked = 0;

  CHECK_EQ(ebb_get(heap, "checked", &checked), EBB_OK);
  return checked != 1;
}

/* The heap that was deleted last is kept: parent and child each have it. */
static void use_what_was_kept(const void *kept, uint64_t seed)
{
  struct vm *vm = &vms[0];
  unsigned i;

  vm_start(vm, seed);
  CHECK(vm->heap == kept || !is_kept(vm->heap));
  for (i = 0; i < BLOCKS; i++) {
    block_new(vm->heap, &vm->blocks[i], 1 + i * 4, seed + i);
  }
  vm_is_unharmed(vm);
  vm_work(vm);
  vm_is_unharmed(vm);
  vm_end(vm);
}

static void in_a_child(const void *kept)
{
  use_what_was_kept(kept, 6);
}

static void both_make_their_next_heap_of_the_one_that_was_kept(void)
{
  int i;

  for (i = 0; i < 4; i++) {
    ebb_heap *kept = heap_of_decay(20);
    void *block = ebb_alloc(kept, NULL, 0, 50000);

    REQUIRE(block != NULL);
    memset(block, 1, 50000);
    ebb_alloc(kept, block, 50000, 0);
    ebb_heap_delete(kept);
    CHECK_EQ(in_child(in_a_child, kept), 0);
    use_what_was_kept(kept, 7);
  }
}

static int stop;

/* Makes and deletes heaps, so that forks find one on its way. */
static void *come_and_go(void *argument)
{
  struct rng rng = { (uint64_t)(uintptr_t)argument };

  while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
    ebb_heap *heap = heap_of_decay(20);
    void *block = ebb_alloc(heap, NULL, 0, 1 + rng_below(&rng, 100000));

    CHECK(block != NULL);
    if (rng_below(&rng, 4) == 0) {
      CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
    }
    ebb_heap_delete(heap);
  }
  return NULL;
}

/* What other threads do at that moment is not there in the child. */
static void a_host_with_threads_may_fork_at_any_time(void)
{
  pthread_t threads[2];
  uintptr_t i;

  vms_start();
  stop = 0;
  for (i = 0; i < COUNT_OF(threads); i++) {
    void *seed = (void *)(i + 1);

    REQUIRE(pthread_create(&threads[i], NULL, come_and_go, seed) == 0);
  }
  for (i = 0; i < steps(30); i++) {
    pid_t child = start(i, 1);

    live(i + 200, 1);
    ends_well(child);
  }
  __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
  for (i = 0; i < COUNT_OF(threads); i++) {
    REQUIRE(pthread_join(threads[i], NULL) == 0);
  }
  vms_end();
}

/* os.execute and io.popen: the child is another program at once. */
static void commands_are_run_meanwhile(void)
{
  static char *arguments[] = { (char *)"true", NULL };
  size_t i;

  vms_start();
  for (i = 0; i < steps(20); i++) {
    FILE *output;
    pid_t child;

    live(i, 1);
    CHECK_EQ(system("true"), 0);
    output = popen("echo text", "r");
    REQUIRE(output != NULL);
    CHECK_EQ(getc(output), 't');
    live(i + 1000, 1);
    CHECK_EQ(pclose(output), 0);
    REQUIRE(posix_spawnp(&child, "true", NULL, NULL, arguments, environ) == 0);
    live(i + 2000, 1);
    ends_well(child);
  }
  vms_end();
}

int main(void)
{
  RUN(workers_and_their_parent_all_go_on);
  RUN(a_reload_makes_a_vm_and_workers_anew);
  RUN(children_of_children_go_on);
  RUN(both_make_their_next_heap_of_the_one_that_was_kept);
  RUN(a_host_with_threads_may_fork_at_any_time);
  RUN(commands_are_run_meanwhile);
  return check_status();
}
