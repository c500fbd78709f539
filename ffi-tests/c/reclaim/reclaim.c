/* Reclaim: the memory really goes, page by page, and nothing else does. */

#include "scatter.h"

#define PAGE ((size_t)4096)

/* A heap that gives nothing back unless it is asked to. */
static ebb_heap *heap_that_waits(void)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.auto_ = EBB_ZERO;
  return heap_from(&options);
}

static ebb_reclaim_report reclaim_all(ebb_heap *heap)
{
  ebb_reclaim_report report;

  memset(&report, 0, sizeof report);
  report.size = sizeof report;
  CHECK_EQ(ebb_reclaim(heap, NULL, &report), EBB_OK);
  return report;
}

/* Pages that some block has lain on, and those that one lies on still. */
struct pages {
  uintptr_t base;
  size_t count;
  unsigned char *used;
  unsigned char *live;
};

static void mark(unsigned char *marks, const struct pages *pages,
                 const struct block *block)
{
  uintptr_t start = (uintptr_t)block->at - pages->base;
  size_t page = start / PAGE;
  size_t end = (start + block->size - 1) / PAGE;

  REQUIRE(end < pages->count);
  for (; page <= end; page++) {
    marks[page] = 1;
  }
}

static struct pages pages_of(ebb_heap *heap, size_t block_count)
{
  struct pages pages;
  size_t i;

  pages.base = (uintptr_t)heap;
  pages.count = 0;
  for (i = 0; i < block_count; i++) {
    uintptr_t end = (uintptr_t)blocks[i].at + blocks[i].size - pages.base;

    pages.count = end / PAGE >= pages.count ? end / PAGE + 1 : pages.count;
  }
  pages.used = (unsigned char *)calloc(pages.count, 1);
  pages.live = (unsigned char *)calloc(pages.count, 1);
  REQUIRE(pages.used != NULL && pages.live != NULL);
  for (i = 0; i < block_count; i++) {
    mark(pages.used, &pages, &blocks[i]);
    if (live[i]) {
      mark(pages.live, &pages, &blocks[i]);
    }
  }
  return pages;
}

/* The pages that no live block touches, but the kernel still holds. */
static size_t pages_kept_for_nothing(const struct pages *pages)
{
  size_t page, kept = 0;

  for (page = 0; page < pages->count; page++) {
    if (pages->used[page] && !pages->live[page]) {
      kept += (size_t)page_resident(pages->base + page * PAGE);
    }
  }
  return kept;
}

static void pages_end(struct pages *pages)
{
  free(pages->used);
  free(pages->live);
}

/* Reclaims, and sees that it took each page that it could. */
static void reclaim_and_check(ebb_heap *heap, size_t block_count)
{
  struct pages pages = pages_of(heap, block_count);

  CHECK(pages_kept_for_nothing(&pages) > 0);
  reclaim_all(heap);
  CHECK_EQ(pages_kept_for_nothing(&pages), 0);
  survivors_are_unchanged(block_count);
  pages_end(&pages);
}

static void each_free_page_goes_back(void)
{
  struct rng rng = { 11 };
  ebb_heap *heap = heap_that_waits();

  scatter(heap, &rng, 300000, 400);
  reclaim_and_check(heap, 300000);
  end_survivors(heap, 300000);
}

/* Blocks of one size, whose spans have several pages; one in five survives. */
static void holes_inside_spans_go_back(void)
{
  static const size_t sizes[] = { 1500, 2048, 3000, 4096, 5000, 7000, 8000 };
  size_t s, i;

  for (s = 0; s < COUNT_OF(sizes); s++) {
    ebb_heap *heap = heap_that_waits();

    for (i = 0; i < 2000; i++) {
      take(heap, i, sizes[s]);
    }
    for (i = 0; i < 2000; i++) {
      if (i % 5 != 0) {
        drop(heap, i);
      }
    }
    reclaim_and_check(heap, 2000);
    end_survivors(heap, 2000);
  }
}

static void the_report_agrees_with_the_kernel(void)
{
  struct rng rng = { 12 };
  ebb_heap *heap = heap_that_waits();
  ebb_stats before, after;
  ebb_reclaim_report report;
  size_t rss, gone;

  scatter(heap, &rng, 300000, 1000);
  before = stats_of(heap, 0);
  rss = rss_bytes();
  report = reclaim_all(heap);
  gone = rss - rss_bytes();
  after = stats_of(heap, 0);

  CHECK(report.returned > 40 * MIB);
  CHECK(gone + MIB > report.returned);
  CHECK(gone < report.returned + MIB);
  CHECK(report.purge_calls > 0);
  CHECK_EQ(report.live, after.live);
  CHECK_EQ(report.resident, after.resident);
  CHECK_EQ(after.live, before.live);
  CHECK_EQ(before.resident - after.resident,
           report.returned + before.metadata - after.metadata);
  CHECK_EQ(after.returned_total - before.returned_total, report.returned);
  CHECK_EQ(after.purge_calls - before.purge_calls, report.purge_calls);
  CHECK_EQ(after.reclaim_passes - before.reclaim_passes, 1);
  end_survivors(heap, 300000);
}

static void a_second_pass_finds_nothing(void)
{
  struct rng rng = { 13 };
  ebb_heap *heap = heap_that_waits();
  ebb_reclaim_report report;

  scatter(heap, &rng, 20000, 50);
  CHECK(reclaim_all(heap).returned > 0);
  report = reclaim_all(heap);
  CHECK_EQ(report.returned, 0);
  CHECK_EQ(report.purge_calls, 0);
  end_survivors(heap, 20000);
}

static void an_empty_heap_keeps_next_to_nothing(void)
{
  struct rng rng = { 14 };
  ebb_heap *heap = heap_that_waits();
  size_t rss;

  /* So that this program's own tables are resident before. */
  memset(blocks, 0xff, sizeof blocks);
  memset(live, 0xff, sizeof live);
  rss = rss_bytes();
  scatter(heap, &rng, BLOCKS_MAX, 2);
  CHECK(rss_bytes() > rss + 50 * MIB);
  drop_survivors(heap, BLOCKS_MAX);
  reclaim_all(heap);
  CHECK(rss_bytes() < rss + 2 * MIB);
  heap_ends_empty(heap);
}

/* Though it may be kept for the next one. */
static void a_deleted_heap_keeps_next_to_nothing(void)
{
  struct rng rng = { 18 };
  size_t size, rss = rss_bytes();

  for (size = 1000; size <= 200000; size *= 14) {
    ebb_heap *heap = heap_of(0);

    scatter(heap, &rng, size, 2);
    ebb_heap_delete(heap);
    CHECK(rss_bytes() < rss + 2 * MIB);
  }
}

static void what_went_back_can_be_used_again(void)
{
  struct rng rng = { 15 };
  ebb_heap *heap = heap_of(0);
  unsigned round;

  for (round = 0; round < 5; round++) {
    scatter(heap, &rng, 20000, 100);
    CHECK(reclaim_all(heap).returned > 0);
    survivors_are_unchanged(20000);
    drop_survivors(heap, 20000);
  }
  heap_ends_empty(heap);
}

/* So short that the first madvise spends it. */
static const ebb_reclaim_options one_microsecond = { sizeof one_microsecond,
                                                     1 };

static void a_budget_stops_and_the_next_call_goes_on(void)
{
  struct rng rng = { 16 };
  ebb_heap *heap = heap_that_waits();
  ebb_reclaim_report report;
  struct pages pages;
  uint64_t resident, metadata, returned = 0;
  size_t calls = 0;
  int result;

  memset(&report, 0, sizeof report);
  report.size = sizeof report;
  scatter(heap, &rng, 300000, 1000);
  pages = pages_of(heap, 300000);
  resident = stats_of(heap, 0).resident;
  metadata = stats_of(heap, 0).metadata;
  do {
    result = ebb_reclaim(heap, &one_microsecond, &report);
    REQUIRE(result == EBB_OK || result == EBB_MORE);
    returned += report.returned;
    CHECK_EQ(resident - report.resident,
             returned + metadata - stats_of(heap, 0).metadata);
    calls++;
  } while (result == EBB_MORE && calls < 1000000);
  CHECK_EQ(result, EBB_OK);
  CHECK(calls > 3);
  CHECK_EQ(pages_kept_for_nothing(&pages), 0);
  CHECK_EQ(reclaim_all(heap).returned, 0);
  pages_end(&pages);
  survivors_are_unchanged(300000);
  end_survivors(heap, 300000);
}

/* The program goes on between the parts of a pass. */
static void a_pass_in_parts_bears_changes_in_between(void)
{
  struct rng rng = { 17 };
  ebb_heap *heap = heap_of(0);
  size_t part, i, k;

  scatter(heap, &rng, 100000, 20);
  for (part = 0; part < 200; part++) {
    CHECK(ebb_reclaim(heap, &one_microsecond, NULL) >= EBB_OK);
    for (k = 0; k < 200; k++) {
      i = rng_below(&rng, 100000);
      if (live[i]) {
        drop(heap, i);
      } else {
        take(heap, i, mixed_size(&rng));
      }
    }
  }
  survivors_are_unchanged(100000);
  reclaim_and_check(heap, 100000);
  end_survivors(heap, 100000);
}

int main(void)
{
  RUN(each_free_page_goes_back);
  RUN(holes_inside_spans_go_back);
  RUN(the_report_agrees_with_the_kernel);
  RUN(a_second_pass_finds_nothing);
  RUN(an_empty_heap_keeps_next_to_nothing);
  RUN(a_deleted_heap_keeps_next_to_nothing);
  RUN(what_went_back_can_be_used_again);
  RUN(a_budget_stops_and_the_next_call_goes_on);
  RUN(a_pass_in_parts_bears_changes_in_between);
  return check_status();
}
