//! Hole purge: gives every free resident page back, between live blocks too.
//!
//! A pass walks the pages once, lowest first. Two kinds of pages hold memory for nothing: dirty
//! ones in the page runs, and those of living spans on which no slot is live. Where they touch they
//! go back in one call. A pass that runs out of budget leaves a cursor and the next goes on there;
//! what is freed behind the cursor meanwhile waits for the pass after.
//!
//! Counting is logical pages of 4 KiB. The kernel takes only its own, so on kernels with larger
//! ones a range is first widened over free pages that hold nothing, then cut to whole ones.

use crate::heap::{Heap, Kind, Place};
use crate::os::Os;
use crate::units::{PAGE, PageIndex, PageRange, Pages};

/// Most bytes that one madvise covers in a pass with a budget: about 150 µs of the kernel's time.
const STEP: Pages = Pages((1 << 20) / PAGE as u32);
/// Pages that are walked between two looks at the clock.
const WALK: Pages = Pages(1024);

/// When a pass must stop, on the clock of [`Os::now_us`].
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    /// When it is done.
    Unlimited,
    /// At this time.
    Until(u64),
}

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Pages given back.
    pub(crate) returned: Pages,
    /// madvise calls.
    pub(crate) calls: u64,
    /// Of these, refused.
    pub(crate) refused: u64,
    /// The budget ran out before the pass ended.
    pub(crate) more: bool,
}

impl<S: Os> Heap<S> {
    /// Gives free memory back until the pass has ended or the budget is spent.
    pub(crate) fn reclaim(&mut self, budget: Budget) -> Outcome {
        self.counts.reclaim_passes += 1;
        self.retire_all();
        let mut outcome = Outcome::default();
        // Without a budget the pass is whole, wherever an earlier one stopped.
        let start = match budget {
            Budget::Unlimited => self.layout.first,
            Budget::Until(_) => self.reclaim_cursor.max(self.layout.first),
        };
        let mut cursor = start;
        while cursor < self.runs.top {
            if self.is_spent(budget) && cursor > start {
                self.reclaim_cursor = cursor;
                outcome.more = true;
                return outcome;
            }
            cursor = self.reclaim_step(cursor, budget, &mut outcome);
        }
        self.reclaim_cursor = PageIndex(0);
        outcome
    }

    fn is_spent(&self, budget: Budget) -> bool {
        match budget {
            Budget::Unlimited => false,
            Budget::Until(deadline) => self.os.now_us() >= deadline,
        }
    }

    /// Gives back the next range of idle pages from `from` on, or walks on where there is none
    /// near. Returns where the next step begins.
    fn reclaim_step(
        &mut self,
        from: PageIndex,
        budget: Budget,
        outcome: &mut Outcome,
    ) -> PageIndex {
        let top = self.runs.top;
        let near = (from + WALK).min(top);
        let Some(mut range) = self.next_idle(from, near) else { return near };
        let most = match budget {
            Budget::Unlimited => top.since(range.start),
            Budget::Until(_) => STEP,
        };
        while range.count() < most {
            match self.next_idle(range.end, (range.end + Pages(1)).min(top)) {
                Some(next) if next.start == range.end => range.end = next.end,
                _ => break,
            }
        }
        range.end = range.end.min(range.start + most);
        self.give_to_kernel(range, outcome);
        range.end
    }

    /// The first row of idle pages that starts in `from` to `end`: dirty ones, or a hole in a span.
    fn next_idle(&mut self, mut from: PageIndex, end: PageIndex) -> Option<PageRange> {
        // A span that began before `from` may have holes behind it.
        if let Some(hole) = self.hole_from(from) {
            return Some(hole);
        }
        loop {
            let page = self.page_runs().next_dirty_or_marked(from, end)?;
            if self.page_runs().is_dirty(page) {
                return Some(PageRange { start: page, end: self.page_runs().dirty_end(page) });
            }
            match self.hole_from(page) {
                Some(hole) if hole.start < end => return Some(hole),
                _ => from = page + Pages(1),
            }
        }
    }

    /// The first hole at or after `from` in the span that `from` lies in: pages without a live
    /// slot that still hold memory. Current spans are left alone.
    fn hole_from(&mut self, from: PageIndex) -> Option<PageRange> {
        let (first, idle) = self.span_holes(from)?;
        let ahead = idle >> from.since(first).0;
        if ahead == 0 {
            return None;
        }
        let start = from + Pages(ahead.trailing_zeros());
        let length = (ahead >> ahead.trailing_zeros()).trailing_ones();
        Some(PageRange::new(start, Pages(length)))
    }

    /// The span of several pages that a page lies in, and which of its pages are idle.
    fn span_holes(&mut self, page: PageIndex) -> Option<(PageIndex, u32)> {
        if page >= self.runs.top {
            return None;
        }
        let descriptor = self.descriptor(page);
        let first = match descriptor.kind() {
            Kind::Span => page,
            Kind::SpanRest => page - Pages((descriptor.to_first / 64) as u32),
            Kind::None | Kind::Large => return None,
        };
        let descriptor = self.descriptor(first);
        if descriptor.place() == Place::Current {
            return None;
        }
        Some((first, u32::from(descriptor.hole_pages() & !descriptor.purged)))
    }

    fn give_to_kernel(&mut self, range: PageRange, outcome: &mut Outcome) {
        let Some(range) = self.whole_kernel_pages(range) else { return };
        self.counts.purge_calls += 1;
        outcome.calls += 1;
        // SAFETY: the range is committed, on kernel pages, and holds only free pages and pages of
        // spans without a live slot.
        let done = unsafe { self.os.purge(self.address(range.start), range.count().bytes()) };
        if !done {
            self.counts.failed_calls += 1;
            outcome.refused += 1;
            return;
        }
        let returned = self.note_returned(range);
        self.counts.returned_total += returned.bytes() as u64;
        outcome.returned += returned;
    }

    /// Takes a range that was purged off the account; returns how many pages were on it.
    fn note_returned(&mut self, range: PageRange) -> Pages {
        let mut returned = self.page_runs().clean(range);
        let mut page = range.start;
        while page < range.end.min(self.runs.top) {
            let free_end = self.page_runs().free_end(page);
            if page < free_end {
                page = free_end;
                continue;
            }
            let Some((first, idle)) = self.span_holes(page) else { break };
            let end = first + self.descriptor(first).shape().pages;
            let (from, to) = (page.since(first).0, range.end.min(end).since(first).0);
            let within = idle & ((1 << to) - 1) & !((1 << from) - 1);
            returned += self.count_as_purged(first, within as u16);
            page = end;
        }
        returned
    }

    /// The kernel pages of a range, grown over free pages at its edges. `None`: not one is whole.
    fn whole_kernel_pages(&mut self, mut range: PageRange) -> Option<PageRange> {
        let per_kernel_page = (self.kernel_page / PAGE) as u32;
        if per_kernel_page == 1 {
            return Some(range);
        }
        let starts_one = |page: PageIndex| page.0.is_multiple_of(per_kernel_page);
        while !starts_one(range.start) && self.holds_nothing(range.start - Pages(1)) {
            range.start = range.start - Pages(1);
        }
        while !starts_one(range.end) && self.holds_nothing(range.end) {
            range.end = range.end + Pages(1);
        }
        let start = range.start.0.next_multiple_of(per_kernel_page);
        let end = range.end.0 / per_kernel_page * per_kernel_page;
        (start < end).then_some(PageRange { start: PageIndex(start), end: PageIndex(end) })
    }

    /// Whether a page is free, was never used, or is a hole in a span.
    fn holds_nothing(&mut self, page: PageIndex) -> bool {
        if page < self.layout.first {
            return false;
        }
        if page >= self.runs.top || self.page_runs().is_free(page) {
            return true;
        }
        let Some((first, _)) = self.span_holes(page) else { return false };
        self.descriptor(first).hole_pages() >> page.since(first).0 & 1 == 1
    }
}
