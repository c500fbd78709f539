//! Free pages outside of the heap that go back with its own: those of the allocator that its VM ran
//! on before.
//!
//! The policy has no say: the VM allocates nothing there any more, so a free page there is of no
//! use. When a pass over them is worth its time is for the layer above to know.

#![forbid(unsafe_code)]

use super::purge::{Budget, Outcome};
use crate::heap::{ForeignReason, ForeignReturned, Heap};
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::Pages;

impl<O: Os> Heap<O, Reclaim> {
    /// Whether some should go back now.
    pub(super) fn is_foreign_due(&self) -> bool {
        self.foreign_next_us() == Some(0)
    }

    /// Goes on with pages from outside, if some are due and `before`, what the same call did to the
    /// heap itself, has left budget.
    pub(super) fn run_due_foreign(&mut self, before: Outcome, budget: Budget) -> Outcome {
        if !self.is_foreign_due() {
            return before;
        }
        if !leaves_budget(before, || budget.is_spent(self.os.now_us())) {
            return Outcome { more: true, ..before };
        }
        before.and(self.give_back_foreign(ForeignReason::Due, budget.deadline_us()).into())
    }

    /// Gives all of them back, unless the heap itself took the budget.
    pub(super) fn reclaim_foreign(
        &mut self,
        before: Outcome,
        reason: ForeignReason,
        budget: Budget,
    ) -> Outcome {
        if before.more {
            return before;
        }
        before.and(self.give_back_foreign(reason, budget.deadline_us()).into())
    }
}

/// Whether what a call did to the heap itself leaves budget for more. A call takes one step at
/// least, and this one may have taken none yet.
fn leaves_budget(before: Outcome, is_spent: impl FnOnce() -> bool) -> bool {
    !before.more && (before.calls == 0 || !is_spent())
}

impl From<ForeignReturned> for Outcome {
    fn from(returned: ForeignReturned) -> Outcome {
        Outcome {
            returned: Pages::holding(returned.bytes as usize).unwrap_or(Pages::ZERO),
            calls: returned.calls,
            refused: returned.refused,
            more: returned.more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_takes_a_step_and_keeps_its_budget() {
        let leaves = |calls, more, is_spent| {
            leaves_budget(Outcome { calls, more, ..Outcome::default() }, || is_spent)
        };
        assert!(leaves(0, false, false) && leaves(0, false, true));
        assert!(leaves(1, false, false) && !leaves(1, false, true));
        // The heap is not done.
        assert!(!leaves(0, true, false) && !leaves(1, true, false) && !leaves(1, true, true));
    }
}
