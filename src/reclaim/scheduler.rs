//! Breathing: memory goes back by itself.
//!
//! The heap is looked at on the slow path of allocation and free, and whenever the host ticks. A
//! look shows the policy what there is and takes its decision; `run_due` then returns what is due
//! until the budget is spent. The next call does what no budget was left for. A VM that was
//! attached has free pages outside the heap, too, which go back after the heap's own (see
//! `foreign`). `background` returns what is due while nothing looks.
//!
//! ```text
//!   slow path ───▶ poll ─────────┐                       ┌──▶ purge_dirty  beyond `keep`
//!                  (see `pace`)  │                       │
//!   host ────────▶ tick ─────────┼──▶ look ──▶ run_due ──┤
//!                                │    (policy)           └──▶ purge_holes  in spans
//!   at a limit ──▶ make_room ────┼──▶ purge_dirty, purge_holes
//!                                │    (see `limit_reclaim`)
//!   large free ──▶ emptied ──────┴──▶ purge_dirty (see `emptied`)
//! ```

#![forbid(unsafe_code)]

use super::background::Background;
use super::emergency::Emergency;
use super::emptied::Emptied;
use super::history::{self, History};
use super::latency_histogram::LatencyHistogram;
use super::limit_reclaim::LimitReclaims;
use super::limits::Limits;
use super::pace::Pace;
use super::policy::{Decision, Observation, Policy, Settings, Trend};
use super::purge::{Budget, Outcome, Sweep};
use super::sweeps::{Backoff, SweepProgress};
use super::thrashing::Thrashing;
use crate::figures::Figures;
use crate::heap::refaults::PurgeReason;
use crate::heap::{ForeignReason, Heap, NO_LIMIT, ReclaimHooks};
use crate::options::Key;
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::{PAGE, Pages};

/// When something has changed, the host is to call again this many microseconds after the last
/// look. Further calls do not postpone that time.
const RECHECK_US: u64 = 50_000;
/// Bytes of slots that became free and count as a change, though no page was taken or freed.
const RECHECK_BYTES: usize = 128 << 10;

/// What breathing keeps with each heap.
#[derive(Default)]
pub(crate) struct SchedulerState {
    pub(super) policy: Policy,
    pub(crate) decision: Decision,
    /// An option was changed since: the decision may be another.
    outdated: bool,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    /// When the policy was last shown what there is.
    looked_us: u64,
    /// Free pages that it was shown.
    pub(super) seen: Pages,
    pub(super) pace: Pace,
    /// The policy's own search for holes, while it goes on.
    pub(super) hole_sweep: Option<SweepProgress>,
    /// The host's.
    host_sweep: Option<SweepProgress>,
    /// A sweep of dirty pages, while it goes on.
    pub(super) dirty_sweep: Option<SweepProgress>,
    /// After dirty pages were refused, and after a search was.
    pub(super) purge_backoff: Backoff,
    pub(super) holes_backoff: Backoff,
    /// Dirty pages that are due and cannot go, though nobody refused them.
    pub(super) unpurgeable: Pages,
    /// Pages returned too early that the policy knows of.
    premature: u64,
    /// Bytes of free slots that it knows of.
    pub(super) free_in_spans: usize,
    pub(super) limit_reclaims: LimitReclaims,
    pub(super) emptied: Emptied,
    pub(super) emergency: Emergency,
    thrashing: Thrashing,
    pub(super) background: Background,
    pub(crate) step_latency: LatencyHistogram,
    pub(super) history: History,
    /// Where others read what the heap holds, if anybody does.
    pub(super) figures: Option<&'static Figures>,
}

/// Time since the heap was made, which goes on when the system's clock goes back.
#[derive(Default)]
pub(super) struct Clock {
    pub(super) shown_us: Option<u64>,
    pub(super) now_us: u64,
}

impl Clock {
    pub(super) fn advance(&mut self, shown_us: u64) -> u64 {
        self.now_us = self.at(shown_us);
        self.shown_us = Some(shown_us);
        self.now_us
    }

    /// What time it is when the system's clock shows that.
    fn at(&self, shown_us: u64) -> u64 {
        self.now_us + shown_us.saturating_sub(self.shown_us.unwrap_or(shown_us))
    }
}

impl ReclaimHooks for Reclaim {
    type State = SchedulerState;
    const HISTORY_WORDS: usize = history::WORDS;

    fn options_changed<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.look_at_first();
        heap.hooks.outdated = heap.hooks.clock.shown_us.is_some();
        if heap.options.get(Key::History) == 1 {
            heap.count_history();
        }
        // A plan has its end unmapped instead.
        let may_close = heap.options.get(Key::Thp) == 0 && !heap.layout.is_planned;
        heap.watch().set_may_close(may_close);
        heap.leave_by_new_options();
        let limits = Limits::new(&heap.options);
        if !limits.are_set_as(&heap.hooks.limits) {
            heap.change_limits(limits);
        }
    }

    fn poll<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.run_due_in_passing();
    }

    fn large_growth<O: Os>(heap: &mut Heap<O, Reclaim>, pages: Pages) {
        heap.offset_growth(pages);
    }

    fn emptied<O: Os>(heap: &mut Heap<O, Reclaim>, pages: Pages) {
        heap.return_emptied(pages);
    }

    fn make_room<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.make_room();
    }

    fn allocation_refused<O: Os>(heap: &mut Heap<O, Reclaim>) {
        if heap.collector.is_some() && heap.limits().hard != NO_LIMIT {
            let now_us = heap.hooks.clock.advance(heap.os.now_us());
            heap.begin_emergency(now_us);
        }
    }

    fn collector_set<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.look_at_collector();
        Self::restore_limit(heap);
    }

    fn open_collector_share<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.growth_limit = heap.limits().hard;
    }

    fn allocated<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.go_on_collecting();
    }

    fn restore_limit<O: Os>(heap: &mut Heap<O, Reclaim>) {
        heap.growth_limit = heap.resting_limit(heap.hooks.clock.now_us);
    }
}

impl<O: Os> Heap<O, Reclaim> {
    /// Looks, and returns what is due until the budget is spent.
    pub(crate) fn tick(&mut self, budget_us: u32) -> Outcome {
        let start_us = self.os.now_us();
        let now_us = self.hooks.clock.advance(start_us);
        self.suspend_emergency();
        self.look(now_us);
        let budget = Budget::from_us(start_us, budget_us);
        let outcome = self.timed_run(start_us, budget).0;
        self.publish();
        self.hooks.background.note_host(start_us);
        self.leave_to_background();
        outcome
    }

    /// In how many microseconds a tick makes sense. `None`: never, unless something happens first.
    pub(crate) fn next_tick_us(&mut self) -> Option<u64> {
        let shown_us = self.os.now_us();
        let now_us = self.hooks.clock.advance(shown_us);
        self.hooks.background.note_host(shown_us);
        if self.may_suspend_emergency() {
            return Some(0);
        }
        self.next_tick_from(now_us)
    }

    /// The same, from a time on.
    pub(super) fn next_tick_from(&self, now_us: u64) -> Option<u64> {
        let has_begun = self.hooks.hole_sweep.is_some() || self.hooks.dirty_sweep.is_some();
        if has_begun || self.hooks.decision.holes || self.hooks.outdated {
            return Some(0);
        }
        let emptied = self.free_in_spans().saturating_sub(self.hooks.free_in_spans);
        let news = self.runs.pages_churned > Pages::ZERO || emptied >= RECHECK_BYTES;
        let news = news.then(|| (self.hooks.looked_us + RECHECK_US).saturating_sub(now_us));
        let next = self.hooks.decision.next_us.map(|at_us| at_us.saturating_sub(now_us));
        let due = self.due() > self.hooks.unpurgeable;
        let due = due.then(|| self.hooks.purge_backoff.until_us.saturating_sub(now_us));
        let again = self.hooks.holes_backoff.again_us().map(|at_us| at_us.saturating_sub(now_us));
        [news, next, due, again, self.foreign_next_us()].into_iter().flatten().min()
    }

    /// Gives everything back that the host asks for: until the sweep has ended or the budget is
    /// spent.
    pub(crate) fn reclaim(&mut self, budget: Budget) -> Outcome {
        self.reclaim_for(ForeignReason::Asked, budget)
    }

    /// The same, though the host has not asked: what is outside then goes back without a file.
    pub(crate) fn reclaim_idle(&mut self, budget: Budget) -> Outcome {
        self.reclaim_for(ForeignReason::Idle, budget)
    }

    fn reclaim_for(&mut self, reason: ForeignReason, budget: Budget) -> Outcome {
        self.counts.reclaim_passes += 1;
        let sweep = Sweep { keep: Pages::ZERO, holes: true, reason: PurgeReason::Asked };
        let mut search = self.hooks.host_sweep.take();
        // Without a budget the sweep is whole, wherever an earlier one stopped.
        if matches!(budget, Budget::Unlimited) {
            search = None;
        }
        let outcome = self.purge_holes(&sweep, &mut search, budget);
        self.hooks.host_sweep = search;
        self.cut_end();
        self.reclaim_foreign(outcome, reason, budget)
    }

    /// Free pages that should go back now.
    pub(crate) fn due(&self) -> Pages {
        match self.hooks.clock.shown_us {
            None => Pages::ZERO,
            Some(_) => self.runs.dirty.saturating_sub(self.hooks.decision.keep),
        }
    }

    /// How near the memory limit is: 0 to 100.
    pub(crate) fn pressure(&self) -> u32 {
        self.hooks.limits.pressure(self.held())
    }

    /// The limits as they stand: soft and hard.
    pub(crate) fn limits(&self) -> &Limits {
        &self.hooks.limits
    }

    /// How long what is free now has been so on average, in microseconds.
    pub(crate) fn idle_age_us(&self) -> u64 {
        if self.runs.dirty == Pages::ZERO {
            return 0;
        }
        let now_us = self.hooks.clock.at(self.os.now_us());
        self.hooks.policy.idle_age_us(&self.settings(), now_us)
    }

    /// Bytes that are free and hold memory.
    pub(super) fn free_resident(&self) -> usize {
        self.free_in_spans() + self.runs.dirty.bytes()
    }

    /// Pages in use.
    pub(super) fn used(&self) -> Pages {
        self.runs.top.since(self.layout.first) - self.runs.free
    }

    pub(super) fn settings(&self) -> Settings {
        let pages = |key| Pages((self.options.bytes(key) / PAGE) as u32);
        Settings {
            decay_us: self.options.get(Key::DecayMs) as u64 * 1000,
            retain: pages(Key::Retain),
            retain_max: pages(Key::RetainMax),
        }
    }

    /// What there is to see of the heap, but for what changed hands.
    pub(super) fn observation(&self, now_us: u64) -> Observation {
        Observation {
            sparse: Pages((self.free_in_spans() / PAGE) as u32),
            over_limit: self.resident() > self.hooks.limits.growth_limit(),
            ..self.large_observation(now_us)
        }
    }

    /// What there is to see of the heap of what large blocks take and leave.
    pub(super) fn large_observation(&self, now_us: u64) -> Observation {
        Observation {
            now_us,
            used: self.used(),
            large: self.counts.mmapped_pages,
            dirty: self.runs.dirty,
            ..Observation::default()
        }
    }

    /// Shows the policy what there is, and takes its decision.
    pub(super) fn look(&mut self, now_us: u64) {
        self.look_at_first();
        self.hooks.outdated = false;
        self.hooks.looked_us = now_us;
        self.note_background();
        self.refresh_limits(now_us);
        self.hooks.free_in_spans = self.free_in_spans();
        let premature_total = self.runs.refaults.premature_total();
        let premature =
            premature_total - core::mem::replace(&mut self.hooks.premature, premature_total);
        let churned = core::mem::take(&mut self.runs.pages_churned);
        let premature = Pages(u32::try_from(premature).unwrap_or(u32::MAX));
        let observation = Observation { churned, premature, ..self.observation(now_us) };
        self.hooks.seen = observation.dirty;
        let settings = self.settings();
        self.hooks.decision = self.hooks.policy.decide(&settings, observation);
        self.packing = self.hooks.decision.trend == Trend::Shrinking;
        self.note_thrashing(now_us);
        self.take_sample(now_us);
    }

    /// Without a limit nothing counts: [`PurgeReason::Limit`] then stands for pages that went back
    /// because a large block took new ones.
    pub(super) fn note_thrashing(&mut self, now_us: u64) {
        let has_limit = self.limits().growth_limit() != NO_LIMIT;
        let premature = self.runs.refaults.premature[PurgeReason::Limit as usize - 1];
        self.hooks.thrashing.note(now_us, if has_limit { premature } else { 0 });
    }

    /// Whether what goes back because of a limit is needed again at once.
    pub(crate) fn is_thrashing(&self) -> bool {
        let now_us = self.hooks.clock.at(self.os.now_us());
        self.limits().growth_limit() != NO_LIMIT && self.hooks.thrashing.is_on(now_us)
    }

    fn change_limits(&mut self, limits: Limits) {
        self.hooks.limits = limits;
        self.hooks.limit_reclaims = LimitReclaims::default();
        self.forget_emergency();
        self.look_at_collector();
        self.refresh_limits(self.hooks.clock.now_us);
        if self.resident() > self.hooks.limits.hard {
            let start_us = self.os.now_us();
            self.emergency(Pages::ZERO);
            self.note_step(start_us);
        }
    }

    fn refresh_limits(&mut self, now_us: u64) {
        let resident = self.resident();
        self.hooks.limits.refresh(&self.os, now_us, resident);
        self.lower_limit();
        self.growth_limit = self.resting_limit(now_us);
    }

    /// Returns what is due, and how many microseconds that took since `start_us`; 0: nothing was
    /// due.
    pub(super) fn timed_run(&mut self, start_us: u64, budget: Budget) -> (Outcome, u64) {
        let outcome = self.run_due(budget);
        self.cut_end();
        let outcome = self.run_due_foreign(outcome, budget);
        if outcome.calls == 0 && !outcome.more {
            return (outcome, 0);
        }
        (outcome, self.note_step(start_us))
    }

    /// Takes note of work that began at a time; returns how many microseconds it took.
    pub(super) fn note_step(&mut self, start_us: u64) -> u64 {
        let took_us = self.os.now_us().saturating_sub(start_us);
        self.hooks.step_latency.note(took_us);
        took_us
    }

    /// Returns what is due, dirty pages first, until the budget is spent.
    fn run_due(&mut self, budget: Budget) -> Outcome {
        let mut outcome = Outcome::default();
        // What is not due any more may have left descriptors to return.
        if self.hooks.dirty_sweep.is_some()
            || self.due() > Pages::ZERO && self.may_purge(self.due())
        {
            outcome = self.purge_dirty(self.hooks.decision.keep, self.purge_reason(), budget);
        }
        if !(self.hooks.decision.holes || self.hooks.hole_sweep.is_some() || self.may_retry_holes())
        {
            return outcome;
        }
        // A call takes one step at least, and this one may have taken none yet.
        let stepped = outcome.calls > 0;
        if outcome.more || stepped && budget.is_spent(self.os.now_us()) {
            return Outcome { more: true, ..outcome };
        }
        let sweep =
            Sweep { keep: self.hooks.decision.keep, holes: true, reason: self.purge_reason() };
        let mut search = self.hooks.hole_sweep.take();
        let searched = self.purge_holes(&sweep, &mut search, budget);
        self.hooks.hole_sweep = search;
        self.hooks.decision.holes &= searched.more;
        outcome.and(searched)
    }

    pub(super) fn purge_reason(&self) -> PurgeReason {
        let over = self.resident() > self.hooks.limits.growth_limit();
        if over { PurgeReason::Limit } else { PurgeReason::Idle }
    }

    /// Whether the kernel refused in a search, long enough ago.
    fn may_retry_holes(&self) -> bool {
        let now_us = self.hooks.clock.now_us;
        self.hooks.holes_backoff.again_us().is_some_and(|at_us| now_us >= at_us)
    }
}
