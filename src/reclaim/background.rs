//! Memory that goes back while the heap's own thread does something else, or nothing.
//!
//! The slow path and ticks return what is due, but a program may wait for long without either.
//! Whenever they have looked at the heap they leave a forecast: how many free pages may stay, and
//! when spans should be searched for holes, if nothing happens from now on. The background thread
//! acts on the forecast. It returns the free pages that may not stay, the highest first, and comes
//! again when fewer may. In a search it takes the pages without a live block of spans that rest. At
//! the end of a visit it takes the descriptors of pages that are all free and returned.
//!
//! The thread is called when more than 1 MiB will be due. Where the host ticks it waits until a
//! second after the last tick, unless the option `background` is `on`.
//!
//! The heap takes note of what was returned when its own thread looks next. The policy then counts
//! those pages, and those of them that were needed again too soon, as it counts its own.

#![forbid(unsafe_code)]

use super::policy::Observation;
use super::visit::{Return, VISIT_FOR_MUCH_US, rested_us};
use crate::heap::{Forecast, Heap};
use crate::options::{AUTO, Key};
use crate::os::Os;
use crate::os::background;
use crate::reclaim::Reclaim;
use crate::units::{PAGE, Pages};

/// The thread is called when more than this, 1 MiB, will be due. What is less, it takes along.
const WORTH_CALLING: Pages = Pages(256);
/// A host that has ticked, or asked when to tick, is expected to do so again within this time.
const HOST_US: u64 = 1_000_000;
/// The policy puts off a search of spans that may not pay. The search is made when nothing has
/// happened for this time after the forecast has ended.
const SEARCH_WITHIN_US: u64 = 5_000_000;
/// When the thread could not be started, the next attempt comes after this time.
const RETRY_US: u64 = 10_000_000;

/// What each heap keeps for the background thread.
#[derive(Default)]
pub(super) struct Background {
    /// Until when the host may be expected to tick.
    host_until_us: u64,
    /// Until when the thread need not be tried.
    none_until_us: u64,
}

impl Background {
    /// The host ticks, or has asked when to.
    pub(super) fn note_host(&mut self, shown_us: u64) {
        self.host_until_us = shown_us + HOST_US;
    }

    /// Whether the host has done so within the last second.
    pub(super) fn has_host(&self, shown_us: u64) -> bool {
        shown_us < self.host_until_us
    }
}

impl<O: Os> Heap<O, Reclaim> {
    /// Takes note of what the background thread has returned.
    pub(crate) fn note_background(&mut self) {
        self.note_background_returns();
        let returns = core::mem::take(&mut self.runs.background);
        if returns.calls == 0 {
            return;
        }
        self.counts.purge_calls += returns.calls.saturating_sub(returns.searches);
        self.counts.purge_refused += returns.refused;
        let settings = self.settings();
        self.hooks.policy.note_returned(&settings, returns.pages);
        if returns.searches > 0 {
            self.hooks.policy.note_search_begins(&settings);
            self.hooks.policy.note_holes(&settings, returns.holes);
        } else {
            // Until the search ends.
            self.runs.background.holes = returns.holes;
        }
    }

    /// Leaves what will be due to the background thread.
    pub(super) fn leave_to_background(&mut self) {
        let Some(shown_us) = self.hooks.clock.shown_us else { return };
        self.mend_after_fork();
        if !self.may_be_watched() {
            if self.watch().is_on() {
                self.watch().publish(&Forecast { made_us: shown_us, ..Forecast::NEVER });
            }
            return;
        }
        let forecast = self.forecast(shown_us);
        let due_us = self.worth_calling_us(&forecast);
        // What is too little to call for is news together with what becomes free later.
        let known = due_us
            .map_or(forecast.in_the_end().saturating_add(self.hooks.unpurgeable), |_| {
                Pages(u32::MAX)
            });
        self.hooks.seen = self.runs.dirty.min(known);
        if due_us.is_some() || self.watch().is_on() {
            self.watch().publish(&forecast);
        }
        let Some(due_us) = due_us.filter(|_| shown_us >= self.hooks.background.none_until_us)
        else {
            return;
        };
        let rested_us =
            rested_us(self.watch(), self.runs.dirty.saturating_sub(forecast.keep_at(due_us)));
        let due_us = due_us.max(forecast.not_before_us).max(rested_us);
        if !self.watch().begin() || !background::call::<Return>(due_us) {
            self.hooks.background.none_until_us = shown_us + RETRY_US;
        }
    }

    /// The same when an option was changed: the heap's thread may do nothing after that. A thread
    /// that was not needed before, or could not be started, is called now.
    pub(super) fn leave_by_new_options(&mut self) {
        if self.hooks.clock.shown_us.is_some() {
            self.hooks.clock.advance(self.os.now_us());
            self.hooks.background.none_until_us = 0;
            self.leave_to_background();
        }
    }

    /// When there is enough for the background thread to do. `None`: never.
    fn worth_calling_us(&self, forecast: &Forecast) -> Option<u64> {
        let dirty = self.runs.dirty.saturating_sub(self.hooks.unpurgeable);
        let sparse = self.free_in_spans() / PAGE;
        let falls_us = forecast.falls_below_us(dirty);
        let is_worth_it = dirty.saturating_sub(forecast.in_the_end()) >= WORTH_CALLING;
        let falls_us = falls_us.filter(|_| is_worth_it);
        let has_spans = sparse >= WORTH_CALLING.0 as usize && forecast.search_us < u64::MAX;
        let search_us = has_spans.then_some(forecast.search_us);
        [falls_us, search_us].into_iter().flatten().min()
    }

    /// Whether the background thread can come to this heap, as far as is known.
    pub(super) fn background_can_come(&self) -> bool {
        let shown_us = self.hooks.clock.shown_us.unwrap_or_default();
        self.may_be_watched() && shown_us >= self.hooks.background.none_until_us
    }

    /// Whether the background thread comes to this heap, and waits for no host.
    pub(super) fn background_comes(&self) -> bool {
        let shown_us = self.hooks.clock.shown_us.unwrap_or_default();
        let has_host = self.hooks.background.has_host(shown_us);
        let waits_for_host = has_host && self.options.get(Key::Background) == AUTO;
        self.watch().is_on() && self.background_can_come() && !waits_for_host
    }

    /// Whether it may come at once, or nearly so, to return what is due.
    pub(super) fn background_comes_soon(&self) -> bool {
        let Some(shown_us) = self.hooks.clock.shown_us else { return false };
        self.background_comes()
            && rested_us(self.watch(), self.due()) <= shown_us + VISIT_FOR_MUCH_US
    }

    /// Whether the background thread may be called for this heap.
    fn may_be_watched(&self) -> bool {
        let is_wanted = self.options.get(Key::Background) != 0 && self.options.get(Key::Auto) == 1;
        is_wanted && self.os.has_background() && !self.is_checked()
    }

    /// What the policy foresees, on the system's clock.
    pub(super) fn forecast(&self, shown_us: u64) -> Forecast {
        let now_us = self.hooks.clock.now_us;
        let observation =
            Observation { churned: self.runs.pages_churned, ..self.observation(now_us) };
        let mut forecast = self.hooks.policy.forecast(&self.settings(), observation);
        let to_shown = |at_us: u64| at_us.saturating_add(shown_us).saturating_sub(now_us);
        for time in [
            &mut forecast.made_us,
            &mut forecast.epoch_start_us,
            &mut forecast.idle_us,
            &mut forecast.search_us,
        ] {
            *time = if *time == u64::MAX { *time } else { to_shown(*time) };
        }
        if !self.watch().can_return_holes() {
            // The heap's own thread searches when it looks next.
            forecast.search_us = u64::MAX;
        } else if forecast.search_us < u64::MAX {
            forecast.search_us = forecast.search_us.min(forecast.ends_us() + SEARCH_WITHIN_US);
        }
        if self.options.get(Key::Background) == AUTO {
            forecast.not_before_us = self.hooks.background.host_until_us;
        }
        forecast
    }
}

#[cfg(test)]
impl<O: Os> Heap<O, Reclaim> {
    /// As if the background thread had been started, and was slow to come.
    pub(crate) fn pretend_thread(&mut self) {
        self.watch().pretend();
        self.hooks.background.none_until_us = 0;
    }
}
