//! Which blocks get a guarded slot, and when.

#![forbid(unsafe_code)]

use core::ptr;

use super::guarded_pool::GuardedPool;
use super::{Checked, Checking, fault_registry};
use crate::heap::ReclaimHooks;
use crate::os::Os;
use crate::units::Pages;

/// In `on`, one block in this many is to go to a guarded slot, where one fits.
const SAMPLE_EVERY: u32 = 1024;
/// In `sample`, one refill in this many.
const SAMPLE_REFILLS: u32 = 32;
/// Between two guarded slots lies this many times as long as handing one out took: in `on`, and in
/// `sample`. Freeing it takes as long again.
const BACKOFF: [u64; 2] = [40, 250];
/// Microseconds that it can have taken at most. Beyond, the thread was waiting for a processor.
const TAKEN_MAX_US: u64 = 1000;

impl Checked {
    /// The next pseudorandom number.
    pub(super) fn next_random(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }

    /// Rolls when the next block is sampled.
    pub(super) fn next_sample(&mut self) {
        let every = if self.every { SAMPLE_EVERY } else { SAMPLE_REFILLS };
        self.countdown = (self.next_random() % u64::from(2 * every)) as u32 + 1;
    }
}

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// Where blocks are sampled: a guarded block, now and then.
    pub(super) fn sample(&mut self, size: usize) -> *mut u8 {
        self.state.countdown -= 1;
        if self.state.countdown > 0 {
            return ptr::null_mut();
        }
        self.state.next_sample();
        self.state.allocations += 1;
        self.take_guarded(size)
    }

    /// Hands a guarded slot out. Null: the block is too large, there is none, or it is too soon.
    #[cold]
    #[inline(never)]
    pub(super) fn take_guarded(&mut self, size: usize) -> *mut u8 {
        let page = self.pages_per_slot();
        let state = &mut *self.state;
        let start_us = self.heap.os.now_us();
        let may = state.may_guard
            && size <= self.heap.kernel_page
            && start_us >= state.next_us
            && self.heap.may_grow(page);
        self.heap.denied_pages = Pages::ZERO;
        if !may || !fault_registry::take_mappings(2) {
            return ptr::null_mut();
        }
        if state.pool.slots.is_empty() {
            state.pool = GuardedPool::new(&self.heap.os);
            fault_registry::add_slots(&raw mut state.registered, state.pool.range());
        }
        let rng = state.next_random();
        let block = state.pool.take(&self.heap.os, size, state.allocations, rng);
        match block.is_null() {
            true => fault_registry::give_mappings(2),
            false => {
                self.heap.guarded_pages += page;
                self.heap.note_peak(Pages::ZERO);
            }
        }
        let end_us = self.heap.os.now_us();
        let (rest, taken) = (BACKOFF[usize::from(!state.every)], end_us.saturating_sub(start_us));
        state.next_us = end_us + rest * taken.clamp(1, TAKEN_MAX_US);
        block
    }
}
