/* System calls of the library that the linker's --wrap=syscall hands to a test:
 * the arguments of any call, in a row. */

#ifndef WRAPPED_H
#define WRAPPED_H

#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

#define ARGUMENTS 6

long __real_syscall(long, ...);
long __wrap_syscall(long, ...);

/* What the test does with a call. */
static long wrapped_call(long number, long *arguments);

static inline long real_call(long number, const long *arguments)
{
  return __real_syscall(number, arguments[0], arguments[1], arguments[2],
                        arguments[3], arguments[4], arguments[5]);
}

/* The bytes that a call of process_madvise is for. */
static inline size_t batch_bytes(const long *arguments)
{
  const struct iovec *ranges = (const struct iovec *)arguments[1];
  size_t bytes = 0;
  long i;

  for (i = 0; i < arguments[2]; i++) {
    bytes += ranges[i].iov_len;
  }
  return bytes;
}

long __wrap_syscall(long number, ...)
{
  long arguments[ARGUMENTS];
  va_list more;
  int i;

  va_start(more, number);
  for (i = 0; i < ARGUMENTS; i++) {
    arguments[i] = va_arg(more, long);
  }
  va_end(more);
  return wrapped_call(number, arguments);
}

#endif /* WRAPPED_H */
