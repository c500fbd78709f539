//! The kernel between the library and the real one: `harness/include/syscall_faults.h`. The
//! library's background thread: `background.h`.

use std::ffi::c_int;

mod c {
    use super::c_int;

    unsafe extern "C" {
        pub(super) fn kernel_begin(overwrite: c_int, look_us: u64, company: c_int);
        pub(super) fn kernel_end();
        pub(super) fn kernel_enter();
        pub(super) fn kernel_leave();
        pub(super) fn kernel_wait(us: u64);
        pub(super) fn kernel_refuse(kinds: u32, pattern: u64, error: c_int, way: c_int);
        pub(super) fn kernel_refused() -> u64;
        pub(super) fn kernel_break(defect: c_int);
        pub(super) fn kernel_purges() -> u64;
        pub(super) fn kernel_pass();
        pub(super) fn kernel_is_visiting() -> c_int;
    }
}

/// Whether the background thread runs, besides the owner of the heaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Company {
    /// Nobody.
    Alone,
    /// The background thread, when the owner lets it, to where it stops next.
    ByTurns,
    /// The background thread, at any time.
    AtOnce,
}

/// What refused calls say, of what Linux may say.
const ERRORS: [c_int; 4] = [libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::EPERM];

/// No system call sets it.
const ERRNO_MARK: c_int = 12321;

/// A kernel as new, at a time of its own.
pub(crate) fn begin(overwrite: bool, look_us: u64, company: Company) {
    // SAFETY: the owner of the heaps alone calls the functions here. The background thread has
    // ended with the program before.
    unsafe { c::kernel_begin(overwrite.into(), look_us, company as c_int) }
}

/// Waits until the background thread has ended. There are no heaps any more.
pub(crate) fn end() {
    // SAFETY: see `begin`.
    unsafe { c::kernel_end() }
}

/// How often the background thread has returned memory, in all programs.
pub fn background_purges() -> u64 {
    // SAFETY: the figure is always there.
    unsafe { c::kernel_purges() }
}

/// The background thread, by turns, goes on to where it stops next. If it sleeps, so much time
/// passes.
pub(crate) fn pass() {
    // SAFETY: see `begin`.
    unsafe { c::kernel_pass() }
}

/// The background thread, by turns, ends the visit that it is in.
pub(crate) fn end_visit() {
    // SAFETY: see `begin`.
    while unsafe { c::kernel_is_visiting() } != 0 {
        pass();
    }
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

/// Makes the kernel itself wrong: see `enum fault_defect`.
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
