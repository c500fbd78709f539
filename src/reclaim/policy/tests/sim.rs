//! A heap and its host in simulated time.
//!
//! The heap is a stack of pages: those in use, above them the free ones that hold memory, above
//! them those that were returned. That is what a heap comes to that takes the lowest free pages
//! first and returns the highest. The host calls `tick` when the decision says so, and the heap
//! judges by itself at most every 4 ms and only after 32 pages changed hands.

use crate::reclaim::policy::{Decision, Observation, Policy, Settings};
use crate::units::Pages;

/// The clock begins at no round time.
pub(super) const START_US: u64 = 321_000;
/// Pages in a megabyte.
pub(super) const MB: u32 = 256;
pub(super) const SECOND_US: u64 = 1_000_000;

const STEP_US: u64 = 1000;
const JUDGE_EVERY_US: u64 = 4000;
const JUDGE_CHURNED_MIN: u32 = 32;
/// What the table charges for a page that is returned and faulted in again.
const ROUND_TRIP_US: f64 = 3.0;

pub(super) const SETTINGS: Settings =
    Settings { decay_us: SECOND_US, retain: Pages::ZERO, retain_max: Pages(1024 * MB) };

/// What a program asks of its heap at a moment, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    pub(super) used: u32,
    /// Of these, free slots.
    pub(super) sparse: u32,
    /// What changes hands in a millisecond though demand stays.
    pub(super) churn: u32,
}

/// Demand over seconds.
pub(super) type Shape = fn(f64) -> Demand;

impl Demand {
    pub(super) fn of(used: u32) -> Demand {
        Demand { used, sparse: 0, churn: 0 }
    }
}

/// Who decides what is returned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Manner {
    Never,
    Always,
    Policy(Settings),
}

/// Pages that were returned together and not needed since.
#[derive(Clone, Copy)]
struct Gone {
    pages: u32,
    at_us: u64,
}

/// What happened so far. Pages, and page-microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) returned: u64,
    pub(super) refaulted: u64,
    /// Refaulted less than a second after they were returned.
    pub(super) premature: u64,
    resident: u128,
    /// In which memory was returned.
    pub(super) calls: u64,
    pub(super) wakes: u64,
    pub(super) searches: u64,
    pub(super) trends: u64,
    elapsed_us: u64,
}

impl Tally {
    pub(super) fn returned_mb(&self) -> f64 {
        self.returned as f64 / f64::from(MB)
    }

    pub(super) fn refaulted_mb(&self) -> f64 {
        self.refaulted as f64 / f64::from(MB)
    }

    pub(super) fn premature_refaults_mb(&self) -> f64 {
        self.premature as f64 / f64::from(MB)
    }

    /// Megabytes times seconds.
    pub(super) fn resident_mb_s(&self) -> f64 {
        self.resident as f64 / f64::from(MB) / SECOND_US as f64
    }

    /// The share of the time that refaults took, in percent.
    pub(super) fn cost(&self) -> f64 {
        100.0 * self.refaulted as f64 * ROUND_TRIP_US / self.elapsed_us as f64
    }
}

pub(super) struct Simulation<'demand> {
    demand: &'demand dyn Fn(f64) -> Demand,
    manner: Manner,
    policy: Policy,
    pub(super) decision: Decision,
    now_us: u64,
    used: u32,
    pub(super) dirty: u32,
    gone: Vec<Gone>,
    sparse: u32,
    /// Pages of holes that were returned and not needed since, and when.
    hollow: Gone,
    /// Since the last observation.
    churned: u32,
    premature: u32,
    judged_us: u64,
    pub(super) tally: Tally,
}

impl<'demand> Simulation<'demand> {
    /// `demand` says what is needed at a time, in seconds from the start.
    pub(super) fn new(manner: Manner, demand: &'demand dyn Fn(f64) -> Demand) -> Self {
        Simulation {
            demand,
            manner,
            policy: Policy::default(),
            decision: Decision::default(),
            now_us: START_US,
            used: 0,
            dirty: 0,
            gone: Vec::new(),
            sparse: 0,
            hollow: Gone { pages: 0, at_us: 0 },
            churned: 0,
            premature: 0,
            judged_us: 0,
            tally: Tally::default(),
        }
    }

    /// Runs until `until_s` seconds after the start.
    pub(super) fn run(&mut self, until_s: f64) {
        while self.tally.elapsed_us < (until_s * SECOND_US as f64) as u64 {
            self.step();
        }
    }

    pub(super) fn dirty_mb(&self) -> f64 {
        f64::from(self.dirty) / f64::from(MB)
    }

    fn step(&mut self) {
        let resident = u64::from(self.used - self.hollow.pages + self.dirty);
        self.tally.resident += u128::from(resident * STEP_US);
        self.now_us += STEP_US;
        self.tally.elapsed_us += STEP_US;
        let demand = (self.demand)(self.tally.elapsed_us as f64 / SECOND_US as f64);
        match self.manner {
            Manner::Never => self.follow(demand),
            Manner::Always => {
                self.follow(demand);
                self.give_back(self.dirty);
            }
            Manner::Policy(settings) => self.follow_and_judge(demand, &settings),
        }
    }

    /// The slow path judges as soon as it may: the rest of a change of demand comes after that,
    /// and what ends before the next judgement is never seen.
    fn follow_and_judge(&mut self, demand: Demand, settings: &Settings) {
        let due = self.now_us >= self.judged_us + JUDGE_EVERY_US;
        let missing = JUDGE_CHURNED_MIN.saturating_sub(self.churned);
        if due && demand.churn + self.used.abs_diff(demand.used) >= missing {
            let churn = demand.churn.min(missing);
            let change = missing - churn;
            let nearest = self.used.saturating_sub(change);
            let used = demand.used.clamp(nearest, self.used + change);
            self.follow(Demand { used, churn, ..demand });
            self.decide(settings);
            self.follow(Demand { churn: demand.churn - churn, ..demand });
        } else {
            self.follow(demand);
        }
        if self.decision.next_us.is_some_and(|at_us| at_us <= self.now_us) {
            self.tally.wakes += 1;
            self.decide(settings);
        }
    }

    fn follow(&mut self, demand: Demand) {
        self.churned += demand.churn + self.used.abs_diff(demand.used);
        self.fill_holes(demand.churn);
        if demand.used > self.used {
            self.take(demand.used - self.used);
        } else {
            self.dirty += self.used - demand.used;
        }
        self.used = demand.used;
        self.sparse = demand.sparse.min(demand.used);
        self.hollow.pages = self.hollow.pages.min(self.sparse);
    }

    fn take(&mut self, pages: u32) {
        let dirty = pages.min(self.dirty);
        self.dirty -= dirty;
        let mut pages = pages - dirty;
        while let Some(last) = self.gone.last_mut().filter(|_| pages > 0) {
            let part = pages.min(last.pages);
            let at_us = last.at_us;
            last.pages -= part;
            pages -= part;
            if last.pages == 0 {
                self.gone.pop();
            }
            self.count_refault(part, at_us);
        }
    }

    /// Blocks that come and go fill the holes too.
    fn fill_holes(&mut self, pages: u32) {
        let part = pages.min(self.hollow.pages);
        self.hollow.pages -= part;
        self.count_refault(part, self.hollow.at_us);
    }

    fn count_refault(&mut self, pages: u32, returned_us: u64) {
        self.tally.refaulted += u64::from(pages);
        if self.now_us - returned_us < SECOND_US {
            self.tally.premature += u64::from(pages);
            self.premature += pages;
        }
    }

    fn give_back(&mut self, pages: u32) {
        if pages > 0 {
            self.gone.push(Gone { pages, at_us: self.now_us });
            self.dirty -= pages;
            self.tally.returned += u64::from(pages);
            self.tally.calls += 1;
        }
    }

    fn decide(&mut self, settings: &Settings) {
        self.judged_us = self.now_us;
        let observation = Observation {
            now_us: self.now_us,
            used: Pages(self.used),
            dirty: Pages(self.dirty),
            sparse: Pages(self.sparse),
            churned: Pages(core::mem::take(&mut self.churned)),
            premature: Pages(core::mem::take(&mut self.premature)),
            large: Pages::ZERO,
            over_limit: false,
        };
        let decision = self.policy.decide(settings, observation);
        assert!(decision.keep <= settings.retain_max && decision.floor <= settings.retain_max);
        assert!(decision.next_us.is_none_or(|at_us| at_us > self.now_us), "{decision:?}");
        self.tally.trends += u64::from(decision.trend != self.decision.trend);
        self.decision = decision;
        let excess = self.dirty.saturating_sub(decision.keep.0);
        self.give_back(excess);
        if excess > 0 {
            self.policy.note_returned(settings, Pages(excess));
        }
        if decision.holes {
            self.search_holes(settings);
        }
    }

    fn search_holes(&mut self, settings: &Settings) {
        let found = self.sparse - self.hollow.pages;
        self.hollow = Gone { pages: self.sparse, at_us: self.now_us };
        self.policy.note_search_begins(settings);
        self.tally.searches += 1;
        self.tally.returned += u64::from(found);
        self.policy.note_holes(settings, Pages(found));
    }
}
