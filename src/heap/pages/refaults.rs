//! Counts of memory that was returned, by the reason, and of what was needed again.
//!
//! Each word of 64 pages has one stamp: when memory of these pages was returned last, and why. When
//! a page without memory is used again, the stamp says whether that is premature. A page that was
//! returned earlier than another page of its word counts as returned when that one was, so the
//! counts of premature returns are rather too high than too low. No more pages are counted as used
//! again for a reason than were returned for it; the excess counts for the other reasons.

#![forbid(unsafe_code)]

use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering::Relaxed;

use crate::units::Pages;

/// Why memory was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PurgeReason {
    /// The host asked for it.
    Asked = 1,
    /// The policy found it idle.
    Idle = 2,
    /// A memory limit left no room for it, or a large block took as many new pages.
    Limit = 3,
}

/// How many reasons there are.
const REASONS: usize = 3;

/// When memory was returned, in units of about 0.13 s, and why. 0: never. Comes round after 36
/// minutes, so that one in a thousand very old returns passes for a fresh one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PurgeStamp(u16);

/// log2 of the microseconds in a stamp's unit.
const UNIT_SHIFT: u32 = 17;
/// Memory that is needed again before this many units have passed was returned prematurely: a
/// second, and what the units blur.
const SOON: u16 = (1_000_000 >> UNIT_SHIFT) as u16 + 2;

impl PurgeStamp {
    pub(crate) fn new(now_us: u64, reason: PurgeReason) -> PurgeStamp {
        PurgeStamp((now_us >> UNIT_SHIFT << 2) as u16 | reason as u16)
    }

    fn reason(self) -> Option<usize> {
        usize::from(self.0 & 3).checked_sub(1)
    }

    fn is_fresh(self, now_us: u64) -> bool {
        let units = ((now_us >> UNIT_SHIFT << 2) as u16).wrapping_sub(self.0 & !3) >> 2;
        units < SOON
    }
}

/// A stamp that the background thread sets too.
#[derive(Debug, Default)]
pub(crate) struct AtomicStamp(AtomicU16);

impl AtomicStamp {
    pub(crate) fn get(&self) -> PurgeStamp {
        PurgeStamp(self.0.load(Relaxed))
    }

    pub(crate) fn set(&self, stamp: PurgeStamp) {
        self.0.store(stamp.0, Relaxed);
    }
}

/// Pages by the reason of their return.
pub(crate) type ByReason = [u64; REASONS];

/// The counts over the life of a heap.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefaultStats {
    pub(crate) returned: ByReason,
    /// Of these, used again.
    pub(crate) refaulted: ByReason,
    /// Of these, within a second.
    pub(crate) premature: ByReason,
}

impl RefaultStats {
    /// Notes that pages were returned.
    pub(crate) fn note_returned(&mut self, reason: PurgeReason, pages: Pages) {
        self.returned[reason as usize - 1] += u64::from(pages.0);
    }

    /// Notes that pages of a word with this stamp, which were returned, are used again.
    pub(crate) fn note_used(&mut self, stamp: PurgeStamp, pages: Pages, now_us: u64) {
        let Some(reason) = stamp.reason() else { return };
        let own = self.note_refaulted(reason, pages.0.into());
        if stamp.is_fresh(now_us) {
            self.premature[reason] += own;
        }
        let others = (0..REASONS).filter(|other| *other != reason);
        others
            .fold(u64::from(pages.0) - own, |left, other| left - self.note_refaulted(other, left));
    }

    /// Counts as many of the pages as can have been returned for this reason; returns how many.
    fn note_refaulted(&mut self, reason: usize, pages: u64) -> u64 {
        let counted = pages.min(self.returned[reason] - self.refaulted[reason]);
        self.refaulted[reason] += counted;
        counted
    }

    /// Pages that the policy returned prematurely.
    pub(crate) fn premature_total(&self) -> u64 {
        self.premature[PurgeReason::Idle as usize - 1]
    }
}

/// The sum over all reasons.
pub(crate) fn total(counts: &ByReason) -> u64 {
    counts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_is_used_within_a_second_is_premature() {
        for start in [0, 1, SECOND, 77 * SECOND, (1 << 33) - 1, 1 << 50] {
            let stamp = PurgeStamp::new(start, PurgeReason::Idle);
            let premature = |after_us: u64| {
                let mut refaults = RefaultStats::default();
                refaults.note_returned(PurgeReason::Idle, Pages(5));
                refaults.note_used(stamp, Pages(5), start + after_us);
                assert_eq!(refaults.refaulted, [0, 5, 0]);
                refaults.premature_total()
            };
            assert_eq!((premature(0), premature(SECOND - 1)), (5, 5), "from {start}");
            assert_eq!((premature(SECOND + SECOND / 5), premature(600 * SECOND)), (0, 0));
        }
    }

    #[test]
    fn what_was_never_returned_is_not_counted() {
        let mut refaults = RefaultStats::default();
        refaults.note_used(PurgeStamp::default(), Pages(5), 0);
        assert_eq!((total(&refaults.refaulted), total(&refaults.premature)), (0, 0));
    }

    #[test]
    fn what_passes_for_returned_for_one_reason_was_returned_for_another() {
        let mut refaults = RefaultStats::default();
        refaults.note_returned(PurgeReason::Idle, Pages(63));
        refaults.note_returned(PurgeReason::Asked, Pages(1));
        refaults.note_used(PurgeStamp::new(0, PurgeReason::Asked), Pages(64), 0);
        assert_eq!((refaults.refaulted, refaults.premature), ([1, 63, 0], [1, 0, 0]));
    }

    #[test]
    fn reasons_are_counted_apart() {
        let mut refaults = RefaultStats::default();
        for (index, reason) in
            [PurgeReason::Asked, PurgeReason::Idle, PurgeReason::Limit].into_iter().enumerate()
        {
            refaults.note_returned(reason, Pages(index as u32 + 1));
            refaults.note_used(PurgeStamp::new(SECOND, reason), Pages(1), SECOND);
        }
        assert_eq!(
            (refaults.returned, refaults.refaulted, refaults.premature),
            ([1, 2, 3], [1; 3], [1; 3])
        );
        assert_eq!(refaults.premature_total(), 1);
    }
}
