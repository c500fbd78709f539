//! Lines for people, from a process that works: where they go.
//!
//! Standard error may have become another file while the program ran: a database that was opened
//! after descriptor 2 was closed. The preload library knows which file standard error was when
//! the program began, so under it every line goes through a function of its own. Without the
//! preload library a line goes to the file that standard error was at the first use of this
//! library: when the first heap was made, the environment checked, a Lua module opened or a line
//! told. Not when the library was loaded: a daemon turns its standard error into its log between
//! the two. Once descriptor 2 leads elsewhere, lines are dropped. (A bug that ends the process is
//! told by `bug`, always on descriptor 2.)

use core::ffi::c_char;
use core::fmt;
use core::mem::{MaybeUninit, transmute};
use core::sync::atomic::{AtomicPtr, Ordering};
use std::io::{Write, stderr};
use std::sync::OnceLock;

use crate::line::Line;

/// Takes the text of one line, without an end and without `ebbtide: ` before it, and its bytes.
/// Signal handlers may call it.
pub(crate) type Say = unsafe extern "C" fn(*const c_char, usize);

/// A [`Say`]; null: standard error.
static SAY: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// The file that descriptor 2 led to at the first use of the library; `None`: it was closed.
static STDERR: OnceLock<Option<File>> = OnceLock::new();

/// A file by its device and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct File(u64, u64);

/// From now on lines go through this function.
pub(crate) fn through(say: Say) {
    SAY.store(say as *mut (), Ordering::Release);
}

/// Tells a line. A signal handler may, where there is a function for lines.
#[cold]
pub(crate) fn line(message: fmt::Arguments<'_>) {
    let line = Line::new(message);
    let say = SAY.load(Ordering::Acquire);
    // SAFETY: null, or what `through` has stored; a null pointer is `None`.
    match unsafe { transmute::<*mut (), Option<Say>>(say) } {
        // SAFETY: the bytes are there, and are only read.
        Some(say) => unsafe { say(line.as_bytes().as_ptr().cast(), line.as_bytes().len()) },
        None if leads_to_stderr() => {
            let text = String::from_utf8_lossy(line.as_bytes());
            // Whether anybody reads the line does not matter.
            let _ = writeln!(stderr(), "ebbtide: {text}");
        }
        None => {}
    }
}

/// Remembers which file standard error leads to, unless that is known.
pub(crate) fn note_stderr() {
    let _ = leads_to_stderr();
}

/// Whether descriptor 2 leads to the file that it led to at the first use of the library.
fn leads_to_stderr() -> bool {
    let file = file_of_stderr();
    *STDERR.get_or_init(|| file) == file && file.is_some()
}

fn file_of_stderr() -> Option<File> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for the answer, which is read only if there is one; errno, which stays
    // as it was, is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        let failed = libc::fstat(libc::STDERR_FILENO, stat.as_mut_ptr()) != 0;
        *libc::__errno_location() = errno;
        if failed {
            return None;
        }
        let stat = stat.assume_init();
        Some(File(stat.st_dev, stat.st_ino))
    }
}
