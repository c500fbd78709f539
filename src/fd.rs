//! Descriptors that lines go to: which file one leads to, and a write that waits for its reader.
//!
//! A process that ends has time: where a pipe is full, its last lines wait until somebody reads.
//! All of them together wait for at most [`PATIENCE_NS`], so that it does end. Shared with the
//! preload library. Signal handlers may call everything here.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sigpipe;

/// A file by its device and inode.
pub(crate) type File = (u64, u64);

/// How long the last lines wait, together.
const PATIENCE_NS: u64 = 5_000_000_000;
/// What a write that failed counts as, though poll promised that it would not: 5,000 are enough.
const FAILURE_NS: u64 = 1_000_000;
/// How long they have waited.
static WAITED_NS: AtomicU64 = AtomicU64::new(0);

/// Which file a descriptor leads to; `None`: it is closed.
pub(crate) fn file_of(descriptor: c_int) -> Option<File> {
    stat_of(descriptor).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether a descriptor is the write end of a pipe, or open for nothing but appending.
pub(crate) fn is_log(descriptor: c_int) -> bool {
    flags_of(descriptor).is_some_and(|flags| {
        flags & libc::O_ACCMODE == libc::O_WRONLY
            && (flags & libc::O_APPEND != 0 || is_of_kind(descriptor, libc::S_IFIFO))
    })
}

/// Whether a descriptor leads to a file of a kind, as `S_IFREG`.
pub(crate) fn is_of_kind(descriptor: c_int, kind: libc::mode_t) -> bool {
    stat_of(descriptor).is_some_and(|it| it.st_mode & libc::S_IFMT == kind)
}

/// How a descriptor is open, as `O_RDWR`; `None`: it is closed.
pub(crate) fn flags_of(descriptor: c_int) -> Option<c_int> {
    // SAFETY: it only asks; errno, which stays as it was, is this thread's own.
    let flags = unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        *libc::__errno_location() = errno;
        flags
    };
    (flags >= 0).then_some(flags)
}

fn stat_of(descriptor: c_int) -> Option<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for the answer, which is read only if there is one; errno, which stays
    // as it was, is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        let failed = libc::fstat(descriptor, stat.as_mut_ptr()) != 0;
        *libc::__errno_location() = errno;
        (!failed).then(|| stat.assume_init())
    }
}

/// Writes one of the last lines of a process in one piece, when its reader has made room. Raises
/// no SIGPIPE. Whether it was written.
///
/// # Safety
///
/// The parts are as long as they say.
pub(crate) unsafe fn write_last(descriptor: c_int, parts: &[libc::iovec]) -> bool {
    sigpipe::held_back(|| {
        while takes_in_time(descriptor) {
            // SAFETY: the caller's promise; the parts are only read; errno is this thread's own.
            let error = unsafe {
                if libc::writev(descriptor, parts.as_ptr(), parts.len() as c_int) >= 0 {
                    return true;
                }
                *libc::__errno_location()
            };
            if error != libc::EINTR && error != libc::EAGAIN {
                return false;
            }
            // Another writer was faster, or a signal came.
            WAITED_NS.fetch_add(FAILURE_NS, Ordering::Relaxed);
        }
        false
    })
}

/// Waits until a write would not, as long as there is patience. Whether it would not, or fails at
/// once: the write then tells.
fn takes_in_time(descriptor: c_int) -> bool {
    let mut patience_ns = 0;
    loop {
        let start = now_ns();
        let ready = poll(descriptor, patience_ns);
        WAITED_NS.fetch_add(now_ns().saturating_sub(start), Ordering::Relaxed);
        // A sandbox may refuse the question.
        if ready.is_ok_and(|count| count > 0) || ready.is_err_and(|error| error != libc::EINTR) {
            return true;
        }
        patience_ns = PATIENCE_NS.saturating_sub(WAITED_NS.load(Ordering::Relaxed));
        if patience_ns == 0 {
            return false;
        }
    }
}

/// Asks the kernel itself: the preload library takes `poll` over, and lets heaps exhale there.
fn poll(descriptor: c_int, wait_ns: u64) -> Result<libc::c_long, c_int> {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut poll_fd = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    let mut wait = libc::timespec {
        tv_sec: (wait_ns / SECOND_NS) as libc::time_t,
        tv_nsec: (wait_ns % SECOND_NS) as libc::c_long,
    };
    let mask = ptr::null::<libc::sigset_t>();
    // SAFETY: one descriptor to look at, a time that the kernel may write to, and no mask; errno
    // is this thread's own.
    unsafe {
        let count =
            libc::syscall(libc::SYS_ppoll, &raw mut poll_fd, 1usize, &raw mut wait, mask, 0usize);
        if count < 0 { Err(*libc::__errno_location()) } else { Ok(count) }
    }
}

fn now_ns() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero; each Linux has it.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
