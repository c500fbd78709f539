//! The kernel between the library and the real one: `ffi-tests/c/include/syscall_faults.h`.

use std::ffi::c_int;

mod c {
    use super::c_int;

    unsafe extern "C" {
        pub(super) fn kernel_begin(overwrite: c_int, look_us: u64);
        pub(super) fn kernel_enter();
        pub(super) fn kernel_leave();
        pub(super) fn kernel_wait(us: u64);
        pub(super) fn kernel_refuse(kinds: u32, pattern: u64, error: c_int, way: c_int);
        pub(super) fn kernel_refused() -> u64;
        pub(super) fn kernel_break(defect: c_int);
    }
}

/// What refused calls say, of what Linux may say.
const ERRORS: [c_int; 4] = [libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::EPERM];

/// No system call sets it.
const ERRNO_MARK: c_int = 12321;

/// A kernel as new, at a time of its own.
pub(crate) fn begin(overwrite: bool, look_us: u64) {
    // SAFETY: one thread only, as for all functions here.
    unsafe { c::kernel_begin(overwrite.into(), look_us) }
}

/// Lets time pass.
pub(crate) fn wait(us: u64) {
    // SAFETY: see `begin`.
    unsafe { c::kernel_wait(us) }
}

/// Refuses coming calls: of the kinds whose bits are set, those whose bit in the pattern is.
pub(crate) fn refuse(kinds: u32, pattern: u64, error: u8, way: u8) {
    let error = ERRORS[usize::from(error) % ERRORS.len()];
    // SAFETY: see `begin`.
    unsafe { c::kernel_refuse(kinds, pattern, error, way.into()) }
}

/// Calls refused since [`begin`].
pub(crate) fn refused() -> u64 {
    // SAFETY: see `begin`.
    unsafe { c::kernel_refused() }
}

/// Makes the kernel itself wrong: see `enum unkind_defect`.
pub(crate) fn break_it(defect: c_int) {
    // SAFETY: see `begin`.
    unsafe { c::kernel_break(defect) }
}

/// Makes one call of the library on this kernel; `errno` must outlast it.
pub(crate) fn calling<T>(call: impl FnOnce() -> T) -> T {
    // SAFETY: see `begin`; errno's location is this thread's own.
    let (result, errno) = unsafe {
        let errno = libc::__errno_location();
        *errno = ERRNO_MARK;
        c::kernel_enter();
        let result = call();
        c::kernel_leave();
        (result, *errno)
    };
    assert_eq!(errno, ERRNO_MARK, "errno was changed");
    result
}
