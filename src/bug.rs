//! Stops the process with one line that says what is wrong.
//!
//! Errors are handled; bugs, ours or the host's, abort. The line goes where `log` has the last
//! lines of a process go, without allocating, since the allocator that would be asked may be the
//! one that is broken.

use core::fmt;

use crate::log;

/// Writes the line `ebbtide: message` and aborts. Use [`bug!`].
#[cold]
#[inline(never)]
pub(crate) fn fatal(message: fmt::Arguments<'_>) -> ! {
    log_line(message);
    abort()
}

/// Writes the line `ebbtide: message` of a process that ends. Signal handlers may call this.
#[cold]
pub(crate) fn log_line(message: fmt::Arguments<'_>) {
    log::last_line(message);
}

/// Aborts, when all lines are written.
#[cold]
pub(crate) fn abort() -> ! {
    // SAFETY: `abort` has no precondition.
    unsafe { libc::abort() }
}

/// Aborts with one formatted line when an invariant is broken.
macro_rules! bug {
    ($($message:tt)*) => { $crate::bug::fatal(format_args!($($message)*)) };
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
