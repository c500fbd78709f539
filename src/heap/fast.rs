//! The hot path: allocate, free and resize.
//!
//! Reading and clearing the lowest bit of one word allocates; setting one bit frees. There is no
//! call, lock, atomic or push on the way: every rarer case leaves by a jump to a function of its
//! own. Look at the machine code after each change here (`make disassemble`).
//!
//! Those functions are `extern "C"`: a panic ends in them, so that a jump to one needs no frame to
//! unwind.
//!
//! The heap is a raw pointer, since the host may hold others: `ud` is one.

use core::ptr;

use super::blocks::diagnose;
use super::growth::refusal::noted;
use super::slots::class::{CLASSES, QUICK_MAX, SMALL_MAX, Slot, class_of};
use super::slots::descriptor::{Descriptor, PageKind};
use super::slots::free_bit;
use super::{Bin, Heap, ReclaimHooks, bin_at, checked};
use crate::units::{PAGE_SHIFT, PageIndex};

/// Allocates, resizes or frees one block, by the rules of lua_Alloc.
///
/// # Safety
///
/// 1. `heap` is live and nobody else uses it during the call.
/// 2. `block` is null, a live block of the heap, or one that its
///    [`ForeignBlocks`](super::ForeignBlocks) takes care of. (Most of what breaks this is found
///    out.)
#[inline(always)]
pub(crate) unsafe fn alloc<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    block: *mut u8,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises, handed on.
    unsafe {
        let is_null = block.is_null();
        // Null is 0, which `allocate` can use: as a register, not as a constant.
        let block = block.with_addr(opaque_reg(block.addr()));
        if is_null {
            return allocate(heap, new_size, block.addr());
        }
        let complement = complement_of(heap, block);
        // One comparison tells whether the new size is 0 and the block below the end of what is
        // committed: the lower half borrows from the upper one if it is.
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
unsafe fn allocate<S: ReclaimHooks>(heap: *mut Heap<S>, size: usize, zero: usize) -> *mut u8 {
    if size > QUICK_MAX {
        // SAFETY: the caller's promises.
        return unsafe { allocate_medium(heap, size) };
    }
    // SAFETY: the caller's promise; the size is in the table, which is of bins.
    unsafe {
        let at = *(&raw const (*heap).bin_of_size).cast::<u16>().add(size);
        allocate_from(heap, bin(heap, at), size, zero)
    }
}

/// The bin that lies so many bytes from the heap.
///
/// # Safety
///
/// One does, and `heap` is live.
#[inline(always)]
unsafe fn bin<S: ReclaimHooks>(heap: *mut Heap<S>, at: u16) -> *mut Bin {
    // SAFETY: the caller's promise.
    unsafe { heap.byte_add(at.into()).cast::<Bin>() }
}

/// # Safety
///
/// As for [`alloc`]; the bin is the size's, and one of the heap's. `zero` is 0.
#[inline(always)]
unsafe fn allocate_from<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    bin: *mut Bin,
    size: usize,
    zero: usize,
) -> *mut u8 {
    // SAFETY: the caller's promises. A bin's word is always readable.
    unsafe {
        let negative = (zero as u64).wrapping_sub(*(*bin).word);
        if negative == 0 {
            return refill_and_allocate(heap, size);
        }
        take_slot(heap, bin, negative, size)
    }
}

/// Hands out the lowest free slot of a bin's word, which has such a negative: the subtraction has
/// told that it is not 0, has as many zeros at its end, and is the complement of the word less 1.
///
/// # Safety
///
/// The heap is live, the bin is one of its, and its word is not 0.
#[inline(always)]
unsafe fn take_slot<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    bin: *mut Bin,
    negative: u64,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise. A word that is not 0 is in the current span (the empty word
    // is), its bits are slots (D2), and so the address lies in the span.
    unsafe {
        let word = (*bin).word;
        core::hint::assert_unchecked(negative != 0);
        let slot = negative.trailing_zeros();
        // Volatile, so that the instruction that changes the word reads it as well: one less.
        word.write_volatile(word.read_volatile() & !negative);
        (*heap).asked_bytes = (*heap).asked_bytes.wrapping_add(size as u64);
        (*bin).base.wrapping_add(slot.wrapping_mul((*bin).slot_size) as usize)
    }
}

/// Allocates what is not small enough for the heap's own table.
///
/// # Safety
///
/// As for [`alloc`]; the size is above [`QUICK_MAX`].
#[inline(never)]
unsafe extern "C" fn allocate_medium<S: ReclaimHooks>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // SAFETY: the caller's promises.
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
unsafe extern "C" fn refill_and_allocate<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    size: usize,
) -> *mut u8 {
    if size == 0 {
        return ptr::null_mut();
    }
    // SAFETY: the caller's promises.
    unsafe {
        if !(*heap).checked.is_null() {
            return checked::allocate(heap, size);
        }
        (*heap).refuse_if_closed();
        noted(heap, refill(heap, size), size)
    }
}

/// Allocates a small block from one of the heap's own bins, whatever its tables say.
///
/// # Safety
///
/// As for [`alloc`]; the size is small, and not 0.
pub(super) unsafe fn allocate_small<S: ReclaimHooks>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // SAFETY: the caller's promises.
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
pub(super) unsafe fn refill<S: ReclaimHooks>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // SAFETY: the caller's promises: nobody else uses the heap. After a refill the word is not 0.
    unsafe {
        let class = class_of(size);
        let refill = |heap: &mut Heap<S>| {
            let bin = bin(heap, bin_at(class));
            heap.refill(class).then(|| take_slot(heap, bin, (*(*bin).word).wrapping_neg(), size))
        };
        let take_last = |heap: &mut Heap<S>| heap.take_last_slot(class, size);
        let block = (*heap)
            .retry_after_reclaim(refill, take_last)
            .or_else(|| (*heap).with_reserve(size, refill));
        let Some(block) = block else { return ptr::null_mut() };
        (*heap).poll_hooks();
        (*heap).settle_collector();
        block
    }
}

/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn allocate_large<S: ReclaimHooks>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        if (*heap).fast_path_disabled() {
            (*heap).refuse_if_closed();
            return checked::allocate(heap, size);
        }
        noted(heap, place_large(heap, size), size)
    }
}

/// Allocates a large block, whatever the heap's tables say.
///
/// # Safety
///
/// As for [`alloc`].
pub(super) unsafe fn place_large<S: ReclaimHooks>(heap: *mut Heap<S>, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        let place = |heap: &mut Heap<S>| non_null(heap.allocate_large(size));
        let block = (*heap)
            .retry_after_reclaim(place, |_| None)
            .or_else(|| (*heap).with_reserve(size, place))
            .unwrap_or(ptr::null_mut());
        (*heap).poll_hooks();
        (*heap).settle_collector();
        block
    }
}

fn non_null(block: *mut u8) -> Option<*mut u8> {
    (!block.is_null()).then_some(block)
}

/// The complement of a block's offset from the heap.
///
/// # Safety
///
/// The heap is live.
#[inline(always)]
unsafe fn complement_of<S: ReclaimHooks>(heap: *mut Heap<S>, block: *mut u8) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*heap).below.wrapping_sub(block.addr()) }
}

/// Whether the block with an offset of this complement lies in what the heap has committed.
///
/// # Safety
///
/// The heap is live.
#[inline(always)]
unsafe fn is_committed<S: ReclaimHooks>(heap: *mut Heap<S>, complement: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*heap).committed_complement < complement }
}

/// The descriptor of the page that an offset of this complement lies in.
///
/// # Safety
///
/// It is committed, and the heap is live.
#[inline(always)]
unsafe fn descriptor_of<S: ReclaimHooks>(heap: *mut Heap<S>, complement: usize) -> *mut Descriptor {
    const SIZE: isize = size_of::<Descriptor>() as isize;
    // Page n's descriptor starts 64 × (n + 1) bytes below the base, and the complement of an offset
    // in page n is from -4096 × (n + 1) up.
    let at = complement.cast_signed() >> (PAGE_SHIFT - SIZE.trailing_zeros()) & -SIZE;
    // SAFETY: the caller's promise, and H1.
    unsafe { heap.byte_offset(at).cast::<Descriptor>() }
}

/// The slot that starts at an address of a page; `None` when none does.
///
/// # Safety
///
/// The descriptor is that of the address's page.
#[inline(always)]
unsafe fn slot_at(descriptor: *mut Descriptor, block: *mut u8) -> Option<Slot> {
    // SAFETY: the caller's promise.
    unsafe {
        let offset = (block.addr() as u32).wrapping_add((*descriptor).neg_start.get());
        let reciprocal = (*descriptor).reciprocal.get();
        let slot = Slot::at(offset, reciprocal);
        slot.starts(reciprocal).then_some(slot)
    }
}

/// # Safety
///
/// As for [`alloc`]; the complement is the block's, and committed.
#[inline(always)]
unsafe fn free<S: ReclaimHooks>(
    heap: *mut Heap<S>,
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
        if free_bit::set((*descriptor).first.get(), slot) {
            return free_slow(heap, block);
        }
    }
    ptr::null_mut()
}

/// Deals with a slot that is not as free as any other: its span's countdown ended, or it was free
/// before.
///
/// # Safety
///
/// As for [`free`], which has just marked it.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_slow<S: ReclaimHooks>(heap: *mut Heap<S>, block: *mut u8) -> *mut u8 {
    // SAFETY: the caller's promise: the block is a slot of a span, whose pages are all committed.
    unsafe {
        let descriptor = descriptor_of(heap, complement_of(heap, block));
        let first = (*descriptor).first.get();
        if !slot_at(descriptor, block).is_some_and(|slot| slot.is_free(&(*first).free)) {
            // Marking a slot that is free takes its mark away. This does not return.
            diagnose::large_block(&mut *heap, block);
        }
        let below = heap.addr() - first.addr();
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
unsafe extern "C" fn free_large<S: ReclaimHooks>(heap: *mut Heap<S>, block: *mut u8) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        let page = diagnose::large_block(&mut *heap, block);
        let (_, size) = (*heap).large_size(page);
        (*heap).freed_bytes = (*heap).freed_bytes.wrapping_sub(size as u64);
        (*heap).free_large(page);
        (*heap).poll_hooks();
    }
    opaque_null()
}

/// Resizes a block, or frees one that is not in what the heap has committed. `rest` is the new
/// size, less 1 if the block is.
///
/// # Safety
///
/// As for [`alloc`]; `block` is not null.
#[inline(never)]
unsafe extern "C" fn resize_slow<S: ReclaimHooks>(
    heap: *mut Heap<S>,
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
unsafe extern "C" fn resize_unmanaged<S: ReclaimHooks>(
    heap: *mut Heap<S>,
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

/// Resizes or frees a block from outside, or finds out what is wrong with the pointer; whatever the
/// heap's tables say.
///
/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
pub(super) unsafe fn resize_foreign<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    block: *mut u8,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise: nobody else uses the heap.
    unsafe {
        if let Some(outside) = (*heap).foreign_of(block) {
            return (outside.resize)(outside.context, block, new_size);
        }
        // It is none of ours: this does not return.
        diagnose::large_block(&mut *heap, block);
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
/// As for [`alloc`]; the complement is the block's, and committed; `new_size` is not 0.
#[inline(always)]
unsafe fn resize<S: ReclaimHooks>(
    heap: *mut Heap<S>,
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
        (*heap).note_stayed(class, old_size, new_size);
        block
    }
}

/// Frees a small block of the heap's own, whatever its tables say.
///
/// # Safety
///
/// As for [`alloc`]; it is a small block, of so many bytes.
pub(super) unsafe fn free_small<S: ReclaimHooks>(heap: *mut Heap<S>, block: *mut u8, size: usize) {
    // SAFETY: the caller's promises.
    unsafe { free(heap, block, complement_of(heap, block), size) };
}

/// The class of the slot that starts there, if there is one and it is not free.
///
/// # Safety
///
/// The heap is live.
pub(super) unsafe fn live_slot<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    block: *mut u8,
) -> Option<usize> {
    // SAFETY: the caller's promise: what is committed has a descriptor.
    unsafe {
        let offset = block.addr().wrapping_sub((*heap).base.addr());
        let is_committed = offset < (*heap).committed();
        is_committed.then(|| small_block(heap, block, complement_of(heap, block))).flatten()
    }
}

/// # Safety
///
/// The heap is live.
unsafe fn note_requested<S: ReclaimHooks>(heap: *mut Heap<S>, old_size: usize, new_size: usize) {
    let change = (new_size as u64).wrapping_sub(old_size as u64);
    // SAFETY: the caller's promise.
    unsafe { (*heap).asked_bytes = (*heap).asked_bytes.wrapping_add(change) };
}

/// The class of a live small block; `None` when the pointer is to no span.
///
/// # Safety
///
/// As for [`alloc`]; the complement is the block's, and committed.
#[inline(always)]
unsafe fn small_block<S: ReclaimHooks>(
    heap: *mut Heap<S>,
    block: *mut u8,
    complement: usize,
) -> Option<usize> {
    // SAFETY: as in `free`.
    unsafe {
        let descriptor = descriptor_of(heap, complement);
        let slot = slot_at(descriptor, block)?;
        let first = (*descriptor).first.get();
        (!slot.is_free(&(*first).free)).then_some((*descriptor).class())
    }
}

/// # Safety
///
/// As for [`alloc`].
#[cold]
#[inline(never)]
unsafe extern "C" fn resize_large<S: ReclaimHooks>(
    heap: *mut Heap<S>,
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
            (*heap).take_refusal_back();
        }
        let resize = |heap: &mut Heap<S>| non_null(heap.resize_large(page, new_size));
        let block = (*heap).retry_after_reclaim(resize, |_| None).unwrap_or(ptr::null_mut());
        (*heap).poll_hooks();
        noted(heap, block, new_size)
    }
}
