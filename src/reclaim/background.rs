//! Memory that goes back while the heap's own thread does something else, or nothing.
//!
//! The slow path and ticks return what is due, but a program may wait for long without either.
//! Whenever they have looked at the heap they leave a forecast: how many free pages may stay if
//! nothing happens from now on. The background thread acts on that: it returns what is beyond, the
//! highest pages first, and comes again when less may stay. It takes free pages only, never what
//! lies in spans, and knows nothing of the heap but its dirty pages.
//!
//! It is called when more than a mebibyte will be due. In a heap that somebody works in it comes
//! once a second at most. Where the host ticks, it comes a second after the last tick, unless the
//! option `background` is `on`.
//!
//! The policy hears of what was returned when the heap's own thread looks next, and of what of it
//! was needed again too soon, as if it had returned it itself.

use core::ffi::c_void;

use crate::heap::watch::Watch;
use crate::heap::{Forecast, Heap};
use crate::options::{AUTO, Key};
use crate::os::background::{self, Work};
use crate::os::{Kernel, Os};
use crate::units::Pages;

/// The thread is called when more than this, 1 MiB, will be due. What is less, it takes along.
const WORTH_CALLING: Pages = Pages(256);
/// Less than this goes at the end of a forecast only.
const WORTH_RETURNING: Pages = Pages(64);
/// A host that has ticked, or asked when to, will see to it for so many microseconds.
const HOST_US: u64 = 1_000_000;
/// A forecast that is younger was made by a thread that works, where one visit is enough in so many
/// microseconds.
const AT_WORK_US: u64 = 250_000;
const VISIT_EVERY_US: u64 = 1_000_000;
/// How long to let a kernel be that refused.
const REST_US: u64 = 64_000_000;
/// When to come again if the heap's thread is just making a forecast.
const SOON_US: u64 = 10_000;
/// After the thread could not be started, it is not tried for so many microseconds.
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
}

impl<S: Os> Heap<S> {
    /// Takes note of what the background thread has returned.
    pub(crate) fn note_background(&mut self) {
        self.page_runs().note_returned_aside();
        let aside = core::mem::take(&mut self.runs.aside);
        if aside.calls > 0 {
            self.counts.purge_calls += aside.calls;
            self.counts.purge_refused += aside.refused;
            let settings = self.settings();
            self.above.policy.note_returned(&settings, aside.pages);
        }
    }

    /// Leaves what will be due to the background thread.
    pub(super) fn leave_to_background(&mut self) {
        let Some(shown_us) = self.above.clock.shown_us else { return };
        if !self.may_be_watched() {
            if self.watch().is_on() {
                self.watch().publish(&Forecast { made_us: shown_us, ..Forecast::NEVER });
            }
            return;
        }
        let forecast = self.forecast(shown_us);
        let dirty = self.runs.dirty;
        let is_worth_it = dirty.beyond(forecast.in_the_end()) >= WORTH_CALLING;
        if !is_worth_it && !self.watch().is_on() || shown_us < self.above.background.none_until_us {
            return;
        }
        self.watch().publish(&forecast);
        let Some(due_us) = forecast.falls_below_us(dirty).filter(|_| is_worth_it) else { return };
        let due_us = due_us.max(forecast.not_before_us);
        if !self.watch().begin() || !background::call::<Return>(due_us) {
            self.above.background.none_until_us = shown_us + RETRY_US;
        }
    }

    fn may_be_watched(&self) -> bool {
        let is_wanted = self.options.get(Key::Background) != 0 && self.options.get(Key::Auto) == 1;
        is_wanted && self.os.has_background() && !self.is_checked()
    }

    /// What the policy foresees, on the system's clock.
    fn forecast(&self, shown_us: u64) -> Forecast {
        let mut forecast = self.above.policy.forecast(&self.settings());
        let to_shown = |at_us: u64| (at_us + shown_us).saturating_sub(self.above.clock.now_us);
        forecast.made_us = to_shown(forecast.made_us);
        forecast.epoch_start_us = to_shown(forecast.epoch_start_us);
        if self.options.get(Key::Background) == AUTO {
            forecast.not_before_us = self.above.background.host_until_us;
        }
        forecast
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
    let Some(forecast) = watch.forecast() else { return Some(now_us + SOON_US) };
    if now_us < forecast.not_before_us {
        let due_us = forecast.falls_below_us(watch.dirty())?;
        return Some(due_us.max(forecast.not_before_us));
    }
    let mut dirty = watch.dirty();
    let excess = dirty.beyond(forecast.keep_at(now_us));
    if excess >= WORTH_RETURNING || is_over(&forecast, now_us) && excess > Pages::ZERO {
        // SAFETY: the caller's promise; pages that are claimed hold nothing of value.
        let purge = |ranges: &[_]| unsafe { os.purge(ranges) };
        let returned = unsafe { watch.return_pages(excess, purge, is_listed, now_us) };
        match returned {
            Some(returned) => dirty = dirty.beyond(returned),
            None => return Some(now_us + REST_US),
        }
    }
    next_visit_us(&forecast, dirty, now_us)
}

/// Nothing more will be due by the passing of time.
fn is_over(forecast: &Forecast, now_us: u64) -> bool {
    forecast.keep_at(now_us) == forecast.in_the_end()
}

/// When to come again, though the heap's thread leaves no other forecast.
fn next_visit_us(forecast: &Forecast, dirty: Pages, now_us: u64) -> Option<u64> {
    if dirty <= forecast.in_the_end() || is_over(forecast, now_us) {
        return None;
    }
    let due_us = forecast.falls_below_us(dirty.beyond(WORTH_RETURNING));
    let due_us = due_us.unwrap_or(u64::MAX).min(forecast.ends_us()).max(now_us + 1000);
    let is_at_work = now_us < forecast.made_us + AT_WORK_US;
    Some(if is_at_work { due_us.max(now_us + VISIT_EVERY_US) } else { due_us })
}
