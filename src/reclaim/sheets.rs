//! Giving the descriptors of free pages back, at the end of a sweep: see `heap::sheet`.
//!
//! A sheet of descriptors goes when the pages it describes have gone. To use it again costs one
//! page fault for 64 pages of the heap.

use super::purge::{Budget, Cursor, Outcome, StepClock};
use crate::heap::{Above, Heap};
use crate::os::Purged;

impl<S: Above> Heap<S> {
    /// Returns the descriptors of vacant sheets among the pages that a sweep has walked, until all
    /// are returned or the budget is spent. A heap whose blocks are checked keeps them.
    pub(super) fn return_sheets(
        &mut self,
        cursor: &Cursor,
        clock: &mut StepClock,
        budget: Budget,
        outcome: &mut Outcome,
    ) {
        if self.is_checked() || self.runs.sheets.held == 0 {
            return;
        }
        let mut within = self.watch().whole_sheets(cursor.walked());
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
            let purged = Purged {
                ranges: usize::from(returned.sheets > 0),
                calls: returned.calls,
                errno: returned.errno,
            };
            self.note_purged(&purged, 0);
            self.note_refused_ranges(returned.refused, returned.errno);
            outcome.calls += returned.calls;
            outcome.refused += returned.refused;
        }
    }
}
