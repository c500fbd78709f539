//! The end of the pages, at `top`: how far it can come down, and up again.

#![forbid(unsafe_code)]

use super::{CHUNK_PAGES, OwnBitmap, PageRuns, free_of};
use crate::bug::ensure;
use crate::units::{PageIndex, PageRange, Pages};

impl PageRuns<'_> {
    /// The `count` pages that end where `top` will be when they are taken. Free pages just below
    /// the `top` of now are among them.
    pub(crate) fn at_top(&self, count: Pages) -> PageRange {
        PageRange::new(self.counts.top - self.free_before_top(count), count)
    }

    /// The first of the run of free pages up to `top` that hold no memory; `top` if there are
    /// none.
    pub(crate) fn clean_end(&mut self) -> PageIndex {
        let top = self.counts.top;
        let most = top.since(self.dirty_end().min(top));
        top - self.free_before_top(most)
    }

    /// Lowers `top` to where [`PageRuns::clean_end`] is: what is above counts as never used. Waits
    /// for the background thread, which may have returned these pages, or their descriptors, just
    /// now. Returns what was cut off, and whether some of that holds memory after all: the kernel
    /// has refused it to that thread.
    pub(crate) fn cut(&mut self, end: PageIndex) -> (PageRange, bool) {
        let range = PageRange { start: end, end: self.counts.top };
        self.occupy_sheets(range);
        let freed = self.unset(OwnBitmap::Free, range);
        ensure!(freed == range.count(), "page runs: {range:?} is cut off, and in use");
        self.counts.free -= freed;
        let cleaned = self.take_dirty(range);
        self.counts.dirty -= cleaned;
        self.unset(OwnBitmap::Moved, range);
        self.counts.cut_top = self.counts.reached();
        self.counts.top = end;
        self.watch.set_top(end);
        (range, cleaned > Pages::ZERO)
    }

    /// Has the pages that were cut off just now free again. `dirty`: they may hold memory.
    pub(crate) fn join(&mut self, range: PageRange, dirty: bool) {
        let pages_churned = self.counts.pages_churned;
        self.counts.top = range.end;
        self.watch.set_top(range.end);
        self.give_back(range, dirty);
        self.counts.pages_churned = pages_churned;
    }

    /// Free pages in a run that ends at `top`, counted to at most `most`.
    pub(super) fn free_before_top(&self, most: Pages) -> Pages {
        let top = self.counts.top.0 as usize;
        let mut page = top;
        while page > 0 && top - page < most.0 as usize {
            let last = page - 1;
            let word = free_of(&self.chunks[last / CHUNK_PAGES], last % CHUNK_PAGES / 64);
            let ones = (word << (63 - last % 64)).leading_ones() as usize;
            page -= ones;
            if ones <= last % 64 {
                break;
            }
        }
        Pages((top - page) as u32).min(most)
    }
}
