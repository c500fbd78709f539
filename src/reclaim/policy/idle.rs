//! How much of the free memory nobody has needed for a moment.
//!
//! A program that drops most of what it has would otherwise hold all of it for `decay_us`. LuaJIT's
//! own allocator unmaps what it can at once. So free memory has a budget of size times time. What
//! is more than [`KEPT_MIN`], or one part in [`KEPT_SHARE`] of what is in use, goes as soon as it
//! was idle for one part in [`MOMENTS`] of `decay_us`. By default 100 MB go after 31 ms, and 4 MB
//! stay for a second.
//!
//! A buffer that comes and goes more slowly costs its page faults once. They count as premature,
//! and the floor keeps it from then on.

#![forbid(unsafe_code)]

use super::Settings;
use crate::units::Pages;

/// Free memory that may stay for `decay_us`: 4 MiB, or one part in 16 of what is in use. That is
/// half of what large blocks leave at once (see `emptied`).
const KEPT_MIN: Pages = Pages(1024);
const KEPT_SHARE: u32 = 16;
/// These are for a `decay_us` of a second. A longer one keeps more, in proportion.
const PER_US: u64 = 1_000_000;
/// Moments in `decay_us`.
const MOMENTS: u64 = 32;

/// The least free memory of the last one to two moments. All of that was free throughout.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle {
    /// When the moment began that goes on, and the least since.
    since_us: u64,
    least: Pages,
    /// The least of the moment before.
    before: Pages,
}

/// How long a moment is.
pub(super) fn moment_us(settings: &Settings) -> u64 {
    settings.decay_us / MOMENTS
}

/// What may stay of `dirty` pages of which `idle` pages were free for a moment.
pub(super) fn keep(settings: &Settings, used: Pages, dirty: Pages, idle: Pages) -> Pages {
    let kept = KEPT_MIN.max(Pages(used.0 / KEPT_SHARE));
    let kept = u64::from(kept.0) * settings.decay_us / PER_US;
    let kept = Pages(u32::try_from(kept).unwrap_or(u32::MAX));
    dirty.saturating_sub(idle).saturating_add(kept)
}

impl Idle {
    pub(super) fn note(&mut self, settings: &Settings, now_us: u64, dirty: Pages) {
        if now_us >= self.ends_us(settings) {
            let before = self.least;
            *self = Idle { since_us: now_us, least: dirty, before };
        }
        self.least = self.least.min(dirty);
    }

    pub(super) fn note_returned(&mut self, pages: Pages) {
        self.least = self.least.saturating_sub(pages);
        self.before = self.before.saturating_sub(pages);
    }

    /// When the moment that goes on has ended.
    pub(super) fn ends_us(&self, settings: &Settings) -> u64 {
        self.since_us + moment_us(settings)
    }

    /// Pages that nobody needed for a moment at least.
    pub(super) fn pages(&self) -> Pages {
        self.least.min(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { decay_us: 32_000, retain: Pages::ZERO, retain_max: Pages(u32::MAX) };

    /// What is idle after these observations, each a time in tenths of a moment and the pages free
    /// then.
    fn idle(observations: &[(u64, u32)]) -> Pages {
        let mut idle = Idle::default();
        for (moments_tenth, dirty) in observations {
            idle.note(&SETTINGS, 100_000 + moments_tenth * 100, Pages(*dirty));
        }
        idle.pages()
    }

    #[test]
    fn what_is_free_is_idle_after_one_to_two_moments() {
        assert_eq!(idle(&[(0, 0), (4, 100)]), Pages(0));
        assert_eq!(idle(&[(0, 0), (4, 100), (9, 100)]), Pages(0));
        assert_eq!(idle(&[(0, 0), (4, 100), (10, 100), (20, 100)]), Pages(100));
    }

    #[test]
    fn what_was_needed_meanwhile_is_not() {
        assert_eq!(idle(&[(0, 100), (10, 100), (15, 30), (17, 100), (25, 100)]), Pages(30));
        assert_eq!(
            idle(&[(0, 100), (10, 100), (15, 30), (17, 100), (25, 100), (35, 100)]),
            Pages(100)
        );
    }

    #[test]
    fn what_was_returned_is_idle_no_more() {
        let mut idle = Idle::default();
        for moment in 0..3 {
            idle.note(&SETTINGS, 100_000 + moment * 1000, Pages(100));
        }
        idle.note_returned(Pages(60));
        assert_eq!(idle.pages(), Pages(40));
    }

    /// What went was free in the moment before, and less was then.
    #[test]
    fn what_was_returned_between_two_moments_is_idle_no_more() {
        let mut idle = Idle::default();
        for (moment, dirty) in [(0, 100), (1, 100), (2, 200)] {
            idle.note(&SETTINGS, 100_000 + moment * 1000, Pages(dirty));
        }
        assert_eq!(idle.pages(), Pages(100));
        idle.note_returned(Pages(60));
        assert_eq!(idle.pages(), Pages(40));
    }
}
