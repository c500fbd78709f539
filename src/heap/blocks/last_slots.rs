//! The last free slots of a class, when the heap may not grow.
//!
//! Otherwise a span becomes active when enough of its slots are free, and no page of an active span
//! is purged. Where the heap may not grow, every slot counts: those of full spans, and those of
//! spans with purged pages that the heap may not use again. Such slots are taken one at a time, and
//! their span keeps its state.
//!
//! A walk over all pages finds them. It continues where the last walk stopped, so that it is short
//! while there are many. A walk that finds none has counted the unreachable slots: free ones on
//! purged pages. The next walk is due when more slots than these are free, or when the heap may use
//! the fewest purged pages that one of them needs.
//!
//! - G1: `unreachable` is at most the number of the class's free slots that lie on purged pages.

#![forbid(unsafe_code)]

use crate::heap::slots::class::{CLASS_COUNT, CLASSES, SHORT};
use crate::heap::slots::descriptor::{PageKind, SpanState};
use crate::heap::{Bin, Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::{PageIndex, PageRange, Pages};

/// What is remembered of walks for one class.
#[derive(Clone, Copy, Debug)]
pub(in crate::heap) struct SlotScan {
    /// Where the next walk begins.
    pub(in crate::heap) next: PageIndex,
    /// Free slots that lie on purged pages, at least in part.
    pub(in crate::heap) unreachable: u64,
    /// The fewest pages that must be unpurged to use one of them.
    pages_needed: Pages,
}

impl SlotScan {
    const NEW: SlotScan =
        SlotScan { next: PageIndex(0), unreachable: 0, pages_needed: Pages(u32::MAX) };
    pub(in crate::heap) const ALL_NEW: [SlotScan; CLASS_COUNT] = [SlotScan::NEW; CLASS_COUNT];
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Takes one slot of a class that has no active span, wherever there is one.
    pub(in crate::heap) fn take_last_slot(&mut self, class: usize, size: usize) -> Option<*mut u8> {
        let SlotScan { unreachable, pages_needed, .. } = self.slot_scans[class];
        if self.free_slots_of(class) <= unreachable && !self.may_grow(pages_needed) {
            return None;
        }
        let (span, slot) = self.find_slot(class)?;
        Some(self.take_single(class, span, slot, size))
    }

    /// Free slots in all spans of a class.
    fn free_slots_of(&self, class: usize) -> u64 {
        let Bin { spans, short, .. } = self.bins[class];
        let slots = u64::from(spans - short) * u64::from(CLASSES[class].slots)
            + u64::from(short) * u64::from(SHORT[class].slots);
        slots.saturating_sub(self.live(class))
    }

    /// Finds a free slot on pages that hold memory, or on purged pages that the heap may use again,
    /// which it then unpurges.
    fn find_slot(&mut self, class: usize) -> Option<(PageIndex, u32)> {
        let (first, top) = (self.layout.first, self.runs.top);
        let start = self.slot_scans[class].next.clamp(first, top);
        let mut pages_needed = Pages(u32::MAX);
        for part in [PageRange { start, end: top }, PageRange { start: first, end: start }] {
            let mut page = part.start;
            while let Some(span) = self.next_span_of(class, page, part.end) {
                page = span + self.descriptor(span).shape().pages;
                if self.descriptor(span).free_slots() == 0 {
                    continue;
                }
                self.disturb(span);
                if self.descriptor(span).resident_free_slot().is_none() {
                    if !self.may_use(span) {
                        pages_needed = pages_needed.min(self.purged_count(span));
                        self.put_to_rest(span);
                        continue;
                    }
                    self.unpurge(span);
                }
                self.slot_scans[class].next = span;
                return self.descriptor(span).resident_free_slot().map(|slot| (span, slot));
            }
        }
        let unreachable = self.free_slots_of(class);
        self.slot_scans[class] = SlotScan { next: start, unreachable, pages_needed };
        None
    }

    /// The first span of a class that starts in `page` to `end`.
    fn next_span_of(
        &mut self,
        class: usize,
        mut page: PageIndex,
        end: PageIndex,
    ) -> Option<PageIndex> {
        while page < end {
            if self.page_runs().is_free(page) {
                page = self.page_runs().free_end(page);
                continue;
            }
            let descriptor = self.descriptor(page);
            let length = match descriptor.kind() {
                PageKind::Span if descriptor.class() == class => return Some(page),
                PageKind::Span => descriptor.shape().pages,
                PageKind::Large => descriptor.large_pages(),
                PageKind::None | PageKind::SpanRest => Pages(1),
            };
            page = page + length;
        }
        None
    }

    /// Hands out a slot of a span that is not active.
    fn take_single(&mut self, class: usize, span: PageIndex, slot: u32, size: usize) -> *mut u8 {
        match self.descriptor(span).span_state() {
            SpanState::Partial => self.unlist(class, span),
            SpanState::Empty => self.bins[class].spare = PageIndex(0),
            SpanState::Full | SpanState::Active => {}
        }
        self.descriptor(span).free.clear(slot);
        self.bins[class].taken = self.bins[class].taken.wrapping_add(1);
        self.requested_bytes = self.requested_bytes.wrapping_add(size as u64);
        self.list_by_free_slots(class, span);
        self.put_to_rest(span);
        let shape = self.descriptor(span).shape();
        self.address(span).wrapping_add(shape.slack() + (slot * shape.slot_size) as usize)
    }

    /// Notes that a span's purged pages are used again, or freed: its slots are not unreachable any
    /// more.
    pub(in crate::heap) fn note_unpurged(&mut self, span: PageIndex) {
        let descriptor = self.descriptor(span);
        let (class, free) = (descriptor.class(), u64::from(descriptor.free_slots()));
        let scan = &mut self.slot_scans[class];
        scan.unreachable = scan.unreachable.saturating_sub(free);
    }
}
