//! Making room: at a memory limit, and for large blocks.
//!
//! Above the soft limit the heap first returns what is idle, until what it wants fits below the
//! limit or nothing is left, and then grows; its live blocks alone may be more than the limit. At
//! the hard limit it does the same, and what then does not fit is refused.
//!
//! Dirty pages go first, since they are found at once. For holes all spans are searched, from where
//! the last search stopped. A search that found too little is not repeated for each allocation.
//! Above the soft limit it is repeated after one second. At the hard limit it is repeated when as
//! many bytes were freed as are missing, or after [`EMERGENCY_SHARE`] times the time that it took.

#![forbid(unsafe_code)]

use super::purge::{Budget, Sweep};
use crate::heap::Heap;
use crate::heap::refaults::PurgeReason;
use crate::options::Key;
use crate::os::Os;
use crate::reclaim::Reclaim;
use crate::units::Pages;

/// Microseconds after which a search in vain above the soft limit is repeated.
const SEARCH_EVERY_US: u64 = 1_000_000;
/// Idle pages that go back beyond what growth wants, so that not every page asks anew. 1 MiB.
const AHEAD: Pages = Pages(256);
/// An emergency in vain is repeated when as much is free as is lacking, or when this many times as
/// long as it took has passed.
const EMERGENCY_SHARE: u64 = 64;

/// What is remembered of making room, so that it is not tried in vain for each allocation.
#[derive(Default)]
pub(super) struct LimitReclaims {
    /// When spans were searched in vain, above the soft limit.
    searched_us: Option<u64>,
    /// The fewest bytes that were free since an emergency in vain, and until when that is believed.
    none_found: Option<(usize, u64)>,
}

impl<O: Os> Heap<O, Reclaim> {
    /// Returns as many dirty pages as a large block takes that were never used. Without that a
    /// block which doubles again and again would leave as much dirty memory behind as it has. Each
    /// page of the heap is new but once, so that this can cost no more than a part of their first
    /// touch. It takes a step's time for each MiB at most.
    pub(super) fn offset_growth(&mut self, pages: Pages) {
        let retain = Pages::holding(self.options.bytes(Key::Retain)).unwrap_or(self.runs.dirty);
        let keep = self.runs.dirty.saturating_sub(pages).max(retain);
        if self.options.get(Key::Auto) == 0 || !self.may_purge(self.runs.dirty.saturating_sub(keep))
        {
            return;
        }
        let start_us = self.os.now_us();
        self.hooks.clock.advance(start_us);
        let steps = pages.bytes().div_ceil(1 << 20) as u64;
        let step_us = self.options.get(Key::StepUs) as u64;
        self.purge_dirty(keep, PurgeReason::Limit, Budget::Until(start_us + steps * step_us));
        self.note_step(start_us);
    }

    /// Makes room for the growth that was refused, and raises the growth limit to the hard limit.
    pub(super) fn make_room(&mut self) {
        let start_us = self.os.now_us();
        let now_us = self.hooks.clock.advance(start_us);
        if self.find_room(now_us) {
            self.note_step(start_us);
        }
        self.note_thrashing(now_us);
        let held = self.held().saturating_add(self.denied_pages.bytes());
        if self.wants_collector(held, now_us) {
            self.want_emergency(now_us);
        }
        self.growth_limit = self.hard_limit();
    }

    /// False: there was nothing to be done.
    fn find_room(&mut self, now_us: u64) -> bool {
        let wanted = self.denied_pages;
        let mut worked = false;
        // A kernel that refused is not asked for each page anew.
        if self.may_purge(self.runs.dirty) {
            let keep =
                self.runs.dirty.saturating_sub(wanted.saturating_add(wanted).saturating_add(AHEAD));
            self.purge_dirty(keep, PurgeReason::Limit, Budget::Unlimited);
            worked = true;
        }
        if !self.fits(wanted, self.limits().soft) && self.may_search(now_us) {
            let found = self.search_for(wanted, self.limits().soft);
            self.hooks.limit_reclaims.searched_us = (!found).then_some(now_us);
            worked = true;
        }
        if !self.fits(wanted, self.hard_limit()) && self.may_find_room(wanted, now_us) {
            self.emergency(wanted);
            worked = true;
        }
        worked
    }

    fn fits(&self, wanted: Pages, limit: usize) -> bool {
        self.lacking(wanted, limit) == 0
    }

    /// Bytes that must go back for `wanted` pages to fit below a limit.
    fn lacking(&self, wanted: Pages, limit: usize) -> usize {
        self.resident().saturating_add(wanted.bytes()).saturating_sub(limit)
    }

    /// Whether a search above the soft limit could find what the last one did not.
    fn may_search(&self, now_us: u64) -> bool {
        let is_late = |at_us| now_us >= at_us + SEARCH_EVERY_US;
        self.hooks.limit_reclaims.searched_us.is_none_or(is_late)
    }

    /// Returns what is idle, in steps, until `wanted` pages fit below a limit. False: they do not,
    /// though everything was looked at.
    fn search_for(&mut self, wanted: Pages, limit: usize) -> bool {
        let sweep = Sweep { keep: Pages::ZERO, holes: true, reason: PurgeReason::Limit };
        // What a search has passed may be idle by now: the last one begins anew.
        let mut is_last = self.hooks.hole_sweep.is_none();
        let mut search = self.hooks.hole_sweep.take();
        let step_us = self.options.get(Key::StepUs) as u64;
        while !self.fits(wanted, limit) {
            let budget = Budget::Until(self.os.now_us() + step_us);
            if !self.purge_holes(&sweep, &mut search, budget).more {
                if is_last {
                    break;
                }
                is_last = true;
            }
        }
        self.hooks.hole_sweep = search;
        self.fits(wanted, limit)
    }

    /// Makes room at the hard limit, and takes note if there is none.
    pub(super) fn emergency(&mut self, wanted: Pages) {
        let start_us = self.hooks.clock.advance(self.os.now_us());
        let found = self.search_for(wanted, self.hard_limit());
        let now_us = self.hooks.clock.advance(self.os.now_us());
        let retry_us = now_us + EMERGENCY_SHARE * (now_us - start_us).max(1);
        self.hooks.limit_reclaims.none_found = (!found).then_some((self.free_resident(), retry_us));
    }

    /// Takes note of what is in use again of that which an emergency has not found: what is freed
    /// of it later may be found.
    pub(super) fn note_use_since_emergency(&mut self) {
        let free_now = self.hooks.limit_reclaims.none_found.is_some().then(|| self.free_resident());
        if let (Some((free, _)), Some(now)) = (&mut self.hooks.limit_reclaims.none_found, free_now)
        {
            *free = now.min(*free);
        }
    }

    /// Whether an emergency could find what the last one did not.
    fn may_find_room(&self, wanted: Pages, now_us: u64) -> bool {
        let lacking = self.lacking(wanted, self.hard_limit());
        let in_vain = |(free, retry_us)| {
            self.free_resident().saturating_sub(free) < lacking && now_us < retry_us
        };
        !self.hooks.limit_reclaims.none_found.is_some_and(in_vain)
    }
}
