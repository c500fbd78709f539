/* A kernel that refuses calls of this process, or ends it there. */

#ifndef REFUSE_CALL_H
#define REFUSE_CALL_H

#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* What the kernel does from now on when this thread makes the call of this
 * number, or the child of a fork does: one of SECCOMP_RET_... */
static inline void answer_call(unsigned number, unsigned answer)
{
  struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, answer),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = { COUNT_OF(filter), filter };

  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* The call fails with EPERM. */
static inline void refuse_call(unsigned number)
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
