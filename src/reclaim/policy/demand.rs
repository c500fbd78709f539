//! How demand swings, and what it will come back to.

#![forbid(unsafe_code)]

use super::{MEMORY_US, affordable_us};
use crate::units::Pages;

/// Levels of demand that are remembered at a time. With 2, the wave of an hour refaults 70 % more;
/// more than 4 change nothing.
const LEVELS: usize = 4;
/// Levels that are as close as this, 256 KiB, or as an eighth, are one: what requests add at random
/// is no swing. With a sixteenth the wave of an hour refaults a quarter more.
const STAIR_MIN: Pages = Pages(64);
/// Demand that came back once is expected for this many times as long as it was away: swings are
/// never quite regular. With 1, the wave of an hour refaults more than twice as much.
const PATIENCE: u64 = 2;
/// The trend waits for this time at least, in microseconds: it does not follow the turns of a fast
/// swing.
const PATIENCE_MIN_US: u64 = 1_000_000;
/// Memory waits for this time at least: a program that used much twice within some milliseconds may
/// be done with it.
const KEPT_MIN_US: u64 = 100_000;

/// A level that demand was at.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    level: Pages,
    /// When demand was there last.
    at_us: u64,
    /// The lowest demand since, and when it was there last.
    low: Pages,
    low_us: u64,
    /// How long it is waited for.
    patience_us: u64,
    /// When it came back as late as that.
    returned_us: u64,
    /// Keeping the memory was cheaper than returning it.
    is_dear: bool,
}

impl Level {
    fn new(now_us: u64, used: Pages) -> Level {
        Level { level: used, at_us: now_us, low: used, low_us: now_us, ..Level::default() }
    }

    fn tolerance(&self) -> Pages {
        STAIR_MIN.max(Pages(self.level.0 / 8))
    }

    fn is_above(&self, used: Pages) -> bool {
        used < self.level.saturating_sub(self.tolerance())
    }

    /// The trend waits for demand to come back here.
    fn is_expected(&self, now_us: u64) -> bool {
        self.is_awaited(now_us, PATIENCE_MIN_US)
    }

    /// Memory waits for it.
    fn is_kept_for(&self, now_us: u64) -> bool {
        self.is_dear && self.is_awaited(now_us, KEPT_MIN_US)
    }

    /// Nothing is awaited that has never come back.
    fn is_awaited(&self, now_us: u64, least_us: u64) -> bool {
        let least_us = if self.returned_us > 0 { least_us } else { 0 };
        let patience_us = self.patience_us.max(least_us);
        now_us < self.at_us + patience_us && now_us < self.returned_us + MEMORY_US
    }

    fn note_low(&mut self, now_us: u64, used: Pages) {
        if used <= self.low {
            *self = Level { low: used, low_us: now_us, ..*self };
        }
    }

    /// Demand climbs back to here so fast that what is free is needed before its return would pay.
    fn is_neared(&self, now_us: u64, used: Pages) -> bool {
        now_us - self.low_us <= affordable_us(used.saturating_sub(self.low))
    }

    /// Demand is here. If it was away, it will be waited for the next time.
    fn reach(&mut self, now_us: u64, used: Pages) {
        let swing = self.level.saturating_sub(self.low);
        let away_us = now_us - self.at_us;
        if self.is_above(self.low) {
            self.learn(now_us, away_us, away_us <= affordable_us(swing));
        }
        let level = self.level.max(used);
        *self = Level { level, at_us: now_us, low: used, low_us: now_us, ..*self };
    }

    /// A small swing on top of a large one does not make what the large one taught forgotten.
    fn learn(&mut self, now_us: u64, away_us: u64, is_dear: bool) {
        let patience_us = (PATIENCE * away_us).min(MEMORY_US);
        let outdated = now_us >= self.returned_us + MEMORY_US;
        let similar = is_dear == self.is_dear && patience_us >= self.patience_us / 2;
        if outdated || similar || is_dear && !self.is_dear {
            *self = Level { patience_us, returned_us: now_us, is_dear, ..*self };
        }
    }
}

/// How demand came down to where it is: levels that it was at and has not come back to, each lower
/// and later than the one before. The last is where it is now. When it rises to one of them, those
/// below are forgotten: small swings come and go while a large one lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct DemandLevels {
    levels: [Level; LEVELS],
    count: usize,
    grown_us: u64,
    /// How far demand had climbed when it last climbed fast, and when that was.
    climbed: Pages,
    climbed_us: u64,
}

impl DemandLevels {
    fn levels(&self) -> &[Level] {
        &self.levels[..self.count]
    }

    /// How far demand has climbed back if it did so fast, and not longer ago than `recent_us`.
    pub(super) fn climbed(&self, now_us: u64, recent_us: u64) -> Pages {
        if now_us < self.climbed_us + recent_us { self.climbed } else { Pages::ZERO }
    }

    /// When demand was higher than ever before that is remembered.
    pub(super) fn grown_us(&self) -> u64 {
        self.grown_us
    }

    /// Takes note of demand. A climb goes on if it began not longer ago than `recent_us`.
    pub(super) fn note(&mut self, now_us: u64, used: Pages, recent_us: u64) {
        self.forget(now_us);
        let above = self.levels().iter().take_while(|level| level.is_above(used)).count();
        self.note_rise(now_us, used, above, recent_us);
        if above < self.count {
            self.levels[above].reach(now_us, used);
            self.count = above + 1;
        } else {
            // When there are too many, the lowest gives way: the next higher one stands for it.
            self.count = (above + 1).min(LEVELS);
            self.levels[self.count - 1] = Level::new(now_us, used);
        }
        self.levels[..self.count].iter_mut().for_each(|level| level.note_low(now_us, used));
    }

    /// Records a rise of demand. `above` is the number of remembered levels higher than the current
    /// one. A rise counts if demand is higher than it was and than expected, or if a climb
    /// continues: the levels that a climb passes were seen on the way down only.
    fn note_rise(&mut self, now_us: u64, used: Pages, above: usize, recent_us: u64) {
        let (above, rest) = self.levels().split_at(above);
        let is_known = rest.iter().any(|level| level.level >= used)
            || above.iter().any(|level| level.is_expected(now_us));
        let neared = above.iter().filter(|level| level.is_neared(now_us, used));
        let climbed = neared.map(|level| used.saturating_sub(level.low)).max();
        let before = self.climbed(now_us, recent_us);
        let goes_on = before > Pages::ZERO && climbed > Some(before);
        if above.is_empty() {
            if !is_known {
                self.grown_us = now_us;
            }
        } else if let Some(climbed) = climbed.filter(|_| !is_known || goes_on) {
            (self.climbed, self.climbed_us) = (climbed, now_us);
        }
    }

    /// Forgets what demand has not been at for too long.
    fn forget(&mut self, now_us: u64) {
        let old = self.levels().iter().take_while(|level| now_us - level.at_us > MEMORY_US);
        let old = old.count();
        self.levels.copy_within(old..self.count, 0);
        self.count -= old;
    }

    /// The highest level that demand is expected to return to, where keeping the memory costs less
    /// than returning it.
    pub(super) fn expected(&self, now_us: u64) -> Pages {
        let mut levels = self.levels().iter();
        let found = levels.find(|level| level.is_kept_for(now_us));
        found.map_or(Pages::ZERO, |level| level.level)
    }

    /// Demand has fallen not longer ago than `recent_us`, and is not expected back.
    pub(super) fn has_fallen(&self, now_us: u64, recent_us: u64) -> bool {
        let [above @ .., here] = self.levels() else { return false };
        let expected = above.iter().find(|level| level.is_expected(now_us)).unwrap_or(here);
        let recent = above.iter().find(|level| now_us - level.at_us < recent_us);
        recent.is_some_and(|level| level.is_above(expected.level))
    }
}
