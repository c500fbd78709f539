/* What Rust sees of syscall_faults.h and beside.h. */

#include "beside.h"

void kernel_begin(int overwrite, uint64_t look_us, int company)
{
  int defect = (int)unkind.defect;

  memset(&unkind, 0, sizeof unkind);
  unkind.defect = (enum unkind_defect)defect;
  /* What the owner gives back at once with the thread, that may just have closed. */
  unkind.overwrite = overwrite && company != AT_ONCE;
  unkind.frozen = 1;
  unkind.now_us = 1000000;
  unkind.look_us = look_us;
  beside_begins((enum company)company);
}

void kernel_end(void)
{
  beside_ends();
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
  __atomic_fetch_add(&unkind.now_us, us, __ATOMIC_RELAXED);
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

/* By the background thread, in all programs. */
uint64_t kernel_purges(void)
{
  return __atomic_load_n(&beside.purges, __ATOMIC_RELAXED);
}

/* The background thread goes on to where it stops next. Where it sleeps it is time
 * for it to wake up. */
void kernel_pass(void)
{
  if (beside.sleeps) {
    beside_time_is(beside.wakes_us);
  }
  beside_pass();
}

/* Whether the background thread, by turns, is in a visit. */
int kernel_is_visiting(void)
{
  return beside.company == BY_TURNS && beside_alive() > 0 && !beside.sleeps;
}
