//! jemalloc 5.3.

use std::ffi::c_void;
use std::ptr;

use tikv_jemalloc_sys::{mallctl, malloc, realloc, sdallocx};

/// # Safety
///
/// `size` is not 0.
#[inline(always)]
pub unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: any size is fine.
    unsafe { malloc(size) }
}

/// # Safety
///
/// The block is live, was asked for with this size, and nothing uses it any more.
#[inline(always)]
pub unsafe fn free(block: *mut c_void, size: usize) {
    // SAFETY: the caller's promise; no alignment was asked for, so there is no flag.
    unsafe { sdallocx(block, size, 0) }
}

/// # Safety
///
/// The block is live.
#[inline(always)]
pub unsafe fn resize(block: *mut c_void, _old: usize, new: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { realloc(block, new) }
}

/// Empties the thread's cache, then purges every arena: 4096 is `MALLCTL_ARENAS_ALL`.
pub fn purge() -> bool {
    for command in [c"thread.tcache.flush", c"arena.4096.purge"] {
        let null = ptr::null_mut();
        // SAFETY: both commands read and write nothing, and the name ends with a zero.
        let failed = unsafe { mallctl(command.as_ptr(), null, ptr::null_mut(), null, 0) };
        assert_eq!(failed, 0, "jemalloc does not know {command:?}");
    }
    true
}
