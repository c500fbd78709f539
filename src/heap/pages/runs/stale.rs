//! Claims of the background thread that a fork has left: what is set again when they are ended.
//!
//! That thread claims a page first, and looks at the bit then. The heap's thread may have taken the
//! page meanwhile. So a claim does not show that the bit was set: what the heap itself knows does.

#![forbid(unsafe_code)]

use super::{CHUNK_PAGES, PageRuns};
use crate::heap::pages::sheet::sheets_of;
use crate::units::{PageIndex, PageRange};

impl PageRuns<'_> {
    /// Ends all claims of free pages and of sheets. Pages that are free and were not moved away are
    /// dirty then, as they may be. Sheets whose pages are all free are vacant.
    pub(in crate::heap::pages) fn end_stale_claims(&mut self) {
        for page in (0..self.counts.top.0 as usize).step_by(64) {
            let (chunk, word) = (&self.chunks[page / CHUNK_PAGES], page % CHUNK_PAGES / 64);
            let may_be_dirty = chunk.free[word].get() & !chunk.moved[word].get();
            self.watch.end_stale(&chunk.dirty[word], u64::MAX, may_be_dirty);
        }
        let all = PageRange { start: PageIndex(0), end: self.counts.top };
        for pages in sheets_of(all, self.watch.sheet_pages()) {
            let is_vacant = self.is_vacant(pages);
            self.sheet(pages.start).end_stale(is_vacant, |word, bit, stays| {
                self.watch.end_stale(word, bit, stays);
            });
        }
        self.counts.dirty_end = self.counts.top;
    }
}
