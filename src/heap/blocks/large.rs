//! Large blocks: runs of whole pages.
//!
//! A block begins a few cache lines behind the start of its first page, as far as the unused bytes
//! of its last page allow. That distance is the block's color (slab coloring). If every block began
//! at the start of a page, a loop that reads one block and writes another would use equal offsets
//! in two pages. Processors take these for the same address at first, and the first lines of all
//! blocks would compete for the same few sets of the cache. (jemalloc colors large blocks for the
//! caches' sake, too.) A block keeps its color when it moves.
//!
//! A block that grows takes the free pages behind it. When these are not free, the block moves. The
//! pages of a long block are moved by the kernel (`mremap`), which takes 0.04 ms for 64 MB; a copy
//! takes 40 ms. See `pages::split_mappings` for what that leaves behind. Where the
//! target has memory already the bytes are copied: the kernel would throw that memory away.

use core::ptr;

use crate::heap::slots::descriptor::Descriptor;
use crate::heap::{Heap, ReclaimHooks};
use crate::options::Key;
use crate::os::{MemoryRange, Os};
use crate::units::{PAGE, PageIndex, PageRange, Pages, round_down};

/// Pages that are copied before the old ones are emptied, where a limit leaves no room for both.
const STEP: Pages = Pages((64 << 10) / PAGE as u32);

/// Colors are multiples of a cache line.
const LINE: usize = 64;

/// LuaJIT's own allocator maps and unmaps blocks of as many pages one by one: 128 KiB.
const MMAPPED_MIN: Pages = Pages((128 << 10) / PAGE as u32);

/// How many pages of a block count as mapped one by one: all or none.
pub(in crate::heap) fn mmapped(count: Pages) -> Pages {
    if count >= MMAPPED_MIN { count } else { Pages::ZERO }
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Allocates a block of whole pages. Null for size 0 and when there is no memory.
    pub(in crate::heap) fn allocate_large(&mut self, size: usize) -> *mut u8 {
        let Some(count) = Pages::holding(size).filter(|count| *count > Pages::ZERO) else {
            return ptr::null_mut();
        };
        let color = self.next_color(count.bytes() - size);
        match self.place_anywhere(count, size, color) {
            Some(page) => self.large_block(page),
            None => ptr::null_mut(),
        }
    }

    /// Places a block on the lowest pages where there are enough. `None`: there is no memory.
    pub(in crate::heap) fn place_anywhere(
        &mut self,
        count: Pages,
        size: usize,
        color: usize,
    ) -> Option<PageIndex> {
        let range = self.find_pages(count)?;
        self.place_large(range, size, color, Pages::ZERO).then_some(range.start)
    }

    /// The next color, a multiple of [`LINE`] from 0 to `room` bytes.
    fn next_color(&mut self, room: usize) -> usize {
        // Multiples of the golden ratio lie evenly in 2^32, so their upper parts in any range do.
        self.color_seed = self.color_seed.wrapping_add(0x9E37_79B9);
        let choices = (room / LINE + 1) as u64;
        ((u64::from(self.color_seed) * choices) >> 32) as usize * LINE
    }

    /// Where the block on these pages begins.
    fn large_block(&mut self, page: PageIndex) -> *mut u8 {
        let color = self.descriptor(page).large_color();
        self.address(page).wrapping_add(color)
    }

    /// Places a block on free pages; `pages_credited` others will hold no memory any more when it
    /// has its contents. False: there is no memory.
    fn place_large(
        &mut self,
        range: PageRange,
        size: usize,
        color: usize,
        pages_credited: Pages,
    ) -> bool {
        if !self.take_pages(range, pages_credited) {
            return false;
        }
        self.set_descriptor(range.start, Descriptor::large(range.count(), size, color));
        self.counts.large_blocks += 1;
        self.counts.large_pages += range.count();
        self.counts.mmapped_pages += mmapped(range.count());
        self.counts.large_requested += size;
        true
    }

    /// Pages of a large block, and the bytes asked for it.
    pub(in crate::heap) fn large_size(&mut self, page: PageIndex) -> (Pages, usize) {
        let descriptor = self.descriptor(page);
        (descriptor.large_pages(), descriptor.large_requested())
    }

    /// Frees a large block.
    pub(in crate::heap) fn free_large(&mut self, page: PageIndex) {
        let pages = self.give_block_back(page);
        R::emptied(self, pages);
    }

    /// Frees a large block without polling the hooks. Returns its number of pages.
    fn give_block_back(&mut self, page: PageIndex) -> Pages {
        self.verify_large(page);
        let range = PageRange::new(page, self.large_size(page).0);
        self.forget_large(page);
        self.give_back(range);
        range.count()
    }

    /// Takes a large block off the books; its pages stay in use.
    fn forget_large(&mut self, page: PageIndex) {
        let (count, size) = self.large_size(page);
        self.set_descriptor(page, Descriptor::none());
        self.counts.large_blocks -= 1;
        self.counts.large_pages -= count;
        self.counts.mmapped_pages -= mmapped(count);
        self.counts.large_requested -= size;
    }

    /// Resizes a large block to at least one byte, with as many pages as that takes. Null when
    /// there is no memory to grow; then nothing has changed.
    pub(in crate::heap) fn resize_large(&mut self, page: PageIndex, size: usize) -> *mut u8 {
        self.verify_large(page);
        let (old_count, _) = self.large_size(page);
        let end = size.checked_add(self.descriptor(page).large_color());
        let Some(count) = end.and_then(Pages::holding) else { return ptr::null_mut() };
        if count <= old_count {
            self.note_large_size(page, count, size);
            self.give_back(PageRange { start: page + count, end: page + old_count });
            R::emptied(self, old_count - count);
        } else if self.grow_in_place(page, old_count, count) {
            self.note_large_size(page, count, size);
        } else {
            return self.grow_elsewhere(page, old_count, count, size);
        }
        self.large_block(page)
    }

    fn note_large_size(&mut self, page: PageIndex, count: Pages, size: usize) {
        let (old_count, old_size) = self.large_size(page);
        self.descriptor(page).set_large(count, size);
        self.counts.large_pages = self.counts.large_pages - old_count + count;
        self.counts.mmapped_pages = self.counts.mmapped_pages - mmapped(old_count) + mmapped(count);
        self.counts.large_requested = self.counts.large_requested - old_size + size;
    }

    /// Notes that a block has another size on the same pages.
    pub(in crate::heap) fn note_large_bytes(&mut self, page: PageIndex, size: usize) {
        let (count, _) = self.large_size(page);
        self.note_large_size(page, count, size);
    }

    fn grow_in_place(&mut self, page: PageIndex, old_count: Pages, count: Pages) -> bool {
        // Both counts are in range: a block that would end beyond the heap cannot grow here.
        if count > self.layout.limit.since(page) {
            return false;
        }
        let more = PageRange { start: page + old_count, end: page + count };
        self.page_runs().can_extend(more) && self.take_pages(more, Pages::ZERO)
    }

    fn grow_elsewhere(
        &mut self,
        page: PageIndex,
        old_count: Pages,
        count: Pages,
        size: usize,
    ) -> *mut u8 {
        let old = PageRange::new(page, old_count);
        let color = self.descriptor(page).large_color();
        let limit = self.growth_limit.max(self.resident());
        let Some(range) = self.find_pages(count) else { return ptr::null_mut() };
        let remap = self.can_remap(old, range.start);
        let pages_credited = if remap { old_count } else { Pages::ZERO };
        if !self.place_large(range, size, color, pages_credited) {
            return ptr::null_mut();
        }
        let rest = if remap { self.move_by_remapping(old, range.start) } else { old };
        if rest == old {
            if self.resident() > limit {
                self.abandon_move(range.start);
                return ptr::null_mut();
            }
            self.forget_large(page);
        }
        self.move_by_copying(rest, range.start + (old.count() - rest.count()), limit);
        self.note_peak(Pages::ZERO);
        R::emptied(self, rest.count());
        self.large_block(range.start)
    }

    /// Frees the new block of a move that cannot be done: the kernel did not move the pages, and
    /// the growth limit leaves no room for a copy beside the old block.
    fn abandon_move(&mut self, page: PageIndex) {
        let range = PageRange::new(page, self.large_size(page).0);
        self.give_block_back(page);
        self.empty(range);
        self.note_peak(Pages::ZERO);
        self.may_grow(range.count());
    }

    /// Lets the kernel move pages of a block to the start of a new one, and frees them, as long as
    /// it does not refuse; returns the rest. When any were moved, the block is off the books.
    fn move_by_remapping(&mut self, old: PageRange, mut to: PageIndex) -> PageRange {
        let mut from = old;
        while from.start < from.end {
            let piece = self.split_mappings.first_piece(from);
            if !self.remap(piece, to) {
                break;
            }
            // The descriptors of free pages may go back at any time.
            if piece.start == old.start {
                self.forget_large(old.start);
            }
            self.page_runs().give_back(piece, false);
            to = to + piece.count();
            from.start = piece.end;
        }
        from
    }

    /// Copies pages of a block to a new one, and frees them. Where the heap may not hold both, the
    /// old ones are emptied as the copy goes on.
    fn move_by_copying(&mut self, mut from: PageRange, mut to: PageIndex, limit: usize) {
        while from.start < from.end {
            let is_tight = self.resident() > limit;
            let count = if is_tight { from.count().min(STEP) } else { from.count() };
            let piece = PageRange::new(from.start, count);
            // SAFETY: both ranges are committed and in use, the old one by the block that moves,
            // the new one by nothing yet; so they do not overlap.
            unsafe {
                let (from, to) = (self.address(piece.start), self.address(to));
                ptr::copy_nonoverlapping(from, to, count.bytes());
            }
            self.give_back(piece);
            if is_tight {
                self.empty(piece);
            }
            to = to + count;
            from.start = piece.end;
        }
    }

    /// Gives the kernel the memory of free pages that hold nothing, or are to. What it refuses
    /// stays dirty.
    fn empty(&mut self, mut range: PageRange) {
        range.end = PageIndex::of(round_down(range.end.offset(), self.kernel_page));
        if !self.is_aligned(range.start) || range.start >= range.end {
            return;
        }
        let memory = MemoryRange { start: self.address(range.start), bytes: range.count().bytes() };
        // SAFETY: the range is committed, on kernel pages, and free.
        let purged = unsafe { self.os.purge(&[memory]) };
        self.note_purged(&purged, 1);
        if purged.ranges == 1 {
            self.page_runs().empty(range);
        }
    }

    /// Whether a block is long enough to be moved by the kernel, lies right for it, and leaves no
    /// more split mappings than can be kept.
    ///
    /// Pages that are moved replace the target's, whose memory is lost, and leave none behind: the
    /// next blocks there would fault it in page by page, which takes longer than to copy. So the
    /// target must not have memory for most of them.
    fn can_remap(&mut self, from: PageRange, to: PageIndex) -> bool {
        let target = PageRange::new(to, from.count());
        let known = self.page_runs().below_top(target);
        !self.remap_refused
            && self.page_runs().dirty_in(known).bytes() * 2 <= target.count().bytes()
            && from.count().bytes() >= self.options.bytes(Key::RemapMin)
            && [from.start, from.end, to].iter().all(|page| self.is_aligned(*page))
            && !self.split_mappings.overlap(target)
            && self.split_mappings.pieces(from) <= self.split_mappings.room()
    }

    /// Whether a kernel page starts with this page.
    fn is_aligned(&self, page: PageIndex) -> bool {
        page.offset().is_multiple_of(self.kernel_page)
    }

    /// Lets the kernel move one piece of a block. False: nothing was moved.
    fn remap(&mut self, piece: PageRange, to: PageIndex) -> bool {
        if !self.is_aligned(piece.start) || !self.is_aligned(piece.end) {
            return false;
        }
        let bytes = piece.count().bytes();
        self.counts.remap_calls += 1;
        let (from, target) = (self.address(piece.start), self.address(to));
        let huge_pages = self.options.get(Key::Thp) == 1;
        // SAFETY: both ranges are committed, on kernel pages, and apart; nothing is in the new one.
        if !unsafe { self.os.move_pages(from, target, bytes, huge_pages) } {
            // The kernel is too old for it, or has no mappings left: it would refuse again.
            self.remap_refused = true;
            self.counts.failed_calls += 1;
            return false;
        }
        self.split_mappings.add(PageRange::new(to, piece.count()));
        self.merge(piece);
        true
    }

    /// Frees pages in use, which may hold memory and split mappings.
    fn give_back(&mut self, range: PageRange) {
        self.page_runs().give_back(range, true);
        self.merge(range);
    }

    /// Remaps the split mappings in a range that holds nothing of value.
    fn merge(&mut self, range: PageRange) {
        while let Some(part) = self.split_mappings.part_in(range) {
            let (start, bytes) = (self.address(part.start), part.count().bytes());
            if !self.is_aligned(part.start) || !self.is_aligned(part.end) {
                return;
            }
            let huge_pages = self.options.get(Key::Thp) == 1;
            // SAFETY: the part is committed, was moved as whole kernel pages, and is free.
            if !unsafe { self.os.remap_fresh(start, bytes, huge_pages) } {
                // It stays a mapping of its own: moves there will copy.
                self.counts.failed_calls += 1;
                return;
            }
            self.split_mappings.remove(part);
            self.page_runs().empty(part);
        }
    }
}
