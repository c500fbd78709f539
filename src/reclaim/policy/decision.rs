//! What the policy is shown, and what it answers.

#![forbid(unsafe_code)]

use crate::units::Pages;

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
    pub(crate) churned: Pages,
    /// Of these, pages that had been returned less than a second ago.
    pub(crate) premature: Pages,
    /// The heap stands above its memory limit.
    pub(crate) over_limit: bool,
}

impl Observation {
    /// Two observations of one moment as one, whichever came first.
    pub(super) fn merged(&self, other: &Observation) -> Observation {
        Observation {
            now_us: self.now_us,
            used: self.used.max(other.used),
            large: self.large.max(other.large),
            dirty: self.dirty.max(other.dirty),
            sparse: self.sparse.max(other.sparse),
            churned: self.churned.saturating_add(other.churned),
            premature: self.premature.saturating_add(other.premature),
            over_limit: self.over_limit | other.over_limit,
        }
    }
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
