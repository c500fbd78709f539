/* The background thread: free memory goes back whatever the program waits in,
 * and nothing else of the program changes. It comes when there is something to
 * return and goes when all is back; the program's signals, forks, exits and
 * deletions of heaps do not meet it. */

#include "visits.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static void by_nanosleep(void)
{
  sleep_ms(300);
}

static void by_read(void)
{
  int ends[2];
  char byte;
  pid_t child;

  REQUIRE(pipe(ends) == 0);
  child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    sleep_ms(300);
    _exit(0);
  }
  close(ends[1]);
  CHECK(read(ends[0], &byte, 1) == 0);
  close(ends[0]);
  REQUIRE(waitpid(child, NULL, 0) == child);
}

static void by_condition(void)
{
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
  struct timespec until;

  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec++;
  pthread_mutex_lock(&mutex);
  CHECK_EQ(pthread_cond_timedwait(&never, &mutex, &until), ETIMEDOUT);
  pthread_mutex_unlock(&mutex);
}

static void by_signal(void)
{
  struct timespec time = { 0, 300000000 };
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigtimedwait(&set, NULL, &time) < 0);
}

static void by_work(void)
{
  volatile unsigned sum = 0;
  uint64_t start = now_ms();

  while (now_ms() - start < 300) {
    sum++;
  }
}

static void by_yielding(void)
{
  uint64_t start = now_ms();

  while (now_ms() - start < 300) {
    sched_yield();
  }
}

static void (*const ways[])(void) = {
  by_nanosleep, by_read, by_condition, by_signal, by_work, by_yielding,
};

/* In every way to wait, in a process of its own. */
static void wait_in_a_way(const void *way)
{
  ebb_heap *heap = heap_of(256 * MIB);
  uint64_t start, before;

  /* What is free may go at any moment, so that is seen while all blocks live. */
  fill_slots(heap, BLOCKS);
  before = held(heap);
  CHECK(before > 12 * MIB);
  free_slots(heap, BLOCKS);
  start = now_ms();
  while (held(heap) > before / 8) {
    (*(void (*const *)(void))way)();
    REQUIRE(now_ms() - start < DEADLINE_MS);
  }
  is_alone_in_the_end();
  is_as_low_as_reclaim_gets(heap);
  heap_ends_empty(heap);
}

static void every_way_to_wait(void)
{
  pid_t children[COUNT_OF(ways)];
  size_t i;

  for (i = 0; i < COUNT_OF(ways); i++) {
    children[i] = fork();
    REQUIRE(children[i] >= 0);
    if (children[i] == 0) {
      wait_in_a_way(&ways[i]);
      exit(check_status());
    }
  }
  for (i = 0; i < COUNT_OF(ways); i++) {
    int status;

    REQUIRE(waitpid(children[i], &status, 0) == children[i]);
    CHECK_EQ(status, 0);
  }
}

/* A heap with the thread, which has nothing to do for ten minutes, so that it is
 * there however late anybody looks. */
static ebb_heap *heap_with_thread(pid_t *named)
{
  ebb_heap *heap = heap_of_decay(600000);

  leave_blocks_free(heap);
  is_there(named);
  return heap;
}

static void it_has_a_name_and_takes_no_signals(void)
{
  pid_t named = 0;
  ebb_heap *heap = heap_with_thread(&named);
  uint64_t blocked = thread_status(named, "SigBlk", 16);

  CHECK(blocked >> (SIGTERM - 1) & 1);
  CHECK(blocked >> (SIGUSR1 - 1) & 1);
  CHECK(blocked >> (SIGALRM - 1) & 1);
  set(heap, "decay_ms", 0);
  is_alone_in_the_end();
  heap_ends_empty(heap);
}

/* Where the option says so, and where the host ticks. */
static void it_is_not_there_when_it_should_not_be(void)
{
  ebb_options options = no_options();
  ebb_heap *heap;
  pid_t named;
  unsigned i;

  options.background = EBB_ZERO;
  /* So long that the frees return nothing themselves, however long they take. */
  options.decay_ms = 600000;
  heap = heap_from(&options);
  leave_blocks_free(heap);
  for (i = 0; i < 25; i++) {
    sleep_ms(100);
    CHECK_EQ(threads(&named), 1);
  }
  CHECK(held(heap) > 12 * MIB);
  /* Switched on, it comes, though the heap does nothing more. */
  set(heap, "decay_ms", 1000);
  set(heap, "background", 1);
  is_alone_in_the_end();
  CHECK(held(heap) < 4 * MIB);
  heap_ends_empty(heap);
}

/* What is freed may be deleted at any moment of its return. */
static void heaps_end_while_it_looks(void)
{
  ebb_options options = no_options();
  unsigned i;

  options.decay_ms = EBB_ZERO;
  for (i = 0; i < steps(100); i++) {
    ebb_heap *heap = heap_from(&options);
    struct timespec moment = { 0, (long)(i % 20) * 100000 };

    leave_blocks_free(heap);
    nanosleep(&moment, NULL);
    heap_ends_empty(heap);
  }
}

static void many_heaps_go_back(void)
{
  enum { HEAPS = 100 };
  ebb_heap *heaps[HEAPS];
  unsigned i;

  for (i = 0; i < HEAPS; i++) {
    heaps[i] = heap_of(64 * MIB);
    leave_blocks_free(heaps[i]);
  }
  is_alone_in_the_end();
  for (i = 0; i < HEAPS; i++) {
    CHECK(held(heaps[i]) < 2 * MIB);
    heap_ends_empty(heaps[i]);
  }
}

/* The heap looks at itself every 4 ms at most. What it then finds is too little to
 * call the thread for, and so is what is freed afterwards. */
static void little_adds_up(void)
{
  ebb_heap *heap = heap_of(256 * MIB);
  size_t i;

  for (i = 0; i < 920; i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, BLOCK);
    REQUIRE(blocks[i] != NULL);
    memset(blocks[i], 1, BLOCK);
  }
  for (i = 0; i < 920; i++) {
    if (i == 400) {
      sleep_ms(6);
    }
    ebb_alloc(heap, blocks[i], BLOCK, 0);
  }
  is_alone_in_the_end();
  CHECK(held(heap) < MIB);
  heap_ends_empty(heap);
}

#define KEPT 100

/* Works on blocks whose contents are known, with pages that go back at once. */
static void work(ebb_heap *heap, struct rng *rng, struct block *kept)
{
  unsigned i;

  for (i = 0; i < steps(2000); i++) {
    struct block *block = &kept[rng_below(rng, KEPT)];

    block_step(heap, block, block->size, rng);
  }
}

/* fork() at any moment, and a bare clone that no handler hears of. */
static void children_go_on(void)
{
  static struct block kept[KEPT];
  struct rng rng = { 7 };
  ebb_heap *heap = heap_of_decay(EBB_ZERO);
  unsigned i;

  for (i = 0; i < steps(30); i++) {
    pid_t child;
    int status;

    leave_blocks_free(heap);
    work(heap, &rng, kept);
    child = i % 2 == 0 ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    REQUIRE(child >= 0);
    if (child == 0) {
      work(heap, &rng, kept);
      leave_blocks_free(heap);
      work(heap, &rng, kept);
      _exit(check_status());
    }
    work(heap, &rng, kept);
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
  }
  for (i = 0; i < KEPT; i++) {
    if (kept[i].at != NULL) {
      block_end(heap, &kept[i]);
    }
  }
  heap_ends_empty(heap);
}

/* A child of a process in which the thread was has its own when it needs one. */
static void a_child_has_its_own(const void *unused)
{
  pid_t child, named;
  ebb_heap *heap = heap_with_thread(&named);
  int status;

  (void)unused;
  child = fork();
  REQUIRE(child >= 0);
  CHECK(child > 0 || threads(&named) == 1);
  set(heap, "decay_ms", 1000);
  leave_blocks_free(heap);
  is_alone_in_the_end();
  CHECK(held(heap) < 2 * MIB);
  if (child > 0) {
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
  }
}

/* Where no thread can be made, the process works as it does without. */
static void no_thread_can_be_made(const void *unused)
{
  struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = { COUNT_OF(filter), filter };
  ebb_heap *heap = heap_of(256 * MIB);
  pid_t named;

  (void)unused;
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
  leave_blocks_free(heap);
  errno = 77;
  leave_blocks_free(heap);
  CHECK_EQ(errno, 77);
  CHECK_EQ(threads(&named), 1);
  be_idle(heap);
  is_as_low_as_reclaim_gets(heap);
  heap_ends_empty(heap);
}

/* The user of each thread is the one that all changed to: by the kernel. */
static void all_are_user(unsigned user)
{
  DIR *folder = opendir("/proc/self/task");
  struct dirent *entry;

  REQUIRE(folder != NULL);
  while ((entry = readdir(folder)) != NULL) {
    unsigned real = user + 1, effective = user + 1;
    char path[300], line[128];
    FILE *file;

    if (entry->d_name[0] == '.') {
      continue;
    }
    snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
    file = fopen(path, "r");
    /* It may have ended, also while its file is read. */
    if (file == NULL) {
      continue;
    }
    while (fgets(line, sizeof line, file) != NULL) {
      if (sscanf(line, "Uid: %u %u", &real, &effective) == 2) {
        CHECK_EQ(real, user);
        CHECK_EQ(effective, user);
      }
    }
    fclose(file);
  }
  closedir(folder);
}

#define NOBODY 65534

/* The C library changes the user in all threads, by a signal to each. */
static void changes_user(const void *unused)
{
  pid_t named;
  ebb_heap *idle = heap_with_thread(&named), *heap = heap_of_decay(EBB_ZERO);
  unsigned i;

  (void)unused;
  /* With and without work for the thread meanwhile. */
  for (i = 0; i < steps(10); i++) {
    if (i % 2 == 1) {
      leave_blocks_free(heap);
    }
    REQUIRE(setresuid(NOBODY, NOBODY, 0) == 0);
    all_are_user(NOBODY);
    REQUIRE(setresuid(0, 0, 0) == 0);
    all_are_user(0);
  }
  CHECK(threads(&named) == 2 && named != 0);
  REQUIRE(setuid(NOBODY) == 0);
  all_are_user(NOBODY);
  CHECK(setuid(0) != 0);
  set(idle, "decay_ms", 1);
  is_alone_in_the_end();
  CHECK(held(idle) < 2 * MIB);
}

/* Whether this process may become another user, and root again. */
static void may_change_user(const void *unused)
{
  (void)unused;
  _exit(setresuid(NOBODY, NOBODY, 0) != 0 || setresuid(0, 0, 0) != 0);
}

static void it_follows_when_the_user_changes(void)
{
  uint64_t start = now_ms();
  int status = -1;
  pid_t child;

  if (in_child(may_change_user, NULL) != 0) {
    printf("skipped: setuid(), which needs root\n");
    return;
  }
  child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    changes_user(NULL);
    _exit(check_status());
  }
  while (waitpid(child, &status, WNOHANG) == 0) {
    /* The call waits for a thread that does not hear of it. */
    if (now_ms() - start > 3 * DEADLINE_MS) {
      kill(child, SIGKILL);
    }
    sleep_ms(10);
  }
  CHECK_EQ(status, 0);
}

/* Options that are changed while the heap rests: the thread was put off for ten
 * minutes, or was never there. */
static void options_reach_it_at_rest(void)
{
  ebb_heap *late = heap_of_decay(600000), *kept = heap_of(256 * MIB);

  set(kept, "retain", 64 * MIB);
  leave_blocks_free(kept);
  leave_blocks_free(late);
  CHECK(held(late) > 12 * MIB);
  CHECK(held(kept) > 12 * MIB);
  set(late, "decay_ms", 1);
  is_alone_in_the_end();
  CHECK(held(late) < 2 * MIB);
  set(kept, "retain", 0);
  is_alone_in_the_end();
  CHECK(held(kept) < 2 * MIB);
  heap_ends_empty(late);
  heap_ends_empty(kept);
}

static void leaves_at_once(const void *unused)
{
  (void)unused;
  leave_blocks_free(heap_of(256 * MIB));
  exit(check_status());
}

static void *thread_that_leaves(void *heap)
{
  leave_blocks_free((ebb_heap *)heap);
  return NULL;
}

/* The thread that has the heap ends, and another one takes the heap over. */
static void owners_change(void)
{
  ebb_heap *heap = heap_of(256 * MIB);
  unsigned i;

  for (i = 0; i < steps(10); i++) {
    pthread_t thread;

    REQUIRE(pthread_create(&thread, NULL, thread_that_leaves, heap) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    leave_blocks_free(heap);
  }
  is_alone_in_the_end();
  CHECK(held(heap) < 2 * MIB);
  heap_ends_empty(heap);
}

static void *starts_the_thread(void *unused)
{
  ebb_heap *heap = heap_of_decay(600000);
  uint64_t start = now_ms();
  pid_t named;

  (void)unused;
  leave_blocks_free(heap);
  while (threads(&named), named == 0) {
    REQUIRE(now_ms() - start < DEADLINE_MS);
    sleep_ms(10);
  }
  return NULL;
}

/* The process ends with its last thread, and does not wait ten minutes for what
 * is due then. */
static void it_does_not_outlive_the_program_for_long(void)
{
  uint64_t start = now_ms();
  int status = -1;
  pid_t child = fork();

  REQUIRE(child >= 0);
  if (child == 0) {
    pthread_t thread;

    check_failures = 0;
    if (pthread_create(&thread, NULL, starts_the_thread, NULL) == 0) {
      pthread_join(thread, NULL);
    }
    if (check_failures > 0) {
      _exit(1);
    }
    pthread_exit(NULL);
  }
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (now_ms() - start > DEADLINE_MS) {
      kill(child, SIGKILL);
    }
    sleep_ms(50);
  }
  CHECK_EQ(status, 0);
}

int main(void)
{
  unsigned i;

  every_way_to_wait();
  it_has_a_name_and_takes_no_signals();
  it_is_not_there_when_it_should_not_be();
  heaps_end_while_it_looks();
  many_heaps_go_back();
  little_adds_up();
  children_go_on();
  CHECK_EQ(in_child(a_child_has_its_own, NULL), 0);
  CHECK_EQ(in_child(no_thread_can_be_made, NULL), 0);
  for (i = 0; i < steps(20); i++) {
    CHECK_EQ(in_child(leaves_at_once, NULL), 0);
  }
  owners_change();
  options_reach_it_at_rest();
  it_follows_when_the_user_changes();
  it_does_not_outlive_the_program_for_long();
  return check_status();
}
