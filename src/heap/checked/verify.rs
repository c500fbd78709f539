//! The live block at an address, and what was written beside it.

use super::block::{HEADER, Header, HeaderState};
use super::guarded_pool::SlotState;
use super::pattern::{self, Body, REDZONE};
use super::{Checking, Home, Live};
use crate::heap::ReclaimHooks;
use crate::os::Os;

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// The live block that starts there. Stops when none does.
    pub(super) fn live_block(&mut self, at: *mut u8) -> Live {
        if let Some(offset) = self.state.pool.offset_of(at.addr()) {
            let (index, _) = self.state.pool.nearest(offset);
            let slot = self.state.pool.slots[index];
            if slot.used == SlotState::Live && slot.at == at {
                let number = slot.allocated.number;
                return Live { at, size: slot.size, number, home: Home::Guarded(index) };
            }
            self.report_pointer(at);
        }
        if let Some(slot_size) = self.slot_of(at) {
            // SAFETY: it is a slot that is not free: Q1.
            let header = unsafe { at.sub(HEADER).cast::<Header>().read() };
            if header.state(self.state.secret, at.addr()) == HeaderState::Live {
                let (size, number) = (header.size(), header.number());
                return Live { at, size, number, home: Home::Slot(slot_size) };
            }
        } else if let Some(page) = self.large_at(at)
            && let (live, false) = self.large_live(page)
        {
            return live;
        }
        self.report_pointer(at)
    }

    /// Stops when something was written beside a block.
    pub(super) fn verify(&mut self, live: &Live) {
        let (zone, bytes) = match live.home {
            Home::Large(page) => return self.verify_large(live, page),
            Home::Slot(slot_size) => {
                let body = Body::new(live.at, slot_size);
                // SAFETY: the slot is the block's, to its end.
                if unsafe { body.zone_is_whole(live.size) } {
                    return;
                }
                (live.at.wrapping_add(live.size), slot_size - HEADER - live.size)
            }
            Home::Guarded(index) => {
                let (page, bytes) = self.state.pool.page_of(index);
                let before = live.at.addr() - page.addr();
                self.verify_zone(live, page, before);
                (live.at.wrapping_add(live.size), bytes - before - live.size)
            }
        };
        self.verify_zone(live, zone, bytes);
    }

    pub(super) fn verify_zone(&mut self, live: &Live, zone: *mut u8, bytes: usize) {
        // SAFETY: they are the block's own.
        let other = unsafe { pattern::first_other(zone, bytes, REDZONE) };
        if let Some(other) = other {
            self.report_written(live, zone.wrapping_add(other), bytes - other, REDZONE);
        }
    }
}
