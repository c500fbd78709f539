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

impl<S: Os> Heap<S> {
    /// Makes room for the growth that was refused, and opens the gate as far as it may be.
    pub(super) fn make_room(&mut self) {
        let wanted = self.refused;
        let keep = self.runs.dirty.beyond(wanted.and_more(wanted).and_more(AHEAD));
        self.shed(keep, Cause::Limit, Budget::Unlimited);
        if !self.fits(wanted, self.limits().soft) {
            self.search_above_limit();
        }
        if !self.fits(wanted, self.limits().hard) && self.may_find_room() {
            self.emergency();
            let found = self.fits(wanted, self.limits().hard);
            self.above.no_room = (!found).then_some(self.live_bytes());
        }
        self.gate = self.limits().hard;
    }

    fn fits(&self, wanted: Pages, limit: usize) -> bool {
        self.resident().saturating_add(wanted.bytes()) <= limit
    }

    /// A step of a search for holes, not too often.
    fn search_above_limit(&mut self) {
        let now_us = self.os.now_us();
        if now_us.abs_diff(self.above.room_searched_us) < SEARCH_EVERY_US {
            return;
        }
        let sweep = Sweep { keep: Pages::ZERO, holes: true, cause: Cause::Limit };
        let step_us = self.options.get(Key::StepUs) as u64;
        let mut search = self.above.search.take();
        let outcome = self.search(&sweep, &mut search, Budget::Until(now_us + step_us));
        self.above.search = search;
        if !outcome.more {
            self.above.room_searched_us = now_us;
        }
    }

    /// Returns everything.
    fn emergency(&mut self) {
        let sweep = Sweep { keep: Pages::ZERO, holes: true, cause: Cause::Limit };
        self.search(&sweep, &mut None, Budget::Unlimited);
        self.above.search = None;
    }

    /// Whether an emergency could find anything: something was freed since one found nothing.
    fn may_find_room(&self) -> bool {
        let freed = |live| self.live_bytes() < live;
        self.runs.dirty > Pages::ZERO || self.above.no_room.is_none_or(freed)
    }

    fn live_bytes(&self) -> usize {
        let small = self.small_requested.cast_signed().max(0) as usize;
        small + self.counts.large_requested
    }
}
