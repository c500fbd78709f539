//! From a size to its bin, and from the address of a block to its descriptor and its slot.
//!
//! [`Heap`] has the drawing, and the same equations in the order in which a pointer takes them.
//! Here they are as the hot path computes them. `d` is the offset of a block from the base, `n` the
//! index of its page.

use super::class::Slot;
use super::descriptor::Descriptor;
use crate::heap::{Bin, Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::PAGE_SHIFT;

/// The bin that lies `at` bytes behind the start of the heap.
///
/// # Safety
///
/// One does, and `heap` is live.
#[inline(always)]
pub(in crate::heap) unsafe fn bin<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    at: u16,
) -> *mut Bin {
    // SAFETY: the caller's promise: the bin lies within the heap, which is one object.
    unsafe { heap.byte_add(at.into()).cast::<Bin>() }
}

/// The complement of a block's offset from the base.
///
/// ```text
/// below - block = base - 1 - block = -d - 1 = !d
/// ```
///
/// One subtraction yields what both [`is_committed`] and [`descriptor_of`] need; for
/// `d` itself the latter would need one instruction more.
///
/// # Safety
///
/// The heap is live.
#[inline(always)]
pub(in crate::heap) unsafe fn complement_of<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*heap).below.wrapping_sub(block.addr()) }
}

/// Whether the block with an offset of this complement lies in what the heap has committed.
///
/// ```text
/// !committed < !d   is   d < committed
/// ```
///
/// # Safety
///
/// The heap is live.
#[inline(always)]
pub(in crate::heap) unsafe fn is_committed<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    complement: usize,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*heap).committed_complement < complement }
}

/// The descriptor of the page that an offset of this complement lies in.
///
/// ```text
/// !d = -d - 1                    from -4096 (n + 1) up, for every d in page n = d / 4096
/// (!d >> 12) * 64 = -64 (n + 1)  where the descriptor starts, from the base
/// (!d >> 6) & -64                the same by two instructions
/// ```
///
/// # Safety
///
/// It is committed, and the heap is live.
#[inline(always)]
pub(in crate::heap) unsafe fn descriptor_of<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    complement: usize,
) -> *mut Descriptor {
    const SIZE: isize = size_of::<Descriptor>() as isize;
    let at = complement.cast_signed() >> (PAGE_SHIFT - SIZE.trailing_zeros()) & -SIZE;
    // SAFETY: the caller's promise, and H1.
    unsafe { heap.byte_offset(at).cast::<Descriptor>() }
}

/// The slot that starts at an address of a page; `None` when none does.
///
/// ```text
/// o = block + neg_start = block - start of the span's first slot   (mod 2^32)
/// ```
///
/// [`Slot::at`] has the division by the size of a slot.
///
/// # Safety
///
/// The descriptor is that of the address's page.
#[inline(always)]
pub(in crate::heap) unsafe fn slot_at(descriptor: *mut Descriptor, block: *mut u8) -> Option<Slot> {
    // SAFETY: the caller's promise: the descriptor is committed. Its cells are the heap's thread's,
    // which is the caller's.
    unsafe {
        let offset = (block.addr() as u32).wrapping_add((*descriptor).neg_start.get());
        let reciprocal = (*descriptor).reciprocal.get();
        let slot = Slot::at(offset, reciprocal);
        slot.starts(reciprocal).then_some(slot)
    }
}
