//! The entry point to a heap whose every block is checked.

use core::ffi::c_void;

use crate::heap;
use crate::reclaim::KernelHeap as Heap;

/// ebb_alloc() with every block of the heap checked: for finding memory
/// bugs of C modules and of code that uses the FFI. Given to lua_newstate() as its
/// allocation function, or used for the first block of a heap, it turns on what
/// EBBTIDE_CHECKED=1 turns on for all heaps: see ebb_options.checked.
///
/// heap      from ebb_heap_new(), without blocks when this is called first:
///           otherwise the process stops with one line.
/// ptr, osize, nsize  as for ebb_alloc(), but that osize has to be the size last
///           asked for ptr.
///
/// Returns what ebb_alloc() does. From the first call on ebb_alloc() with this heap
/// checks as much.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `ptr` is NULL or a live
/// block of it. (What breaks this is found out.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_alloc_checked(
    heap: *mut c_void,
    ptr: *mut c_void,
    osize: usize,
    nsize: usize,
) -> *mut c_void {
    // SAFETY: the caller's promises are those of both functions. The first makes every block
    // checked before the second hands out or takes one. No panic leaves an `extern "C"` function:
    // it aborts the process here.
    unsafe {
        heap::checked::check_every_block(heap.cast::<Heap>());
        heap::alloc(heap.cast::<Heap>(), ptr.cast(), osize, nsize).cast()
    }
}
