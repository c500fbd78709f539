//! Freed blocks that are held back: first in, first out.
//!
//! A block that is held back belongs to nobody. A program that still writes into it changes its
//! pattern or, where its pages are inaccessible, faults.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Most blocks that are held back at once: more would evict more of the program's data from the
/// caches.
const BLOCKS_MAX: usize = 8 << 10;
/// Most bytes, with all that lies around the blocks.
const BYTES_MAX: usize = 4 << 20;
/// A block of more bytes than this is not held back.
pub(super) const BLOCK_MAX: usize = 1 << 20;
/// How many blocks ahead of its turn one is fetched into the caches.
const AHEAD: usize = 8;

/// A block that is held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct QuarantineEntry {
    pub(super) at: *mut u8,
    /// All bytes that it keeps.
    pub(super) bytes: usize,
    /// How many blocks the heap had taken back with this one.
    pub(super) freed: u64,
    pub(super) is_large: bool,
}

/// The same in 16 bytes.
#[derive(Clone, Copy)]
struct Packed {
    at: *mut u8,
    /// The low half of the number.
    freed: u32,
    /// The bytes, and in the lowest bit whether it is large: they are a multiple of 8.
    bytes: u32,
}

impl Packed {
    fn new(entry: QuarantineEntry) -> Packed {
        let bytes = entry.bytes as u32 | u32::from(entry.is_large);
        Packed { at: entry.at, freed: entry.freed as u32, bytes }
    }

    /// With the number of the block that was freed last, which is not 2^32 further.
    fn unpack(self, last: u64) -> QuarantineEntry {
        let since = (last as u32).wrapping_sub(self.freed);
        let (bytes, is_large) = (self.bytes & !1, self.bytes & 1 == 1);
        QuarantineEntry {
            at: self.at,
            bytes: bytes as usize,
            freed: last - u64::from(since),
            is_large,
        }
    }
}

/// The blocks of one heap that are held back.
pub(super) struct Quarantine {
    /// The oldest first.
    blocks: VecDeque<Packed>,
    bytes: usize,
    /// The number of the block that came last.
    last: u64,
    /// How many of them are large.
    pub(super) large: u64,
}

impl Quarantine {
    pub(super) const EMPTY: Quarantine =
        Quarantine { blocks: VecDeque::new(), bytes: 0, last: 0, large: 0 };

    /// Whether the oldest must go before a block of `bytes` bytes comes.
    #[inline(always)]
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        let count = self.blocks.len();
        count == BLOCKS_MAX || (count > 0 && self.bytes + bytes > BYTES_MAX)
    }

    /// Holds a block back, if it is not full. False: there is no memory to note it.
    #[inline(always)]
    pub(super) fn push(&mut self, entry: QuarantineEntry) -> bool {
        if self.blocks.try_reserve(1).is_err() {
            return false;
        }
        self.blocks.push_back(Packed::new(entry));
        self.bytes += entry.bytes;
        self.large += u64::from(entry.is_large);
        self.last = entry.freed;
        true
    }

    /// Lets the oldest go.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<QuarantineEntry> {
        let entry = self.blocks.pop_front()?.unpack(self.last);
        self.bytes -= entry.bytes;
        self.large -= u64::from(entry.is_large);
        Some(entry)
    }

    /// A block whose turn to go comes soon, and its bytes; any address if there is none.
    #[inline(always)]
    pub(super) fn coming(&self) -> (*mut u8, usize) {
        let coming = self.blocks.get(AHEAD);
        coming.map_or((core::ptr::null_mut(), 0), |entry| (entry.at, entry.bytes as usize))
    }

    /// The block that starts there, if it is held back.
    pub(super) fn find(&self, at: *mut u8) -> Option<QuarantineEntry> {
        let found = self.blocks.iter().find(|entry| entry.at == at);
        found.map(|entry| entry.unpack(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize, bytes: usize) -> QuarantineEntry {
        let at = core::ptr::without_provenance_mut(number);
        QuarantineEntry { at, bytes, freed: number as u64, is_large: false }
    }

    #[test]
    fn the_oldest_goes_first_and_neither_bound_is_passed() {
        for bytes in [32, 300, 4096, BLOCK_MAX] {
            let mut quarantine = Quarantine::EMPTY;
            let mut oldest = 1;
            for number in 1..40_000 {
                while quarantine.is_full(bytes) {
                    let gone = quarantine.pop().expect("it is full");
                    assert_eq!(gone.freed, oldest);
                    oldest += 1;
                }
                assert!(quarantine.push(entry(number, bytes)));
                assert!(quarantine.blocks.len() <= BLOCKS_MAX && quarantine.bytes <= BYTES_MAX);
            }
            let last = core::ptr::without_provenance_mut(39_999);
            assert_eq!(quarantine.find(last).map(|entry| entry.freed), Some(39_999));
            assert!(quarantine.find(core::ptr::without_provenance_mut(1)).is_none());
            while quarantine.pop().is_some() {}
            assert_eq!((quarantine.bytes, quarantine.blocks.len()), (0, 0));
        }
    }
}
