//! What is said, and where: on the standard error that the program began with.
//!
//! At its end a program has often closed it, and another file may stand in its place. So where
//! `EBBTIDE_VERBOSE` asks for a line, the constructor keeps a descriptor, and the line is written
//! to whichever descriptor still leads to the same file.

use core::ffi::{CStr, c_char, c_int};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use crate::text::Text;

/// Whether the one line of this process is still to be said.
static WANTED: AtomicBool = AtomicBool::new(false);
/// It was said.
static SAID: AtomicBool = AtomicBool::new(false);
/// Out of the way of programs that count on the lowest descriptors.
const KEPT_MIN: c_int = 200;
static KEPT: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
/// The process that began, not its forks.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Whether a variable is in the environment.
pub(crate) fn is_set(variable: &CStr) -> bool {
    value_of(variable).is_some()
}

/// Whether a variable names this process by its number.
pub(crate) fn is_named(variable: &CStr) -> bool {
    // SAFETY: always sound.
    let process = unsafe { libc::getpid() };
    let number = value_of(variable).and_then(|value| value.to_str().ok()?.parse().ok());
    number == Some(process)
}

fn value_of(variable: &CStr) -> Option<&CStr> {
    // SAFETY: a C string. The value is read before anybody can change the environment: at the
    // beginning and the end of the process.
    unsafe {
        let value = libc::getenv(variable.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

/// Looks whether a line is asked for.
pub(crate) fn start() {
    let verbose = value_of(c"EBBTIDE_VERBOSE").is_some_and(|value| value != c"" && value != c"0");
    let asked = verbose || is_named(c"EBBTIDE_REPORT");
    let Some((device, inode)) = file_of(libc::STDERR_FILENO).filter(|_| asked) else { return };
    // SAFETY: always sound.
    let (kept, process) = unsafe {
        (libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, KEPT_MIN), libc::getpid())
    };
    KEPT.store(kept.max(libc::STDERR_FILENO), Ordering::Relaxed);
    DEVICE.store(device, Ordering::Relaxed);
    INODE.store(inode, Ordering::Relaxed);
    PROCESS.store(process, Ordering::Relaxed);
    WANTED.store(verbose, Ordering::Release);
}

/// Asks for the line, unless it was said.
pub(crate) fn want() {
    if !SAID.load(Ordering::Relaxed) {
        WANTED.store(true, Ordering::Release);
    }
}

/// Says the one line of this process, if it is asked for and was not said yet.
pub(crate) fn once(parts: &[&[u8]]) {
    if WANTED.load(Ordering::Relaxed) && WANTED.swap(false, Ordering::AcqRel) {
        SAID.store(true, Ordering::Relaxed);
        line(parts);
    }
}

/// Whether [`once`] would say anything now, at the end of the process that began.
pub(crate) fn is_wanted_at_the_end() -> bool {
    // SAFETY: always sound.
    let process = unsafe { libc::getpid() };
    WANTED.load(Ordering::Acquire) && PROCESS.load(Ordering::Relaxed) == process
}

unsafe extern "C" {
    /// The name that the program was called by, without its folder.
    static program_invocation_short_name: *const c_char;
}

/// Says a line in any case. The program's name is in it: a shell may run many.
pub(crate) fn line(parts: &[&[u8]]) {
    // SAFETY: the C library sets it before anything runs, to a C string that stays.
    let program = unsafe { CStr::from_ptr(program_invocation_short_name) };
    let mut text = Text::new();
    text.push_all(&[b"ebbtide: ", program.to_bytes(), b": "]);
    text.push_all(parts);
    text.push(b"\n");
    let (device, inode) = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
    let known = inode != 0;
    for descriptor in [KEPT.load(Ordering::Relaxed), libc::STDERR_FILENO] {
        if !known || file_of(descriptor) == Some((device, inode)) {
            let bytes = text.as_bytes();
            // SAFETY: the bytes are there. Whether anybody reads them does not matter.
            unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
            return;
        }
    }
}

/// Which file a descriptor leads to.
fn file_of(descriptor: c_int) -> Option<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for the answer, which is read if there is one.
    unsafe {
        if libc::fstat(descriptor, stat.as_mut_ptr()) != 0 {
            return None;
        }
        let stat = stat.assume_init();
        Some((stat.st_dev, stat.st_ino))
    }
}
