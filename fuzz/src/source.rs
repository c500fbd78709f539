//! Where a program's bytes come from.

/// Bytes that a program is decoded from.
pub trait Source {
    /// The next byte; 0 beyond the end.
    fn byte(&mut self) -> u8;

    /// Whether the program ends here.
    fn is_empty(&self) -> bool;

    /// Two bytes as a number.
    fn short(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        let number = if limit > 256 { self.short() } else { self.byte().into() };
        number % limit.max(1)
    }
}

/// Bytes from elsewhere.
pub struct Given<'a>(pub &'a [u8]);

impl Source for Given<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A source of `left` random bytes: xorshift64*.
pub struct Random {
    state: u64,
    word: u64,
    left: u64,
}

impl Random {
    /// The bytes of one seed.
    pub fn new(seed: u64, bytes: u64) -> Random {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
        Random { state: state | 1, word: 0, left: bytes }
    }
}

impl Source for Random {
    #[inline]
    fn byte(&mut self) -> u8 {
        if self.left == 0 {
            return 0;
        }
        if self.left.is_multiple_of(8) || self.word == 0 {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            self.word = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        }
        self.left -= 1;
        let byte = self.word as u8;
        self.word >>= 8;
        byte
    }

    fn is_empty(&self) -> bool {
        self.left == 0
    }
}
