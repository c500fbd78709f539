//! What the background thread does: claims pages that hold memory for nothing, has them purged, and
//! releases them.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{Forecast, Watch};
use crate::heap::pages::batch::{Claim, ClaimBatch};
use crate::heap::pages::claim::Claimable;
use crate::heap::pages::refaults::{AtomicStamp, PurgeStamp};
use crate::heap::pages::runs::CHUNK_PAGES;
use crate::heap::slots::descriptor::Descriptor;
use crate::os::{MemoryRange, Purged};
use crate::units::{PAGE, PageIndex, PageRange, Pages};

/// Most pages that go back in one call: about 150 µs of the kernel's time.
const CALL: Pages = Pages((1 << 20) / PAGE as u32);

impl Watch {
    /// What the heap's thread said last. `None`: it is saying something new.
    pub(crate) fn forecast(&self) -> Option<Forecast> {
        self.forecast.read()
    }

    /// Free pages that hold memory.
    pub(crate) fn dirty(&self) -> Pages {
        let count = |first| self.word(first).dirty.get().count_ones();
        Pages(self.words().map(count).sum())
    }

    /// Returns as many dirty pages, the highest first, by calls of `purge`, as long as `goes_on`.
    /// How many were returned; `None`: the kernel refused some.
    ///
    /// # Safety
    ///
    /// `purge` does as [`crate::os::Os::purge`]; the heap lives; no other thread does this.
    pub(crate) unsafe fn return_dirty(
        &self,
        mut excess: Pages,
        purge: &dyn Fn(&[MemoryRange]) -> Purged,
        goes_on: &dyn Fn() -> bool,
        stamp: PurgeStamp,
    ) -> Option<Pages> {
        let (mut returned, mut words) = (Some(Pages::ZERO), self.words());
        let mut is_last = false;
        while !is_last && goes_on() {
            let mut batch = ReturnCall::new(self, stamp);
            is_last = true;
            for first in &mut words {
                excess = excess.saturating_sub(batch.add_dirty(first, excess));
                if excess == Pages::ZERO {
                    break;
                }
                if batch.is_full() {
                    is_last = false;
                    break;
                }
            }
            let more = batch.give_back(purge);
            returned = returned.zip(more).map(|(before, more)| before + more);
        }
        returned
    }

    /// The highest pages of a word, whole kernel pages of them, and not many more than wanted.
    fn highest(&self, dirty: u64, wanted: u32) -> u64 {
        let (mut firsts, pages) = (self.kernel_pages(dirty), self.per_kernel_page());
        while firsts.count_ones() > wanted.div_ceil(pages) {
            firsts &= firsts - 1;
        }
        firsts.wrapping_mul(u64::MAX >> (64 - pages))
    }

    /// The pages of a word that make up whole kernel pages.
    fn whole_kernel_pages(&self, pages: u64) -> u64 {
        self.kernel_pages(pages).wrapping_mul(u64::MAX >> (64 - self.per_kernel_page()))
    }

    /// A bit for each kernel page that all pages of are there, at its first page.
    fn kernel_pages(&self, pages: u64) -> u64 {
        let count = self.per_kernel_page();
        let (mut firsts, mut length) = (pages, 1);
        while length < count {
            firsts &= firsts >> length;
            length *= 2;
        }
        firsts & (u64::MAX / (u64::MAX >> (64 - count)))
    }

    /// Pages of the heap in a page of the kernel, as far as they lie in one word.
    fn per_kernel_page(&self) -> u32 {
        ((self.kernel_page / PAGE) as u32).min(64)
    }

    /// Whether the background thread can return holes: the kernel's pages are no larger than the
    /// heap's.
    pub(crate) fn can_return_holes(&self) -> bool {
        self.kernel_page <= PAGE
    }

    /// Searches all resting spans for pages without a live slot, and returns these, by calls of
    /// `purge`, as long as `goes_on`. False: the kernel refused some.
    ///
    /// # Safety
    ///
    /// As for [`Watch::return_dirty`]; [`Watch::can_return_holes`] says so; and `purge` has all
    /// threads of the process come to where the others see all that they did before.
    pub(crate) unsafe fn return_holes(
        &self,
        purge: &dyn Fn(&[MemoryRange]) -> Purged,
        goes_on: &dyn Fn() -> bool,
        stamp: PurgeStamp,
    ) -> bool {
        let (mut batch, mut is_whole) = (ReturnCall::new(self, stamp), true);
        debug_assert!(self.can_return_holes());
        for first in self.words() {
            if !goes_on() {
                break;
            }
            let mut bits = self.word(first).resting.get();
            while bits != 0 {
                let page = first + Pages(bits.trailing_zeros());
                bits &= bits - 1;
                if batch.is_full() {
                    is_whole &= batch.give_back(purge).is_some();
                    batch = ReturnCall::new(self, stamp);
                }
                batch.add_span(page);
            }
        }
        is_whole & batch.give_back(purge).is_some()
    }

    /// Whether spans were searched since a forecast was made.
    pub(crate) fn has_searched(&self, forecast: &Forecast) -> bool {
        self.searched_us.load(Relaxed) == forecast.made_us
    }

    /// Spans were searched for a forecast.
    pub(crate) fn note_search(&self, forecast: &Forecast) {
        self.searched_us.store(forecast.made_us, Relaxed);
        self.done.searches.fetch_add(1, Relaxed);
        self.done.calls.fetch_add(1, Relaxed);
    }

    /// Counts returned pages in the heap's published figures.
    fn count_returned(&self, pages: Pages) {
        // SAFETY: null, or a counter that is never freed.
        if let Some(counter) = unsafe { self.counter.load(Acquire).as_ref() } {
            counter.fetch_add(pages.bytes() as u64, Relaxed);
        }
    }

    /// The first pages of all words of 64 below the top, the highest first.
    pub(super) fn words(&self) -> impl Iterator<Item = PageIndex> + use<> {
        let count = self.top.load(Relaxed).div_ceil(64);
        (0..count).rev().map(|word| PageIndex(word * 64))
    }

    /// The word that a page lies in.
    pub(super) fn word(&self, page: PageIndex) -> PageWord<'_> {
        let (chunk, word) = (page.0 as usize / CHUNK_PAGES, page.0 as usize % CHUNK_PAGES / 64);
        // SAFETY: W1 and W2: the page is below the top, or was. Only fields that are atomic are
        // referred to.
        unsafe {
            let chunk = self.chunks.add(chunk);
            PageWord {
                dirty: &(*chunk).dirty[word],
                resting: &(*chunk).resting[word],
                stamp: &(*chunk).stamps[word],
            }
        }
    }

    /// The descriptor of a span that is claimed.
    fn span(&self, page: PageIndex) -> &Descriptor {
        // SAFETY: W1: a page that a span starts at has a descriptor, at this distance from the
        // base. The heap's thread neither replaces nor frees it before it is released, and sets
        // nothing meanwhile that is not atomic but its place, its links and its countdown, which
        // are not looked at here.
        unsafe { &*self.base.cast::<Descriptor>().wrapping_sub(page.0 as usize + 1) }
    }
}

/// What both threads look at of 64 pages.
pub(super) struct PageWord<'heap> {
    pub(super) dirty: &'heap Claimable,
    pub(super) resting: &'heap Claimable,
    stamp: &'heap AtomicStamp,
}

/// What is returned by one call.
struct ReturnCall<'heap> {
    watch: &'heap Watch,
    stamp: PurgeStamp,
    batch: ClaimBatch<'heap>,
}

impl<'heap> ReturnCall<'heap> {
    fn new(watch: &'heap Watch, stamp: PurgeStamp) -> ReturnCall<'heap> {
        ReturnCall { watch, stamp, batch: ClaimBatch::new() }
    }

    /// Whether there may be no room for another word, or span.
    fn is_full(&self) -> bool {
        self.batch.is_full() || self.batch.pages() >= CALL
    }

    /// Claims the highest dirty pages of a word, whole kernel pages only, and adds them. How many.
    fn add_dirty(&mut self, first: PageIndex, wanted: Pages) -> Pages {
        let dirty = self.watch.word(first).dirty;
        let highest = self.watch.highest(dirty.get(), wanted.0);
        let mut claim = Claim::of_pages(dirty, first, highest);
        // The heap's thread may have used some of a kernel page meanwhile.
        claim.choose(self.watch.whole_kernel_pages(claim.pages()));
        let count = Pages(claim.pages().count_ones());
        self.batch.add(claim);
        count
    }

    /// Claims a span, and adds its pages without a live slot.
    fn add_span(&mut self, page: PageIndex) {
        if let Some(mut claim) = Claim::of_span(self.watch.word(page).resting, page) {
            let span = self.watch.span(page);
            claim.choose((span.hole_pages() & !span.purged()).into());
            self.batch.add(claim);
        }
    }

    /// Returns all, and releases it. How many pages; `None`: the kernel refused some.
    fn give_back(mut self, purge: &dyn Fn(&[MemoryRange]) -> Purged) -> Option<Pages> {
        let (watch, stamp, mut calls) = (self.watch, self.stamp, 0);
        let memory_of = |range: PageRange| MemoryRange {
            start: watch.base.wrapping_add(range.start.offset()),
            bytes: range.count().bytes(),
        };
        let none = MemoryRange { start: watch.base, bytes: 0 };
        let (memory, count) = self.batch.ranges(none, memory_of);
        let purge_from = |index: usize| {
            let purged = purge(&memory[index..count]);
            calls += purged.calls as u32;
            purged.ranges
        };
        let refused = self.batch.purge(purge_from, |claim, range| watch.note(claim, range, stamp));
        // Before the claims end: the heap's thread looks when it has waited for one.
        watch.done.refused.fetch_add(refused, Relaxed);
        watch.done.calls.fetch_add(calls, Release);
        (refused == 0).then_some(self.batch.pages())
    }
}

impl Watch {
    /// Takes note of a range that was returned.
    fn note(&self, claim: &Claim<'_>, range: PageRange, stamp: PurgeStamp) {
        let done = &self.done;
        self.word(range.start).stamp.set(stamp);
        self.count_returned(range.count());
        let Some(page) = claim.span() else {
            done.pages.fetch_add(range.count().0, Relaxed);
            return;
        };
        let span = self.span(page);
        let pages = claim.bits_of(range) as u16;
        let fresh = pages & !span.purged.fetch_or(pages, Relaxed);
        if fresh & 1 == 1 {
            done.slack.fetch_add(span.shape().slack() as u32, Relaxed);
        }
        done.holes.fetch_add(fresh.count_ones(), Release);
    }
}
