//! snmalloc.

use std::ffi::c_void;

use snmalloc_sys::{sn_rust_alloc, sn_rust_dealloc, sn_rust_realloc};

/// What Lua asks for. Every block of snmalloc's has 16.
const ALIGNMENT: usize = 8;

/// # Safety
///
/// `size` is not 0.
#[inline(always)]
pub unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: the alignment is a power of two.
    unsafe { sn_rust_alloc(ALIGNMENT, size) }
}

/// # Safety
///
/// The block is live, was asked for with this size, and nothing uses it any more.
#[inline(always)]
pub unsafe fn free(block: *mut c_void, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { sn_rust_dealloc(block, ALIGNMENT, size) };
}

/// # Safety
///
/// The block is live and was asked for with the old size.
#[inline(always)]
pub unsafe fn resize(block: *mut c_void, old: usize, new: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { sn_rust_realloc(block, ALIGNMENT, old, new) }
}

/// It has no call for it: chunks that are free go back to its own backend, which keeps them.
pub fn purge() -> bool {
    false
}
