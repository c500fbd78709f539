/* What a heap says that it holds, against what the kernel holds, page by page,
 * over random programs: never less than the pages that live blocks were written
 * on, never more than ebb_stats.resident, and what the library itself asks the
 * kernel is what /proc/self/pagemap says. What goes back is overwritten before,
 * so that a page too many would show at once.
 *
 *   accounting [purge-next|purge-not|move-nothing]
 *
 * With a defect of the kernel the same must fail.
 */

#include "check.h"
#include "syscall_faults.h"

#include <fcntl.h>

#define BLOCKS 3000
#define RESERVE (128 * MIB)
#define PAGES (RESERVE / FAULTS_PAGE)

static struct block blocks[BLOCKS];

/* Whether block i was written whole: then all of its pages are resident. */
static void write_whole(const struct block *block)
{
  size_t i;

  for (i = 0; i < block->size; i += 1024) {
    block->at[i] = pattern_byte(block->seed, i);
  }
  block->at[block->size - 1] = pattern_byte(block->seed, block->size - 1);
}

static int written_whole(const struct block *block, size_t kept)
{
  size_t i;

  for (i = 0; i < kept; i += 1024) {
    if (block->at[i] != pattern_byte(block->seed, i)) {
      return 0;
    }
  }
  return 1;
}

static size_t count_set(const unsigned char *pages)
{
  size_t i, count = 0;

  for (i = 0; i < PAGES; i++) {
    count += pages[i];
  }
  return count;
}

/* The pages of the reservation that the kernel holds. */
static void look(unsigned char *held)
{
  static uint64_t entries[PAGES];
  int file = open("/proc/self/pagemap", O_RDONLY);
  off_t at = (off_t)((uintptr_t)faults.reserved / FAULTS_PAGE * 8);
  size_t i;

  REQUIRE(file >= 0);
  REQUIRE(faults.reserved_bytes == RESERVE);
  REQUIRE(pread(file, entries, sizeof entries, at) == sizeof entries);
  close(file);
  for (i = 0; i < PAGES; i++) {
    held[i] = (unsigned char)(entries[i] >> 63);
  }
}

/* The pages that live blocks lie on. */
static void mark_live(unsigned char *live)
{
  size_t i, page;

  memset(live, 0, PAGES);
  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL) {
      size_t first = (size_t)(blocks[i].at - faults.reserved);

      for (page = first / FAULTS_PAGE;
           page <= (first + blocks[i].size - 1) / FAULTS_PAGE; page++) {
        live[page] = 1;
      }
    }
  }
}

static void is_true(ebb_heap *heap)
{
  static unsigned char held[PAGES], live[PAGES];
  ebb_stats stats;
  size_t i;

  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  stats.flags = EBB_STATS_KERNEL;
  CHECK_EQ(ebb_stats_read(heap, &stats), EBB_OK);
  look(held);
  mark_live(live);
  CHECK_EQ(stats.kernel_resident, count_set(held) * FAULTS_PAGE);
  CHECK(count_set(held) * FAULTS_PAGE <= stats.resident);
  for (i = 0; i < PAGES; i++) {
    if (live[i] && !held[i]) {
      check_failed(__FILE__, __LINE__, "a page of a live block is not held");
      return;
    }
  }
}

/* After a reclaim the kernel holds no page but those of live blocks, of the ends
 * of their slots, and of the heap's tables. */
static void is_low(ebb_heap *heap)
{
  static unsigned char held[PAGES], live[PAGES];
  ebb_stats stats;

  CHECK_EQ(ebb_reclaim(heap, NULL, NULL), EBB_OK);
  stats = stats_of(heap, 0);
  look(held);
  mark_live(live);
  CHECK(count_set(held) <= stats.resident / FAULTS_PAGE);
  CHECK(stats.resident <= count_set(live) * FAULTS_PAGE + stats.metadata
                            + stats.waste);
}

static void step(ebb_heap *heap, struct rng *rng)
{
  struct block *block = &blocks[rng_below(rng, BLOCKS)];
  size_t size = rng_size(rng, 512 * KIB), kept;
  unsigned char *at;

  if (block->at != NULL) {
    CHECK(written_whole(block, block->size));
    if (rng_below(rng, 3) != 0) {
      ebb_alloc(heap, block->at, block->size, 0);
      block->at = NULL;
      return;
    }
  } else {
    block->size = 0;
  }
  kept = block->size < size ? block->size : size;
  at = (unsigned char *)ebb_alloc(heap, block->at, block->size, size);
  REQUIRE(at != NULL);
  block->at = at;
  CHECK(written_whole(block, kept));
  block->size = size;
  block->seed = rng_next(rng);
  write_whole(block);
}

static void run_program(uint64_t seed, const ebb_options *options)
{
  struct rng rng = { seed };
  ebb_heap *heap = heap_from(options);
  unsigned i;

  for (i = 0; i < 60000; i++) {
    step(heap, &rng);
    faults.now_us += rng_below(&rng, 400);
    if (rng_below(&rng, 60) == 0) {
      CHECK(ebb_tick(heap, (uint32_t)rng_below(&rng, 3) * 20) >= 0);
    }
    if (rng_below(&rng, 500) == 0) {
      is_true(heap);
    }
    if (rng_below(&rng, 4000) == 0) {
      is_low(heap);
    }
    if (i % 6000 == 5999) {
      /* A crest has passed. */
      unsigned j;

      for (j = 0; j < BLOCKS; j++) {
        if (blocks[j].at != NULL && j % 7 != 0) {
          CHECK(written_whole(&blocks[j], blocks[j].size));
          ebb_alloc(heap, blocks[j].at, blocks[j].size, 0);
          blocks[j].at = NULL;
        }
      }
      is_true(heap);
      faults.now_us += rng_below(&rng, 3000000);
    }
  }
  for (i = 0; i < BLOCKS; i++) {
    if (blocks[i].at != NULL) {
      CHECK(written_whole(&blocks[i], blocks[i].size));
      ebb_alloc(heap, blocks[i].at, blocks[i].size, 0);
      blocks[i].at = NULL;
    }
  }
  is_true(heap);
  is_low(heap);
  heap_ends_empty(heap);
}

static void the_account_is_what_the_kernel_holds(void)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.reserve = (int64_t)RESERVE;
  run_program(1, &options);
  options.decay_ms = EBB_ZERO;
  run_program(2, &options);
  options.decay_ms = 20;
  options.limit_soft = 16 * MIB;
  options.remap_min = 16 * KIB;
  run_program(3, &options);
}

int main(int argc, char **argv)
{
  faults_enter();
  faults.frozen = 1;
  faults.now_us = 1000000;
  faults.look_us = 2;
  faults.overwrite = 1;
  if (argc > 1) {
    faults.defect = strcmp(argv[1], "purge-next") == 0  ? DEFECT_PURGE_NEXT
                    : strcmp(argv[1], "purge-not") == 0 ? DEFECT_PURGE_NOT
                                                        : DEFECT_MOVE_NOTHING;
  }
  RUN(the_account_is_what_the_kernel_holds);
  return check_status();
}
