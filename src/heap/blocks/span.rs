//! Spans: runs of pages cut into equal slots, and the life of one.
//!
//! ```text
//!                 new_span            retire, few free           frees reach `partial_threshold`
//!   page runs ───────────────▶ Active ────────────────▶ Full ───────────────────────────┐
//!       ▲                       ▲ ▲ │                                                   ▼
//!       │ release               │ │ └─ retire, enough free ────────────────────────▶ Partial
//!       │                       │ └──── refill takes the list's head ◀──────────────────┤
//!       └───────────── Empty ───┘                                                       │
//!       ▲                ▲    refill, when the list is empty                            │
//!       └────────────────┴───────────────── the last live slot is freed ◀───────────────┘
//! ```
//!
//! The hot path touches none of this: it clears bits in the active span of a bin and sets bits in
//! any span. Two things call here: a bitmap word that ran out, and a countdown of frees that ended.
//!
//! - S1: the countdown of an active span is [`NEVER`] less the frees since the span became active;
//!   of a full one, `partial_threshold` less its free slots; of a partial one, its live slots.
//! - S2: a span is partial, and in the list of its bin, exactly when it is not active and has a
//!   live slot and at least `partial_threshold` free slots.
//! - S3: a span that a bin keeps as its spare has no live slot.
//! - S4: an active span has no purged pages.
//!
//! Which partial span is filled next: the one touched last, because its lines are in the caches;
//! when the heap should shrink, the fullest of the first few, so that sparse ones drain. Where the
//! heap may not grow, single slots are taken from any span: see `last_slots`.

use core::array;
use core::sync::atomic::Ordering::Relaxed;

use crate::bug::{bug, ensure};
use crate::heap::slots::class::{CLASS_COUNT, CLASSES, Class, SHORT};
use crate::heap::slots::descriptor::{Descriptor, NEVER, PageKind, SpanState};
use crate::heap::{Bin, Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::{PageIndex, PageRange, Pages};

const NO_PAGE: PageIndex = PageIndex(0);
/// How many partial spans are looked at for the fullest.
const PACKING_LOOK: usize = 8;

/// The bins of a heap that lies at `base` and has no spans.
pub(in crate::heap) fn empty_bins<O: Os, R: ReclaimHooks>(base: *mut u8) -> [Bin; CLASS_COUNT] {
    array::from_fn(|class| Bin { slot_size: CLASSES[class].slot_size, ..no_bin::<O, R>(base) })
}

/// A bin without spans, and without a class, of a heap that lies at `base`.
pub(in crate::heap) fn no_bin<O: Os, R: ReclaimHooks>(base: *mut u8) -> Bin {
    Bin {
        word: always_zero::<O, R>(base),
        base,
        taken: 0,
        freed: 0,
        slot_size: 0,
        active: NO_PAGE,
        cursor: 0,
        partial: NO_PAGE,
        spare: NO_PAGE,
        spans: 0,
        short: 0,
    }
}

/// Where a heap at `base` keeps `always_zero`.
fn always_zero<O: Os, R: ReclaimHooks>(base: *mut u8) -> *mut u64 {
    base.wrapping_add(core::mem::offset_of!(Heap<O, R>, always_zero)).cast()
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Points a bin whose word ran out at one with free slots. False: there is no memory.
    pub(in crate::heap) fn refill(&mut self, class: usize) -> bool {
        if self.advance(class) {
            return true;
        }
        self.retire(class);
        let Some(page) = self.next_span(class) else { return false };
        self.activate(class, page);
        self.advance(class)
    }

    /// Points a bin at the next word of its active span that has free slots.
    fn advance(&mut self, class: usize) -> bool {
        let Bin { active, cursor, .. } = self.bins[class];
        if active == NO_PAGE {
            return false;
        }
        let shape = self.descriptor(active).shape();
        let free = self.descriptor(active).free.words();
        let (first, words) = (self.first_word(active), shape.words());
        let word_at = |cursor: u32| (first + cursor) % words;
        let Some(cursor) = (cursor..words).find(|cursor| free[word_at(*cursor) as usize] != 0)
        else {
            return false;
        };
        let word = word_at(cursor);
        ensure!(
            free[word as usize] & !shape.word_mask(word) == 0,
            "heap {:p}: D2: a span at {:p} of {} byte slots has free slots past its end",
            self.base,
            self.address(active),
            shape.slot_size
        );
        let descriptor = self.descriptor_at(active);
        let slots_before = (word * 64 * shape.slot_size) as usize;
        let base = self.address(active).wrapping_add(shape.slack() + slots_before);
        let bin = &mut self.bins[class];
        // SAFETY: the descriptor is committed, and `word` is one of its four.
        bin.word = unsafe { (&raw mut (*descriptor).free).cast::<u64>().add(word as usize) };
        bin.base = base;
        bin.cursor = cursor + 1;
        true
    }

    /// The index of the word to begin with, modulo the number of words. Not predictable from
    /// outside.
    fn first_word(&self, page: PageIndex) -> u32 {
        (page.0 ^ self.word_seed).wrapping_mul(0x9E37_79B9) >> 16
    }

    fn activate(&mut self, class: usize, page: PageIndex) {
        self.verify_span(class, page);
        self.unpurge(page);
        let descriptor = self.descriptor(page);
        descriptor.set_span_state(SpanState::Active);
        descriptor.countdown.set(NEVER);
        let free = descriptor.free_slots();
        let bin = &mut self.bins[class];
        bin.taken = bin.taken.wrapping_add(free.into());
        bin.active = page;
        bin.cursor = 0;
    }

    /// Takes the active span from its bin, and gives it the state that follows from its free slots.
    pub(crate) fn retire(&mut self, class: usize) {
        let page = self.bins[class].active;
        if page == NO_PAGE {
            return;
        }
        let (freed, free) = self.active_counts(page);
        let bin = &mut self.bins[class];
        bin.taken = bin.taken.wrapping_add(freed).wrapping_sub(free.into());
        bin.active = NO_PAGE;
        bin.cursor = 0;
        bin.word = always_zero::<O, R>(self.base);
        bin.base = self.base;
        self.list_by(class, page, free);
        self.put_to_rest(page);
    }

    /// Lets the background thread, and searches, look at a span that is not active, if it still
    /// is one.
    pub(in crate::heap) fn put_to_rest(&mut self, page: PageIndex) {
        let descriptor = self.descriptor(page);
        if descriptor.kind() == PageKind::Span && descriptor.shape().pages > Pages(1) {
            self.page_runs().rest(page);
        }
    }

    /// A span of several pages is about to be used, or freed.
    pub(in crate::heap) fn disturb(&mut self, page: PageIndex) {
        if self.descriptor(page).shape().pages > Pages(1) {
            self.mend_after_fork();
            self.page_runs().disturb(page);
            self.note_background_returns();
        }
    }

    /// How many slots of an active span were freed since it became that, and how many are free.
    fn active_counts(&self, page: PageIndex) -> (u64, u32) {
        let span = self.descriptor(page);
        (u64::from(NEVER - span.countdown.get()), span.free_slots())
    }

    /// Live blocks of a class.
    pub(crate) fn live(&self, class: usize) -> u64 {
        let bin = &self.bins[class];
        let live = bin.taken.wrapping_sub(bin.freed);
        if bin.active == NO_PAGE {
            return live;
        }
        let (freed, free) = self.active_counts(bin.active);
        live.wrapping_add(freed).wrapping_sub(free.into())
    }

    /// Spans of a class.
    pub(crate) fn spans(&self, class: usize) -> u32 {
        self.bins[class].spans
    }

    /// Gives a span that is in no list, and not the spare, the state that follows from its free
    /// slots.
    pub(in crate::heap) fn list_by_free_slots(&mut self, class: usize, page: PageIndex) {
        let free = self.descriptor(page).free_slots();
        self.list_by(class, page, free);
    }

    /// The same, for `free` free slots.
    fn list_by(&mut self, class: usize, page: PageIndex, free: u32) {
        let shape = self.descriptor(page).shape();
        ensure!(free <= shape.slots, "heap {:p}: D2: {free} free slots at {page:?}", self.base);
        if free == shape.slots {
            self.put_empty(class, page);
        } else if free >= shape.partial_threshold() {
            self.list(class, page, shape.slots - free);
        } else {
            let descriptor = self.descriptor(page);
            descriptor.set_span_state(SpanState::Full);
            descriptor.countdown.set((shape.partial_threshold() - free) as u16);
        }
    }

    /// The span to take slots from next: partial, empty, or new.
    fn next_span(&mut self, class: usize) -> Option<PageIndex> {
        let Bin { partial, spare, .. } = self.bins[class];
        if let Some(chosen) = self.choose_partial(partial) {
            self.unlist(class, chosen);
            return Some(chosen);
        }
        if spare != NO_PAGE && self.may_use(spare) {
            self.bins[class].spare = NO_PAGE;
            return Some(spare);
        }
        self.new_span(class)
    }

    /// The span to take from a list that begins with `head`: that one, or the fullest of the first
    /// few. At a limit only one whose pages the heap may hold.
    fn choose_partial(&mut self, head: PageIndex) -> Option<PageIndex> {
        if head != NO_PAGE && !self.packing && self.may_use(head) {
            return Some(head);
        }
        let (mut chosen, mut fewest, mut page) = (None, u32::MAX, head);
        for _ in 0..PACKING_LOOK {
            if page == NO_PAGE {
                break;
            }
            let descriptor = self.descriptor(page);
            let (free, next) = (descriptor.free_slots(), descriptor.next());
            if free < fewest && self.may_use(page) {
                (chosen, fewest) = (Some(page), free);
            }
            page = next;
        }
        chosen
    }

    /// Whether the growth limit lets the heap use the purged pages of a span again.
    pub(in crate::heap) fn may_use(&mut self, page: PageIndex) -> bool {
        let purged = self.purged_count(page);
        self.may_grow(purged)
    }

    /// The number of a span's purged pages.
    pub(in crate::heap) fn purged_count(&mut self, page: PageIndex) -> Pages {
        Pages(self.descriptor(page).purged().count_ones())
    }

    /// The shape of the next new span of a class. In a plan, where other heaps and the rest of the
    /// process want the same address space, the first one is short.
    fn next_shape(&self, class: usize) -> &'static Class {
        let (shape, short) = (&CLASSES[class], &SHORT[class]);
        let is_short =
            self.layout.is_planned && self.bins[class].spans == 0 && short.pages < shape.pages;
        if is_short { short } else { shape }
    }

    fn new_span(&mut self, class: usize) -> Option<PageIndex> {
        let shape = self.next_shape(class);
        let range = self.find_pages(shape.pages)?;
        if !self.take_pages(range, Pages::ZERO) {
            return None;
        }
        let first = range.start;
        let (start, descriptor) = (self.address(first).addr(), self.descriptor_at(first));
        for page in 0..shape.pages.0 {
            let fresh = Descriptor::span_page((class, shape), page, start, descriptor);
            self.set_descriptor(first + Pages(page), fresh);
        }
        self.bins[class].spans += 1;
        self.bins[class].short += u32::from(self.descriptor(first).is_short());
        self.counts.span_pages += shape.pages;
        self.counts.slack += shape.slack();
        Some(first)
    }

    /// Gives an empty span's pages back to the page runs.
    fn release_span(&mut self, class: usize, first: PageIndex) {
        let (shape, is_short) = (self.descriptor(first).shape(), self.descriptor(first).is_short());
        self.disturb(first);
        let purged = self.descriptor(first).purged();
        self.count_as_resident(first);
        for page in 0..shape.pages.0 {
            self.set_descriptor(first + Pages(page), Descriptor::none());
        }
        let mut runs = self.page_runs();
        runs.give_back(PageRange::new(first, shape.pages), true);
        for page in (0..shape.pages.0).filter(|page| purged >> page & 1 == 1) {
            runs.clean(PageRange::new(first + Pages(page), Pages(1)));
        }
        self.bins[class].spans -= 1;
        self.bins[class].short -= u32::from(is_short);
        self.counts.span_pages -= shape.pages;
        self.counts.slack -= shape.slack();
    }

    /// A countdown of frees ended: the span changes its state.
    pub(in crate::heap) fn countdown_ended(&mut self, page: PageIndex) {
        let class = self.verify_any_span(page);
        let descriptor = self.descriptor(page);
        match descriptor.span_state() {
            SpanState::Active => {
                descriptor.countdown.set(NEVER);
                let bin = &mut self.bins[class];
                bin.taken = bin.taken.wrapping_add(NEVER.into());
            }
            SpanState::Full => self.list_by_free_slots(class, page),
            SpanState::Partial => {
                self.unlist(class, page);
                self.put_empty(class, page);
            }
            SpanState::Empty => bug!("heap {:p}: S3: a slot of an empty span was freed", self.base),
        }
    }

    /// Keeps an empty span if its bin has none; otherwise releases it.
    fn put_empty(&mut self, class: usize, page: PageIndex) {
        let descriptor = self.descriptor(page);
        let (shape, free) = (descriptor.shape(), descriptor.free_slots());
        descriptor.set_span_state(SpanState::Empty);
        descriptor.countdown.set(NEVER);
        ensure!(
            free == shape.slots,
            "heap {:p}: S1: {free} of {} slots of {} bytes are free in a span held for empty",
            self.base,
            shape.slots,
            shape.slot_size
        );
        if self.bins[class].spare == NO_PAGE {
            self.bins[class].spare = page;
        } else {
            self.release_span(class, page);
        }
    }

    /// Takes every bin's active span from it and releases the spares, so that all free memory is
    /// in the page runs or in partial and full spans.
    pub(crate) fn retire_all(&mut self) {
        for class in 0..CLASS_COUNT {
            self.retire(class);
            let spare = self.bins[class].spare;
            if spare != NO_PAGE {
                self.bins[class].spare = NO_PAGE;
                self.release_span(class, spare);
            }
        }
    }

    fn list(&mut self, class: usize, page: PageIndex, countdown: u32) {
        let head = self.bins[class].partial;
        if head != NO_PAGE {
            self.verify_head(class, head);
            self.descriptor(head).set_previous(page);
        }
        let descriptor = self.descriptor(page);
        descriptor.set_span_state(SpanState::Partial);
        descriptor.countdown.set(countdown as u16);
        descriptor.set_next(head);
        descriptor.set_previous(NO_PAGE);
        self.bins[class].partial = page;
    }

    pub(in crate::heap) fn unlist(&mut self, class: usize, page: PageIndex) {
        self.verify_links(class, page);
        let descriptor = self.descriptor(page);
        let (next, previous) = (descriptor.next(), descriptor.previous());
        if previous == NO_PAGE {
            self.bins[class].partial = next;
        } else {
            self.descriptor(previous).set_next(next);
        }
        if next != NO_PAGE {
            self.descriptor(next).set_previous(previous);
        }
    }

    /// Notes that pages inside a living span hold no memory any more. Returns how many did.
    pub(crate) fn count_as_purged(&mut self, first: PageIndex, pages: u16) -> Pages {
        let descriptor = self.descriptor(first);
        let (shape, fresh) =
            (descriptor.shape(), pages & !descriptor.purged.fetch_or(pages, Relaxed));
        if fresh & 1 == 1 {
            self.counts.slack -= shape.slack();
        }
        let fresh = Pages(fresh.count_ones());
        self.counts.purged += fresh;
        fresh
    }

    /// Notes that the purged pages of a span are about to be used again.
    pub(in crate::heap) fn unpurge(&mut self, first: PageIndex) {
        self.disturb(first);
        let purged = self.descriptor(first).purged();
        if purged != 0 {
            let now_us = self.os.now_us();
            for page in (0..16).filter(|page| purged >> page & 1 == 1) {
                self.page_runs().note_word_refaults(first + Pages(page), Pages(1), now_us);
            }
            self.count_as_resident(first);
        }
        self.note_peak(Pages::ZERO);
    }

    /// Notes that a span's purged pages are about to be used, or freed, as a whole.
    fn count_as_resident(&mut self, first: PageIndex) {
        let descriptor = self.descriptor(first);
        let (shape, purged) = (descriptor.shape(), descriptor.purged());
        if purged == 0 {
            return;
        }
        self.note_unpurged(first);
        self.descriptor(first).purged.store(0, Relaxed);
        if purged & 1 == 1 {
            self.counts.slack += shape.slack();
        }
        self.counts.purged -= Pages(purged.count_ones());
    }
}
