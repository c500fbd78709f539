//! Giving the descriptors of free pages back, at the end of a sweep: see `heap::pages::sheet`.
//!
//! A sheet of descriptors goes when the pages it describes have gone. To use it again costs one
//! page fault for 64 pages of the heap.

use super::purge::{Budget, Cursor, Outcome, StepClock};
use crate::heap::{Heap, ReclaimHooks};
use crate::os::{MemoryRange, Os, Purged};

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Returns the descriptors of vacant sheets among the pages that a sweep has walked, until all
    /// are returned or the budget is spent. The next call of the sweep goes on below. A heap whose
    /// blocks are checked keeps its descriptors.
    pub(super) fn return_sheets(
        &mut self,
        cursor: &mut Cursor,
        clock: &mut StepClock,
        budget: Budget,
        outcome: &mut Outcome,
    ) {
        if self.is_checked() || self.runs.sheets.held == 0 {
            return;
        }
        let mut within = self.watch().whole_sheets(cursor.sheets_left());
        let mut begun = outcome.calls > 0;
        while within.start < within.end {
            if begun && clock.is_spent(budget, self.os.now_us()) {
                outcome.more = true;
                break;
            }
            begun = true;
            let claimed = self.watch().claim_sheets(&mut within);
            if claimed.is_empty() {
                continue;
            }
            // SAFETY: K1 and C1: the sheets are claimed and all their pages are free, so nobody
            // writes to the descriptors before the claims end, and zeroed ones say the same. They
            // are committed (H1), whole kernel pages, and private anonymous memory.
            let returned = claimed.give_back(&|ranges| unsafe { self.os.purge(ranges) });
            self.runs.sheets.note_returned(returned.sheets);
            self.runs.may_close |= returned.sheets > 0;
            let purged = Purged {
                ranges: usize::from(returned.sheets > 0),
                calls: returned.calls,
                errno: returned.errno,
            };
            self.note_purged(&purged, 0);
            self.note_refused_ranges(returned.refused, returned.errno);
            outcome.calls += returned.calls;
            outcome.refused += returned.refused;
            // A kernel that takes nothing of a batch would refuse step after step.
            let is_refused = returned.sheets == 0 && returned.refused > 0;
            if is_refused && matches!(budget, Budget::Until(_)) {
                within.end = within.start;
            }
        }
        cursor.leave_sheets(within.end);
    }

    /// Closes long runs of pages that were returned with their descriptors, and the committed pages
    /// above the top if they are many. What no budget was left for is done by the next sweep.
    pub(super) fn close_runs(
        &mut self,
        clock: &mut StepClock,
        budget: Budget,
        outcome: &mut Outcome,
    ) {
        if self.is_checked() || !self.watch().may_close() {
            return;
        }
        self.close_tail();
        let mut within = self.watch().all_sheets();
        let mut begun = outcome.calls > 0;
        while self.has_enough_open() {
            if begun && clock.is_spent(budget, self.os.now_us()) {
                outcome.more = true;
                return;
            }
            begun = true;
            let Some(run) = self.watch().claim_run(&mut within) else { break };
            // SAFETY: K4: all pages of the run are free, returned and claimed. This thread opens
            // them before it touches them.
            let decommit =
                |range: MemoryRange| unsafe { self.os.decommit(range.start, range.bytes) };
            let sheets = run.close(&decommit);
            self.runs.sheets.note_closed(sheets);
            // What the kernel refuses stays open until a sweep has returned more, or searches.
            if sheets == 0 {
                self.counts.failed_calls += 1;
                break;
            }
        }
        self.runs.may_close = false;
    }

    /// Whether there may be a run to close.
    fn has_enough_open(&self) -> bool {
        let open = self.runs.sheets.returned().saturating_sub(self.runs.sheets.closed());
        open as usize * self.watch().sheet_pages().0 as usize
            >= self.watch().least_closed().0 as usize
    }
}
