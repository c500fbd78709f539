/* What Rust sees of syscall_faults.h and background.h. */

#include "background.h"

void kernel_begin(int overwrite, uint64_t look_us, int company)
{
  int defect = (int)faults.defect;

  memset(&faults, 0, sizeof faults);
  faults.defect = (enum fault_defect)defect;
  /* What the owner gives back at once with the thread, that may just have closed. */
  faults.overwrite = overwrite && company != AT_ONCE;
  faults.frozen = 1;
  faults.now_us = 1000000;
  faults.look_us = look_us;
  background_begin((enum company)company);
}

void kernel_end(void)
{
  background_end();
}

void kernel_enter(void)
{
  faults_enter();
}

void kernel_leave(void)
{
  faults_leave();
}

void kernel_wait(uint64_t us)
{
  __atomic_fetch_add(&faults.now_us, us, __ATOMIC_RELAXED);
}

/* All kinds but munmap: a kernel that keeps what it is given back is a bug. */
void kernel_refuse(uint32_t kinds, uint64_t pattern, int error, int way)
{
  faults.kinds = kinds & ~(1u << CALL_MUNMAP);
  faults.pattern = pattern;
  faults.error = error;
  faults.way = (enum fault_way)(way % 3);
}

uint64_t kernel_refused(void)
{
  uint64_t refused = 0;
  int call;

  for (call = 0; call < CALL_COUNT; call++) {
    refused += faults.refused[call];
  }
  return refused;
}

void kernel_break(int defect)
{
  faults.defect = (enum fault_defect)defect;
}

/* By the background thread, in all programs. */
uint64_t kernel_purges(void)
{
  return __atomic_load_n(&background.purges, __ATOMIC_RELAXED);
}

/* The background thread goes on to where it stops next. Where it sleeps it is time
 * for it to wake up. */
void kernel_pass(void)
{
  if (background.sleeps) {
    background_clock_reaches(background.wakes_us);
  }
  background_pass();
}

/* Whether the background thread, by turns, is in a visit. */
int kernel_is_visiting(void)
{
  return background.company == BY_TURNS && background_alive() > 0
         && !background.sleeps;
}
