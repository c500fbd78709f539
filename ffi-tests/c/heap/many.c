/* Ten thousand heaps alive at once in one process, each with the load of a
 * small VM; afterwards nothing of them is left. */

#include "check.h"

#define HEAPS 10000
#define BLOCKS 300

/* Where one page per class goes, keep classes few, and memory small. */
#define SIZE_MAX_SMALL 160

struct vm {
  ebb_heap *heap;
  struct block blocks[BLOCKS];
  struct block stack;
};

static struct vm vms[HEAPS];

static void vm_start(struct vm *vm, uint64_t seed)
{
  struct rng rng = { seed };
  size_t i, size;

  vm->heap = heap_of(0);
  for (i = 0; i < BLOCKS; i++) {
    size = 1 + rng_below(&rng, SIZE_MAX_SMALL);
    block_new(vm->heap, &vm->blocks[i], size, seed + i);
    REQUIRE(vm->blocks[i].at != NULL);
  }
  block_new(vm->heap, &vm->stack, 16, seed);
  for (size = 32; size <= 16 * KIB; size *= 2) {
    REQUIRE(block_resize(vm->heap, &vm->stack, size / 2, size, seed));
  }
  REQUIRE(block_resize(vm->heap, &vm->stack, 16 * KIB, 256, seed));
}

static void vm_end(struct vm *vm)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    block_end(vm->heap, &vm->blocks[i]);
  }
  block_end(vm->heap, &vm->stack);
  heap_ends_empty(vm->heap);
}

static size_t mapping_limit(void)
{
  size_t limit = 0;
  FILE *file = fopen("/proc/sys/vm/max_map_count", "r");

  REQUIRE(file != NULL);
  REQUIRE(fscanf(file, "%zu", &limit) == 1);
  fclose(file);
  return limit;
}

static void ten_thousand_heaps_live_at_once(void)
{
  size_t mappings, i;
  uint64_t reserved;
  ebb_heap *heap = heap_of(0);

  /* The heap deleted last may be kept for the next one. */
  reserved = stats_of(heap, 0).reserved;
  heap_ends_empty(heap);
  mappings = mapping_count();
  for (i = 0; i < HEAPS; i++) {
    vm_start(&vms[i], i + 1);
  }
  CHECK(mapping_count() < mapping_limit() / 2);
  for (i = 0; i < HEAPS; i++) {
    vm_end(&vms[(i * 7919) % HEAPS]);
  }
  CHECK(mapping_count() <= mappings + 2);

  /* Address space was given back too: the next has as much as the first. Under
   * a limit it has what the one that was kept for it has mapped. */
  heap = heap_of(0);
  CHECK(is_limited() || stats_of(heap, 0).reserved == reserved);
  heap_ends_empty(heap);
}

int main(void)
{
  RUN(ten_thousand_heaps_live_at_once);
  return check_status();
}
