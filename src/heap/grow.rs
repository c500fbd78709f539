//! Taking pages: as far as the gate lets the heap, and the kernel.

#![forbid(unsafe_code)]

use super::{Above, Heap, NO_GATE};
use crate::units::{PAGE, PageIndex, PageRange, Pages, round_up};

/// A heap grows by an eighth, but by these bytes at least and at most.
const COMMIT_STEP: (usize, usize) = (256 << 10, 64 << 20);
/// In a plan by these bytes at least, and at most by such a part of the limit: what the heap takes
/// ahead others cannot have.
const PLANNED_STEP: (usize, usize) = (32 << 10, 512);

/// So many new pages at once, 64 KiB, and the layer above is told.
const GROWTH: Pages = Pages(16);

impl<S: Above> Heap<S> {
    /// Finds a run of pages, the lowest there is. `None`: there is no room.
    pub(super) fn find_pages(&mut self, count: Pages) -> Option<PageRange> {
        if let Some(range) = self.page_runs().find_lowest(count) {
            return Some(range);
        }
        let fits = count <= self.layout.limit.since(self.layout.first);
        self.denied = if fits { 0 } else { count.bytes() };
        fits.then(|| self.page_runs().at_top(count))
    }

    /// Takes free or never used pages. `in_return` pages in use will hold no memory any more when
    /// this is done. False: there is no memory, or the gate is closed.
    pub(super) fn take_pages(&mut self, range: PageRange, in_return: Pages) -> bool {
        let known = self.page_runs().below_top(range);
        let returned = known.count() - self.page_runs().dirty_in(known);
        let fresh = range.count() - known.count() + self.tables_for(range.end);
        if !self.may_grow((returned + fresh).beyond(in_return)) || !self.commit(range.end) {
            return false;
        }
        if returned > Pages::ZERO {
            let now_us = self.os.now_us();
            self.page_runs().recall(known, now_us);
        }
        self.page_runs().take(range);
        self.note_aside();
        let new = (range.count() - known.count()).beyond(in_return);
        if new >= GROWTH {
            S::grown(self, new);
        }
        self.note_peak(in_return);
        true
    }

    /// Pages by which the tables grow when pages up to `end` are used.
    pub(super) fn tables_for(&self, end: PageIndex) -> Pages {
        let top = self.runs.top;
        if self.gate == NO_GATE || end <= top {
            return Pages::ZERO;
        }
        let bytes = self.layout.metadata(end) - self.layout.metadata(top);
        Pages((bytes / PAGE) as u32)
    }

    /// Whether the gate lets the heap hold so many more pages.
    pub(super) fn may_grow(&mut self, pages: Pages) -> bool {
        let open = self.gate == NO_GATE
            || pages == Pages::ZERO
            || self.resident().saturating_add(pages.bytes()) <= self.gate;
        self.refused = if open { Pages::ZERO } else { pages };
        open
    }

    /// Bytes that hold memory, by our own account, the tables included.
    pub(crate) fn resident(&self) -> usize {
        self.resident_pages().bytes() + self.metadata()
    }

    /// Bytes of the heap's own tables that it uses.
    pub(crate) fn metadata(&self) -> usize {
        self.layout.metadata(self.runs.top) + self.words_touched
    }

    /// Pages that hold memory, by our own account: all below `top` but the clean and the purged.
    pub(crate) fn resident_pages(&self) -> Pages {
        let clean = self.runs.free - self.runs.dirty;
        self.runs.top.since(self.layout.first) - clean - self.counts.purged + self.beside
    }

    /// Notes how much is resident, less what will not be in a moment.
    pub(super) fn note_peak(&mut self, in_return: Pages) {
        let tables = Pages((self.metadata() / PAGE) as u32);
        let resident = self.resident_pages().beyond(in_return) + tables;
        self.counts.resident_peak = self.counts.resident_peak.max(resident);
    }

    /// Makes sure that pages below `top` and their descriptors are committed.
    pub(super) fn commit(&mut self, top: PageIndex) -> bool {
        if top.offset() <= self.committed() {
            return true;
        }
        self.denied = 0;
        if top > self.layout.limit {
            self.denied = top.offset() - self.committed();
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
        let (least, most) = match self.layout.is_planned {
            true => (PLANNED_STEP.0, (self.layout.bytes / PLANNED_STEP.1).min(COMMIT_STEP.1)),
            false => COMMIT_STEP,
        };
        let used = self.committed() - self.layout.first.offset();
        (used / 8).min(most).max(least)
    }

    fn commit_up_to(&mut self, end: usize) -> bool {
        let pages = PageIndex::of(end);
        let below = self.layout.descriptors(pages, self.kernel_page);
        if below > self.ground.below {
            let from = self.base.wrapping_sub(below);
            if !self.commit_part(from, below - self.ground.below) {
                return false;
            }
            self.ground.below = below;
        }
        if self.layout.is_planned && !self.commit_tables(pages) {
            return false;
        }
        let from = self.base.wrapping_add(self.committed());
        if !self.commit_part(from, end - self.committed()) {
            return false;
        }
        self.ground.end = end;
        if !self.is_shut() {
            self.not_committed = !end;
        }
        true
    }

    /// Makes sure that the chunks of all pages below `end` are committed.
    fn commit_tables(&mut self, end: PageIndex) -> bool {
        let (old, new) = (self.ground.tables_end, self.layout.tables_end(end, self.kernel_page));
        if new <= old {
            return true;
        }
        if !self.commit_part(self.base.wrapping_add(old), new - old) {
            return false;
        }
        self.ground.tables_end = new;
        self.chunk_count = self.layout.chunks_below(new);
        true
    }
}
