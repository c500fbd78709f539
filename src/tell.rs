//! Lines for people, from a process that works: where they go.
//!
//! Standard error may have become another file while the program ran: a database that was opened
//! after descriptor 2 was closed. The preload library knows which file standard error was when the
//! program began, so under it every line goes through a function of its own. A process without the
//! preload library called this library knowingly, and lines go to its standard error. (A bug that
//! ends the process is told by `bug`, always on descriptor 2.)

use core::ffi::c_char;
use core::fmt;
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::io::{Write, stderr};

use crate::line::Line;

/// Takes the text of one line, without an end and without `ebbtide: ` before it, and its bytes.
/// Signal handlers may call it.
pub(crate) type Say = unsafe extern "C" fn(*const c_char, usize);

/// A [`Say`]; null: standard error.
static SAY: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

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
        None => {
            let text = String::from_utf8_lossy(line.as_bytes());
            // Whether anybody reads the line does not matter.
            let _ = writeln!(stderr(), "ebbtide: {text}");
        }
    }
}
