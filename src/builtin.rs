//! LuaJIT's own heap, from outside: walked, and its free pages given back in place.
//!
//! LuaJIT's allocator maps memory in segments and cuts them into chunks, each with its size in
//! front. It never tells the kernel that pages inside of free chunks are free. That can be done
//! for it: it keeps at most 64 bytes at the start of a free chunk, and its size behind the end,
//! and reads nothing in between before it has written it. So whole pages there may be discarded
//! while the program runs, and nothing else is ever done to that heap.
//!
//! Whether an address is that of LuaJIT's allocator is for the caller to know. What is found there
//! must add up, or it is refused with the reason:
//!
//! - B1: state and segments are private anonymous memory, by the kernel's word ([`mappings`]).
//! - B2: the segments end in the oldest, which holds the state; none overlap; each ends as the
//!   allocator ends them ([`segments`]).
//! - B3: chunks follow each other from a segment's start to its end, and every two neighbours
//!   agree on what each of them is ([`walk`]).
//! - B4: every free chunk is the top, the victim, or in its bin, once, and nothing else is in a
//!   bin ([`bins`]).
//!
//! Nothing is read that was not found to be memory first, so that a damaged heap is refused, too.
//! A heap that was recognised before is read within the segments that it had then ([`known`]): the
//! kernel's list of mappings is needed again only when its records lead elsewhere.

mod bins;
mod known;
mod layout;
mod mapped_vec;
mod mappings;
mod residency;
mod segment_records;
mod segments;
mod sweep;
mod walk;

use core::fmt;
use core::ops::Range;
use core::ptr;

use crate::error::Error;
use crate::os::Os;
use crate::units::{round_down, round_up};
pub(crate) use known::{KnownHeap, KnownPass};
use layout::{CHUNK_MIN, CONTENTS, FLAGS, FOOT, HEAD, HEADER, MMAPPED, PREVIOUS_IN_USE, WORD};
use residency::Residency;
use segments::{Chunk, HeapView};
pub(crate) use sweep::{Progress, Reclaimed, reclaim};

/// Free chunks of sizes up to a power of two, above the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// None of them is larger than this.
    pub(crate) up_to: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Bytes of whole resident pages in them.
    pub(crate) returnable: u64,
}

/// How many powers of two are distinguished: from 32 bytes to 128 MiB, and what is larger.
pub(crate) const SIZES: usize = 24;

/// What a walk of the heap finds. `reserved == live + free + metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Bytes of all segments.
    pub(crate) reserved: u64,
    pub(crate) segments: u64,
    /// Bytes of chunks in use, with 8 bytes in each that are the allocator's.
    pub(crate) live: u64,
    /// How many these are. Blocks of 128 KiB and more are not in segments, and not among them.
    pub(crate) blocks: u64,
    /// Bytes of the allocator's state, and of what it keeps at the end of segments.
    pub(crate) metadata: u64,
    /// Bytes of free chunks.
    pub(crate) free: u64,
    pub(crate) free_chunks: u64,
    pub(crate) largest_free: u64,
    /// Bytes of whole kernel pages in free chunks that the kernel holds resident.
    pub(crate) returnable: u64,
    /// Bytes of such pages that are not: returned, swapped out or never touched.
    pub(crate) returned: u64,
    /// Bytes of all segments that the kernel holds resident.
    pub(crate) resident: u64,
    /// The free chunks by size.
    pub(crate) histogram: [Chunks; SIZES],
}

/// Walks the heap of the allocator with this state.
pub(crate) fn survey<S: Os>(os: &S, state: *const u8) -> Result<Survey, Error> {
    survey_view(&HeapView::read(os, state.expose_provenance())?)
}

fn survey_view<S: Os>(view: &HeapView<'_, S>) -> Result<Survey, Error> {
    let mut residency = Residency::new(view, residency::ALL)?;
    let mut survey = Survey { segments: view.segments().len() as u64, ..Survey::default() };
    survey.name_sizes();
    let totals = walk::walk(view, |segment, chunk| {
        let pages = idle_pages(chunk, view.page);
        let whole = pages.end - pages.start;
        let resident = residency.count(segment, pages) * view.page;
        survey.add_free(chunk.size as u64, resident as u64, (whole - resident) as u64);
    })?;
    bins::check_bins(view, &totals)?;
    (survey.live, survey.blocks) = (totals.live, totals.blocks);
    survey.metadata = totals.metadata;
    for segment in view.segments() {
        let all = segment.memory.start()..segment.memory.end();
        survey.reserved += segment.memory.bytes() as u64;
        survey.resident += (residency.count(segment, all) * view.page) as u64;
    }
    if residency.refused {
        return Err(Error::System.because(format_args!("the kernel refused mincore")));
    }
    Ok(survey)
}

/// Unmaps the segments of a heap; returns how many bytes went and how many stayed.
///
/// # Safety
///
/// As for [`KnownHeap::release`].
unsafe fn unmap_segments<S: Os>(view: &HeapView<'_, S>) -> (u64, u64) {
    let (mut released, mut kept) = (0, 0);
    for segment in view.segments() {
        let bytes = segment.memory.bytes();
        // SAFETY: all of the segment is the allocator's, and the caller's promise covers it. The
        // list of segments is not in them.
        let done = unsafe { unmap(view.os, segment.memory.start(), bytes) };
        *(if done { &mut released } else { &mut kept }) += bytes as u64;
    }
    (released, kept)
}

/// Unmaps a segment.
///
/// # Safety
///
/// Nothing in it is used again.
unsafe fn unmap<S: Os>(os: &S, start: usize, bytes: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { os.unmap(ptr::with_exposed_provenance_mut(start), bytes) }
}

/// A block's bytes, and by how many it adds to [`Survey::live`]: none, if it is mapped apart.
///
/// # Safety
///
/// `block` is a live block of LuaJIT's allocator.
pub(crate) unsafe fn block_size(block: *const u8) -> (usize, usize) {
    let chunk = block.wrapping_sub(CONTENTS).cast::<usize>();
    // SAFETY: in front of a block are the two words that its chunk begins with. The first one may
    // belong to the block before, but is read only when it does not.
    unsafe {
        let head = chunk.add(HEAD / WORD).read();
        let size = head & !FLAGS;
        let is_apart = head & PREVIOUS_IN_USE == 0 && chunk.add(FOOT / WORD).read() & MMAPPED != 0;
        if is_apart { (size - 2 * WORD, 0) } else { (size - WORD, size) }
    }
}

/// The whole kernel pages of a free chunk that the allocator does not use.
fn idle_pages(chunk: Chunk, page: usize) -> Range<usize> {
    let start = round_up(chunk.at + HEADER, page);
    start..round_down(chunk.at + chunk.size, page).max(start)
}

/// Refuses a heap.
#[cold]
fn refuse(reason: fmt::Arguments<'_>) -> Error {
    Error::Unknown.because(format_args!("not LuaJIT's own heap: {reason}"))
}

impl Survey {
    fn name_sizes(&mut self) {
        for (power, chunks) in self.histogram.iter_mut().enumerate() {
            chunks.up_to = (CHUNK_MIN as u64) << power;
        }
        self.histogram[SIZES - 1].up_to = u64::MAX;
    }

    /// Adds a free chunk.
    fn add_free(&mut self, size: u64, returnable: u64, returned: u64) {
        let power = size.div_ceil(CHUNK_MIN as u64).next_power_of_two().ilog2() as usize;
        let chunks = &mut self.histogram[power.min(SIZES - 1)];
        chunks.count += 1;
        chunks.bytes += size;
        chunks.returnable += returnable;
        self.free_chunks += 1;
        self.free += size;
        self.largest_free = self.largest_free.max(size);
        self.returnable += returnable;
        self.returned += returned;
    }
}

#[cfg(test)]
mod tests;
