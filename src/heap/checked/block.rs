//! A checked block in its slot: its header, and the sizes of all parts.
//!
//! ```text
//!  slot                                                        end of the slot
//!  | header        | the block                 | red zone      |
//!  | number + size | ALLOC_FILL when handed    | REDZONE, at   |
//!  | checksum      | out, FREE_FILL when freed | least 8 bytes |
//! ```
//!
//! The checksum is computed from the header's address, its other word, a secret of the heap, and
//! whether the block is live. A write before a block breaks the checksum; a valid one does not come
//! number_and_size by chance.

#![forbid(unsafe_code)]

use crate::heap::slots::class;
use crate::units::round_up;

/// Bytes before a small block.
pub(super) const HEADER: usize = size_of::<Header>();
/// The least bytes behind one.
const ZONE_MIN: usize = 8;
/// The largest block that gets a slot.
pub(super) const SMALL_MAX: usize = class::SMALL_MAX - HEADER - ZONE_MIN;

/// Bits of [`Header::number_and_size`] that hold the size.
const SIZE_BITS: u32 = 14;

const _: () = assert!(SMALL_MAX < 1 << SIZE_BITS && HEADER == 16);

/// What stands before a small block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Header {
    /// How many blocks the heap had handed out with this one; and in the low bits its size.
    number_and_size: u64,
    checksum: u64,
}

/// What a header says.
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
        let number_and_size = number << SIZE_BITS | size as u64;
        Header { number_and_size, checksum: checksum(secret, block, number_and_size) }
    }

    /// The same of one that was freed.
    pub(super) fn freed(self) -> Header {
        Header { checksum: !self.checksum, ..self }
    }

    pub(super) fn state(&self, secret: u64, block: usize) -> HeaderState {
        let live = checksum(secret, block, self.number_and_size);
        match self.checksum {
            checksum if checksum == live => HeaderState::Live,
            checksum if checksum == !live => HeaderState::Freed,
            _ => HeaderState::Broken,
        }
    }

    pub(super) fn size(&self) -> usize {
        (self.number_and_size & ((1 << SIZE_BITS) - 1)) as usize
    }

    pub(super) fn number(&self) -> u64 {
        self.number_and_size >> SIZE_BITS
    }
}

fn checksum(secret: u64, block: usize, number_and_size: u64) -> u64 {
    let mixed =
        u128::from(secret ^ block as u64) * u128::from(number_and_size ^ 0x9E37_79B9_7F4A_7C15);
    (mixed >> 64) as u64 ^ mixed as u64
}

/// Bytes to ask the heap for, for a small block. A multiple of 16, so that the block is aligned to
/// as much.
pub(super) fn slot_bytes(size: usize) -> usize {
    round_up(HEADER + size + ZONE_MIN, 16)
}

/// What a block of `size` bytes is aligned to.
pub(super) fn alignment(size: usize) -> usize {
    if size.is_multiple_of(16) { 16 } else { 8 }
}

/// Where the upvalues of LuaJIT's `GCfuncL` begin: the size of a Lua function that has none.
pub(super) const UPVALUES_AT: usize = 40;

/// Whether a block is a Lua function that LuaJIT has not finished. When memory runs out for one of
/// its upvalues (`lj_func_newL`), it is left to the collector with their number at 0, and later is
/// freed with the size of a function that has none. No other size of LuaJIT's is wrong.
/// `kind` reads the bytes at [`KIND_AT`], if the size fits.
pub(super) fn is_unfinished_function(size: usize, kind: impl FnOnce() -> [u8; 3]) -> bool {
    const UPVALUE: usize = 8;
    const UPVALUES_MAX: usize = 60;
    /// A function, of Lua, with no upvalues.
    const KIND: [u8; 3] = [8, 0, 0];
    let upvalues = size.saturating_sub(UPVALUES_AT);
    let fits = (UPVALUE..=UPVALUE * UPVALUES_MAX).contains(&upvalues);
    fits && upvalues.is_multiple_of(UPVALUE) && kind() == KIND
}

/// Where the bytes lie in LuaJIT's `GCfuncL` that say what object it is, of which language, and how
/// many upvalues it has.
pub(super) const KIND_AT: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_without_its_upvalues_is_known_by_its_header() {
        for (size, expected) in [
            (48, true),
            (56, true),
            (520, true),
            (40, false),
            (44, false),
            (528, false),
            (0, false),
        ] {
            assert_eq!(is_unfinished_function(size, || [8, 0, 0]), expected, "{size}");
        }
        // No function, one of C, one that has its upvalues.
        for kind in [[7, 0, 0], [8, 1, 0], [8, 0, 1]] {
            assert!(!is_unfinished_function(48, || kind), "{kind:?}");
        }
    }

    #[test]
    fn a_checksum_breaks_with_every_bit_that_it_depends_on() {
        let header = Header::new(77, 0x7f00_1234_5670, 12345, 8000);
        assert_eq!((header.size(), header.number()), (8000, 12345));
        assert_eq!(header.state(77, 0x7f00_1234_5670), HeaderState::Live);
        assert_eq!(header.freed().state(77, 0x7f00_1234_5670), HeaderState::Freed);
        assert_eq!(header.state(78, 0x7f00_1234_5670), HeaderState::Broken);
        assert_eq!(header.state(77, 0x7f00_1234_5680), HeaderState::Broken);
        for bit in 0..64 {
            let number_and_size =
                Header { number_and_size: header.number_and_size ^ 1 << bit, ..header };
            let checksum = Header { checksum: header.checksum ^ 1 << bit, ..header };
            assert_eq!(number_and_size.state(77, 0x7f00_1234_5670), HeaderState::Broken, "{bit}");
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
