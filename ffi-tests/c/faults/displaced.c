/* Memory that goes back by being moved away, where the kernel refuses to unmap
 * it there and to move it back: what a heap says that it holds stays true, and a
 * hole in a live heap ends the process. */

#include "check.h"
#include "syscall_faults.h"

#include <signal.h>
#include <sys/resource.h>

#define LARGE (8 * MIB)

/* How the second mremap is refused, and what else is. */
struct sandbox {
  enum fault_way way;
  uint32_t always;
};

#define BIT(call) (1u << (call))
#define NO_ADVICE (BIT(CALL_MADVISE) | BIT(CALL_BATCH) | BIT(CALL_MUNMAP))

/* Without the pages of files: a child maps those of its code again, some 900 KiB
 * of them, as it comes to them. */
static size_t anonymous_bytes(void)
{
  return proc_bytes("/proc/self/smaps_rollup", "Anonymous:");
}

/* A heap with free memory, given back there. */
static ebb_heap *reclaimed(const struct sandbox *sandbox, ebb_stats *before)
{
  ebb_heap *heap = heap_of(0);
  void *block = ebb_alloc(heap, NULL, 0, LARGE);

  REQUIRE(block != NULL);
  memset(block, 1, LARGE);
  REQUIRE(ebb_alloc(heap, block, LARGE, 0) == NULL);
  *before = stats_of(heap, 0);
  REQUIRE(before->resident > LARGE);
  memset(&faults, 0, sizeof faults);
  faults.victim = CALL_MREMAP;
  faults.at = 2;
  faults.error = ENOMEM;
  faults.way = sandbox->way;
  faults.always = sandbox->always;
  faults_enter();
  ebb_reclaim(heap, NULL, NULL);
  faults_leave();
  CHECK_EQ(faults.refused[CALL_MREMAP], 1);
  CHECK(faults.refused[CALL_MUNMAP] > 0);
  return heap;
}

static void goes_back(const void *argument)
{
  ebb_stats before, after;
  size_t bytes = anonymous_bytes();
  ebb_heap *heap = reclaimed((const struct sandbox *)argument, &before);

  after = stats_of(heap, EBB_STATS_KERNEL);
  CHECK(after.resident + LARGE / 2 < before.resident);
  CHECK(after.kernel_resident <= after.resident);
  CHECK(anonymous_bytes() < bytes + MIB);
}

static void stays(const void *argument)
{
  ebb_stats before;
  size_t bytes = anonymous_bytes();
  ebb_heap *heap = reclaimed((const struct sandbox *)argument, &before);

  CHECK_EQ(stats_of(heap, 0).resident, before.resident);
  CHECK_EQ(stats_of(heap, 0).returned_total, before.returned_total);
  CHECK(anonymous_bytes() > bytes + LARGE / 2);
  /* Not even when the kernel comes round: those pages are elsewhere. */
  faults.always = NO_ADVICE;
  faults_enter();
  ebb_reclaim(heap, NULL, NULL);
  faults_leave();
  CHECK_EQ(stats_of(heap, 0).resident, before.resident);
}

static int said[2];

static void ends(const void *argument)
{
  struct rlimit no_core = { 0, 0 };
  ebb_stats before;

  setrlimit(RLIMIT_CORE, &no_core);
  REQUIRE(dup2(said[1], STDERR_FILENO) == STDERR_FILENO);
  reclaimed((const struct sandbox *)argument, &before);
}

static void what_cannot_come_back_is_replaced(void)
{
  static const struct sandbox sandboxes[] = {
    { WAY_ERRNO, NO_ADVICE }, { WAY_HARSHLY, NO_ADVICE },
  };
  size_t i;

  for (i = 0; i < COUNT_OF(sandboxes); i++) {
    CHECK_EQ(in_child(goes_back, &sandboxes[i]), 0);
  }
}

static void what_stays_elsewhere_is_not_returned(void)
{
  static const struct sandbox sandboxes[] = {
    { WAY_BLINDLY, NO_ADVICE | BIT(CALL_MMAP) },
    { WAY_HARSHLY, NO_ADVICE | BIT(CALL_MMAP) },
  };
  size_t i;

  for (i = 0; i < COUNT_OF(sandboxes); i++) {
    CHECK_EQ(in_child(stays, &sandboxes[i]), 0);
  }
}

static void a_hole_in_a_live_heap_ends_the_process(void)
{
  static const struct sandbox sandbox = { WAY_CRUELLY,
                                          NO_ADVICE | BIT(CALL_MMAP) };
  char text[1024] = "";
  int status;

  REQUIRE(pipe(said) == 0);
  status = in_child(ends, &sandbox);
  close(said[1]);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  REQUIRE(read(said[0], text, sizeof text - 1) >= 0);
  CHECK(strncmp(text, "ebbtide: 0x", 11) == 0);
  CHECK(strstr(text, "bytes of a heap, and mmap was refused") != NULL);
}

int main(void)
{
  RUN(what_cannot_come_back_is_replaced);
  RUN(what_stays_elsewhere_is_not_returned);
  RUN(a_hole_in_a_live_heap_ends_the_process);
  return check_status();
}
