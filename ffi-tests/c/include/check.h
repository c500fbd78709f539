/* What the C tests share: CHECK and its count, a random generator, blocks
 * filled with a pattern, children in a process of their own, and the kernel's
 * view of this process. Prints one line per failure. */

#ifndef CHECK_H
#define CHECK_H

#include <ebbtide.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* Failures after which a test program gives up. */
#define CHECK_FAILURES_MAX 20

static const char *check_test = "main";
static unsigned check_failures;

static inline void check_failed(const char *file, int line, const char *what)
{
  fprintf(stderr, "%s:%d: %s: %s\n", file, line, check_test, what);
  if (++check_failures >= CHECK_FAILURES_MAX) {
    exit(1);
  }
}

static inline void check_equal(const char *file, int line, const char *what,
                               intmax_t got, intmax_t want)
{
  char text[512];

  if (got != want) {
    snprintf(text, sizeof text, "%s is %" PRIdMAX ", not %" PRIdMAX, what, got,
             want);
    check_failed(file, line, text);
  }
}

#define CHECK(condition)                                                      \
  ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))

#define CHECK_EQ(got, want)                                                   \
  check_equal(__FILE__, __LINE__, #got, (intmax_t)(got), (intmax_t)(want))

/* A failure after which the rest of the program makes no sense. */
#define REQUIRE(condition)                                                    \
  ((condition) ? (void)0                                                      \
               : (check_failed(__FILE__, __LINE__, #condition), exit(1)))

/* Runs one test function and says so. */
#define RUN(test)                                                             \
  do {                                                                        \
    unsigned failures_before = check_failures;                                \
    check_test = #test;                                                       \
    test();                                                                   \
    if (check_failures == failures_before) {                                  \
      printf("ok %s\n", #test);                                               \
      fflush(stdout);                                                         \
    }                                                                         \
  } while (0)

/* The exit status of a test program or child. */
static inline int check_status(void)
{
  return check_failures == 0 ? 0 : 1;
}

/* Whether each step is slow here: CHECK_LIGHT is set under valgrind. */
static inline int light(void)
{
  return getenv("CHECK_LIGHT") != NULL;
}

/* n, or a small part of it where each step is slow. */
static inline unsigned steps(unsigned n)
{
  return light() ? n / 20 + 1 : n;
}

/* No system call sets it. */
#define ERRNO_MARK 12321

/* Every call must leave errno alone, also when the kernel refuses. */
static inline void check_errno(void)
{
  CHECK_EQ(errno, ERRNO_MARK);
  errno = ERRNO_MARK;
}

/* Marsaglia's xorshift64: the same numbers in every run. */
struct rng {
  uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
  rng->state ^= rng->state << 13;
  rng->state ^= rng->state >> 7;
  rng->state ^= rng->state << 17;
  return rng->state;
}

static inline size_t rng_below(struct rng *rng, size_t limit)
{
  return (size_t)(rng_next(rng) % limit);
}

/* A size as programs ask for: mostly small, at times a page or two, seldom
 * up to large. */
static inline size_t rng_size(struct rng *rng, size_t large)
{
  switch (rng_below(rng, 32)) {
  case 0:
    return 1 + rng_below(rng, large);
  case 1:
  case 2:
  case 3:
    return 1 + rng_below(rng, 20000);
  default:
    return 1 + rng_below(rng, 512);
  }
}

/* The heap under test, from options or NULL. Ends the program without one. */
static inline ebb_heap *heap_from(const ebb_options *options)
{
  ebb_heap *heap = ebb_heap_new(options);

  if (heap == NULL) {
    fprintf(stderr, "%s: no heap: %s\n", check_test, ebb_strerror(0));
    exit(1);
  }
  return heap;
}

/* A heap of `reserve` bytes of address space; 0: the default. */
static inline ebb_heap *heap_of(int64_t reserve)
{
  ebb_options options;

  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.reserve = reserve;
  return heap_from(&options);
}

static inline ebb_stats stats_of(ebb_heap *heap, uint32_t flags)
{
  ebb_stats stats;

  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  stats.flags = flags;
  CHECK_EQ(ebb_stats_read(heap, &stats), EBB_OK);
  return stats;
}

/* A heap that holds nothing any more; deletes it. */
static inline void heap_ends_empty(ebb_heap *heap)
{
  ebb_stats stats = stats_of(heap, 0);

  CHECK_EQ(stats.blocks, 0);
  CHECK_EQ(stats.large_blocks, 0);
  CHECK_EQ(stats.live, 0);
  ebb_heap_delete(heap);
}

/* A live block and the pattern that it holds. */
struct block {
  unsigned char *at;
  size_t size;
  uint64_t seed;
};

/* Large blocks carry the pattern on some bytes only. */
static inline size_t pattern_step(size_t size)
{
  return size <= 64 * KIB ? 1 : 509;
}

static inline unsigned char pattern_byte(uint64_t seed, size_t i)
{
  return (unsigned char)((seed + i) * 0x9e3779b97f4a7c15u >> 56);
}

static inline void block_fill(struct block *block, uint64_t seed)
{
  size_t step = pattern_step(block->size);
  size_t i;

  block->seed = seed;
  for (i = 0; i < block->size; i += step) {
    block->at[i] = pattern_byte(seed, i);
  }
}

/* Whether at holds the first kept bytes of what block was filled with. */
static inline int block_kept(const struct block *block,
                             const unsigned char *at, size_t kept)
{
  size_t step = pattern_step(block->size);
  size_t i;

  for (i = 0; i < kept; i += step) {
    if (at[i] != pattern_byte(block->seed, i)) {
      return 0;
    }
  }
  return 1;
}

/* What every block promises about its address. */
static inline int block_placed(const void *at, size_t size)
{
  uintptr_t address = (uintptr_t)at;

  return address != 0 && address % (size % 16 == 0 ? 16 : 8) == 0
         && (address + size) >> 47 == 0;
}

/* Allocates and fills. NULL in block->at when there is no memory. */
static inline void block_new(ebb_heap *heap, struct block *block, size_t size,
                             uint64_t seed)
{
  block->at = (unsigned char *)ebb_alloc(heap, NULL, 0, size);
  block->size = size;
  if (block->at != NULL) {
    CHECK(block_placed(block->at, size));
    block_fill(block, seed);
  }
}

/* Checks the contents and frees, telling osize as the old size. */
static inline void block_end_as(ebb_heap *heap, struct block *block,
                                size_t osize)
{
  CHECK(block_kept(block, block->at, block->size));
  CHECK(ebb_alloc(heap, block->at, osize, 0) == NULL);
  block->at = NULL;
}

static inline void block_end(ebb_heap *heap, struct block *block)
{
  block_end_as(heap, block, block->size);
}

/* Resizes, telling osize as the old size, checks what must be kept, and fills
 * anew. Returns 0, with block unchanged, when there is no memory. */
static inline int block_resize(ebb_heap *heap, struct block *block,
                               size_t osize, size_t size, uint64_t seed)
{
  size_t kept = size < block->size ? size : block->size;
  unsigned char *at;

  at = (unsigned char *)ebb_alloc(heap, block->at, osize, size);
  if (at == NULL) {
    CHECK(size > block->size);
    CHECK(block_kept(block, block->at, block->size));
    return 0;
  }
  CHECK(block_kept(block, at, kept));
  block->at = at;
  block->size = size;
  block_fill(block, seed);
  return 1;
}

/* A step of a random program: allocates, resizes or frees, telling osize as the
 * old size. */
static inline void block_step(ebb_heap *heap, struct block *block,
                              size_t osize, struct rng *rng)
{
  uint64_t seed = rng_next(rng);
  size_t size = rng_size(rng, MIB);

  if (block->at == NULL) {
    block_new(heap, block, size, seed);
    REQUIRE(block->at != NULL);
  } else if (rng_below(rng, 3) == 0) {
    REQUIRE(block_resize(heap, block, osize, size, seed));
    CHECK(block_placed(block->at, size));
  } else {
    block_end_as(heap, block, osize);
  }
}

/* The statistics know the live blocks of an array, and no others. */
static inline void check_live(const ebb_stats *stats,
                              const struct block *blocks, size_t length)
{
  uint64_t live = 0, count = 0;
  size_t i;

  for (i = 0; i < length; i++) {
    if (blocks[i].at != NULL) {
      live += blocks[i].size;
      count++;
    }
  }
  CHECK_EQ(stats->live, live);
  CHECK_EQ(stats->blocks, count);
}

/* Runs body in a child process; returns its wait status. */
static inline int in_child(void (*body)(const void *), const void *argument)
{
  int status = -1;
  pid_t child;

  fflush(NULL);
  child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    check_failures = 0;
    body(argument);
    fflush(NULL);
    _exit(check_status());
  }
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

/* The figure in KiB behind name in one of the /proc/self files, in bytes. */
static inline size_t proc_bytes(const char *path, const char *name)
{
  size_t kib = 0;
  char line[256];
  FILE *file = fopen(path, "r");

  REQUIRE(file != NULL);
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, strlen(name)) == 0) {
      kib = strtoul(line + strlen(name), NULL, 10);
      break;
    }
  }
  fclose(file);
  return kib * KIB;
}

static inline size_t rss_bytes(void)
{
  return proc_bytes("/proc/self/smaps_rollup", "Rss:");
}

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Whether the kernel moves pages and leaves the range that they were in mapped:
 * Linux does from 5.7 on, valgrind does not. */
static inline int kernel_moves_pages(void)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  int access = PROT_READ | PROT_WRITE, map = MAP_PRIVATE | MAP_ANONYMOUS;
  int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  void *from = mmap(NULL, page, access, map, -1, 0);
  void *to = mmap(NULL, page, access, map, -1, 0);
  int moves;

  REQUIRE(from != MAP_FAILED && to != MAP_FAILED);
  moves = mremap(from, page, page, flags, to) == to;
  munmap(from, page);
  munmap(to, page);
  return moves;
}

/* How many mappings this process has. */
static inline size_t mapping_count(void)
{
  size_t lines = 0;
  int c;
  FILE *file = fopen("/proc/self/maps", "r");

  REQUIRE(file != NULL);
  while ((c = getc(file)) != EOF) {
    lines += c == '\n';
  }
  fclose(file);
  return lines;
}

/* Whether the address space of this process is limited. */
static inline int is_limited(void)
{
  struct rlimit space;

  REQUIRE(getrlimit(RLIMIT_AS, &space) == 0);
  return space.rlim_cur != RLIM_INFINITY;
}

/* Whether the page at address is resident. Under a limit on address space it may
 * be unmapped. */
static inline int page_resident(uintptr_t address)
{
  unsigned char resident = 0;

  if (mincore((void *)address, 1, &resident) != 0) {
    REQUIRE(errno == ENOMEM && is_limited());
  }
  return resident & 1;
}

#endif /* CHECK_H */
