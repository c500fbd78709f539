//! Blocks that nothing checks: a slot handed out, a slot taken back, a large block placed.
//!
//! The hot path (`fast`) and checked heaps (`checked`) both work with these. What is marked
//! `inline(always)` is part of the hot path: look at the machine code after each change
//! (`make disassemble`).
//!
//! The functions for rare cases are `extern "C"`: a panic ends in them, so that a jump to one needs
//! no frame to unwind.

use core::ptr;

use super::diagnose;
use crate::heap::slots::address::{bin, complement_of, descriptor_of, slot_at};
use crate::heap::slots::class::class_of;
use crate::heap::slots::descriptor::Descriptor;
use crate::heap::slots::free_bit;
use crate::heap::{Bin, Heap, ReclaimHooks, bin_at};
use crate::os::Os;
use crate::units::PageIndex;

/// Hands out the lowest free slot of a bin's word. The caller has subtracted the word from 0.
///
/// ```text
/// -word = 0        is   word = 0: the flags of the subtraction tell
/// zeros of -word    =   zeros of word: the index of its lowest set bit
/// !-word            =   word - 1, so that word & !-word clears that bit
/// ```
///
/// # Safety
///
/// The heap is live, the bin is one of its, and its word is not 0.
#[inline(always)]
pub(in crate::heap) unsafe fn take_slot<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    bin: *mut Bin,
    negative: u64,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise. A word that is not 0 is in the active span (the word
    // `always_zero` is), its bits are slots (D2), and so the address lies in the span.
    unsafe {
        let word = (*bin).word;
        core::hint::assert_unchecked(negative != 0);
        let slot = negative.trailing_zeros();
        // Volatile, so that the instruction that changes the word reads it as well: one less.
        word.write_volatile(word.read_volatile() & !negative);
        (*heap).requested_bytes = (*heap).requested_bytes.wrapping_add(size as u64);
        (*bin).base.wrapping_add(slot.wrapping_mul((*bin).slot_size) as usize)
    }
}

/// Allocates a small block from one of the heap's own bins, whatever its tables say.
///
/// # Safety
///
/// As for [`alloc`](crate::heap::alloc); the size is small, and not 0.
pub(in crate::heap) unsafe fn allocate_small<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises: a small size has a class, whose bin is one of the heap's. A
    // bin's word is always readable, and only one that is not 0 is handed to `take_slot`.
    unsafe {
        let bin = bin(heap, bin_at(class_of(size)));
        match *(*bin).word {
            0 => refill(heap, size),
            word => take_slot(heap, bin, word.wrapping_neg(), size),
        }
    }
}

/// Allocates a small block from a bin whose word ran out.
///
/// # Safety
///
/// As for [`allocate_small`].
pub(in crate::heap) unsafe fn refill<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises: nobody else uses the heap. After a refill the word is not 0.
    unsafe {
        let class = class_of(size);
        let refill = |heap: &mut Heap<O, R>| {
            let bin = bin(heap, bin_at(class));
            heap.refill(class).then(|| take_slot(heap, bin, (*(*bin).word).wrapping_neg(), size))
        };
        let take_last = |heap: &mut Heap<O, R>| heap.take_last_slot(class, size);
        let block = (*heap)
            .retry_after_reclaim(refill, take_last)
            .or_else(|| (*heap).with_collector_share(size, refill));
        let Some(block) = block else { return ptr::null_mut() };
        (*heap).poll_hooks();
        (*heap).poll_collector();
        block
    }
}

/// Allocates a large block, whatever the heap's tables say.
///
/// # Safety
///
/// As for [`alloc`](crate::heap::alloc).
pub(in crate::heap) unsafe fn place_large<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        let place = |heap: &mut Heap<O, R>| non_null(heap.allocate_large(size));
        let block = (*heap)
            .retry_after_reclaim(place, |_| None)
            .or_else(|| (*heap).with_collector_share(size, place))
            .unwrap_or(ptr::null_mut());
        (*heap).poll_hooks();
        (*heap).poll_collector();
        block
    }
}

pub(in crate::heap) fn non_null(block: *mut u8) -> Option<*mut u8> {
    (!block.is_null()).then_some(block)
}

/// # Safety
///
/// As for [`alloc`](crate::heap::alloc); the complement is the block's, and committed.
#[inline(always)]
pub(in crate::heap) unsafe fn free<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    complement: usize,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. A slot means a span (D1), whose descriptors know their bin and
    // the first of them, and it has a bit there.
    unsafe {
        // First, so that no register has to keep the size.
        (*heap).freed_bytes = (*heap).freed_bytes.wrapping_add(size as u64);
        let descriptor = descriptor_of(heap, complement);
        let Some(slot) = slot_at(descriptor, block) else {
            return free_large(heap, block);
        };
        let bin = bin(heap, (*descriptor).bin());
        (*bin).freed = (*bin).freed.wrapping_add(1);
        if free_bit::set((*descriptor).span_head.get(), slot) {
            return free_slow(heap, block);
        }
    }
    ptr::null_mut()
}

/// Frees a small block of the heap's own, whatever its tables say.
///
/// # Safety
///
/// As for [`alloc`](crate::heap::alloc); it is a small block, of `size` bytes.
pub(in crate::heap) unsafe fn free_small<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    size: usize,
) {
    // SAFETY: the caller's promises: it is a live block of this heap, so that its offset is
    // committed, as `free` needs (H1).
    unsafe { free(heap, block, complement_of(heap, block), size) };
}

/// Deals with a slot that is not as free as any other: its span's countdown ended, or it was free
/// before.
///
/// # Safety
///
/// As for [`free`], which has just marked it.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_slow<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
) -> *mut u8 {
    // SAFETY: the caller's promise: the block is a slot of a span, whose pages are all committed.
    unsafe {
        let descriptor = descriptor_of(heap, complement_of(heap, block));
        let head = (*descriptor).span_head.get();
        if !slot_at(descriptor, block).is_some_and(|slot| slot.is_free(&(*head).free)) {
            // Marking a slot that is free takes its mark away.
            diagnose::not_live(&mut *heap, block);
        }
        let below = heap.addr() - head.addr();
        (*heap).countdown_ended(PageIndex((below / size_of::<Descriptor>()) as u32 - 1));
        (*heap).poll_hooks();
    }
    opaque_null()
}

/// Frees a large block, or finds out what is wrong with the pointer.
///
/// # Safety
///
/// As for [`free`], which has counted it as a small one.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_large<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap. `large_block` returns only for a
    // live large block.
    unsafe {
        let page = diagnose::large_block(&mut *heap, block);
        let (_, size) = (*heap).large_size(page);
        (*heap).freed_bytes = (*heap).freed_bytes.wrapping_sub(size as u64);
        (*heap).free_large(page);
        (*heap).poll_hooks();
    }
    opaque_null()
}

/// Resizes or frees a block from outside, or finds out what is wrong with the pointer; whatever the
/// heap's tables say.
///
/// # Safety
///
/// As for [`alloc`](crate::heap::alloc).
#[cold]
#[inline(never)]
pub(in crate::heap) unsafe fn resize_foreign<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        if let Some(foreign) = (*heap).foreign_of(block) {
            return (foreign.resize)(foreign.context, block, new_size);
        }
        diagnose::not_live(&mut *heap, block)
    }
}

/// A null pointer that the compiler does not know to be one. If it knew, it would turn the jump to
/// a cold function into a call and a `return null`, and the hot path would have to push.
fn opaque_null() -> *mut u8 {
    core::hint::black_box(ptr::null_mut())
}

/// The class of a live small block; `None` when the pointer is to no span.
///
/// # Safety
///
/// As for [`alloc`](crate::heap::alloc); the complement is the block's, and committed.
#[inline(always)]
pub(in crate::heap) unsafe fn small_block<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    complement: usize,
) -> Option<usize> {
    // SAFETY: as in `free`.
    unsafe {
        let descriptor = descriptor_of(heap, complement);
        let slot = slot_at(descriptor, block)?;
        let head = (*descriptor).span_head.get();
        (!slot.is_free(&(*head).free)).then_some((*descriptor).class())
    }
}

/// The class of the slot that starts there, if there is one and it is not free.
///
/// # Safety
///
/// The heap is live.
pub(in crate::heap) unsafe fn live_slot<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
) -> Option<usize> {
    // SAFETY: the caller's promise: what is committed has a descriptor.
    unsafe {
        let offset = block.addr().wrapping_sub((*heap).base.addr());
        let is_committed = offset < (*heap).committed();
        is_committed.then(|| small_block(heap, block, complement_of(heap, block))).flatten()
    }
}
