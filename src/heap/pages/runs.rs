//! Page runs: which pages are free, and which of those still hold memory.
//!
//! Two bits a page, 512 pages to a [`PageChunk`]. Deliberately knows nothing of size classes, and
//! makes no system call.
//!
//! ```text
//!            0        first                        top             limit
//!            | tables  | used and free pages        | never used    |
//!    free    | 0 0 0 0 | 0 0 1 1 0 0 0 1 0 0 1 1 0 0 | 0 0 0 0 0 0 0 |
//!    dirty   | 0 0 0 0 | 0 0 1 0 0 0 0 1 0 0 0 0 0 0 | 0 0 0 0 0 0 0 |
//! ```
//!
//! - P1: a page that is dirty is free.
//! - P2: a page at or above `top` is clean and unused, and in neither bitmap.
//! - P3: the counts are the bitmaps' population.
//! - P4: no run of n free pages, few as they are, starts below `lowest[n - 1]`.
//! - P5: a summary that is not stale is the summary of its pages.
//! - P6: no page at or above `dirty_end` is dirty, or will be if the kernel refuses it to the
//!   background thread.
//! - P7: a page whose memory was moved away is free and clean, but was not returned.
//!
//! `search` finds the lowest run of a given length, `dirty` the pages that hold memory. `end`
//! lowers `top` and raises it again. `vacancy` knows which descriptors serve free pages alone.
//! `opening` makes closed pages accessible before they are used. `stale` ends claims of a thread
//! that is gone.

#![forbid(unsafe_code)]

mod dirty;
mod end;
mod opening;
mod search;
mod stale;
mod vacancy;

use core::cell::Cell;

use super::claim::Claimable;
use super::refaults::{AtomicStamp, PurgeReason, PurgeStamp, RefaultStats};
use super::sheet::{SheetCounts, Sheets};
use super::watch::{BackgroundReturns, Watch};
use crate::bug::ensure;
use crate::units::{PageIndex, PageRange, Pages};
use search::{FEW, Summary};

/// Words of 64 pages in a chunk. Tests use small chunks, so that small heaps have many.
const CHUNK_WORDS: usize = if cfg!(test) { 2 } else { 8 };
/// Pages in a chunk.
pub(crate) const CHUNK_PAGES: usize = CHUNK_WORDS * 64;
/// Chunks in a group.
pub(crate) const GROUP_CHUNKS: usize = if cfg!(test) { 4 } else { 16 };
const GROUP_PAGES: usize = GROUP_CHUNKS * CHUNK_PAGES;

/// The bits of 512 pages. Cells are the heap's thread's alone.
#[repr(C)]
#[derive(Default)]
pub(crate) struct PageChunk {
    pub(super) dirty: [Claimable; CHUNK_WORDS],
    /// Where spans of several pages start that are not their bins' active ones.
    pub(super) resting: [Claimable; CHUNK_WORDS],
    /// When memory of a word's pages was returned last.
    pub(super) stamps: [AtomicStamp; CHUNK_WORDS],
    /// The descriptors of its pages.
    pub(super) sheets: Sheets,
    free: [Cell<u64>; CHUNK_WORDS],
    /// Free pages whose memory was moved away.
    moved: [Cell<u64>; CHUNK_WORDS],
    summary: Cell<Summary>,
    /// In the first chunk of a group: the group's summary.
    group: Cell<Summary>,
}

/// How many chunks hold `pages`.
pub(crate) const fn chunk_count(pages: usize) -> usize {
    pages.div_ceil(CHUNK_PAGES)
}

/// The numbers beside the bitmaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunCounts {
    /// The first page never used, or not since the end was cut off.
    pub(crate) top: PageIndex,
    /// The highest `top` that the end was cut off from: some pages below were used.
    pub(in crate::heap) cut_top: PageIndex,
    /// Where to look for runs of 1, 2, … pages: none starts below.
    lowest: [PageIndex; FEW],
    /// Free pages below `top`, dirty ones included.
    pub(crate) free: Pages,
    /// Free pages that still hold memory.
    pub(crate) dirty: Pages,
    /// No page at or above is dirty.
    dirty_end: PageIndex,
    /// Pages taken and given back, until the layer above takes note.
    pub(crate) pages_churned: Pages,
    pub(crate) sheets: SheetCounts,
    /// A sweep has returned descriptors, and has not looked for runs to close since.
    pub(crate) may_close: bool,
    pub(crate) refaults: RefaultStats,
    /// What the background thread did, until the layer above takes note.
    pub(crate) background: BackgroundReturns,
    /// Pages that it returned since somebody reads the heap's figures.
    pub(crate) background_total: Pages,
}

impl RunCounts {
    /// All pages below `first` are used, all others were never used.
    pub(crate) fn new(first: PageIndex) -> RunCounts {
        RunCounts { top: first, lowest: [first; FEW], ..RunCounts::default() }
    }

    /// The highest that `top` ever was.
    pub(in crate::heap) fn reached(&self) -> PageIndex {
        self.top.max(self.cut_top)
    }

    /// The part of a range that was used, and cut off since. Its stamps still say when its memory
    /// was returned.
    pub(in crate::heap) fn cut_off_in(&self, range: PageRange) -> PageRange {
        let end = range.end.min(self.reached());
        PageRange { start: range.start.max(self.top).min(end), end }
    }
}

/// The page runs of one heap: a view that lasts for one operation.
pub(crate) struct PageRuns<'heap> {
    pub(crate) counts: &'heap mut RunCounts,
    pub(crate) chunks: &'heap [PageChunk],
    /// What the heap shares with the background thread.
    pub(crate) watch: &'heap Watch,
}

/// One of the bitmaps that are the heap's thread's alone.
#[derive(Clone, Copy)]
enum OwnBitmap {
    Free,
    Moved,
}

impl PageRuns<'_> {
    /// Forgets everything: no page is free or dirty, and no span rests. The counts are the caller's
    /// to set.
    pub(crate) fn clear(&mut self) {
        let used = chunk_count(self.counts.reached().0 as usize);
        self.chunks[..used].iter().for_each(PageChunk::clear);
    }

    /// Finds the lowest free run of `count` pages below `top`. `None`: there is none.
    pub(crate) fn find_lowest(&mut self, count: Pages) -> Option<PageRange> {
        if self.counts.free < count {
            return None;
        }
        let page = self.find(count)?;
        if let Some(lowest) = self.counts.lowest.get_mut(count.0 as usize - 1) {
            *lowest = page;
        }
        Some(PageRange::new(page, count))
    }

    /// Takes the free or never used pages of a range that touches or lies below `top`, and raises
    /// `top` if the range ends above. The caller has made sure that the heap reaches so far.
    pub(crate) fn take(&mut self, range: PageRange) {
        let below_top = self.below_top(range);
        self.occupy_sheets(below_top);
        let taken = self.unset(OwnBitmap::Free, below_top);
        ensure!(taken == below_top.count(), "page runs: {range:?} handed out twice");
        self.counts.free -= taken;
        let cleaned = self.take_dirty(below_top);
        self.counts.dirty -= cleaned;
        self.unset(OwnBitmap::Moved, below_top);
        let [lowest, ..] = &mut self.counts.lowest;
        if range.start <= *lowest {
            *lowest = below_top.end.max(*lowest);
        }
        if range.end > self.counts.top {
            self.counts.top = range.end;
            self.watch.set_top(range.end);
        }
        self.counts.pages_churned = self.counts.pages_churned.saturating_add(range.count());
    }

    /// The part of a range that has been used before.
    pub(crate) fn below_top(&self, range: PageRange) -> PageRange {
        let top = self.counts.top;
        PageRange { start: range.start.min(top), end: range.end.min(top) }
    }

    /// Sums up the bits of a range in a bitmap.
    fn count(&self, range: PageRange, bits: impl Fn(&PageChunk, usize) -> u64) -> Pages {
        let in_part = |part: PageRange| {
            let (chunk, word, mask) = place_of(part);
            (bits(&self.chunks[chunk], word) & mask).count_ones()
        };
        Pages(words_of(range).map(in_part).sum())
    }

    /// Puts a stamp on a range whose memory was returned.
    pub(crate) fn stamp(&mut self, range: PageRange, stamp: PurgeStamp) {
        for word in range.start.0 as usize / 64..(range.end.0 as usize).div_ceil(64) {
            self.chunks[word / CHUNK_WORDS].stamps[word % CHUNK_WORDS].set(stamp);
        }
    }

    /// Notes that the free pages without memory of a range below `top` are about to be used.
    pub(crate) fn note_refaults(&mut self, range: PageRange, now_us: u64) {
        for part in words_of(range) {
            let moved_away = self.count(part, |chunk, word| chunk.moved[word].get());
            let pages = part.count() - self.dirty_in(part) - moved_away;
            self.note_word_refaults(part.start, pages, now_us);
        }
    }

    /// Notes that `pages` without memory, in the word of 64 with `page`, are about to be used.
    pub(crate) fn note_word_refaults(&mut self, page: PageIndex, pages: Pages, now_us: u64) {
        let page = page.0 as usize;
        let stamp = self.chunks[page / CHUNK_PAGES].stamps[page % CHUNK_PAGES / 64].get();
        self.counts.refaults.note_used(stamp, pages, now_us);
    }

    /// Whether every page of `range` is free or was never used.
    pub(crate) fn can_extend(&self, range: PageRange) -> bool {
        let below_top = self.below_top(range);
        self.run_end(below_top, free_of) == below_top.end
    }

    /// Frees pages in use. `dirty`: they may hold memory; otherwise it was moved away.
    pub(crate) fn give_back(&mut self, range: PageRange, dirty: bool) {
        let count = range.count();
        ensure!(range.end <= self.counts.top, "page runs: {range:?} freed beyond the top");
        let freed = self.set(OwnBitmap::Free, range);
        ensure!(freed == count, "page runs: {range:?} freed twice");
        self.counts.free += count;
        if dirty {
            let is_watched = self.watch.is_on();
            self.counts.dirty += self.dirty_words(range, |word, mask| word.set(mask, is_watched));
            self.counts.dirty_end = self.counts.dirty_end.max(range.end);
        } else {
            self.set(OwnBitmap::Moved, range);
        }
        // A run that has one of these pages and n before starts n pages before them.
        for (before, lowest) in self.counts.lowest.iter_mut().enumerate() {
            *lowest = PageIndex(range.start.0.saturating_sub(before as u32)).min(*lowest);
        }
        self.counts.pages_churned = self.counts.pages_churned.saturating_add(count);
        self.vacate_sheets(range);
    }

    /// Takes note of what the background thread has returned since last time. Pages that are in use
    /// by now count as well, so it is done whenever pages were taken.
    pub(in crate::heap) fn note_background_returns(&mut self) -> Option<BackgroundReturns> {
        let returns = self.watch.take_background_returns()?;
        self.count_background_returns(&returns);
        Some(returns)
    }

    /// Counts what the background thread has returned.
    pub(super) fn count_background_returns(&mut self, returns: &BackgroundReturns) {
        self.counts.dirty -= returns.pages;
        self.counts.sheets.note_returned(returns.sheets);
        self.counts.sheets.note_closed(returns.closed);
        self.counts.refaults.note_returned(PurgeReason::Idle, returns.pages + returns.holes);
        self.counts.background.add(returns);
        self.counts.background_total =
            self.counts.background_total.saturating_add(returns.pages + returns.holes);
    }

    /// Whether a page below `top` is free.
    pub(crate) fn is_free(&self, page: PageIndex) -> bool {
        self.count(PageRange::new(page, Pages(1)), |chunk, word| chunk.free[word].get()).0 == 1
    }

    /// The span of several pages that starts at a page is not active any more: it is found by
    /// [`PageRuns::next_dirty`], and by the background thread.
    pub(crate) fn rest(&mut self, page: PageIndex) {
        let (chunk, word, mask) = place_of(PageRange::new(page, Pages(1)));
        self.chunks[chunk].resting[word].set(mask, self.watch.is_on());
    }

    /// The span that starts at a page is about to be used, or freed. Waits until the background
    /// thread has done with it.
    pub(crate) fn disturb(&mut self, page: PageIndex) {
        let (chunk, word, mask) = place_of(PageRange::new(page, Pages(1)));
        let wait = |word: &Claimable, mask| self.watch.wait_for(word, mask);
        self.chunks[chunk].resting[word].take(mask, self.watch.is_on(), wait);
    }

    /// Whether a span that rests starts at a page.
    #[cfg(test)]
    pub(crate) fn is_resting(&self, page: PageIndex) -> bool {
        let resting = |chunk: &PageChunk, word: usize| chunk.resting[word].get();
        self.count(PageRange::new(page, Pages(1)), resting).0 == 1
    }

    /// Whether the memory of a free page was moved away.
    #[cfg(test)]
    pub(crate) fn is_moved(&self, page: PageIndex) -> bool {
        self.count(PageRange::new(page, Pages(1)), |chunk, word| chunk.moved[word].get()).0 == 1
    }

    /// Where the run of free pages that starts at `from` ends.
    pub(crate) fn free_end(&self, from: PageIndex) -> PageIndex {
        self.run_end(PageRange { start: from, end: self.counts.top }, free_of)
    }

    /// Where the run of ones that starts at `within.start` ends, at `within.end` at the latest.
    fn run_end(&self, within: PageRange, bits: impl Fn(&PageChunk, usize) -> u64) -> PageIndex {
        let mut page = within.start;
        while page < within.end {
            let at = page.0 as usize;
            let word = bits(&self.chunks[at / CHUNK_PAGES], at % CHUNK_PAGES / 64);
            let ones = (word >> (at % 64)).trailing_ones();
            page = page + Pages(ones);
            if at % 64 + (ones as usize) < 64 {
                break;
            }
        }
        page.min(within.end)
    }

    /// Sets the bits of a range; returns how many were clear.
    fn set(&mut self, bits: OwnBitmap, range: PageRange) -> Pages {
        self.update(bits, range, |word, mask| (word | mask, mask & !word))
    }

    /// Clears the bits of a range; returns how many were set.
    fn unset(&mut self, bits: OwnBitmap, range: PageRange) -> Pages {
        self.update(bits, range, |word, mask| (word & !mask, mask & word))
    }

    /// Replaces every word of a range by what `change(word, bits of the range in it)` says, and
    /// sums up the bits that were changed.
    fn update(
        &mut self,
        bits: OwnBitmap,
        range: PageRange,
        change: impl Fn(u64, u64) -> (u64, u64),
    ) -> Pages {
        let mut count = Pages::ZERO;
        for part in words_of(range) {
            let (at, word, mask) = place_of(part);
            let chunk = &self.chunks[at];
            let words = match bits {
                OwnBitmap::Free => &chunk.free,
                OwnBitmap::Moved => &chunk.moved,
            };
            let (new, changed) = change(words[word].get(), mask);
            words[word].set(new);
            count += Pages(changed.count_ones());
            if matches!(bits, OwnBitmap::Free) {
                chunk.summary.set(Summary::STALE);
                self.chunks[at / GROUP_CHUNKS * GROUP_CHUNKS].group.set(Summary::STALE);
            }
        }
        count
    }
}

impl PageChunk {
    fn clear(&self) {
        self.dirty.iter().chain(&self.resting).for_each(Claimable::clear);
        self.stamps.iter().for_each(|stamp| stamp.set(PurgeStamp::default()));
        self.sheets.clear();
        self.free.iter().chain(&self.moved).for_each(|word| word.set(0));
        self.summary.set(Summary::default());
        self.group.set(Summary::default());
    }
}

/// A word of the bitmap of free pages.
fn free_of(chunk: &PageChunk, word: usize) -> u64 {
    chunk.free[word].get()
}

/// Of a range that lies in one word: its chunk, its word there, and its bits in that.
fn place_of(part: PageRange) -> (usize, usize, u64) {
    let page = part.start.0 as usize;
    let mask = u64::MAX >> (64 - part.count().0) << (page % 64);
    (page / CHUNK_PAGES, page % CHUNK_PAGES / 64, mask)
}

/// A range in parts that each lie in one word.
fn words_of(range: PageRange) -> impl Iterator<Item = PageRange> {
    let mut page = range.start;
    core::iter::from_fn(move || {
        let start = page;
        page = range.end.min(PageIndex((start.0 / 64 + 1) * 64));
        (start < range.end).then_some(PageRange { start, end: page })
    })
}

#[cfg(test)]
mod tests;
