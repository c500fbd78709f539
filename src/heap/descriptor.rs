//! Descriptors: what the heap knows about a page, in one cache line beside the pages.
//!
//! Page n's descriptor ends 64 × n bytes below the heap's base, so that the address of a block
//! leads to it by shifts alone. The first page of a span or large block holds its state; the
//! further pages of a span lead there.
//!
//! - D1: only pages of spans have a reciprocal other than 0. Address arithmetic that meets 0 finds
//!   that nothing divides, so large blocks and free pages leave the hot path by the same branch
//!   that catches a pointer into the middle of a block.
//! - D2: a set bit is a free slot; bits beyond the class's slots are clear.
//! - D3: `countdown` is 1 or more.

#![forbid(unsafe_code)]

use super::class::{CLASSES, Class};
use crate::units::{PageIndex, Pages};

/// What a page is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nothing: free, never used, or not the first page of a large block.
    #[default]
    None = 0,
    /// The first page of a span.
    Span,
    /// A further page of a span.
    SpanRest,
    /// The first page of a large block.
    Large,
}

/// Where a span stands in the life that `heap::span` draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    /// Slots are handed out from here: it is its bin's current span.
    #[default]
    Current = 0,
    /// Too full to be worth a visit; in no list.
    Full,
    /// In its bin's list of partial spans.
    Listed,
    /// Empty, kept by its bin as the next span.
    Spare,
}

/// One page's descriptor.
///
/// The fields that freeing reads come first, and every page of a span has those of the address
/// arithmetic, so that their loads need not wait for the way to the first page.
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    /// Free slots. (Span)
    pub(crate) free: [u64; 4],
    /// Bytes from this descriptor to that of the first page. (Span, SpanRest)
    pub(crate) to_first: u64,
    /// The low half of the address of the span's first slot. (Span, SpanRest)
    pub(crate) start: u32,
    /// The class's reciprocal. (Span, SpanRest; 0 for all others)
    pub(crate) reciprocal: u32,
    /// Frees until the span's place must be thought over. (Span)
    pub(crate) countdown: u32,
    /// The next span in the bin's list; page 0 ends it. (Span)
    pub(crate) next: PageIndex,
    /// The span before in the bin's list; page 0 starts it. (Span)
    pub(crate) previous: PageIndex,
    /// Pages whose memory is given back though the span lives: one bit each. (Span)
    pub(crate) purged: u16,
    /// Index of the size class, and of the bin. (Span, SpanRest)
    pub(crate) class: u8,
    /// What the page is part of, and where a span stands: [`Kind`] and [`Place`].
    kind_and_place: u8,
}

const _: () = assert!(size_of::<Descriptor>() == 64);

/// A countdown that does not end by itself: it is set anew when it fires.
pub(crate) const NEVER: u32 = u32::MAX;

impl Descriptor {
    /// A page that is part of nothing.
    pub(crate) const NONE: Descriptor = Descriptor {
        free: [0; 4],
        to_first: 0,
        start: 0,
        reciprocal: 0,
        countdown: NEVER,
        next: PageIndex(0),
        previous: PageIndex(0),
        purged: 0,
        class: 0,
        kind_and_place: 0,
    };

    /// Page `page` of a span of a class, whose first page starts at address `start`.
    pub(crate) fn span_page(class: u8, page: u32, start: usize) -> Descriptor {
        let shape = &CLASSES[class as usize];
        let mut descriptor = Descriptor {
            to_first: u64::from(page) * size_of::<Descriptor>() as u64,
            start: (start + shape.lead()) as u32,
            reciprocal: shape.reciprocal,
            class,
            ..Descriptor::NONE
        };
        if page == 0 {
            descriptor.free = core::array::from_fn(|word| shape.word_mask(word as u32));
            descriptor.set_kind(Kind::Span);
        } else {
            descriptor.set_kind(Kind::SpanRest);
        }
        descriptor
    }

    /// The first page of a large block.
    pub(crate) fn large(pages: Pages, requested: usize, lead: usize) -> Descriptor {
        let mut descriptor = Descriptor::NONE;
        descriptor.set_kind(Kind::Large);
        descriptor.set_large(pages, requested);
        descriptor.free[2] = lead as u64;
        descriptor
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.kind_and_place & 3 {
            0 => Kind::None,
            1 => Kind::Span,
            2 => Kind::SpanRest,
            _ => Kind::Large,
        }
    }

    fn set_kind(&mut self, kind: Kind) {
        self.kind_and_place = self.kind_and_place & !3 | kind as u8;
    }

    pub(crate) fn place(&self) -> Place {
        match self.kind_and_place >> 2 {
            0 => Place::Current,
            1 => Place::Full,
            2 => Place::Listed,
            _ => Place::Spare,
        }
    }

    pub(crate) fn set_place(&mut self, place: Place) {
        self.kind_and_place = self.kind_and_place & 3 | (place as u8) << 2;
    }

    /// Pages of a large block.
    pub(crate) fn large_pages(&self) -> Pages {
        Pages(self.free[0] as u32)
    }

    /// Bytes asked for a large block.
    pub(crate) fn large_requested(&self) -> usize {
        self.free[1] as usize
    }

    /// How far behind the start of its first page a large block begins, in bytes.
    pub(crate) fn large_lead(&self) -> usize {
        self.free[2] as usize
    }

    /// Notes a large block's size. It uses the words that a span has its bits in.
    pub(crate) fn set_large(&mut self, pages: Pages, requested: usize) {
        self.free[0] = u64::from(pages.0);
        self.free[1] = requested as u64;
    }

    /// The class of a span.
    pub(crate) fn shape(&self) -> &'static Class {
        &CLASSES[self.class as usize]
    }

    /// How many slots of a span are free.
    pub(crate) fn free_slots(&self) -> u32 {
        self.free.iter().map(|word| word.count_ones()).sum()
    }

    /// The first free slot of a span that lies on pages which hold memory.
    pub(crate) fn slot_at_hand(&self) -> Option<u32> {
        (0..self.shape().slots).find(|slot| self.is_at_hand(*slot))
    }

    fn is_at_hand(&self, slot: u32) -> bool {
        let (shape, page_bytes) = (self.shape(), Pages(1).bytes() as u32);
        let start = shape.lead() as u32 + slot * shape.slot_size;
        let mut pages = start / page_bytes..=(start + shape.slot_size - 1) / page_bytes;
        let is_free = self.free[slot as usize / 64] >> (slot % 64) & 1 == 1;
        is_free && pages.all(|page| self.purged >> page & 1 == 0)
    }

    /// How many free slots of a span lie on pages that hold memory.
    #[cfg(test)]
    pub(crate) fn slots_at_hand(&self) -> u32 {
        (0..self.shape().slots).filter(|slot| self.is_at_hand(*slot)).count() as u32
    }

    /// Pages of a span that hold no live block, one bit each.
    pub(crate) fn hole_pages(&self) -> u16 {
        let (shape, page_bytes) = (self.shape(), Pages(1).bytes() as u32);
        let lead = shape.lead() as u32;
        let mut holes = 0;
        for page in 0..shape.pages.0 {
            let first = (page * page_bytes).saturating_sub(lead) / shape.slot_size;
            let end = ((page + 1) * page_bytes - lead).div_ceil(shape.slot_size);
            if self.all_free(first, end) {
                holes |= 1 << page;
            }
        }
        holes
    }

    fn all_free(&self, first: u32, end: u32) -> bool {
        let bits_below = |bit: u32| if bit >= 64 { u64::MAX } else { (1 << bit) - 1 };
        (first / 64..end.div_ceil(64)).all(|word| {
            let from = first.saturating_sub(word * 64);
            let mask = bits_below(end - word * 64) & !bits_below(from);
            self.free[word as usize] & mask == mask
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE;

    /// Which pages hold no live slot, by looking at every slot.
    fn holes_by_sight(descriptor: &Descriptor) -> u16 {
        let shape = descriptor.shape();
        let mut holes = (1u32 << shape.pages.0) - 1;
        for slot in 0..shape.slots {
            if descriptor.free[slot as usize / 64] >> (slot % 64) & 1 == 0 {
                let at = shape.lead() + (slot * shape.slot_size) as usize;
                let (start, last) = (at / PAGE, (at + shape.slot_size as usize - 1) / PAGE);
                (start..=last).for_each(|page| holes &= !(1 << page));
            }
        }
        holes as u16
    }

    /// Each stretch of live slots, in spans of every class.
    #[test]
    fn a_stretch_of_live_slots_pins_its_pages_wherever_it_lies() {
        for class in 0..CLASSES.len() as u8 {
            let slots = CLASSES[class as usize].slots;
            for first in 0..slots {
                let mut descriptor = Descriptor::span_page(class, 0, 0);
                for last in first..slots {
                    descriptor.free[last as usize / 64] &= !(1 << (last % 64));
                    assert_eq!(
                        descriptor.hole_pages(),
                        holes_by_sight(&descriptor),
                        "{first} to {last}, {class}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_live_slot_pins_the_pages_it_touches_and_no_others() {
        for class in 0..CLASSES.len() as u8 {
            let mut descriptor = Descriptor::span_page(class, 0, 0);
            assert_eq!(descriptor.free_slots(), CLASSES[class as usize].slots);
            assert_eq!(descriptor.hole_pages(), holes_by_sight(&descriptor));
            for slot in 0..CLASSES[class as usize].slots {
                descriptor.free[slot as usize / 64] &= !(1 << (slot % 64));
                assert_eq!(descriptor.hole_pages(), holes_by_sight(&descriptor), "{slot}, {class}");
                descriptor.free[slot as usize / 64] |= 1 << (slot % 64);
            }
        }
    }

    #[test]
    fn kind_and_place_are_apart() {
        let mut descriptor = Descriptor::span_page(3, 0, 0);
        for place in [Place::Full, Place::Listed, Place::Spare, Place::Current] {
            descriptor.set_place(place);
            assert_eq!((descriptor.kind(), descriptor.place()), (Kind::Span, place));
        }
        assert_eq!(Descriptor::span_page(20, 1, 0).kind(), Kind::SpanRest);
        let large = Descriptor::large(Pages(7), 28_000, 640);
        assert_eq!((large.kind(), large.reciprocal), (Kind::Large, 0));
        assert_eq!((large.large_pages(), large.large_requested()), (Pages(7), 28_000));
    }
}
