//! Opening closed sheets before their pages are used. See `sheet`.

#![forbid(unsafe_code)]

use super::PageRuns;
use crate::heap::pages::claim::Claimable;
use crate::heap::pages::sheet::sheets_of;
use crate::units::{PageIndex, PageRange};

impl PageRuns<'_> {
    /// Opens the closed sheets of a range of free pages that is about to be used, by calls of
    /// `commit`. False: the kernel refused, and the pages must not be used. Otherwise nobody claims
    /// vacant sheets of the range before they are used.
    pub(crate) fn open(&mut self, range: PageRange, commit: &dyn Fn(PageRange) -> bool) -> bool {
        let vacant = self.vacant_in(range);
        self.withhold(vacant);
        let mut rest = vacant;
        while let Some(closed) = self.next_closed(rest) {
            if !self.open_run(closed, vacant, commit) {
                self.let_claim(vacant);
                return false;
            }
            rest.start = closed.end;
        }
        true
    }

    /// Opens all closed sheets, by calls of `commit`. False: the kernel refused some.
    pub(crate) fn open_all(&mut self, commit: &dyn Fn(PageRange) -> bool) -> bool {
        let mut rest =
            self.watch.whole_sheets(PageRange { start: PageIndex(0), end: self.counts.top });
        while let Some(closed) = self.next_closed(rest) {
            self.withhold(closed);
            let is_open = commit(closed);
            if is_open {
                self.note_open(closed);
            }
            self.let_claim(closed);
            if !is_open {
                return false;
            }
            rest.start = closed.end;
        }
        true
    }

    /// Opens a run of closed sheets among those that are withheld, and its neighbours where the
    /// kernel allows it.
    fn open_run(
        &mut self,
        closed: PageRange,
        withheld: PageRange,
        commit: &dyn Fn(PageRange) -> bool,
    ) -> bool {
        let above = self.more_above(closed, withheld);
        let below = self.less_below(closed, withheld);
        [above, below].into_iter().for_each(|sheets| self.withhold(sheets));
        let more = PageRange { start: below.start, end: above.end };
        // What was just being closed may be open after all.
        let is_closed = self.next_closed(more) == Some(more);
        let opened =
            [more, closed].into_iter().find(|run| (*run == closed || is_closed) && commit(*run));
        if let Some(run) = opened {
            self.note_open(run);
        }
        [above, below].into_iter().for_each(|sheets| self.let_claim(sheets));
        opened.is_some()
    }

    /// Closed sheets that are opened with those below: as many as make the next calls rare, and
    /// those that would be too few to stay closed.
    fn more_above(&self, closed: PageRange, withheld: PageRange) -> PageRange {
        let (start, more) = (closed.end, self.watch.least_closed());
        let none = PageRange { start, end: start };
        if start != withheld.end {
            return none;
        }
        let end = start + more + self.watch.least_left_closed();
        let within = self.watch.whole_sheets(PageRange { start, end });
        match self.next_closed(PageRange { start, end: within.end.max(start) }) {
            Some(run) if run.start == start && run.end == within.end => {
                PageRange { start, end: run.end.min(start + more) }
            }
            Some(run) if run.start == start => run,
            _ => none,
        }
    }

    /// Closed sheets below others that would be too few to stay closed.
    fn less_below(&self, closed: PageRange, withheld: PageRange) -> PageRange {
        let (end, pages) = (closed.start, self.watch.sheet_pages());
        let mut start = end;
        let is_closed = |start: PageIndex| self.sheet(start).is_closed();
        while start == end && end == withheld.start || start < end {
            if start.0 < pages.0 || !is_closed(start - pages) {
                return PageRange { start, end };
            }
            start = start - pages;
            if end.since(start) >= self.watch.least_left_closed() {
                break;
            }
        }
        PageRange { start: end, end }
    }

    /// The vacant sheets that a range of free pages touches, which are neighbours.
    fn vacant_in(&self, range: PageRange) -> PageRange {
        let vacant = |pages: &PageRange| self.is_vacant(*pages);
        let mut all = sheets_of(range, self.watch.sheet_pages()).filter(vacant);
        let first = all.next().unwrap_or(PageRange { start: range.start, end: range.start });
        PageRange { start: first.start, end: all.next_back().unwrap_or(first).end }
    }

    /// The first run of closed sheets in a range of whole ones.
    fn next_closed(&self, within: PageRange) -> Option<PageRange> {
        let is_closed = |pages: &PageRange| self.sheet(pages.start).is_closed();
        let mut sheets = sheets_of(within, self.watch.sheet_pages());
        let first = sheets.find(is_closed)?;
        let more = sheets.take_while(is_closed).last();
        Some(PageRange { start: first.start, end: more.unwrap_or(first).end })
    }

    fn note_open(&mut self, run: PageRange) {
        let mut count = 0;
        for pages in sheets_of(run, self.watch.sheet_pages()) {
            self.sheet(pages.start).set_closed(false);
            count += 1;
        }
        self.counts.sheets.note_opened(count);
    }

    /// Waits for the claims of vacant sheets, and has nobody claim them any more.
    fn withhold(&self, vacant: PageRange) {
        let (watch, is_watched) = (self.watch, self.watch.is_on());
        for pages in sheets_of(vacant, watch.sheet_pages()) {
            let wait = |word: &Claimable, mask| watch.wait_for(word, mask);
            self.sheet(pages.start).withhold(is_watched, wait);
        }
    }

    /// Vacant sheets that were withheld can be claimed again.
    fn let_claim(&self, vacant: PageRange) {
        let is_watched = self.watch.is_on();
        for pages in sheets_of(vacant, self.watch.sheet_pages()) {
            self.sheet(pages.start).vacate(is_watched);
        }
    }
}
