//! Breathing: memory goes back by itself.
//!
//! The heap is looked at on the slow path of allocation and free, and whenever the host ticks. A
//! look shows the policy what there is and takes its verdict; a breath then returns what is due,
//! until its budget is spent. What no budget was left for is done by the next.
//!
//! ```text
//!   slow path ──▶ settled ──────┐                       ┌──▶ shed    dirty pages beyond `keep`
//!                 (see `pace`)  │                       │
//!   host ───────▶ tick ─────────┼──▶ look ──▶ breathe ──┤
//!                               │    (policy)           └──▶ search  spans, for holes
//!   gate closed ▶ make_room ────┼──▶ shed, search
//!                               │    (see `room`)
//!   large free ─▶ emptied ──────┴──▶ shed (see `emptied`)
//! ```

#![forbid(unsafe_code)]

use super::background::Background;
use super::emergency::Emergency;
use super::emptied::Emptied;
use super::history::{self, History, Sample};
use super::limits::Limits;
use super::pace::Pace;
use super::policy::{Policy, Settings, Sight, Trend, Verdict};
use super::purge::{Budget, Cursor, Outcome, Sweep};
use super::room::Rooms;
use super::thrashing::Thrashing;
use super::times::Times;
use crate::figures::{Figures, Held, Trouble};
use crate::heap::recall::{self, Cause};
use crate::heap::{Above, Heap, NO_GATE};
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
pub(crate) struct Breath {
    pub(super) policy: Policy,
    pub(crate) verdict: Verdict,
    /// An option was changed since: the verdict may be another.
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
    asked: Option<Search>,
    /// A sweep of dirty pages, while it goes on.
    shedding: Option<Search>,
    /// After dirty pages were refused, and after a search was.
    shed_rest: Rest,
    search_rest: Rest,
    /// Dirty pages that are due and cannot go, though nobody refused them.
    pub(super) stuck: Pages,
    /// Pages returned too early that the policy knows of.
    premature: u64,
    /// Bytes of free slots that it knows of.
    pub(super) free_in_spans: usize,
    pub(super) rooms: Rooms,
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
struct Rest {
    until_us: u64,
    /// 0: it did not refuse.
    lasts_us: u64,
}

impl Rest {
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

impl<S: Os> Above for S {
    type State = Breath;
    const WORDS: usize = history::WORDS;

    fn options_changed(heap: &mut Heap<S>) {
        heap.look_at_first();
        heap.above.outdated = heap.above.clock.shown_us.is_some();
        if heap.options.get(Key::History) == 1 {
            heap.count_words();
        }
        // A plan has its end unmapped instead.
        let may_close = heap.options.get(Key::Thp) == 0 && !heap.layout.is_planned;
        heap.watch().set_may_close(may_close);
        if heap.watch().is_on() {
            heap.leave_to_background();
        }
        let limits = Limits::new(&heap.options);
        if !limits.are_set_as(&heap.above.limits) {
            heap.change_limits(limits);
        }
    }

    fn settled(heap: &mut Heap<S>) {
        heap.breathe_in_passing();
    }

    fn grown(heap: &mut Heap<S>, pages: Pages) {
        heap.exchange(pages);
    }

    fn emptied(heap: &mut Heap<S>, pages: Pages) {
        heap.return_emptied(pages);
    }

    fn make_room(heap: &mut Heap<S>) {
        heap.make_room();
    }

    fn refused(heap: &mut Heap<S>) {
        if heap.collector.is_some() && heap.limits().hard != NO_GATE {
            let now_us = heap.above.clock.advance(heap.os.now_us());
            heap.begin_emergency(now_us);
        }
    }

    fn collector_set(heap: &mut Heap<S>) {
        heap.look_at_collector();
        Self::close_gate(heap);
    }

    fn open_reserve(heap: &mut Heap<S>) {
        heap.gate = heap.limits().hard;
    }

    fn allocated(heap: &mut Heap<S>) {
        heap.go_on_collecting();
    }

    fn close_gate(heap: &mut Heap<S>) {
        heap.gate = heap.closed_gate(heap.above.clock.now_us);
    }
}

impl<S: Os> Heap<S> {
    /// Looks, and returns what is due until the budget is spent.
    pub(crate) fn tick(&mut self, budget_us: u32) -> Outcome {
        let start_us = self.os.now_us();
        let now_us = self.above.clock.advance(start_us);
        self.suspend_emergency();
        self.look(now_us);
        let budget = Budget::from_us(start_us, budget_us);
        let outcome = self.timed_breath(start_us, budget).0;
        self.publish();
        self.above.background.note_host(start_us);
        self.leave_to_background();
        outcome
    }

    /// Publishes what the heap holds, where somebody reads it.
    pub(crate) fn publish(&self) {
        if let Some(figures) = self.above.figures {
            let snapshot = self.snapshot();
            figures.publish(Held {
                live: snapshot.live as u64,
                resident: snapshot.resident() as u64,
                resident_peak: snapshot.resident_peak as u64,
                returned_total: recall::total(&self.runs.recall.returned) * PAGE as u64,
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
        let now_us = self.above.clock.advance(shown_us);
        self.above.background.note_host(shown_us);
        if self.may_suspend_emergency() {
            return Some(0);
        }
        self.next_tick_from(now_us)
    }

    /// The same, from a time on.
    pub(super) fn next_tick_from(&self, now_us: u64) -> Option<u64> {
        let has_begun = self.above.search.is_some() || self.above.shedding.is_some();
        if has_begun || self.above.verdict.holes || self.above.outdated {
            return Some(0);
        }
        let emptied = self.free_in_spans().saturating_sub(self.above.free_in_spans);
        let news = self.runs.moved > Pages::ZERO || emptied >= NEWS_BYTES;
        let news = news.then(|| (self.above.looked_us + NEWS_US).saturating_sub(now_us));
        let next = self.above.verdict.next_us.map(|at_us| at_us.saturating_sub(now_us));
        let due = self.due() > self.above.stuck;
        let due = due.then(|| self.above.shed_rest.until_us.saturating_sub(now_us));
        let again = self.above.search_rest.again_us().map(|at_us| at_us.saturating_sub(now_us));
        [news, next, due, again].into_iter().flatten().min()
    }

    /// Gives everything back that the host asks for: until the sweep has ended or the budget is
    /// spent.
    pub(crate) fn reclaim(&mut self, budget: Budget) -> Outcome {
        self.counts.reclaim_passes += 1;
        let sweep = Sweep { keep: Pages::ZERO, holes: true, cause: Cause::Asked };
        let mut search = self.above.asked.take();
        // Without a budget the sweep is whole, wherever an earlier one stopped.
        if matches!(budget, Budget::Unlimited) {
            search = None;
        }
        let outcome = self.search(&sweep, &mut search, budget);
        self.above.asked = search;
        self.cut_end();
        outcome
    }

    /// Free pages that should go back now.
    pub(crate) fn due(&self) -> Pages {
        match self.above.clock.shown_us {
            None => Pages::ZERO,
            Some(_) => self.runs.dirty.beyond(self.above.verdict.keep),
        }
    }

    /// How near the memory limit is: 0 to 100.
    pub(crate) fn pressure(&self) -> u32 {
        self.above.limits.pressure(self.held())
    }

    /// The limits as they stand: soft and hard.
    pub(crate) fn limits(&self) -> &Limits {
        &self.above.limits
    }

    /// How long what is free now has been so on average, in microseconds.
    pub(crate) fn idle_age_us(&self) -> u64 {
        if self.runs.dirty == Pages::ZERO {
            return 0;
        }
        let now_us = self.above.clock.at(self.os.now_us());
        self.above.policy.idle_age_us(&self.settings(), now_us)
    }

    /// Bytes that are free and hold memory.
    pub(super) fn free_resident(&self) -> usize {
        self.free_in_spans() + self.runs.dirty.bytes()
    }

    /// The newest samples, at most `count`, the oldest of them first.
    pub(crate) fn history(&mut self, count: usize) -> impl ExactSizeIterator<Item = Sample> + '_ {
        let history = self.above.history;
        history.newest(self.words(), count)
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
    pub(super) fn sight(&self, now_us: u64) -> Sight {
        Sight {
            now_us,
            used: self.used(),
            dirty: self.runs.dirty,
            sparse: Pages((self.free_in_spans() / PAGE) as u32),
            moved: Pages::ZERO,
            premature: Pages::ZERO,
            over_limit: self.resident() > self.above.limits.gate(),
        }
    }

    /// Shows the policy what there is, and takes its verdict.
    pub(super) fn look(&mut self, now_us: u64) {
        self.look_at_first();
        self.above.outdated = false;
        self.above.looked_us = now_us;
        self.note_background();
        self.refresh_limits(now_us);
        self.above.free_in_spans = self.free_in_spans();
        let mistakes = self.runs.recall.mistakes();
        let premature = mistakes - core::mem::replace(&mut self.above.premature, mistakes);
        let moved = core::mem::take(&mut self.runs.moved);
        let premature = Pages(u32::try_from(premature).unwrap_or(u32::MAX));
        let sight = Sight { moved, premature, ..self.sight(now_us) };
        self.above.seen = sight.dirty;
        let settings = self.settings();
        self.above.verdict = self.above.policy.judge(&settings, sight);
        self.packing = self.above.verdict.trend == Trend::Shrinking;
        self.note_thrashing(now_us);
        self.take_sample(now_us);
    }

    /// Without a limit what goes in exchange for a large block counts as if there were one.
    pub(super) fn note_thrashing(&mut self, now_us: u64) {
        let has_limit = self.limits().gate() != NO_GATE;
        let premature = self.runs.recall.premature[Cause::Limit as usize - 1];
        self.above.thrashing.note(now_us, if has_limit { premature } else { 0 });
    }

    /// Whether what goes back because of a limit is needed again at once.
    pub(crate) fn is_thrashing(&self) -> bool {
        let now_us = self.above.clock.at(self.os.now_us());
        self.limits().gate() != NO_GATE && self.above.thrashing.is_on(now_us)
    }

    fn change_limits(&mut self, limits: Limits) {
        self.above.limits = limits;
        self.above.rooms = Rooms::default();
        self.forget_emergency();
        self.look_at_collector();
        self.refresh_limits(self.above.clock.now_us);
        if self.resident() > self.above.limits.hard {
            let start_us = self.os.now_us();
            self.emergency(Pages::ZERO);
            self.note_step(start_us);
        }
    }

    fn refresh_limits(&mut self, now_us: u64) {
        let resident = self.resident();
        self.above.limits.refresh(&self.os, now_us, resident);
        self.lower_gate();
        self.gate = self.closed_gate(now_us);
    }

    fn take_sample(&mut self, now_us: u64) {
        if self.options.get(Key::History) == 0 || !self.above.history.is_due(now_us) {
            return;
        }
        let snapshot = self.snapshot();
        let sample = Sample {
            now_us: self.above.clock.shown_us.unwrap_or_default(),
            live: snapshot.live as u64,
            resident: snapshot.resident() as u64,
            free_resident: snapshot.free_resident as u64,
            returned_total: recall::total(&self.runs.recall.returned) * PAGE as u64,
            refaulted_total: recall::total(&self.runs.recall.refaulted) * PAGE as u64,
            pressure: self.pressure().into(),
            trend: self.above.verdict.trend as u64,
        };
        let mut history = self.above.history;
        history.add(self.words(), now_us, sample);
        self.above.history = history;
    }

    /// A breath, and how many microseconds it took since `start_us` if it did anything.
    pub(super) fn timed_breath(&mut self, start_us: u64, budget: Budget) -> (Outcome, u64) {
        let outcome = self.breathe(budget);
        self.cut_end();
        if outcome.calls == 0 && !outcome.more {
            return (outcome, 0);
        }
        (outcome, self.note_step(start_us))
    }

    /// Takes note of work that began at a time; returns how many microseconds it took.
    pub(super) fn note_step(&mut self, start_us: u64) -> u64 {
        let took_us = self.os.now_us().saturating_sub(start_us);
        self.above.times.note(took_us);
        took_us
    }

    /// Returns what is due, dirty pages first, until the budget is spent.
    fn breathe(&mut self, budget: Budget) -> Outcome {
        let mut outcome = Outcome::default();
        // What is not due any more may have left descriptors to return.
        if self.above.shedding.is_some() || self.due() > Pages::ZERO && self.may_shed(self.due()) {
            outcome = self.shed(self.above.verdict.keep, self.cause(), budget);
        }
        if !(self.above.verdict.holes || self.above.search.is_some() || self.may_search_again()) {
            return outcome;
        }
        // A call takes one step at least, and this one may have taken none yet.
        let stepped = outcome.calls > 0;
        if outcome.more || stepped && budget.is_spent(self.os.now_us()) {
            return Outcome { more: true, ..outcome };
        }
        let sweep = Sweep { keep: self.above.verdict.keep, holes: true, cause: self.cause() };
        let mut search = self.above.search.take();
        let searched = self.search(&sweep, &mut search, budget);
        self.above.search = search;
        self.above.verdict.holes &= searched.more;
        outcome.and(searched)
    }

    pub(super) fn cause(&self) -> Cause {
        let over = self.resident() > self.above.limits.gate();
        if over { Cause::Limit } else { Cause::Idle }
    }

    /// Whether trying to return `count` dirty pages makes sense.
    pub(super) fn may_shed(&self, count: Pages) -> bool {
        count > self.above.stuck && self.above.clock.now_us >= self.above.shed_rest.until_us
    }

    /// Whether the kernel refused in a search, long enough ago.
    fn may_search_again(&self) -> bool {
        let now_us = self.above.clock.now_us;
        self.above.search_rest.again_us().is_some_and(|at_us| now_us >= at_us)
    }

    /// Returns dirty pages, the highest first, until no more than `keep` are left.
    pub(super) fn shed(&mut self, keep: Pages, cause: Cause, budget: Budget) -> Outcome {
        let sweep = Sweep { keep, holes: false, cause };
        let going = self.above.shedding.take();
        let going = going.filter(|_| !matches!(budget, Budget::Unlimited));
        let is_whole = going.is_none();
        let mut going = going.unwrap_or_else(|| self.new_search(&sweep));
        let outcome = self.go_on(&sweep, &mut going, budget);
        if outcome.more {
            self.above.shedding = Some(going);
            return outcome;
        }
        if self.runs.dirty <= keep {
            going.refused = 0;
        } else if going.refused == 0 && going.returned > Pages::ZERO && !is_whole {
            // What is left may have become free behind the cursor.
            return Outcome { more: true, ..outcome };
        }
        self.above.shed_rest.note(self.above.clock.now_us, &going);
        self.above.stuck = self.left_by(&going).beyond(keep);
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
    pub(super) fn search(
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
            self.above.policy.note_holes(&settings, going.returned);
            self.above.search_rest.note(self.above.clock.now_us, &going);
        }
        outcome
    }

    fn begin_search(&mut self, sweep: &Sweep) -> Search {
        let settings = self.settings();
        self.above.policy.note_search_begins(&settings);
        self.new_search(sweep)
    }

    fn new_search(&mut self, sweep: &Sweep) -> Search {
        let (cursor, dirty) = (self.sweep_from(sweep), self.runs.dirty);
        Search { cursor, returned: Pages::ZERO, refused: 0, dirty }
    }

    /// Takes the spans from all bins. What is empty of them did not change hands, nor was it freed
    /// just now.
    pub(super) fn retire_spans(&mut self) {
        let (moved, dirty) = (self.runs.moved, self.runs.dirty);
        self.retire_all();
        self.runs.moved = moved;
        let settings = self.settings();
        self.above.policy.note_found(&settings, self.runs.dirty.beyond(dirty));
    }

    /// Goes on with a sweep. The outcome's refusals are those of the whole sweep.
    fn go_on(&mut self, sweep: &Sweep, going: &mut Search, budget: Budget) -> Outcome {
        let dirty = self.runs.dirty;
        let outcome = self.sweep(sweep, &mut going.cursor, budget);
        going.returned += outcome.returned;
        going.refused += outcome.refused;
        let settings = self.settings();
        self.above.policy.note_returned(&settings, dirty.beyond(self.runs.dirty));
        Outcome { refused: going.refused, ..outcome }
    }
}
