//! The pace of the slow path: when it looks, and how much it returns.
//!
//! A host that ticks knows when it has time. Without one, memory goes back inside of the operations
//! that take the slow path, however many those are, by three rules:
//!
//! - **The clock** is read for every [`LOOK`] pages that change hands, and for every operation. At
//!   full speed it is read for one operation in [`STRIDE`], or in [`STRIDE_MOST`] where the
//!   background thread may come.
//! - **A look** follows where pages changed hands or a host would tick now, and the last look is
//!   4 ms old.
//! - **The time** that a look may take is a sixteenth of what has passed since the last one, but
//!   one step (`step_us`) at least and [`STEPS_MAX`] at most. Nor is it more than an eighth of the
//!   time between two readings of the clock, so that it is one step where operations are frequent:
//!   a look that took long is followed by a pause, and not by one that takes as long. It is one
//!   step, too, where the background thread comes soon: that thread does the rest, but for pages
//!   outside of the heap and a search for holes that a look has begun.
//!
//! So what is due goes back at some hundred MB a second from ten operations a second on, and in
//! proportion to their rate below. By default, where the kernel takes 150 µs for 1 MB:
//!
//! | operations on the slow path | a look takes | goes back     |
//! |-----------------------------|--------------|---------------|
//! | 250 a second and more       | 0.25 ms      | 250 MB/s      |
//! | 10 a second                 | 6 ms         | 400 MB/s      |
//! | 4 a second                  | 8 ms         | 200 MB/s      |
//! | 1 in 10 seconds             | 8 ms         | 5 MB/s        |
//!
//! A small block in 64 takes the slow path, and every block of more than 8 KiB.
//!
//! With `decay_ms` 0 all of this is passed over: what is free beyond `retain` goes at once.

#![forbid(unsafe_code)]

use super::purge::Budget;
use super::visit::MUCH;
use crate::heap::Heap;
use crate::options::Key;
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::Pages;

/// Pages that change hands between two readings of the clock.
const LOOK: Pages = Pages(32);
/// Operations on the slow path between two readings of the clock, while two readings are less than
/// [`SPARSE_US`] microseconds apart.
const STRIDE: u32 = 4;
/// The same where the background thread returns what is due though the clock is not read.
const STRIDE_MOST: u32 = 16;
const SPARSE_US: u64 = 50;
/// Free pages that nobody has seen, 1 MiB, are news for the background thread at any time.
const NEWS: Pages = Pages(256);
/// Microseconds between two looks at least.
const LOOK_EVERY_US: u64 = 4000;
/// Returning takes a sixteenth of the time at most.
const SHARE: u64 = 16;
/// Steps that one look takes at most: 8 ms by default, which return some 50 MB.
const STEPS_MAX: u64 = 32;
/// A look counts as this many times as long as it might take, at most: then the thread had to wait
/// for a processor.
const OVERRUN: u64 = 4;
/// Much that is due is left to the background thread for this time.
const LEAVE_US: u64 = 250_000;

/// When the slow path looked and looks again.
#[derive(Default)]
pub(super) struct Pace {
    run_us: u64,
    look_again_us: u64,
    /// When to ask again whether a host would tick.
    ask_again_us: u64,
    /// Operations until the clock is read, at full speed.
    stride: u32,
    /// Readings of the clock since the last look.
    readings: u64,
    /// Since when [`MUCH`] has been due; `None`: less is.
    much_since_us: Option<u64>,
}

impl<O: Os> Heap<O, Reclaim> {
    /// Sets how many pages must change hands, and how many operations take the slow path, before
    /// the clock is read.
    pub(super) fn look_at_first(&mut self) {
        let auto = self.options.get(Key::Auto) == 1;
        self.poll_threshold = if auto { LOOK } else { Pages(u32::MAX) };
        self.poll_in = if auto { STRIDE.min(self.poll_in) } else { u32::MAX };
    }

    /// Looks if it is time, and returns what is due as far as the pace allows.
    pub(super) fn run_due_in_passing(&mut self) {
        if self.options.get(Key::Auto) == 0 {
            self.poll_in = u32::MAX;
            return;
        }
        self.note_use_since_emergency();
        let start_us = self.os.now_us();
        let before_us = self.hooks.clock.now_us;
        let now_us = self.hooks.clock.advance(start_us);
        let interval_us = now_us - before_us;
        self.hooks.pace.readings += 1;
        self.poll_in = self.next_stride(interval_us);
        if !self.is_time_to_look(now_us) {
            let observation = self.large_observation(now_us);
            self.hooks.policy.note_large(&self.settings(), &observation);
            self.lower_limit();
            return;
        }
        self.look(now_us);
        let earned_us = self.earned_us(now_us);
        let budget = match self.goes_at_once() {
            true => Budget::Unlimited,
            false => Budget::Until(start_us + earned_us),
        };
        let took_us = self.timed_run(start_us, budget).1;
        self.publish();
        self.leave_to_background();
        let look_again_us = now_us + LOOK_EVERY_US.max(SHARE * took_us.min(OVERRUN * earned_us));
        let pace = &mut self.hooks.pace;
        (pace.run_us, pace.readings) = (now_us, 0);
        (pace.look_again_us, pace.ask_again_us) = (look_again_us, look_again_us);
    }

    /// Operations until the clock is read again.
    fn next_stride(&mut self, interval_us: u64) -> u32 {
        let most = if self.background_can_come() { STRIDE_MOST } else { STRIDE };
        let stride = &mut self.hooks.pace.stride;
        *stride = match interval_us < SPARSE_US {
            true => (*stride * 2).clamp(STRIDE, most),
            false => 1,
        };
        *stride
    }

    fn is_time_to_look(&mut self, now_us: u64) -> bool {
        let churned = self.runs.pages_churned > self.poll_threshold;
        if churned {
            self.poll_threshold = self.runs.pages_churned.saturating_add(LOOK);
        }
        if self.goes_at_once() {
            return true;
        }
        let pace = &mut self.hooks.pace;
        if churned || now_us < pace.ask_again_us {
            let is_time = now_us >= pace.look_again_us;
            if churned && !is_time {
                self.leave_news();
            }
            return churned && is_time;
        }
        pace.ask_again_us = now_us + LOOK_EVERY_US;
        self.next_tick_from(now_us) == Some(0)
    }

    /// Leaves a new forecast to the background thread when [`NEWS`] pages or more became free since
    /// the last look: the program may do nothing after that. The policy does not see these pages.
    /// It would otherwise look at the heap whenever much was freed, and never when that is used
    /// again.
    fn leave_news(&mut self) {
        if self.runs.dirty.saturating_sub(self.hooks.seen) >= NEWS {
            self.hooks.seen = self.runs.dirty;
            self.leave_to_background();
        }
    }

    /// Whether free memory is not to stay at all, and there is some that can go.
    fn goes_at_once(&self) -> bool {
        self.options.get(Key::DecayMs) == 0
            && self.may_purge(self.runs.dirty.saturating_sub(self.settings().retain))
    }

    /// How many microseconds a look may take.
    fn earned_us(&mut self, now_us: u64) -> u64 {
        let step_us = self.options.get(Key::StepUs) as u64;
        if self.is_left_to_background(now_us) && !self.is_foreign_due() {
            return step_us;
        }
        let since_us = now_us - self.hooks.pace.run_us;
        // On average: a thread that waited for a processor has one long interval among many.
        let interval_us = since_us / self.hooks.pace.readings.max(1);
        (since_us.min(2 * interval_us) / SHARE).clamp(step_us, STEPS_MAX * step_us)
    }

    /// Whether the background thread does the rest: all that is not much, and what is if it comes
    /// soon and keeps up. It goes on with no search that the heap's own thread has begun.
    fn is_left_to_background(&mut self, now_us: u64) -> bool {
        let is_much = self.due() >= MUCH;
        let pace = &mut self.hooks.pace;
        pace.much_since_us = is_much.then_some(pace.much_since_us.unwrap_or(now_us));
        let keeps_up = pace.much_since_us.is_none_or(|since_us| now_us < since_us + LEAVE_US);
        let is_searching = self.hooks.hole_sweep.is_some() || self.hooks.decision.holes;
        let is_left = self.background_comes() && !is_searching && keeps_up;
        is_left && (!is_much || self.background_comes_soon())
    }
}
