//! One line of text on the stack: what is said without allocating.

#![forbid(unsafe_code)]

use core::fmt::{self, Write};

/// A C string under construction. What does not fit is cut off.
///
/// The text comes first: a pointer to a line is a pointer to its text.
#[repr(C)]
pub(crate) struct FixedStr {
    text: [u8; FixedStr::CAPACITY],
    len: usize,
}

impl FixedStr {
    const CAPACITY: usize = 320;

    pub(crate) const EMPTY: FixedStr = FixedStr { text: [0; FixedStr::CAPACITY], len: 0 };

    /// A line that says `message`.
    pub(crate) fn new(message: fmt::Arguments<'_>) -> FixedStr {
        let mut line = FixedStr::EMPTY;
        // A line never fails; a message that does would still leave what it wrote so far.
        let _ = line.write_fmt(message);
        line
    }

    /// The text without its end.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    /// The same as a string, up to a character that was cut off.
    pub(crate) fn as_str(&self) -> &str {
        match str::from_utf8(self.as_bytes()) {
            Ok(text) => text,
            Err(error) => str::from_utf8(&self.text[..error.valid_up_to()]).unwrap_or_default(),
        }
    }
}

impl Write for FixedStr {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // The last byte stays 0.
        let room = FixedStr::CAPACITY - 1 - self.len;
        let kept = &part.as_bytes()[..part.len().min(room)];
        self.text[self.len..self.len + kept.len()].copy_from_slice(kept);
        self.len += kept.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let line = FixedStr::new(format_args!("{}{}", "x".repeat(200), "y".repeat(1000)));
        assert_eq!(line.as_bytes(), [[b'x'; 200].as_slice(), &[b'y'; 119]].concat());
        assert_eq!(line.text[FixedStr::CAPACITY - 1], 0);
        assert_eq!(line.as_str().len(), 319);
        let line = FixedStr::new(format_args!("{}ü", "x".repeat(318)));
        assert_eq!((line.as_bytes().len(), line.as_str().len()), (319, 318));
    }
}
