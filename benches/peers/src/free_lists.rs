//! The floor: next to nothing for an allocation, to see what is left of a program then.
//!
//! A list of free blocks for each 16 bytes of size, last in, first out, and a chunk of memory that
//! new blocks are cut from. It believes the size that it is told, never looks at a pointer, joins
//! nothing, gives nothing back, and knows one thread. What is longer than 1 KB comes from the C
//! library.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr;

const STEP: usize = 16;
const LONGEST: usize = 1024;
const CHUNK: usize = 1 << 20;

struct FreeLists {
    /// The first free block of each size; each holds the address of the next.
    free: [*mut c_void; LONGEST / STEP + 1],
    /// What is left of the chunk.
    next: *mut u8,
    left: usize,
}

/// For one thread: the host has no other.
struct OneThread(UnsafeCell<FreeLists>);

// SAFETY: only one thread of the host runs Lua.
unsafe impl Sync for OneThread {}

static FREE_LISTS: OneThread = OneThread(UnsafeCell::new(FreeLists {
    free: [ptr::null_mut(); LONGEST / STEP + 1],
    next: ptr::null_mut(),
    left: 0,
}));

/// # Safety
///
/// `size` is not 0; one thread.
#[inline(always)]
pub unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: the caller's promise: nobody else has the lists. A free block holds an address.
    unsafe {
        if size > LONGEST {
            return allocate_long(size);
        }
        let lists = FREE_LISTS.0.get();
        let list = &raw mut (*lists).free[size.div_ceil(STEP)];
        let block = *list;
        if block.is_null() {
            return cut(lists, size.next_multiple_of(STEP));
        }
        *list = *block.cast::<*mut c_void>();
        block
    }
}

#[inline(never)]
fn allocate_long(size: usize) -> *mut c_void {
    // SAFETY: any size is fine.
    unsafe { libc::malloc(size) }
}

/// # Safety
///
/// The block is live, longer than the longest in a list, and nothing uses it any more.
#[inline(never)]
unsafe fn free_long(block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { libc::free(block) }
}

/// Cuts a block from the chunk, or from a new one.
///
/// # Safety
///
/// `lists` is the one there is, and nobody else uses it.
#[cold]
#[inline(never)]
unsafe fn cut(lists: *mut FreeLists, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise; the chunk has room for the block.
    unsafe {
        if (*lists).left < size {
            let chunk = libc::malloc(CHUNK);
            if chunk.is_null() {
                return chunk;
            }
            ((*lists).next, (*lists).left) = (chunk.cast(), CHUNK);
        }
        let block = (*lists).next;
        (*lists).next = block.add(size);
        (*lists).left -= size;
        block.cast()
    }
}

/// # Safety
///
/// The block is live, was asked for with this size, and nothing uses it any more; one thread.
#[inline(always)]
pub unsafe fn free(block: *mut c_void, size: usize) {
    // SAFETY: the caller's promise: the block has room for an address.
    unsafe {
        if size > LONGEST {
            return free_long(block);
        }
        let list = &raw mut (*FREE_LISTS.0.get()).free[size.div_ceil(STEP)];
        *block.cast::<*mut c_void>() = *list;
        *list = block;
    }
}

/// # Safety
///
/// The block is live and was asked for with this size; one thread.
#[inline(never)]
pub unsafe fn resize(block: *mut c_void, old: usize, new: usize) -> *mut c_void {
    // SAFETY: the caller's promise: both blocks have room for what is copied.
    unsafe {
        if old > LONGEST && new > LONGEST {
            return libc::realloc(block, new);
        }
        if old.div_ceil(STEP) == new.div_ceil(STEP) {
            return block;
        }
        let moved = allocate(new);
        if !moved.is_null() {
            ptr::copy_nonoverlapping(block.cast::<u8>(), moved.cast(), old.min(new));
            free(block, old);
        }
        moved
    }
}

pub fn purge() -> bool {
    false
}
