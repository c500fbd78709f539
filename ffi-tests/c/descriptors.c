/* What stays of a peak when nearly nothing is live: the descriptors of free pages
 * go back with them. A heap that has had 2 GB holds less than 1 MB more than a
 * new one, by the kernel's account of the whole process. */

#define BREATH_IN_BACKGROUND
#include "breath.h"

#define BLOCK 4000
/* As many as fill a peak of so many bytes. */
#define BLOCKS(bytes) ((bytes) / BLOCK)

#define PEAK (2 * GIB)
#define LEFT_MAX MIB

/* Blocks of a peak, of which the first stays. */
struct peak {
  ebb_heap *heap;
  void **blocks;
  size_t count;
  size_t rss_before;
};

/* The first block, if it is there, stays. */
static void rise(struct peak *peak, size_t bytes)
{
  size_t i;

  peak->count = BLOCKS(bytes);
  for (i = peak->blocks[0] != NULL; i < peak->count; i++) {
    peak->blocks[i] = ebb_alloc(peak->heap, NULL, 0, BLOCK);
    REQUIRE(peak->blocks[i] != NULL);
    *(char *)peak->blocks[i] = 1;
  }
}

static void fall(struct peak *peak)
{
  size_t i;

  for (i = 1; i < peak->count; i++) {
    ebb_alloc(peak->heap, peak->blocks[i], BLOCK, 0);
  }
}

/* A heap that has had a peak. The list of blocks is in memory by then and stays. */
static struct peak peak_of(size_t bytes, int64_t background)
{
  struct peak peak;
  ebb_options options = no_options();

  options.background = background;
  options.reserve = 8 * (int64_t)GIB;
  peak.heap = heap_from(&options);
  peak.blocks = mmap(NULL, BLOCKS(bytes) * sizeof *peak.blocks,
                     PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  REQUIRE(peak.blocks != MAP_FAILED);
  peak.rss_before = rss_bytes();
  rise(&peak, bytes);
  CHECK(rss_bytes() > peak.rss_before + bytes);
  return peak;
}

static void ends(struct peak *peak)
{
  ebb_alloc(peak->heap, peak->blocks[0], BLOCK, 0);
  heap_ends_empty(peak->heap);
  munmap(peak->blocks, peak->count * sizeof *peak->blocks);
}

static int is_low(const struct peak *peak)
{
  return rss_bytes() <= peak->rss_before + LEFT_MAX;
}

static void by_a_reclaim(void)
{
  struct peak peak = peak_of(PEAK, EBB_ZERO);

  fall(&peak);
  CHECK_EQ(ebb_reclaim(peak.heap, NULL, NULL), EBB_OK);
  CHECK(is_low(&peak));
  /* The same pages again, and once more. */
  rise(&peak, PEAK / 8);
  fall(&peak);
  CHECK_EQ(ebb_reclaim(peak.heap, NULL, NULL), EBB_OK);
  CHECK(is_low(&peak));
  ends(&peak);
}

static void by_waiting(void)
{
  struct peak peak = peak_of(PEAK, 1);
  uint64_t start = now_ms();

  fall(&peak);
  while (!is_low(&peak)) {
    sleep_ms(100);
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  ends(&peak);
}

static void by_the_slow_path(void)
{
  struct peak peak = peak_of(PEAK / 8, EBB_ZERO);
  uint64_t start = now_ms();

  fall(&peak);
  while (!is_low(&peak)) {
    churn(peak.heap);
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  ends(&peak);
}

/* Both go on with all that there is, whatever was just being returned. */
static void a_fork_goes_on(void)
{
  unsigned i;

  for (i = 0; i < steps(20); i++) {
    struct peak peak = peak_of(64 * MIB, 1);
    pid_t child;
    int status;

    set(peak.heap, "decay_ms", 0);
    fall(&peak);
    churn(peak.heap);
    sleep_ms(i % 5);
    child = fork();
    REQUIRE(child >= 0);
    rise(&peak, 64 * MIB);
    fall(&peak);
    CHECK_EQ(ebb_reclaim(peak.heap, NULL, NULL), EBB_OK);
    CHECK(stats_of(peak.heap, 0).resident < 2 * MIB);
    ends(&peak);
    if (child == 0) {
      exit(check_status());
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
  }
}

int main(void)
{
  RUN(by_a_reclaim);
  RUN(by_waiting);
  RUN(by_the_slow_path);
  RUN(a_fork_goes_on);
  return check_status();
}
