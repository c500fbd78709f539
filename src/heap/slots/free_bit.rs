//! Marking a slot as free: the one place where the compiler is not trusted with the machine code.
//!
//! Freeing flips the slot's bit and counts its span's countdown down by one. Two things can be
//! rare about it: the bit was set before, which is a double free, and the countdown ended. x86-64
//! tells both by flags of which neither instruction destroys the other's, so that one jump is
//! enough; no compiler sees that.

use super::class::Slot;
use super::descriptor::Descriptor;

/// Flips the bit of a slot, which marks it as free, and counts the span's countdown down. `head` is
/// the descriptor of the span's first page. True: the slot was free before, and is not marked so
/// any more; or the countdown ended.
///
/// # Safety
///
/// The span is live and the slot is one of its slots; nobody else uses its descriptor.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(in crate::heap) unsafe fn set(head: *mut Descriptor, slot: Slot) -> bool {
    use core::mem::offset_of;
    // SAFETY: the caller's promise: the word of the slot is one of four, so that the first three
    // instructions change a word of `free`, and the fourth changes `countdown`. `btc` takes the bit
    // modulo 64, and leaves in the carry flag what it was; `dec` leaves that alone and tells by the
    // zero flag that it came to 0; the jump is taken when either is set.
    unsafe {
        core::arch::asm!(
            "mov {bits}, [{head} + 8 * {word} + {free}]",
            "btc {bits}, {bit}",
            "mov [{head} + 8 * {word} + {free}], {bits}",
            "dec word ptr [{head} + {countdown}]",
            "jbe {rare}",
            head = in(reg) head,
            word = in(reg) slot.word,
            bit = in(reg) slot.bit,
            bits = out(reg) _,
            free = const offset_of!(Descriptor, free),
            countdown = const offset_of!(Descriptor, countdown),
            rare = label { return true },
            options(nostack),
        );
    }
    false
}

/// The same for any processor.
///
/// # Safety
///
/// As above.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline(always)]
pub(in crate::heap) unsafe fn free_anywhere(head: *mut Descriptor, slot: Slot) -> bool {
    // SAFETY: the caller's promise: the span lives, so that its descriptor is committed. The slot's
    // word is one of four (D2), and nobody else changes the descriptor's cells.
    unsafe {
        let free = &raw const (*head).free;
        let bits = (*free).word(slot.word);
        let flipped = bits ^ 1 << (slot.bit % 64);
        (*free).set_word(slot.word, flipped);
        // Volatile, or it may be read with what lies beside it: too wide for what was written there
        // just before.
        let countdown = (&raw mut (*head).countdown).cast::<u16>();
        let left = countdown.read_volatile().wrapping_sub(1);
        countdown.write_volatile(left);
        flipped < bits || left == 0
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(in crate::heap) use free_anywhere as set;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rare_is_told_and_both_ways_do_the_same() {
        for index in 0..256 {
            for countdown in [1, 2, 3, u16::MAX] {
                for free in [0, u64::MAX, 0x8000_0000_0000_0001, 0x5555_5555_5555_5555] {
                    // What is above the six bits has no meaning.
                    let bit = (index as u64 % 64) | (u64::from(countdown) << 6);
                    let slot = Slot { word: index / 64, bit };
                    let [mut here, mut anywhere] = [(); 2].map(|()| Descriptor::none());
                    for descriptor in [&mut here, &mut anywhere] {
                        (0..4).for_each(|word| descriptor.free.set_word(word, free));
                        descriptor.countdown.set(countdown);
                    }
                    let was_free = free >> (index % 64) & 1 == 1;
                    // SAFETY: both are there, and the slot is below 256.
                    let rare = unsafe {
                        (super::set(&raw mut here, slot), free_anywhere(&raw mut anywhere, slot))
                    };
                    let expected = was_free || countdown == 1;
                    assert_eq!(rare, (expected, expected), "slot {index}, {countdown}, {free:x}");
                    let mut flipped = [free; 4];
                    flipped[index / 64] ^= 1 << (index % 64);
                    for descriptor in [here, anywhere] {
                        assert_eq!(descriptor.free.words(), flipped);
                        assert_eq!(descriptor.countdown.get(), countdown - 1);
                    }
                }
            }
        }
    }
}
