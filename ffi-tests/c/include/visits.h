/* What the tests of the background thread share: memory for it to return, and
 * whether it is there. */

#ifndef VISITS_H
#define VISITS_H

#define TICK_HOST_WITH_THREAD
#include "tick_host.h"

#include <dirent.h>
#include <sched.h>

#define BLOCK 2000
#define BLOCKS 8000

static void *blocks[BLOCKS];

/* A number that the kernel tells of a thread, by the name of its line; a mask
 * is in base 16. */
static inline uint64_t thread_status(pid_t thread, const char *name, int base)
{
  char path[64], line[128];
  size_t length = strlen(name);
  const char *number = NULL;
  FILE *file;

  snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)thread);
  file = fopen(path, "r");
  REQUIRE(file != NULL);
  while (number == NULL && fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, length) == 0 && line[length] == ':') {
      number = line + length + 1;
    }
  }
  fclose(file);
  REQUIRE(number != NULL);
  return strtoull(number, NULL, base);
}

/* Fills 2 KB a block. */
static inline void fill_slots(ebb_heap *heap, size_t count)
{
  size_t i;

  for (i = 0; i < count; i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, BLOCK);
    REQUIRE(blocks[i] != NULL);
    memset(blocks[i], 1, BLOCK);
  }
}

static inline void free_slots(ebb_heap *heap, size_t count)
{
  size_t i;

  for (i = 0; i < count; i++) {
    ebb_alloc(heap, blocks[i], BLOCK, 0);
  }
}

/* Leaves 2 KB a block free. */
static inline void leave_slots_free(ebb_heap *heap, size_t count)
{
  fill_slots(heap, count);
  free_slots(heap, count);
}

/* Leaves 16 MB free. */
static inline void leave_blocks_free(ebb_heap *heap)
{
  leave_slots_free(heap, BLOCKS);
}

static inline uint64_t held(ebb_heap *heap)
{
  return stats_of(heap, EBB_STATS_KERNEL).kernel_resident;
}

/* How many threads the process has; the one named so, if it is there. */
static inline unsigned threads(pid_t *named)
{
  DIR *folder = opendir("/proc/self/task");
  struct dirent *entry;
  unsigned count = 0;

  REQUIRE(folder != NULL);
  *named = 0;
  while ((entry = readdir(folder)) != NULL) {
    char path[300], name[32] = "";
    FILE *file;

    if (entry->d_name[0] == '.') {
      continue;
    }
    count++;
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
    file = fopen(path, "r");
    if (file != NULL) {
      if (fgets(name, sizeof name, file) != NULL &&
          strcmp(name, "ebbtide\n") == 0) {
        *named = (pid_t)atoi(entry->d_name);
      }
      fclose(file);
    }
  }
  closedir(folder);
  return count;
}

static inline void is_there(pid_t *named)
{
  uint64_t start = now_ms();

  while (threads(named) != 2 || *named == 0) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    sched_yield();
  }
}

/* A heap with the thread, which has nothing to do for ten minutes, so that it is
 * there however late anybody looks. */
static inline ebb_heap *heap_with_thread(pid_t *named)
{
  ebb_heap *heap = heap_of_decay(600000);

  leave_blocks_free(heap);
  is_there(named);
  return heap;
}

static inline void is_alone_in_the_end(void)
{
  uint64_t start = now_ms();
  pid_t named;

  while (threads(&named) > 1) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    sleep_ms(50);
  }
}

#endif
