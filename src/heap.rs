//! The heap of one Lua VM.
//!
//! Rooms, lowest first: each uses this file and the rooms above its own row, and `tests/house.rs`
//! holds them to it, methods of [`Heap`] included.
//!
//! | room         | concern                                                                   |
//! |--------------|---------------------------------------------------------------------------|
//! | this file    | the heap's state, and the way from an index of a page to its descriptor   |
//! | `hooks`      | what the layer above keeps with a heap, and when it is called             |
//! | `sanitizer`  | what AddressSanitizer and valgrind learn of each block                    |
//! | `slots`      | the bit of a slot: size classes, descriptors                              |
//! | `pages`      | where things lie; free and dirty pages, and how they go back              |
//! | `growth`     | address space and pages that the heap takes; a growth that is refused     |
//! | `blocks`     | small blocks in spans, large blocks on pages; integrity                   |
//! | `checked`    | every block verified, for finding memory bugs                             |
//! | `lifecycle`  | a heap made, kept for the next, deleted; options of a heap in use         |
//! | `fast`       | allocate, free, resize: the hot path                                      |
//! | `stats`      | what the heap holds, as one snapshot                                      |
//! | `invariants` | every invariant of every room, for tests                                  |
//!
//! # Ownership
//!
//! The range owns everything: the [`Heap`] itself lies at its base. Raw pointers appear in
//! two places only: on the hot path, and where a descriptor or a block is reached from the base.
//! All other code holds `&mut Heap` and names pages by index.

mod blocks;
pub(crate) mod checked;
mod fast;
mod growth;
mod hooks;
mod lifecycle;
mod pages;
#[cfg(feature = "sanitizers")]
mod sanitizer;
#[cfg(not(feature = "sanitizers"))]
#[path = "heap/sanitizer/stub.rs"]
mod sanitizer;
mod slots;
pub(crate) mod stats;

#[cfg(test)]
pub(crate) mod invariants;
#[cfg(test)]
mod tests;

use core::slice;

pub(crate) use blocks::foreign::{ForeignBlocks, ForeignPages, ForeignReason, ForeignReturned};
pub(crate) use fast::alloc;
pub(crate) use growth::collector::Collector;
pub(crate) use growth::refusal::enable_shortage_report;
pub(crate) use hooks::ReclaimHooks;
pub(crate) use lifecycle::deleted::refuse_deleted;
pub(crate) use lifecycle::heap_cache::HeapCache;
pub(crate) use pages::layout::Layout;
pub(crate) use pages::runs::{PageRuns, RunCounts};
pub(crate) use pages::watch::Forecast;
pub(crate) use pages::{refaults, watch};
pub(crate) use slots::class;
pub(crate) use slots::descriptor::{Descriptor, PageKind, SpanState};

use crate::bug::ensure;
use crate::options::Options;
use crate::os::Os;
use crate::units::{PageIndex, Pages};
use blocks::last_slots::SlotScan;
use checked::Checked;
use class::{CLASS_COUNT, QUICK_MAX, class_of};
use growth::mapped::Extent;
use pages::split_mappings::SplitMappings;
use pages::watch::Watch;

/// Where blocks of one size class come from, and what freeing one needs to know. One cache line.
#[repr(C, align(64))]
pub(crate) struct Bin {
    /// The bitmap word that allocation takes slots from: in the active span's descriptor, or the
    /// heap's `always_zero`.
    word: *mut u64,
    /// The address of that word's first slot.
    base: *mut u8,
    /// Blocks that were handed out, and all slots that were free in the active span when it became
    /// that. Wraps. [`Heap::live`] takes those away again that were not handed out:
    ///
    /// ```text
    /// live = taken - freed - (free slots of the active span - frees since it became that)
    /// ```
    taken: u64,
    /// Blocks that were freed. Wraps.
    freed: u64,
    /// Bytes per slot.
    slot_size: u32,
    /// The span that `word` is in; page 0: none.
    active: PageIndex,
    /// How many of its words were filled, that one included.
    cursor: u32,
    /// The first span with enough free slots to be worth a visit, most recently touched first.
    partial: PageIndex,
    /// An empty span kept for the next time; page 0: none.
    spare: PageIndex,
    /// Spans of the class.
    pub(crate) spans: u32,
    /// Of these, short ones.
    short: u32,
}

const _: () = assert!(size_of::<Bin>() == 64);

/// Where the bins lie, in bytes from the heap: behind that of size 0, and a line of what both
/// allocating and freeing need.
const BINS: usize = 2 * size_of::<Bin>();

/// Where the bin of a class lies, in bytes from the heap.
const fn bin_at(class: usize) -> u16 {
    (BINS + class * size_of::<Bin>()) as u16
}

/// The class whose bin lies there.
const fn class_at(bin: u16) -> usize {
    (bin as usize - BINS) / size_of::<Bin>()
}

const _: () = assert!(bin_at(CLASS_COUNT) as usize == BINS + CLASS_COUNT * size_of::<Bin>());

/// Where the bin of each size to [`QUICK_MAX`] lies. Size 0 has one of its own.
const BIN_OF_SIZE: [u16; QUICK_MAX + 1] = {
    let mut table = [0; QUICK_MAX + 1];
    let mut size = 1;
    while size <= QUICK_MAX {
        table[size] = bin_at(class_of(size));
        size += 1;
    }
    table
};

/// What happened, for the statistics. Nothing is decided by these.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) commit_calls: u64,
    pub(crate) purge_calls: u64,
    pub(crate) remap_calls: u64,
    pub(crate) failed_calls: u64,
    /// Ranges that the kernel refused to take back.
    pub(crate) purge_refused: u64,
    /// Why it refused the last of them; 0: it has taken one since.
    pub(crate) purge_errno: i32,
    /// Allocations that were refused: null was returned.
    pub(crate) refused_allocations: u64,
    /// Of these, allocations that RLIMIT_AS refused.
    pub(crate) refused_address_space: u64,
    pub(crate) reclaim_passes: u64,
    /// The most pages that were resident when pages were taken, the tables' among them.
    pub(crate) resident_peak: Pages,
    /// Pages of all spans.
    pub(crate) span_pages: Pages,
    /// Of these, given back: the pages whose bits are set in [`Descriptor::purged`].
    pub(crate) purged: Pages,
    /// Bytes at the starts of spans that no slot covers ([`class::Class::slack`]), where their page
    /// is not purged.
    pub(crate) slack: usize,
    pub(crate) large_blocks: u64,
    pub(crate) large_pages: Pages,
    /// Of these, pages of blocks that LuaJIT's own allocator would map and unmap one by one.
    pub(crate) mmapped_pages: Pages,
    /// Bytes asked for large blocks.
    pub(crate) large_requested: usize,
    /// Bytes by which small blocks that were shrunk, and had to stay, are less than others of their
    /// class. What is freed of these stays in it.
    pub(crate) shrunk_in_place: usize,
}

/// The heap of one VM. Lies at the base of its range of addresses.
///
/// ```text
/// reservation                    base: what Lua holds as `ud`
/// |                              |
/// | not yet   | descriptors      | header | chunks | hist. | guard | pages          | not yet   |
/// | committed | <- of page n … 0 | page 0, 1, … first - 1          | first … top -> | committed |
/// |           |--------------------------- committed --------------------------|                |
/// ```
///
/// Pages of 4096 bytes grow upwards and their descriptors of 64 bytes downwards, so that what is
/// committed is one range, and a heap is two mappings to the kernel, which counts them. The header
/// is this struct. "hist." is the buffer of the option `history`. `pages::layout` has the drawing
/// of a range that is planned, not reserved.
///
/// From the address of a small block to its bit:
///
/// ```text
/// d    = block - base          at or above `committed`: the block is not of this heap
/// n    = d / 4096              the page that the block starts in
/// D(n) = base - 64 * (n + 1)   the page's descriptor
/// o    = block - start         the offset in the span; D(n) has the start of the span's slot 0
/// s    = o / slot size         the slot, by the reciprocal in D(n); a remainder: no block
/// bit s % 64 of word s / 64    in the descriptor of the span's first page; D(n) has its address
/// ```
///
/// And back, where the bin of a size has the word and the address of the word's first slot:
///
/// ```text
/// block = bin.base + bit * bin.slot_size
/// ```
///
/// `slots::address` computes all this on the hot path, and `slots::class` divides.
///
/// `O` is the system that the heap runs on, `R` the layer above, which decides what goes back.
///
/// - H1: pages up to `top`, their descriptors and their chunks are committed.
/// - H2: every used page belongs to the tables, one span or one large block.
/// - H3: a bin's active span is in no list; the words that were filled may have free slots.
/// - H4: the counts are what a walk over all descriptors finds.
#[repr(C)]
pub(crate) struct Heap<O: Os, R: ReclaimHooks> {
    /// The bin of size 0: it never has spans.
    no_bin: Bin,
    /// The address just below the heap: `below - block` is the complement of `block - base`.
    below: usize,
    /// The complement of [`Heap::committed`]: `!committed < !offset` is `offset < committed`. That
    /// of 0 where every block is checked, so that no block takes the hot path.
    committed_complement: usize,
    /// Bytes asked for in small blocks. Wraps.
    requested_bytes: u64,
    /// Bytes asked for in those that were freed, as far as `osize` can be trusted. Wraps.
    freed_bytes: u64,
    /// Always 0: the word of a bin without an active span.
    always_zero: u64,
    bins: [Bin; CLASS_COUNT],
    /// A copy of [`BIN_OF_SIZE`], at a fixed offset from the heap.
    bin_of_size: [u16; QUICK_MAX + 1],
    /// This heap's address, with the right to all of its range.
    base: *mut u8,
    pub(crate) layout: Layout,
    pub(crate) runs: RunCounts,
    pub(crate) counts: Counts,
    pub(crate) options: Options,
    /// Blocks of more bytes than this are large.
    small_max: usize,
    /// The state of the checked layer; null: nothing is checked.
    checked: *mut Checked,
    /// Pages outside the range that hold blocks: those of guarded slots.
    guarded_pages: Pages,
    /// What is committed of the range.
    extent: Extent,
    /// Chunks that are committed.
    chunk_count: usize,
    /// Bytes that the kernel, or the end of the range, refused at the last attempt to grow.
    kernel_denied: usize,
    /// The last allocation that failed did so because of RLIMIT_AS.
    address_space_refused: bool,
    split_mappings: SplitMappings,
    /// The sequence that the colors of large blocks come from: see `blocks::large`. Starts at
    /// random, so that colors cannot be predicted.
    color_seed: u32,
    /// Which bitmap word of a span is filled first follows from this, and from where the span lies.
    word_seed: u32,
    slot_scans: [SlotScan; CLASS_COUNT],
    /// Huge pages were allowed, or the kernel refused to keep them off: it may hold pages of the
    /// tables that were never touched.
    huge_pages: bool,
    /// The kernel refused to move pages once; from then on they are copied.
    remap_refused: bool,
    /// Bytes that the heap may hold resident: growth beyond is refused.
    pub(crate) growth_limit: usize,
    /// Pages that `growth_limit` refused at the last attempt to grow; 0 if it allowed them.
    pub(crate) denied_pages: Pages,
    /// The layer above is polled when more than this many pages were taken or freed,
    pub(crate) poll_threshold: Pages,
    /// and after this many operations on the slow path.
    pub(crate) poll_in: u32,
    /// Bytes of the history buffer that count as resident.
    history_bytes: usize,
    /// New blocks go into the fullest spans, so that sparse ones drain.
    pub(crate) packing: bool,
    pub(crate) kernel_page: usize,
    /// The functions for blocks that are not of this heap.
    pub(crate) foreign: Option<ForeignBlocks>,
    /// The collector of the VM, where the heap may reach it.
    pub(crate) collector: Option<Collector>,
    /// The collector is due: the layer above is called at each slow allocation.
    pub(crate) collecting: bool,
    /// Allocations that may take of what is kept for the collector before one is refused.
    pub(crate) grace: u8,
    /// What the layer above keeps with the heap.
    pub(crate) hooks: R::State,
    pub(crate) os: O,
}

/// No limit: the heap may grow to the end of its range.
pub(crate) const NO_LIMIT: usize = usize::MAX;

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// The start of the range.
    pub(crate) fn range_start(&self) -> *mut u8 {
        self.base.wrapping_sub(self.layout.base)
    }

    /// The address of a page.
    pub(crate) fn address(&self, page: PageIndex) -> *mut u8 {
        self.base.wrapping_add(page.offset())
    }

    /// Bytes above the base that have descriptors and are committed.
    fn committed(&self) -> usize {
        self.extent.end
    }

    /// Bytes asked for in live small blocks, as far as `osize` can be trusted.
    pub(crate) fn small_requested(&self) -> usize {
        self.requested_bytes.wrapping_sub(self.freed_bytes).cast_signed().max(0) as usize
    }

    /// Where a page's descriptor lies.
    fn descriptor_at(&self, page: PageIndex) -> *mut Descriptor {
        let is_committed = page.offset() < self.committed();
        ensure!(is_committed, "heap {:p}: H1: {page:?} has no descriptor", self.base);
        self.base.cast::<Descriptor>().wrapping_sub(page.0 as usize + 1)
    }

    /// A page's descriptor.
    pub(crate) fn descriptor(&self, page: PageIndex) -> &Descriptor {
        // SAFETY: H1: it is committed, and zeroed memory is a descriptor of a page that is part of
        // nothing but for the countdown, of which any value is valid. What the background thread
        // looks at are atomics. The heap is borrowed, so it is not replaced meanwhile.
        unsafe { &*self.descriptor_at(page) }
    }

    /// Replaces a page's descriptor.
    fn set_descriptor(&mut self, page: PageIndex, descriptor: Descriptor) {
        // SAFETY: H1. The heap is borrowed alone, and the background thread looks only at the
        // descriptors of spans that it has claimed: those stay.
        unsafe { self.descriptor_at(page).write(descriptor) };
    }

    /// Whether blocks are checked, all or some.
    pub(crate) fn is_checked(&self) -> bool {
        !self.checked.is_null()
    }

    /// What the checked layer keeps, if anything.
    fn checked(&self) -> Option<&Checked> {
        // SAFETY: null, or live as long as the heap.
        unsafe { self.checked.as_ref() }
    }

    /// Whether the hot path is shut: every block is checked, or the heap is closed.
    fn fast_path_disabled(&self) -> bool {
        self.small_max == 0
    }

    /// The page runs.
    pub(crate) fn page_runs(&mut self) -> PageRuns<'_> {
        self.page_runs_and_os().0
    }

    /// The page runs, and the system.
    fn page_runs_and_os(&mut self) -> (PageRuns<'_>, &O) {
        let (chunks, chunk_count) = (self.layout.chunks, self.chunk_count);
        // SAFETY: L1: the table lies between the header and the first page, aligned; its first
        // `chunk_count` chunks are committed, and zeroed memory is valid chunks. They are only ever
        // looked at by reference: what changes in them are cells, which are this thread's, and
        // atomics.
        let chunks = unsafe { slice::from_raw_parts(self.base.add(chunks).cast(), chunk_count) };
        // SAFETY: as for `watch`.
        let watch = unsafe { &*self.watch_at() };
        (PageRuns { counts: &mut self.runs, chunks, watch }, &self.os)
    }

    /// Where the heap's watch lies: behind the heap.
    fn watch_at(&self) -> *mut Watch {
        self.base.wrapping_add(watch_offset::<O, R>()).cast()
    }

    /// What the heap shares with the background thread.
    pub(crate) fn watch(&self) -> &Watch {
        // SAFETY: it lies there from the heap's creation to its end, aligned, and is only ever
        // looked at by reference.
        unsafe { &*self.watch_at() }
    }

    /// A watch that nobody looks by yet.
    fn new_watch(&self) -> Watch {
        let chunks = self.base.wrapping_add(self.layout.chunks).cast();
        Watch::new(self.base, chunks, self.kernel_page, self.runs.top)
    }

    /// The buffer of the option `history`, in words. Zero at first; empty where it is not
    /// committed.
    pub(crate) fn history_buffer(&mut self) -> &mut [u64] {
        let count = if self.extent.has_history { R::HISTORY_WORDS } else { 0 };
        // SAFETY: L1: they lie behind the chunks, aligned; as many are committed, and any bytes are
        // words. The heap is borrowed for as long, so nobody else has them.
        unsafe { slice::from_raw_parts_mut(self.base.add(self.layout.history).cast(), count) }
    }

    /// Counts the history buffer as resident from now on.
    pub(crate) fn count_history(&mut self) {
        self.history_bytes = R::HISTORY_WORDS * size_of::<u64>();
    }
}

/// How far behind a heap its watch lies.
const fn watch_offset<O: Os, R: ReclaimHooks>() -> usize {
    size_of::<Heap<O, R>>().next_multiple_of(align_of::<Watch>())
}
