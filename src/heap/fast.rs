//! The hot path: allocate, free and resize.
//!
//! Reading and clearing the lowest bit of one word allocates; setting one bit frees. There is no
//! call, lock, atomic or push on the way: every rarer case leaves by a jump to a function of its
//! own. `slots::address` has the way from a pointer to its slot, `blocks::plain` what checked heaps
//! do alike. Look at the machine code after each change here (`make disassemble`).
//!
//! Those functions are `extern "C"`: a panic ends in them, so that a jump to one needs no frame to
//! unwind.
//!
//! The heap is a raw pointer, since the host may hold others: `ud` is one.

use core::ptr;

use super::blocks::diagnose;
use super::blocks::plain::{
    free, non_null, place_large, refill, resize_foreign, small_block, take_slot,
};
use super::growth::refusal::noted;
use super::slots::address::{bin, complement_of, is_committed};
use super::slots::class::{CLASSES, QUICK_MAX, SMALL_MAX, class_of};
use super::slots::descriptor::PageKind;
use super::{Bin, Heap, ReclaimHooks, bin_at, checked};
use crate::os::Os;

/// Allocates, resizes or frees one block, by the rules of lua_Alloc.
///
/// # Safety
///
/// 1. `heap` is live and nobody else uses it during the call.
/// 2. `block` is null, a live block of the heap, or one that its
///    [`ForeignBlocks`](super::ForeignBlocks) takes care of. (Most of what breaks this is found
///    out.)
#[inline(always)]
pub(crate) unsafe fn alloc<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises: nobody else uses the heap. A block below `committed` has a
    // committed descriptor (H1), which `free` needs; all others go to `resize_slow`.
    unsafe {
        let is_null = block.is_null();
        // Null is 0, which `allocate` can use: as a register, not as a constant.
        let block = block.with_addr(opaque_reg(block.addr()));
        if is_null {
            return allocate(heap, new_size, block.addr());
        }
        let complement = complement_of(heap, block);
        // 2^64 * new_size + !committed < !d   is   new_size = 0 and d < committed
        //
        // One subtraction of two words, and one jump, tell both; the upper word of what is left is
        // the new size, less 1 if !committed < !d.
        let least = (new_size as u128) << 64 | (*heap).committed_complement as u128;
        let (rest, is_less) = least.overflowing_sub(complement as u128);
        let rest = opaque_reg((rest >> 64) as usize);
        if is_less {
            free(heap, block, complement, old_size)
        } else {
            resize_slow(heap, block, old_size, rest)
        }
    }
}

/// The same value, of which the compiler knows nothing: it neither puts a constant in its place nor
/// works it out a second time elsewhere.
#[inline(always)]
fn opaque_reg(mut value: usize) -> usize {
    // SAFETY: a comment is no instruction: the value stays as it is, in its register.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// `zero` is 0: a register to subtract from.
///
/// # Safety
///
/// As for [`alloc`].
#[inline(always)]
unsafe fn allocate<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
    zero: usize,
) -> *mut u8 {
    if size > QUICK_MAX {
        // SAFETY: the caller's promises; the size was compared above.
        return unsafe { allocate_medium(heap, size) };
    }
    // SAFETY: the caller's promise; the size is in the table, which is of bins.
    unsafe {
        let at = *(&raw const (*heap).bin_of_size).cast::<u16>().add(size);
        allocate_from(heap, bin(heap, at), size, zero)
    }
}

/// # Safety
///
/// As for [`alloc`]; the bin is the size's, and one of the heap's. `zero` is 0.
#[inline(always)]
unsafe fn allocate_from<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    bin: *mut Bin,
    size: usize,
    zero: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. A bin's word lies in its active span's descriptor, which is
    // committed (H1), or is the heap's `always_zero`.
    unsafe {
        let negative = (zero as u64).wrapping_sub(*(*bin).word);
        if negative == 0 {
            return refill_and_allocate(heap, size);
        }
        take_slot(heap, bin, negative, size)
    }
}

/// Allocates what is not small enough for the heap's own table.
///
/// # Safety
///
/// As for [`alloc`]; the size is above [`QUICK_MAX`].
#[inline(never)]
unsafe extern "C" fn allocate_medium<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. A size up to `small_max`, which is SMALL_MAX or 0, has a
    // class, whose bin is one of the heap's.
    unsafe {
        if size > (*heap).small_max {
            return allocate_large(heap, size);
        }
        allocate_from(heap, bin(heap, bin_at(class_of(size))), size, 0)
    }
}

/// # Safety
///
/// As for [`alloc`]; the size is small, or 0.
#[cold]
#[inline(never)]
unsafe extern "C" fn refill_and_allocate<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    if size == 0 {
        return ptr::null_mut();
    }
    // SAFETY: the caller's promises, for a heap that nobody else uses. A state means that every
    // block, or a sample of them, is checked. The size is small and not 0, as `refill` needs.
    unsafe {
        if !(*heap).checked.is_null() {
            return checked::allocate(heap, size);
        }
        (*heap).refuse_if_closed();
        noted(heap, refill(heap, size), size)
    }
}

/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn allocate_large<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        if (*heap).fast_path_disabled() {
            (*heap).refuse_if_closed();
            return checked::allocate(heap, size);
        }
        noted(heap, place_large(heap, size), size)
    }
}

/// Resizes a block, or frees one that is not in what the heap has committed. `rest` is the new
/// size, less 1 if the block is.
///
/// # Safety
///
/// As for [`alloc`]; `block` is not null.
#[inline(never)]
unsafe extern "C" fn resize_slow<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    old_size: usize,
    rest: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. A block that is committed has a new size above 0, or it would
    // have been freed.
    unsafe {
        let complement = complement_of(heap, block);
        if is_committed(heap, complement) {
            resize(heap, block, complement, old_size, rest.wrapping_add(1))
        } else {
            resize_unmanaged(heap, block, old_size, rest)
        }
    }
}

/// Resizes or frees a block that is none of the hot path's.
///
/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn resize_unmanaged<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        if !(*heap).checked.is_null() {
            return checked::resize(heap, block, old_size, new_size);
        }
        (*heap).refuse_if_closed();
        resize_foreign(heap, block, new_size)
    }
}

/// Resizes a block. What moves keeps its first min(old, new) bytes, by the heap's own knowledge of
/// the old size.
///
/// # Safety
///
/// As for [`alloc`]; the complement is the block's, and committed; `new_size` is not 0.
#[inline(always)]
unsafe fn resize<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    complement: usize,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. `small_block` has checked that the block is live, so that its
    // slot is readable to its end; the new block is another one.
    unsafe {
        let Some(class) = small_block(heap, block, complement) else {
            return resize_large(heap, block, new_size);
        };
        let slot_size = CLASSES[class].slot_size as usize;
        if new_size <= SMALL_MAX && class_of(new_size) == class {
            note_requested(heap, old_size, new_size);
            return block;
        }
        let new = allocate(heap, new_size, 0);
        if !new.is_null() {
            ptr::copy_nonoverlapping(block, new, slot_size.min(new_size));
            free(heap, block, complement, old_size);
            return new;
        }
        if new_size > slot_size {
            return ptr::null_mut();
        }
        // A shrink never fails: the block stays where it is.
        note_requested(heap, old_size, new_size);
        (*heap).note_shrunk_in_place(class, old_size, new_size);
        block
    }
}

/// # Safety
///
/// The heap is live.
unsafe fn note_requested<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    old_size: usize,
    new_size: usize,
) {
    let change = (new_size as u64).wrapping_sub(old_size as u64);
    // SAFETY: the caller's promise: the heap is live, and its counts are the calling thread's.
    unsafe { (*heap).requested_bytes = (*heap).requested_bytes.wrapping_add(change) };
}

/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn resize_large<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. The old block stays live and whole until it is freed, and the
    // new one is another.
    unsafe {
        let page = diagnose::large_block(&mut *heap, block);
        debug_assert_eq!((*heap).descriptor(page).kind(), PageKind::Large);
        let (_, old_size) = (*heap).large_size(page);
        if new_size <= SMALL_MAX {
            let new = allocate(heap, new_size, 0);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, old_size.min(new_size));
                (*heap).free_large(page);
                (*heap).poll_hooks();
                return new;
            }
            (*heap).retract_refusal();
        }
        let resize = |heap: &mut Heap<O, R>| non_null(heap.resize_large(page, new_size));
        let block = (*heap).retry_after_reclaim(resize, |_| None).unwrap_or(ptr::null_mut());
        (*heap).poll_hooks();
        noted(heap, block, new_size)
    }
}
