//! What large blocks leave behind.
//!
//! A large block that is freed, shrunk or moved does not wait for `decay_us`. LuaJIT's own
//! allocator unmaps each block of 128 KiB and more at once, so a heap that kept them would hold
//! more after one transient string of 700 MB than the program holds without it. What is worth
//! keeping stays: 8 MB, a sixteenth of what is in use, or `retain`.
//!
//! A buffer that comes and goes waits for its time as small blocks do. The first time that it is
//! freed costs its page faults. These tell that it was needed again, and for as long as to return
//! it each time would cost more than a hundredth of the time, as much is not returned at once. The
//! policy's credit for what large blocks leave limits that.

#![forbid(unsafe_code)]

use super::policy::{PrematurePurge, Settings};
use super::purge::Budget;
use crate::heap::Heap;
use crate::heap::refaults::PurgeReason;
use crate::options::Key;
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::Pages;

/// Blocks of fewer pages than this, 128 KiB, wait for their time as small ones do, and so does less
/// than this that is too much.
const LEAST: Pages = Pages(32);
/// Free memory that stays when a large block is freed: 8 MiB, or a sixteenth of what is in use.
const KEPT_MIN: Pages = Pages(2048);
const KEPT_SHARE: u32 = 16;

/// What is remembered of large blocks that are gone.
#[derive(Default)]
pub(super) struct Emptied {
    /// Pages that they have left, and that were worth keeping.
    left: Pages,
    /// What of the memory that was returned was needed again too soon, and the mistakes that are
    /// known of.
    premature: PrematurePurge,
    premature_total: u64,
}

impl<O: Os> Heap<O, Reclaim> {
    /// A large block has left `pages` free. Returns as many pages as this block and those before
    /// have left, as far as they are not worth keeping. They go at once, because unmapping a block
    /// takes as long.
    pub(super) fn return_emptied(&mut self, pages: Pages) {
        if pages < LEAST || self.options.get(Key::Auto) == 0 {
            return;
        }
        let left = self.hooks.emptied.left.saturating_add(pages).min(self.runs.dirty);
        self.hooks.emptied.left = left;
        // Most have nothing to return, and do not read the clock.
        if self.runs.dirty <= self.worth_keeping() {
            return;
        }
        let start_us = self.os.now_us();
        let now_us = self.hooks.clock.advance(start_us);
        let needed = self.needed_again(now_us);
        if !self.may_purge(self.runs.dirty.saturating_sub(needed)) {
            return;
        }
        self.look(now_us);
        let keep = self.worth_keeping().max(needed);
        let excess = self.runs.dirty.saturating_sub(keep).min(left);
        if excess >= LEAST {
            let keep = self.runs.dirty - excess;
            let outcome =
                self.purge_dirty(keep, self.purge_reason(), self.budget_for_emptied(start_us));
            self.hooks.emptied.left = left.saturating_sub(outcome.returned);
            self.cut_end();
            self.note_step(start_us);
        }
        self.leave_to_background();
    }

    /// A host that ticks counts its microseconds: the rest goes at its ticks, when it is due.
    fn budget_for_emptied(&self, start_us: u64) -> Budget {
        match self.hooks.background.has_host(start_us) {
            true => Budget::Until(start_us + self.options.get(Key::StepUs) as u64),
            false => Budget::Unlimited,
        }
    }

    /// Free memory that stays when a large block is gone. A swing of demand is no reason to keep
    /// more: what that costs is learned here.
    fn worth_keeping(&self) -> Pages {
        if self.purge_reason() == PurgeReason::Limit {
            return Pages::ZERO;
        }
        let Settings { retain, retain_max, .. } = self.settings();
        let kept = if self.may_keep() {
            KEPT_MIN.max(Pages(self.used().0 / KEPT_SHARE))
        } else {
            Pages::ZERO
        };
        kept.max(retain).min(retain_max).min(self.hooks.decision.most)
    }

    /// What waits for its time after all.
    fn needed_again(&mut self, now_us: u64) -> Pages {
        let premature_total = self.runs.refaults.premature_total();
        let emptied = &mut self.hooks.emptied;
        let new =
            premature_total - core::mem::replace(&mut emptied.premature_total, premature_total);
        emptied.premature.add(now_us, Pages(u32::try_from(new).unwrap_or(u32::MAX)));
        let needed = emptied.premature.at(now_us);
        if !self.may_keep() {
            return Pages::ZERO;
        }
        // The last decision may be older than the block.
        needed.min(self.hooks.policy.most(&self.settings(), &self.large_observation(now_us)))
    }

    /// Whether free memory may stay at all but for `retain`.
    fn may_keep(&self) -> bool {
        self.purge_reason() != PurgeReason::Limit && self.options.get(Key::DecayMs) > 0
    }
}
