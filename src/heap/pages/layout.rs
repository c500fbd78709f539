//! Where things lie in a heap's range of addresses. Computed first, mapped afterwards.
//!
//! Without a limit on address space the range is reserved, and its parts are committed in it: see
//! the drawing at [`Heap`](crate::heap::Heap).
//!
//! Under a limit (`RLIMIT_AS`) the same range is only planned. It is as long as the limit, and
//! takes no address space: what the heap uses is mapped there piece by piece, in three places, and
//! each part of the tables only as far as the pages need it.
//!
//! ```text
//!  plan                           base
//!  |                              |
//!  |           | descriptors      | header | chunks |     | hist. |       | pages          |
//!  |           |------------- mapped ---------------|     |-------|       |---- mapped ----|
//! ```
//!
//! Three kernel pages are never accessible: the first and the last of the range, so that nothing
//! that ends or begins beside it reaches in, or is reached from here; and the one between the
//! tables and the first page for blocks, which what is written before a block runs into. In a plan
//! these pages, and all that is not in use yet, are addresses where the kernel maps nothing by
//! itself.
//!
//! - L1: the descriptors of all pages, the tables and the pages fit into the range.
//! - L2: the base, the guard, `first` and all ends of what is committed are on kernel pages.
//! - L3: the first and the last kernel page of the range belong to nothing.
//! - L4: the chunks of all pages below an end lie below `tables_end` of it, in whole groups, and
//!   that end lies below the history buffer.

#![forbid(unsafe_code)]

use super::runs::{GROUP_CHUNKS, PageChunk, chunk_count};
use crate::heap::slots::descriptor::Descriptor;
use crate::units::{PAGE, PageIndex, round_down, round_up};

/// Bytes of a descriptor.
pub(in crate::heap) const DESCRIPTOR: usize = size_of::<Descriptor>();

/// The parts of one range. Offsets from the base are in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bytes of the whole range.
    pub(crate) bytes: usize,
    /// Whether the range is only planned, and not reserved.
    pub(crate) is_planned: bool,
    /// Bytes from the start of the range to the base: room for all descriptors.
    pub(crate) base: usize,
    /// Pages above the base, those of the tables included.
    pub(crate) limit: PageIndex,
    /// Where the chunks lie.
    pub(crate) chunks: usize,
    /// How many.
    pub(crate) chunk_count: usize,
    /// Where the buffer of the option `history` lies, on pages of their own.
    pub(crate) history: usize,
    /// Where the kernel page between the tables and the pages for blocks lies.
    pub(crate) guard: usize,
    /// The first page for blocks.
    pub(crate) first: PageIndex,
}

impl Layout {
    /// Lays out a reservation of `bytes` bytes, a multiple of `kernel_page`, with a header of
    /// `header` bytes and a history buffer of `history_words` words. `None`: fewer than 64 pages
    /// would be left for blocks.
    pub(crate) fn new(
        bytes: usize,
        header: usize,
        history_words: usize,
        kernel_page: usize,
    ) -> Option<Layout> {
        let pages = bytes.checked_sub(kernel_page)? / (PAGE + DESCRIPTOR);
        let base = kernel_page + round_up(pages * DESCRIPTOR, kernel_page);
        let limit = bytes.checked_sub(base + kernel_page)?.min(pages * PAGE);
        let limit = round_down(limit, kernel_page) / PAGE;
        let chunk_count = chunk_count(limit);
        let chunks = round_up(header, align_of::<PageChunk>());
        let tables = round_up(chunks + chunk_count * size_of::<PageChunk>(), kernel_page);
        let guard = tables + round_up(history_words * size_of::<u64>(), kernel_page);
        let first = PageIndex::of(guard + kernel_page);
        let limit = PageIndex(limit as u32);
        let room = limit.0.checked_sub(first.0)?;
        const ROOM_MIN: u32 = 64;
        let history = tables;
        let is_planned = false;
        let layout =
            Layout { bytes, is_planned, base, limit, chunks, chunk_count, history, guard, first };
        (room >= ROOM_MIN).then_some(layout)
    }

    /// Bytes below the base that the descriptors of all pages below `end` take, on kernel pages.
    pub(crate) fn descriptors(&self, end: PageIndex, kernel_page: usize) -> usize {
        round_up(end.0 as usize * DESCRIPTOR, kernel_page)
    }

    /// Where the chunks of all pages below `end` end, on kernel pages.
    pub(crate) fn chunks_end(&self, end: PageIndex, kernel_page: usize) -> usize {
        round_up(self.chunks + chunk_count(end.0 as usize) * size_of::<PageChunk>(), kernel_page)
    }

    /// Where the header and the chunks that serve pages up to `end` end, on kernel pages. A group's
    /// summary is formed from all of its chunks.
    pub(in crate::heap) fn tables_end(&self, end: PageIndex, kernel_page: usize) -> usize {
        let chunks = chunk_count(end.0 as usize).next_multiple_of(GROUP_CHUNKS);
        let bytes = chunks.min(self.chunk_count) * size_of::<PageChunk>();
        round_up(self.chunks + bytes, kernel_page)
    }

    /// Chunks that lie below an offset.
    pub(in crate::heap) fn chunks_below(&self, end: usize) -> usize {
        ((end - self.chunks) / size_of::<PageChunk>()).min(self.chunk_count)
    }

    /// Bytes of descriptors that serve pages up to `top`, and of tables up to where `top` ever
    /// `reached`: what the heap itself holds. The history buffer is not in it.
    pub(crate) fn metadata(&self, top: PageIndex, reached: PageIndex) -> usize {
        // A group's summary is formed from all of its chunks.
        let chunks = chunk_count(reached.0 as usize).next_multiple_of(GROUP_CHUNKS);
        let chunks = chunks * size_of::<PageChunk>();
        let tables = round_up(self.chunks + chunks, PAGE).min(self.history);
        let descriptors = |end: PageIndex| end.0 as usize * DESCRIPTOR;
        // The tables' own descriptors are never touched, but for what shares a page.
        let unused = round_down(descriptors(self.first), PAGE);
        tables + round_up(descriptors(top), PAGE) - unused
    }

    /// Pages for blocks.
    #[cfg(test)]
    pub(crate) fn room(&self) -> crate::units::Pages {
        self.limit.since(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_for_every_size_and_kernel_page() {
        for kernel_page in [4096, 16384, 65536] {
            for shift in 20..44 {
                for extra in [0, 1, 7] {
                    let reserved = (1 << shift) + extra * kernel_page;
                    let Some(layout) = Layout::new(reserved, 5000, 100, kernel_page) else {
                        assert!(shift <= 20, "{reserved} bytes must do");
                        continue;
                    };
                    check(&layout, kernel_page);
                }
            }
        }
    }

    /// Every reservation of whole kernel pages from 2 to 66 MiB.
    #[test]
    fn everything_fits_for_every_number_of_pages() {
        for kernel_page in [4096, 16384, 65536] {
            for reserved in (2 << 20..66 << 20).step_by(kernel_page) {
                let layout = Layout::new(reserved, 5000, 100, kernel_page).expect("it must do");
                check(&layout, kernel_page);
            }
        }
    }

    fn check(layout: &Layout, kernel_page: usize) {
        let end = layout.base + layout.limit.offset();
        assert!(end + kernel_page <= layout.bytes, "L1 and L3: {layout:?} ends at {end}");
        let descriptors = layout.descriptors(layout.limit, kernel_page);
        assert!(descriptors + kernel_page <= layout.base, "L1 and L3: {layout:?}");
        assert!(layout.chunks + layout.chunk_count * size_of::<PageChunk>() <= layout.history);
        assert!(layout.history + 100 * size_of::<u64>() <= layout.guard);
        assert_eq!(layout.guard + kernel_page, layout.first.offset());
        assert_eq!(layout.base % kernel_page, 0, "L2: {layout:?}");
        assert_eq!(layout.first.offset() % kernel_page, 0, "L2: {layout:?}");
        assert_eq!(layout.limit.offset() % kernel_page, 0, "L2: {layout:?}");
        for end in (0..=layout.limit.0).step_by(layout.limit.0 as usize / 50 + 1) {
            let end = PageIndex(end);
            let tables = layout.tables_end(end, kernel_page);
            assert!(tables.is_multiple_of(kernel_page), "L2: {layout:?}");
            assert!(tables <= layout.history, "L4: {layout:?}");
            let whole = chunk_count(end.0 as usize).next_multiple_of(GROUP_CHUNKS);
            let wanted = whole.min(layout.chunk_count);
            assert!(layout.chunks_below(tables) >= wanted, "L4: {layout:?} up to {end:?}");
        }
        let lost = layout.bytes - layout.room().bytes();
        assert!(lost < layout.bytes / 60 + 8 * kernel_page + 8192 * 8, "{layout:?}: {lost}");
    }

    #[test]
    fn too_little_is_refused() {
        for reserved in [0, 4096, 65536, 256 << 10] {
            assert!(Layout::new(reserved, 5000, 100, 4096).is_none(), "{reserved}");
        }
    }
}
