//! What is refused: an allocation, which is counted and told to the thread; and ranges that the
//! kernel does not take back, which are counted.
//!
//! The former is the last thing before `ebb_alloc` returns NULL though bytes were wanted. Whoever
//! refused a block for a moment and found room after all does not come here, or takes the count
//! back.

use super::{Above, Heap};
use crate::error::Error;
use crate::options::Key;
use crate::os::Purged;
use crate::units::Pages;

impl<S: Above> Heap<S> {
    /// Takes note of an allocation that is refused.
    #[cold]
    #[inline(never)]
    pub(super) fn note_refusal(&mut self, size: usize) {
        self.counts.refused_allocations += 1;
        let (held, limit) = (self.resident(), self.options.get(Key::LimitHard));
        let by_limit = self.refused > Pages::ZERO && limit > 0;
        if by_limit {
            Error::Memory.because(format_args!(
                "ebb_alloc: no room for {size} bytes: limit_hard is {limit} bytes, {held} are held"
            ));
        } else {
            Error::Memory.because(format_args!(
                "ebb_alloc: no room for {size} bytes: the kernel gives no more, or the reserve of \
                 {} bytes has no run of pages that long; {held} are held",
                self.layout.reserved
            ));
        }
        S::refused(self);
    }

    /// Notes what came of giving so many ranges back.
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
    pub(super) fn take_refusal_back(&mut self) {
        self.counts.refused_allocations -= 1;
    }
}

/// Takes note when there is no block for so many bytes; hands it on.
///
/// # Safety
///
/// The heap is live, and nobody else uses it.
#[inline(always)]
pub(super) unsafe fn noted<S: Above>(heap: *mut Heap<S>, block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        // SAFETY: the caller's promise.
        unsafe { (*heap).note_refusal(size) };
    }
    block
}
