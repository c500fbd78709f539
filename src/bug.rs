//! Stops the process with one line that says what is wrong.
//!
//! Errors are handled; bugs, ours or the host's, abort. The line goes to standard error without
//! allocating, since the allocator that would be asked may be the one that is broken.

use core::fmt::{self, Write};

/// A line under construction, on the stack. What does not fit is cut off.
struct Line {
    text: [u8; Line::CAPACITY],
    len: usize,
}

impl Line {
    const CAPACITY: usize = 400;
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // One byte stays free for the newline.
        let room = Self::CAPACITY - 1 - self.len;
        let kept = &part.as_bytes()[..part.len().min(room)];
        self.text[self.len..self.len + kept.len()].copy_from_slice(kept);
        self.len += kept.len();
        Ok(())
    }
}

/// Writes `ebbtide: message` to standard error and aborts. Use [`bug!`].
#[cold]
#[inline(never)]
pub(crate) fn stop(message: fmt::Arguments<'_>) -> ! {
    let mut line = Line { text: [0; Line::CAPACITY], len: 0 };
    // Line never fails, and a formatting error would still leave what was written so far.
    let _ = write!(line, "ebbtide: {message}");
    line.text[line.len] = b'\n';
    // SAFETY: the buffer holds line.len + 1 initialised bytes; write and abort touch nothing else.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.text.as_ptr().cast(), line.len + 1);
        libc::abort()
    }
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
