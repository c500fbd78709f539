//! Stops the process with one line that says what is wrong.
//!
//! Errors are handled; bugs, ours or the host's, abort. The line goes where `tell` has the last
//! lines of a process go, without allocating, since the allocator that would be asked may be the
//! one that is broken.

use core::fmt;

use crate::tell;

/// Tells `ebbtide: message` and aborts. Use [`bug!`].
#[cold]
#[inline(never)]
pub(crate) fn stop(message: fmt::Arguments<'_>) -> ! {
    say(message);
    end()
}

/// Tells the line `ebbtide: message` of a process that ends. Signal handlers may.
#[cold]
pub(crate) fn say(message: fmt::Arguments<'_>) {
    tell::last_line(message);
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
