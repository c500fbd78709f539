//! One other allocator behind the signature of `lua_Alloc`, as a shared library.
//!
//! Which one, a feature says. Each is used as its own `malloc`, `free` and `realloc` would be: on
//! the heap of the calling thread, and with the size when a block is freed where the allocator
//! gains by it. Benches load the library and find these functions by name:
//!
//! ```text
//!   void *peer_alloc(void *ud, void *ptr, size_t osize, size_t nsize);   a lua_Alloc
//!   int   peer_purge(void);      gives back what can be; 0 where the allocator has no such call
//! ```

#[cfg(feature = "free-lists")]
mod free_lists;
#[cfg(feature = "jemalloc")]
mod jemalloc;
#[cfg(feature = "mimalloc-v3")]
mod mimalloc;
#[cfg(feature = "snmalloc")]
mod snmalloc;

#[cfg(feature = "free-lists")]
use free_lists as peer;
#[cfg(feature = "jemalloc")]
use jemalloc as peer;
#[cfg(feature = "mimalloc-v3")]
use mimalloc as peer;
#[cfg(feature = "snmalloc")]
use snmalloc as peer;

use std::ffi::{c_int, c_void};

/// Allocates, resizes or frees a block; the signature is `lua_Alloc`'s.
///
/// # Safety
///
/// 1. `block` is NULL or a live block of this allocator, and `old` is what it was last asked for.
/// 2. When `new` is 0, nothing uses the block any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn peer_alloc(
    _ud: *mut c_void,
    block: *mut c_void,
    old: usize,
    new: usize,
) -> *mut c_void {
    // SAFETY: what the caller promises is what each of these asks for.
    unsafe {
        match (block.is_null(), new) {
            (true, 0) => std::ptr::null_mut(),
            (true, _) => peer::allocate(new),
            (false, 0) => {
                peer::free(block, old);
                std::ptr::null_mut()
            }
            (false, _) => peer::resize(block, old, new),
        }
    }
}

/// Gives back to the kernel what the allocator can. Returns 1, or 0 when it knows no such call.
#[unsafe(no_mangle)]
pub extern "C" fn peer_purge() -> c_int {
    c_int::from(peer::purge())
}
