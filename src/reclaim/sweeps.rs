//! Sweeps over several calls: dirty pages and holes go back until a budget is spent, and the next
//! call goes on.
//!
//! A kernel that refused pages is left alone for a while. That time doubles where the sweep has
//! returned nothing, from 1 s up to 64 s.

#![forbid(unsafe_code)]

use super::purge::{Budget, Cursor, Outcome, Sweep};
use crate::heap::Heap;
use crate::heap::refaults::PurgeReason;
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::Pages;

/// How long not to ask a kernel that refused, at first and at most, in microseconds.
const REST_US: (u64, u64) = (1_000_000, 64_000_000);
const _: () = assert!(REST_US.1.is_multiple_of(REST_US.0));

/// A sweep that takes several steps, while it goes on.
pub(super) struct SweepProgress {
    cursor: Cursor,
    returned: Pages,
    refused: u64,
    /// Dirty pages when it began.
    dirty: Pages,
}

/// A kernel that refused is not asked again at once, which would only spin. It is asked again as
/// long as there is something to return, more and more rarely unless it took a part.
#[derive(Default)]
pub(super) struct Backoff {
    pub(super) until_us: u64,
    /// 0: it did not refuse.
    lasts_us: u64,
}

impl Backoff {
    /// Takes note of a sweep that has ended.
    fn note(&mut self, now_us: u64, sweep: &SweepProgress) {
        self.lasts_us = match (sweep.refused, sweep.returned) {
            (0, _) => 0,
            (_, Pages::ZERO) => (self.lasts_us * 2).clamp(REST_US.0, REST_US.1),
            _ => REST_US.0,
        };
        // At round times, so that several rests end at one.
        self.until_us = match self.lasts_us {
            0 => 0,
            lasts_us => (now_us / lasts_us + 1) * lasts_us,
        };
    }

    /// When to ask again, if it refused.
    pub(super) fn again_us(&self) -> Option<u64> {
        (self.lasts_us > 0).then_some(self.until_us)
    }
}

impl<O: Os> Heap<O, Reclaim> {
    /// Whether trying to return `count` dirty pages makes sense.
    pub(super) fn may_purge(&self, count: Pages) -> bool {
        count > self.hooks.unpurgeable
            && self.hooks.clock.now_us >= self.hooks.purge_backoff.until_us
    }

    /// Returns dirty pages, the highest first, until no more than `keep` are left.
    pub(super) fn purge_dirty(
        &mut self,
        keep: Pages,
        reason: PurgeReason,
        budget: Budget,
    ) -> Outcome {
        let sweep = Sweep { keep, holes: false, reason };
        let progress = self.hooks.dirty_sweep.take();
        let progress = progress.filter(|_| !matches!(budget, Budget::Unlimited));
        let is_whole = progress.is_none();
        let mut progress = progress.unwrap_or_else(|| self.new_sweep(&sweep));
        let outcome = self.go_on(&sweep, &mut progress, budget);
        if outcome.more {
            self.hooks.dirty_sweep = Some(progress);
            return outcome;
        }
        if self.runs.dirty <= keep {
            progress.refused = 0;
        } else if progress.refused == 0 && progress.returned > Pages::ZERO && !is_whole {
            // What is left may have become free behind the cursor.
            return Outcome { more: true, ..outcome };
        }
        self.hooks.purge_backoff.note(self.hooks.clock.now_us, &progress);
        self.hooks.unpurgeable = self.left_by(&progress).saturating_sub(keep);
        outcome
    }

    /// Dirty pages that a sweep has left though nobody refused them: parts of kernel pages wait for
    /// their other parts. What the background thread has at the moment is not left.
    fn left_by(&self, sweep: &SweepProgress) -> Pages {
        if sweep.refused > 0 || self.runs.dirty == Pages::ZERO {
            return Pages::ZERO;
        }
        let dirty = if self.watch().is_on() { self.watch().dirty() } else { self.runs.dirty };
        sweep.dirty.min(dirty)
    }

    /// Goes on with a sweep that looks into spans, or begins one.
    pub(super) fn purge_holes(
        &mut self,
        sweep: &Sweep,
        search: &mut Option<SweepProgress>,
        budget: Budget,
    ) -> Outcome {
        self.retire_spans();
        let mut progress = search.take().unwrap_or_else(|| self.begin_hole_sweep(sweep));
        let outcome = self.go_on(sweep, &mut progress, budget);
        if outcome.more {
            *search = Some(progress);
        } else {
            let settings = self.settings();
            self.hooks.policy.note_holes(&settings, progress.returned);
            self.hooks.holes_backoff.note(self.hooks.clock.now_us, &progress);
        }
        outcome
    }

    fn begin_hole_sweep(&mut self, sweep: &Sweep) -> SweepProgress {
        let settings = self.settings();
        self.hooks.policy.note_search_begins(&settings);
        self.new_sweep(sweep)
    }

    fn new_sweep(&mut self, sweep: &Sweep) -> SweepProgress {
        let (cursor, dirty) = (self.sweep_from(sweep), self.runs.dirty);
        SweepProgress { cursor, returned: Pages::ZERO, refused: 0, dirty }
    }

    /// Takes the spans from all bins. What is empty of them did not change hands, nor was it freed
    /// just now.
    pub(super) fn retire_spans(&mut self) {
        let (churned, dirty) = (self.runs.pages_churned, self.runs.dirty);
        self.retire_all();
        self.runs.pages_churned = churned;
        let settings = self.settings();
        self.hooks.policy.note_found(&settings, self.runs.dirty.saturating_sub(dirty));
    }

    /// Goes on with a sweep. The outcome's refusals are those of the whole sweep.
    fn go_on(&mut self, sweep: &Sweep, progress: &mut SweepProgress, budget: Budget) -> Outcome {
        let dirty = self.runs.dirty;
        let outcome = self.sweep(sweep, &mut progress.cursor, budget);
        progress.returned += outcome.returned;
        progress.refused += outcome.refused;
        let settings = self.settings();
        self.hooks.policy.note_returned(&settings, dirty.saturating_sub(self.runs.dirty));
        Outcome { refused: progress.refused, ..outcome }
    }
}
