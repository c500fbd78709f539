//! Stops the process with one line that says what is wrong.
//!
//! Errors are handled; bugs, ours or the host's, abort. The line goes to standard error without
//! allocating, since the allocator that would be asked may be the one that is broken.

use core::fmt;

use crate::line::Line;

/// Writes `ebbtide: message` to standard error and aborts. Use [`bug!`].
#[cold]
#[inline(never)]
pub(crate) fn stop(message: fmt::Arguments<'_>) -> ! {
    say(message);
    end()
}

/// Writes the line `ebbtide: message` to standard error. Signal handlers may.
#[cold]
pub(crate) fn say(message: fmt::Arguments<'_>) {
    let line = Line::new(format_args!("ebbtide: {message}"));
    let part = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let parts = [part(line.as_bytes()), part(b"\n")];
    // SAFETY: both parts are as long as they say, and are only read.
    unsafe {
        libc::writev(libc::STDERR_FILENO, parts.as_ptr(), parts.len() as libc::c_int);
    }
}

/// Aborts, when all is said.
#[cold]
pub(crate) fn end() -> ! {
    // SAFETY: it asks for nothing.
    unsafe { libc::abort() }
}

/// Aborts with one formatted line when an invariant is broken.
macro_rules! bug {
    ($($message:tt)*) => { $crate::bug::stop(format_args!($($message)*)) };
}

/// Aborts through [`bug!`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::bug::bug!($($message)*)
        }
    };
}

pub(crate) use {bug, ensure};
