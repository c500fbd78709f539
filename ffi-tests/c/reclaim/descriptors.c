/* What stays of a peak when nearly nothing is live: the descriptors of free pages
 * go back with them. A heap that has had 2 GB holds less than 1 MB more than a
 * new one, by the kernel's account of the whole process. Nor does it keep the
 * memory committed: under a limit others can allocate it. */

#define TICK_HOST_WITH_THREAD
#include "tick_host.h"

#include <sys/resource.h>

#define BLOCK 4000
/* How many blocks fill a peak of that size. */
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

/* A process that has had 184 MB in its heap and may have 220. */
static struct peak limited_peak(int64_t background)
{
  struct rlimit limit;
  struct peak peak = peak_of(184 * MIB, background);

  limit.rlim_cur = limit.rlim_max = 220 * MIB;
  REQUIRE(setrlimit(RLIMIT_DATA, &limit) == 0);
  return peak;
}

/* Whether somebody else gets 100 MB. */
static int others_get_memory(void)
{
  void *memory = malloc(100 * MIB);
  int is_there = memory != NULL;

  free(memory);
  return is_there;
}

static void has_room_again(struct peak *peak)
{
  CHECK(mapping_count() < 60);
  /* The heap takes its memory again, as far as the limit lets it. */
  rise(peak, 100 * MIB);
  CHECK_EQ(ebb_alloc(peak->heap, NULL, 0, 200 * MIB) == NULL, 1);
  fall(peak);
  ends(peak);
}

static void others_after_a_reclaim(const void *unused)
{
  struct peak peak = limited_peak(EBB_ZERO);

  (void)unused;
  fall(&peak);
  CHECK(!others_get_memory());
  CHECK_EQ(ebb_reclaim(peak.heap, NULL, NULL), EBB_OK);
  CHECK(others_get_memory());
  has_room_again(&peak);
}

static void others_after_waiting(const void *unused)
{
  struct peak peak = limited_peak(1);
  uint64_t start = now_ms();

  (void)unused;
  fall(&peak);
  while (!others_get_memory()) {
    sleep_ms(100);
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  has_room_again(&peak);
}

static void others_by_the_slow_path(const void *unused)
{
  struct peak peak = limited_peak(EBB_ZERO);
  uint64_t start = now_ms();

  (void)unused;
  fall(&peak);
  while (!others_get_memory()) {
    churn(peak.heap);
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  has_room_again(&peak);
}

static void others_get_what_goes_back(void)
{
  CHECK_EQ(in_child(others_after_a_reclaim, NULL), 0);
  CHECK_EQ(in_child(others_after_waiting, NULL), 0);
  CHECK_EQ(in_child(others_by_the_slow_path, NULL), 0);
}

int main(void)
{
  RUN(by_a_reclaim);
  RUN(by_waiting);
  RUN(by_the_slow_path);
  RUN(a_fork_goes_on);
  RUN(others_get_what_goes_back);
  return check_status();
}
