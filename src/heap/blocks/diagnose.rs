//! Stops the process, with a line that says what is wrong, when a pointer is no live block.

#![forbid(unsafe_code)]

use crate::bug::bug;
use crate::heap::slots::descriptor::PageKind;
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::PageIndex;

/// The page of a large block; stops the process when `block` is not one.
///
/// Comes after the hot path has found that `block` is no live small block either.
pub(in crate::heap) fn large_block<O: Os, R: ReclaimHooks>(
    heap: &mut Heap<O, R>,
    block: *mut u8,
) -> PageIndex {
    let offset = block.addr().wrapping_sub(heap.base.addr());
    if offset < heap.committed() {
        let page = PageIndex::of(offset);
        let descriptor = heap.descriptor(page);
        if descriptor.kind() == PageKind::Large
            && page.offset() + descriptor.large_color() == offset
        {
            return page;
        }
    }
    not_live(heap, block)
}

/// Stops the process with a line that says what is wrong with a pointer that is no live block.
#[cold]
pub(in crate::heap) fn not_live<O: Os, R: ReclaimHooks>(
    heap: &mut Heap<O, R>,
    block: *mut u8,
) -> ! {
    let base = heap.base;
    let wrong = what_is_wrong(heap, block, block.addr().wrapping_sub(base.addr()));
    bug!("heap {base:p}: pointer {block:p} {wrong}")
}

/// What a pointer is, as the end of a sentence.
pub(in crate::heap) enum Wrong {
    Elsewhere,
    InTables,
    OnFreePage,
    InsideBlock(usize),
    InsideLarge,
    Freed(usize),
}

impl core::fmt::Display for Wrong {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Wrong::Elsewhere => out.write_str("is not of this heap"),
            Wrong::InTables => out.write_str("is in the heap's own tables, not a block"),
            Wrong::OnFreePage => out.write_str("is not a live block: its page is free"),
            Wrong::InsideBlock(size) => write!(out, "points inside a block of {size} bytes"),
            Wrong::InsideLarge => out.write_str("points inside a large block"),
            Wrong::Freed(size) => write!(out, "is a block of {size} bytes that was freed before"),
        }
    }
}

pub(in crate::heap) fn what_is_wrong<O: Os, R: ReclaimHooks>(
    heap: &mut Heap<O, R>,
    block: *mut u8,
    offset: usize,
) -> Wrong {
    // Among the tables of a plan are addresses that nothing is mapped at.
    if !heap.is_inside(block) {
        return Wrong::Elsewhere;
    }
    if offset >= heap.committed() {
        return if heap.is_cut_off(offset) { Wrong::OnFreePage } else { Wrong::Elsewhere };
    }
    let page = PageIndex::of(offset);
    if page < heap.layout.first {
        return Wrong::InTables;
    }
    let in_use = page < heap.runs.top && !heap.page_runs().is_free(page);
    let descriptor = heap.descriptor(page);
    match descriptor.kind() {
        PageKind::Large => Wrong::InsideLarge,
        // H2: a page in use that has no kind is a further page of a large block.
        PageKind::None if in_use => Wrong::InsideLarge,
        PageKind::None => Wrong::OnFreePage,
        PageKind::Span | PageKind::SpanRest => {
            let size = descriptor.shape().slot_size as usize;
            match descriptor.slot_at(block.addr()) {
                Some(_) => Wrong::Freed(size),
                None => Wrong::InsideBlock(size),
            }
        }
    }
}
