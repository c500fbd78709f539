//! When the heap was busy.

#![forbid(unsafe_code)]

use crate::units::Pages;

/// Fewer pages than this that change hands in an epoch, or than a 64th of the free ones or of those
/// that a swing will need, are no activity: a timer that moves 20 pages a second must not keep what
/// a swing needed.
const ACTIVITY_MIN: Pages = Pages(16);

/// When many pages changed hands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    pub(super) last_us: u64,
    /// Pages that changed hands since a time within the last epoch.
    churned: Pages,
    since_us: u64,
}

impl Activity {
    /// Takes note of pages that changed hands. As many as `least` in an epoch are many.
    pub(super) fn note(&mut self, epoch_us: u64, now_us: u64, churned: Pages, least: Pages) {
        if now_us >= self.since_us + epoch_us {
            *self = Activity { churned: Pages::ZERO, since_us: now_us, ..*self };
        }
        self.churned = self.churned.saturating_add(churned);
        if self.churned >= least.max(ACTIVITY_MIN) {
            *self = Activity { last_us: now_us, churned: Pages::ZERO, ..*self };
        }
    }
}
