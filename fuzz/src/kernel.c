/* What Rust sees of syscall_faults.h. */

#include "../../ffi-tests/c/include/syscall_faults.h"

void kernel_begin(int overwrite, uint64_t look_us)
{
  int defect = (int)unkind.defect;

  memset(&unkind, 0, sizeof unkind);
  unkind.defect = (enum unkind_defect)defect;
  unkind.overwrite = overwrite;
  unkind.frozen = 1;
  unkind.now_us = 1000000;
  unkind.look_us = look_us;
}

void kernel_enter(void)
{
  unkind_enter();
}

void kernel_leave(void)
{
  unkind_leave();
}

void kernel_wait(uint64_t us)
{
  unkind.now_us += us;
}

/* All kinds but munmap: a kernel that keeps what it is given back is a bug. */
void kernel_refuse(uint32_t kinds, uint64_t pattern, int error, int way)
{
  unkind.kinds = kinds & ~(1u << CALL_MUNMAP);
  unkind.pattern = pattern;
  unkind.error = error;
  unkind.way = (enum unkind_way)(way % 3);
}

uint64_t kernel_refused(void)
{
  uint64_t refused = 0;
  int call;

  for (call = 0; call < CALL_COUNT; call++) {
    refused += unkind.refused[call];
  }
  return refused;
}

void kernel_break(int defect)
{
  unkind.defect = (enum unkind_defect)defect;
}
