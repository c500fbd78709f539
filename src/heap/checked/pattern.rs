//! Patterns in memory: written where nothing may be, and looked for.
//!
//! The program can write to this memory at any time: a bug of that kind is what a checked heap is
//! for. So the bytes are reached by raw pointers alone, one read or write at a time, and no
//! reference to them is ever formed.

use super::block::HEADER;

/// What fills a block that is handed out. As a pointer it is none, as a double it is tiny.
pub(super) const ALLOC_FILL: u8 = 0xAB;
/// What fills a block that was freed.
pub(super) const FREE_FILL: u8 = 0xDF;
/// What fills the bytes beside a block.
pub(super) const REDZONE: u8 = 0xEB;

/// A word of a pattern.
const fn word_of(pattern: u8) -> u64 {
    u64::from_ne_bytes([pattern; 8])
}

/// The bits of the word where a block of `size` bytes ends that are still the block's.
fn last_bits(size: usize) -> u64 {
    ((1 << (size % 8 * 8)) - 1_u64).to_le()
}

/// Fills bytes with a pattern.
///
/// # Safety
///
/// `bytes` bytes from `at` on are writable.
pub(super) unsafe fn fill(at: *mut u8, bytes: usize, pattern: u8) {
    // SAFETY: the caller's promise.
    unsafe { at.write_bytes(pattern, bytes) };
}

/// The index of the first byte that is not the pattern's.
///
/// # Safety
///
/// `bytes` bytes from `at` on are readable.
pub(super) unsafe fn first_other(at: *mut u8, bytes: usize, pattern: u8) -> Option<usize> {
    let (word, words) = (word_of(pattern), bytes / 8);
    // SAFETY: the caller's promise: each of the words, which may be unaligned, ends within `bytes`.
    let read = |index: usize| unsafe { at.cast::<u64>().add(index).read_unaligned() };
    // SAFETY: the caller's promise, for an index below `bytes`.
    let differs = |index: &usize| unsafe { at.add(*index).read() } != pattern;
    let other = (0..words).fold(0, |other, index| other | read(index) ^ word);
    let start = if other == 0 { words * 8 } else { 0 };
    (start..bytes).find(differs)
}

/// How many bytes are not the pattern's.
///
/// # Safety
///
/// `bytes` bytes from `at` on are readable.
pub(super) unsafe fn count_others(at: *mut u8, bytes: usize, pattern: u8) -> usize {
    // SAFETY: the caller's promise, for an index below `bytes`.
    (0..bytes).filter(|index| unsafe { at.add(*index).read() } != pattern).count()
}

/// All words behind the header of a block in its slot.
#[derive(Clone, Copy)]
pub(super) struct Body {
    words: *mut u64,
    count: usize,
}

impl Body {
    /// That of the block at `at` in a slot of `slot_bytes` bytes. Both are multiples of 8.
    #[inline(always)]
    pub(super) fn new(at: *mut u8, slot_bytes: usize) -> Body {
        Body { words: at.cast(), count: (slot_bytes - HEADER) / 8 }
    }

    /// The words from one on.
    ///
    /// # Panics
    ///
    /// When `first` is not below their count.
    #[inline(always)]
    fn from(self, first: usize) -> Body {
        assert!(first < self.count, "a block ends beyond its slot");
        Body { words: self.words.wrapping_add(first), count: self.count - first }
    }

    /// Fills the block, of `size` bytes, and the zone behind it.
    ///
    /// # Safety
    ///
    /// The words are writable.
    #[inline(always)]
    pub(super) unsafe fn lay_out(self, size: usize) {
        let (bits, zone) = (last_bits(size), self.from(size / 8));
        // SAFETY: the caller's promise; the zone is a part of the words, and has one at least.
        unsafe {
            self.fill(ALLOC_FILL);
            zone.fill(REDZONE);
            zone.words.write(word_of(ALLOC_FILL) & bits | word_of(REDZONE) & !bits);
        }
    }

    /// Whether the zone behind a block of `size` bytes is whole.
    ///
    /// # Safety
    ///
    /// The words are readable.
    #[inline(always)]
    pub(super) unsafe fn zone_is_whole(self, size: usize) -> bool {
        let zone = self.from(size / 8);
        let rest = Body { words: zone.words.wrapping_add(1), count: zone.count - 1 };
        // SAFETY: the caller's promise; the zone is a part of the words, and has one at least.
        unsafe {
            (zone.words.read() ^ word_of(REDZONE)) & !last_bits(size) == 0 && rest.is_all(REDZONE)
        }
    }

    /// Whether all words are the pattern's.
    ///
    /// # Safety
    ///
    /// The words are readable.
    #[inline(always)]
    pub(super) unsafe fn is_all(self, pattern: u8) -> bool {
        let Body { words, count } = self;
        let word = word_of(pattern);
        // SAFETY: the caller's promise, for an index below `count`; and each arm of the match has
        // at least as many words as it reads at one end.
        unsafe {
            match count {
                0 => true,
                1 => words.read() == word,
                2..=4 => self.ends_are::<2>(word),
                5..=8 => self.ends_are::<4>(word),
                9..=16 => self.ends_are::<8>(word),
                _ => (0..count).fold(0, |other, index| other | words.add(index).read() ^ word) == 0,
            }
        }
    }

    /// Fills the words with a pattern.
    ///
    /// # Safety
    ///
    /// The words are writable.
    #[inline(always)]
    pub(super) unsafe fn fill(self, pattern: u8) {
        let Body { words, count } = self;
        let word = word_of(pattern);
        // SAFETY: the caller's promise, for an index below `count`; and each arm of the match has
        // at least as many words as it writes at one end.
        unsafe {
            match count {
                0 => {}
                1 => words.write(word),
                2..=4 => self.fill_ends::<2>(word),
                5..=8 => self.fill_ends::<4>(word),
                9..=16 => self.fill_ends::<8>(word),
                17..=32 => self.fill_ends::<16>(word),
                _ => (0..count).for_each(|index| words.add(index).write(word)),
            }
        }
    }

    /// Fills the first and the last N words: up to 2 N are all, without a loop.
    ///
    /// # Safety
    ///
    /// There are N words at least, and they are writable.
    #[inline(always)]
    unsafe fn fill_ends<const N: usize>(self, word: u64) {
        // SAFETY: the caller's promise; an array is aligned as its words are.
        unsafe {
            self.words.cast::<[u64; N]>().write([word; N]);
            self.words.add(self.count - N).cast::<[u64; N]>().write([word; N]);
        }
    }

    /// Whether the first and the last N words are all the same.
    ///
    /// # Safety
    ///
    /// There are N words at least, and they are readable.
    #[inline(always)]
    unsafe fn ends_are<const N: usize>(self, word: u64) -> bool {
        // SAFETY: the caller's promise; an array is aligned as its words are.
        let ends = unsafe {
            let end = self.words.add(self.count - N);
            [self.words.cast::<[u64; N]>().read(), end.cast::<[u64; N]>().read()]
        };
        ends.as_flattened().iter().fold(0, |other, it| other | it ^ word) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::slot_bytes;
    use super::*;

    #[test]
    fn every_other_byte_is_found_wherever_it_stands() {
        for length in 0..40 {
            let mut bytes = vec![REDZONE; length];
            let first_other = |bytes: &mut [u8]| {
                // SAFETY: they are the slice's.
                unsafe { first_other(bytes.as_mut_ptr(), bytes.len(), REDZONE) }
            };
            assert_eq!(first_other(&mut bytes), None);
            for at in (0..length).rev() {
                bytes[at] ^= 1;
                assert_eq!(first_other(&mut bytes), Some(at), "{length}");
                // SAFETY: they are the slice's.
                let others = unsafe { count_others(bytes.as_mut_ptr(), length, REDZONE) };
                assert_eq!(others, length - at);
            }
        }
    }

    #[test]
    fn a_zone_begins_with_the_byte_behind_the_block() {
        for size in 1..200 {
            let mut words = vec![0; (slot_bytes(size) - HEADER) / 8];
            let body = Body { words: words.as_mut_ptr(), count: words.len() };
            // SAFETY: the words are the vector's.
            unsafe {
                let (at, bytes) = (body.words.cast::<u8>(), 8 * body.count);
                body.lay_out(size);
                assert_eq!(first_other(at, size, ALLOC_FILL), None, "{size}");
                assert_eq!(first_other(at.add(size), bytes - size, REDZONE), None, "{size}");
                for index in 0..bytes {
                    let byte = at.add(index);
                    byte.write(byte.read() ^ 0x10);
                    assert_eq!(body.zone_is_whole(size), index < size, "{index} of {size}");
                    byte.write(byte.read() ^ 0x10);
                }
                body.fill(FREE_FILL);
                assert!(body.is_all(FREE_FILL) && !body.is_all(REDZONE));
            }
            assert!(words.iter().all(|word| *word == word_of(FREE_FILL)), "{size}");
        }
    }
}
