//! Stops the process when what the heap keeps about a block is not what it wrote.
//!
//! A write out of bounds can reach descriptors and tables in spite of the guard page, and a broken
//! descriptor could make the heap hand out memory that is in use. So, off the hot path, a value
//! from a descriptor is compared with what is known from elsewhere, and with the neighbours'
//! values, before the heap acts on it. This takes a few comparisons of words that are in the cache
//! already. `invariants`, for tests, looks at everything.

#![forbid(unsafe_code)]

use crate::bug::ensure;
use crate::heap::slots::class::{CLASS_COUNT, CLASSES};
use crate::heap::slots::descriptor::{PageKind, SpanState};
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::{PageIndex, PageRange, Pages};

const NO_PAGE: PageIndex = PageIndex(0);

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Stops unless a span of a class starts at a page, with free slots where it has slots.
    pub(in crate::heap) fn verify_span(&mut self, class: usize, page: PageIndex) {
        self.verify_page(page);
        let (base, slot_size) = (self.base, CLASSES[class].slot_size);
        let (start, at) = (self.address(page).addr(), self.descriptor_at(page));
        let descriptor = self.descriptor(page);
        let neg_start = |slack: usize| ((start + slack) as u32).wrapping_neg();
        ensure!(
            descriptor.span_head.get() == at
                && descriptor.is_of(class)
                && descriptor.neg_start.get() == neg_start(descriptor.shape().slack()),
            "heap {base:p}: H2: the descriptor of {page:?} is not that of a span of {slot_size} \
             byte slots"
        );
        let shape = descriptor.shape();
        let last = shape.words() as usize - 1;
        let words = descriptor.free.words();
        let (used, unused) = words.split_at(last + 1);
        let stray = unused.iter().fold(used[last] & !shape.word_mask(last as u32), |a, b| a | b);
        ensure!(
            stray == 0,
            "heap {base:p}: D2: a span at {start:#x} of {slot_size} byte slots has free slots past \
             its end"
        );
    }

    /// Stops unless a span starts at a page; returns its class.
    pub(in crate::heap) fn verify_any_span(&mut self, page: PageIndex) -> usize {
        self.verify_page(page);
        let base = self.base;
        let descriptor = self.descriptor(page);
        let is_span = descriptor.kind() == PageKind::Span;
        ensure!(is_span, "heap {base:p}: H2: no span starts at {page:?}");
        let class = descriptor.class();
        ensure!(class < CLASS_COUNT, "heap {base:p}: H2: {page:?} is of no class");
        self.verify_span(class, page);
        class
    }

    /// Stops unless a page is one that blocks can start on.
    fn verify_page(&self, page: PageIndex) {
        let is_used = self.layout.first <= page && page < self.runs.top;
        ensure!(is_used, "heap {:p}: H2: {page:?} was never used", self.base);
    }

    /// Stops unless a page's span says that it is the first in the list of a class.
    pub(in crate::heap) fn verify_head(&mut self, class: usize, page: PageIndex) {
        let (_, previous) = self.verify_listed(class, page);
        let is_first = previous == NO_PAGE;
        ensure!(is_first, "heap {:p}: S2: {page:?} is not the first of its list", self.base);
    }

    /// Stops unless a page's span is in the list of a class, between two that say so.
    pub(in crate::heap) fn verify_links(&mut self, class: usize, page: PageIndex) {
        let base = self.base;
        let (next, previous) = self.verify_listed(class, page);
        let to = match previous {
            NO_PAGE => self.bins[class].partial,
            previous => self.verify_listed(class, previous).0,
        };
        let back = match next {
            NO_PAGE => page,
            next => self.verify_listed(class, next).1,
        };
        ensure!(
            to == page && back == page,
            "heap {base:p}: S2: the links of {page:?} lead elsewhere than back"
        );
    }

    /// Stops unless a page's span says that it is in the list of a class; returns its links.
    fn verify_listed(&mut self, class: usize, page: PageIndex) -> (PageIndex, PageIndex) {
        self.verify_page(page);
        let base = self.base;
        let descriptor = self.descriptor(page);
        let is_listed = descriptor.is_of(class) && descriptor.span_state() == SpanState::Partial;
        ensure!(is_listed, "heap {base:p}: S2: {page:?} is in a list and says that it is not");
        (descriptor.next(), descriptor.previous())
    }

    /// Stops unless a large block's count of pages, and its size, are possible.
    pub(in crate::heap) fn verify_large(&mut self, page: PageIndex) {
        self.verify_page(page);
        let (count, requested) = self.large_size(page);
        let end = self.descriptor(page).large_color().saturating_add(requested);
        let fits = count <= self.runs.top.since(page) && end <= count.bytes();
        // A checked block has a page behind it, and keeps its pages when it shrinks.
        ensure!(
            fits && (self.fast_path_disabled() || Pages::holding(end) == Some(count)),
            "heap {:p}: H2: a large block at {page:?} has {count:?} for {requested} bytes",
            self.base
        );
        let range = PageRange::new(page, count);
        debug_assert!(!self.page_runs().is_free(range.start), "H2: {page:?} is in use and free");
    }
}
