//! A live block, and the pattern that it holds.

/// The part of a large block that carries its pattern: two words in each step.
const STEP: usize = 1024;
/// Blocks up to here carry it in every byte.
const FILLED: usize = 512;

/// A live block.
pub(crate) struct Block {
    pub(crate) at: *mut u8,
    pub(crate) size: usize,
    pub(crate) seed: u64,
}

impl Block {
    /// Visits the words of the pattern that lie within `size` bytes: their offset and value.
    #[inline]
    fn words(seed: u64, size: usize, mut visit: impl FnMut(usize, u64)) {
        let step = if size <= FILLED { 8 } else { STEP };
        let mut at = 0;
        while at + 8 <= size {
            visit(at, seed ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            at += step;
        }
    }

    /// The bytes at the end that no whole word covers, and of a large block the last eight.
    fn tail(size: usize) -> std::ops::Range<usize> {
        if size <= FILLED { size & !7..size } else { size - 8..size }
    }

    fn tail_byte(seed: u64, at: usize) -> u8 {
        (seed >> 16) as u8 ^ (at as u8).wrapping_mul(31) ^ 0x5A
    }

    pub(crate) fn fill(&self) {
        // SAFETY: the block has `size` bytes, and the pattern stays within.
        Block::words(self.seed, self.size, |at, word| unsafe {
            self.at.add(at).cast::<u64>().write_unaligned(word);
        });
        for at in Block::tail(self.size) {
            // SAFETY: as above.
            unsafe { self.at.add(at).write(Block::tail_byte(self.seed, at)) }
        }
    }

    /// Checks that `at` still holds what the block did, in its first `kept` bytes.
    pub(crate) fn check(&self, at: *const u8, kept: usize) {
        let tail = Block::tail(self.size);
        let step = if self.size <= FILLED { 8 } else { STEP };
        let mut offset = 0;
        while offset + 8 <= kept.min(self.size) {
            let word = self.seed ^ (offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let overlaps_tail = offset + 8 > tail.start;
            // SAFETY: the caller's block has as many bytes.
            let found = unsafe { at.add(offset).cast::<u64>().read_unaligned() };
            if found != word && !overlaps_tail {
                panic!("contents: {offset} of {} bytes: {found:x}, not {word:x}", self.size);
            }
            offset += step;
        }
        for offset in tail.start..kept.min(tail.end) {
            // SAFETY: as above.
            let found = unsafe { at.add(offset).read() };
            let byte = Block::tail_byte(self.seed, offset);
            assert_eq!(found, byte, "contents: byte {offset} of {}", self.size);
        }
    }
}
