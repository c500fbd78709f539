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
//!
//! Descriptors are looked at by reference. What changes in them are cells, which are the heap's
//! thread's, and the atomics that the background thread reads or sets as well while it has claimed
//! the span: see `pages::watch`.

#![forbid(unsafe_code)]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU16, AtomicU64};

use super::class::{CLASSES, Class, SHORT, Slot};
use crate::heap::{bin_at, class_at};
use crate::units::{PageIndex, Pages};

/// What a page is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PageKind {
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

/// Where a span stands in the life that `blocks::span` draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SpanState {
    /// Slots are handed out from here: it is its bin's active span.
    #[default]
    Active = 0,
    /// Too full to be worth a visit; in no list.
    Full,
    /// In its bin's list of partial spans.
    Partial,
    /// Empty, kept by its bin as the next span.
    Empty,
}

/// One page's descriptor.
///
/// Every page of a span has the fields of the address arithmetic, so that their loads need not wait
/// for the way to the first page.
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    /// Free slots. (Span)
    pub(crate) free: Bits,
    /// The descriptor of the span's first page. (Span, SpanRest)
    pub(crate) span_head: Cell<*mut Descriptor>,
    /// The class's reciprocal, and in its low 16 bits where the class's bin lies, in bytes from the
    /// heap. (Span, SpanRest; 0 for all others)
    pub(crate) reciprocal: Cell<u64>,
    /// The low half of -start: `o = address + neg_start (mod 2^32)` is the offset from the span's
    /// first slot. (Span, SpanRest)
    pub(crate) neg_start: Cell<u32>,
    /// The next span in the bin's list, page 0 ends it; and the low bit of the [`SpanState`] above
    /// it. (Span)
    next: Cell<u32>,
    /// The span before in the bin's list, page 0 starts it; and the high bit of the state. (Span)
    previous: Cell<u32>,
    /// Frees until the span's state must be looked at. (Span)
    pub(crate) countdown: Cell<u16>,
    /// Pages whose memory is given back though the span lives: one bit each. (Span)
    pub(crate) purged: AtomicU16,
}

/// A bit for each slot of a span.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Bits([AtomicU64; 4]);

impl Bits {
    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.0[index].load(Relaxed)
    }

    pub(crate) fn set_word(&self, index: usize, word: u64) {
        self.0[index].store(word, Relaxed);
    }

    pub(crate) fn words(&self) -> [u64; 4] {
        core::array::from_fn(|index| self.word(index))
    }

    pub(crate) fn has(&self, slot: u32) -> bool {
        self.word(slot as usize / 64) >> (slot % 64) & 1 == 1
    }

    pub(crate) fn clear(&self, slot: u32) {
        let index = slot as usize / 64;
        self.set_word(index, self.word(index) & !(1 << (slot % 64)));
    }
}

/// The bit of [`Descriptor::next`] and [`Descriptor::previous`] that is of no page: there are not
/// that many.
const STATE_BIT: u32 = 1 << 31;

const _: () = assert!(size_of::<Descriptor>() == 64);

/// A countdown that does not end by itself: it is set anew when it fires.
pub(crate) const NEVER: u16 = u16::MAX;

impl Descriptor {
    /// That of a page that is part of nothing.
    pub(crate) fn none() -> Descriptor {
        Descriptor {
            free: Bits::default(),
            span_head: Cell::new(ptr::null_mut()),
            reciprocal: Cell::new(0),
            neg_start: Cell::new(0),
            next: Cell::new(0),
            previous: Cell::new(0),
            countdown: Cell::new(NEVER),
            purged: AtomicU16::new(0),
        }
    }

    /// Page `page` of a span of a class in this shape, whose first page starts at address `start`
    /// and has its descriptor at `span_head`.
    pub(crate) fn span_page(
        (class, shape): (usize, &Class),
        page: u32,
        start: usize,
        span_head: *mut Descriptor,
    ) -> Descriptor {
        let descriptor = Descriptor {
            span_head: Cell::new(span_head),
            reciprocal: Cell::new(shape.reciprocal | u64::from(bin_at(class))),
            neg_start: Cell::new(((start + shape.slack()) as u32).wrapping_neg()),
            ..Descriptor::none()
        };
        if page == 0 {
            (0..4).for_each(|word| descriptor.free.set_word(word, shape.word_mask(word as u32)));
        }
        descriptor
    }

    /// The first page of a large block.
    pub(crate) fn large(pages: Pages, requested: usize, color: usize) -> Descriptor {
        let descriptor = Descriptor::none();
        descriptor.set_large(pages, requested);
        descriptor.free.set_word(2, color as u64);
        descriptor
    }

    pub(crate) fn kind(&self) -> PageKind {
        match (self.reciprocal.get(), self.large_pages()) {
            (0, Pages::ZERO) => PageKind::None,
            (0, _) => PageKind::Large,
            _ if ptr::eq(self.span_head.get(), self) => PageKind::Span,
            _ => PageKind::SpanRest,
        }
    }

    pub(crate) fn span_state(&self) -> SpanState {
        match (self.previous.get() >= STATE_BIT, self.next.get() >= STATE_BIT) {
            (false, false) => SpanState::Active,
            (false, true) => SpanState::Full,
            (true, false) => SpanState::Partial,
            (true, true) => SpanState::Empty,
        }
    }

    pub(crate) fn set_span_state(&self, state: SpanState) {
        let bit = |bit: u8| if state as u8 & bit == 0 { 0 } else { STATE_BIT };
        self.next.update(|next| next & !STATE_BIT | bit(1));
        self.previous.update(|previous| previous & !STATE_BIT | bit(2));
    }

    /// The next span in the bin's list.
    pub(crate) fn next(&self) -> PageIndex {
        PageIndex(self.next.get() & !STATE_BIT)
    }

    pub(crate) fn set_next(&self, page: PageIndex) {
        self.next.update(|next| next & STATE_BIT | page.0);
    }

    /// The span before in the bin's list.
    pub(crate) fn previous(&self) -> PageIndex {
        PageIndex(self.previous.get() & !STATE_BIT)
    }

    pub(crate) fn set_previous(&self, page: PageIndex) {
        self.previous.update(|previous| previous & STATE_BIT | page.0);
    }

    /// Pages of a large block.
    pub(crate) fn large_pages(&self) -> Pages {
        Pages(self.free.word(0) as u32)
    }

    /// Bytes asked for a large block.
    pub(crate) fn large_requested(&self) -> usize {
        self.free.word(1) as usize
    }

    /// The color of a large block: how far behind the start of its first page it begins, in bytes.
    pub(crate) fn large_color(&self) -> usize {
        self.free.word(2) as usize
    }

    /// A word that the checked layer keeps with a large block. 0 at first.
    pub(crate) fn note(&self) -> u64 {
        self.free.word(3)
    }

    pub(crate) fn set_note(&self, note: u64) {
        self.free.set_word(3, note);
    }

    /// Notes a large block's size. It uses the words that a span has its bits in.
    pub(crate) fn set_large(&self, pages: Pages, requested: usize) {
        self.free.set_word(0, u64::from(pages.0));
        self.free.set_word(1, requested as u64);
    }

    /// Index of a span's class.
    pub(crate) fn class(&self) -> usize {
        class_at(self.bin())
    }

    /// Where the class's bin lies, in bytes from the heap. (Span, SpanRest)
    #[inline(always)]
    pub(crate) fn bin(&self) -> u16 {
        self.reciprocal.get() as u16
    }

    /// Whether it is of a span of a class.
    pub(crate) fn is_of(&self, class: usize) -> bool {
        let reciprocal = self.reciprocal.get() ^ u64::from(bin_at(class));
        reciprocal == CLASSES[class].reciprocal || reciprocal == SHORT[class].reciprocal
    }

    /// The class of a span, in the span's own shape.
    pub(crate) fn shape(&self) -> &'static Class {
        let class = self.class();
        if self.is_short() { &SHORT[class] } else { &CLASSES[class] }
    }

    /// Whether it is of a short span.
    pub(crate) fn is_short(&self) -> bool {
        let class = self.class();
        self.reciprocal.get() ^ u64::from(bin_at(class)) == SHORT[class].reciprocal
    }

    /// The first page of the span, as the descriptor of page `page` tells it.
    pub(crate) fn first_page(&self, page: PageIndex) -> PageIndex {
        // Descriptors grow downwards.
        let above = self.span_head.get().addr() - ptr::from_ref(self).addr();
        page - Pages((above / size_of::<Descriptor>()) as u32)
    }

    /// The slot that starts at an address of the page; `None` when none does.
    pub(crate) fn slot_at(&self, address: usize) -> Option<Slot> {
        let reciprocal = self.reciprocal.get();
        let slot = Slot::at((address as u32).wrapping_add(self.neg_start.get()), reciprocal);
        slot.starts(reciprocal).then_some(slot)
    }

    /// Pages whose memory is given back though the span lives.
    pub(crate) fn purged(&self) -> u16 {
        self.purged.load(Relaxed)
    }

    /// How many slots of a span are free.
    pub(crate) fn free_slots(&self) -> u32 {
        // Most are 0, and counting takes a dozen instructions on the oldest processors.
        self.free.words().map(|word| if word == 0 { 0 } else { word.count_ones() }).iter().sum()
    }

    /// The first free slot of a span that lies on pages which hold memory.
    pub(crate) fn resident_free_slot(&self) -> Option<u32> {
        (0..self.shape().slots).find(|slot| self.may_cancel_due(*slot))
    }

    fn may_cancel_due(&self, slot: u32) -> bool {
        let (shape, page_bytes) = (self.shape(), Pages(1).bytes() as u32);
        let start = shape.slack() as u32 + slot * shape.slot_size;
        let mut pages = start / page_bytes..=(start + shape.slot_size - 1) / page_bytes;
        let purged = self.purged();
        self.free.has(slot) && pages.all(|page| purged >> page & 1 == 0)
    }

    /// How many free slots of a span lie on pages that hold memory.
    #[cfg(test)]
    pub(crate) fn resident_free_slots(&self) -> u32 {
        (0..self.shape().slots).filter(|slot| self.may_cancel_due(*slot)).count() as u32
    }

    /// Pages of a span that hold no live block, one bit each.
    pub(crate) fn hole_pages(&self) -> u16 {
        let (shape, page_bytes) = (self.shape(), Pages(1).bytes() as u32);
        let slack = shape.slack() as u32;
        let mut holes = 0;
        for page in 0..shape.pages.0 {
            let first = (page * page_bytes).saturating_sub(slack) / shape.slot_size;
            let end = ((page + 1) * page_bytes - slack).div_ceil(shape.slot_size);
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
            self.free.word(word as usize) & mask == mask
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
            if !descriptor.free.has(slot) {
                let at = shape.slack() + (slot * shape.slot_size) as usize;
                let (start, last) = (at / PAGE, (at + shape.slot_size as usize - 1) / PAGE);
                (start..=last).for_each(|page| holes &= !(1 << page));
            }
        }
        holes as u16
    }

    /// All classes in both shapes.
    fn shapes() -> impl Iterator<Item = (usize, &'static Class)> {
        CLASSES.iter().enumerate().chain(SHORT.iter().enumerate())
    }

    /// Each stretch of live slots, in spans of every class.
    #[test]
    fn a_stretch_of_live_slots_pins_its_pages_wherever_it_lies() {
        for (class, shape) in shapes() {
            let slots = shape.slots;
            for first in 0..slots {
                let descriptor = Descriptor::span_page((class, shape), 0, 0, ptr::null_mut());
                for last in first..slots {
                    descriptor.free.clear(last);
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
        for (class, shape) in shapes() {
            let descriptor = Descriptor::span_page((class, shape), 0, 0, ptr::null_mut());
            assert_eq!(descriptor.free_slots(), shape.slots);
            assert_eq!(descriptor.hole_pages(), holes_by_sight(&descriptor));
            for slot in 0..shape.slots {
                let word = descriptor.free.word(slot as usize / 64);
                descriptor.free.clear(slot);
                assert_eq!(descriptor.hole_pages(), holes_by_sight(&descriptor), "{slot}, {class}");
                descriptor.free.set_word(slot as usize / 64, word);
            }
        }
    }

    #[test]
    fn the_starts_of_slots_and_no_other_addresses_of_a_span_are_slots() {
        for (index, class) in shapes() {
            let (slack, size) = (class.slack(), class.slot_size as usize);
            // Where the low half of the address wraps, too.
            for start in [0x7f00_0000_0000, (5 << 32) - PAGE] {
                let descriptor = Descriptor::span_page((index, class), 0, start, ptr::null_mut());
                assert_eq!(descriptor.class(), index);
                assert!(descriptor.is_of(index) && ptr::eq(descriptor.shape(), class));
                for at in 0..class.pages.bytes() {
                    let slot = descriptor.slot_at(start + at);
                    let is_start = at >= slack && (at - slack).is_multiple_of(size);
                    assert_eq!(slot.is_some(), is_start, "{at} in {class:?}");
                    let Some(slot) = slot else { continue };
                    let place = slot.word * 64 + slot.bit as usize % 64;
                    assert_eq!(place, (at - slack) / size, "{at} in {class:?}");
                    assert!(place < class.slots as usize, "{at} in {class:?}");
                }
            }
        }
        assert!((0..PAGE).all(|at| Descriptor::none().slot_at(at).is_none()));
    }

    #[test]
    fn kind_and_place_and_the_list_are_apart() {
        let mut descriptor = Descriptor::span_page((3, &CLASSES[3]), 0, 0, ptr::null_mut());
        let at = &raw mut descriptor;
        descriptor.span_head.set(at);
        let last = PageIndex(u32::MAX >> 1);
        for place in [SpanState::Full, SpanState::Partial, SpanState::Empty, SpanState::Active] {
            descriptor.set_span_state(place);
            for (next, previous) in [(last, PageIndex(0)), (PageIndex(0), last)] {
                descriptor.set_next(next);
                descriptor.set_previous(previous);
                assert_eq!((descriptor.kind(), descriptor.span_state()), (PageKind::Span, place));
                assert_eq!((descriptor.next(), descriptor.previous()), (next, previous));
            }
        }
        assert_eq!(Descriptor::none().kind(), PageKind::None);
        assert_eq!(Descriptor::span_page((20, &CLASSES[20]), 1, 0, at).kind(), PageKind::SpanRest);
        let large = Descriptor::large(Pages(7), 28_000, 640);
        assert_eq!((large.kind(), large.reciprocal.get()), (PageKind::Large, 0));
        assert_eq!((large.large_pages(), large.large_requested()), (Pages(7), 28_000));
    }
}
