/* A kernel that refuses calls of this process, or ends it there. */

#ifndef REFUSE_CALL_H
#define REFUSE_CALL_H

#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define CALLS_MOST 4

/* What the kernel does from now on when this thread makes one of these calls, or
 * a thread that this one starts does, or the child of a fork: one of
 * SECCOMP_RET_... A number of 0 or less ends the list, if it is shorter. */
static inline void answer_calls(const int numbers[CALLS_MOST], unsigned answer)
{
  struct sock_filter filter[CALLS_MOST + 3] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
  };
  struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_filter stop = BPF_STMT(BPF_RET | BPF_K, answer);
  struct sock_fprog program = { 1, filter };
  unsigned char count = 0, i;

  while (count < CALLS_MOST && numbers[count] > 0) {
    count++;
  }
  for (i = 0; i < count; i++) {
    struct sock_filter is_one =
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)numbers[i], 0, 0);

    /* Over the other calls, and what allows. */
    is_one.jt = (unsigned char)(count - i);
    filter[program.len++] = is_one;
  }
  filter[program.len++] = allow;
  filter[program.len++] = stop;
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* The same of one call. */
static inline void answer_call(int number, unsigned answer)
{
  const int numbers[CALLS_MOST] = { number };

  answer_calls(numbers, answer);
}

/* The call fails with EPERM. */
static inline void refuse_call(int number)
{
  answer_call(number, SECCOMP_RET_ERRNO | EPERM);
}

/* Whoever opens a file is killed. */
static inline void kill_who_opens(void)
{
#ifdef SYS_open
  answer_call(SYS_open, SECCOMP_RET_KILL_PROCESS);
#endif
  answer_call(SYS_openat, SECCOMP_RET_KILL_PROCESS);
}

#endif
