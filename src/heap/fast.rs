//! The hot path: allocate, free and resize.
//!
//! Reading and clearing the lowest bit of one word allocates; setting one bit frees. There is no
//! call, lock, atomic or push on the way: every rarer case leaves by a jump to a function marked
//! cold. Look at the machine code after each change here (`make disassemble`).
//!
//! The cold functions are `extern "C"`: a panic ends in them, so that a jump to one needs no frame
//! to unwind.
//!
//! The heap is a raw pointer, since the host may hold others: `ud` is one.

use core::ptr;

use super::class::{CLASS_OF_SIZE, CLASSES, SMALL_MAX, slot_of};
use super::descriptor::{Descriptor, Kind};
use super::{Above, Bin, Heap, misuse};
use crate::units::{PAGE_SHIFT, PageIndex};

/// Allocates, resizes or frees one block, by the rules of lua_Alloc.
///
/// # Safety
///
/// 1. `heap` is live and nobody else uses it during the call.
/// 2. `block` is null, a live block of the heap, or one that its [`Outside`](super::Outside) takes
///    care of. (Most of what breaks this is found out.)
#[inline(always)]
pub(crate) unsafe fn alloc<S: Above>(
    heap: *mut Heap<S>,
    block: *mut u8,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises, handed on.
    unsafe {
        if block.is_null() {
            allocate(heap, new_size)
        } else if new_size == 0 {
            free(heap, block, old_size)
        } else {
            resize(heap, block, old_size, new_size)
        }
    }
}

/// # Safety
///
/// As for [`alloc`].
#[inline(always)]
unsafe fn allocate<S: Above>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // Size 0 wraps and leaves with the large ones.
    let last = size.wrapping_sub(1);
    if last >= SMALL_MAX {
        // SAFETY: the caller's promises.
        return unsafe { allocate_large(heap, size) };
    }
    // SAFETY: the caller's promise; `last / 8` is in the table, whose entries are classes, and a
    // bin's word is always readable.
    unsafe {
        let class = *CLASS_OF_SIZE.get_unchecked(last / 8) as usize;
        let bin = bin(heap, class);
        let word = (*bin).word;
        if *word == 0 {
            return refill_and_allocate(heap, class, size);
        }
        take_slot(heap, bin, size)
    }
}

/// # Safety
///
/// `class` is a size class, and `heap` is live.
#[inline(always)]
unsafe fn bin<S: Above>(heap: *mut Heap<S>, class: usize) -> *mut Bin {
    // SAFETY: the caller's promise.
    unsafe { (&raw mut (*heap).bins).cast::<Bin>().add(class) }
}

/// Hands out the lowest free slot of a bin's word.
///
/// # Safety
///
/// The heap is live, the bin is one of its, and its word is not 0.
#[inline(always)]
unsafe fn take_slot<S: Above>(heap: *mut Heap<S>, bin: *mut Bin, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise. A word that is not 0 is in the current span (the empty word
    // is), its bits are slots (D2), and so the address lies in the span.
    unsafe {
        let word = (*bin).word;
        let bits = *word;
        core::hint::assert_unchecked(bits != 0);
        *word = bits & (bits - 1);
        (*bin).live += 1;
        (*heap).small_requested = (*heap).small_requested.wrapping_add(size as u64);
        let slot = bits.trailing_zeros() as usize;
        (*bin).base.wrapping_add(slot * (*bin).slot_size)
    }
}

/// # Safety
///
/// As for [`alloc`]; `class` is the size's.
#[cold]
#[inline(never)]
unsafe extern "C" fn refill_and_allocate<S: Above>(
    heap: *mut Heap<S>,
    class: usize,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises: nobody else uses the heap. After a refill the word is not 0.
    unsafe {
        let refill = |heap: &mut Heap<S>| {
            heap.refill(class).then(|| take_slot(heap, bin(heap, class), size))
        };
        let glean = |heap: &mut Heap<S>| heap.glean(class, size);
        let Some(block) = (*heap).with_room(refill, glean) else { return ptr::null_mut() };
        (*heap).settle();
        block
    }
}

/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn allocate_large<S: Above>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        let place = |heap: &mut Heap<S>| non_null(heap.allocate_large(size));
        let block = (*heap).with_room(place, |_| None).unwrap_or(ptr::null_mut());
        (*heap).settle();
        block
    }
}

fn non_null(block: *mut u8) -> Option<*mut u8> {
    (!block.is_null()).then_some(block)
}

/// The descriptor of the page that lies `offset` bytes above the heap's base.
///
/// # Safety
///
/// `offset` is below what the heap has committed.
#[inline(always)]
unsafe fn descriptor_of<S: Above>(heap: *mut Heap<S>, offset: usize) -> *mut Descriptor {
    // Page n's descriptor starts 64 × (n + 1) bytes below the base, and the complement of an
    // offset in page n, divided by the page size and rounded down, is -(n + 1).
    let index = (!offset).cast_signed() >> PAGE_SHIFT;
    // SAFETY: the caller's promise, and H1.
    unsafe { heap.cast::<Descriptor>().offset(index) }
}

/// # Safety
///
/// As for [`alloc`]; `block` is not null.
#[inline(always)]
unsafe fn free<S: Above>(heap: *mut Heap<S>, block: *mut u8, size: usize) -> *mut u8 {
    let offset = block.addr().wrapping_sub(heap.addr());
    // SAFETY: the caller's promises. The descriptor is there because the offset is below
    // `committed`; a reciprocal other than 0 means a span (D1), whose first descriptor is
    // `to_first` bytes on; slots of a span are below 256, so the word is one of four.
    unsafe {
        if offset >= (*heap).committed {
            return free_elsewhere(heap, block);
        }
        let descriptor = descriptor_of(heap, offset);
        let in_span = (block.addr() as u32).wrapping_sub((*descriptor).start);
        let (slot, exact) = slot_of(in_span, (*descriptor).reciprocal);
        if !exact {
            return free_elsewhere(heap, block);
        }
        let first = descriptor.byte_add((*descriptor).to_first as usize);
        let word = (&raw mut (*first).free).cast::<u64>().add(slot as usize / 64);
        let bits = *word;
        let flipped = bits ^ 1 << (slot % 64);
        if flipped < bits {
            // The bit was set: the slot is free already.
            return free_elsewhere(heap, block);
        }
        *word = flipped;
        (*bin(heap, (*descriptor).class as usize)).live -= 1;
        (*heap).small_requested = (*heap).small_requested.wrapping_sub(size as u64);
        (*first).countdown -= 1;
        if (*first).countdown == 0 {
            return end_countdown(heap, first);
        }
    }
    ptr::null_mut()
}

/// # Safety
///
/// The heap is live and nobody else uses it; `first` is the first descriptor of a span of its.
#[cold]
#[inline(never)]
unsafe extern "C" fn end_countdown<S: Above>(
    heap: *mut Heap<S>,
    first: *mut Descriptor,
) -> *mut u8 {
    let below = heap.addr() - first.addr();
    let page = PageIndex((below / size_of::<Descriptor>()) as u32 - 1);
    // SAFETY: the caller's promise.
    unsafe {
        (*heap).countdown_ended(page);
        (*heap).settle();
    }
    opaque_null()
}

/// Frees a large block or one from outside, or finds out what is wrong with the pointer.
///
/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn free_elsewhere<S: Above>(heap: *mut Heap<S>, block: *mut u8) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        if let Some(outside) = (*heap).outside_of(block) {
            return (outside.resize)(outside.context, block, 0);
        }
        let page = misuse::large_block(&mut *heap, block);
        (*heap).free_large(page);
        (*heap).settle();
    }
    opaque_null()
}

/// A null pointer that the compiler does not know to be one. If it knew, it would turn the jump to
/// a cold function into a call and a `return null`, and the hot path would have to push.
fn opaque_null() -> *mut u8 {
    core::hint::black_box(ptr::null_mut())
}

/// Resizes a block. What moves keeps its first min(old, new) bytes, by the heap's own knowledge of
/// the old size.
///
/// # Safety
///
/// As for [`alloc`]; `block` is not null and `new_size` not 0.
#[inline(never)]
unsafe extern "C" fn resize<S: Above>(
    heap: *mut Heap<S>,
    block: *mut u8,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. `small_block` has checked that the block is live, so that its
    // slot is readable to its end; the new block is another one.
    unsafe {
        let Some(class) = small_block(heap, block) else {
            return resize_large(heap, block, new_size);
        };
        let slot_size = CLASSES[class].slot_size as usize;
        let last = new_size - 1;
        if last < SMALL_MAX && CLASS_OF_SIZE[last / 8] as usize == class {
            note_requested(heap, old_size, new_size);
            return block;
        }
        let new = allocate(heap, new_size);
        if !new.is_null() {
            ptr::copy_nonoverlapping(block, new, slot_size.min(new_size));
            free(heap, block, old_size);
            return new;
        }
        if new_size > slot_size {
            return ptr::null_mut();
        }
        // A shrink never fails: the block stays where it is.
        note_requested(heap, old_size, new_size);
        block
    }
}

/// # Safety
///
/// The heap is live.
unsafe fn note_requested<S: Above>(heap: *mut Heap<S>, old_size: usize, new_size: usize) {
    let change = (new_size as u64).wrapping_sub(old_size as u64);
    // SAFETY: the caller's promise.
    unsafe { (*heap).small_requested = (*heap).small_requested.wrapping_add(change) };
}

/// The class of a live small block; `None` when the pointer is to no span.
///
/// # Safety
///
/// As for [`alloc`].
#[inline(always)]
unsafe fn small_block<S: Above>(heap: *mut Heap<S>, block: *mut u8) -> Option<usize> {
    let offset = block.addr().wrapping_sub(heap.addr());
    // SAFETY: as in `free`.
    unsafe {
        if offset >= (*heap).committed {
            return None;
        }
        let descriptor = descriptor_of(heap, offset);
        let in_span = (block.addr() as u32).wrapping_sub((*descriptor).start);
        let (slot, exact) = slot_of(in_span, (*descriptor).reciprocal);
        let first = descriptor.byte_add((*descriptor).to_first as usize);
        let live = exact && (*first).free[slot as usize / 64] >> (slot % 64) & 1 == 0;
        live.then_some((*descriptor).class as usize)
    }
}

/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn resize_large<S: Above>(
    heap: *mut Heap<S>,
    block: *mut u8,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. The old block stays live and whole until it is freed, and the
    // new one is another.
    unsafe {
        if let Some(outside) = (*heap).outside_of(block) {
            return (outside.resize)(outside.context, block, new_size);
        }
        let page = misuse::large_block(&mut *heap, block);
        debug_assert_eq!((*heap).descriptor(page).kind(), Kind::Large);
        let (_, old_size) = (*heap).large_size(page);
        if new_size <= SMALL_MAX {
            let new = allocate(heap, new_size);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, old_size.min(new_size));
                (*heap).free_large(page);
                (*heap).settle();
                return new;
            }
        }
        let resize = |heap: &mut Heap<S>| non_null(heap.resize_large(page, new_size));
        let block = (*heap).with_room(resize, |_| None).unwrap_or(ptr::null_mut());
        (*heap).settle();
        block
    }
}
