//! mimalloc, version 2 or 3.

use std::ffi::c_void;

use libmimalloc_sys::{mi_collect, mi_free, mi_malloc, mi_realloc};

/// # Safety
///
/// `size` is not 0.
#[inline(always)]
pub unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: any size is fine.
    unsafe { mi_malloc(size) }
}

/// # Safety
///
/// The block is live, and nothing uses it any more.
#[inline(always)]
pub unsafe fn free(block: *mut c_void, _size: usize) {
    // SAFETY: the caller's promise. `mi_free_size` would do the same with a call more.
    unsafe { mi_free(block) }
}

/// # Safety
///
/// The block is live.
#[inline(always)]
pub unsafe fn resize(block: *mut c_void, _old: usize, new: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { mi_realloc(block, new) }
}

/// Frees what is free in all pages of this thread, by force.
pub fn purge() -> bool {
    // SAFETY: it may be called at any time.
    unsafe { mi_collect(true) };
    true
}
