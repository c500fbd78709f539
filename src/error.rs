//! What can go wrong, as codes for C and as words for people.
//!
//! A failing call leaves its reason, with names and ranges, in a line of the calling thread's own.

#![forbid(unsafe_code)]

use core::cell::RefCell;
use core::ffi::CStr;
use core::fmt;

use crate::fixed_str::FixedStr;

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
    /// What a VM runs on is not known beyond doubt.
    Unknown = -7,
}

impl Error {
    /// Leaves the reason for this thread to read and returns the error.
    #[cold]
    pub(crate) fn because(self, reason: fmt::Arguments<'_>) -> Error {
        LAST.set(FixedStr::new(reason));
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
        -7 => c"what the VM runs on is not known beyond doubt; nothing was touched",
        _ => c"not a result of this library",
    }
}

/// This thread's last reason: a C string, empty when nothing failed yet. It stands until the
/// thread's next failure.
pub(crate) fn last() -> *const u8 {
    LAST.with(|line| line.as_ptr().cast())
}

/// The same as a line.
pub(crate) fn last_line() -> FixedStr {
    LAST.with_borrow(|line| FixedStr::new(format_args!("{}", line.as_str())))
}

/// Leaves this thread's last reason as it is, whatever fails meanwhile: for work that no caller has
/// asked for.
pub(crate) fn without_trace<T>(act: impl FnOnce() -> T) -> T {
    let before = last_line();
    let result = act();
    LAST.set(before);
    result
}

/// Makes this thread's line. The dynamic linker may allocate it at its first use, which must not be
/// when memory has run out.
pub(crate) fn prepare() {
    core::hint::black_box(last());
}

thread_local! {
    static LAST: RefCell<FixedStr> = const { RefCell::new(FixedStr::EMPTY) };
}

/// This thread's last reason as text.
#[cfg(test)]
pub(crate) fn last_text() -> String {
    LAST.with_borrow(|line| String::from_utf8_lossy(line.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_kept() {
        Error::Range.because(format_args!("depth: {} is too deep", 7));
        assert_eq!(last_text(), "depth: 7 is too deep");
        assert_eq!(Error::Option.because(format_args!("no option depth")), Error::Option);
        assert_eq!(last_text(), "no option depth");
        let error = without_trace(|| Error::System.because(format_args!("refused")));
        assert_eq!((error, last_text().as_str()), (Error::System, "no option depth"));
    }

    #[test]
    fn every_code_has_words_of_its_own() {
        let texts: Vec<&CStr> = (-7..=1).filter(|code| *code != 0).map(meaning).collect();
        for (index, text) in texts.iter().enumerate() {
            assert!(!text.is_empty() && !texts[..index].contains(text), "{text:?}");
        }
    }
}
