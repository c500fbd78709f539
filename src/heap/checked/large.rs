//! Large checked blocks: pages of their own, with an inaccessible one on both sides as long as the
//! process may have more mappings.
//!
//! ```text
//!  | guard page | rest: REDZONE, the block | REDZONE, to 15 bytes | guard page |
//! ```
//!
//! The block ends where the guard page starts, but for what its alignment takes. A guard page that
//! the kernel does not make inaccessible, or that would cost too much time, is filled with the
//! pattern instead. The block's number, and whether its pages are inaccessible, stand in its
//! descriptor.

use super::block::alignment;
use super::pattern::{self, ALLOC_FILL, FREE_FILL, REDZONE};
use super::{Checking, Home, Live, fault_registry, sanitizer};
use crate::heap::slots::descriptor::PageKind;
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::{PAGE, PageIndex, PageRange, Pages, round_up};

/// Up to this size a block is filled, or looked at, as a whole; a longer one at both ends.
const WHOLE_MAX: usize = 32 << 10;
/// Bytes at the ends of a longer one.
const EDGE: usize = 4 << 10;
/// Mappings that the two guard pages of a block take.
const MAPPINGS: usize = 4;

/// A large block is guarded for this many blocks that were handed out, or KiB of large ones. (With
/// an eighth of this, a program that builds strings takes 3.4 times as long as on a heap that is
/// not checked; with this, 2.)
const GUARD_COST: usize = 512;
/// Most that is saved up, and what there is at first: for this many large blocks one after the
/// other.
const BUDGET_MAX: usize = 1024 * GUARD_COST;

/// In a descriptor's note: the guard pages are inaccessible.
const GUARDED: u64 = 1 << 63;
/// In a descriptor's note: the block was freed, and is held back.
const GONE: u64 = 1 << 62;

/// What the heap may spend on guard pages. Where large blocks come one after the other, guarding
/// each would take longer than all else: some go without.
pub(super) struct GuardBudget {
    left: usize,
    /// How many blocks had been handed out when it was worked out.
    blocks: u64,
}

impl GuardBudget {
    pub(super) const FULL: GuardBudget = GuardBudget { left: BUDGET_MAX, blocks: 0 };

    /// Whether a block of `size` bytes may have guard pages. `blocks` blocks were handed out so
    /// far, this one included.
    fn affords(&mut self, blocks: u64, size: usize) -> bool {
        let earned = (blocks - self.blocks) as usize + (size >> 10);
        self.blocks = blocks;
        self.left = (self.left + earned).min(BUDGET_MAX);
        let affords = self.left >= GUARD_COST;
        if affords {
            self.left -= GUARD_COST;
        }
        affords
    }
}

/// The parts of a block that is filled or looked at.
fn edges(at: *mut u8, size: usize) -> [(*mut u8, usize); 2] {
    if size <= WHOLE_MAX {
        return [(at, size), (at, 0)];
    }
    [(at, EDGE), (at.wrapping_add(size - EDGE), EDGE)]
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// What is noted of a large checked block: its number, whether it is guarded, whether it is
    /// freed.
    fn large_note(&mut self, page: PageIndex) -> (u64, bool, bool) {
        let note = self.descriptor(page).note();
        (note & !(GUARDED | GONE), note & GUARDED != 0, note & GONE != 0)
    }
}

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// Allocates a large block. Null: there is no memory.
    pub(super) fn place_large(&mut self, size: usize) -> *mut u8 {
        let Some(count) = size.checked_add(2 * PAGE).and_then(Pages::holding) else {
            return core::ptr::null_mut();
        };
        let whole = count.bytes() - 2 * PAGE;
        let color = PAGE + whole - round_up(size, alignment(size));
        let place = |heap: &mut Heap<O, R>| heap.place_anywhere(count, size, color);
        let Some(page) = self.heap.retry_after_reclaim(place, |_| None) else {
            return core::ptr::null_mut();
        };
        let pages = (self.heap.address(page), count.bytes());
        let at = pages.0.wrapping_add(color);
        sanitizer::unpoison(pages.0, pages.1);
        // Before the guards: pages that become inaccessible in a mapping without memory would keep
        // those on both sides mappings of their own for good, if they were mapped one by one.
        for (at, bytes) in edges(at, size) {
            // SAFETY: the block's own bytes, and accessible.
            unsafe { pattern::fill(at, bytes, ALLOC_FILL) };
        }
        let affords = self.state.budget.affords(self.state.allocations, size);
        let guarded = affords && self.guard(page, count);
        let number = self.state.allocations;
        let note = if guarded { number | GUARDED } else { number };
        self.heap.descriptor(page).set_note(note);
        for (at, bytes) in self.redzones(page, guarded) {
            // SAFETY: the block's pages are ours, and all but the guards are accessible.
            unsafe { pattern::fill(at, bytes, REDZONE) };
        }
        sanitizer::placed(at, size, pages);
        self.heap.poll_hooks();
        at
    }

    /// Makes the first and the last page inaccessible. False: not.
    fn guard(&mut self, page: PageIndex, count: Pages) -> bool {
        let may = self.state.may_guard && self.heap.kernel_page == PAGE;
        if !may || !fault_registry::take_mappings(MAPPINGS) {
            return false;
        }
        let (first, last) = (self.heap.address(page), self.heap.address(page + (count - Pages(1))));
        // SAFETY: both pages are the block's alone, and nothing of value is in them.
        unsafe {
            if self.heap.os.protect(first, PAGE) {
                if self.heap.os.protect(last, PAGE) {
                    return true;
                }
                // A page that is not given back is a guard, the only one.
                if !self.heap.os.commit(first, PAGE) {
                    return true;
                }
            }
        }
        fault_registry::give_mappings(MAPPINGS);
        false
    }

    /// The accessible bytes of a block's pages before the block, and those behind it.
    fn redzones(&mut self, page: PageIndex, guarded: bool) -> [(*mut u8, usize); 2] {
        let start = self.heap.address(page);
        let (count, size) = self.heap.large_size(page);
        let color = self.heap.descriptor(page).large_color();
        let skipped = if guarded { PAGE } else { 0 };
        let behind = count.bytes() - skipped - color - size;
        [(start.wrapping_add(skipped), color - skipped), (start.wrapping_add(color + size), behind)]
    }

    /// The page of the large block that starts there, be it freed or not.
    pub(super) fn large_at(&mut self, at: *mut u8) -> Option<PageIndex> {
        let offset = at.addr().wrapping_sub(self.heap.base.addr());
        // A block never starts on the first of its pages.
        if offset >= self.heap.committed() || offset < self.heap.layout.first.offset() + PAGE {
            return None;
        }
        let page = PageIndex::of(offset) - Pages(1);
        let descriptor = self.heap.descriptor(page);
        let is_here = descriptor.kind() == PageKind::Large
            && page.offset() + descriptor.large_color() == offset;
        is_here.then_some(page)
    }

    /// The large block whose pages an address lies on.
    pub(super) fn large_around(&mut self, address: usize) -> Option<PageIndex> {
        let page = PageIndex::of(address.wrapping_sub(self.heap.base.addr()));
        let (first, top) = (self.heap.layout.first, self.heap.runs.top);
        if page < first || page >= top {
            return None;
        }
        let is_large = |page: &PageIndex| self.heap.descriptor(*page).kind() == PageKind::Large;
        let start = (first.0..=page.0).rev().map(PageIndex).find(is_large)?;
        let count = self.heap.descriptor(start).large_pages();
        (page < start + count).then_some(start)
    }

    /// A large block as it stands in its descriptor, and whether it was freed.
    pub(super) fn large_live(&mut self, page: PageIndex) -> (Live, bool) {
        let (number, _, gone) = self.heap.large_note(page);
        let (_, size) = self.heap.large_size(page);
        let color = self.heap.descriptor(page).large_color();
        let at = self.heap.address(page).wrapping_add(color);
        (Live { at, size, number, home: Home::Large(page) }, gone)
    }

    /// Stops when something was written beside a large block.
    pub(super) fn verify_large(&mut self, live: &Live, page: PageIndex) {
        let (_, guarded, _) = self.heap.large_note(page);
        for (at, bytes) in self.redzones(page, guarded) {
            // SAFETY: they are the block's own, and accessible.
            let other = unsafe { pattern::first_other(at, bytes, REDZONE) };
            if let Some(other) = other {
                self.report_written(live, at.wrapping_add(other), bytes - other, REDZONE);
            }
        }
    }

    /// Frees a large block, and makes it ready to be held back. Bytes that it keeps.
    pub(super) fn protect(&mut self, page: PageIndex) -> usize {
        let (count, size) = self.heap.large_size(page);
        let (number, guarded, _) = self.heap.large_note(page);
        let start = self.heap.address(page);
        // SAFETY: the block is freed, and its pages are its own.
        let is_protected = guarded && unsafe { self.heap.os.protect(start, count.bytes()) };
        let mut note = number | GONE;
        // What cannot be made accessible again is not looked at.
        if is_protected || !self.unprotect(page) {
            note |= GUARDED;
        } else {
            let at = start.wrapping_add(self.heap.descriptor(page).large_color());
            for (at, bytes) in edges(at, size) {
                // SAFETY: as above, and accessible.
                unsafe { pattern::fill(at, bytes, FREE_FILL) };
            }
        }
        self.heap.descriptor(page).set_note(note);
        count.bytes()
    }

    /// Stops when something was written into a large block after it was freed.
    pub(super) fn verify_quarantined_large(&mut self, page: PageIndex, freed: u64) {
        let (number, is_protected, _) = self.heap.large_note(page);
        if is_protected {
            return;
        }
        let (live, _) = self.large_live(page);
        for (at, bytes) in edges(live.at, live.size) {
            // SAFETY: the block's own, and accessible.
            let other = unsafe { pattern::first_other(at, bytes, FREE_FILL) };
            if let Some(other) = other {
                let live = Live { number, ..live };
                self.report_written_freed(&live, freed, at.wrapping_add(other), bytes - other);
            }
        }
    }

    /// Gives the pages of a large block back to the heap.
    pub(super) fn release_large(&mut self, page: PageIndex) {
        // Pages that stay inaccessible cannot be used again: they are lost.
        if self.unprotect(page) {
            self.heap.free_large(page);
            self.heap.poll_hooks();
        } else {
            self.state.lost += 1;
        }
    }

    /// Makes all pages of a block accessible. False: the kernel refused.
    pub(super) fn unprotect(&mut self, page: PageIndex) -> bool {
        let (number, guarded, gone) = self.heap.large_note(page);
        if !guarded {
            return true;
        }
        let (count, _) = self.heap.large_size(page);
        let PageRange { start, .. } = PageRange::new(page, count);
        let start = self.heap.address(start);
        // SAFETY: the pages are the block's own.
        let done = unsafe { self.heap.os.commit(start, count.bytes()) };
        if done {
            fault_registry::give_mappings(MAPPINGS);
            self.heap.descriptor(page).set_note(if gone { number | GONE } else { number });
        }
        done
    }

    /// Lets a large block stay where it is, with another size that is not larger.
    pub(super) fn shrink_large(&mut self, live: &Live, page: PageIndex, size: usize) {
        self.heap.note_large_bytes(page, size);
        // SAFETY: the block's own bytes, which it has no more.
        unsafe { pattern::fill(live.at.wrapping_add(size), live.size - size, REDZONE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_paid_by_the_blocks_between_and_by_long_blocks_themselves() {
        let mut budget = GuardBudget::FULL;
        let guarded = |budget: &mut GuardBudget, every: u64, size| {
            let start = budget.blocks;
            (1..=10_000).filter(|n| budget.affords(start + n * every, size)).count()
        };
        assert_eq!(guarded(&mut budget, 1, GUARD_COST << 10), 10_000);
        assert_eq!(guarded(&mut budget, GUARD_COST as u64, 8 << 10), 10_000);
        // A block more, and 15 KiB. The first earns nothing: there is all that can be saved up.
        budget = GuardBudget::FULL;
        let few = guarded(&mut budget, 1, 15 << 10);
        assert_eq!(few, (BUDGET_MAX + 9_999 * 16) / GUARD_COST);
    }
}
