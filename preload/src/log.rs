//! Lines for the user, on the standard error that the program began with.
//!
//! Later a program has often closed it, and another file may stand in its place: a database, opened
//! as descriptor 2. So the constructor notes which file standard error leads to, and a line is
//! written only to a descriptor that still leads there. Where lines are asked for, the constructor
//! also keeps a descriptor of its own. Without a standard error at the beginning, no line is written.
//!
//! The last lines of a process that stops for a bug may also go to a log that has become descriptor
//! 2, and they wait for the reader of a full pipe: `libebbtide.so` does the same without this
//! library.
//!
//! Signal handlers may call everything here but [`start`].

use core::ffi::{c_char, c_int};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use libc::{iovec, timespec};

use crate::fd::{file_of, is_log, write_last};
use crate::settings::{self, Settings};
use crate::sigpipe;
use crate::system::{now_ns, process};

/// Whether the one line of this process is still to be said.
static WANTED: AtomicBool = AtomicBool::new(false);
/// It was said.
static SAID: AtomicBool = AtomicBool::new(false);
/// Out of the way of programs that count on the lowest descriptors.
const KEPT_MIN: c_int = 200;
static KEPT: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// Whether the program began with a standard error: one of these.
static STANDARD: AtomicU32 = AtomicU32::new(NOT_LOOKED_AT);
const NOT_LOOKED_AT: u32 = 0;
const CLOSED: u32 = 1;
const OPEN: u32 = 2;
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);

/// The process that began, not its forks.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// How long lines wait for the reader of a full pipe, all lines within [`PATIENCE_NS`] together: a
/// report of 1,000 VMs holds up the program no longer than a report of one.
const READER_MS: u64 = 100;
/// From the begin of one wait until lines may wait again.
const PATIENCE_NS: u64 = 5_000_000_000;
/// The begin of the last wait; 0: no line has waited.
static WAITED_AT_NS: AtomicU64 = AtomicU64::new(0);

/// The process has forked: what becomes of the program is perhaps in its child.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Notes where standard error is, and whether a line is asked for.
pub(crate) fn start(settings: &Settings) {
    find_stderr();
    PROCESS.store(process(), Ordering::Relaxed);
    if (settings.verbose || settings.report) && STANDARD.load(Ordering::Relaxed) == OPEN {
        // SAFETY: always sound.
        let kept = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, KEPT_MIN) };
        KEPT.store(kept.max(libc::STDERR_FILENO), Ordering::Relaxed);
    }
    if settings.verbose || settings.report || !settings::options().is_empty() {
        // SAFETY: the function stays as long as the process, as this library does.
        unsafe { libc::pthread_atfork(None, Some(note_fork), None) };
    }
    WANTED.store(settings.verbose, Ordering::Release);
}

unsafe extern "C" fn note_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Whether the process has forked.
pub(crate) fn has_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Notes which file standard error leads to.
fn find_stderr() {
    match file_of(libc::STDERR_FILENO) {
        Some((device, inode)) => {
            DEVICE.store(device, Ordering::Relaxed);
            INODE.store(inode, Ordering::Relaxed);
            STANDARD.store(OPEN, Ordering::Release);
        }
        None => STANDARD.store(CLOSED, Ordering::Release),
    }
}

/// Whether this is the process that began, and no fork of it.
pub(crate) fn is_first_process() -> bool {
    PROCESS.load(Ordering::Relaxed) == process()
}

/// Whether the one line is still to be said.
pub(crate) fn is_wanted() -> bool {
    WANTED.load(Ordering::Acquire)
}

/// Whether the one line was said.
pub(crate) fn is_said() -> bool {
    SAID.load(Ordering::Relaxed)
}

/// Says the one line of this process, if it is asked for and was not said yet.
pub(crate) fn once(parts: &[&[u8]]) {
    if is_wanted() {
        always_once(parts);
    }
}

/// Says the one line of this process, asked for or not, if it was not said yet.
pub(crate) fn always_once(parts: &[&[u8]]) {
    if !SAID.swap(true, Ordering::AcqRel) {
        WANTED.store(false, Ordering::Relaxed);
        line(parts);
    }
}

/// Says a line in any case. The program's name is in it: a shell may run many.
pub(crate) fn line(parts: &[&[u8]]) {
    let mut line = LogLine::new();
    line.push_all(&[b"ebbtide: ", settings::program(), b": "]);
    line.push_all(parts);
    line.write();
}

/// The same with the number of the process: a server may consist of many.
pub(crate) fn line_of_process(parts: &[&[u8]]) {
    with_process(parts, false);
}

/// [`line_of_process`] as `libebbtide.so` calls it, which may be about to end the process: `last`
/// is not 0. Returns 0 where the line was dropped.
///
/// # Safety
///
/// `text` points to `bytes` bytes.
pub(crate) unsafe extern "C" fn line_of_library(
    text: *const c_char,
    bytes: usize,
    last: c_int,
) -> c_int {
    // SAFETY: the caller's promise: the bytes are readable, and do not change until this returns.
    let text = unsafe { core::slice::from_raw_parts(text.cast(), bytes) };
    with_process(&[text], last != 0).into()
}

/// Writes a line that begins with the names of the program and the process. Whether it was written.
fn with_process(parts: &[&[u8]], is_last: bool) -> bool {
    let mut digits = [0; 10];
    let number = decimal(process().unsigned_abs(), &mut digits);
    let mut line = LogLine::new();
    line.push_all(&[b"ebbtide: ", settings::program(), b"[", number, b"]: "]);
    line.push_all(parts);
    if is_last { line.write_last() } else { line.write() }
}

/// A number in decimal digits.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    digits.get(10 - count..).unwrap_or_default()
}

/// The parts of a line, where they are: a signal handler's stack has no room for a copy.
struct LogLine<'parts> {
    parts: [&'parts [u8]; LogLine::PARTS_MAX],
    count: usize,
}

impl<'parts> LogLine<'parts> {
    const PARTS_MAX: usize = 12;

    fn new() -> LogLine<'parts> {
        LogLine { parts: [b""; LogLine::PARTS_MAX], count: 0 }
    }

    /// Adds to the end. There is always room for the end of the line.
    fn push_all(&mut self, parts: &[&'parts [u8]]) {
        for part in parts {
            if let Some(room) = self.parts.get_mut(self.count..LogLine::PARTS_MAX - 1)
                && let Some(first) = room.first_mut()
            {
                *first = part;
                self.count += 1;
            }
        }
    }

    /// Writes the line in one piece to the standard error of the beginning, if that is still there and
    /// has a reader. Returns whether it was written.
    fn write(self) -> bool {
        let kept = KEPT.load(Ordering::Relaxed);
        let mut descriptors = [kept, libc::STDERR_FILENO].into_iter();
        let Some(descriptor) = descriptors.find(|it| is_first(*it)) else { return false };
        let parts = self.ended();
        // Its reader may leave between the look and the write.
        sigpipe::held_back(|| {
            takes_a_line(descriptor) && {
                // SAFETY: the parts are as long as they say, and are only read.
                let count = unsafe {
                    libc::writev(descriptor, parts.as_ptr(), LogLine::PARTS_MAX as c_int)
                };
                count >= 0
            }
        })
    }

    /// Writes one of the last lines of the process: to descriptor 2, if that is a log, or leads to
    /// the standard error of the beginning; or to the descriptor that was kept. Whether it was
    /// written.
    fn write_last(self) -> bool {
        let (now, kept) = (libc::STDERR_FILENO, KEPT.load(Ordering::Relaxed));
        let parts = self.ended();
        // SAFETY: the parts are as long as they say.
        let write = |descriptor| unsafe { write_last(descriptor, &parts) };
        ((is_first(now) || is_log(now)) && write(now))
            || (kept != now && is_first(kept) && write(kept))
    }

    /// The line as it is written.
    fn ended(mut self) -> [iovec; LogLine::PARTS_MAX] {
        if let Some(end) = self.parts.get_mut(self.count) {
            *end = b"\n";
        }
        self.parts
            .map(|part| iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
    }
}

/// Whether a descriptor leads to the standard error of the beginning.
fn is_first(descriptor: c_int) -> bool {
    if STANDARD.load(Ordering::Acquire) == NOT_LOOKED_AT {
        find_stderr();
    }
    let file = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
    STANDARD.load(Ordering::Acquire) == OPEN && file_of(descriptor) == Some(file)
}

/// Whether a descriptor takes a line, now or within [`patience_ms`]. A pipe without a reader would end
/// the program by SIGPIPE, and a full one would stop it.
fn takes_a_line(descriptor: c_int) -> bool {
    let mut poll_fd = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    let mut poll = |ms: c_int| {
        let timeout = timespec { tv_sec: 0, tv_nsec: i64::from(ms) * 1_000_000 };
        // SAFETY: one descriptor to look at. `ppoll` is not one of the functions taken over.
        unsafe { libc::ppoll(&mut poll_fd, 1, &timeout, core::ptr::null()) }
    };
    let mut ready = poll(0);
    if ready == 0 {
        ready = poll(patience_ms());
    }
    ready == 1 && poll_fd.revents & libc::POLLOUT != 0 && poll_fd.revents & libc::POLLERR == 0
}

/// How long a line may wait for a reader. The clock runs from the first line that has to wait, not
/// from each line: a reader that takes one line in 90 ms uses the time up, too.
fn patience_ms() -> c_int {
    let now = now_ns();
    let begin = WAITED_AT_NS.load(Ordering::Relaxed);
    let waited = now.saturating_sub(begin);
    if begin == 0 || waited >= PATIENCE_NS {
        WAITED_AT_NS.store(now, Ordering::Relaxed);
        return READER_MS as c_int;
    }
    READER_MS.saturating_sub(waited / 1_000_000) as c_int
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_digits() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut digits = [0; 10];
            assert_eq!(decimal(number, &mut digits), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_line_of_too_many_parts_keeps_its_end() {
        let mut line = LogLine::new();
        line.push_all(&[b"x".as_slice(); 40]);
        assert_eq!(line.count, LogLine::PARTS_MAX - 1);
    }
}
