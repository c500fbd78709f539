//! What a well-formed heap is: every invariant of every layer, by a walk over all pages.
//!
//! Knows nothing that the heap could have counted wrong: it starts from the descriptors and the
//! bitmaps and works out what the counts must be.

use core::slice;

use super::blocks::large::mmapped;
use super::pages::runs::{PageChunk, chunk_count};
use super::slots::class::CLASS_COUNT;
use super::slots::descriptor::{Descriptor, NEVER, PageKind, SpanState};
use super::{Counts, Heap, ReclaimHooks};
use crate::os::{Kernel, MemoryRange, Os};
use crate::units::{PageIndex, PageRange, Pages};

/// What the walk over the pages adds up.
struct Recount {
    classes: [ClassRecount; CLASS_COUNT],
    counts: Counts,
}

/// The same for one class.
#[derive(Clone, Copy, Default)]
struct ClassRecount {
    live: u64,
    spans: u32,
    short: u32,
    partial: u32,
    /// Free slots that lie on returned pages, at least in part.
    unreachable: u64,
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Panics on the first broken invariant.
    pub(crate) fn check(&mut self) {
        self.note_background_returns();
        self.check_extent();
        self.page_runs().check();
        self.split_mappings.check();
        let mut recount =
            Recount { classes: [ClassRecount::default(); CLASS_COUNT], counts: Counts::default() };
        let mut page = self.layout.first;
        while page < self.runs.top {
            page = self.check_page(page, &mut recount);
        }
        assert_eq!(page, self.runs.top, "H2: the last block ends beyond the top");
        (0..CLASS_COUNT).for_each(|class| self.check_bin(class, &recount));
        self.check_counts(&recount.counts);
        self.snapshot().check();
        self.check_returned_sheets();
    }

    /// Checks what is committed for the pages below the top.
    fn check_extent(&self) {
        let (top, extent) = (self.runs.top, &self.extent);
        assert!(
            top.offset() <= extent.end && extent.end <= self.layout.limit.offset(),
            "M2: pages"
        );
        let end = PageIndex::of(extent.end);
        let below = self.layout.descriptors(end, self.kernel_page);
        assert!(extent.below >= below, "M2: {end:?} has no descriptor");
        let last = self.layout.chunks + self.chunk_count * size_of::<PageChunk>();
        assert!(self.chunk_count >= chunk_count(end.0 as usize), "M2: {end:?} has no chunk");
        assert!(last <= extent.tables_end, "M2: a chunk beyond the tables");
    }

    /// Whether a slot of a class is free on pages that hold memory, or that the heap may hold.
    pub(crate) fn has_slot(&mut self, class: usize, limit: usize) -> bool {
        let room = limit.saturating_sub(self.resident());
        (self.layout.first.0..self.runs.top.0).map(PageIndex).any(|page| {
            let descriptor = self.descriptor(page);
            descriptor.kind() == PageKind::Span
                && descriptor.class() == class
                && descriptor.free_slots() > 0
                && (descriptor.resident_free_slots() > 0 || self.purged_count(page).bytes() <= room)
        })
    }

    /// Checks what starts at a page; returns where that ends.
    fn check_page(&mut self, page: PageIndex, recount: &mut Recount) -> PageIndex {
        let end = match self.descriptor(page).kind() {
            PageKind::None => {
                assert!(self.page_runs().is_free(page), "H2: {page:?} belongs to nothing");
                assert_eq!(self.descriptor(page).reciprocal.get(), 0, "D1: {page:?}");
                return page + Pages(1);
            }
            PageKind::SpanRest => panic!("H2: {page:?} is the rest of no span"),
            PageKind::Span => self.check_span(page, recount),
            PageKind::Large => self.check_large(page, recount),
        };
        for page in (page.0..end.0).map(PageIndex) {
            assert!(!self.page_runs().is_free(page), "H2: {page:?} is in use and free");
        }
        end
    }

    fn check_large(&mut self, page: PageIndex, recount: &mut Recount) -> PageIndex {
        let (count, requested) = self.large_size(page);
        let end = self.descriptor(page).large_color() + requested;
        assert!(end <= count.bytes(), "{page:?}: {requested} bytes, to {end}, in {count:?}");
        recount.counts.large_blocks += 1;
        recount.counts.large_pages += count;
        recount.counts.mmapped_pages += mmapped(count);
        recount.counts.large_requested += requested;
        let range = PageRange::new(page, count);
        for rest in (range.start.0 + 1..range.end.0).map(PageIndex) {
            let descriptor = self.descriptor(rest);
            assert_eq!(
                (descriptor.kind(), descriptor.reciprocal.get()),
                (PageKind::None, 0),
                "D1: {rest:?}"
            );
        }
        range.end
    }

    fn check_span(&mut self, first: PageIndex, recount: &mut Recount) -> PageIndex {
        let (start, at) = (self.address(first).addr(), self.descriptor_at(first));
        let class = self.descriptor(first).class();
        let shape = self.descriptor(first).shape();
        for page in 0..shape.pages.0 {
            let fresh = Descriptor::span_page((class, shape), page, start, at);
            let descriptor = self.descriptor(first + Pages(page));
            let kind = if page == 0 { PageKind::Span } else { PageKind::SpanRest };
            assert_eq!(descriptor.kind(), kind, "{first:?} + {page}");
            assert_eq!(descriptor.span_head.get(), fresh.span_head.get(), "{first:?} + {page}");
            assert_eq!(descriptor.neg_start.get(), fresh.neg_start.get(), "{first:?} + {page}");
            assert_eq!(descriptor.reciprocal.get(), fresh.reciprocal.get(), "{first:?} + {page}");
        }
        let rests =
            shape.pages > Pages(1) && self.descriptor(first).span_state() != SpanState::Active;
        assert_eq!(self.page_runs().is_resting(first), rests, "C2: {first:?}");
        self.check_slots(first);
        let descriptor = self.descriptor(first);
        let in_class = &mut recount.classes[class];
        in_class.spans += 1;
        in_class.short += u32::from(descriptor.is_short());
        in_class.live += u64::from(shape.slots - descriptor.free_slots());
        in_class.partial += u32::from(descriptor.span_state() == SpanState::Partial);
        in_class.unreachable +=
            u64::from(descriptor.free_slots() - descriptor.resident_free_slots());
        recount.counts.span_pages += shape.pages;
        recount.counts.purged += Pages(descriptor.purged().count_ones());
        if descriptor.purged() & 1 == 0 {
            recount.counts.slack += shape.slack();
        }
        first + shape.pages
    }

    /// Checks a span's bits against its place.
    fn check_slots(&mut self, first: PageIndex) {
        let base = self.base;
        let descriptor = self.descriptor(first);
        let shape = descriptor.shape();
        let free = descriptor.free_slots();
        let live = shape.slots - free;
        for word in 0..4 {
            let stray = descriptor.free.word(word) & !shape.word_mask(word as u32);
            assert_eq!(stray, 0, "D2: {first:?}");
        }
        assert!(descriptor.countdown.get() > 0, "D3: {first:?}");
        assert_eq!(
            descriptor.purged() & !descriptor.hole_pages(),
            0,
            "{first:?}: a live slot purged"
        );
        let (place, countdown) = (descriptor.span_state(), u32::from(descriptor.countdown.get()));
        let enough = free >= shape.partial_threshold() && live > 0;
        match place {
            SpanState::Active => assert_eq!(descriptor.purged(), 0, "S4: {first:?}"),
            SpanState::Full => {
                assert_eq!(countdown, shape.partial_threshold() - free, "S1: {first:?}")
            }
            SpanState::Partial => assert_eq!(countdown, live, "S1: {first:?}"),
            SpanState::Empty => assert_eq!((live, countdown), (0, NEVER.into()), "S3: {first:?}"),
        }
        assert!(
            place == SpanState::Active || enough == (place == SpanState::Partial),
            "S2: {first:?}"
        );
        let class = descriptor.class();
        let bin = &self.bins[class];
        assert_eq!(place == SpanState::Active, bin.active == first, "H3: {first:?} of {base:p}");
        assert_eq!(place == SpanState::Empty, bin.spare == first, "S3: {first:?}");
    }

    fn check_bin(&mut self, class: usize, recount: &Recount) {
        let bin = &self.bins[class];
        assert_eq!(
            self.live(class),
            recount.classes[class].live,
            "H4: live blocks of class {class}"
        );
        assert_eq!(bin.spans, recount.classes[class].spans, "H4: spans of class {class}");
        assert_eq!(bin.short, recount.classes[class].short, "H4: short spans of class {class}");
        let (known, unreachable) =
            (self.slot_scans[class].unreachable, recount.classes[class].unreachable);
        assert!(
            known <= unreachable,
            "G1: class {class} has {unreachable} unreachable slots, not {known}"
        );
        let (mut page, mut previous, mut length) = (bin.partial, PageIndex(0), 0);
        while page != PageIndex(0) {
            let descriptor = self.descriptor(page);
            assert_eq!(
                descriptor.span_state(),
                SpanState::Partial,
                "S2: {page:?} is in class {class}'s list"
            );
            assert_eq!(descriptor.class(), class, "{page:?} is in class {class}'s list");
            assert_eq!(descriptor.previous(), previous, "{page:?}: its way back");
            (previous, page) = (page, descriptor.next());
            length += 1;
        }
        assert_eq!(length, recount.classes[class].partial, "S2: class {class}'s list");
    }

    /// Nobody has written to descriptors since they were returned. Looking at them has mapped the
    /// kernel's page of zeros there, which `mincore` takes for memory: it goes again.
    fn check_returned_sheets(&mut self) {
        for pages in self.page_runs().returned_sheets() {
            let start = self.descriptor_at(pages.end - Pages(1)).cast::<u8>();
            let bytes = pages.count().0 as usize * size_of::<Descriptor>();
            // SAFETY: H1: they are committed, and any bytes are bytes. Zeros may go.
            unsafe {
                let all_zero = slice::from_raw_parts(start, bytes).iter().all(|byte| *byte == 0);
                assert!(all_zero, "K2: {pages:?}");
                Kernel.purge(&[MemoryRange { start, bytes }]);
            }
        }
    }

    fn check_counts(&self, recount: &Counts) {
        let counts = &self.counts;
        assert_eq!(counts.span_pages, recount.span_pages, "H4: pages of spans");
        assert_eq!(counts.purged, recount.purged, "H4: purged pages in spans");
        assert_eq!(counts.slack, recount.slack, "H4: slack");
        assert_eq!(counts.large_blocks, recount.large_blocks, "H4: large blocks");
        assert_eq!(counts.large_pages, recount.large_pages, "H4: pages of large blocks");
        assert_eq!(counts.mmapped_pages, recount.mmapped_pages, "H4: pages of blocks of 128 KiB");
        assert_eq!(counts.large_requested, recount.large_requested, "H4: bytes of large blocks");
        assert!(counts.resident_peak >= self.resident_pages(), "H4: the peak was passed");
    }
}
