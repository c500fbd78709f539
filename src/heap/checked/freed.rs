//! A block that is freed: hidden, held back, looked at once more, and given back to the heap.

use super::block::{self, FREED, HEADER, Header, State, first_other};
use super::quarantine::{self, Held};
use super::{Checking, Home, Live, body, fetch, memory, tool, watch};
use crate::heap::{Above, fast};
use crate::units::{PAGE, Pages};

impl<S: Above> Checking<'_, S> {
    /// Frees a block that was verified, and holds it back.
    pub(super) fn free(&mut self, live: Live) {
        self.state.frees += 1;
        let freed = self.state.frees;
        if let Home::Guarded(index) = live.home {
            self.state.slots.free(&self.heap.os, index, freed);
            self.heap.beside -= self.guarded_pages();
            watch::give_mappings(2);
            return;
        }
        self.state.live -= 1;
        self.state.live_bytes -= live.size;
        match live.home {
            Home::Slot(slot_size) => {
                let slot = live.at.wrapping_sub(HEADER);
                tool::show(slot, slot_size);
                // SAFETY: the slot is the block's alone, to its end.
                unsafe {
                    let header = live.at.sub(HEADER).cast::<Header>();
                    header.write(header.read().freed());
                    block::fill(body(live.at, slot_size), FREED);
                }
                tool::freed(live.at, (slot, slot_size));
                self.hold(Held { at: live.at, bytes: slot_size, freed, is_large: false });
            }
            Home::Large(page) => {
                let bytes = self.heap.large_size(page).0.bytes();
                if bytes > quarantine::BLOCK_MAX {
                    tool::freed(live.at, (self.heap.address(page), bytes));
                    return self.release_large(page);
                }
                self.hide_large(page);
                tool::freed(live.at, (self.heap.address(page), bytes));
                self.hold(Held { at: live.at, bytes, freed, is_large: true });
            }
            Home::Guarded(_) => {}
        }
    }

    /// Pages of a guarded slot.
    pub(super) fn guarded_pages(&self) -> Pages {
        Pages((self.heap.kernel_page / PAGE) as u32)
    }

    /// Holds a freed block back, in place of older ones.
    fn hold(&mut self, held: Held) {
        while self.state.quarantine.is_full(held.bytes) {
            self.let_one_go();
        }
        if !self.state.quarantine.push(held) {
            self.let_go(held);
        }
    }

    /// Lets every block go that is held back. False: there was none.
    pub(super) fn let_all_go(&mut self) -> bool {
        let mut any = false;
        while self.let_one_go() {
            any = true;
        }
        any
    }

    /// Lets the block go that is held back for longest. False: there is none.
    fn let_one_go(&mut self) -> bool {
        let held = self.state.quarantine.pop();
        if let Some(held) = held {
            self.let_go(held);
        }
        held.is_some()
    }

    /// Verifies a block that was freed, and gives it back to the heap.
    fn let_go(&mut self, held: Held) {
        if held.is_large {
            if let Some(page) = self.large_at(held.at) {
                self.verify_hidden(page, held.freed);
                self.release_large(page);
            }
            return;
        }
        fetch(self.state.quarantine.coming().wrapping_sub(HEADER));
        self.verify_held(&held);
        let slot = held.at.wrapping_sub(HEADER);
        // SAFETY: the slot is in use for the heap, and nobody's: C2.
        unsafe {
            let size = slot.cast::<Header>().read().size();
            fast::free_small(self.heap, slot, block::slot_bytes(size));
        }
    }

    /// Stops when something was written into a small block after it was freed.
    fn verify_held(&mut self, held: &Held) {
        // SAFETY: the slot is in use for the heap, and nobody's: C2.
        let header = unsafe { held.at.sub(HEADER).cast::<Header>().read() };
        let state = header.state(self.state.secret, held.at.addr());
        let (size, home) = (header.size(), Home::Slot(held.bytes));
        let live = Live { at: held.at, size, number: header.number(), home };
        if state != State::Freed {
            self.report_header(held.at, held.bytes, Some(held.freed));
        }
        // SAFETY: as above.
        if block::is_all(unsafe { body(held.at, held.bytes) }, FREED) {
            return;
        }
        let bytes = held.bytes - HEADER;
        // SAFETY: as above.
        if let Some(other) = first_other(unsafe { memory(held.at, bytes) }, FREED) {
            self.report_written_freed(
                &live,
                held.freed,
                held.at.wrapping_add(other),
                bytes - other,
            );
        }
    }
}
