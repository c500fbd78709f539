//! What the benches of the heap share.

use std::ffi::c_void;
use std::ptr;

use ebbtide::capi::{
    EBB_MORE, ebb_alloc, ebb_heap, ebb_heap_delete, ebb_heap_new, ebb_reclaim, ebb_reclaim_options,
    ebb_reclaim_report,
};

/// A heap that is deleted at the end of its scope.
pub struct Heap(*mut ebb_heap);

impl Heap {
    /// A heap with the default options.
    pub fn new() -> Heap {
        // SAFETY: NULL options are the defaults.
        let heap = unsafe { ebb_heap_new(ptr::null()) };
        assert!(!heap.is_null(), "a heap");
        Heap(heap)
    }

    /// Calls `ebb_alloc`.
    pub fn call(&self, block: *mut c_void, old: usize, new: usize) -> *mut c_void {
        // SAFETY: the benches pass live blocks of this heap.
        unsafe { ebb_alloc(self.0.cast(), block, old, new) }
    }

    /// A new block.
    pub fn allocate(&self, size: usize) -> *mut c_void {
        self.call(ptr::null_mut(), 0, size)
    }

    /// Frees a block.
    pub fn free(&self, block: *mut c_void, size: usize) {
        self.call(block, size, 0);
    }

    /// Reclaims within a budget, 0 for none; returns the bytes, and whether more remains.
    pub fn reclaim(&self, budget_us: u32) -> (u64, bool) {
        let options = ebb_reclaim_options { size: size_of::<ebb_reclaim_options>(), budget_us };
        // SAFETY: all-zero bytes are a valid report.
        let mut report: ebb_reclaim_report = unsafe { std::mem::zeroed() };
        report.size = size_of::<ebb_reclaim_report>();
        // SAFETY: both structures are whole.
        let result = unsafe { ebb_reclaim(self.0, &options, &mut report) };
        assert!(result >= 0, "reclaim failed: {result}");
        (report.returned, result == EBB_MORE)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: nothing uses the heap after this.
        unsafe { ebb_heap_delete(self.0) }
    }
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}
