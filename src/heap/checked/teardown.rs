//! The last look at a checked heap, when it is deleted; and what the layer adds to its statistics.

use super::block::{HEADER, Header, HeaderState};
use super::call::{ApiCall, RecordedCall};
use super::{Checked, Checking, Home, Live, fault_registry, sanitizer};
use crate::heap::slots::class::CLASS_COUNT;
use crate::heap::slots::descriptor::PageKind;
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::{PageIndex, Pages};

/// What of a heap's blocks are the user's, where that is not what the heap itself counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DebugStats {
    /// Blocks in guarded slots, and bytes asked for in them.
    pub(crate) guarded: u64,
    pub(crate) guarded_requested: usize,
    /// Large blocks that were freed and are held back, or lost.
    pub(crate) held_large: u64,
    /// All other live blocks, and bytes asked for in these, where every block is checked.
    pub(crate) others: Option<(u64, usize)>,
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// What the layer knows of the heap's blocks.
    pub(crate) fn debug_stats(&self) -> DebugStats {
        let Some(state) = self.checked() else { return DebugStats::default() };
        DebugStats {
            guarded: state.pool.live as u64,
            guarded_requested: state.pool.live_bytes,
            held_large: state.quarantine.large + state.lost,
            others: state.every.then_some((state.live, state.live_bytes)),
        }
    }

    /// Bytes of the pages that guarded slots hold.
    pub(crate) fn guarded_bytes(&self) -> usize {
        self.guarded_pages.bytes()
    }

    /// Bytes of address space that they take.
    pub(crate) fn guarded_reserved(&self) -> usize {
        self.checked().map_or(0, |state| state.pool.reserved())
    }

    /// Live blocks of a heap that checks none, or a few.
    pub(super) fn live_blocks(&self) -> u64 {
        let small: u64 = (0..CLASS_COUNT).map(|class| self.live(class)).sum();
        small + self.counts.large_blocks + self.debug_stats().guarded
    }
}

/// Looks at all that a heap still has, and forgets that it is checked. True: it has to be released
/// now, for its blocks are not as the heap knows them.
pub(in crate::heap) fn finish<O: Os, R: ReclaimHooks>(heap: &mut Heap<O, R>) -> bool {
    let shut = heap.fast_path_disabled();
    if let Some(mut checking) = heap.checking_every() {
        checking.enter(RecordedCall::to(ApiCall::Delete));
        checking.release_all();
        checking.verify_all();
        checking.leave();
    }
    forget(heap);
    shut
}

/// Frees what the layer keeps with a heap. Its guarded blocks are gone with it.
pub(super) fn forget<O: Os, R: ReclaimHooks>(heap: &mut Heap<O, R>) {
    if heap.checked.is_null() {
        return;
    }
    // SAFETY: made by a box, and nobody else has it; the blocks in its slots are not used again.
    unsafe {
        fault_registry::forget(&raw mut (*heap.checked).registered);
        let mut state: Box<Checked> = Box::from_raw(heap.checked);
        fault_registry::give_mappings(2 * state.pool.live);
        state.pool.release(&heap.os);
    }
    let (start, bytes, committed) = heap.for_blocks();
    sanitizer::heap_gone(start, bytes, committed);
    heap.checked = core::ptr::null_mut();
    heap.guarded_pages = Pages::ZERO;
}

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// Verifies every live block of the heap.
    fn verify_all(&mut self) {
        let mut page = self.heap.layout.first;
        while page < self.heap.runs.top {
            let length = match self.heap.descriptor(page).kind() {
                PageKind::Span => self.verify_span(page),
                PageKind::Large => self.verify_last(page),
                PageKind::None | PageKind::SpanRest => Pages(1),
            };
            page = page + length;
        }
        for index in 0..self.state.pool.slots.len() {
            let slot = self.state.pool.slots[index];
            if slot.used == super::SlotState::Live {
                let (at, size, number) = (slot.at, slot.size, slot.allocated.number);
                self.verify(&Live { at, size, number, home: Home::Guarded(index) });
            }
        }
    }

    /// Verifies the blocks of a span. How many pages it has.
    fn verify_span(&mut self, first: PageIndex) -> Pages {
        let shape = self.heap.descriptor(first).shape();
        let start = self.heap.address(first).wrapping_add(shape.slack());
        for index in 0..shape.slots {
            if self.heap.descriptor(first).free.has(index) {
                continue;
            }
            let slot_size = shape.slot_size as usize;
            let at = start.wrapping_add(index as usize * slot_size + HEADER);
            // SAFETY: a slot that is not free has a header: Q1.
            let header = unsafe { at.sub(HEADER).cast::<Header>().read() };
            if header.state(self.state.secret, at.addr()) != HeaderState::Live {
                self.report_header(at, slot_size, None);
            }
            let (size, number) = (header.size(), header.number());
            self.verify(&Live { at, size, number, home: Home::Slot(slot_size) });
            sanitizer::freed(at, (at, size));
        }
        shape.pages
    }

    /// Verifies a large block and gives its mappings back, for the heap goes. How many pages it
    /// has.
    fn verify_last(&mut self, page: PageIndex) -> Pages {
        let (live, gone) = self.large_live(page);
        if !gone {
            self.verify_large(&live, page);
            sanitizer::freed(live.at, (live.at, live.size));
        }
        self.unprotect(page);
        self.heap.descriptor(page).large_pages()
    }
}
