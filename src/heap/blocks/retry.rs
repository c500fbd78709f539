//! One more attempt at what takes memory, when the gate or the kernel refused the first.

#![forbid(unsafe_code)]

use crate::heap::{Heap, ReclaimHooks};
use crate::units::Pages;

impl<S: ReclaimHooks> Heap<S> {
    /// Does something that takes memory. If the gate refused it, it is tried once more after room
    /// was made, and again if it then takes more: pages that were there, and their descriptors, may
    /// have gone back to make that room. If there was no row of pages, it is tried once more after
    /// empty spans were released, for the pages may lie in these. What the gate refused is done
    /// with what is there in the end.
    pub(in crate::heap) fn retry_after_reclaim<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Heap<S>) -> Option<T>,
        last: impl FnOnce(&mut Heap<S>) -> Option<T>,
    ) -> Option<T> {
        let (mut room, mut has_spans) = (Pages::ZERO, true);
        let done = loop {
            self.denied_pages = Pages::ZERO;
            if let Some(done) = attempt(self) {
                break Some(done);
            }
            let by_gate = self.denied_pages > Pages::ZERO;
            if self.denied_pages > room {
                room = self.denied_pages;
                S::make_room(self);
            } else if !by_gate && has_spans {
                self.retire_all();
                has_spans = false;
            } else {
                break None;
            }
        };
        if room == Pages::ZERO {
            return done;
        }
        let done = done.or_else(|| last(self));
        S::restore_limit(self);
        done
    }
}
