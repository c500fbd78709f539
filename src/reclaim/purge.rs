//! Hole purge: gives free resident pages back, between live blocks too.
//!
//! A sweep walks the pages in windows, the highest first, since blocks are placed on the lowest
//! free pages and those will be needed again sooner. Two kinds of pages hold memory for nothing:
//! dirty ones in the page runs, and holes: pages of living spans on which no slot is live. Dirty
//! pages have a bitmap, and a sweep for them alone is cheap; for holes every span of several pages
//! is looked at. Where idle pages touch they go back as one range. A sweep that runs out of budget
//! leaves a cursor, and the next goes on there; what is freed behind the cursor meanwhile waits for
//! the sweep after. At its end the descriptors of pages that are all free go, too: see `sheets`.
//!
//! Counting is logical pages of 4 KiB. The kernel takes only its own, so on kernels with larger
//! ones a range is first widened over free pages that hold nothing, then cut to whole ones.

use crate::heap::refaults::{PurgeReason, PurgeStamp};
use crate::heap::{Heap, PageKind, ReclaimHooks, SpanState};
use crate::os::{MemoryRange, Os};
use crate::units::{PAGE, PageIndex, PageRange, Pages};

/// Most pages that go back in one call of a sweep with a budget: about 150 µs of the kernel's time.
const STEP: Pages = Pages((1 << 20) / PAGE as u32);
/// Most ranges that go back in one call. (Measured on holes of one page: 1.7 GB/s by single calls,
/// 4.9 with 64 at once, and no more with 1024.)
const BATCH: usize = 64;
/// Pages in a window: as many are walked between two looks at the clock.
const WINDOW: u32 = 1024;

/// When a sweep must stop, on the clock of [`crate::os::Os::now_us`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Budget {
    /// When it is done.
    Unlimited,
    /// At this time.
    Until(u64),
}

impl Budget {
    /// Ends `us` microseconds after `start_us`; 0 is no limit.
    pub(crate) fn from_us(start_us: u64, us: u32) -> Budget {
        match us {
            0 => Budget::Unlimited,
            us => Budget::Until(start_us + u64::from(us)),
        }
    }

    /// When it ends; `None`: when it is done.
    pub(crate) fn deadline_us(self) -> Option<u64> {
        match self {
            Budget::Unlimited => None,
            Budget::Until(deadline_us) => Some(deadline_us),
        }
    }

    pub(crate) fn is_spent(self, now_us: u64) -> bool {
        matches!(self, Budget::Until(deadline) if now_us >= deadline)
    }
}

/// What a sweep looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    /// Dirty pages that stay.
    pub(crate) keep: Pages,
    /// Whether spans are searched for holes. If not, the sweep ends as soon as no more than `keep`
    /// pages are dirty.
    pub(crate) holes: bool,
    /// What the returned pages are counted under.
    pub(crate) reason: PurgeReason,
}

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Pages given back.
    pub(crate) returned: Pages,
    /// Calls to the kernel.
    pub(crate) calls: u64,
    /// Ranges that the kernel refused.
    pub(crate) refused: u64,
    /// The budget ran out before the sweep ended.
    pub(crate) more: bool,
}

impl Outcome {
    /// This one and what was done next.
    pub(crate) fn and(self, next: Outcome) -> Outcome {
        Outcome {
            returned: self.returned + next.returned,
            calls: self.calls + next.calls,
            refused: self.refused + next.refused,
            more: next.more,
        }
    }
}

/// Where a sweep goes on: within a window upwards, then with the window below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    page: PageIndex,
    window: PageRange,
    /// The end of the pages whose descriptors are still to be looked at.
    sheets_end: PageIndex,
}

impl Cursor {
    /// A sweep of everything below a page.
    fn below(end: PageIndex) -> Cursor {
        Cursor { page: end, window: PageRange { start: end, end }, sheets_end: end }
    }

    /// The pages of the windows that it came to whose descriptors are still to be looked at.
    pub(super) fn sheets_left(&self) -> PageRange {
        PageRange { start: self.window.start.min(self.sheets_end), end: self.sheets_end }
    }

    /// Notes that the descriptors of pages from `end` on were looked at.
    pub(super) fn leave_sheets(&mut self, end: PageIndex) {
        self.sheets_end = end;
    }

    /// Notes that pages of its window go, and their descriptors after them.
    fn note_step(&mut self) {
        self.sheets_end = self.sheets_end.max(self.window.end);
    }

    /// Moves on to the next window when this one is done. False: there is none above `first`.
    fn advance(&mut self, first: PageIndex) -> bool {
        if self.page < self.window.end {
            return true;
        }
        let end = self.window.start;
        if end <= first {
            return false;
        }
        let start = PageIndex((end.0 - 1) / WINDOW * WINDOW).max(first);
        *self = Cursor { page: start, window: PageRange { start, end }, ..*self };
        true
    }
}

/// How long the steps of one call take.
pub(super) struct StepClock {
    last_us: u64,
    longest_us: u64,
}

impl StepClock {
    fn new(now_us: u64) -> StepClock {
        StepClock { last_us: now_us, longest_us: 0 }
    }

    /// Whether one more step, as long as the longest so far, would overrun the budget.
    pub(super) fn is_spent(&mut self, budget: Budget, now_us: u64) -> bool {
        self.longest_us = self.longest_us.max(now_us.saturating_sub(self.last_us));
        self.last_us = now_us;
        match budget {
            Budget::Unlimited => false,
            Budget::Until(deadline) => now_us + self.longest_us >= deadline,
        }
    }
}

/// Ranges that go back in one call.
struct PurgeBatch {
    ranges: [PageRange; BATCH],
    count: usize,
}

impl PurgeBatch {
    const EMPTY: PurgeBatch = PurgeBatch {
        ranges: [PageRange { start: PageIndex(0), end: PageIndex(0) }; BATCH],
        count: 0,
    };

    /// Adds a range behind those that are there. With large kernel pages the widened range may
    /// begin where the last one ended, or before.
    fn add(&mut self, mut range: PageRange) {
        if let Some(last) = self.ranges[..self.count].last() {
            range.start = range.start.max(last.end);
        }
        if range.start < range.end {
            self.ranges[self.count] = range;
            self.count += 1;
        }
    }
}

/// What one step may still take.
struct StepBudget {
    holes: bool,
    pages: Pages,
    dirty: Pages,
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Where a sweep begins.
    pub(crate) fn sweep_from(&mut self, sweep: &Sweep) -> Cursor {
        Cursor::below(if sweep.holes { self.runs.top } else { self.page_runs().dirty_end() })
    }

    /// Gives memory back from the cursor on until the sweep has ended or the budget is spent.
    pub(crate) fn sweep(&mut self, sweep: &Sweep, cursor: &mut Cursor, budget: Budget) -> Outcome {
        let mut outcome = Outcome::default();
        let mut clock = StepClock::new(self.os.now_us());
        let mut begun = false;
        while cursor.advance(self.layout.first) {
            if !sweep.holes && self.runs.dirty <= sweep.keep {
                break;
            }
            if begun && clock.is_spent(budget, self.os.now_us()) {
                outcome.more = true;
                break;
            }
            begun = true;
            cursor.note_step();
            self.sweep_step(sweep, cursor, budget, &mut outcome);
        }
        if !outcome.more {
            self.return_sheets(cursor, &mut clock, budget, &mut outcome);
            if !outcome.more && (sweep.holes || self.runs.may_close) {
                self.close_runs(&mut clock, budget, &mut outcome);
            }
        }
        outcome
    }

    /// Gives back a batch of idle pages of the cursor's window, and moves the cursor on.
    fn sweep_step(
        &mut self,
        sweep: &Sweep,
        cursor: &mut Cursor,
        budget: Budget,
        outcome: &mut Outcome,
    ) {
        let end = cursor.window.end.min(self.runs.top);
        let mut room = StepBudget {
            holes: sweep.holes,
            pages: match budget {
                Budget::Unlimited => Pages(WINDOW),
                Budget::Until(_) => STEP,
            },
            dirty: self.runs.dirty.saturating_sub(sweep.keep),
        };
        let mut batch = PurgeBatch::EMPTY;
        while room.pages > Pages::ZERO && batch.count < BATCH {
            let Some(range) = self.next_idle_range(cursor.page, end, &mut room) else {
                cursor.page = cursor.window.end;
                break;
            };
            cursor.page = range.end;
            if let Some(whole) = self.whole_kernel_pages(range) {
                batch.add(whole);
            }
        }
        self.give_to_kernel(&batch, sweep.reason, outcome);
    }

    /// The first range of idle pages in `from` to `end`, with all idle runs that touch, as far as
    /// there is room.
    fn next_idle_range(
        &mut self,
        from: PageIndex,
        end: PageIndex,
        room: &mut StepBudget,
    ) -> Option<PageRange> {
        let mut range = self.next_idle(from, end, room)?;
        while range.end < end && range.count() < room.pages {
            match self.next_idle(range.end, range.end + Pages(1), room) {
                Some(next) if next.start == range.end => range.end = next.end,
                _ => break,
            }
        }
        range.end = range.end.min(end).min(range.start + room.pages);
        room.pages -= range.count();
        Some(range)
    }

    /// The first run of idle pages that starts in `from` to `end`: dirty ones, or a hole in a span.
    fn next_idle(
        &mut self,
        mut from: PageIndex,
        end: PageIndex,
        room: &mut StepBudget,
    ) -> Option<PageRange> {
        // A span that began before `from` may have holes behind it.
        if let (true, Some(hole)) = (room.holes, self.hole_from(from)) {
            return (hole.start < end).then_some(hole);
        }
        while let Some(page) = self.page_runs().next_dirty(from, end, room.holes) {
            if !self.page_runs().is_dirty(page) {
                match self.hole_from(page) {
                    Some(hole) if hole.start < end => return Some(hole),
                    _ => from = page + Pages(1),
                }
                continue;
            }
            let run = PageRange { start: page, end: self.page_runs().dirty_end_of(page) };
            let taken = run.count().min(room.dirty);
            if taken > Pages::ZERO {
                room.dirty -= taken;
                return Some(PageRange::new(page, taken));
            }
            from = run.end;
        }
        None
    }

    /// The first hole at or after `from` in the span that `from` lies in: pages without a live
    /// slot that still hold memory. Active spans are left alone.
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

    /// The span of several pages that a page lies in, and which of its pages are idle. Descriptors
    /// of free pages are not looked at: those that were returned would be mapped again.
    fn span_holes(&mut self, page: PageIndex) -> Option<(PageIndex, u32)> {
        if page >= self.runs.top || self.page_runs().is_free(page) {
            return None;
        }
        let descriptor = self.descriptor(page);
        let first = match descriptor.kind() {
            PageKind::Span => page,
            PageKind::SpanRest => descriptor.first_page(page),
            PageKind::None | PageKind::Large => return None,
        };
        let descriptor = self.descriptor(first);
        if descriptor.span_state() == SpanState::Active {
            return None;
        }
        Some((first, u32::from(descriptor.hole_pages() & !descriptor.purged())))
    }

    /// Gives a batch back. A range that the kernel refuses is passed over.
    fn give_to_kernel(&mut self, batch: &PurgeBatch, reason: PurgeReason, outcome: &mut Outcome) {
        if batch.count == 0 {
            return;
        }
        let stamp = PurgeStamp::new(self.os.now_us(), reason);
        let memory = batch.ranges.map(|range| MemoryRange {
            start: self.address(range.start),
            bytes: range.count().bytes(),
        });
        let mut done = 0;
        while done < batch.count {
            // SAFETY: the ranges are committed, on kernel pages, and hold only free pages and pages
            // of spans without a live slot.
            let purged = unsafe { self.os.purge(&memory[done..batch.count]) };
            self.note_purged(&purged, batch.count - done);
            outcome.calls += purged.calls;
            for range in &batch.ranges[done..done + purged.ranges] {
                let returned = self.note_returned(*range);
                self.page_runs().stamp(*range, stamp);
                self.runs.refaults.note_returned(reason, returned);
                outcome.returned += returned;
            }
            done += purged.ranges;
            if done < batch.count {
                outcome.refused += 1;
                done += 1;
            }
        }
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
