//! Size classes: which slot a small block gets, and how many slots a span has.
//!
//! Slots go up in steps of 8 bytes to 128, then in eight steps to each doubling, so that rounding
//! costs at most 7 bytes, then at most 12.5 %. A span is as many pages as it takes to have enough
//! slots to make a visit worth while, and to lose little to the remainder.
//!
//! Of most classes a small heap has a block or two. Where address space is limited the first span
//! of a class is a short one, with fewer slots on fewer pages.

#![forbid(unsafe_code)]

use super::descriptor::Bits;
use crate::units::{PAGE, Pages};

/// The largest small block, in bytes. Larger ones get whole pages.
pub(crate) const SMALL_MAX: usize = 8192;
/// The largest block whose bin the heap itself has a table for.
pub(crate) const QUICK_MAX: usize = 512;
/// The smallest slot: 256 of them, all that a descriptor has bits for, fill a page.
const SLOT_MIN: usize = 16;
/// Up to here slots differ by 8 bytes.
const FINE_MAX: usize = 128;
const FINE_COUNT: usize = (FINE_MAX - SLOT_MIN) / 8 + 1;
/// Doublings from `FINE_MAX` to `SMALL_MAX`, eight classes each.
const COARSE_COUNT: usize = 8 * (SMALL_MAX / FINE_MAX).ilog2() as usize;
/// How many size classes there are.
pub(crate) const CLASS_COUNT: usize = FINE_COUNT + COARSE_COUNT;

/// Most slots in a span: four words of bits.
pub(crate) const SLOTS_MAX: usize = 256;
/// Most pages in a span: one bit each in [`crate::heap::Descriptor::purged`].
pub(crate) const SPAN_PAGES_MAX: usize = 16;

/// Everything fixed about one size class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Class {
    /// Bytes per slot.
    pub(crate) slot_size: u32,
    /// Slots per span.
    pub(crate) slots: u32,
    /// Pages per span.
    pub(crate) pages: Pages,
    /// 2^58 / slot_size, and a little: see [`Slot::at`]. Its low 16 bits are 0, for others to use.
    /// That of a short span is one step of these bits more, which tells it from others.
    pub(crate) reciprocal: u64,
}

impl Class {
    /// Bytes at the start of a span, before its first slot. Less than a slot, and than a page.
    ///
    /// They lie at the start, not at the end, so that every address of a span that is a whole
    /// number of slots away from the first slot is a slot: a pointer past the last would have
    /// passed for one.
    pub(crate) const fn slack(&self) -> usize {
        self.pages.bytes() - (self.slots * self.slot_size) as usize
    }

    /// How many slots must be free before a full span is worth visiting again.
    ///
    /// An eighth: fewer, and an allocation pays for a visit that yields little; more, and memory
    /// lies idle. (Measured on table churn by the design's prototype.)
    pub(crate) const fn partial_threshold(&self) -> u32 {
        if self.slots < 8 { 1 } else { self.slots / 8 }
    }

    /// Bitmap words in use.
    pub(crate) const fn words(&self) -> u32 {
        self.slots.div_ceil(64)
    }

    /// The slots that the `word`th bitmap word has bits for.
    pub(crate) const fn word_mask(&self, word: u32) -> u64 {
        let first = word * 64;
        if self.slots <= first {
            0
        } else if self.slots - first >= 64 {
            u64::MAX
        } else {
            (1 << (self.slots - first)) - 1
        }
    }
}

/// All size classes, smallest first.
pub(crate) static CLASSES: [Class; CLASS_COUNT] = build_classes(false);

/// The same with short spans, of which some are as long as any other.
pub(in crate::heap) static SHORT: [Class; CLASS_COUNT] = build_classes(true);

/// The class of a block of `size` bytes stands at `(size - 1) / 8`, for sizes 1 to [`SMALL_MAX`].
static CLASS_OF_SIZE: [u8; SMALL_MAX / 8] = build_class_of_size();

/// A slot of a span, as its bit in the bitmap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// The bitmap word.
    pub(crate) word: usize,
    /// The bit, in the low six bits. Above them, what the division left.
    pub(crate) bit: u64,
}

impl Slot {
    /// The slot that the `offset`th byte behind the start of a span's first one lies in. Means
    /// something only if the slot [starts](Slot::starts) there.
    ///
    /// With r = 2^64 / (64 × size), rounded up, the product offset × r has the word in its upper
    /// half. The lower half has the bit in its upper 6 bits, and what the division leaves in its
    /// lower 58: r or more, or next to nothing when it divides (after Lemire, Kaser, Kurz: "Faster
    /// remainder by direct computation", 2019).
    ///
    /// The offset of an address before the first slot wraps. So that it divides as little as any
    /// other, r is rounded up generously: for offsets in a span the error is far below r, for those
    /// it is far above. The tests try every offset of every class.
    #[inline(always)]
    pub(crate) const fn at(offset: u32, reciprocal: u64) -> Slot {
        let product = offset as u128 * reciprocal as u128;
        Slot { word: (product >> 64) as usize, bit: (product as u64).rotate_left(6) }
    }

    /// Whether the offset was that of the slot's start: the division left nothing. No offset is,
    /// when the reciprocal is 0.
    #[inline(always)]
    pub(crate) const fn starts(self, reciprocal: u64) -> bool {
        // The bit beside what was left changes nothing: a reciprocal is 2^45 at least.
        self.bit < reciprocal
    }

    /// Whether the slot is free by the bitmap of its span.
    #[inline(always)]
    pub(crate) fn is_free(self, free: &Bits) -> bool {
        free.word(self.word) >> (self.bit % 64) & 1 == 1
    }
}

/// The class of a block of `size` bytes, 1 to [`SMALL_MAX`].
pub(crate) const fn class_of(size: usize) -> usize {
    CLASS_OF_SIZE[(size - 1) / 8] as usize
}

/// The least that is asked for a block of a class: one byte more than the next smaller one holds.
pub(crate) fn least_of(class: usize) -> usize {
    class.checked_sub(1).map_or(1, |smaller| CLASSES[smaller].slot_size as usize + 1)
}

const fn slot_size(class: usize) -> usize {
    if class < FINE_COUNT {
        return SLOT_MIN + class * 8;
    }
    let step = class - FINE_COUNT;
    let doubling = FINE_MAX << (step / 8);
    doubling + doubling / 8 * (step % 8 + 1)
}

/// Enough slots that the visit of a span is shared by many allocations, fewer for large ones so
/// that a span does not pin much memory.
const fn slots_wanted(slot_size: usize) -> usize {
    match slot_size {
        ..=128 => 128,
        129..=512 => 64,
        513..=2048 => 16,
        _ => 8,
    }
}

/// The same for short spans.
const fn slots_wanted_of_short(slot_size: usize) -> usize {
    match slot_size {
        ..=512 => slots_wanted(slot_size) / 4,
        _ => 2,
    }
}

/// Pages in a span. The remainder is less than a 32nd, or a 16th of a short span.
const fn span_pages(slot_size: usize, is_short: bool) -> usize {
    let (wanted, part) = match is_short {
        false => (slots_wanted(slot_size), 32),
        true => (slots_wanted_of_short(slot_size), 16),
    };
    let mut pages = 1;
    while pages < SPAN_PAGES_MAX {
        let slots = pages * PAGE / slot_size;
        let slack = pages * PAGE - slots * slot_size;
        if slots >= wanted && slack * part <= pages * PAGE {
            break;
        }
        pages += 1;
    }
    pages
}

const fn reciprocal(size: u64) -> u64 {
    let least = (1u64 << 58).div_ceil(size);
    (least + (least >> 24)).next_multiple_of(1 << 16)
}

const fn build_classes(is_short: bool) -> [Class; CLASS_COUNT] {
    let none = Class { slot_size: 0, slots: 0, pages: Pages::ZERO, reciprocal: 0 };
    let mut classes = [none; CLASS_COUNT];
    let mut index = 0;
    while index < CLASS_COUNT {
        let size = slot_size(index);
        let pages = span_pages(size, is_short);
        let slots = pages * PAGE / size;
        assert!(slots <= SLOTS_MAX);
        classes[index] = Class {
            slot_size: size as u32,
            slots: slots as u32,
            pages: Pages(pages as u32),
            reciprocal: reciprocal(size as u64) + ((is_short as u64) << 16),
        };
        index += 1;
    }
    classes
}

const fn build_class_of_size() -> [u8; SMALL_MAX / 8] {
    let mut table = [0; SMALL_MAX / 8];
    let mut class = 0;
    let mut index = 0;
    while index < table.len() {
        if slot_size(class) < (index + 1) * 8 {
            class += 1;
        }
        table[index] = class as u8;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(size: usize) -> Class {
        CLASSES[class_of(size)]
    }

    #[test]
    fn every_size_gets_the_smallest_slot_that_holds_it() {
        for size in 1..=SMALL_MAX {
            let best = CLASSES.iter().find(|class| class.slot_size as usize >= size);
            assert_eq!(shape_of(size).slot_size, best.expect("a class").slot_size, "size {size}");
        }
    }

    #[test]
    fn rounding_wastes_at_most_seven_bytes_or_an_eighth() {
        for size in 9..=SMALL_MAX {
            let waste = shape_of(size).slot_size as usize - size;
            assert!(waste < 8 || waste * 8 <= size, "size {size} wastes {waste}");
        }
    }

    #[test]
    fn multiples_of_sixteen_are_aligned_to_sixteen() {
        for size in (16..=SMALL_MAX).step_by(16) {
            assert_eq!(shape_of(size).slot_size % 16, 0, "size {size}");
        }
    }

    #[test]
    fn spans_fit_their_limits_and_lose_little() {
        for class in &CLASSES {
            assert!(class.pages.0 as usize <= SPAN_PAGES_MAX);
            assert!((8..=SLOTS_MAX as u32).contains(&class.slots), "{class:?}");
            assert!(class.slack() < PAGE, "{class:?}: the slack must lie in the first page");
            assert_eq!(class.slack() % 8, 0);
            assert!(class.slot_size % 16 > 0 || class.slack() % 16 == 0, "{class:?}: alignment");
            assert!(class.slack() * 16 <= class.pages.bytes(), "{class:?} loses over 6 %");
        }
    }

    #[test]
    fn short_spans_have_fewer_slots_on_fewer_pages() {
        for (short, class) in SHORT.iter().zip(&CLASSES) {
            assert_eq!(short.slot_size, class.slot_size);
            assert!((2..=class.slots).contains(&short.slots), "{short:?}");
            assert!(short.pages <= class.pages, "{short:?} of {class:?}");
            assert!(short.slack() < PAGE && short.slack() * 16 <= short.pages.bytes(), "{short:?}");
            assert!(class.slot_size % 16 > 0 || short.slack() % 16 == 0, "{short:?}: alignment");
            assert_ne!(short.reciprocal, class.reciprocal);
        }
        let pages = |classes: &[Class]| classes.iter().map(|class| class.pages.0).sum::<u32>();
        assert!(pages(&SHORT) * 2 <= pages(&CLASSES), "{} pages", pages(&SHORT));
    }

    #[test]
    fn word_masks_cover_the_slots() {
        for class in CLASSES.iter().chain(&SHORT) {
            let bits: u32 = (0..4).map(|word| class.word_mask(word).count_ones()).sum();
            assert_eq!(bits, class.slots);
            assert_ne!(class.word_mask(class.words() - 1), 0);
        }
    }
}
