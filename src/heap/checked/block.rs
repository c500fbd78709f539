//! A checked block in its slot, and the patterns that tell what was written where nothing may be.
//!
//! ```text
//!  slot                                                        end of the slot
//!  | header        | the block                 | red zone      |
//!  | number + size | ALLOC_FILL when handed    | REDZONE, at   |
//!  | checksum      | out, FREE_FILL when freed | least 8 bytes |
//! ```
//!
//! The checksum is worked out from the header's address, its other word, a secret of the heap, and
//! whether the block lives. Who writes before a block breaks it, and nobody makes one by chance.

#![forbid(unsafe_code)]

use crate::heap::slots::class;
use crate::units::round_up;

/// What fills a block that is handed out. As a pointer it is none, as a double it is tiny.
pub(super) const ALLOC_FILL: u8 = 0xAB;
/// What fills a block that was freed.
pub(super) const FREE_FILL: u8 = 0xDF;
/// What fills the bytes beside a block.
pub(super) const REDZONE: u8 = 0xEB;

/// Bytes before a small block.
pub(super) const HEADER: usize = size_of::<Header>();
/// The least bytes behind one.
const ZONE_MIN: usize = 8;
/// The largest block that gets a slot.
pub(super) const SMALL_MAX: usize = class::SMALL_MAX - HEADER - ZONE_MIN;

/// Bits of [`Header::about`] that hold the size.
const SIZE_BITS: u32 = 14;

const _: () = assert!(SMALL_MAX < 1 << SIZE_BITS && HEADER == 16);

/// What stands before a small block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Header {
    /// How many blocks the heap had handed out with this one; and in the low bits its size.
    about: u64,
    checksum: u64,
}

/// What a seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderState {
    Live,
    Freed,
    /// It was written over.
    Broken,
}

impl Header {
    /// The header of a live block.
    pub(super) fn new(secret: u64, block: usize, number: u64, size: usize) -> Header {
        let about = number << SIZE_BITS | size as u64;
        Header { about, checksum: checksum(secret, block, about) }
    }

    /// The same of one that was freed.
    pub(super) fn freed(self) -> Header {
        Header { checksum: !self.checksum, ..self }
    }

    pub(super) fn state(&self, secret: u64, block: usize) -> HeaderState {
        let live = checksum(secret, block, self.about);
        match self.checksum {
            checksum if checksum == live => HeaderState::Live,
            checksum if checksum == !live => HeaderState::Freed,
            _ => HeaderState::Broken,
        }
    }

    pub(super) fn size(&self) -> usize {
        (self.about & ((1 << SIZE_BITS) - 1)) as usize
    }

    pub(super) fn number(&self) -> u64 {
        self.about >> SIZE_BITS
    }
}

fn checksum(secret: u64, block: usize, about: u64) -> u64 {
    let mixed = u128::from(secret ^ block as u64) * u128::from(about ^ 0x9E37_79B9_7F4A_7C15);
    (mixed >> 64) as u64 ^ mixed as u64
}

/// Bytes to ask the heap for, for a small block. A multiple of 16, so that the block is aligned to
/// as much.
pub(super) fn slot_bytes(size: usize) -> usize {
    round_up(HEADER + size + ZONE_MIN, 16)
}

/// A word of a pattern.
const fn word_of(pattern: u8) -> u64 {
    u64::from_ne_bytes([pattern; 8])
}

/// The bits of the word where a block of `size` bytes ends that are still the block's.
fn last_bits(size: usize) -> u64 {
    ((1 << (size % 8 * 8)) - 1_u64).to_le()
}

/// Fills all that lies behind a header for a block of `size` bytes.
#[inline(always)]
pub(super) fn lay_out(body: &mut [u64], size: usize) {
    let bits = last_bits(size);
    fill(body, ALLOC_FILL);
    let zone = &mut body[size / 8..];
    fill(zone, REDZONE);
    zone[0] = word_of(ALLOC_FILL) & bits | word_of(REDZONE) & !bits;
}

/// Whether the zone behind a block of `size` bytes is whole.
#[inline(always)]
pub(super) fn zone_is_whole(body: &[u64], size: usize) -> bool {
    let zone = &body[size / 8..];
    (zone[0] ^ word_of(REDZONE)) & !last_bits(size) == 0 && is_all(&zone[1..], REDZONE)
}

/// Whether words are all of a pattern.
#[inline(always)]
pub(super) fn is_all(words: &[u64], pattern: u8) -> bool {
    let word = word_of(pattern);
    match words.len() {
        0..=1 => words.iter().all(|it| *it == word),
        2..=4 => ends_are::<2>(words, word),
        5..=8 => ends_are::<4>(words, word),
        9..=16 => ends_are::<8>(words, word),
        _ => words.iter().fold(0, |other, it| other | it ^ word) == 0,
    }
}

/// Fills words with a pattern.
#[inline(always)]
pub(super) fn fill(words: &mut [u64], pattern: u8) {
    let word = word_of(pattern);
    match words.len() {
        0..=1 => words.iter_mut().for_each(|it| *it = word),
        2..=4 => fill_ends::<2>(words, word),
        5..=8 => fill_ends::<4>(words, word),
        9..=16 => fill_ends::<8>(words, word),
        17..=32 => fill_ends::<16>(words, word),
        _ => words.fill(word),
    }
}

/// Fills the first and the last N words: up to 2 N are all, without a loop.
#[inline(always)]
fn fill_ends<const N: usize>(words: &mut [u64], word: u64) {
    if let Some(first) = words.first_chunk_mut::<N>() {
        *first = [word; N];
    }
    if let Some(last) = words.last_chunk_mut::<N>() {
        *last = [word; N];
    }
}

/// Whether the first and the last N words are all the same.
#[inline(always)]
fn ends_are<const N: usize>(words: &[u64], word: u64) -> bool {
    let mut other = 0;
    for chunk in [words.first_chunk::<N>(), words.last_chunk::<N>()].into_iter().flatten() {
        other = chunk.iter().fold(other, |other, it| other | it ^ word);
    }
    other == 0
}

/// What a block of `size` bytes is aligned to.
pub(super) fn alignment(size: usize) -> usize {
    if size.is_multiple_of(16) { 16 } else { 8 }
}

/// Where the first byte stands that is not the pattern's.
pub(super) fn first_other(bytes: &[u8], pattern: u8) -> Option<usize> {
    let word = u64::from_ne_bytes([pattern; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    let other = words.iter().fold(0, |other, bytes| other | u64::from_ne_bytes(*bytes) ^ word);
    if other == 0 && rest.iter().all(|byte| *byte == pattern) {
        return None;
    }
    bytes.iter().position(|byte| *byte != pattern)
}

/// Where the upvalues of LuaJIT's `GCfuncL` begin: the size of a Lua function that has none.
pub(super) const UPVALUES_AT: usize = 40;

/// Whether a block is a Lua function that LuaJIT has not finished. When memory runs out for one of
/// its upvalues (`lj_func_newL`), it is left to the collector with their number at 0, and later is
/// freed with the size of a function that has none. No other size of LuaJIT's is wrong.
pub(super) fn is_unfinished_function(block: &[u8]) -> bool {
    const UPVALUE: usize = 8;
    const UPVALUES_MAX: usize = 60;
    /// In the bytes from 9 on: a function, of Lua, with no upvalues.
    const HEADER: [u8; 3] = [8, 0, 0];
    let upvalues = block.len().saturating_sub(UPVALUES_AT);
    let fits = (UPVALUE..=UPVALUE * UPVALUES_MAX).contains(&upvalues);
    fits && upvalues.is_multiple_of(UPVALUE) && block[9..12] == HEADER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_without_its_upvalues_is_known_by_its_header() {
        let mut block = [0u8; 600];
        block[9] = 8;
        for (size, expected) in [
            (48, true),
            (56, true),
            (520, true),
            (40, false),
            (44, false),
            (528, false),
            (0, false),
        ] {
            assert_eq!(is_unfinished_function(&block[..size]), expected, "{size}");
        }
        // No function, one of C, one that has its upvalues.
        for (at, byte) in [(9, 7), (10, 1), (11, 1)] {
            let mut other = block;
            other[at] = byte;
            assert!(!is_unfinished_function(&other[..48]), "{at}");
        }
    }

    #[test]
    fn every_other_byte_is_found_wherever_it_stands() {
        for length in 0..40 {
            let mut bytes = vec![REDZONE; length];
            assert_eq!(first_other(&bytes, REDZONE), None);
            for at in (0..length).rev() {
                bytes[at] ^= 1;
                assert_eq!(first_other(&bytes, REDZONE), Some(at), "{length}");
            }
        }
    }

    #[test]
    fn a_zone_begins_with_the_byte_behind_the_block() {
        for size in 1..200 {
            let mut body = vec![0; (slot_bytes(size) - HEADER) / 8];
            lay_out(&mut body, size);
            let bytes: Vec<u8> = body.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert_eq!(first_other(&bytes[..size], ALLOC_FILL), None, "{size}");
            assert_eq!(first_other(&bytes[size..], REDZONE), None, "{size}");
            for at in 0..bytes.len() {
                let mut broken = body.clone();
                broken[at / 8] ^= u64::from_ne_bytes([0x10; 8])
                    & !u64::from_ne_bytes({
                        let mut others = [0xFF; 8];
                        others[at % 8] = 0;
                        others
                    });
                assert_eq!(zone_is_whole(&broken, size), at < size, "{at} of {size}");
            }
            fill(&mut body, FREE_FILL);
            assert!(is_all(&body, FREE_FILL) && !is_all(&body, REDZONE));
        }
    }

    #[test]
    fn a_seal_breaks_with_every_bit_that_it_depends_on() {
        let header = Header::new(77, 0x7f00_1234_5670, 12345, 8000);
        assert_eq!((header.size(), header.number()), (8000, 12345));
        assert_eq!(header.state(77, 0x7f00_1234_5670), HeaderState::Live);
        assert_eq!(header.freed().state(77, 0x7f00_1234_5670), HeaderState::Freed);
        assert_eq!(header.state(78, 0x7f00_1234_5670), HeaderState::Broken);
        assert_eq!(header.state(77, 0x7f00_1234_5680), HeaderState::Broken);
        for bit in 0..64 {
            let about = Header { about: header.about ^ 1 << bit, ..header };
            let checksum = Header { checksum: header.checksum ^ 1 << bit, ..header };
            assert_eq!(about.state(77, 0x7f00_1234_5670), HeaderState::Broken, "{bit}");
            assert_eq!(checksum.state(77, 0x7f00_1234_5670), HeaderState::Broken, "{bit}");
        }
    }

    #[test]
    fn a_slot_has_room_for_all_parts_and_is_a_small_block() {
        for size in 1..=SMALL_MAX {
            let bytes = slot_bytes(size);
            assert!(bytes >= HEADER + size + ZONE_MIN && bytes.is_multiple_of(16), "{size}");
            assert!(bytes <= class::SMALL_MAX, "{size}");
        }
    }
}
