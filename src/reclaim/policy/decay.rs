//! How old the free pages are, and what may stay of them.

#![forbid(unsafe_code)]

use crate::units::Pages;

/// Epochs until memory begins to go: parts of `decay_us` that are remembered apart. With 16, as
/// much is returned and refaulted, by more wake-ups.
pub(super) const EPOCHS_PER_DECAY: u64 = 8;
/// Epochs over which it goes then. All at once refaults a tenth more, and is one long call.
const EPOCHS_OF_FADE: u64 = 4;
/// Epochs until all has gone.
pub(super) const EPOCHS: u64 = EPOCHS_PER_DECAY + EPOCHS_OF_FADE;
/// The shortest epoch, in microseconds: decisions are not made more often.
const EPOCH_MIN_US: u64 = 1000;

/// How long an epoch is.
pub(super) fn epoch_us(decay_us: u64) -> u64 {
    (decay_us / EPOCHS_PER_DECAY).max(EPOCH_MIN_US)
}

/// What may stay of memory that was idle for `epochs` epochs: all up to `decay_us`, nothing after
/// one and a half times that, and a smooth step (3x² - 2x³) in between.
pub(super) fn decayed(pages: Pages, epochs: u64) -> Pages {
    let left = EPOCHS.saturating_sub(epochs).min(EPOCHS_OF_FADE);
    let share = left * left * (3 * EPOCHS_OF_FADE - 2 * left);
    Pages((u64::from(pages.0) * share / EPOCHS_OF_FADE.pow(3)) as u32)
}

/// What became free in each of the last epochs, as far as it still is.
///
/// What is taken is what became free last, for blocks go to the lowest addresses and so come back
/// to the same pages. What is returned is taken from no epoch: the share that may stay is one of
/// what became free and was not needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Decay {
    epoch_start_us: u64,
    /// By the number of epochs that ended since; 0 is the epoch that goes on.
    freed: [Pages; EPOCHS as usize + 1],
    /// All free pages; those that are in no entry are older.
    dirty: Pages,
    /// When those became free, on average.
    older_since_us: u64,
}

impl Decay {
    pub(super) fn epoch_start_us(&self) -> u64 {
        self.epoch_start_us
    }

    pub(super) fn note(&mut self, epoch_us: u64, now_us: u64, dirty: Pages) {
        let ended = (now_us - self.epoch_start_us) / epoch_us;
        self.age_by(ended, epoch_us);
        self.epoch_start_us += ended * epoch_us;
        let count = self.freed.len();
        let shift = ended.min(count as u64) as usize;
        self.freed.copy_within(..count - shift, shift);
        self.freed[..shift].fill(Pages::ZERO);
        self.freed[0] = self.freed[0].saturating_add(dirty.saturating_sub(self.dirty));
        self.take(self.dirty.saturating_sub(dirty));
        self.dirty = dirty;
    }

    /// Adds what will be older than [`EPOCHS`] epochs to the older pages when `ended` more have
    /// ended.
    fn age_by(&mut self, ended: u64, epoch_us: u64) {
        let remembered = self.freed.len() - ended.min(self.freed.len() as u64) as usize;
        let mut older = self.older();
        for index in remembered..self.freed.len() {
            self.add_older(older, index, epoch_us);
            older = older.saturating_add(self.freed[index]);
        }
    }

    /// Counts the pages of an entry among `older` pages that are older still.
    fn add_older(&mut self, older: Pages, index: usize, epoch_us: u64) {
        let pages = self.freed[index];
        let since_us = self.started_us(index as u64, epoch_us) as f64;
        let share = f64::from(pages.0) / f64::from(older.saturating_add(pages).0.max(1));
        let before_us = self.older_since_us as f64;
        self.older_since_us = (before_us + (since_us - before_us) * share) as u64;
    }

    /// When the epoch began after which `ended` epochs have ended.
    fn started_us(&self, ended: u64, epoch_us: u64) -> u64 {
        self.epoch_start_us.saturating_sub(ended * epoch_us)
    }

    /// Free pages that are in no entry.
    pub(super) fn older(&self) -> Pages {
        self.freed.iter().fold(self.dirty, |left, pages| left.saturating_sub(*pages))
    }

    /// How long the free pages have been so on average.
    pub(super) fn age_us(&self, epoch_us: u64, now_us: u64) -> u64 {
        let age_us = |since_us: u64| now_us.saturating_sub(since_us);
        let older = self.older();
        let mut sum = u128::from(older.0) * u128::from(age_us(self.older_since_us));
        let mut count = u64::from(older.0);
        for (index, pages) in (0u64..).zip(&self.freed) {
            let since_us = self.started_us(index, epoch_us);
            sum += u128::from(pages.0) * u128::from(age_us(since_us));
            count += u64::from(pages.0);
        }
        (sum / u128::from(count.max(1))) as u64
    }

    /// Takes pages, as far as they go.
    fn take(&mut self, mut pages: Pages) {
        for entry in &mut self.freed {
            let part = pages.min(*entry);
            *entry -= part;
            pages -= part;
        }
    }

    /// Notes that `pages` were returned.
    pub(super) fn note_returned(&mut self, pages: Pages) {
        self.dirty = self.dirty.saturating_sub(pages);
    }

    /// Notes `pages` that came to light and have been free for longer than is remembered.
    pub(super) fn note_found(&mut self, epoch_us: u64, pages: Pages) {
        if self.older() == Pages::ZERO {
            self.older_since_us = self.started_us(EPOCHS, epoch_us);
        }
        self.dirty = self.dirty.saturating_add(pages);
    }

    /// How much of the free memory may stay when `epochs` more have ended. What became free in an
    /// epoch counts from its end.
    pub(super) fn keep_after(&self, epochs: u64) -> Pages {
        let part =
            |(ended, pages): (u64, Pages)| decayed(pages, (ended + epochs).saturating_sub(1));
        let parts = (0..).zip(self.freed).map(part);
        parts.fold(Pages::ZERO, |sum, part| sum.saturating_add(part))
    }
}
