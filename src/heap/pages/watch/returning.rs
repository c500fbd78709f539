//! What the background thread does: claims pages that hold memory for nothing, has them purged, and
//! releases them.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{Forecast, Watch};
use crate::heap::pages::claim::Claimable;
use crate::heap::pages::refaults::{AtomicStamp, PurgeStamp};
use crate::heap::pages::runs::CHUNK_PAGES;
use crate::heap::slots::descriptor::Descriptor;
use crate::os::{MemoryRange, Purged};
use crate::units::{PAGE, PageIndex, Pages};

/// Most pages that go back in one call: about 150 µs of the kernel's time.
const CALL: Pages = Pages((1 << 20) / PAGE as u32);
/// Most ranges that do. A word of 64 pages has 32 at most.
const RANGES: usize = 64;

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
            let mut batch = ClaimedRanges::new(self, stamp);
            is_last = true;
            for first in &mut words {
                let dirty = self.word(first).dirty;
                let mine = dirty.claim(self.highest(dirty.get(), excess.0));
                excess = excess.saturating_sub(Pages(mine.count_ones()));
                batch.add(first, mine);
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
        let pages = ((self.kernel_page / PAGE) as u32).min(64);
        let whole = u64::MAX >> (64 - pages);
        // A bit for each kernel page that is dirty as a whole, where its first page has it.
        let mut firsts = dirty;
        let mut length = 1;
        while length < pages {
            firsts &= firsts >> length;
            length *= 2;
        }
        firsts &= u64::MAX / whole;
        while firsts.count_ones() > wanted.div_ceil(pages) {
            firsts &= firsts - 1;
        }
        firsts.wrapping_mul(whole)
    }

    /// Searches all resting spans for pages without a live slot, and returns these, by calls of
    /// `purge`, as long as `goes_on`. False: the kernel refused some. Where its pages are larger
    /// than the heap's nothing is done.
    ///
    /// # Safety
    ///
    /// As for [`Watch::return_dirty`]; and `purge` has all threads of the process come to where the
    /// others see all that they did before.
    pub(crate) unsafe fn return_holes(
        &self,
        purge: &dyn Fn(&[MemoryRange]) -> Purged,
        goes_on: &dyn Fn() -> bool,
        stamp: PurgeStamp,
    ) -> bool {
        let (mut batch, mut is_whole) = (ClaimedRanges::new(self, stamp), true);
        if self.kernel_page > PAGE {
            return true;
        }
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
                    batch = ClaimedRanges::new(self, stamp);
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
                vacant: &(*chunk).sheets.vacant,
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
    /// Of all sheets in the word's chunk.
    pub(super) vacant: &'heap Claimable,
}

/// Pages that were claimed, to go back by one call.
struct ClaimedRanges<'heap> {
    watch: &'heap Watch,
    stamp: PurgeStamp,
    ranges: [Claimed; RANGES],
    count: usize,
    pages: Pages,
}

/// A range that was claimed: free pages, or some of a span.
#[derive(Clone, Copy, Default)]
struct Claimed {
    first: PageIndex,
    count: Pages,
    /// The first page of the span; 0: there is none.
    span: PageIndex,
}

impl<'heap> ClaimedRanges<'heap> {
    fn new(watch: &'heap Watch, stamp: PurgeStamp) -> ClaimedRanges<'heap> {
        let ranges = [Claimed::default(); RANGES];
        ClaimedRanges { watch, stamp, ranges, count: 0, pages: Pages::ZERO }
    }

    /// Whether there may be no room for another word, or span.
    fn is_full(&self) -> bool {
        self.count > RANGES - 32 || self.pages >= CALL
    }

    /// Adds dirty pages of a word, which were claimed.
    fn add(&mut self, first: PageIndex, pages: u64) {
        self.add_bits(first, pages, PageIndex(0));
    }

    /// Claims a span, and adds its pages without a live slot.
    fn add_span(&mut self, page: PageIndex) {
        let (resting, bit) = (self.watch.word(page).resting, 1 << (page.0 % 64));
        if resting.claim(bit) == 0 {
            return;
        }
        let span = self.watch.span(page);
        let holes = span.hole_pages() & !span.purged();
        if holes == 0 {
            resting.put_back(bit);
            resting.release(bit);
        } else {
            self.add_bits(page, holes.into(), page);
        }
    }

    fn add_bits(&mut self, at: PageIndex, mut bits: u64, span: PageIndex) {
        self.pages += Pages(bits.count_ones());
        while bits != 0 {
            let start = bits.trailing_zeros();
            let length = (bits >> start).trailing_ones();
            self.ranges[self.count] =
                Claimed { first: at + Pages(start), count: Pages(length), span };
            self.count += 1;
            bits &= !(u64::MAX >> (64 - length) << start);
        }
    }

    /// Returns all, and releases it. How many pages; `None`: the kernel refused some.
    fn give_back(self, purge: &dyn Fn(&[MemoryRange]) -> Purged) -> Option<Pages> {
        if self.count == 0 {
            return Some(Pages::ZERO);
        }
        let memory = self.ranges.map(|range| MemoryRange {
            start: self.watch.base.wrapping_add(range.first.offset()),
            bytes: range.count.bytes(),
        });
        let (done, mut index, mut refused) = (&self.watch.done, 0, 0);
        while index < self.count {
            let purged = purge(&memory[index..self.count]);
            let end = index + purged.ranges;
            self.ranges[index..end].iter().for_each(|range| self.note(range, true));
            done.calls.fetch_add(purged.calls as u32, Release);
            index = end;
            // A range that the kernel refuses is passed over.
            if index < self.count {
                self.note(&self.ranges[index], false);
                (index, refused) = (index + 1, refused + 1);
            }
        }
        done.refused.fetch_add(refused, Relaxed);
        // After all of it. A span of several ranges is released once, with the last of them: from
        // then on the heap's thread may have claimed it.
        let ranges = &self.ranges[..self.count];
        for (range, next) in ranges.iter().zip(ranges[1..].iter().map(Some).chain([None])) {
            let is_continued = next.is_some_and(|next| next.span == range.span);
            if range.span == PageIndex(0) || !is_continued {
                self.release(range);
            }
        }
        (refused == 0).then_some(self.pages)
    }

    /// Takes note of what became of a range.
    fn note(&self, range: &Claimed, is_returned: bool) {
        let (word, done) = (self.watch.word(range.first), &self.watch.done);
        let is_span = range.span != PageIndex(0);
        if !is_returned {
            if !is_span {
                word.dirty.put_back(range.bits());
            }
            return;
        }
        word.stamp.set(self.stamp);
        self.watch.count_returned(range.count);
        if !is_span {
            done.pages.fetch_add(range.count.0, Relaxed);
            return;
        }
        let span = self.watch.span(range.span);
        let pages = (u64::MAX >> (64 - range.count.0) << range.first.since(range.span).0) as u16;
        let fresh = pages & !span.purged.fetch_or(pages, Relaxed);
        if fresh & 1 == 1 {
            done.slack.fetch_add(span.shape().slack() as u32, Relaxed);
        }
        done.holes.fetch_add(fresh.count_ones(), Release);
    }

    fn release(&self, range: &Claimed) {
        if range.span == PageIndex(0) {
            return self.watch.word(range.first).dirty.release(range.bits());
        }
        let (resting, bit) = (self.watch.word(range.span).resting, 1 << (range.span.0 % 64));
        resting.put_back(bit);
        resting.release(bit);
    }
}

impl Claimed {
    /// The bits of free pages in their word.
    fn bits(&self) -> u64 {
        u64::MAX >> (64 - self.count.0) << (self.first.0 % 64)
    }
}
