//! What others see of a heap: the figures that signal handlers read, and the history.

#![forbid(unsafe_code)]

use super::history::Sample;
use crate::figures::{Figures, LastSeen, Trouble};
use crate::heap::{Heap, refaults};
use crate::options::Key;
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::{PAGE, Pages};

impl<O: Os> Heap<O, Reclaim> {
    /// Has what the heap holds published there from now on.
    pub(crate) fn publish_in(&mut self, figures: &'static Figures) {
        self.note_background();
        self.runs.background_total = Pages::ZERO;
        self.hooks.figures = Some(figures);
        self.watch().set_counter(&figures.background_returned);
    }

    /// Has nothing published any more: the heap is about to end.
    pub(crate) fn publish_no_more(&mut self) {
        self.watch().end();
        self.hooks.figures = None;
    }

    /// Publishes what the heap holds, where somebody reads it.
    pub(crate) fn publish(&self) {
        if let Some(figures) = self.hooks.figures {
            let snapshot = self.snapshot();
            figures.publish(LastSeen {
                live: snapshot.live as u64,
                resident: snapshot.resident() as u64,
                resident_peak: snapshot.resident_peak as u64,
                returned_total: refaults::total(&self.runs.refaults.returned) * PAGE as u64,
                background_returned: self.runs.background_total.bytes() as u64,
                trouble: Trouble {
                    refused: self.counts.refused_allocations,
                    refused_address_space: self.counts.refused_address_space,
                    thrashing: self.is_thrashing().into(),
                    purge_errno: self.counts.purge_errno as u64,
                },
            });
        }
    }

    /// The newest samples, at most `count`, the oldest of them first.
    pub(crate) fn history(&mut self, count: usize) -> impl ExactSizeIterator<Item = Sample> + '_ {
        let history = self.hooks.history;
        history.newest(self.history_buffer(), count)
    }

    /// Adds a sample to the history when one is due.
    pub(super) fn take_sample(&mut self, now_us: u64) {
        if self.options.get(Key::History) == 0 || !self.hooks.history.is_due(now_us) {
            return;
        }
        let snapshot = self.snapshot();
        let sample = Sample {
            now_us: self.hooks.clock.shown_us.unwrap_or_default(),
            live: snapshot.live as u64,
            resident: snapshot.resident() as u64,
            free_resident: snapshot.free_resident as u64,
            returned_total: refaults::total(&self.runs.refaults.returned) * PAGE as u64,
            refaulted_total: refaults::total(&self.runs.refaults.refaulted) * PAGE as u64,
            pressure: self.pressure().into(),
            trend: self.hooks.decision.trend as u64,
        };
        let mut history = self.hooks.history;
        history.add(self.history_buffer(), now_us, sample);
        self.hooks.history = history;
    }
}
