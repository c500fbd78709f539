//! A second attempt at what takes memory, when the growth limit or the kernel refused the first.

#![forbid(unsafe_code)]

use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::Pages;

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Calls `attempt`, which takes memory, up to a few times.
    ///
    /// - The growth limit refused it: room is made, and `attempt` called again. That may need more
    ///   pages than before, since pages that were there, and their descriptors, may have gone back
    ///   to make that room; then room is made once more.
    /// - There was no run of pages: empty spans are released, for the pages may lie in these, and
    ///   `attempt` is called again.
    /// - The growth limit still refuses: `last` does with the memory that the heap has.
    pub(in crate::heap) fn retry_after_reclaim<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Heap<O, R>) -> Option<T>,
        last: impl FnOnce(&mut Heap<O, R>) -> Option<T>,
    ) -> Option<T> {
        let (mut room, mut has_spans) = (Pages::ZERO, true);
        let done = loop {
            self.denied_pages = Pages::ZERO;
            if let Some(done) = attempt(self) {
                break Some(done);
            }
            let by_limit = self.denied_pages > Pages::ZERO;
            if self.denied_pages > room {
                room = self.denied_pages;
                R::make_room(self);
            } else if !by_limit && has_spans {
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
        R::restore_limit(self);
        done
    }
}
