//! Which sheets of descriptors are vacant: those whose pages are all free. See `sheet`.

#![forbid(unsafe_code)]

use super::{PageRuns, place_of, words_of};
use crate::heap::pages::claim::Claimable;
use crate::heap::pages::sheet::{Sheet, SheetCounts, sheets_of};
use crate::units::{PageIndex, PageRange, Pages};

impl PageRuns<'_> {
    /// Notes which sheets are vacant now that a range was freed.
    pub(super) fn vacate_sheets(&mut self, range: PageRange) {
        let is_watched = self.watch.is_on();
        for pages in sheets_of(range, self.watch.sheet_pages()) {
            if self.is_vacant(pages) {
                self.counts.sheets.vacant += 1;
                self.counts.sheets.held += 1;
                self.sheet(pages.start).vacate(is_watched);
            }
        }
    }

    /// Notes which sheets are not vacant any more since free pages are about to be used. Waits for
    /// those that the background thread has.
    pub(super) fn occupy_sheets(&mut self, range: PageRange) {
        let (watch, is_watched) = (self.watch, self.watch.is_on());
        for pages in sheets_of(range, watch.sheet_pages()) {
            if self.is_vacant(pages) {
                let wait = |word: &Claimable, mask| watch.wait_for(word, mask);
                let holds_memory = self.sheet(pages.start).occupy(is_watched, wait);
                self.counts.sheets.vacant -= 1;
                self.counts.sheets.note_returned(holds_memory.into());
            }
        }
    }

    /// Pages of the tables that hold no memory, and will when a range below `top` is used: the
    /// descriptors of its vacant sheets.
    pub(crate) fn returned_sheets_in(&self, range: PageRange) -> Pages {
        let is_returned =
            |pages: &PageRange| self.is_vacant(*pages) && !self.sheet(pages.start).can_go();
        let sheets = sheets_of(range, self.watch.sheet_pages()).filter(is_returned).count();
        Pages(sheets as u32 * self.watch.sheet_pages().0 / 64)
    }

    /// The counts of sheets, with what their bits say.
    pub(crate) fn sheets_by_bits(&self) -> SheetCounts {
        let all = PageRange { start: PageIndex(0), end: self.counts.top };
        let (mut held, mut closed) = (0, 0);
        for pages in sheets_of(all, self.watch.sheet_pages()) {
            let sheet = self.sheet(pages.start);
            held += u32::from(self.is_vacant(pages) && sheet.can_go());
            closed += u32::from(sheet.is_closed());
        }
        self.counts.sheets.recounted(held, closed)
    }

    /// Whether all pages of a sheet are free.
    pub(super) fn is_vacant(&self, pages: PageRange) -> bool {
        pages.end <= self.counts.top
            && words_of(pages).all(|part| {
                let (chunk, word, _) = place_of(part);
                self.chunks[chunk].free[word].get() == u64::MAX
            })
    }

    /// The sheet that begins at a page.
    pub(super) fn sheet(&self, first: PageIndex) -> Sheet<'_> {
        let (chunk, word, _) = place_of(PageRange::new(first, Pages(1)));
        self.chunks[chunk].sheets.at(word)
    }
}
