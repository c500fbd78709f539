//! Text on the stack: what is said, and paths, without allocating.

#![forbid(unsafe_code)]

use core::ffi::CStr;

/// A C string under construction. What does not fit is cut off.
pub(crate) struct Text {
    bytes: [u8; Text::CAPACITY],
    len: usize,
}

impl Text {
    /// The longest path that Linux takes.
    const CAPACITY: usize = 4096;

    pub(crate) const fn new() -> Text {
        Text { bytes: [0; Text::CAPACITY], len: 0 }
    }

    /// Adds to the end.
    pub(crate) fn push(&mut self, part: &[u8]) {
        // The last byte stays 0.
        let room = self.bytes.get_mut(self.len..Text::CAPACITY - 1).unwrap_or_default();
        let count = part.len().min(room.len());
        for (to, from) in room.iter_mut().zip(part) {
            *to = *from;
        }
        self.len += count;
    }

    /// Adds each of them to the end.
    pub(crate) fn push_all(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.push(part);
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The same as a C string, up to the first zero byte.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let mut text = Text::new();
        text.push_all(&[b"one", b"", b" two"]);
        assert_eq!(text.as_bytes(), b"one two");
        assert_eq!(text.as_c_str(), c"one two");
    }

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let mut text = Text::new();
        text.push(&[b'x'; 4000]);
        text.push(&[b'y'; 4000]);
        text.push(b"z");
        assert_eq!(text.as_bytes(), [[b'x'; 4000].as_slice(), &[b'y'; 95]].concat());
        assert_eq!(text.as_c_str().to_bytes(), text.as_bytes());
    }
}
