//! Making room at a memory limit.
//!
//! Above the soft limit the heap first returns what is idle, in proportion to what it wants, and
//! then grows; its live blocks alone may be more than the limit. At the hard limit it returns
//! everything, once, and what then does not fit is refused.

#![forbid(unsafe_code)]

use super::purge::{Budget, Sweep};
use crate::heap::Heap;
use crate::heap::recall::Cause;
use crate::options::Key;
use crate::os::Os;
use crate::units::Pages;

/// Above the soft limit spans are searched for holes every so many microseconds at most.
const SEARCH_EVERY_US: u64 = 1_000_000;
/// Idle pages that go back beyond what growth wants, so that not every page asks anew. 1 MiB.
const AHEAD: Pages = Pages(256);
/// An emergency that found nothing is repeated when more is free, or when so many times as long has
/// passed as it took.
const EMERGENCY_SHARE: u64 = 64;

/// What is remembered of making room, so that it is not tried in vain for each allocation.
#[derive(Default)]
pub(super) struct Rooms {
    /// When room was last searched for in spans, above the soft limit.
    searched_us: Option<u64>,
    /// Bytes that were free when an emergency found no room, and until when that is believed.
    none_found: Option<(usize, u64)>,
}

impl<S: Os> Heap<S> {
    /// Makes room for the growth that was refused, and opens the gate as far as it may be.
    pub(super) fn make_room(&mut self) {
        let shown_us = self.os.now_us();
        let calls = self.counts.purge_calls;
        self.find_room(shown_us);
        self.gate = self.limits().hard;
        if self.counts.purge_calls > calls {
            let took_us = self.os.now_us().saturating_sub(shown_us);
            self.above.times.note(took_us);
        }
    }

    fn find_room(&mut self, shown_us: u64) {
        let now_us = self.above.clock.advance(shown_us);
        let wanted = self.refused;
        // A kernel that refused is not asked for each page anew.
        if self.runs.dirty > Pages::ZERO && self.rest_is_over() {
            let keep = self.runs.dirty.beyond(wanted.and_more(wanted).and_more(AHEAD));
            self.shed(keep, Cause::Limit, Budget::Unlimited);
        }
        if !self.fits(wanted, self.limits().soft) {
            self.search_above_limit(shown_us, now_us);
        }
        if !self.fits(wanted, self.limits().hard) && self.may_find_room(now_us) {
            self.emergency();
            let shown_us = self.os.now_us();
            let took_us = self.above.clock.advance(shown_us) - now_us;
            let found = self.fits(wanted, self.limits().hard);
            let believed_us = now_us + EMERGENCY_SHARE * took_us.max(1);
            self.above.rooms.none_found = (!found).then_some((self.free_resident(), believed_us));
        }
    }

    fn fits(&self, wanted: Pages, limit: usize) -> bool {
        self.resident().saturating_add(wanted.bytes()) <= limit
    }

    /// A step of a search for holes, not too often.
    fn search_above_limit(&mut self, shown_us: u64, now_us: u64) {
        let searched_us = self.above.rooms.searched_us;
        if searched_us.is_some_and(|at_us| now_us < at_us + SEARCH_EVERY_US) {
            return;
        }
        let sweep = Sweep { keep: Pages::ZERO, holes: true, cause: Cause::Limit };
        let step_us = self.options.get(Key::StepUs) as u64;
        let mut search = self.above.search.take();
        let outcome = self.search(&sweep, &mut search, Budget::Until(shown_us + step_us));
        self.above.search = search;
        if !outcome.more {
            self.above.rooms.searched_us = Some(now_us);
        }
    }

    /// Returns everything.
    pub(super) fn emergency(&mut self) {
        let sweep = Sweep { keep: Pages::ZERO, holes: true, cause: Cause::Limit };
        self.search(&sweep, &mut None, Budget::Unlimited);
        self.above.search = None;
    }

    /// Whether an emergency could find anything that the last one did not.
    fn may_find_room(&self, now_us: u64) -> bool {
        let in_vain = |(free, believed_us)| self.free_resident() <= free && now_us < believed_us;
        !self.above.rooms.none_found.is_some_and(in_vain)
    }
}
