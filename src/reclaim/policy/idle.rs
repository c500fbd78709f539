//! How much of the free memory nobody has needed for a while.
//!
//! A program that drops most of what it has would otherwise hold all of it for `decay_us`. LuaJIT's
//! own allocator unmaps what it can at once. So free memory has a budget of size times time: the
//! more is idle, the sooner it goes, all but [`KEPT_MIN`] or one part in [`KEPT_SHARE`] of what is
//! in use. By default, with less than 64 MB in use:
//!
//! | idle, more than | goes after |
//! |-----------------|------------|
//! | 72 MB           | 31 ms      |
//! | 36 MB           | 62 ms      |
//! | 18 MB           | 125 ms     |
//! | 9 MB            | 250 ms     |
//!
//! Each row takes up to twice its time, for what is idle is known by the least of the last one to
//! two moments. So up to 144 MB that will not be needed again are held for 9 MB s at most, beside
//! the 4 MB that stay for the decay. The law allows 24 MB s in any three seconds.
//!
//! A swing that leaves more free pays its page faults once. One of 100 MB and 1 s leaves 50 MB s.
//! The faults count as premature, and the floor keeps the memory from then on.

#![forbid(unsafe_code)]

use super::Settings;
use crate::units::Pages;

/// Free memory that may stay for `decay_us`: 4 MiB, or one part in 16 of what is in use. That is
/// half of what large blocks leave at once (see `emptied`).
const KEPT_MIN: Pages = Pages(1024);
const KEPT_SHARE: u32 = 16;
/// These are for a `decay_us` of a second. A longer one keeps more, in proportion.
const PER_US: u64 = 1_000_000;
/// The rows of the table. From one to the next moments are twice as long, and half as much is much.
const LEVELS: usize = 4;
/// The shortest moments in `decay_us`.
const MOMENTS: u64 = 32;
/// What is much in the first row: this many times what may stay.
const MUCH: u32 = 18;

/// The least free memory of the last one to two moments of each length.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle {
    levels: [Least; LEVELS],
    /// What was free when it was noted last.
    last: Pages,
}

/// All of this was free throughout the last one to two moments of a length.
#[derive(Clone, Copy, Debug, Default)]
struct Least {
    /// When the moment began that goes on, and the least since.
    since_us: u64,
    least: Pages,
    /// The least of the moment before.
    before: Pages,
    /// There was much, which goes until what may stay is left.
    goes: bool,
}

impl Least {
    fn pages(&self) -> Pages {
        self.least.min(self.before)
    }
}

/// How long a moment of a level is.
fn moment_us(settings: &Settings, level: usize) -> u64 {
    (settings.decay_us << level) / MOMENTS
}

/// What may stay of idle memory, and what must be idle for a moment of each level to go after it:
/// more than that.
fn bounds(settings: &Settings, used: Pages) -> (Pages, [Pages; LEVELS]) {
    let share = KEPT_MIN.max(Pages(used.0 / KEPT_SHARE));
    let kept = u64::from(share.0) * settings.decay_us / PER_US;
    let kept = Pages(u32::try_from(kept).unwrap_or(u32::MAX));
    let much = |level| Pages(share.0.saturating_mul(MUCH) >> level).max(kept);
    (kept, core::array::from_fn(much))
}

/// After how long a time nothing but what may stay is left of `pages` pages that are idle from now
/// on. `None`: all may stay.
pub(super) fn goes_after_us(settings: &Settings, used: Pages, pages: Pages) -> Option<u64> {
    let (_, much) = bounds(settings, used);
    let level = much.iter().position(|much| pages > *much)?;
    Some(moment_us(settings, level))
}

impl Idle {
    pub(super) fn note(&mut self, settings: &Settings, now_us: u64, used: Pages, dirty: Pages) {
        let (kept, much) = bounds(settings, used);
        for (level, least) in self.levels.iter_mut().enumerate() {
            let moment_us = moment_us(settings, level);
            if now_us >= least.since_us + moment_us {
                // Nothing was noted in the moment after the one that has ended.
                let is_late = now_us >= least.since_us + 2 * moment_us;
                let before = if is_late { self.last } else { least.least };
                *least = Least { since_us: now_us, least: dirty, before, ..*least };
            }
            least.least = least.least.min(dirty);
            let idle = least.pages();
            least.goes = idle > much[level] || least.goes && idle > kept;
        }
        self.last = dirty;
    }

    pub(super) fn note_returned(&mut self, pages: Pages) {
        self.last = self.last.saturating_sub(pages);
        for level in &mut self.levels {
            level.least = level.least.saturating_sub(pages);
            level.before = level.before.saturating_sub(pages);
        }
    }

    /// What may stay of `dirty` pages when nothing has happened for `quiet_us` more.
    pub(super) fn keep(
        &self,
        settings: &Settings,
        used: Pages,
        dirty: Pages,
        quiet_us: u64,
    ) -> Pages {
        let (kept, much) = bounds(settings, used);
        let keep = |level: usize| {
            let is_quiet = quiet_us >= moment_us(settings, level);
            let idle = if is_quiet { dirty } else { self.levels[level].pages().min(dirty) };
            let goes = idle > much[level] || self.levels[level].goes && idle > kept;
            let stays = if goes { kept } else { much[level] };
            (dirty - idle).saturating_add(stays)
        };
        (0..LEVELS).map(keep).fold(Pages(u32::MAX), Pages::min)
    }

    /// When some of `pages` pages will have been idle for long enough, if nothing happens until
    /// then. `None`: never.
    pub(super) fn next_us(&self, settings: &Settings, used: Pages, pages: Pages) -> Option<u64> {
        let (_, much) = bounds(settings, used);
        let ends_us =
            self.levels.iter().zip(much).enumerate().filter_map(|(level, (least, much))| {
                let moments = if least.least > much { 1 } else { 2 };
                (pages > much).then(|| least.since_us + moments * moment_us(settings, level))
            });
        ends_us.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { decay_us: 32_000, retain: Pages::ZERO, retain_max: Pages(u32::MAX) };
    /// Of 4 MiB for a second, what may stay for 32 ms.
    const KEPT: u32 = 32;
    /// What is much for each level.
    const MUCH_OF: [u32; LEVELS] = [18 * 1024, 9 * 1024, 9 * 512, 9 * 256];

    /// What the observations of `(milliseconds, pages that are free then)` leave.
    fn seen(observations: &[(u64, u32)]) -> Idle {
        let mut idle = Idle::default();
        for (ms, dirty) in observations {
            idle.note(&SETTINGS, 100_000 + ms * 1000, Pages::ZERO, Pages(*dirty));
        }
        idle
    }

    /// The same of `pages` pages that stay free from 0 to some milliseconds, observed at each.
    fn after(pages: u32, ms: u64) -> Idle {
        let mut observations = vec![(0, 0)];
        observations.extend((0..=ms).map(|ms| (ms, pages)));
        seen(&observations)
    }

    fn keep(idle: &Idle, dirty: u32) -> u32 {
        idle.keep(&SETTINGS, Pages::ZERO, Pages(dirty), 0).0
    }

    #[test]
    fn the_more_is_idle_the_sooner_it_goes() {
        for (level, much) in MUCH_OF.into_iter().enumerate() {
            // The moment in which it became free does not count.
            let goes_ms = 2 << level;
            for (pages, goes_ms) in [(much + 1, goes_ms), (much, 2 * goes_ms)] {
                assert!(keep(&after(pages, goes_ms - 1), pages) >= pages, "{pages} pages");
                let stays = keep(&after(pages, goes_ms), pages);
                assert_eq!(stays < pages, pages > MUCH_OF[3], "{pages} pages: {stays}");
                assert!(stays == KEPT || pages == MUCH_OF[3], "{pages} pages: {stays}");
            }
        }
        assert!(keep(&after(MUCH_OF[3], 100), MUCH_OF[3]) >= MUCH_OF[3]);
    }

    #[test]
    fn what_goes_in_steps_goes_until_what_may_stay_is_left() {
        let mut pages = MUCH_OF[0] + 100;
        let mut idle = after(pages, 2);
        for ms in 0..100 {
            let step = pages.saturating_sub(keep(&idle, pages)).min(1000);
            idle.note_returned(Pages(step));
            pages -= step;
            idle.note(&SETTINGS, 102_000 + ms * 10, Pages::ZERO, Pages(pages));
        }
        assert_eq!(pages, KEPT);
        // What becomes free after that may stay again.
        idle.note(&SETTINGS, 104_000, Pages::ZERO, Pages(2000));
        assert!(keep(&idle, 2000) >= 2000);
    }

    #[test]
    fn what_is_in_use_makes_more_stay() {
        let used = Pages(5 * 16 * KEPT_MIN.0);
        let much = 5 * MUCH_OF[0];
        let stays = |pages| {
            let mut idle = Idle::default();
            for (us, dirty) in [(0, 0), (0, pages), (1000, pages), (2000, pages)] {
                idle.note(&SETTINGS, 100_000 + us, used, Pages(dirty));
            }
            idle.keep(&SETTINGS, used, Pages(pages), 0).0
        };
        assert_eq!(stays(much + 1), 5 * 1024 * 32 / 1000);
        assert!(stays(much) >= much);
    }

    #[test]
    fn what_was_needed_meanwhile_is_not_idle() {
        let (all, most) = (2 * MUCH_OF[0], MUCH_OF[0] + 8);
        let needed = [(0, all), (1, all), (2, all), (3, most), (3, all), (4, all)];
        assert_eq!(keep(&seen(&needed), all), all - most + KEPT);
        let needed = [(0, all), (1, all), (2, all), (3, 8), (3, all), (4, all)];
        assert!(keep(&seen(&needed), all) >= all);
        assert_eq!(keep(&seen(&[&needed[..], &[(5, all)]].concat()), all), KEPT);
    }

    #[test]
    fn what_was_returned_is_idle_no_more() {
        let pages = MUCH_OF[0] + 9;
        let mut idle = after(pages, 3);
        assert_eq!(keep(&idle, pages), KEPT);
        idle.note_returned(Pages(100));
        assert_eq!(keep(&idle, pages), 100 + KEPT);
    }

    /// What went was free in the moment before, and less was then.
    #[test]
    fn what_was_returned_between_two_moments_is_idle_no_more() {
        let (less, more) = (MUCH_OF[3] + 9, 2 * MUCH_OF[3]);
        let mut idle = seen(&[(0, less), (8, less), (16, more)]);
        assert_eq!(keep(&idle, more), more - less + KEPT);
        idle.note_returned(Pages(less - KEPT));
        assert!(keep(&idle, more - less + KEPT) >= more - less + KEPT);
    }

    #[test]
    fn what_will_go_is_foretold() {
        let idle = after(2 * MUCH_OF[0], 0);
        let keep = |pages, quiet_us| idle.keep(&SETTINGS, Pages::ZERO, Pages(pages), quiet_us).0;
        for (level, much) in MUCH_OF.into_iter().enumerate() {
            let (pages, us) = (much + 1, 1000 << level);
            assert_eq!(goes_after_us(&SETTINGS, Pages::ZERO, Pages(pages)), Some(us));
            assert!(keep(pages, us - 1) >= pages);
            assert_eq!(keep(pages, us), KEPT);
        }
        assert_eq!(goes_after_us(&SETTINGS, Pages::ZERO, Pages(MUCH_OF[3])), None);
    }

    #[test]
    fn all_that_is_idle_goes_though_nobody_looks_but_when_asked_to() {
        for (level, much) in MUCH_OF.into_iter().enumerate() {
            let pages = much + 1;
            let mut idle = after(pages, 0);
            let (mut looks, mut now_us) = (0, 0);
            while keep(&idle, pages) > KEPT {
                let next_us = idle.next_us(&SETTINGS, Pages::ZERO, Pages(pages));
                now_us = next_us.expect("some will go");
                idle.note(&SETTINGS, now_us, Pages::ZERO, Pages(pages));
                looks += 1;
            }
            assert_eq!((looks, now_us), (1, 100_000 + (2000 << level)));
        }
        let all_may_stay = after(MUCH_OF[3], 3).next_us(&SETTINGS, Pages::ZERO, Pages(MUCH_OF[3]));
        assert_eq!(all_may_stay, None);
    }
}
