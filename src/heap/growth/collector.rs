//! The VM's garbage collector, as the heap reaches it when memory is short.
//!
//! LuaJIT collects by a threshold alone: a VM at its limit with a heap full of garbage fails each
//! allocation until the threshold is reached, which is never. A heap that knows its VM makes the
//! collector due instead, at the VM's next safe point. Not earlier: the heap is inside of an
//! allocation, perhaps one of the collector's own.

use crate::heap::slots::class::SMALL_MAX;
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;

/// The collector of a heap's VM.
#[derive(Clone, Copy)]
pub(crate) struct Collector {
    /// Handed to both functions.
    pub(crate) context: *mut u8,
    /// Has the collector run a cycle to its end at the VM's next safe point. False: it is stopped,
    /// by the program or for the time of a finalizer, and stays so. Does not allocate.
    ///
    /// # Safety
    ///
    /// The context is the one beside it, and its VM is live and this thread's.
    pub(crate) make_due: unsafe fn(context: *mut u8) -> bool,
    /// Restores the collector's own pace. Does not allocate.
    ///
    /// # Safety
    ///
    /// As for `make_due`.
    pub(crate) cancel_due: unsafe fn(context: *mut u8),
    /// Whether a caller that is in no allocation may restore the collector's own pace: no other
    /// thread runs the VM meanwhile.
    ///
    /// # Safety
    ///
    /// The context is the one beside it, and its VM is live.
    pub(crate) may_cancel_due: unsafe fn(context: *mut u8) -> bool,
    /// Finds out whether the collector makes one step each time that it is made due (true), or runs
    /// a whole cycle. May take a millisecond, and memory from outside the heap.
    ///
    /// # Safety
    ///
    /// As for `may_cancel_due`.
    pub(crate) goes_in_steps: unsafe fn(context: *mut u8) -> bool,
    /// The result of `goes_in_steps`; `None`: not called yet.
    pub(crate) in_steps: Option<bool>,
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Lets the heap reach the collector of its VM.
    pub(crate) fn set_collector(&mut self, collector: Collector) {
        self.collector = Some(collector);
        R::collector_set(self);
    }

    /// Finds out, once, whether one call of `make_due` runs a whole cycle.
    pub(crate) fn learn_collector(&mut self) {
        if let Some(Collector { context, goes_in_steps, in_steps, .. }) = &mut self.collector {
            // SAFETY: a VM that ends takes its collector from the heap.
            in_steps.get_or_insert_with(|| unsafe { goes_in_steps(*context) });
        }
    }

    /// Whether a caller that is in no allocation may restore the collector's own pace.
    pub(crate) fn may_cancel_collector_due(&self) -> bool {
        self.collector.is_some_and(|Collector { context, may_cancel_due, .. }| {
            // SAFETY: as above.
            unsafe { may_cancel_due(context) }
        })
    }

    /// Has the VM's collector run soon. False: there is none, or it is stopped.
    pub(crate) fn make_collector_due(&mut self) -> bool {
        let Some(Collector { context, make_due, .. }) = self.collector else { return false };
        // SAFETY: the heap is used for its VM by this thread, and a VM that ends takes its
        // collector from the heap.
        unsafe { make_due(context) }
    }

    /// Restores the collector's own pace.
    pub(crate) fn cancel_collector_due(&mut self) {
        if let Some(Collector { context, cancel_due, .. }) = self.collector {
            // SAFETY: as above.
            unsafe { cancel_due(context) };
        }
    }

    /// Does something that takes memory, for a block that may be the collector's own, once more
    /// with what is kept for it: LuaJIT's table of strings has a power of two of bytes.
    pub(in crate::heap) fn with_collector_share<T>(
        &mut self,
        size: usize,
        attempt: impl FnOnce(&mut Heap<O, R>) -> Option<T>,
    ) -> Option<T> {
        const LEAST: usize = 2048;
        let may_be_table = size >= LEAST && size.is_power_of_two();
        if self.collector.is_none() || !(may_be_table || self.take_grace(size)) {
            return None;
        }
        R::open_collector_share(self);
        let done = attempt(self);
        R::restore_limit(self);
        done
    }

    /// Whether a small block may be had from what is kept, for the collector is due and a few are
    /// to be let pass until it has run: it does so at the VM's next safe point only.
    fn take_grace(&mut self, size: usize) -> bool {
        let has_grace = self.collecting && self.grace > 0 && size <= SMALL_MAX;
        self.grace -= u8::from(has_grace);
        has_grace
    }

    /// Small blocks that were ever freed. Wraps.
    pub(crate) fn freed_blocks(&self) -> u64 {
        self.bins.iter().fold(0, |sum: u64, bin| sum.wrapping_add(bin.freed))
    }

    /// Calls [`ReclaimHooks::allocated`] while the collector is due. Every allocation on the slow
    /// path ends with this.
    #[inline]
    pub(in crate::heap) fn poll_collector(&mut self) {
        if self.collecting {
            R::allocated(self);
        }
    }
}
