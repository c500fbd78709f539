//! Visits of the background thread to a heap: what it returns by the heap's forecast, and when it
//! comes again.
//!
//! The thread cannot know that a heap's own thread has gone to sleep. It has to wake to see that.
//! While the heap works, such a wake-up does nothing: the slow path returns what is due. So a heap
//! at work is visited every 1.1 s, and all such heaps at the same time. Where [`MUCH`] will be due,
//! that would be too late if the program slept. The visit then comes early, after an eighth of a
//! second. An early visit pays when the program does sleep. If the work went on, the next early
//! visits come later, and not at all after three, until 40 s have passed or the work has ended. So
//! the thread wakes less than once a second, early visits included.

use core::ffi::c_void;

use crate::heap::Forecast;
use crate::heap::refaults::{PurgeReason, PurgeStamp};
use crate::heap::watch::Watch;
use crate::os::background::Work;
use crate::os::{Kernel, MemoryRange, Os, Purged};
use crate::units::Pages;

/// Less than this goes at the end of a forecast only.
const WORTH_RETURNING: Pages = Pages(64);
/// A forecast that is younger than this comes from a heap that is at work.
const AT_WORK_US: u64 = 250_000;
/// Heaps at work are visited at multiples of this time, all of them by one wake-up.
const VISIT_EVERY_US: u64 = 1_100_000;
/// The time between two such visits to a heap, at least. A heap counts as one at work for
/// [`AT_WORK_US`] after its work has ended, and what is left then is due 1.5 s after that: the next
/// visit is not later than this.
const VISIT_APART_US: u64 = 250_000;
/// The same when [`MUCH`] memory is due. The time doubles with each early visit that did not pay.
pub(super) const VISIT_FOR_MUCH_US: u64 = 125_000;
/// 8 MiB.
pub(super) const MUCH: Pages = Pages(2048);
/// How long an early visit that did not pay is remembered.
const UNPAID_US: u64 = 40_000_000;
/// The most early visits that are remembered. While these are, no visit comes early.
const UNPAID_MOST: u64 = 3;
/// When no forecast was left for this time, the work has ended.
const ENDED_US: u64 = 1_000_000;
/// The time between two visits to any heap, at least.
const VISIT_AGAIN_US: u64 = 10_000;
/// When the kernel has refused, the next visit comes after this time.
const REST_US: u64 = 64_000_000;
/// When the heap's thread is writing a forecast, the next visit comes after this time.
const SOON_US: u64 = 500_000;

/// What the background thread does.
pub(super) struct Return;

impl Work for Return {
    unsafe fn visit(item: *mut c_void, is_listed: &dyn Fn() -> bool) -> Option<u64> {
        // SAFETY: the caller's promise: it is a heap's watch, and the heap waits until this ends.
        unsafe { visit(&*item.cast::<Watch>(), &Kernel, is_listed) }
    }
}

#[cfg(test)]
impl<O: Os> crate::heap::Heap<O, crate::reclaim::Reclaim> {
    /// Does what the background thread would do now. Returns when that would come again.
    pub(crate) fn visit_in_background(&mut self) -> Option<u64> {
        self.watch().pretend();
        let shown_us = self.hooks.clock.shown_us?;
        self.watch().publish(&self.forecast(shown_us));
        // SAFETY: the heap lives, and nobody else looks.
        unsafe { visit(self.watch(), &self.os, &|| true) }
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
pub(super) fn rested_us(watch: &Watch, pages: Pages) -> u64 {
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

/// Puts off every visit to a time, which is returned.
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
