//! When spans are searched for holes: that takes a walk over all of them.

#![forbid(unsafe_code)]

use super::decay::{EPOCHS_PER_DECAY, epoch_us};
use super::{MEMORY_US, Observation, affordable_us};
use crate::units::Pages;

/// Epochs after which a heap is searched that does not fill its holes: they go after `decay_us`, as
/// the first of the free pages do.
pub(super) const IDLE_EPOCHS: u64 = EPOCHS_PER_DECAY;
/// Epochs between two searches of a busy heap at first, 5 s by default, and how many times as long
/// that becomes at most when a search yields little or was premature: holes that are soon filled
/// again cost 0.07 % of the time instead of 0.6.
const EVERY_EPOCHS: u64 = 40;
const RARER_MAX: u32 = 16;
/// And only when so large a part of it is free slots.
const BUSY_SHARE: u32 = 8;
/// What yields less than so small a part of a heap is not worth a search, and when less changed
/// there is nothing new to find.
const WORTH_SHARE: u32 = 64;
/// Nor when fewer pages changed than this.
const CHURNED_MIN: Pages = Pages(32);
/// Pages that change hands for each that the last search returned, so that the next is worth while
/// again. Bursts that fill 200 MB of holes every 3 s cost 1 % of the time; without a rest, 4.5.
const WORK_PER_PAGE: u32 = 4;

/// What is remembered of searches.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holes {
    searched_us: u64,
    /// The last search was while the heap filled no holes.
    idle: bool,
    /// When all searches up to the last one will have been affordable.
    paid_us: u64,
    /// Pages that changed hands since it began, and slots that became free.
    churned: Pages,
    sparse: Pages,
    /// How many times rarer than at first a busy heap is searched, less 1.
    rarer: u32,
    /// What the last search returned, and what of all was needed again too early since.
    returned: Pages,
    premature: Pages,
}

impl Holes {
    pub(super) fn note(&mut self, observation: &Observation) {
        let emptied = observation.sparse.saturating_sub(self.sparse);
        self.sparse = observation.sparse;
        self.churned = self.churned.saturating_add(observation.churned).saturating_add(emptied);
        self.premature = self.premature.saturating_add(observation.premature);
    }

    /// Takes note that a search begins: what changes from now on may be behind it.
    pub(super) fn note_search_begins(&mut self) {
        self.churned = Pages::ZERO;
    }

    /// Takes note of a search that has ended: whether the heap filled no holes then, and what it
    /// returned.
    pub(super) fn note_search(&mut self, observation: &Observation, idle: bool, returned: Pages) {
        // A search that returned nothing has returned nothing too early.
        let premature = self.premature.0 > self.returned.0 / 8 && self.returned > Pages::ZERO;
        let fruitless = returned.0 < observation.used.0 / WORTH_SHARE;
        let rarer = if fruitless || premature { 2 * self.rarer + 1 } else { 0 };
        let paid_us = self.paid_us.max(observation.now_us);
        *self = Holes {
            searched_us: observation.now_us,
            idle,
            paid_us: (paid_us + affordable_us(returned)).min(observation.now_us + MEMORY_US),
            churned: self.churned,
            sparse: self.sparse,
            rarer: rarer.min(RARER_MAX - 1),
            returned,
            premature: Pages::ZERO,
        };
    }

    /// When the next search is due: once after the heap has filled holes last, and from time to
    /// time while it does and has many free slots, or has too little memory.
    pub(super) fn next(
        &self,
        decay_us: u64,
        observation: &Observation,
        filled_us: u64,
    ) -> Option<u64> {
        let worth = Pages(observation.used.0 / WORTH_SHARE);
        if observation.sparse <= worth || self.churned < worth.max(CHURNED_MIN) {
            return None;
        }
        let epoch_us = epoch_us(decay_us);
        // The end of a load is searched at once. What idles every few seconds is not, unless much
        // more was done than the last search undid. What has worked lightly since the last search
        // waits, too: longer with each search that found little.
        let is_burst = self.idle && self.churned.0 / WORK_PER_PAGE < self.returned.0;
        let is_light = self.idle && filled_us < self.searched_us;
        let apart_us = IDLE_EPOCHS * epoch_us * u64::from(self.rarer + 1);
        let rest_us = match (is_burst, is_light) {
            (true, _) => self.paid_us.max(self.searched_us + apart_us),
            (false, true) => self.searched_us + apart_us,
            (false, false) => 0,
        };
        let idle_us = rest_us.max(filled_us + IDLE_EPOCHS * epoch_us);
        let every_us = EVERY_EPOCHS * epoch_us * u64::from(self.rarer + 1);
        let again_us = self.paid_us.max(self.searched_us + every_us);
        let many =
            observation.sparse.0 >= observation.used.0 / BUSY_SHARE || observation.over_limit;
        Some(if many { idle_us.min(again_us) } else { idle_us })
    }
}
