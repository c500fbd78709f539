//! Descriptors that lines go to: which file one leads to, and a write that waits for its reader.
//!
//! Where a pipe is full, a line waits until somebody reads, and is dropped when its
//! [`ReaderPatience`] ends. A process that ends has time, and its last lines have 5 s together, so
//! that it does end. Shared with the preload library. Signal handlers may call everything here.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sigpipe;

/// A file by its device and inode.
pub(crate) type File = (u64, u64);

/// How long lines wait for readers, all lines of one kind together.
pub(crate) struct ReaderPatience {
    most_ns: u64,
    waited_ns: AtomicU64,
}

/// That of the last lines.
static LAST_LINES: ReaderPatience = ReaderPatience::of_ms(5000);
/// What a write that failed counts as, though poll promised that it would not.
const FAILURE_NS: u64 = 1_000_000;

impl ReaderPatience {
    pub(crate) const fn of_ms(most_ms: u64) -> ReaderPatience {
        ReaderPatience { most_ns: most_ms * 1_000_000, waited_ns: AtomicU64::new(0) }
    }

    fn left_ns(&self) -> u64 {
        self.most_ns.saturating_sub(self.waited_ns.load(Ordering::Relaxed))
    }

    fn spend(&self, waited_ns: u64) {
        self.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
    }
}

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

/// Writes one of the last lines of a process, as [`write_in_time`] does.
///
/// # Safety
///
/// The parts are as long as they say.
pub(crate) unsafe fn write_last(descriptor: c_int, parts: &[libc::iovec]) -> bool {
    // SAFETY: the caller's promise.
    unsafe { write_in_time(descriptor, parts, &LAST_LINES) }
}

/// Writes a line in one piece, when its reader has made room. Raises no SIGPIPE and keeps `errno`.
/// Whether it was written. (The write itself waits only if another writer fills the pipe after the
/// kernel has said that there is room.)
///
/// # Safety
///
/// The parts are as long as they say.
pub(crate) unsafe fn write_in_time(
    descriptor: c_int,
    parts: &[libc::iovec],
    patience: &ReaderPatience,
) -> bool {
    sigpipe::held_back(|| {
        while takes_in_time(descriptor, patience) {
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
            patience.spend(FAILURE_NS);
        }
        false
    })
}

/// Waits until a write would not, as long as there is patience. Whether it would not, or fails at
/// once: the write then tells.
fn takes_in_time(descriptor: c_int, patience: &ReaderPatience) -> bool {
    let mut wait_ns = 0;
    loop {
        let start = now_ns();
        let ready = poll(descriptor, wait_ns);
        patience.spend(now_ns().saturating_sub(start));
        // A sandbox may refuse the question.
        if ready.is_ok_and(|count| count > 0) || ready.is_err_and(|error| error != libc::EINTR) {
            return true;
        }
        wait_ns = patience.left_ns();
        if wait_ns == 0 {
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
