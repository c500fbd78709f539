//! Guarded slots: a page each, with inaccessible pages on both sides.
//!
//! A block in a slot ends where its page ends or, for one block in [`LEFT_EVERY`], starts where the
//! page starts: an access past that side faults at once. When the block is freed, its page becomes
//! inaccessible and stays so until all other slots were used: an access after the free faults, too.
//! A few blocks, chosen at random, get such a slot; the backtraces of their allocation and their
//! free are kept. (The idea is that of GWP-ASan, in Chromium and LLVM.)
//!
//! ```text
//!  | none | slot 0 | none | slot 1 | none | slot 2 | none | …
//! ```

use super::block::alignment;
use super::pattern::{ALLOC_FILL, REDZONE};
use crate::os::backtrace::Backtrace;
use crate::os::{Os, this_thread};
use crate::units::round_up;

/// Slots of a heap.
const SLOTS: usize = 128;
/// One in this many blocks lies at the start of its page.
const LEFT_EVERY: u64 = 4;

/// When something happened to a block, and where.
#[derive(Clone, Copy)]
pub(super) struct AllocTrace {
    /// How many blocks the heap had handed out, or taken back, with this one.
    pub(super) number: u64,
    pub(super) thread: usize,
    pub(super) backtrace: Backtrace,
}

impl AllocTrace {
    const NEVER: AllocTrace = AllocTrace { number: 0, thread: 0, backtrace: Backtrace::NONE };

    pub(super) fn now(number: u64) -> AllocTrace {
        AllocTrace { number, thread: this_thread(), backtrace: Backtrace::here() }
    }
}

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Never,
    Live,
    Freed,
}

/// One slot and the block in it.
#[derive(Clone, Copy)]
pub(super) struct GuardedSlot {
    pub(super) used: SlotState,
    pub(super) at: *mut u8,
    pub(super) size: usize,
    pub(super) allocated: AllocTrace,
    pub(super) freed: AllocTrace,
}

const UNUSED: GuardedSlot = GuardedSlot {
    used: SlotState::Never,
    at: core::ptr::null_mut(),
    size: 0,
    allocated: AllocTrace::NEVER,
    freed: AllocTrace::NEVER,
};

/// The guarded slots of one heap.
pub(super) struct GuardedPool {
    start: *mut u8,
    page: usize,
    pub(super) slots: Vec<GuardedSlot>,
    /// Slots with a live block, and bytes asked for in these.
    pub(super) live: usize,
    pub(super) live_bytes: usize,
}

impl GuardedPool {
    pub(super) const NONE: GuardedPool = GuardedPool {
        start: core::ptr::null_mut(),
        page: 0,
        slots: Vec::new(),
        live: 0,
        live_bytes: 0,
    };

    /// Slots for a heap; none at all where there is no memory or address space for them.
    pub(super) fn new(os: &impl Os) -> GuardedPool {
        let page = os.page_size();
        let mut slots = Vec::new();
        let mut start = core::ptr::null_mut();
        if slots.try_reserve_exact(SLOTS).is_ok()
            && let Some(reserved) = os.reserve(GuardedPool::bytes(page), true)
        {
            start = reserved;
            slots.resize(SLOTS, UNUSED);
        }
        GuardedPool { start, page, slots, live: 0, live_bytes: 0 }
    }

    /// Bytes of address space that they take.
    pub(super) fn reserved(&self) -> usize {
        if self.slots.is_empty() { 0 } else { GuardedPool::bytes(self.page) }
    }

    const fn bytes(page: usize) -> usize {
        (2 * SLOTS + 1) * page
    }

    /// Gives their address space back.
    ///
    /// # Safety
    ///
    /// No block in them is used again; the `os` is that of [`GuardedPool::new`].
    pub(super) unsafe fn release(&mut self, os: &impl Os) {
        if !self.slots.is_empty() {
            // SAFETY: the caller's promise: the slots are exactly what `new` has reserved at
            // `start`, and no block in them is used again.
            unsafe { os.release(self.start, GuardedPool::bytes(self.page)) };
            self.slots.clear();
        }
    }

    /// Where they lie: the start and bytes.
    pub(super) fn range(&self) -> (usize, usize) {
        (self.start.addr(), self.reserved())
    }

    /// How far behind the start of the slots an address lies; `None`: not there.
    pub(super) fn offset_of(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.start.addr());
        (offset < self.reserved()).then_some(offset)
    }

    /// The slot that is nearest to a place behind the start, and whether the place is in its page.
    pub(super) fn nearest(&self, offset: usize) -> (usize, bool) {
        let page = offset / self.page;
        if page % 2 == 1 {
            return (page / 2, true);
        }
        let is_used =
            |slot: usize| self.slots.get(slot).is_some_and(|s| s.used != SlotState::Never);
        let (before, behind) = ((page / 2).wrapping_sub(1), page / 2);
        let in_first_half = offset % self.page < self.page / 2;
        let before_is_nearest = is_used(before) && (in_first_half || !is_used(behind));
        (if before_is_nearest { before } else { behind.min(SLOTS - 1) }, false)
    }

    /// The page of a slot.
    pub(super) fn page_of(&self, slot: usize) -> (*mut u8, usize) {
        (self.start.wrapping_add((2 * slot + 1) * self.page), self.page)
    }

    /// Puts a block of up to a page into the slot that was free for longest. Null: there is none,
    /// or the kernel gives no access to it.
    pub(super) fn take(&mut self, os: &impl Os, size: usize, number: u64, rng: u64) -> *mut u8 {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.used != SlotState::Live);
        let Some((index, _)) = free.min_by_key(|(_, slot)| slot.freed.number) else {
            return core::ptr::null_mut();
        };
        let (start, page) = self.page_of(index);
        // SAFETY: the page lies in our reservation.
        if !unsafe { os.commit(start, page) } {
            return core::ptr::null_mut();
        }
        let offset =
            if rng.is_multiple_of(LEFT_EVERY) { 0 } else { page - round_up(size, alignment(size)) };
        let at = start.wrapping_add(offset);
        // SAFETY: the page was made accessible, and nobody else has it.
        unsafe {
            start.write_bytes(REDZONE, page);
            at.write_bytes(ALLOC_FILL, size);
        }
        let allocated = AllocTrace::now(number);
        self.slots[index] =
            GuardedSlot { used: SlotState::Live, at, size, allocated, freed: AllocTrace::NEVER };
        self.live += 1;
        self.live_bytes += size;
        at
    }

    /// Frees the block in a slot. Its memory goes, and nobody has access to it.
    pub(super) fn free(&mut self, os: &impl Os, index: usize, number: u64) {
        let (start, bytes) = self.page_of(index);
        let slot = &mut self.slots[index];
        slot.used = SlotState::Freed;
        slot.freed = AllocTrace::now(number);
        self.live -= 1;
        self.live_bytes -= slot.size;
        // SAFETY: the block is freed, and it was alone on its page. A refusal leaves the page
        // accessible, and with that an error unnoticed; nothing else.
        unsafe {
            os.purge(&[crate::os::MemoryRange { start, bytes }]);
            os.protect(start, bytes);
        }
    }

    /// Notes that a block stays where it is and has another size.
    pub(super) fn resized(&mut self, index: usize, size: usize) {
        let slot = &mut self.slots[index];
        self.live_bytes = self.live_bytes - slot.size + size;
        slot.size = size;
    }
}
