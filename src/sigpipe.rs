//! Writes to a pipe that nobody reads, without the signal that would end the program.
//!
//! `write` to such a pipe raises SIGPIPE in the calling thread. A host that has not set it to be
//! ignored would end, because of a line that nobody wanted. Shared with the preload library.

use core::mem::MaybeUninit;
use core::ptr;

/// Runs a write with SIGPIPE held back in this thread, and takes the signal that the write raised
/// off the thread's list before the thread's mask is as it was. A SIGPIPE that was pending before
/// stays pending. Keeps `errno`. Signal handlers may.
pub(crate) fn held_back<T>(write: impl FnOnce() -> T) -> T {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: all sets are writable and all-zero bytes are valid ones; no time at all is a time to
    // wait; errno is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        let mut pipe = MaybeUninit::<libc::sigset_t>::zeroed().assume_init();
        libc::sigemptyset(&mut pipe);
        libc::sigaddset(&mut pipe, libc::SIGPIPE);
        let was_pending = is_pending();
        libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, before.as_mut_ptr());
        *libc::__errno_location() = 0;
        let result = write();
        let has_raised = *libc::__errno_location() == libc::EPIPE;
        if has_raised && !was_pending && is_pending() {
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&pipe, ptr::null_mut(), &at_once);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        *libc::__errno_location() = errno;
        result
    }
}

/// Whether a SIGPIPE waits for this thread or for the process.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable, and all-zero bytes are a valid one.
    unsafe {
        libc::sigpending(pending.as_mut_ptr());
        libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}
