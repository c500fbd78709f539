//! What is refused: an allocation, which is counted and told to the thread; and ranges that the
//! kernel does not take back, which are counted.
//!
//! An allocation is counted just before `ebb_alloc` returns NULL for a size above 0. An attempt
//! that failed but succeeded after room was made is not counted, or taken off the count again.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::mapped::{Shortage, shortage};
use crate::error::Error;
use crate::heap::slots::class::least_of;
use crate::heap::{Heap, ReclaimHooks};
use crate::log;
use crate::options::Key;
use crate::os::{Os, Purged};
use crate::units::Pages;

/// Whether the first allocation of the process that RLIMIT_AS refuses is reported in a line.
static REPORTS_SHORTAGE: AtomicBool = AtomicBool::new(false);

/// Has it reported.
pub(crate) fn enable_shortage_report() {
    REPORTS_SHORTAGE.store(true, Relaxed);
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Takes note of an allocation that is refused.
    #[cold]
    #[inline(never)]
    pub(in crate::heap) fn note_refusal(&mut self, size: usize) {
        self.counts.refused_allocations += 1;
        let (held, limit) = (self.resident(), self.options.get(Key::LimitHard));
        let by_limit = self.denied_pages > Pages::ZERO && limit > 0;
        let denied = if by_limit { 0 } else { core::mem::take(&mut self.kernel_denied) };
        let shortage = (denied > 0 && self.layout.is_planned).then(|| shortage(&self.os, denied));
        let shortage = shortage.flatten();
        self.address_space_refused = shortage.is_some();
        if by_limit {
            Error::Memory.because(format_args!(
                "ebb_alloc: no room for {size} bytes: limit_hard is {limit} bytes, {held} are held"
            ));
        } else if let Some(shortage) = shortage {
            self.note_shortage(size, shortage);
        } else {
            Error::Memory.because(format_args!(
                "ebb_alloc: no room for {size} bytes: the kernel gives no more, or the {} of {} \
                 bytes has no run of pages that long; {held} are held",
                if self.layout.is_planned { "range" } else { "reserve" },
                self.layout.bytes
            ));
        }
        R::allocation_refused(self);
    }

    /// Takes note that it is RLIMIT_AS that has refused.
    fn note_shortage(&mut self, size: usize, shortage: Shortage) {
        self.counts.refused_address_space += 1;
        let mapped = self.reserved();
        let text = format_args!("no room for {size} bytes: {shortage}, {mapped} for this heap");
        Error::Memory.because(format_args!("ebb_alloc: {text}"));
        if REPORTS_SHORTAGE.swap(false, Relaxed) {
            log::line(format_args!("{text}; raise the limit, or have Lua hold less"));
        }
    }

    /// Notes what came of giving `ranges` ranges back.
    pub(crate) fn note_purged(&mut self, purged: &Purged, ranges: usize) {
        let counts = &mut self.counts;
        counts.purge_calls += purged.calls;
        if purged.ranges > 0 {
            counts.purge_errno = 0;
        }
        if purged.ranges < ranges {
            self.note_refused_ranges(1, purged.errno);
        }
    }

    /// Notes that the kernel did not take ranges back, and why it refused the last.
    pub(crate) fn note_refused_ranges(&mut self, ranges: u64, errno: i32) {
        let counts = &mut self.counts;
        if ranges > 0 {
            counts.failed_calls += ranges;
            counts.purge_refused += ranges;
            counts.purge_errno = errno;
        }
    }

    /// A block that may shrink stays where it is, since a smaller one was refused: nothing was.
    #[cold]
    pub(in crate::heap) fn retract_refusal(&mut self) {
        self.counts.refused_allocations -= 1;
        self.counts.refused_address_space -= u64::from(self.address_space_refused);
    }

    /// Notes that a block of a class was shrunk and stays where it is, since there is no memory.
    #[cold]
    pub(in crate::heap) fn note_shrunk_in_place(
        &mut self,
        class: usize,
        old_size: usize,
        new_size: usize,
    ) {
        self.retract_refusal();
        let least = least_of(class).min(old_size);
        self.counts.shrunk_in_place =
            self.counts.shrunk_in_place.saturating_add(least.saturating_sub(new_size));
    }
}

/// Takes note when there is no block of `size` bytes; hands it on.
///
/// # Safety
///
/// The heap is live, and nobody else uses it.
#[inline(always)]
pub(in crate::heap) unsafe fn noted<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    size: usize,
) -> *mut u8 {
    if block.is_null() {
        // SAFETY: the caller's promise: the heap is live, and no other reference to it exists
        // during the call.
        unsafe { (*heap).note_refusal(size) };
    }
    block
}
