//! What can go wrong, as codes for C and as words for people.
//!
//! A failing call leaves its reason, with names and ranges, in a line of the calling thread's own.

#![forbid(unsafe_code)]

use core::cell::RefCell;
use core::ffi::CStr;
use core::fmt::{self, Write};

/// Why a call failed. Its number is the negative code that C sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Error {
    /// An argument is NULL or malformed.
    Argument = -1,
    /// No such option.
    Option = -2,
    /// A value outside an option's range.
    Range = -3,
    /// An option that is fixed once the heap is made.
    Fixed = -4,
    /// No address space or memory.
    Memory = -5,
    /// The kernel refused.
    System = -6,
}

impl Error {
    /// Leaves the reason for this thread to read and returns the error.
    #[cold]
    pub(crate) fn because(self, reason: fmt::Arguments<'_>) -> Error {
        LAST.with_borrow_mut(|line| {
            *line = Line::EMPTY;
            // A line that is full has dropped the rest; there is nothing else to do.
            let _ = line.write_fmt(reason);
        });
        self
    }
}

/// What a result means, in general.
pub(crate) fn meaning(code: i32) -> &'static CStr {
    match code {
        1 => c"more remains to be done: call again",
        -1 => c"an argument is NULL or malformed",
        -2 => c"there is no option of that name",
        -3 => c"the option does not take that value",
        -4 => c"the option is fixed once the heap is made",
        -5 => c"there is no room: address space or memory",
        -6 => c"the kernel refused; the heap goes on",
        _ => c"not a result of this library",
    }
}

/// This thread's last reason: a C string, empty when nothing failed yet. It stands until the
/// thread's next failure.
pub(crate) fn last() -> *const u8 {
    LAST.with(|line| line.as_ptr().cast())
}

/// A C string under construction. What does not fit is cut off. The text comes first: see [`last`].
#[repr(C)]
struct Line {
    text: [u8; Line::CAPACITY],
    len: usize,
}

impl Line {
    const CAPACITY: usize = 256;
    const EMPTY: Line = Line { text: [0; Line::CAPACITY], len: 0 };
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // The last byte stays 0.
        let room = Line::CAPACITY - 1 - self.len;
        let kept = &part.as_bytes()[..part.len().min(room)];
        self.text[self.len..self.len + kept.len()].copy_from_slice(kept);
        self.len += kept.len();
        Ok(())
    }
}

thread_local! {
    static LAST: RefCell<Line> = const { RefCell::new(Line::EMPTY) };
}

/// This thread's last reason as text.
#[cfg(test)]
pub(crate) fn last_text() -> String {
    LAST.with_borrow(|line| String::from_utf8_lossy(&line.text[..line.len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_kept_and_cut_to_fit() {
        Error::Range.because(format_args!("{}", "x".repeat(1000)));
        assert_eq!(last_text(), "x".repeat(255));
        assert_eq!(Error::Option.because(format_args!("no option depth")), Error::Option);
        assert_eq!(last_text(), "no option depth");
    }

    #[test]
    fn every_code_has_words_of_its_own() {
        let texts: Vec<&CStr> = (-6..=1).filter(|code| *code != 0).map(meaning).collect();
        for (index, text) in texts.iter().enumerate() {
            assert!(!text.is_empty() && !texts[..index].contains(text), "{text:?}");
        }
    }
}
