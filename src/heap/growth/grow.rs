//! Taking pages, as far as the growth limit and the kernel allow.

use crate::heap::{Heap, NO_LIMIT, PageRuns, ReclaimHooks};
use crate::os::Os;
use crate::units::{PAGE, PageIndex, PageRange, Pages, round_up};

/// A heap grows by an eighth, but by these bytes at least and at most.
const COMMIT_STEP: (usize, usize) = (256 << 10, 64 << 20);
/// In a plan by these bytes at least, and at most by such a part of the limit: what the heap takes
/// ahead others cannot have.
const PLANNED_STEP: (usize, usize) = (16 << 10, 512);

/// A growth of 64 KiB or more at once is reported to the layer above.
const GROWTH: Pages = Pages(16);

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Finds a run of pages, the lowest there is. `None`: there is no room.
    pub(in crate::heap) fn find_pages(&mut self, count: Pages) -> Option<PageRange> {
        if let Some(range) = self.page_runs().find_lowest(count) {
            return Some(range);
        }
        let fits = count <= self.layout.limit.since(self.layout.first);
        self.kernel_denied = if fits { 0 } else { count.bytes() };
        fits.then(|| self.page_runs().at_top(count))
    }

    /// Takes free or never used pages. `pages_credited` pages in use will hold no memory any more
    /// when this is done. False: the kernel or the growth limit refused.
    pub(in crate::heap) fn take_pages(&mut self, range: PageRange, pages_credited: Pages) -> bool {
        self.mend_after_fork();
        let known = self.page_runs().below_top(range);
        let returned = known.count() - self.page_runs().dirty_in(known);
        let fresh = range.count() - known.count() + self.tables_for(range.end, known);
        if !self.may_grow((returned + fresh).saturating_sub(pages_credited))
            || !self.commit(range.end)
        {
            return false;
        }
        if !self.open_sheets(known) {
            return false;
        }
        let cut_off = self.runs.cut_off_in(range);
        if returned + cut_off.count() > Pages::ZERO {
            let now_us = self.os.now_us();
            self.page_runs().note_refaults(known, now_us);
            self.page_runs().note_refaults(cut_off, now_us);
        }
        self.page_runs().take(range);
        self.note_background_returns();
        let new = (range.count() - known.count()).saturating_sub(pages_credited);
        if new >= GROWTH {
            R::large_growth(self, new);
        }
        self.note_peak(pages_credited);
        true
    }

    /// Opens what is closed of free pages that are about to be used. False: the kernel refused.
    pub(in crate::heap) fn open_sheets(&mut self, range: PageRange) -> bool {
        let is_open = {
            let (mut runs, commit) = self.runs_and_commit();
            runs.open(range, &commit)
        };
        if !is_open {
            self.counts.failed_calls += 1;
            self.note_background_returns();
        }
        is_open
    }

    /// Opens all that is closed. False: the kernel refused.
    pub(in crate::heap) fn open_all_sheets(&mut self) -> bool {
        let (mut runs, commit) = self.runs_and_commit();
        runs.open_all(&commit)
    }

    /// The page runs, and what makes closed pages of them accessible.
    fn runs_and_commit(&mut self) -> (PageRuns<'_>, impl Fn(PageRange) -> bool) {
        let base = self.base;
        let (runs, os) = self.page_runs_and_os();
        let commit = move |pages: PageRange| {
            let start = base.wrapping_add(pages.start.offset());
            // SAFETY: L1 and L2: the pages are whole sheets below the top, so they lie in the
            // reservation, on kernel pages.
            unsafe { os.commit(start, pages.count().bytes()) }
        };
        (runs, commit)
    }

    /// Pages by which the tables grow when pages up to `end` are used, `known` ones of them again.
    fn tables_for(&mut self, end: PageIndex, known: PageRange) -> Pages {
        if self.growth_limit == NO_LIMIT {
            return Pages::ZERO;
        }
        let again = self.page_runs().returned_sheets_in(known);
        let (top, reached) = (self.runs.top, self.runs.reached());
        let after = self.layout.metadata(end.max(top), end.max(reached));
        let bytes = after - self.layout.metadata(top, reached);
        again + Pages((bytes / PAGE) as u32)
    }

    /// Whether the growth limit lets the heap hold `pages` more.
    pub(in crate::heap) fn may_grow(&mut self, pages: Pages) -> bool {
        let open = self.growth_limit == NO_LIMIT
            || pages == Pages::ZERO
            || self.resident().saturating_add(pages.bytes()) <= self.growth_limit;
        self.denied_pages = if open { Pages::ZERO } else { pages };
        open
    }

    /// Bytes that hold memory, by our own account, the tables included.
    pub(crate) fn resident(&self) -> usize {
        self.resident_pages().bytes() + self.metadata()
    }

    /// Bytes of the heap's own tables that it uses.
    pub(crate) fn metadata(&self) -> usize {
        let tables = self.layout.metadata(self.runs.top, self.runs.reached());
        tables + self.history_bytes - self.tables_returned()
    }

    /// Bytes of descriptors that were returned.
    pub(crate) fn tables_returned(&self) -> usize {
        self.runs.sheets.returned() as usize * self.kernel_page
    }

    /// Bytes of free pages that are closed.
    pub(crate) fn closed_bytes(&self) -> usize {
        (self.watch().sheet_pages().bytes()) * self.runs.sheets.closed() as usize
    }

    /// Pages that hold memory, by our own account: all below `top` but the clean and the purged.
    pub(crate) fn resident_pages(&self) -> Pages {
        let clean = self.runs.free - self.runs.dirty;
        self.runs.top.since(self.layout.first) - clean - self.counts.purged + self.guarded_pages
    }

    /// Notes how much is resident, less what will not be in a moment.
    pub(in crate::heap) fn note_peak(&mut self, pages_credited: Pages) {
        let tables = Pages((self.metadata() / PAGE) as u32);
        let resident = self.resident_pages().saturating_sub(pages_credited) + tables;
        self.counts.resident_peak = self.counts.resident_peak.max(resident);
    }

    /// Makes sure that pages below `top` and their descriptors are committed.
    pub(in crate::heap) fn commit(&mut self, top: PageIndex) -> bool {
        if top.offset() <= self.committed() {
            return true;
        }
        self.kernel_denied = 0;
        if top > self.layout.limit {
            self.kernel_denied = top.offset() - self.committed();
            return false;
        }
        let generous = self.committed() + self.step();
        let exact = round_up(top.offset(), self.kernel_page);
        let limit = self.layout.limit.offset();
        let generous = round_up(exact.max(generous), self.kernel_page).min(limit);
        self.commit_up_to(generous) || exact < generous && self.commit_up_to(exact.min(limit))
    }

    /// Bytes that the heap grows by at least.
    fn step(&self) -> usize {
        if !self.layout.is_planned {
            return (self.committed() / 8).clamp(COMMIT_STEP.0, COMMIT_STEP.1);
        }
        let used = self.committed() - self.layout.first.offset();
        let most = (self.layout.bytes / PLANNED_STEP.1).min(COMMIT_STEP.1);
        (used / 8).min(most).max(PLANNED_STEP.0)
    }

    fn commit_up_to(&mut self, end: usize) -> bool {
        let pages = PageIndex::of(end);
        let below = self.layout.descriptors(pages, self.kernel_page);
        if below > self.extent.below {
            let from = self.base.wrapping_sub(below);
            if !self.commit_part(from, below - self.extent.below) {
                return false;
            }
            self.extent.below = below;
        }
        if self.layout.is_planned && !self.commit_tables(pages) {
            return false;
        }
        let from = self.base.wrapping_add(self.committed());
        if !self.commit_part(from, end - self.committed()) {
            return false;
        }
        self.extent.end = end;
        if !self.fast_path_disabled() {
            self.committed_complement = !end;
        }
        true
    }

    /// Takes the committed pages above the top back, if they are as many as a run that is closed. A
    /// plan has its own way: see `cut_end`.
    pub(crate) fn close_tail(&mut self) {
        let end = round_up(self.runs.top.offset(), self.kernel_page);
        let bytes = self.committed() - end.min(self.committed());
        if self.layout.is_planned || bytes < self.watch().least_closed().bytes() {
            return;
        }
        // SAFETY: L1 and L2: the range lies in the reservation, on kernel pages. No page of it was
        // ever used, nor will be before it is committed again (H1).
        if !unsafe { self.os.decommit(self.base.wrapping_add(end), bytes) } {
            self.counts.failed_calls += 1;
            return;
        }
        self.extent.end = end;
        if !self.fast_path_disabled() {
            self.committed_complement = !end;
        }
    }

    /// Makes sure that the chunks of all pages below `end` are committed.
    fn commit_tables(&mut self, end: PageIndex) -> bool {
        let (old, new) = (self.extent.tables_end, self.layout.tables_end(end, self.kernel_page));
        if new <= old {
            return true;
        }
        if !self.commit_part(self.base.wrapping_add(old), new - old) {
            return false;
        }
        self.extent.tables_end = new;
        self.chunk_count = self.layout.chunks_below(new);
        true
    }
}
