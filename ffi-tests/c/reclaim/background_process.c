/* The background thread and its process: forks, users and exits of the program
 * are as they are without the thread, also where no thread can be made. */

#include "visits.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

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

static void leaves_at_once(const void *unused)
{
  (void)unused;
  leave_blocks_free(heap_of(256 * MIB));
  exit(check_status());
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

  children_go_on();
  CHECK_EQ(in_child(a_child_has_its_own, NULL), 0);
  CHECK_EQ(in_child(no_thread_can_be_made, NULL), 0);
  for (i = 0; i < steps(20); i++) {
    CHECK_EQ(in_child(leaves_at_once, NULL), 0);
  }
  it_follows_when_the_user_changes();
  it_does_not_outlive_the_program_for_long();
  return check_status();
}
