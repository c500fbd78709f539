//! How much may be held beyond what LuaJIT's own allocator would hold, and for how long.
//!
//! LuaJIT's own allocator mostly keeps what small blocks needed a short while ago, and unmaps each
//! block of 128 KiB and more when it is freed. So free memory costs nothing beside it, as far as
//! small blocks left it, nor as far as the option `retain` lets it stay. The rest is *extra*: large
//! blocks left it.
//!
//! Large blocks may take what small ones left, and leave it again: that counts as left by small
//! blocks for [`KEPT_US`], for these may swing. Later, or when memory has gone back, no more counts
//! so than is free. An early peak of small blocks is soon forgotten.
//!
//! Extra memory has a credit of size times time, a leaky bucket. It spends [`CREDIT`] beyond an
//! allowance: 3 MB, or a sixteenth of what LuaJIT would hold. When the credit is spent, half of the
//! allowance may stay until half of the credit has returned. In a time `T` no more is extra than
//! `CREDIT + allowance * T`: 13 MB s in three seconds, if the allowance is 3 MB. The law allows
//! 24 MB s, of which the library's own memory takes 6, and what the background thread returns a
//! moment later the rest.

#![forbid(unsafe_code)]

use super::Observation;
use crate::units::Pages;

/// Pages that may be extra for a microsecond beyond the allowance: 4 MiB for a second. A table that
/// grows to 64 MB ten times in a fifth of a second takes three quarters of this.
const CREDIT: u64 = 1024 * 1_000_000;
/// What is extra for longer, because nobody looked or the kernel refused, is remembered up to this.
const SPENT_MAX: u64 = 4 * CREDIT;
/// Pages that may always be extra: 3 MiB, or one part in 16 of what LuaJIT would hold.
const ALLOWANCE_MIN: Pages = Pages(768);
const ALLOWANCE_SHARE: u32 = 16;
/// How long what small blocks left counts as theirs while large blocks have it: two seconds since
/// small blocks had most, if nothing went back.
const KEPT_US: u64 = 2_000_000;

/// What the extra memory has cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    now_us: u64,
    /// The most pages of small blocks that were in use at a moment and are remembered, and until
    /// when they are, though large blocks take some of what was left.
    small_most: Pages,
    small_until_us: u64,
    /// The most pages of large blocks that were in use at a moment.
    large_most: Pages,
    /// Pages that may be free anyway: as many as small blocks have left since they had most, or
    /// `retain`.
    free_anyway: Pages,
    /// Pages that large blocks have left since they had most.
    large_left: Pages,
    allowance: Pages,
    extra: Pages,
    /// Pages times microseconds, at most [`SPENT_MAX`].
    spent: u64,
    is_spent: bool,
}

impl Credit {
    /// Takes note of an observation. One that is older than what is known says nothing new.
    pub(super) fn note(&mut self, retain: Pages, observation: &Observation) {
        let Observation { now_us, used, large, dirty, .. } = *observation;
        if now_us < self.now_us {
            return;
        }
        let spent = self.spent_at(now_us, self.extra);
        let is_spent = spent >= if self.is_spent { CREDIT / 2 } else { CREDIT };
        let small = used.saturating_sub(large);
        let (small_most, small_until_us) = self.small_most(now_us, small, dirty);
        let large_most = self.large_most.max(large);
        let stock = small_most.saturating_add(large);
        let mut next = Credit {
            now_us,
            small_most,
            small_until_us,
            large_most,
            free_anyway: small_most.saturating_sub(small).max(retain),
            large_left: large_most.saturating_sub(large),
            allowance: ALLOWANCE_MIN.max(Pages(stock.0 / ALLOWANCE_SHARE)),
            extra: Pages::ZERO,
            spent,
            is_spent,
        };
        next.extra = next.extra_of(dirty);
        *self = next;
    }

    /// The most pages that small blocks had, and until when that is remembered, as far as it goes
    /// beyond what small blocks have and what is free.
    fn small_most(&self, now_us: u64, small: Pages, dirty: Pages) -> (Pages, u64) {
        if small >= self.small_most {
            (small, now_us.saturating_add(KEPT_US))
        } else if now_us < self.small_until_us {
            (self.small_most, self.small_until_us)
        } else {
            (self.small_most.min(small.saturating_add(dirty)), self.small_until_us)
        }
    }

    /// Takes note that free pages were returned. Small blocks have left no more than what is free.
    pub(super) fn note_returned(&mut self, pages: Pages) {
        if pages > Pages::ZERO {
            self.small_until_us = 0;
        }
        self.extra = self.extra.saturating_sub(pages);
    }

    /// How many of `dirty` free pages large blocks have left. Small blocks may have had more
    /// between two observations.
    fn extra_of(&self, dirty: Pages) -> Pages {
        dirty.saturating_sub(self.free_anyway).min(self.large_left)
    }

    /// What will be spent if `extra` pages are extra until a time.
    fn spent_at(&self, at_us: u64, extra: Pages) -> u64 {
        let elapsed_us = at_us.saturating_sub(self.now_us);
        let size = |pages: Pages| u64::from(pages.0).saturating_mul(elapsed_us);
        let more = size(extra.saturating_sub(self.allowance));
        let less = size(self.allowance.saturating_sub(extra));
        self.spent.saturating_add(more).saturating_sub(less).min(SPENT_MAX)
    }

    /// The most free pages that may stay, if `dirty` are free until a time.
    pub(super) fn most(&self, dirty: Pages, at_us: u64) -> Pages {
        let is_spent = self.is_spent || self.spent_at(at_us, self.extra_of(dirty)) >= CREDIT;
        let most = Pages(self.allowance.0 / 2);
        match is_spent && self.large_left > most {
            true => self.free_anyway.saturating_add(most),
            false => Pages(u32::MAX),
        }
    }

    /// When the credit will be spent, if `dirty` pages are free until then. `None`: never.
    pub(super) fn ends_us(&self, dirty: Pages) -> Option<u64> {
        let more = self.extra_of(dirty).saturating_sub(self.allowance);
        let left = CREDIT.saturating_sub(self.spent);
        (more > Pages::ZERO && !self.is_spent)
            .then(|| self.now_us.saturating_add(left.div_ceil(u64::from(more.0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;
    const MB: u32 = 256;

    fn seen(now_us: u64, used: Pages, large: Pages, dirty: Pages) -> Observation {
        Observation { now_us, used, large, dirty, ..Observation::default() }
    }

    /// Credit after a block of `large_mb` has come and gone at time 0, beside small blocks of 8 MB
    /// that needed 10 once.
    fn left_by(large_mb: u32) -> (Credit, Pages) {
        let mut credit = Credit::default();
        let large = Pages(large_mb * MB);
        credit
            .note(Pages::ZERO, &seen(0, Pages(10 * MB).saturating_add(large), large, Pages::ZERO));
        let dirty = Pages(2 * MB).saturating_add(large);
        credit.note(Pages::ZERO, &seen(0, Pages(8 * MB), Pages::ZERO, dirty));
        (credit, dirty)
    }

    #[test]
    fn what_large_blocks_leave_spends_the_credit() {
        let (credit, dirty) = left_by(11);
        // 8 MB beyond the allowance.
        assert_eq!(credit.ends_us(dirty), Some(SECOND_US / 2));
        assert_eq!(credit.most(dirty, SECOND_US / 2 - 1), Pages(u32::MAX));
        // What small blocks have left, and half of the allowance.
        assert_eq!(credit.most(dirty, SECOND_US / 2), Pages(7 * MB / 2));
    }

    #[test]
    fn half_of_the_credit_returns_before_more_may_stay_again() {
        let (mut credit, dirty) = left_by(11);
        let mut note = |at_us, dirty| {
            credit.note(Pages::ZERO, &seen(at_us, Pages(8 * MB), Pages::ZERO, dirty));
            credit
        };
        assert!(note(SECOND_US / 2, dirty).is_spent);
        // 1 MB below the allowance.
        let less = Pages(4 * MB);
        assert!(note(SECOND_US / 2, less).is_spent);
        assert_eq!(note(SECOND_US * 5 / 2, less).most(less, 0), Pages(7 * MB / 2));
        assert_eq!(note(SECOND_US * 5 / 2 + 1, less).most(less, 0), Pages(u32::MAX));
    }

    #[test]
    fn what_small_blocks_leave_costs_nothing() {
        let mut credit = Credit::default();
        for (second, small_mb) in [(0, 100), (1, 20), (100, 20)] {
            let (small, large) = (Pages(small_mb * MB), Pages(300 * MB));
            let dirty = Pages((100 - small_mb) * MB);
            credit.note(
                Pages::ZERO,
                &seen(second * SECOND_US, small.saturating_add(large), large, dirty),
            );
        }
        assert_eq!((credit.spent, credit.ends_us(Pages(80 * MB))), (0, None));
        // More is free than was seen to be in use: nobody looked at the peak.
        assert_eq!(credit.most(Pages(500 * MB), u64::MAX), Pages(u32::MAX));
    }

    /// Credit after small blocks of 340 MB have come and gone at time 0, beside 10 MB that stay.
    fn small_left() -> Credit {
        let mut credit = Credit::default();
        credit.note(Pages::ZERO, &seen(0, Pages(350 * MB), Pages::ZERO, Pages::ZERO));
        credit.note(Pages::ZERO, &seen(0, Pages(10 * MB), Pages::ZERO, Pages(340 * MB)));
        credit
    }

    /// What may be free anyway once large blocks of 64 MB have come and gone within a millisecond,
    /// and left `dirty`.
    fn free_anyway_after_large(mut credit: Credit, at_us: u64, dirty: Pages) -> Pages {
        let large = Pages(64 * MB);
        let used = Pages(74 * MB);
        credit.note(Pages::ZERO, &seen(at_us, used, large, dirty.saturating_sub(large)));
        credit.note(Pages::ZERO, &seen(at_us + 1000, Pages(10 * MB), Pages::ZERO, dirty));
        credit.free_anyway
    }

    #[test]
    fn what_small_blocks_left_and_went_back_is_forgotten() {
        let (mut credit, some) = (small_left(), Pages(4 * MB));
        credit.note_returned(Pages::ZERO);
        assert_eq!(free_anyway_after_large(credit, 1000, Pages(64 * MB)), Pages(340 * MB));
        credit.note_returned(Pages(336 * MB));
        credit.note(Pages::ZERO, &seen(1000, Pages(10 * MB), Pages::ZERO, some));
        assert_eq!((credit.free_anyway, credit.allowance), (some, ALLOWANCE_MIN));
        assert_eq!(free_anyway_after_large(credit, 1000, Pages(64 * MB)), Pages::ZERO);
        // Small blocks that have as much again may leave it again.
        credit.note(Pages::ZERO, &seen(1000, Pages(100 * MB), Pages::ZERO, Pages::ZERO));
        assert_eq!(free_anyway_after_large(credit, 1000, Pages(90 * MB)), Pages(90 * MB));
    }

    #[test]
    fn what_small_blocks_left_is_not_theirs_for_long_while_large_blocks_have_it() {
        let all = Pages(340 * MB);
        let after = |at_us| free_anyway_after_large(small_left(), at_us, all);
        assert_eq!([KEPT_US - 1, KEPT_US].map(after), [all, Pages(276 * MB)]);
        // What is not needed stays theirs.
        let mut credit = small_left();
        credit.note(Pages::ZERO, &seen(100 * KEPT_US, Pages(10 * MB), Pages::ZERO, all));
        assert_eq!(credit.free_anyway, all);
    }

    #[test]
    fn a_large_heap_may_keep_more() {
        let mut credit = Credit::default();
        let large = Pages(640 * MB);
        credit.note(Pages::ZERO, &seen(0, large, large, Pages::ZERO));
        credit.note(Pages::ZERO, &seen(0, large, Pages(600 * MB), Pages(40 * MB)));
        assert_eq!(credit.ends_us(Pages(40 * MB)), None);
    }

    #[test]
    fn what_may_be_retained_costs_nothing() {
        let (mut credit, dirty) = left_by(11);
        let left = seen(0, Pages(8 * MB), Pages::ZERO, dirty);
        credit.note(Pages(8 * MB), &left);
        // 13 MB are free: 2 beyond the allowance.
        assert_eq!(credit.ends_us(dirty), Some(2 * SECOND_US));
        credit.note(dirty, &left);
        assert_eq!(credit.ends_us(dirty), None);
    }

    #[test]
    fn what_was_returned_or_is_told_late_costs_nothing() {
        let (mut credit, dirty) = left_by(300);
        credit.note_returned(Pages(300 * MB));
        let later = seen(SECOND_US, Pages(8 * MB), Pages::ZERO, Pages::ZERO);
        credit.note(Pages::ZERO, &later);
        credit.note(Pages::ZERO, &seen(SECOND_US / 2, Pages(8 * MB), Pages::ZERO, dirty));
        credit.note(Pages::ZERO, &Observation { now_us: 2 * SECOND_US, ..later });
        assert_eq!(credit.spent, 0);
    }
}
