//! A block that is freed: hidden, held back, looked at once more, and given back to the heap.

use super::block::{self, HEADER, Header, HeaderState};
use super::pattern::{self, Body, FREE_FILL};
use super::quarantine::{self, QuarantineEntry};
use super::{Checking, Home, Live, fault_registry, prefetch, sanitizer};
use crate::heap::ReclaimHooks;
use crate::heap::blocks::plain;
use crate::os::Os;
use crate::units::{PAGE, Pages};

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// Frees a block that was verified, and holds it back.
    #[inline(always)]
    pub(super) fn free(&mut self, live: Live) {
        self.state.frees += 1;
        let freed = self.state.frees;
        if let Home::Slot(slot_size) = live.home {
            self.state.live -= 1;
            self.state.live_bytes -= live.size;
            return self.free_small(live.at, slot_size, freed);
        }
        self.free_on_pages(live, freed);
    }

    /// Frees a block that has pages of its own.
    #[inline(never)]
    fn free_on_pages(&mut self, live: Live, freed: u64) {
        match live.home {
            Home::Guarded(index) => {
                self.state.pool.free(&self.heap.os, index, freed);
                self.heap.guarded_pages -= self.pages_per_slot();
                fault_registry::give_mappings(2);
            }
            Home::Large(page) => {
                self.state.live -= 1;
                self.state.live_bytes -= live.size;
                let bytes = self.heap.large_size(page).0.bytes();
                if bytes > quarantine::BLOCK_MAX {
                    sanitizer::freed(live.at, (self.heap.address(page), bytes));
                    return self.release_large(page);
                }
                self.protect(page);
                sanitizer::freed(live.at, (self.heap.address(page), bytes));
                self.quarantine(QuarantineEntry { at: live.at, bytes, freed, is_large: true });
            }
            Home::Slot(_) => {}
        }
    }

    /// Pages of a guarded slot.
    pub(super) fn pages_per_slot(&self) -> Pages {
        Pages((self.heap.kernel_page / PAGE) as u32)
    }

    /// Holds a freed block back, in place of older ones.
    #[inline(always)]
    pub(super) fn quarantine(&mut self, entry: QuarantineEntry) {
        while self.state.quarantine.is_full(entry.bytes) {
            self.release_oldest();
        }
        if !self.state.quarantine.push(entry) {
            self.release(entry);
        }
    }

    /// Lets every block go that is held back. False: there was none.
    pub(super) fn release_all(&mut self) -> bool {
        let mut any = false;
        while self.release_oldest() {
            any = true;
        }
        any
    }

    /// Lets the block go that is held back for longest. False: there is none.
    fn release_oldest(&mut self) -> bool {
        let entry = self.state.quarantine.pop();
        if let Some(entry) = entry {
            self.release(entry);
        }
        entry.is_some()
    }

    /// Verifies a block that was freed, and gives it back to the heap.
    #[inline(always)]
    fn release(&mut self, entry: QuarantineEntry) {
        if entry.is_large {
            return self.release_quarantined_large(entry);
        }
        // Where it starts and where it ends: most have two lines.
        let (at, bytes) = self.state.quarantine.coming();
        prefetch(at.wrapping_sub(HEADER));
        prefetch(at.wrapping_add(bytes).wrapping_sub(HEADER + 1));
        self.verify_quarantined(&entry);
        let slot = entry.at.wrapping_sub(HEADER);
        // SAFETY: the slot is in use for the heap, and nobody's: Q2.
        unsafe {
            let size = slot.cast::<Header>().read().size();
            plain::free_small(self.heap, slot, block::slot_bytes(size));
        }
    }

    #[inline(never)]
    fn release_quarantined_large(&mut self, entry: QuarantineEntry) {
        if let Some(page) = self.large_at(entry.at) {
            self.verify_quarantined_large(page, entry.freed);
            self.release_large(page);
        }
    }

    /// Stops when something was written into a small block after it was freed.
    #[inline(always)]
    fn verify_quarantined(&mut self, entry: &QuarantineEntry) {
        // SAFETY: the slot is in use for the heap, and nobody's: Q2.
        let header = unsafe { entry.at.sub(HEADER).cast::<Header>().read() };
        let state = header.state(self.state.secret, entry.at.addr());
        let (size, home) = (header.size(), Home::Slot(entry.bytes));
        if state != HeaderState::Freed {
            self.report_header(entry.at, entry.bytes, Some(entry.freed));
        }
        let body = Body::new(entry.at, entry.bytes);
        // SAFETY: as above; the slot's words are readable to its end.
        if unsafe { body.is_all(FREE_FILL) } {
            return;
        }
        let live = Live { at: entry.at, size, number: header.number(), home };
        let bytes = entry.bytes - HEADER;
        // SAFETY: Q2, and `entry.bytes` is the slot's size: the range ends with the slot.
        if let Some(other) = unsafe { pattern::first_other(entry.at, bytes, FREE_FILL) } {
            self.report_written_freed(
                &live,
                entry.freed,
                entry.at.wrapping_add(other),
                bytes - other,
            );
        }
    }
}
