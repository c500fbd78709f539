//! Small checked blocks: handed out, and taken back by a way without turns while all is well. What
//! is not goes the long way, which tells what is wrong.

use super::block::{self, HEADER, Header, HeaderState};
use super::pattern::{Body, FREE_FILL};
use super::quarantine::QuarantineEntry;
use super::{Checking, Home, Live, sanitizer};
use crate::heap::ReclaimHooks;
use crate::heap::blocks::plain;
use crate::heap::slots::class::{CLASSES, class_of};
use crate::os::Os;

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// Places a block of up to [`block::SMALL_MAX`] bytes. Null: there is no memory.
    #[inline(always)]
    pub(super) fn place_small(&mut self, size: usize) -> *mut u8 {
        let slot_bytes = block::slot_bytes(size);
        let bytes = CLASSES[class_of(slot_bytes)].slot_size as usize;
        // SAFETY: the heap is this call's alone, and the size is small. The slot that comes of it
        // is, to its end, nobody else's.
        unsafe {
            let slot = plain::allocate_small(self.heap, slot_bytes);
            if slot.is_null() {
                return slot;
            }
            let at = slot.add(HEADER);
            sanitizer::unpoison(slot, bytes);
            let header = Header::new(self.state.secret, at.addr(), self.state.allocations, size);
            slot.cast::<Header>().write(header);
            Body::new(at, bytes).lay_out(size);
            sanitizer::placed(at, size, (slot, bytes));
            at
        }
    }

    /// The small block of `size` bytes that starts there, when neither it nor what lies beside it
    /// is wrong.
    #[inline(always)]
    pub(super) fn intact_small(&mut self, at: *mut u8, size: usize) -> Option<Live> {
        let slot_size = self.slot_of(at)?;
        // SAFETY: it is a slot that is not free: Q1.
        let header = unsafe { at.sub(HEADER).cast::<Header>().read() };
        let is_live = header.state(self.state.secret, at.addr()) == HeaderState::Live;
        if !is_live || header.size() != size {
            return None;
        }
        // SAFETY: the slot is the block's, to its end.
        let is_whole = unsafe { Body::new(at, slot_size).zone_is_whole(size) };
        let (number, home) = (header.number(), Home::Slot(slot_size));
        is_whole.then_some(Live { at, size, number, home })
    }

    /// Bytes of the slot, if there is one that is not free and would have its block there.
    #[inline(always)]
    pub(super) fn slot_of(&mut self, at: *mut u8) -> Option<usize> {
        let slot = at.wrapping_sub(HEADER);
        // SAFETY: the heap is this call's alone.
        let class = unsafe { plain::live_slot(self.heap, slot) }?;
        Some(CLASSES[class].slot_size as usize)
    }

    /// Frees a block that lies in a slot of `slot_size` bytes, and holds it back.
    #[inline(always)]
    pub(super) fn free_small(&mut self, at: *mut u8, slot_size: usize, freed: u64) {
        let slot = at.wrapping_sub(HEADER);
        sanitizer::unpoison(slot, slot_size);
        // SAFETY: the slot is the block's alone, to its end.
        unsafe {
            let header = slot.cast::<Header>();
            header.write(header.read().freed());
            Body::new(at, slot_size).fill(FREE_FILL);
        }
        sanitizer::freed(at, (slot, slot_size));
        self.quarantine(QuarantineEntry { at, bytes: slot_size, freed, is_large: false });
    }
}
