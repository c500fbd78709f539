//! Closing long runs of sheets whose pages and descriptors were returned: what both threads do
//! alike. See `sheet`.

#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{Relaxed, Release};

use super::Watch;
use crate::heap::pages::batch::vanishes;
use crate::heap::pages::sheet::{self, Sheet};
use crate::os::MemoryRange;
use crate::units::{PAGE, PageRange, Pages};

/// A run of sheets is closed if its pages are 16 MiB or more; beside a closed run, if they are 4
/// MiB. What is opened leaves no run of less than 4 MiB closed. So a heap has few mappings more,
/// and nothing is closed or opened for a few pages. (Tests close little.)
const LEAST: usize = if cfg!(test) { 2 << 20 } else { 16 << 20 };
const LEAST_BESIDE: usize = LEAST / 4;
/// Most bytes that are closed in one call, which frees 512 KiB of the kernel's tables.
const MOST: usize = 256 << 20;

/// A run of sheets that was claimed, to be closed by one call. The claims end when this is dropped.
pub(crate) struct ClaimedRun<'heap> {
    watch: &'heap Watch,
    pages: PageRange,
}

impl Watch {
    /// Pages of the shortest run that is closed by itself.
    pub(crate) fn least_closed(&self) -> Pages {
        Pages((LEAST / PAGE) as u32)
    }

    /// Pages of the shortest run that stays closed.
    pub(crate) fn least_left_closed(&self) -> Pages {
        Pages((LEAST_BESIDE / PAGE) as u32)
    }

    /// Whether long runs of returned pages may be closed.
    pub(crate) fn may_close(&self) -> bool {
        self.may_close.load(Relaxed)
    }

    /// Allows that, or forbids it.
    pub(crate) fn set_may_close(&self, may_close: bool) {
        self.may_close.store(may_close, Relaxed);
    }

    /// Claims the highest run of returned sheets that is long enough to be closed, in a range that
    /// is narrowed to what is still to be looked at. `None`: there is none.
    pub(crate) fn claim_run(&self, within: &mut PageRange) -> Option<ClaimedRun<'_>> {
        while within.start < within.end {
            let seen = self.highest_run(*within, |sheet| sheet.can_close());
            within.end = seen.start;
            if !self.is_long(seen) {
                continue;
            }
            // The heap's thread may have used some of them meanwhile.
            let claim = |sheet: &Sheet<'_>| {
                let is_mine = sheet.claim();
                let is_good = is_mine && sheet.may_be_closed();
                if is_mine && !is_good {
                    sheet.release();
                }
                is_good
            };
            let run = ClaimedRun { watch: self, pages: self.highest_run(seen, claim) };
            if self.is_long(run.pages) {
                within.end = run.pages.start;
                return Some(run);
            }
        }
        None
    }

    /// The highest run of sheets of a range that are as asked for, [`MOST`] bytes at most. Empty
    /// at the start of the range: there are none.
    fn highest_run(&self, within: PageRange, is_good: impl Fn(&Sheet<'_>) -> bool) -> PageRange {
        let mut run = PageRange { start: within.start, end: within.start };
        for pages in sheet::sheets_of(within, self.sheet_pages()).rev() {
            let is_full = run.count().bytes() >= MOST;
            if !is_full && is_good(&self.sheet(pages.start)) {
                run.start = pages.start;
                run.end = run.end.max(pages.end);
            } else if run.count() > Pages::ZERO {
                break;
            }
        }
        run
    }

    /// Whether a run of sheets is long enough to be closed.
    fn is_long(&self, run: PageRange) -> bool {
        let bytes = run.count().bytes();
        bytes >= LEAST || bytes >= LEAST_BESIDE && self.touches_closed(run)
    }

    fn touches_closed(&self, run: PageRange) -> bool {
        let is_closed = |pages: PageRange| self.sheet(pages.start).is_closed();
        let count = self.sheet_pages();
        let above = PageRange::new(run.end, count);
        let below_top = self.whole_sheets(above);
        above.end <= below_top.end && is_closed(above)
            || run.start.0 >= count.0 && is_closed(PageRange::new(run.start - count, count))
    }

    /// Closes all runs of sheets that are long enough, as long as `goes_on`. (The background
    /// thread)
    pub(crate) fn close_runs(
        &self,
        decommit: &dyn Fn(MemoryRange) -> bool,
        goes_on: &dyn Fn() -> bool,
    ) {
        let mut within = self.all_sheets();
        while self.may_close() && goes_on() {
            let Some(run) = self.claim_run(&mut within) else { return };
            let sheets = run.close(decommit);
            self.done.closed.fetch_add(sheets, Release);
            self.done.calls.fetch_add(1, Release);
            // What the kernel refuses stays open until the next visit.
            if sheets == 0 {
                return;
            }
        }
    }
}

impl ClaimedRun<'_> {
    /// Closes all, and ends the claims. How many sheets; 0: the kernel refused.
    pub(crate) fn close(self, decommit: &dyn Fn(MemoryRange) -> bool) -> u32 {
        // First: a child of a fork knows of it then, whatever the kernel has done.
        self.sheets().for_each(|sheet| sheet.set_closed(true));
        let memory = MemoryRange {
            start: self.watch.base.wrapping_add(self.pages.start.offset()),
            bytes: self.pages.count().bytes(),
        };
        let is_closed = decommit(memory);
        if !is_closed {
            self.sheets().for_each(|sheet| sheet.set_closed(false));
        }
        if is_closed { self.sheets().count() as u32 } else { 0 }
    }

    fn sheets(&self) -> impl Iterator<Item = Sheet<'_>> {
        let pages = sheet::sheets_of(self.pages, self.watch.sheet_pages());
        pages.map(|pages| self.watch.sheet(pages.start))
    }
}

impl Drop for ClaimedRun<'_> {
    fn drop(&mut self) {
        if !vanishes() {
            self.sheets().for_each(|sheet| sheet.release());
        }
    }
}
