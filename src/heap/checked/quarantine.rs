//! Freed blocks that are held back: first in, first out.
//!
//! A block that is held back is nobody's. Whoever still writes into it leaves a mark on its
//! pattern, or, where its pages are inaccessible, faults.

#![forbid(unsafe_code)]

/// Most blocks that are held back at once. More would only cost the caches more.
const BLOCKS_MAX: usize = 16 << 10;
/// Most bytes, with all that lies around the blocks.
const BYTES_MAX: usize = 4 << 20;
/// A block of more bytes than this is not held back.
pub(super) const BLOCK_MAX: usize = 1 << 20;

/// A block that is held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) at: *mut u8,
    /// All bytes that it keeps.
    pub(super) bytes: usize,
    /// How many blocks the heap had taken back with this one.
    pub(super) freed: u64,
    pub(super) is_large: bool,
}

/// The blocks of one heap that are held back.
pub(super) struct Quarantine {
    /// The oldest at `first`; round and round.
    ring: Vec<Held>,
    first: usize,
    count: usize,
    bytes: usize,
    /// How many of them are large.
    pub(super) large: u64,
}

impl Quarantine {
    /// One that holds nothing. `None`: there is no memory.
    pub(super) fn new(room: bool) -> Option<Quarantine> {
        let mut ring = Vec::new();
        let none = Held { at: core::ptr::null_mut(), bytes: 0, freed: 0, is_large: false };
        if room {
            ring.try_reserve_exact(BLOCKS_MAX).ok()?;
            ring.resize(BLOCKS_MAX, none);
        }
        Some(Quarantine { ring, first: 0, count: 0, bytes: 0, large: 0 })
    }

    /// Whether the oldest must go before a block of so many bytes comes.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.count == self.ring.len() || (self.count > 0 && self.bytes + bytes > BYTES_MAX)
    }

    /// Holds a block back, for which there is room.
    pub(super) fn push(&mut self, held: Held) {
        let at = (self.first + self.count) % self.ring.len();
        self.ring[at] = held;
        self.count += 1;
        self.bytes += held.bytes;
        self.large += u64::from(held.is_large);
    }

    /// Lets the oldest go.
    pub(super) fn pop(&mut self) -> Option<Held> {
        if self.count == 0 {
            return None;
        }
        let held = self.ring[self.first];
        self.first = (self.first + 1) % self.ring.len();
        self.count -= 1;
        self.bytes -= held.bytes;
        self.large -= u64::from(held.is_large);
        Some(held)
    }

    /// The block that starts there, if it is held back.
    pub(super) fn find(&self, at: *mut u8) -> Option<Held> {
        let held = (0..self.count).map(|index| self.ring[(self.first + index) % self.ring.len()]);
        held.into_iter().find(|held| held.at == at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(number: usize, bytes: usize) -> Held {
        let at = core::ptr::without_provenance_mut(number);
        Held { at, bytes, freed: number as u64, is_large: false }
    }

    #[test]
    fn the_oldest_goes_first_and_neither_bound_is_passed() {
        for bytes in [32, 300, 4096, BLOCK_MAX] {
            let mut quarantine = Quarantine::new(true).expect("memory");
            let mut oldest = 1;
            for number in 1..40_000 {
                while quarantine.is_full(bytes) {
                    let gone = quarantine.pop().expect("it is full");
                    assert_eq!(gone.freed, oldest);
                    oldest += 1;
                }
                quarantine.push(held(number, bytes));
                assert!(quarantine.count <= BLOCKS_MAX && quarantine.bytes <= BYTES_MAX);
            }
            let last = core::ptr::without_provenance_mut(39_999);
            assert_eq!(quarantine.find(last).map(|held| held.freed), Some(39_999));
            assert!(quarantine.find(core::ptr::without_provenance_mut(1)).is_none());
            while quarantine.pop().is_some() {}
            assert_eq!((quarantine.bytes, quarantine.count), (0, 0));
        }
    }
}
