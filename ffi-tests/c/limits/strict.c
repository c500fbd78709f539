/* Memory that went back is not charged any more: what strict overcommit counts.
 * Run under /proc/sys/vm/overcommit_memory = 2; in any other mode the kernel
 * charges nothing for a heap. */

#define TICK_HOST_WITH_THREAD
#include "tick_host.h"

#define BLOCK 4000
#define BLOCKS (128 * KIB)
#define PEAK ((size_t)BLOCK * BLOCKS)
/* What stays charged: the descriptors' address space, a 64th of the peak, and less
 * than 16 MiB each of returned pages and of pages that were never used. */
#define LEFT_MAX (PEAK / 8)

static void *blocks[BLOCKS];

/* Bytes of this process's mappings that the kernel charges. */
static size_t charged_bytes(void)
{
  FILE *file = fopen("/proc/self/smaps", "r");
  size_t kib = 0, charged = 0;
  char line[512];

  REQUIRE(file != NULL);
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, "Size:", 5) == 0) {
      kib = strtoul(line + 5, NULL, 10);
    } else if (strncmp(line, "VmFlags:", 8) == 0) {
      charged += strstr(line, " ac") != NULL ? kib * KIB : 0;
    }
  }
  fclose(file);
  return charged;
}

static void rise(ebb_heap *heap)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, BLOCK);
    REQUIRE(blocks[i] != NULL);
    *(char *)blocks[i] = 1;
  }
}

static void fall(ebb_heap *heap)
{
  size_t i;

  for (i = 0; i < BLOCKS; i++) {
    ebb_alloc(heap, blocks[i], BLOCK, 0);
  }
}

/* The heap returns its memory by itself, or is asked to. */
static void is_not_charged(int64_t background)
{
  ebb_options options = no_options();
  uint64_t start = now_ms();
  size_t before;
  ebb_heap *heap;

  options.background = background;
  heap = heap_from(&options);
  before = charged_bytes();
  rise(heap);
  CHECK(charged_bytes() >= before + PEAK);
  fall(heap);
  if (background == EBB_ZERO) {
    CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
    CHECK(charged_bytes() <= before + LEFT_MAX);
  }
  while (charged_bytes() > before + LEFT_MAX) {
    sleep_ms(100);
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  printf("%zu MiB charged, of %zu\n", (charged_bytes() - before) / MIB,
         PEAK / MIB);
  heap_ends_empty(heap);
}

static void after_a_reclaim(void)
{
  is_not_charged(EBB_ZERO);
}

static void after_waiting(void)
{
  is_not_charged(1);
}

int main(void)
{
  RUN(after_a_reclaim);
  RUN(after_waiting);
  return check_status();
}
