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

use core::ptr;

use super::class::{CLASSES, Class, Slot};
use super::{bin_at, class_at};
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
/// Every page of a span has the fields of the address arithmetic, so that their loads need not wait
/// for the way to the first page.
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    /// Free slots. (Span)
    pub(crate) free: [u64; 4],
    /// The descriptor of the span's first page. (Span, SpanRest)
    pub(crate) first: *mut Descriptor,
    /// The class's reciprocal, and in its low 16 bits where the class's bin lies, in bytes from the
    /// heap. (Span, SpanRest; 0 for all others)
    pub(crate) reciprocal: u64,
    /// The low half of what, added to an address, tells how far it is behind the span's first slot.
    /// (Span, SpanRest)
    pub(crate) less_start: u32,
    /// The next span in the bin's list, page 0 ends it; and the low bit of the [`Place`] above it.
    /// (Span)
    next: u32,
    /// The span before in the bin's list, page 0 starts it; and the high bit of the place. (Span)
    previous: u32,
    /// Frees until the span's place must be thought over. (Span)
    pub(crate) countdown: u16,
    /// Pages whose memory is given back though the span lives: one bit each. (Span)
    pub(crate) purged: u16,
}

/// The bit of [`Descriptor::next`] and [`Descriptor::previous`] that is of no page: there are not
/// that many.
const PLACE_BIT: u32 = 1 << 31;

const _: () = assert!(size_of::<Descriptor>() == 64);

/// A countdown that does not end by itself: it is set anew when it fires.
pub(crate) const NEVER: u16 = u16::MAX;

impl Descriptor {
    /// A page that is part of nothing.
    pub(crate) const NONE: Descriptor = Descriptor {
        free: [0; 4],
        first: ptr::null_mut(),
        reciprocal: 0,
        less_start: 0,
        countdown: NEVER,
        purged: 0,
        next: 0,
        previous: 0,
    };

    /// Page `page` of a span of a class, whose first page starts at address `start` and has its
    /// descriptor at `first`.
    pub(crate) fn span_page(
        class: usize,
        page: u32,
        start: usize,
        first: *mut Descriptor,
    ) -> Descriptor {
        let shape = &CLASSES[class];
        let mut descriptor = Descriptor {
            first,
            reciprocal: shape.reciprocal | u64::from(bin_at(class)),
            less_start: ((start + shape.lead()) as u32).wrapping_neg(),
            ..Descriptor::NONE
        };
        if page == 0 {
            descriptor.free = core::array::from_fn(|word| shape.word_mask(word as u32));
        }
        descriptor
    }

    /// The first page of a large block.
    pub(crate) fn large(pages: Pages, requested: usize, lead: usize) -> Descriptor {
        let mut descriptor = Descriptor::NONE;
        descriptor.set_large(pages, requested);
        descriptor.free[2] = lead as u64;
        descriptor
    }

    pub(crate) fn kind(&self) -> Kind {
        match (self.reciprocal, self.large_pages()) {
            (0, Pages::ZERO) => Kind::None,
            (0, _) => Kind::Large,
            _ if ptr::eq(self.first, self) => Kind::Span,
            _ => Kind::SpanRest,
        }
    }

    pub(crate) fn place(&self) -> Place {
        match (self.previous >= PLACE_BIT, self.next >= PLACE_BIT) {
            (false, false) => Place::Current,
            (false, true) => Place::Full,
            (true, false) => Place::Listed,
            (true, true) => Place::Spare,
        }
    }

    pub(crate) fn set_place(&mut self, place: Place) {
        let bit = |bit: u8| if place as u8 & bit == 0 { 0 } else { PLACE_BIT };
        self.next = self.next & !PLACE_BIT | bit(1);
        self.previous = self.previous & !PLACE_BIT | bit(2);
    }

    /// The next span in the bin's list.
    pub(crate) fn next(&self) -> PageIndex {
        PageIndex(self.next & !PLACE_BIT)
    }

    pub(crate) fn set_next(&mut self, page: PageIndex) {
        self.next = self.next & PLACE_BIT | page.0;
    }

    /// The span before in the bin's list.
    pub(crate) fn previous(&self) -> PageIndex {
        PageIndex(self.previous & !PLACE_BIT)
    }

    pub(crate) fn set_previous(&mut self, page: PageIndex) {
        self.previous = self.previous & PLACE_BIT | page.0;
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

    /// A word that the checked layer keeps with a large block. 0 at first.
    pub(crate) fn note(&self) -> u64 {
        self.free[3]
    }

    pub(crate) fn set_note(&mut self, note: u64) {
        self.free[3] = note;
    }

    /// Notes a large block's size. It uses the words that a span has its bits in.
    pub(crate) fn set_large(&mut self, pages: Pages, requested: usize) {
        self.free[0] = u64::from(pages.0);
        self.free[1] = requested as u64;
    }

    /// Index of a span's class.
    pub(crate) fn class(&self) -> usize {
        class_at(self.bin())
    }

    /// Where the class's bin lies, in bytes from the heap. (Span, SpanRest)
    #[inline(always)]
    pub(crate) fn bin(&self) -> u16 {
        self.reciprocal as u16
    }

    /// Whether it is of a span of a class.
    pub(crate) fn is_of(&self, class: usize) -> bool {
        self.reciprocal == CLASSES[class].reciprocal | u64::from(bin_at(class))
    }

    /// The class of a span.
    pub(crate) fn shape(&self) -> &'static Class {
        &CLASSES[self.class()]
    }

    /// The first page of the span, as the descriptor of page `page` tells it.
    pub(crate) fn first_page(&self, page: PageIndex) -> PageIndex {
        // Descriptors grow downwards.
        let above = self.first.addr() - ptr::from_ref(self).addr();
        page - Pages((above / size_of::<Descriptor>()) as u32)
    }

    /// The slot that starts at an address of the page; `None` when none does.
    pub(crate) fn slot_at(&self, address: usize) -> Option<Slot> {
        let slot = Slot::at((address as u32).wrapping_add(self.less_start), self.reciprocal);
        slot.starts(self.reciprocal).then_some(slot)
    }

    /// How many slots of a span are free.
    pub(crate) fn free_slots(&self) -> u32 {
        // Most are 0, and counting takes a dozen instructions on the oldest processors.
        self.free.iter().map(|word| if *word == 0 { 0 } else { word.count_ones() }).sum()
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
        for (class, shape) in CLASSES.iter().enumerate() {
            let slots = shape.slots;
            for first in 0..slots {
                let mut descriptor = Descriptor::span_page(class, 0, 0, ptr::null_mut());
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
        for (class, shape) in CLASSES.iter().enumerate() {
            let mut descriptor = Descriptor::span_page(class, 0, 0, ptr::null_mut());
            assert_eq!(descriptor.free_slots(), shape.slots);
            assert_eq!(descriptor.hole_pages(), holes_by_sight(&descriptor));
            for slot in 0..shape.slots {
                descriptor.free[slot as usize / 64] &= !(1 << (slot % 64));
                assert_eq!(descriptor.hole_pages(), holes_by_sight(&descriptor), "{slot}, {class}");
                descriptor.free[slot as usize / 64] |= 1 << (slot % 64);
            }
        }
    }

    #[test]
    fn the_starts_of_slots_and_no_other_addresses_of_a_span_are_slots() {
        for (index, class) in CLASSES.iter().enumerate() {
            let (lead, size) = (class.lead(), class.slot_size as usize);
            // Where the low half of the address wraps, too.
            for start in [0x7f00_0000_0000, (5 << 32) - PAGE] {
                let descriptor = Descriptor::span_page(index, 0, start, ptr::null_mut());
                assert_eq!(descriptor.class(), index);
                for at in 0..class.pages.bytes() {
                    let slot = descriptor.slot_at(start + at);
                    let is_start = at >= lead && (at - lead).is_multiple_of(size);
                    assert_eq!(slot.is_some(), is_start, "{at} in {class:?}");
                    let Some(slot) = slot else { continue };
                    let place = slot.word * 64 + slot.bit as usize % 64;
                    assert_eq!(place, (at - lead) / size, "{at} in {class:?}");
                    assert!(place < class.slots as usize, "{at} in {class:?}");
                }
            }
        }
        assert!((0..PAGE).all(|at| Descriptor::NONE.slot_at(at).is_none()));
    }

    #[test]
    fn kind_and_place_and_the_list_are_apart() {
        let mut descriptor = Descriptor::span_page(3, 0, 0, ptr::null_mut());
        descriptor.first = &raw mut descriptor;
        let last = PageIndex(u32::MAX >> 1);
        for place in [Place::Full, Place::Listed, Place::Spare, Place::Current] {
            descriptor.set_place(place);
            for (next, previous) in [(last, PageIndex(0)), (PageIndex(0), last)] {
                descriptor.set_next(next);
                descriptor.set_previous(previous);
                assert_eq!((descriptor.kind(), descriptor.place()), (Kind::Span, place));
                assert_eq!((descriptor.next(), descriptor.previous()), (next, previous));
            }
        }
        assert_eq!(Descriptor::NONE.kind(), Kind::None);
        assert_eq!(Descriptor::span_page(20, 1, 0, &raw mut descriptor).kind(), Kind::SpanRest);
        let large = Descriptor::large(Pages(7), 28_000, 640);
        assert_eq!((large.kind(), large.reciprocal), (Kind::Large, 0));
        assert_eq!((large.large_pages(), large.large_requested()), (Pages(7), 28_000));
    }
}
