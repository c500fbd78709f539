//! The policy: how much free memory may stay resident now.
//!
//! Pure: it is shown the heap's counters with the time ([`Observation`]) and answers with a
//! [`Decision`]. It makes no system call, has no clock, and never looks at a heap.
//!
//! ```text
//! keep = above a memory limit     nothing
//!      | no decay                 `retain`, up to the cap
//!      | growing                  max(idle, floor), up to the cap
//!      | otherwise                max(min(decay, idle), floor), up to the cap; all, when it is
//!                                 hardly more
//! ```
//!
//! - **Decay.** What became free in an eighth of `decay_us` is remembered together. It may stay for
//!   `decay_us`, then goes in four steps over half as long again. Whatever is needed again sooner
//!   is never returned. (The ring of epochs and the smooth step are those of jemalloc's decay; the
//!   plateau is not: jemalloc begins to return at once.)
//! - **Idle.** Of free memory that nobody has needed for a while, 4 MB or a sixteenth of what is in
//!   use stay for the decay: by default after 31 ms of more than 72 MB, and after 250 ms of more
//!   than 9 MB (see `idle`).
//! - **Floor.** What will be needed again: up to the level that demand has come back to before, if
//!   returning the difference each time would cost more than a hundredth of the time; what was
//!   needed again within a second of being returned, if that did; and while demand climbs back
//!   that fast, twice what it has climbed. All are believed for a while, and only as long as the
//!   heap is busy; what was needed again, only as long as as much memory changes hands.
//! - **Cap.** `retain_max`, and for the floor also twice the mean demand, so that a rare spike does
//!   not hold memory for the next one. What large blocks have left is beyond what LuaJIT's own
//!   allocator holds, so it may stay as long as there is credit for it (see `credit`).
//!
//! Observations of the same moment are merged before anything is concluded from them, so their
//! order does not matter. Where a constant says what it buys, that is by the table that
//! `policy_table` in the tests prints.

#![forbid(unsafe_code)]

mod credit;
mod decay;
mod demand;
mod holes;
mod idle;

use crate::heap::Forecast;
use crate::units::Pages;
use credit::Credit;
use decay::{Decay, EPOCHS, decayed, epoch_us};
use demand::DemandLevels;
use holes::Holes;
use idle::Idle;

/// What it costs to return a page and to fault it in again, in microseconds. Measured: 0.3 to give
/// a page back and 2.5 for the fault on a virtual machine; a machine of one's own takes about 1.
pub(super) const ROUND_TRIP_US: u64 = 3;
/// Returning may cost this part of the time: a hundredth.
pub(super) const COST_SHARE: u64 = 100;
/// Microseconds after which what was learned is forgotten, and over which demand is averaged.
/// Over 10 s it would follow a slow swing and cap the floor when it is needed: 1 GB that is free
/// for 20 s in 40 costs 2 % of the time instead of 0.4.
const MEMORY_US: u64 = 60_000_000;
/// The floor is at most this many times the mean demand: what a sawtooth needs, or a square wave
/// that is low half of the time. Spikes of 300 MB every 20 s hold 70 MB on average; with 4, 140.
const FLOOR_PER_MEAN: f64 = 2.0;
/// Less than this, 256 KiB, or than a 64th of the heap, is not worth a call or a wake-up until the
/// heap is at rest. Without it the top of a sawtooth, which falls between two observations, is
/// returned in each turn, and the wave of an hour takes twice the calls and wake-ups.
const WORTH_MIN: Pages = Pages(64);
/// Fewer pages than this that change hands in an epoch, or than a 64th of the free ones or of those
/// that a swing will need, are no activity: a timer that moves 20 pages a second must not keep what
/// a swing needed.
const ACTIVITY_MIN: Pages = Pages(16);
/// What was premature is needed, and holes are filled, while at least this share of their pages
/// changes hands in an epoch: an eighth, so all of them in `decay_us`. A heap that works lightly is
/// busy, but needs neither.
const NEEDED_SHARE: u32 = 8;
/// After a fall, new blocks are packed for this many times `decay_us`.
const PACKING_DECAYS: u64 = 10;
/// While demand climbs back fast, this many times what it has climbed is kept for what it will
/// climb yet. Before the swing is known, a sawtooth of 10 s refaults 366 MB of 512 with 1, 292 with
/// 2, 178 with 4; but crests that creep up hold as many times a crest.
const CLIMBS_AHEAD: u32 = 2;
/// Demand counts as growing, or climbing, for this many epochs after it was higher than before.
/// Where demand grows, nothing goes. That saves no refaults, but it keeps calls out of the way.
const GROWING_EPOCHS: u64 = 2;

/// What the options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) decay_us: u64,
    /// Free memory that may always stay.
    pub(crate) retain: Pages,
    /// Free memory that may ever stay.
    pub(crate) retain_max: Pages,
}

/// What there is to see of a heap at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// A clock that does not go back.
    pub(crate) now_us: u64,
    /// Demand: pages in use.
    pub(crate) used: Pages,
    /// Of these, pages of blocks of 128 KiB and more.
    pub(crate) large: Pages,
    /// Pages that are free and hold memory.
    pub(crate) dirty: Pages,
    /// Free slots in spans, in pages: no more holes than that can be found.
    pub(crate) sparse: Pages,
    /// Pages that changed hands since the observation before.
    pub(crate) moved: Pages,
    /// Of these, pages that had been returned less than a second ago.
    pub(crate) premature: Pages,
    /// The heap stands above its memory limit.
    pub(crate) over_limit: bool,
}

/// What the heap is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trend {
    /// Demand is higher than it was: give nothing, be fast.
    Growing = 1,
    #[default]
    Steady = 2,
    /// Demand has fallen and is not expected back: new blocks are packed so that more can go.
    Shrinking = 3,
}

/// What the floor rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is none.
    #[default]
    Nothing = 0,
    /// The option `retain`.
    Retain = 1,
    /// Demand swings, and has come back before.
    Swing = 2,
    /// Memory was needed again soon after it had been returned.
    PrematurePurge = 3,
    /// There would be one, but the heap stands above its memory limit.
    Limit = 4,
    /// Demand climbs back so fast that what is free is needed before its return would pay.
    Climb = 5,
}

/// The judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Free pages that may stay resident.
    pub(crate) keep: Pages,
    /// Of these, those that will not go by the passing of time alone while the heap is busy.
    pub(crate) floor: Pages,
    /// The most that may stay now for whatever reason, but for what is not worth a call.
    pub(crate) most: Pages,
    pub(crate) reason: Reason,
    pub(crate) trend: Trend,
    /// Spans should be searched for holes.
    pub(crate) holes: bool,
    /// When less may stay, or a search is due, though nothing else changes. `None`: never.
    pub(crate) next_us: Option<u64>,
}

/// The policy's memory of one heap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// All that was concluded from the moments before that of `observation`.
    state: PolicyState,
    /// What was seen at the last moment, all of its observations merged.
    observation: Observation,
}

impl Policy {
    /// Takes note of an observation and judges. The time must not go back.
    pub(crate) fn decide(&mut self, settings: &Settings, observation: Observation) -> Decision {
        self.note(settings, observation);
        self.state.after(settings, &self.observation).decision(settings, &self.observation)
    }

    fn note(&mut self, settings: &Settings, observation: Observation) {
        if observation.now_us > self.observation.now_us {
            self.state = self.state.after(settings, &self.observation);
            self.observation = observation;
        } else {
            self.observation = self.observation.merged(&observation);
        }
    }

    /// Takes note of what there is between two decisions, as far as large blocks are concerned. One
    /// that comes and goes between two decisions would otherwise leave nothing that is seen.
    pub(crate) fn note_large(&mut self, settings: &Settings, observation: &Observation) {
        if observation.now_us > self.observation.now_us {
            self.state.credit.note(settings.retain, &self.observation);
            self.state.credit.note(settings.retain, observation);
        }
    }

    /// The most free pages that may stay after an observation, of which the policy takes no note.
    pub(crate) fn most(&self, settings: &Settings, observation: &Observation) -> Pages {
        let mut credit = self.state.credit;
        credit.note(settings.retain, &self.observation);
        credit.note(settings.retain, observation);
        credit.most(observation.dirty, observation.now_us).min(settings.retain_max)
    }

    /// Takes note that a search of all spans for holes begins.
    pub(crate) fn note_search_begins(&mut self, settings: &Settings) {
        self.conclude(settings);
        self.state.holes.note_search_begins();
    }

    /// Takes note that a search of all spans for holes has ended: pages that it returned.
    pub(crate) fn note_holes(&mut self, settings: &Settings, returned: Pages) {
        self.conclude(settings);
        let filled_us = self.observation.now_us - self.state.filling.last_us;
        let is_idle = filled_us >= holes::IDLE_EPOCHS * epoch_us(settings.decay_us);
        self.state.holes.note_search(&self.observation, is_idle, returned);
    }

    /// Takes note that free pages were returned.
    pub(crate) fn note_returned(&mut self, settings: &Settings, pages: Pages) {
        self.conclude(settings);
        self.state.decay.note_returned(pages);
        self.state.idle.note_returned(pages);
        self.state.credit.note_returned(pages);
        self.observation.dirty = self.observation.dirty.saturating_sub(pages);
    }

    /// Takes note that pages came to light that have been free for long.
    pub(crate) fn note_found(&mut self, settings: &Settings, pages: Pages) {
        self.conclude(settings);
        self.state.decay.note_found(epoch_us(settings.decay_us), pages);
        self.observation.dirty = self.observation.dirty.saturating_add(pages);
    }

    /// Makes the last moment past, so that what follows at the same time is apart from it.
    fn conclude(&mut self, settings: &Settings) {
        self.state = self.state.after(settings, &self.observation);
        self.observation =
            Observation { moved: Pages::ZERO, premature: Pages::ZERO, ..self.observation };
    }

    /// What may stay if nothing happens after an observation, of which the policy takes no note:
    /// now, and when each of the next epochs has ended. Times are those of the observations.
    pub(crate) fn forecast(&self, settings: &Settings, observation: Observation) -> Forecast {
        let mut seen = self.clone();
        seen.note(settings, observation);
        let (state, observation) =
            (seen.state.after(settings, &seen.observation), &seen.observation);
        let dirty = observation.dirty;
        let holes_us = state.holes.next(settings.decay_us, observation, state.filling.last_us);
        let grown_us = state.demand_levels.grown_us() + state.growing_us(settings);
        let (idle_us, idle_keep) = state.sudden_fall(settings, observation);
        Forecast {
            made_us: state.now_us,
            epoch_start_us: state.decay.epoch_start_us(),
            epoch_us: epoch_us(settings.decay_us),
            keep: core::array::from_fn(|step| {
                state.keep_after(settings, observation, dirty, step as u64)
            }),
            idle_us,
            idle_keep,
            search_us: holes_us.map_or(u64::MAX, |at_us| at_us.max(grown_us)),
            not_before_us: 0,
        }
    }

    /// How long the memory that is free now has been so on average, to an epoch.
    pub(crate) fn idle_age_us(&self, settings: &Settings, now_us: u64) -> u64 {
        let state = self.state.after(settings, &self.observation);
        state.decay.age_us(epoch_us(settings.decay_us), now_us.max(state.now_us))
    }
}

impl Observation {
    /// Two observations of one moment as one, whichever came first.
    fn merged(&self, other: &Observation) -> Observation {
        Observation {
            now_us: self.now_us,
            used: self.used.max(other.used),
            large: self.large.max(other.large),
            dirty: self.dirty.max(other.dirty),
            sparse: self.sparse.max(other.sparse),
            moved: self.moved.saturating_add(other.moved),
            premature: self.premature.saturating_add(other.premature),
            over_limit: self.over_limit | other.over_limit,
        }
    }
}

/// Pages whose return was a mistake, and until when that is believed. Saves little where levels of
/// demand tell what is needed; it is for where they do not: free memory that does not fit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PrematurePurge {
    pages: Pages,
    until_us: u64,
}

impl PrematurePurge {
    pub(super) fn at(&self, now_us: u64) -> Pages {
        if now_us < self.until_us { self.pages } else { Pages::ZERO }
    }

    /// More pages, each of which prolongs the belief by the time in which it is affordable.
    pub(super) fn add(&mut self, now_us: u64, pages: Pages) {
        let until_us = self.until_us.max(now_us) + affordable_us(pages);
        let pages = self.at(now_us).saturating_add(pages);
        *self = PrematurePurge { pages, until_us: until_us.min(now_us + MEMORY_US) };
    }
}

/// What is remembered of all moments up to one.
#[derive(Clone, Debug, Default)]
struct PolicyState {
    now_us: u64,
    credit: Credit,
    decay: Decay,
    idle: Idle,
    demand_levels: DemandLevels,
    holes: Holes,
    premature: PrematurePurge,
    used: Pages,
    mean_used: f64,
    mean_span_us: u64,
    /// When the heap was busy; so busy that it needs what was premature; or that it fills holes.
    active: Activity,
    needing: Activity,
    filling: Activity,
}

/// When many pages changed hands.
#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    last_us: u64,
    /// Pages that changed hands since a time within the last epoch.
    moved: Pages,
    since_us: u64,
}

impl Activity {
    /// Takes note of pages that changed hands. As many as `least` in an epoch are many.
    fn note(&mut self, epoch_us: u64, now_us: u64, moved: Pages, least: Pages) {
        if now_us >= self.since_us + epoch_us {
            *self = Activity { moved: Pages::ZERO, since_us: now_us, ..*self };
        }
        self.moved = self.moved.saturating_add(moved);
        if self.moved >= least.max(ACTIVITY_MIN) {
            *self = Activity { last_us: now_us, moved: Pages::ZERO, ..*self };
        }
    }
}

impl PolicyState {
    /// What will be remembered when `observation` is past too.
    fn after(&self, settings: &Settings, observation: &Observation) -> PolicyState {
        let mut next = self.clone();
        let now_us = observation.now_us;
        let epoch_us = epoch_us(settings.decay_us);
        next.note_mean(observation);
        next.note_activity(epoch_us, observation);
        next.credit.note(settings.retain, observation);
        next.decay.note(epoch_us, now_us, observation.dirty);
        next.idle.note(settings, now_us, observation.used, observation.dirty);
        next.demand_levels.note(now_us, observation.used, self.growing_us(settings));
        next.holes.note(observation);
        next.premature.add(now_us, observation.premature);
        next.now_us = now_us;
        next
    }

    fn note_mean(&mut self, observation: &Observation) {
        self.mean_used = self.mean_at(observation.now_us);
        self.mean_span_us = self.mean_span_at(observation.now_us);
        self.used = observation.used;
    }

    /// The mean demand if it stays until a time as it was seen last.
    fn mean_at(&self, at_us: u64) -> f64 {
        let elapsed_us = self.mean_span_at(at_us).min(at_us - self.now_us);
        let weight = elapsed_us as f64 / self.mean_span_at(at_us).max(1) as f64;
        self.mean_used + (f64::from(self.used.0) - self.mean_used) * weight
    }

    /// Of how long a time it is the mean.
    fn mean_span_at(&self, at_us: u64) -> u64 {
        let elapsed_us = if self.now_us == 0 { 0 } else { at_us - self.now_us };
        (self.mean_span_us + elapsed_us).min(MEMORY_US)
    }

    fn note_activity(&mut self, epoch_us: u64, observation: &Observation) {
        let Observation { now_us, used, dirty, sparse, moved, .. } = *observation;
        let expected = self.demand_levels.expected(now_us).saturating_sub(used).max(dirty);
        self.active.note(epoch_us, now_us, moved, Pages(expected.0 / 64));
        let needed = self.premature.at(now_us).min(dirty);
        self.needing.note(epoch_us, now_us, moved, Pages(needed.0 / NEEDED_SHARE));
        self.filling.note(epoch_us, now_us, moved, Pages(sparse.0 / NEEDED_SHARE));
    }

    fn decision(&self, settings: &Settings, observation: &Observation) -> Decision {
        let now_us = self.now_us;
        let keep = self.keep_after(settings, observation, observation.dirty, 0);
        let (floor, reason) = self.floor_at(settings, observation, observation.dirty, now_us);
        let most = self.most_at(settings, observation.dirty, now_us);
        let trend = self.trend_at(settings, observation, now_us);
        let holes_us = self.holes.next(settings.decay_us, observation, self.filling.last_us);
        let holes = trend != Trend::Growing && holes_us.is_some_and(|at_us| at_us <= now_us);
        let kept = observation.dirty.min(keep);
        let next_us = self.next_change(settings, observation, kept, holes_us);
        Decision { keep, floor, most, reason, trend, holes, next_us }
    }

    /// How many of `dirty` pages may stay when `epochs` more have ended and nothing changed.
    fn keep_after(
        &self,
        settings: &Settings,
        observation: &Observation,
        dirty: Pages,
        epochs: u64,
    ) -> Pages {
        let quiet_us = self.time_after(settings, epochs) - self.now_us;
        self.keep_of(settings, observation, dirty, quiet_us, epochs)
    }

    /// The same when nothing has happened for `quiet_us` more.
    fn keep_of(
        &self,
        settings: &Settings,
        observation: &Observation,
        dirty: Pages,
        quiet_us: u64,
        epochs: u64,
    ) -> Pages {
        let at_us = self.time_after(settings, epochs);
        if observation.over_limit {
            return Pages::ZERO;
        }
        let (floor, _) = self.floor_at(settings, observation, dirty, at_us);
        // An epoch cannot be shorter than it is, but no decay is none.
        if settings.decay_us == 0 {
            return floor;
        }
        let most = self.most_at(settings, dirty, at_us);
        let idle = self.idle.keep(settings, observation.used, dirty, quiet_us);
        if self.trend_at(settings, observation, at_us) == Trend::Growing {
            return idle.max(floor).min(most);
        }
        let keep = self.decay.keep_after(epochs).min(idle).max(floor).min(most);
        let worth = WORTH_MIN.max(Pages(observation.used.saturating_add(dirty).0 / 64));
        if !self.is_at_rest(settings, at_us) && dirty.saturating_sub(keep) < worth {
            return keep.max(dirty).min(settings.retain_max);
        }
        keep
    }

    /// The most that may stay for whatever reason.
    fn most_at(&self, settings: &Settings, dirty: Pages, at_us: u64) -> Pages {
        self.credit.most(dirty, at_us).min(settings.retain_max)
    }

    /// When less may stay than at the end of an epoch, if nothing happens, and how much then: when
    /// what is free has been idle for long, or the credit is spent.
    fn sudden_fall(&self, settings: &Settings, observation: &Observation) -> (u64, Pages) {
        let dirty = observation.dirty;
        let quiet_us = idle::goes_after_us(settings, observation.used, dirty).unwrap_or(u64::MAX);
        let idle_keep = self.keep_of(settings, observation, dirty, quiet_us, 0);
        let idle = (self.now_us.saturating_add(quiet_us), idle_keep);
        let spent = self.credit.ends_us(dirty).map(|at_us| {
            let most = self.most_at(settings, dirty, at_us);
            (at_us, most.min(idle_keep))
        });
        let goes = |fall: &(u64, Pages)| fall.1 < dirty;
        let first = [Some(idle), spent].into_iter().flatten().filter(goes).min();
        first.unwrap_or(idle)
    }

    /// When `epochs` more have ended; 0: now.
    fn time_after(&self, settings: &Settings, epochs: u64) -> u64 {
        let end_us = self.decay.epoch_start_us() + epochs * epoch_us(settings.decay_us);
        end_us.max(self.now_us)
    }

    /// Nothing has happened for so long that nothing more is expected.
    fn is_at_rest(&self, settings: &Settings, at_us: u64) -> bool {
        self.idle_epochs(settings, at_us) >= EPOCHS
    }

    fn idle_epochs(&self, settings: &Settings, at_us: u64) -> u64 {
        (at_us - self.active.last_us) / epoch_us(settings.decay_us)
    }

    fn floor_at(
        &self,
        settings: &Settings,
        observation: &Observation,
        dirty: Pages,
        at_us: u64,
    ) -> (Pages, Reason) {
        if observation.over_limit {
            return (Pages::ZERO, Reason::Limit);
        }
        let most = FLOOR_PER_MEAN * self.mean_at(at_us).max(f64::from(observation.used.0));
        let most = Pages(most as u32);
        let swing = self.demand_levels.expected(at_us).saturating_sub(observation.used);
        let needless_epochs = (at_us - self.needing.last_us) / epoch_us(settings.decay_us);
        let premature = decayed(self.premature.at(at_us).min(most), needless_epochs);
        let (learned, reason) = if premature > swing {
            (premature, Reason::PrematurePurge)
        } else {
            (swing, Reason::Swing)
        };
        let climb =
            Pages(self.demand_levels.climbed(at_us, self.growing_us(settings)).0 * CLIMBS_AHEAD);
        let (learned, reason) =
            if climb > learned { (climb, Reason::Climb) } else { (learned, reason) };
        let learned = match settings.decay_us {
            0 => Pages::ZERO,
            _ => decayed(learned.min(most), self.idle_epochs(settings, at_us)),
        };
        let (floor, reason) = if learned > settings.retain {
            (learned, reason)
        } else {
            (settings.retain, Reason::Retain)
        };
        let reason = if floor == Pages::ZERO { Reason::Nothing } else { reason };
        (floor.min(self.most_at(settings, dirty, at_us)), reason)
    }

    fn growing_us(&self, settings: &Settings) -> u64 {
        GROWING_EPOCHS * epoch_us(settings.decay_us)
    }

    /// A heap at rest is steady, whatever it did before.
    fn trend_at(&self, settings: &Settings, observation: &Observation, at_us: u64) -> Trend {
        let growing_us = self.growing_us(settings);
        if observation.over_limit {
            Trend::Shrinking
        } else if self.is_at_rest(settings, at_us) {
            Trend::Steady
        } else if at_us < self.demand_levels.grown_us() + growing_us {
            Trend::Growing
        } else if self.demand_levels.climbed(at_us, growing_us) > Pages::ZERO {
            Trend::Steady
        } else if self.demand_levels.has_fallen(at_us, PACKING_DECAYS * settings.decay_us) {
            Trend::Shrinking
        } else {
            Trend::Steady
        }
    }

    /// The next time at which something is due though nothing happens, when `kept` is what the
    /// decision leaves.
    fn next_change(
        &self,
        settings: &Settings,
        observation: &Observation,
        kept: Pages,
        holes_us: Option<u64>,
    ) -> Option<u64> {
        let goes = |epochs: &u64| self.keep_after(settings, observation, kept, *epochs) < kept;
        let goes_at = (1..=EPOCHS + 1).find(goes).map(|epochs| self.time_after(settings, epochs));
        // A search that is due now may take several breaths.
        let holes_us = holes_us.map(|at_us| at_us.max(self.time_after(settings, 1)));
        let will_be_idle = self.keep_of(settings, observation, kept, u64::MAX, 0) < kept;
        let idle_us = self.idle.next_us(settings, observation.used, kept);
        let idle_us = idle_us.filter(|_| will_be_idle).map(|at_us| at_us.max(self.now_us + 1));
        let spent_us = self.credit.ends_us(kept).map(|at_us| at_us.max(self.now_us + 1));
        [goes_at, holes_us, idle_us, spent_us].into_iter().flatten().min()
    }
}

/// In how much time it is affordable to return `pages` and to fault them in again.
fn affordable_us(pages: Pages) -> u64 {
    u64::from(pages.0) * ROUND_TRIP_US * COST_SHARE
}

/// A forecast reaches up to where nothing more is expected.
const _: () = assert!(crate::heap::watch::STEPS as u64 == EPOCHS + 2);

#[cfg(test)]
mod tests;
