//! A call on a heap that was deleted stops the process with one line, where one load can tell.
//!
//! The addresses of deleted heaps are remembered in a table, one for each hash: a call other than
//! for a block looks there before it touches the heap, which may be unmapped. An entry stands until
//! another heap of that hash is deleted, or a new heap gets that address. `ebb_alloc` does not
//! look, since the hot path has no time for that. But a cached heap, which is still mapped, has its
//! fast path disabled: each such call takes a slow path that stops the process.

#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};

use crate::bug::{bug, ensure};
use crate::heap::checked::ApiCall;
use crate::heap::slots::class::SMALL_MAX;
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::PAGE_SHIFT;

/// log2 of the entries.
const ENTRIES_SHIFT: u32 = 8;

/// Addresses of heaps that were deleted; 0: none.
static DELETED: [AtomicUsize; 1 << ENTRIES_SHIFT] =
    [const { AtomicUsize::new(0) }; 1 << ENTRIES_SHIFT];

/// Where a heap's address would be remembered. Heaps are on pages, at random.
fn entry(heap: usize) -> &'static AtomicUsize {
    // Upper bits of a multiple of the golden ratio: neighbours lie apart.
    let hash = ((heap >> PAGE_SHIFT) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &DELETED[(hash >> (u64::BITS - ENTRIES_SHIFT)) as usize]
}

/// Remembers that a heap is being deleted, while its address is still its own. Stops when it was
/// deleted before.
pub(in crate::heap) fn note_deleted(heap: usize) {
    if entry(heap).swap(heap, AcqRel) == heap {
        stop(heap, ApiCall::Delete);
    }
}

/// Forgets what was at the address of a new heap.
pub(in crate::heap) fn note_made(heap: usize) {
    // Another address of that hash stays.
    let _ = entry(heap).compare_exchange(heap, 0, AcqRel, Relaxed);
}

/// Stops when a heap is known to be deleted. Does not touch the heap.
pub(crate) fn refuse_deleted(heap: usize, function: ApiCall) {
    if entry(heap).load(Relaxed) == heap && heap != 0 {
        stop(heap, function);
    }
}

#[cold]
fn stop(heap: usize, function: ApiCall) -> ! {
    bug!("heap {heap:#x}: {} was called on a heap that was deleted before", function.name())
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Closes a heap without blocks to `ebb_alloc`, as a checked one is closed to the hot path.
    pub(in crate::heap) fn close(&mut self) {
        self.small_max = 0;
        self.committed_complement = !0;
    }

    /// Opens it again.
    pub(in crate::heap) fn open(&mut self) {
        self.small_max = SMALL_MAX;
        self.committed_complement = !self.committed();
    }

    /// Stops when `ebb_alloc` was called on a heap that is closed to it.
    #[inline]
    pub(in crate::heap) fn refuse_if_closed(&self) {
        let is_open = !self.fast_path_disabled() || !self.checked.is_null();
        ensure!(
            is_open,
            "heap {:p}: ebb_alloc was called on a heap that was deleted before: lua_close() comes \
             first, then ebb_heap_delete()",
            self.base
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_remembered(heap: usize) -> bool {
        entry(heap).load(Relaxed) == heap
    }

    #[test]
    fn a_deleted_heap_is_remembered_until_its_address_is_used_again() {
        // Of no heap: their addresses are below 2^47.
        let heaps = [1 << 60, (1 << 60) + 4096];
        heaps.iter().for_each(|heap| note_deleted(*heap));
        assert_eq!(heaps.map(is_remembered), [true; 2]);
        note_made(heaps[0]);
        assert_eq!(heaps.map(is_remembered), [false, true]);
        refuse_deleted(heaps[0], ApiCall::Tick);
        refuse_deleted(0, ApiCall::Tick);
        note_made(heaps[1]);
    }
}
