//! Breathing: memory goes back by itself.
//!
//! The heap is looked at on the slow path of allocation and free, and whenever the host ticks. A
//! look shows the policy what there is and takes its decision; `run_due` then returns what is due
//! until the budget is spent. The next call does what no budget was left for. A VM that was
//! attached has free pages outside of the heap, too, which go back behind the heap's own (see
//! `foreign`).
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
use super::history::{self, History, Sample};
use super::latency_histogram::Times;
use super::limit_reclaim::LimitReclaims;
use super::limits::Limits;
use super::pace::Pace;
use super::policy::{Decision, Observation, Policy, Settings, Trend};
use super::purge::{Budget, Cursor, Outcome, Sweep};
use super::thrashing::Thrashing;
use crate::figures::{Figures, LastSeen, Trouble};
use crate::heap::refaults::{self, PurgeReason};
use crate::heap::{ForeignReason, Heap, NO_LIMIT, ReclaimHooks};
use crate::options::Key;
use crate::os::Os;
use crate::units::{PAGE, Pages};

/// When there is something new to see, the host is asked to come this many microseconds after the
/// last look. No question puts that time off.
const NEWS_US: u64 = 50_000;
/// Bytes of slots that became free and are news, though no page changed hands.
const NEWS_BYTES: usize = 128 << 10;
/// How long to let a kernel be that refused, at first and at most, in microseconds.
const REST_US: (u64, u64) = (1_000_000, 64_000_000);
const _: () = assert!(REST_US.1.is_multiple_of(REST_US.0));

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
    pub(super) search: Option<Search>,
    /// The host's.
    host_sweep: Option<Search>,
    /// A sweep of dirty pages, while it goes on.
    shedding: Option<Search>,
    /// After dirty pages were refused, and after a search was.
    purge_backoff: Backoff,
    holes_backoff: Backoff,
    /// Dirty pages that are due and cannot go, though nobody refused them.
    pub(super) unpurgeable: Pages,
    /// Pages returned too early that the policy knows of.
    premature: u64,
    /// Bytes of free slots that it knows of.
    pub(super) free_in_spans: usize,
    pub(super) rooms: LimitReclaims,
    pub(super) emptied: Emptied,
    pub(super) emergency: Emergency,
    thrashing: Thrashing,
    pub(super) background: Background,
    pub(crate) times: Times,
    history: History,
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

/// A sweep that takes several steps, while it goes on.
pub(super) struct Search {
    cursor: Cursor,
    returned: Pages,
    refused: u64,
    /// Dirty pages when it began.
    dirty: Pages,
}

/// Asking a kernel again at once that refused would only spin. It is asked again for as long as
/// there is something to ask for, more and more rarely unless it took a part.
#[derive(Default)]
struct Backoff {
    until_us: u64,
    /// 0: it did not refuse.
    lasts_us: u64,
}

impl Backoff {
    /// Takes note of a sweep that has ended.
    fn note(&mut self, now_us: u64, sweep: &Search) {
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
    fn again_us(&self) -> Option<u64> {
        (self.lasts_us > 0).then_some(self.until_us)
    }
}

impl<S: Os> ReclaimHooks for S {
    type State = SchedulerState;
    const HISTORY_WORDS: usize = history::WORDS;

    fn options_changed(heap: &mut Heap<S>) {
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

    fn poll(heap: &mut Heap<S>) {
        heap.run_due_in_passing();
    }

    fn large_growth(heap: &mut Heap<S>, pages: Pages) {
        heap.offset_growth(pages);
    }

    fn emptied(heap: &mut Heap<S>, pages: Pages) {
        heap.return_emptied(pages);
    }

    fn make_room(heap: &mut Heap<S>) {
        heap.make_room();
    }

    fn allocation_refused(heap: &mut Heap<S>) {
        if heap.collector.is_some() && heap.limits().hard != NO_LIMIT {
            let now_us = heap.hooks.clock.advance(heap.os.now_us());
            heap.begin_emergency(now_us);
        }
    }

    fn collector_set(heap: &mut Heap<S>) {
        heap.look_at_collector();
        Self::restore_limit(heap);
    }

    fn open_reserve(heap: &mut Heap<S>) {
        heap.growth_limit = heap.limits().hard;
    }

    fn allocated(heap: &mut Heap<S>) {
        heap.go_on_collecting();
    }

    fn restore_limit(heap: &mut Heap<S>) {
        heap.growth_limit = heap.resting_limit(heap.hooks.clock.now_us);
    }
}

impl<S: Os> Heap<S> {
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

    /// Publishes what the heap holds, where somebody reads it.
    pub(crate) fn publish(&self) {
        if let Some(figures) = self.hooks.figures {
            let snapshot = self.snapshot();
            figures.publish(LastSeen {
                live: snapshot.live as u64,
                resident: snapshot.resident() as u64,
                resident_peak: snapshot.resident_peak as u64,
                returned_total: refaults::total(&self.runs.refaults.returned) * PAGE as u64,
                aside: self.runs.aside_total.bytes() as u64,
                trouble: Trouble {
                    refused: self.counts.refused_allocations,
                    refused_address_space: self.counts.refused_address_space,
                    thrashing: self.is_thrashing().into(),
                    purge_errno: self.counts.purge_errno as u64,
                },
            });
        }
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
        let has_begun = self.hooks.search.is_some() || self.hooks.shedding.is_some();
        if has_begun || self.hooks.decision.holes || self.hooks.outdated {
            return Some(0);
        }
        let emptied = self.free_in_spans().saturating_sub(self.hooks.free_in_spans);
        let news = self.runs.pages_churned > Pages::ZERO || emptied >= NEWS_BYTES;
        let news = news.then(|| (self.hooks.looked_us + NEWS_US).saturating_sub(now_us));
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
        let sweep = Sweep { keep: Pages::ZERO, holes: true, cause: PurgeReason::Asked };
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

    /// The newest samples, at most `count`, the oldest of them first.
    pub(crate) fn history(&mut self, count: usize) -> impl ExactSizeIterator<Item = Sample> + '_ {
        let history = self.hooks.history;
        history.newest(self.history_buffer(), count)
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
        let moved = core::mem::take(&mut self.runs.pages_churned);
        let premature = Pages(u32::try_from(premature).unwrap_or(u32::MAX));
        let observation = Observation { moved, premature, ..self.observation(now_us) };
        self.hooks.seen = observation.dirty;
        let settings = self.settings();
        self.hooks.decision = self.hooks.policy.decide(&settings, observation);
        self.packing = self.hooks.decision.trend == Trend::Shrinking;
        self.note_thrashing(now_us);
        self.take_sample(now_us);
    }

    /// Without a limit what goes in exchange for a large block counts as if there were one.
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
        self.hooks.rooms = LimitReclaims::default();
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

    fn take_sample(&mut self, now_us: u64) {
        if self.options.get(Key::History) == 0 || !self.hooks.history.is_due(now_us) {
            return;
        }
        let snapshot = self.snapshot();
        let sample = Sample {
            now_us: self.hooks.clock.shown_us.unwrap_or_default(),
            live: snapshot.live as u64,
            resident: snapshot.resident() as u64,
            free_resident: snapshot.free_resident as u64,
            returned_total: refaults::total(&self.runs.refaults.returned) * PAGE as u64,
            refaulted_total: refaults::total(&self.runs.refaults.refaulted) * PAGE as u64,
            pressure: self.pressure().into(),
            trend: self.hooks.decision.trend as u64,
        };
        let mut history = self.hooks.history;
        history.add(self.history_buffer(), now_us, sample);
        self.hooks.history = history;
    }

    /// A breath, and how many microseconds it took since `start_us` if it did anything.
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
        self.hooks.times.note(took_us);
        took_us
    }

    /// Returns what is due, dirty pages first, until the budget is spent.
    fn run_due(&mut self, budget: Budget) -> Outcome {
        let mut outcome = Outcome::default();
        // What is not due any more may have left descriptors to return.
        if self.hooks.shedding.is_some() || self.due() > Pages::ZERO && self.may_shed(self.due()) {
            outcome = self.purge_dirty(self.hooks.decision.keep, self.cause(), budget);
        }
        if !(self.hooks.decision.holes || self.hooks.search.is_some() || self.may_search_again()) {
            return outcome;
        }
        // A call takes one step at least, and this one may have taken none yet.
        let stepped = outcome.calls > 0;
        if outcome.more || stepped && budget.is_spent(self.os.now_us()) {
            return Outcome { more: true, ..outcome };
        }
        let sweep = Sweep { keep: self.hooks.decision.keep, holes: true, cause: self.cause() };
        let mut search = self.hooks.search.take();
        let searched = self.purge_holes(&sweep, &mut search, budget);
        self.hooks.search = search;
        self.hooks.decision.holes &= searched.more;
        outcome.and(searched)
    }

    pub(super) fn cause(&self) -> PurgeReason {
        let over = self.resident() > self.hooks.limits.growth_limit();
        if over { PurgeReason::Limit } else { PurgeReason::Idle }
    }

    /// Whether trying to return `count` dirty pages makes sense.
    pub(super) fn may_shed(&self, count: Pages) -> bool {
        count > self.hooks.unpurgeable
            && self.hooks.clock.now_us >= self.hooks.purge_backoff.until_us
    }

    /// Whether the kernel refused in a search, long enough ago.
    fn may_search_again(&self) -> bool {
        let now_us = self.hooks.clock.now_us;
        self.hooks.holes_backoff.again_us().is_some_and(|at_us| now_us >= at_us)
    }

    /// Returns dirty pages, the highest first, until no more than `keep` are left.
    pub(super) fn purge_dirty(
        &mut self,
        keep: Pages,
        cause: PurgeReason,
        budget: Budget,
    ) -> Outcome {
        let sweep = Sweep { keep, holes: false, cause };
        let going = self.hooks.shedding.take();
        let going = going.filter(|_| !matches!(budget, Budget::Unlimited));
        let is_whole = going.is_none();
        let mut going = going.unwrap_or_else(|| self.new_search(&sweep));
        let outcome = self.go_on(&sweep, &mut going, budget);
        if outcome.more {
            self.hooks.shedding = Some(going);
            return outcome;
        }
        if self.runs.dirty <= keep {
            going.refused = 0;
        } else if going.refused == 0 && going.returned > Pages::ZERO && !is_whole {
            // What is left may have become free behind the cursor.
            return Outcome { more: true, ..outcome };
        }
        self.hooks.purge_backoff.note(self.hooks.clock.now_us, &going);
        self.hooks.unpurgeable = self.left_by(&going).saturating_sub(keep);
        outcome
    }

    /// Dirty pages that a sweep has left though nobody refused them: parts of kernel pages wait for
    /// their other parts. What the background thread has at the moment is not left.
    fn left_by(&self, sweep: &Search) -> Pages {
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
        search: &mut Option<Search>,
        budget: Budget,
    ) -> Outcome {
        self.retire_spans();
        let mut going = search.take().unwrap_or_else(|| self.begin_search(sweep));
        let outcome = self.go_on(sweep, &mut going, budget);
        if outcome.more {
            *search = Some(going);
        } else {
            let settings = self.settings();
            self.hooks.policy.note_holes(&settings, going.returned);
            self.hooks.holes_backoff.note(self.hooks.clock.now_us, &going);
        }
        outcome
    }

    fn begin_search(&mut self, sweep: &Sweep) -> Search {
        let settings = self.settings();
        self.hooks.policy.note_search_begins(&settings);
        self.new_search(sweep)
    }

    fn new_search(&mut self, sweep: &Sweep) -> Search {
        let (cursor, dirty) = (self.sweep_from(sweep), self.runs.dirty);
        Search { cursor, returned: Pages::ZERO, refused: 0, dirty }
    }

    /// Takes the spans from all bins. What is empty of them did not change hands, nor was it freed
    /// just now.
    pub(super) fn retire_spans(&mut self) {
        let (moved, dirty) = (self.runs.pages_churned, self.runs.dirty);
        self.retire_all();
        self.runs.pages_churned = moved;
        let settings = self.settings();
        self.hooks.policy.note_found(&settings, self.runs.dirty.saturating_sub(dirty));
    }

    /// Goes on with a sweep. The outcome's refusals are those of the whole sweep.
    fn go_on(&mut self, sweep: &Sweep, going: &mut Search, budget: Budget) -> Outcome {
        let dirty = self.runs.dirty;
        let outcome = self.sweep(sweep, &mut going.cursor, budget);
        going.returned += outcome.returned;
        going.refused += outcome.refused;
        let settings = self.settings();
        self.hooks.policy.note_returned(&settings, dirty.saturating_sub(self.runs.dirty));
        Outcome { refused: going.refused, ..outcome }
    }
}
