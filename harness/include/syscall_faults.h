/* A layer between the library and the kernel that injects faults: it refuses chosen
 * system calls, overwrites memory that is given back, and controls the clock. The
 * linker redirects the library's calls to the functions here, by --wrap for each
 * line of wrapped_calls.txt. Calls outside faults_enter() and faults_leave() go to
 * the kernel as they are. The state is for one thread; a program that lets the
 * library's background thread run sets background_hooks. */

#ifndef SYSCALL_FAULTS_H
#define SYSCALL_FAULTS_H

#include "wrapped.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define FAULTS_PAGE ((size_t)4096)
#define OVERWRITTEN 0xdb

enum fault_call {
  CALL_MMAP,
  CALL_MUNMAP,
  CALL_MPROTECT,
  CALL_MADVISE,
  CALL_BATCH, /* process_madvise */
  CALL_MREMAP,
  CALL_MINCORE,
  CALL_OPEN,
  CALL_READ,
  CALL_GETRLIMIT,
  CALL_COUNT
};

/* How a call is refused, if not by an errno alone. */
enum fault_way {
  WAY_ERRNO,
  WAY_PARTLY, /* a batch: the first half is done, and so it says */
  WAY_HARSHLY, /* mremap: the target is unmapped before */
  WAY_CRUELLY, /* the same, and the library may not map afterwards */
  WAY_BLINDLY  /* mremap: nor may the library look, or map, afterwards */
};

/* What this kernel does wrong, to see that a test would notice. */
enum fault_defect {
  DEFECT_NONE,
  DEFECT_PURGE_NEXT,  /* a purge takes the page behind with it */
  DEFECT_PURGE_NOT,   /* a purge does nothing, and says that it did */
  DEFECT_MOVE_NOTHING, /* mremap moves nothing, and says that it did */
  DEFECT_PURGE_AGAIN  /* what the library's own thread has purged is purged again
                         when that goes on */
};

struct syscall_faults {
  uint64_t calls[CALL_COUNT];   /* made inside */
  uint64_t refused[CALL_COUNT]; /* of these */
  enum fault_call victim;
  uint64_t at;    /* the call of that kind to refuse, from 1; 0: none */
  int lasting;    /* and all after it */
  int error;      /* with this errno */
  enum fault_way way;
  int mercy;      /* after a refused mremap the library may look and map */
  int blind;      /* after a refused mremap it may neither */
  int silent;     /* what is refused says that it was done */
  uint32_t always; /* the kinds of call that are refused always */
  uint32_t kinds; /* the kinds of call that the pattern is for */
  uint64_t pattern; /* a bit for each coming call: 1 refuses it */
  int overwrite;  /* what is given back is overwritten before */
  int frozen;     /* the clock stands, but for look_us at each look, and
                     nothing is left to chance */
  uint64_t now_us;
  uint64_t look_us;
  enum fault_defect defect;
  unsigned char *reserved; /* the last reservation */
  size_t reserved_bytes;
};

static struct syscall_faults faults;

/* Calls of this thread's that are looked at now. */
static __thread int faults_inside;

/* What the library's own thread does. */
struct background_hooks {
  void (*stop)(void);         /* before and after a call */
  void (*purged)(void);       /* after one that purges, as well */
  void (*sleep)(uint64_t us); /* it calls futex for nothing else */
};

/* NULL on any other thread. */
static __thread const struct background_hooks *background_hooks;

/* Unless a program asks for the library's own thread there is none. */
__attribute__((constructor)) static void without_background(void)
{
  setenv("EBBTIDE_BACKGROUND", "off", 1);
}

static inline void faults_enter(void)
{
  faults_inside++;
}

static inline void faults_leave(void)
{
  faults_inside--;
}

static void notify_stop(void)
{
  if (background_hooks != NULL) {
    background_hooks->stop();
  }
}

static void notify_purged(void)
{
  if (background_hooks != NULL) {
    background_hooks->purged();
  }
}

static int faults_refuse(enum fault_call call)
{
  uint64_t number;
  int refuses;

  if (!faults_inside) {
    return 0;
  }
  number = ++faults.calls[call];
  if (faults.mercy && (call == CALL_MMAP || call == CALL_MINCORE)) {
    faults.mercy = call == CALL_MINCORE;
    return 0;
  }
  if (faults.blind && (call == CALL_MMAP || call == CALL_MINCORE)) {
    faults.blind = call == CALL_MINCORE;
    errno = EAGAIN;
    return 1;
  }
  refuses = faults.at != 0 && call == faults.victim
            && (number == faults.at || (faults.lasting && number > faults.at));
  refuses |= (faults.always >> call & 1) != 0;
  if (faults.kinds & (1u << call)) {
    refuses |= (int)(faults.pattern & 1);
    faults.pattern >>= 1;
  }
  if (refuses) {
    faults.refused[call]++;
    errno = faults.error;
  }
  return refuses;
}

/* What a refused call returns that could have returned 0. */
static inline int refused_result(void)
{
  return faults.silent ? 0 : -1;
}

/* The linker's names for the functions between which this stands. */
void *__real_mmap(void *, size_t, int, int, int, off_t);
int __real_munmap(void *, size_t);
int __real_mprotect(void *, size_t, int);
int __real_madvise(void *, size_t, int);
void *__real_mremap(void *, size_t, size_t, int, ...);
int __real_mincore(void *, size_t, unsigned char *);
int __real_open(const char *, int, ...);
ssize_t __real_read(int, void *, size_t);
int __real_getrlimit(__rlimit_resource_t, struct rlimit *);
int __real_clock_gettime(clockid_t, struct timespec *);
ssize_t __real_getrandom(void *, size_t, unsigned);

void *__wrap_mmap(void *, size_t, int, int, int, off_t);
int __wrap_munmap(void *, size_t);
int __wrap_mprotect(void *, size_t, int);
int __wrap_madvise(void *, size_t, int);
void *__wrap_mremap(void *, size_t, size_t, int, ...);
int __wrap_mincore(void *, size_t, unsigned char *);
int __wrap_open(const char *, int, ...);
ssize_t __wrap_read(int, void *, size_t);
int __wrap_getrlimit(__rlimit_resource_t, struct rlimit *);
int __wrap_clock_gettime(clockid_t, struct timespec *);
ssize_t __wrap_getrandom(void *, size_t, unsigned);

/* Overwrites the pages of a range that hold memory: so does a purge that takes
 * too much show, even where the kernel refuses it. */
static void overwrite_purged(unsigned char *at, size_t bytes)
{
  unsigned char resident[256];
  size_t count, i;

  if (!faults_inside || !faults.overwrite) {
    return;
  }
  for (; bytes >= FAULTS_PAGE; bytes -= count * FAULTS_PAGE) {
    count = bytes / FAULTS_PAGE;
    count = count < sizeof resident ? count : sizeof resident;
    if (__real_mincore(at, count * FAULTS_PAGE, resident) != 0) {
      return;
    }
    for (i = 0; i < count; i++, at += FAULTS_PAGE) {
      if (resident[i] & 1) {
        memset(at, OVERWRITTEN, FAULTS_PAGE);
      }
    }
  }
}

/* A defect: the range that the library's own thread has purged before. */
static void purge_again(unsigned char *at, size_t bytes)
{
  static unsigned char *before;
  static size_t before_bytes;

  if (background_hooks == NULL || faults.defect != DEFECT_PURGE_AGAIN) {
    return;
  }
  if (before != NULL) {
    __real_madvise(before, before_bytes, MADV_DONTNEED);
  }
  before = at;
  before_bytes = bytes;
}

void *__wrap_mmap(void *at, size_t bytes, int access, int flags, int file,
                  off_t offset)
{
  void *mapped;

  notify_stop();
  if (faults_refuse(CALL_MMAP)) {
    return MAP_FAILED;
  }
  mapped = __real_mmap(at, bytes, access, flags, file, offset);
  if (faults_inside && access == PROT_NONE && (flags & MAP_FIXED) == 0
      && mapped != MAP_FAILED) {
    faults.reserved = (unsigned char *)mapped;
    faults.reserved_bytes = bytes;
  }
  return mapped;
}

int __wrap_munmap(void *at, size_t bytes)
{
  return faults_refuse(CALL_MUNMAP) ? -1 : __real_munmap(at, bytes);
}

int __wrap_mprotect(void *at, size_t bytes, int access)
{
  notify_stop();
  return faults_refuse(CALL_MPROTECT) ? refused_result()
                                       : __real_mprotect(at, bytes, access);
}

static int faulty_madvise(void *at, size_t bytes, int advice)
{
  if (faults_inside && advice == MADV_DONTNEED) {
    purge_again((unsigned char *)at, bytes);
    overwrite_purged((unsigned char *)at, bytes);
    if (faults.defect == DEFECT_PURGE_NOT) {
      return 0;
    }
    if (faults.defect == DEFECT_PURGE_NEXT) {
      bytes += FAULTS_PAGE;
    }
  }
  return faults_refuse(CALL_MADVISE) ? refused_result()
                                      : __real_madvise(at, bytes, advice);
}

int __wrap_madvise(void *at, size_t bytes, int advice)
{
  int result;

  notify_stop();
  result = faulty_madvise(at, bytes, advice);
  if (advice == MADV_DONTNEED) {
    notify_purged();
  }
  notify_stop();
  return result;
}

void *__wrap_mremap(void *from, size_t old_bytes, size_t bytes, int flags, ...)
{
  va_list more;
  void *to;

  va_start(more, flags);
  to = va_arg(more, void *);
  va_end(more);
  if (faults_refuse(CALL_MREMAP)) {
    if (faults.silent) {
      return to;
    }
    if (!(flags & MREMAP_FIXED)) {
      return MAP_FAILED;
    }
    if (faults.way == WAY_HARSHLY || faults.way == WAY_CRUELLY) {
      __real_munmap(to, bytes);
      errno = faults.error;
    }
    faults.blind = faults.way == WAY_BLINDLY;
    faults.mercy = !faults.blind && faults.way != WAY_CRUELLY;
    return MAP_FAILED;
  }
  if (faults_inside && faults.defect == DEFECT_MOVE_NOTHING) {
    return to;
  }
  return __real_mremap(from, old_bytes, bytes, flags, to);
}

int __wrap_mincore(void *at, size_t bytes, unsigned char *flags)
{
  return faults_refuse(CALL_MINCORE) ? -1 : __real_mincore(at, bytes, flags);
}

/* Gives the ranges of a batch back; returns the bytes, or -1. */
static long faulty_process_madvise(long *arguments)
{
  const struct iovec *ranges = (const struct iovec *)arguments[1];
  size_t count = (size_t)arguments[2];
  size_t i;

  if (arguments[3] != MADV_DONTNEED) {
    return faults_refuse(CALL_BATCH) ? -1
                                      : real_call(SYS_process_madvise, arguments);
  }
  purge_again((unsigned char *)ranges[0].iov_base, ranges[0].iov_len);
  for (i = 0; i < count; i++) {
    overwrite_purged((unsigned char *)ranges[i].iov_base, ranges[i].iov_len);
  }
  if (faults.defect == DEFECT_PURGE_NOT) {
    return (long)batch_bytes(arguments);
  }
  if (faults_refuse(CALL_BATCH)) {
    if (faults.silent) {
      return (long)batch_bytes(arguments);
    }
    if (faults.way != WAY_PARTLY || count < 2) {
      return -1;
    }
    arguments[2] = (long)(count / 2);
  }
  if (faults.defect == DEFECT_PURGE_NEXT) {
    __real_madvise((char *)ranges[0].iov_base + ranges[0].iov_len, FAULTS_PAGE,
                   MADV_DONTNEED);
  }
  return real_call(SYS_process_madvise, arguments);
}

static long faulty_futex(const struct timespec *time)
{
  purge_again(NULL, 0);
  background_hooks->sleep((uint64_t)time->tv_sec * 1000000
                       + (uint64_t)time->tv_nsec / 1000);
  return 0;
}

static long wrapped_call(long number, long *arguments)
{
  long result;

  if (background_hooks != NULL && number == SYS_futex) {
    return faulty_futex((const struct timespec *)arguments[3]);
  }
  notify_stop();
  result = faults_inside && number == SYS_process_madvise
             ? faulty_process_madvise(arguments)
             : real_call(number, arguments);
  if (number == SYS_process_madvise) {
    notify_purged();
  }
  notify_stop();
  return result;
}

int __wrap_open(const char *path, int flags, ...)
{
  va_list more;
  int mode;

  va_start(more, flags);
  mode = va_arg(more, int);
  va_end(more);
  return faults_refuse(CALL_OPEN) ? -1 : __real_open(path, flags, mode);
}

ssize_t __wrap_read(int file, void *to, size_t bytes)
{
  return faults_refuse(CALL_READ) ? -1 : __real_read(file, to, bytes);
}

int __wrap_getrlimit(__rlimit_resource_t which, struct rlimit *limit)
{
  return faults_refuse(CALL_GETRLIMIT) ? -1 : __real_getrlimit(which, limit);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
  uint64_t us;

  if (!faults.frozen || (!faults_inside && background_hooks == NULL)) {
    return __real_clock_gettime(clock, now);
  }
  notify_stop();
  us = __atomic_add_fetch(&faults.now_us, faults.look_us, __ATOMIC_RELAXED);
  now->tv_sec = (time_t)(us / 1000000);
  now->tv_nsec = (long)(us % 1000000) * 1000;
  return 0;
}

ssize_t __wrap_getrandom(void *to, size_t bytes, unsigned flags)
{
  if (!faults_inside || !faults.frozen) {
    return __real_getrandom(to, bytes, flags);
  }
  errno = ENOSYS;
  return -1;
}

#endif /* SYSCALL_FAULTS_H */
