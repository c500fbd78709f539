//! Thrashing: what goes back because of a limit is needed again at once, over and over.
//!
//! The heap keeps to its limit, and pays for it: each page takes a call to the kernel and a fault.
//! Such a heap looks busy and healthy otherwise. Its limit is too low, or the program holds too
//! much.

#![forbid(unsafe_code)]

use super::policy::{COST_SHARE, ROUND_TRIP_US};

/// Pages a second, needed again within a second of their return, that are thrashing: 13 MiB, on
/// which a hundredth of the time goes, as much as the policy lets returning memory cost.
const PAGES_PER_SECOND: u64 = SECOND_US / (ROUND_TRIP_US * COST_SHARE);
/// Seconds in a row in which it must be as much, and less for thrashing to end.
const SECONDS: u64 = 3;
const SECOND_US: u64 = 1_000_000;

/// Whether a heap is thrashing, and since when that is being looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Thrashing {
    is_on: bool,
    /// When the second that is being looked at began, and how many pages were needed again then.
    begun_us: u64,
    pages: u64,
    /// Seconds in a row that say otherwise than `is_on`.
    against: u64,
}

impl Thrashing {
    /// Takes note of how many pages that went back because of a limit were needed again within a
    /// second, over the life of the heap.
    pub(super) fn note(&mut self, now_us: u64, pages: u64) {
        let passed_us = now_us.saturating_sub(self.begun_us);
        if passed_us < SECOND_US {
            return;
        }
        let is_much = pages.saturating_sub(self.pages) * SECOND_US >= PAGES_PER_SECOND * passed_us;
        // Where nobody looked for seconds they were all alike; but what is much within them may
        // have
        // been one burst.
        let seconds = if is_much { 1 } else { passed_us / SECOND_US };
        self.against = if is_much == self.is_on { 0 } else { self.against + seconds };
        if self.against >= SECONDS {
            self.is_on = is_much;
            self.against = 0;
        }
        (self.begun_us, self.pages) = (now_us, pages);
    }

    /// Whether the heap is thrashing. One that nobody has looked at for seconds is at rest.
    pub(super) fn is_on(&self, now_us: u64) -> bool {
        self.is_on && now_us.saturating_sub(self.begun_us) < (SECONDS + 1) * SECOND_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks four times a second at `rate` pages a second; whether it is thrashing at the end.
    fn after(state: &mut (Thrashing, u64, u64), seconds: u64, rate: u64) -> bool {
        let (thrashing, now_us, pages) = state;
        for _ in 0..4 * seconds {
            *now_us += SECOND_US / 4;
            *pages += rate / 4;
            thrashing.note(*now_us, *pages);
        }
        thrashing.is_on(*now_us)
    }

    #[test]
    fn thrashing_lasts_for_seconds() {
        let mut state = (Thrashing::default(), 0, 0);
        let (much, little) = (PAGES_PER_SECOND + 4, PAGES_PER_SECOND - 4);
        assert!(!after(&mut state, 60, little), "never so much");
        assert!(!after(&mut state, 2, much), "a burst");
        assert!(!after(&mut state, 1, little));
        assert!(!after(&mut state, 2, much), "and another");
        assert!(after(&mut state, 1, much));
        assert!(after(&mut state, 2, 0), "a pause");
        assert!(after(&mut state, 1, much));
        assert!(!after(&mut state, 3, little), "it is over");
    }

    #[test]
    fn a_heap_that_nobody_looks_at_is_at_rest() {
        let mut state = (Thrashing::default(), 0, 0);
        assert!(after(&mut state, 5, 10 * PAGES_PER_SECOND));
        let (mut thrashing, now_us, pages) = state;
        assert!(thrashing.is_on(now_us + SECOND_US));
        assert!(!thrashing.is_on(now_us + 5 * SECOND_US));
        thrashing.note(now_us + 60 * SECOND_US, pages + PAGES_PER_SECOND);
        assert!(!thrashing.is_on(now_us + 60 * SECOND_US));
        assert_eq!(thrashing.against, 0);
    }
}
