//! What the kernel says of this process: its number and its clock.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use libc::timespec;

/// The number of this process.
pub(crate) fn process() -> c_int {
    // SAFETY: always sound.
    unsafe { libc::getpid() }
}

/// The monotonic clock, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let mut time = MaybeUninit::<timespec>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero; each Linux has it.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}
