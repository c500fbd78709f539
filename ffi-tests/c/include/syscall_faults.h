/* A kernel between the library and the real one that can be unkind: it refuses
 * chosen calls, overwrites what is given back, and keeps the time. The
 * linker's --wrap for each of UNKIND_WRAPPED (ffi-tests/src/lib.rs) hands the
 * library's calls to the functions here; only calls made between unkind_enter() and
 * unkind_leave() are looked at. For one thread, and the library's own beside it
 * where a program cares for that: see unkind_beside. */

#ifndef UNKIND_H
#define UNKIND_H

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

#define UNKIND_PAGE ((size_t)4096)
#define UNKIND_BYTE 0xdb

enum unkind_call {
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
enum unkind_way {
  WAY_ERRNO,
  WAY_PARTLY, /* a batch: the first half is done, and so it says */
  WAY_HARSHLY, /* mremap: the target is unmapped before */
  WAY_CRUELLY, /* the same, and the library may not map afterwards */
  WAY_BLINDLY  /* mremap: nor may the library look, or map, afterwards */
};

/* What this kernel does wrong, to see that a test would notice. */
enum unkind_defect {
  DEFECT_NONE,
  DEFECT_PURGE_NEXT,  /* a purge takes the page behind with it */
  DEFECT_PURGE_NOT,   /* a purge does nothing, and says that it did */
  DEFECT_MOVE_NOTHING, /* mremap moves nothing, and says that it did */
  DEFECT_PURGE_AGAIN  /* what the library's own thread has purged is purged again
                         when that goes on */
};

struct unkind {
  uint64_t calls[CALL_COUNT];   /* made inside */
  uint64_t refused[CALL_COUNT]; /* of these */
  enum unkind_call victim;
  uint64_t at;    /* the call of that kind to refuse, from 1; 0: none */
  int lasting;    /* and all after it */
  int error;      /* with this errno */
  enum unkind_way way;
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
  enum unkind_defect defect;
  unsigned char *reserved; /* the last reservation */
  size_t reserved_bytes;
};

static struct unkind unkind;

/* Calls of this thread's that are looked at now. */
static __thread int unkind_inside;

/* What the library's own thread does. */
struct unkind_beside {
  void (*stop)(void);         /* before and after a call */
  void (*purged)(void);       /* after one that purges, as well */
  void (*sleep)(uint64_t us); /* it calls futex for nothing else */
};

/* NULL on any other thread. */
static __thread const struct unkind_beside *unkind_beside;

/* Unless a program asks for the library's own thread there is none. */
__attribute__((constructor)) static void unkind_is_alone(void)
{
  setenv("EBBTIDE_BACKGROUND", "off", 1);
}

static inline void unkind_enter(void)
{
  unkind_inside++;
}

static inline void unkind_leave(void)
{
  unkind_inside--;
}

static void unkind_stop(void)
{
  if (unkind_beside != NULL) {
    unkind_beside->stop();
  }
}

static void unkind_purged(void)
{
  if (unkind_beside != NULL) {
    unkind_beside->purged();
  }
}

static int unkind_refuses(enum unkind_call call)
{
  uint64_t number;
  int refuses;

  if (!unkind_inside) {
    return 0;
  }
  number = ++unkind.calls[call];
  if (unkind.mercy && (call == CALL_MMAP || call == CALL_MINCORE)) {
    unkind.mercy = call == CALL_MINCORE;
    return 0;
  }
  if (unkind.blind && (call == CALL_MMAP || call == CALL_MINCORE)) {
    unkind.blind = call == CALL_MINCORE;
    errno = EAGAIN;
    return 1;
  }
  refuses = unkind.at != 0 && call == unkind.victim
            && (number == unkind.at || (unkind.lasting && number > unkind.at));
  refuses |= (unkind.always >> call & 1) != 0;
  if (unkind.kinds & (1u << call)) {
    refuses |= (int)(unkind.pattern & 1);
    unkind.pattern >>= 1;
  }
  if (refuses) {
    unkind.refused[call]++;
    errno = unkind.error;
  }
  return refuses;
}

/* What a refused call returns that could have returned 0. */
static inline int unkind_no(void)
{
  return unkind.silent ? 0 : -1;
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
static void unkind_overwrite(unsigned char *at, size_t bytes)
{
  unsigned char resident[256];
  size_t count, i;

  if (!unkind_inside || !unkind.overwrite) {
    return;
  }
  for (; bytes >= UNKIND_PAGE; bytes -= count * UNKIND_PAGE) {
    count = bytes / UNKIND_PAGE;
    count = count < sizeof resident ? count : sizeof resident;
    if (__real_mincore(at, count * UNKIND_PAGE, resident) != 0) {
      return;
    }
    for (i = 0; i < count; i++, at += UNKIND_PAGE) {
      if (resident[i] & 1) {
        memset(at, UNKIND_BYTE, UNKIND_PAGE);
      }
    }
  }
}

/* A defect: the range that the library's own thread has purged before. */
static void unkind_again(unsigned char *at, size_t bytes)
{
  static unsigned char *before;
  static size_t before_bytes;

  if (unkind_beside == NULL || unkind.defect != DEFECT_PURGE_AGAIN) {
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

  unkind_stop();
  if (unkind_refuses(CALL_MMAP)) {
    return MAP_FAILED;
  }
  mapped = __real_mmap(at, bytes, access, flags, file, offset);
  if (unkind_inside && access == PROT_NONE && (flags & MAP_FIXED) == 0
      && mapped != MAP_FAILED) {
    unkind.reserved = (unsigned char *)mapped;
    unkind.reserved_bytes = bytes;
  }
  return mapped;
}

int __wrap_munmap(void *at, size_t bytes)
{
  return unkind_refuses(CALL_MUNMAP) ? -1 : __real_munmap(at, bytes);
}

int __wrap_mprotect(void *at, size_t bytes, int access)
{
  unkind_stop();
  return unkind_refuses(CALL_MPROTECT) ? unkind_no()
                                       : __real_mprotect(at, bytes, access);
}

static int unkind_advise(void *at, size_t bytes, int advice)
{
  if (unkind_inside && advice == MADV_DONTNEED) {
    unkind_again((unsigned char *)at, bytes);
    unkind_overwrite((unsigned char *)at, bytes);
    if (unkind.defect == DEFECT_PURGE_NOT) {
      return 0;
    }
    if (unkind.defect == DEFECT_PURGE_NEXT) {
      bytes += UNKIND_PAGE;
    }
  }
  return unkind_refuses(CALL_MADVISE) ? unkind_no()
                                      : __real_madvise(at, bytes, advice);
}

int __wrap_madvise(void *at, size_t bytes, int advice)
{
  int result;

  unkind_stop();
  result = unkind_advise(at, bytes, advice);
  if (advice == MADV_DONTNEED) {
    unkind_purged();
  }
  unkind_stop();
  return result;
}

void *__wrap_mremap(void *from, size_t old_bytes, size_t bytes, int flags, ...)
{
  va_list more;
  void *to;

  va_start(more, flags);
  to = va_arg(more, void *);
  va_end(more);
  if (unkind_refuses(CALL_MREMAP)) {
    if (unkind.silent) {
      return to;
    }
    if (!(flags & MREMAP_FIXED)) {
      return MAP_FAILED;
    }
    if (unkind.way == WAY_HARSHLY || unkind.way == WAY_CRUELLY) {
      __real_munmap(to, bytes);
      errno = unkind.error;
    }
    unkind.blind = unkind.way == WAY_BLINDLY;
    unkind.mercy = !unkind.blind && unkind.way != WAY_CRUELLY;
    return MAP_FAILED;
  }
  if (unkind_inside && unkind.defect == DEFECT_MOVE_NOTHING) {
    return to;
  }
  return __real_mremap(from, old_bytes, bytes, flags, to);
}

int __wrap_mincore(void *at, size_t bytes, unsigned char *flags)
{
  return unkind_refuses(CALL_MINCORE) ? -1 : __real_mincore(at, bytes, flags);
}

/* Gives the ranges of a batch back; returns the bytes, or -1. */
static long unkind_batch(long *arguments)
{
  const struct iovec *ranges = (const struct iovec *)arguments[1];
  size_t count = (size_t)arguments[2];
  size_t i;

  if (arguments[3] != MADV_DONTNEED) {
    return unkind_refuses(CALL_BATCH) ? -1
                                      : real_call(SYS_process_madvise, arguments);
  }
  unkind_again((unsigned char *)ranges[0].iov_base, ranges[0].iov_len);
  for (i = 0; i < count; i++) {
    unkind_overwrite((unsigned char *)ranges[i].iov_base, ranges[i].iov_len);
  }
  if (unkind.defect == DEFECT_PURGE_NOT) {
    return (long)batch_bytes(arguments);
  }
  if (unkind_refuses(CALL_BATCH)) {
    if (unkind.silent) {
      return (long)batch_bytes(arguments);
    }
    if (unkind.way != WAY_PARTLY || count < 2) {
      return -1;
    }
    arguments[2] = (long)(count / 2);
  }
  if (unkind.defect == DEFECT_PURGE_NEXT) {
    __real_madvise((char *)ranges[0].iov_base + ranges[0].iov_len, UNKIND_PAGE,
                   MADV_DONTNEED);
  }
  return real_call(SYS_process_madvise, arguments);
}

static long unkind_sleep(const struct timespec *time)
{
  unkind_again(NULL, 0);
  unkind_beside->sleep((uint64_t)time->tv_sec * 1000000
                       + (uint64_t)time->tv_nsec / 1000);
  return 0;
}

static long wrapped_call(long number, long *arguments)
{
  long result;

  if (unkind_beside != NULL && number == SYS_futex) {
    return unkind_sleep((const struct timespec *)arguments[3]);
  }
  unkind_stop();
  result = unkind_inside && number == SYS_process_madvise
             ? unkind_batch(arguments)
             : real_call(number, arguments);
  if (number == SYS_process_madvise) {
    unkind_purged();
  }
  unkind_stop();
  return result;
}

int __wrap_open(const char *path, int flags, ...)
{
  va_list more;
  int mode;

  va_start(more, flags);
  mode = va_arg(more, int);
  va_end(more);
  return unkind_refuses(CALL_OPEN) ? -1 : __real_open(path, flags, mode);
}

ssize_t __wrap_read(int file, void *to, size_t bytes)
{
  return unkind_refuses(CALL_READ) ? -1 : __real_read(file, to, bytes);
}

int __wrap_getrlimit(__rlimit_resource_t which, struct rlimit *limit)
{
  return unkind_refuses(CALL_GETRLIMIT) ? -1 : __real_getrlimit(which, limit);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
  uint64_t us;

  if (!unkind.frozen || (!unkind_inside && unkind_beside == NULL)) {
    return __real_clock_gettime(clock, now);
  }
  unkind_stop();
  us = __atomic_add_fetch(&unkind.now_us, unkind.look_us, __ATOMIC_RELAXED);
  now->tv_sec = (time_t)(us / 1000000);
  now->tv_nsec = (long)(us % 1000000) * 1000;
  return 0;
}

ssize_t __wrap_getrandom(void *to, size_t bytes, unsigned flags)
{
  if (!unkind_inside || !unkind.frozen) {
    return __real_getrandom(to, bytes, flags);
  }
  errno = ENOSYS;
  return -1;
}

#endif /* UNKIND_H */
