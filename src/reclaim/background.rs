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
//! # Wake-ups
//!
//! Nobody tells the thread that a heap's own thread has gone to sleep. It has to wake to see that,
//! and while the heap works it wakes in vain: the slow path returns what is due. So a heap at work
//! is visited every 1.1 s, and all such heaps at the same time. Where [`MUCH`] will be due,
//! that would be too late if the program slept. The visit then comes early, after an eighth of a
//! second. An early visit pays when the program does sleep. If the work went on, the next early
//! visits come later, and not at all after three, until 40 s have passed or the work has ended. So
//! the thread wakes less than once a second, early visits included.
//!
//! The heap takes note of what was returned when its own thread looks next. The policy then counts
//! those pages, and those of them that were needed again too soon, as it counts its own.

use core::ffi::c_void;

use super::policy::Observation;
use crate::heap::refaults::{PurgeReason, PurgeStamp};
use crate::heap::watch::Watch;
use crate::heap::{Forecast, Heap};
use crate::options::{AUTO, Key};
use crate::os::background::{self, Work};
use crate::os::{Kernel, MemoryRange, Os, Purged};
use crate::units::{PAGE, Pages};

/// The thread is called when more than this, 1 MiB, will be due. What is less, it takes along.
const WORTH_CALLING: Pages = Pages(256);
/// Less than this goes at the end of a forecast only.
const WORTH_RETURNING: Pages = Pages(64);
/// A host that has ticked, or asked when to tick, is expected to do so again within this time.
const HOST_US: u64 = 1_000_000;
/// A forecast that is younger than this comes from a heap that is at work.
const AT_WORK_US: u64 = 250_000;
/// Heaps at work are visited at multiples of this time, all of them by one wake-up.
const VISIT_EVERY_US: u64 = 1_100_000;
/// The time between two such visits to a heap, at least. A heap counts as one at work for
/// [`AT_WORK_US`] after its work has ended, and what is left then is due 1.5 s after that: the next
/// visit is not later than this.
const VISIT_APART_US: u64 = 250_000;
/// The same when [`MUCH`] memory is due. The time doubles with each early visit that did not pay.
const VISIT_FOR_MUCH_US: u64 = 125_000;
/// 8 MiB.
pub(super) const MUCH: Pages = Pages(2048);
/// How long an early visit that did not pay is remembered.
const UNPAID_US: u64 = 40_000_000;
/// So many of them are remembered: then no visit comes early.
const UNPAID_MOST: u64 = 3;
/// When no forecast was left for this time, the work has ended.
const ENDED_US: u64 = 1_000_000;
/// The time between two visits to any heap, at least.
const VISIT_AGAIN_US: u64 = 10_000;
/// The policy puts off a search of spans that may not pay. The search is made when nothing has
/// happened for this time after the forecast has ended.
const SEARCH_WITHIN_US: u64 = 5_000_000;
/// When the kernel has refused, the next visit comes after this time.
const REST_US: u64 = 64_000_000;
/// When the heap's thread is writing a forecast, the next visit comes after this time.
const SOON_US: u64 = 500_000;
/// When the thread could not be started, the next attempt comes after this time.
const RETRY_US: u64 = 10_000_000;

/// What breathing keeps with each heap for it.
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

impl<S: Os> Heap<S> {
    /// Takes note of what the background thread has returned.
    pub(crate) fn note_background(&mut self) {
        self.note_aside();
        let aside = core::mem::take(&mut self.runs.aside);
        if aside.calls == 0 {
            return;
        }
        self.counts.purge_calls += aside.calls.saturating_sub(aside.searches);
        self.counts.purge_refused += aside.refused;
        let settings = self.settings();
        self.hooks.policy.note_returned(&settings, aside.pages);
        if aside.searches > 0 {
            self.hooks.policy.note_search_begins(&settings);
            self.hooks.policy.note_holes(&settings, aside.holes);
        } else {
            // Until the search ends.
            self.runs.aside.holes = aside.holes;
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
    fn forecast(&self, shown_us: u64) -> Forecast {
        let now_us = self.hooks.clock.now_us;
        let observation =
            Observation { moved: self.runs.pages_churned, ..self.observation(now_us) };
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
        if forecast.search_us < u64::MAX {
            forecast.search_us = forecast.search_us.min(forecast.ends_us() + SEARCH_WITHIN_US);
        }
        if self.options.get(Key::Background) == AUTO {
            forecast.not_before_us = self.hooks.background.host_until_us;
        }
        forecast
    }
}

#[cfg(test)]
impl<S: Os> Heap<S> {
    /// As if the background thread had been started, and was slow to come.
    pub(crate) fn pretend_thread(&mut self) {
        self.watch().pretend();
        self.hooks.background.none_until_us = 0;
    }

    /// Does what the background thread would do now. Returns when that would come again.
    pub(crate) fn visit_in_background(&mut self) -> Option<u64> {
        self.watch().pretend();
        let shown_us = self.hooks.clock.shown_us?;
        self.watch().publish(&self.forecast(shown_us));
        // SAFETY: the heap lives, and nobody else looks.
        unsafe { visit(self.watch(), &self.os, &|| true) }
    }
}

/// What the background thread does.
struct Return;

impl Work for Return {
    unsafe fn visit(item: *mut c_void, is_listed: &dyn Fn() -> bool) -> Option<u64> {
        // SAFETY: the caller's promise: it is a heap's watch, and the heap waits until this ends.
        unsafe { visit(&*item.cast::<Watch>(), &Kernel, is_listed) }
    }
}

/// Returns what is due of a heap, and tells when to come again.
///
/// # Safety
///
/// The heap lives, and no other thread does so.
unsafe fn visit(watch: &Watch, os: &impl Os, is_listed: &dyn Fn() -> bool) -> Option<u64> {
    let now_us = os.now_us();
    if now_us < watch.again_us() {
        return Some(watch.again_us());
    }
    let Some(forecast) = watch.forecast() else { return Some(now_us + SOON_US) };
    // SAFETY: the caller's promise.
    let again_us = unsafe { visit_for(&forecast, now_us, watch, os, is_listed) };
    note_early(watch, &forecast, now_us);
    let in_turn_us = in_turn_us(watch.at_work_us());
    // What a heap at work will say next does not have to wake the thread for an earlier turn.
    let is_soon_after = |at_us| (in_turn_us..in_turn_us + VISIT_EVERY_US).contains(&at_us);
    let is_at_work = now_us < in_turn_us.min(forecast.made_us + AT_WORK_US);
    let again_us =
        again_us.map(|at_us| if is_at_work && is_soon_after(at_us) { in_turn_us } else { at_us });
    watch.set_early(again_us.filter(|at_us| *at_us < in_turn_us).unwrap_or(0));
    again_us
}

/// Returns what is due by a forecast, and tells when to come again.
///
/// # Safety
///
/// As for [`visit`].
unsafe fn visit_for(
    forecast: &Forecast,
    now_us: u64,
    watch: &Watch,
    os: &impl Os,
    is_listed: &dyn Fn() -> bool,
) -> Option<u64> {
    if now_us < forecast.not_before_us {
        return next_visit_us(forecast, watch, now_us);
    }
    let excess = watch.dirty().saturating_sub(forecast.keep_at(now_us));
    let is_due = excess >= WORTH_RETURNING || is_over(forecast, now_us) && excess > Pages::ZERO;
    let rested_us = rested_us(watch, excess);
    if now_us < rested_us {
        // The forecast may have ended meanwhile: what is due stays due.
        let next_us = next_visit_us(forecast, watch, now_us);
        return [next_us, is_due.then_some(rested_us)].into_iter().flatten().min();
    }
    if now_us < forecast.made_us + AT_WORK_US {
        watch.set_at_work(now_us);
    }
    let stamp = PurgeStamp::new(now_us, PurgeReason::Idle);
    if is_due {
        // SAFETY: C1: the pages are claimed, and they are free: they hold nothing of value.
        let purge = |ranges: &[_]| unsafe { os.purge(ranges) };
        // SAFETY: the caller's promise, and `purge` is the system's.
        let returned = unsafe { watch.return_dirty(excess, &purge, is_listed, stamp) };
        if returned.is_none() {
            return Some(rest(watch, now_us + REST_US));
        }
    }
    // SAFETY: the caller's promise.
    if !unsafe { return_rest(forecast, now_us, watch, os, is_listed) } {
        return Some(rest(watch, now_us + REST_US));
    }
    next_visit_us(forecast, watch, now_us)
}

/// Returns what is not in free pages: holes in spans, when a search is due, and descriptors; and
/// closes long runs. False: the kernel refused some.
///
/// # Safety
///
/// As for [`visit`].
unsafe fn return_rest(
    forecast: &Forecast,
    now_us: u64,
    watch: &Watch,
    os: &impl Os,
    is_listed: &dyn Fn() -> bool,
) -> bool {
    if now_us >= forecast.search_us && !watch.has_searched(forecast) {
        let stamp = PurgeStamp::new(now_us, PurgeReason::Idle);
        // SAFETY: C1: the spans are claimed, so no slot of theirs is handed out. After all threads
        // were ordered, what the heap's thread did with a block before it freed that has happened.
        let purge = |ranges: &[_]| unsafe { purge_in_order(os, ranges) };
        // SAFETY: the caller's promise, and `purge` orders the threads before.
        let is_done = unsafe { watch.return_holes(&purge, is_listed, stamp) };
        watch.note_search(forecast);
        if !is_done {
            return false;
        }
    }
    // SAFETY: K1 and C1: the sheets are claimed and all their pages are free: their descriptors say
    // nothing, and zeroed ones say the same.
    let purge = |ranges: &[_]| unsafe { os.purge(ranges) };
    if !watch.return_sheets(&purge, is_listed) {
        return false;
    }
    // SAFETY: K4: all pages of the run are free, returned and claimed: nobody touches them before
    // the heap's thread has opened them.
    let decommit = |range: MemoryRange| unsafe { os.decommit(range.start, range.bytes) };
    watch.close_runs(&decommit, is_listed);
    true
}

/// Takes note of a visit that came early to a heap at work, or comes when the work has ended.
fn note_early(watch: &Watch, forecast: &Forecast, now_us: u64) {
    let is_early = watch.early_us() > 0 && now_us >= watch.early_us();
    if now_us >= forecast.made_us + ENDED_US {
        watch.set_unpaid_until(0);
    } else if is_early && now_us < forecast.made_us + AT_WORK_US {
        watch.set_at_work(now_us);
        let until_us = watch.unpaid_until_us().max(now_us) + UNPAID_US;
        watch.set_unpaid_until(until_us.min(now_us + UNPAID_MOST * UNPAID_US));
    }
}

/// When the background thread may come to return these pages.
fn rested_us(watch: &Watch, pages: Pages) -> u64 {
    let at_work_us = watch.at_work_us();
    let unpaid_us = watch.unpaid_until_us().saturating_sub(at_work_us);
    let unpaid = unpaid_us.div_ceil(UNPAID_US);
    let rested_us = if pages >= MUCH && unpaid < UNPAID_MOST {
        in_turn_us(at_work_us).min(at_work_us + (VISIT_FOR_MUCH_US << unpaid))
    } else {
        in_turn_us(at_work_us)
    };
    watch.again_us().max(rested_us)
}

/// When all heaps at work are visited again after one was at a time; 0: it never was.
fn in_turn_us(at_work_us: u64) -> u64 {
    match at_work_us {
        0 => 0,
        _ => (at_work_us + VISIT_APART_US).next_multiple_of(VISIT_EVERY_US),
    }
}

/// Has nobody come before a time, which is returned.
fn rest(watch: &Watch, until_us: u64) -> u64 {
    watch.set_again(until_us);
    until_us
}

/// Purges ranges after all threads have come to where the others see what they did before.
///
/// # Safety
///
/// As for [`Os::purge`].
unsafe fn purge_in_order<O: Os>(os: &O, ranges: &[MemoryRange]) -> Purged {
    if !os.order_threads() {
        return Purged { ranges: 0, calls: 1, errno: 0 };
    }
    // SAFETY: the caller's promise.
    unsafe { os.purge(ranges) }
}

/// Nothing more will be due by the passing of time.
fn is_over(forecast: &Forecast, now_us: u64) -> bool {
    forecast.keep_at(now_us) == forecast.in_the_end()
}

/// When to come again, though the heap's thread leaves no other forecast.
fn next_visit_us(forecast: &Forecast, watch: &Watch, now_us: u64) -> Option<u64> {
    let dirty = watch.dirty();
    let is_host_awaited = now_us < forecast.not_before_us;
    let is_over = now_us >= forecast.ends_us() && !is_host_awaited;
    let is_all = dirty <= forecast.in_the_end() || is_over;
    let falls_us = (!is_all).then(|| {
        let most_us = forecast.falls_below_us(dirty.saturating_sub(WORTH_RETURNING));
        most_us.unwrap_or(u64::MAX).min(forecast.ends_us())
    });
    let is_searched = forecast.search_us == u64::MAX || watch.has_searched(forecast);
    let search_us = (!is_searched).then_some(forecast.search_us);
    let due_us = [falls_us, search_us].into_iter().flatten().min()?;
    let rested_us = rested_us(watch, dirty.saturating_sub(forecast.keep_at(due_us)));
    Some(due_us.max(forecast.not_before_us).max(rested_us).max(now_us + VISIT_AGAIN_US))
}
