//! Returning the descriptors of vacant sheets: what both threads do alike. See `sheet`.

use core::sync::atomic::Ordering::{Relaxed, Release};

use super::Watch;
use crate::heap::pages::batch::vanishes;
use crate::heap::pages::claim::Claimable;
use crate::heap::pages::runs::CHUNK_PAGES;
use crate::heap::pages::sheet::{self, Sheet};
use crate::os::{MemoryRange, Purged};
use crate::units::{PageIndex, PageRange, Pages};

/// Most bytes of descriptors that go back in one call: about 150 µs of the kernel's time.
const CALL: usize = 1 << 20;
/// Most ranges that do.
const RANGES: usize = 64;

/// Sheets that were claimed, to go back by one call. The claims end when this is dropped.
pub(crate) struct ClaimedSheets<'heap> {
    watch: &'heap Watch,
    /// Their pages, the highest first.
    ranges: [PageRange; RANGES],
    count: usize,
    sheets: u32,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReturnedSheets {
    pub(crate) sheets: u32,
    pub(crate) calls: u64,
    /// Ranges that the kernel refused, and why it refused the last.
    pub(crate) refused: u64,
    pub(crate) errno: i32,
}

impl Watch {
    /// Pages in a sheet.
    pub(crate) fn sheet_pages(&self) -> Pages {
        sheet::sheet_pages(self.kernel_page)
    }

    /// The sheet that begins at a page.
    pub(super) fn sheet(&self, first: PageIndex) -> Sheet<'_> {
        let (chunk, word) = (first.0 as usize / CHUNK_PAGES, first.0 as usize % CHUNK_PAGES / 64);
        // SAFETY: W1 and W2: the page is below the top, or was. Only a field that is atomic is
        // referred to.
        let sheets = unsafe { &(*self.chunks.add(chunk)).sheets };
        sheets.at(word)
    }

    /// Whether no page of a vacant sheet seems to hold memory.
    fn looks_clean(&self, pages: PageRange) -> bool {
        self.all_words(pages, |dirty| dirty.get() == 0)
    }

    /// Whether no page of a sheet that is claimed holds memory, or is just being returned.
    fn is_clean(&self, pages: PageRange) -> bool {
        self.all_words(pages, |dirty| dirty.held() == 0)
    }

    fn all_words(&self, pages: PageRange, is_good: impl Fn(&Claimable) -> bool) -> bool {
        let mut firsts = (pages.start.0..pages.end.0).step_by(64);
        firsts.all(|first| is_good(self.word(PageIndex(first)).dirty))
    }

    /// Claims vacant sheets whose pages were returned, in a range that is narrowed to those that
    /// are still to be looked at: the highest first, as many as go back in one call.
    pub(crate) fn claim_sheets(&self, within: &mut PageRange) -> ClaimedSheets<'_> {
        let mut claimed = ClaimedSheets {
            watch: self,
            ranges: [PageRange { start: PageIndex(0), end: PageIndex(0) }; RANGES],
            count: 0,
            sheets: 0,
        };
        let most = (CALL / self.kernel_page).max(1) as u32;
        for pages in sheet::sheets_of(*within, self.sheet_pages()).rev() {
            let sheet = self.sheet(pages.start);
            if sheet.can_go() && self.looks_clean(pages) {
                if claimed.sheets == most || !claimed.has_room_for(pages) {
                    return claimed;
                }
                if sheet.claim() {
                    // The heap's thread may have used it meanwhile.
                    if !sheet.is_returned() && self.is_clean(pages) {
                        claimed.add(pages);
                    } else {
                        sheet.release();
                    }
                }
            }
            within.end = pages.start.max(within.start);
        }
        claimed
    }

    /// Returns the descriptors of all vacant sheets whose pages were returned, as long as
    /// `goes_on`. False: the kernel refused some. (The background thread)
    pub(crate) fn return_sheets(
        &self,
        purge: &dyn Fn(&[MemoryRange]) -> Purged,
        goes_on: &dyn Fn() -> bool,
    ) -> bool {
        let mut within = self.all_sheets();
        let mut is_whole = true;
        while within.start < within.end && goes_on() {
            let returned = self.claim_sheets(&mut within).give_back(purge);
            self.done.sheets.fetch_add(returned.sheets, Relaxed);
            self.done.refused.fetch_add(returned.refused as u32, Relaxed);
            self.done.calls.fetch_add(returned.calls as u32, Release);
            is_whole &= returned.refused == 0;
        }
        is_whole
    }

    /// All sheets that can be vacant.
    pub(crate) fn all_sheets(&self) -> PageRange {
        self.whole_sheets(PageRange { start: PageIndex(0), end: PageIndex(u32::MAX / 2) })
    }

    /// The sheets that a range touches and that can be vacant: those wholly below the top.
    pub(crate) fn whole_sheets(&self, range: PageRange) -> PageRange {
        let pages = self.sheet_pages().0;
        let below_top = self.top.load(Relaxed) / pages * pages;
        let end = range.end.0.next_multiple_of(pages).min(below_top);
        PageRange { start: PageIndex(range.start.0 / pages * pages), end: PageIndex(end) }
    }
}

impl ClaimedSheets<'_> {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The range that was added last, if a sheet lies just below.
    fn last_above(&mut self, pages: PageRange) -> Option<&mut PageRange> {
        self.ranges[..self.count].last_mut().filter(|last| last.start == pages.end)
    }

    fn has_room_for(&mut self, pages: PageRange) -> bool {
        self.count < RANGES || self.last_above(pages).is_some()
    }

    fn add(&mut self, pages: PageRange) {
        self.sheets += 1;
        if let Some(last) = self.last_above(pages) {
            last.start = pages.start;
            return;
        }
        self.ranges[self.count] = pages;
        self.count += 1;
    }

    /// Returns all, and ends the claims.
    pub(crate) fn give_back(self, purge: &dyn Fn(&[MemoryRange]) -> Purged) -> ReturnedSheets {
        let memory = self.ranges.map(|pages| self.watch.descriptors(pages));
        let (mut returned, mut index) = (ReturnedSheets::default(), 0);
        while index < self.count {
            let purged = purge(&memory[index..self.count]);
            returned.calls += purged.calls;
            let end = index + purged.ranges;
            for sheet in self.sheets(index, end) {
                sheet.set_returned(true);
                returned.sheets += 1;
            }
            index = end;
            // A range that the kernel refuses is passed over.
            if index < self.count {
                (returned.refused, returned.errno) = (returned.refused + 1, purged.errno);
                index += 1;
            }
        }
        returned
    }

    fn sheets(&self, from: usize, end: usize) -> impl Iterator<Item = Sheet<'_>> {
        let watch = self.watch;
        let in_range = move |range: &PageRange| sheet::sheets_of(*range, watch.sheet_pages());
        self.ranges[from..end].iter().flat_map(in_range).map(|pages| watch.sheet(pages.start))
    }
}

impl Drop for ClaimedSheets<'_> {
    fn drop(&mut self) {
        if !vanishes() {
            self.sheets(0, self.count).for_each(|sheet| sheet.release());
        }
    }
}

impl Watch {
    /// Where the descriptors of pages lie.
    fn descriptors(&self, pages: PageRange) -> MemoryRange {
        const BYTES: usize = size_of::<crate::heap::Descriptor>();
        let start = self.base.wrapping_sub(pages.end.0 as usize * BYTES);
        MemoryRange { start, bytes: pages.count().0 as usize * BYTES }
    }
}
