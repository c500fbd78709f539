//! The heap of one Lua VM.
//!
//! | file            | concern                                                          | unsafe |
//! |-----------------|------------------------------------------------------------------|--------|
//! | `class`         | size classes; offset to slot                                     | no     |
//! | `descriptor`    | what is known about a page                                       | no     |
//! | `runs`          | free and dirty pages                                             | no     |
//! | `layout`        | where the parts lie in the reservation                           | no     |
//! | `reserve`       | how much address space a heap takes                              | no     |
//! | `scars`         | ranges that are kernel mappings of their own                     | no     |
//! | this one        | the heap's state; making, growing and deleting it                | yes    |
//! | `park`          | keeping one deleted heap for the next                            | yes    |
//! | `span`          | spans: filled, listed, emptied                                   | yes    |
//! | `large`         | large blocks: placed, grown, moved                               | yes    |
//! | `fast`          | allocate, free, resize: the hot path                             | yes    |
//! | `misuse`        | what is wrong with a pointer that is no live block               | no     |
//! | `check`         | every invariant of every layer, for tests                        | no     |
//!
//! # Who owns what
//!
//! The reservation owns everything: the [`Heap`] itself lies at its base. Raw pointers appear in
//! two places only: on the hot path, and where a descriptor or a block is reached from the base.
//! All other code holds `&mut Heap` and names pages by index.

pub(crate) mod class;
mod descriptor;
mod fast;
mod large;
mod layout;
mod misuse;
pub(crate) mod park;
mod reserve;
mod runs;
mod scars;
mod span;

#[cfg(test)]
pub(crate) mod check;
#[cfg(test)]
mod tests;

use core::slice;

pub(crate) use descriptor::{Descriptor, Kind, Place};
pub(crate) use fast::alloc;
pub(crate) use layout::Layout;
pub(crate) use runs::{PageRuns, RunCounts};

use crate::error::Error;
use crate::options::{Key, Options, RESERVE_MIN};
use crate::os::Os;
use crate::units::{PageIndex, Pages, round_up};
use class::CLASS_COUNT;
use scars::Scars;

/// Bytes that are committed when a heap is made: what a bare VM needs.
const COMMIT_FIRST: usize = 256 << 10;
/// A heap grows by an eighth, but by these bytes at least and at most.
const COMMIT_STEP: (usize, usize) = (256 << 10, 64 << 20);

/// Where blocks of one size class come from. One cache line.
#[repr(C, align(64))]
pub(crate) struct Bin {
    /// The bitmap word that allocation takes slots from: in the current span's descriptor, or the
    /// heap's empty word.
    word: *mut u64,
    /// The address of that word's first slot.
    base: *mut u8,
    /// Bytes per slot.
    slot_size: usize,
    /// Live blocks.
    pub(crate) live: u64,
    /// The span that `word` is in; page 0: none.
    current: PageIndex,
    /// Which of its words.
    cursor: u32,
    /// The first span with enough free slots to be worth a visit, most recently touched first.
    listed: PageIndex,
    /// An empty span kept for the next time; page 0: none.
    spare: PageIndex,
    /// Spans of the class.
    pub(crate) spans: u32,
}

/// What happened, for the statistics. Nothing is decided by these.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) commit_calls: u64,
    pub(crate) purge_calls: u64,
    pub(crate) remap_calls: u64,
    pub(crate) failed_calls: u64,
    pub(crate) reclaim_passes: u64,
    pub(crate) returned_total: u64,
    /// The most pages that were resident, the tables not counted.
    pub(crate) resident_peak: Pages,
    /// Pages of all spans.
    pub(crate) span_pages: Pages,
    /// Of these, given back: the pages whose bits are set in [`Descriptor::purged`].
    pub(crate) purged: Pages,
    /// Bytes at the starts of spans that no slot covers, where their page is not purged.
    pub(crate) leads: usize,
    pub(crate) large_blocks: u64,
    pub(crate) large_pages: Pages,
    /// Bytes asked for large blocks.
    pub(crate) large_requested: usize,
}

/// The heap of one VM. Lies at the base of its reservation.
///
/// - H1: pages up to `top` and their descriptors are committed.
/// - H2: every used page belongs to the tables, one span or one large block.
/// - H3: a bin's current span is in no list; its words before the cursor may have free slots.
/// - H4: the counts are what a walk over all descriptors finds.
#[repr(C)]
pub(crate) struct Heap<S> {
    /// Bytes above the base that have descriptors and are committed.
    committed: usize,
    /// Bytes asked for in live small blocks, as far as `osize` can be trusted. Wraps.
    pub(crate) small_requested: u64,
    /// Always 0: the word of a bin without a current span.
    empty_word: u64,
    pub(crate) bins: [Bin; CLASS_COUNT],
    /// This heap's address, with the right to all of its reservation.
    base: *mut u8,
    pub(crate) layout: Layout,
    pub(crate) runs: RunCounts,
    pub(crate) counts: Counts,
    pub(crate) options: Options,
    /// Bytes below the base that are committed.
    committed_below: usize,
    scars: Scars,
    /// The kernel refused to move pages once; from then on they are copied.
    remap_refused: bool,
    /// Where the next step of a reclaim pass begins; page 0: with a new pass.
    pub(crate) reclaim_cursor: PageIndex,
    /// Ranges that the kernel refused in the pass that goes on there.
    pub(crate) reclaim_refused: u64,
    pub(crate) kernel_page: usize,
    pub(crate) os: S,
}

impl<S: Os> Heap<S> {
    /// Makes a heap.
    pub(crate) fn create(os: S, mut options: Options) -> Result<*mut Heap<S>, Error> {
        let kernel_page = os.page_size();
        let (start, layout) = reserve_somewhere(&os, &options, kernel_page)?;
        options.put(Key::Reserve, layout.reserved as i64);
        let base = start.wrapping_add(layout.base);
        let committed = layout.first.offset() + round_up(COMMIT_FIRST, kernel_page);
        let committed = committed.min(layout.limit.offset());
        let committed_below = layout.descriptors(PageIndex::of(committed), kernel_page);
        let heap = Heap {
            committed,
            small_requested: 0,
            empty_word: 0,
            bins: span::empty_bins(base),
            base,
            runs: RunCounts::new(layout.first),
            layout,
            counts: Counts { commit_calls: 1, ..Counts::default() },
            options,
            committed_below,
            scars: Scars::NONE,
            remap_refused: false,
            reclaim_cursor: PageIndex(0),
            reclaim_refused: 0,
            kernel_page,
            os,
        };
        // SAFETY: the reservation is ours; L1 and L2 hold for the range; the base is page-aligned
        // and the tables have room for the header, which is written before anybody reads it.
        unsafe {
            let from = base.sub(committed_below);
            if !heap.os.commit(from, committed_below + committed) {
                heap.os.release(start, heap.layout.reserved);
                return Err(Error::Memory.because(format_args!(
                    "the kernel gives no {} bytes of memory for a new heap",
                    committed_below + committed
                )));
            }
            let huge_pages = heap.options.get(Key::Thp) == 1;
            // A kernel that knows no huge pages refuses; there is nothing to keep off then.
            heap.os.set_huge_pages(start, heap.layout.reserved, huge_pages);
            reserve::note_made(heap.layout.reserved);
            base.cast::<Heap<S>>().write(heap);
        }
        Ok(base.cast())
    }

    /// Gives a heap's reservation back, with all that is in it.
    ///
    /// # Safety
    ///
    /// `heap` came from [`Heap::create`], and neither it nor any block in it is used again.
    unsafe fn release(heap: *mut Heap<S>) {
        // SAFETY: the caller's promise; the header is moved out before its memory goes.
        unsafe {
            let heap = heap.read();
            heap.os.release(heap.reservation(), heap.layout.reserved);
        }
    }

    /// The start of the reservation.
    pub(crate) fn reservation(&self) -> *mut u8 {
        self.base.wrapping_sub(self.layout.base)
    }

    /// The address of a page.
    pub(crate) fn address(&self, page: PageIndex) -> *mut u8 {
        self.base.wrapping_add(page.offset())
    }

    /// The committed range, descriptors included: its start and bytes.
    pub(crate) fn committed_range(&self) -> (*mut u8, usize) {
        let start = self.base.wrapping_sub(self.committed_below);
        (start, self.committed_below + self.committed)
    }

    /// Where a page's descriptor lies.
    fn descriptor_at(&self, page: PageIndex) -> *mut Descriptor {
        assert!(page.offset() < self.committed, "H1: {page:?} has no descriptor");
        self.base.cast::<Descriptor>().wrapping_sub(page.0 as usize + 1)
    }

    /// A page's descriptor.
    pub(crate) fn descriptor(&mut self, page: PageIndex) -> &mut Descriptor {
        // SAFETY: H1: it is committed, and zeroed memory is Descriptor::NONE but for the countdown,
        // of which any value is valid. The heap is borrowed for as long, so nobody else has it.
        unsafe { &mut *self.descriptor_at(page) }
    }

    /// The page runs.
    pub(crate) fn page_runs(&mut self) -> PageRuns<'_> {
        let Layout { chunks, chunk_count, .. } = self.layout;
        // SAFETY: L1: the table lies between the header and the first page, aligned; it is
        // committed, and zeroed memory is valid chunks. The heap is borrowed for as long, so nobody
        // else has them.
        let chunks =
            unsafe { slice::from_raw_parts_mut(self.base.add(chunks).cast(), chunk_count) };
        PageRuns { counts: &mut self.runs, chunks }
    }

    /// Takes a run of pages, the lowest there is. `None`: no room or no memory.
    fn take_pages(&mut self, count: Pages) -> Option<PageIndex> {
        let page = match self.page_runs().take_lowest(count) {
            Some(page) => page,
            None => self.take_pages_at_top(count)?,
        };
        self.note_peak();
        Some(page)
    }

    fn take_pages_at_top(&mut self, count: Pages) -> Option<PageIndex> {
        if count > self.layout.limit.since(self.layout.first) {
            return None;
        }
        let top = self.page_runs().top_after(count);
        self.commit(top).then(|| self.page_runs().take_at_top(count))
    }

    /// Pages that hold memory, by our own account: all below `top` but the clean and the purged.
    pub(crate) fn resident_pages(&self) -> Pages {
        let clean = self.runs.free - self.runs.dirty;
        self.runs.top.since(self.layout.first) - clean - self.counts.purged
    }

    fn note_peak(&mut self) {
        self.counts.resident_peak = self.counts.resident_peak.max(self.resident_pages());
    }

    /// Makes sure that pages below `top` and their descriptors are committed.
    fn commit(&mut self, top: PageIndex) -> bool {
        if top.offset() <= self.committed {
            return true;
        }
        if top > self.layout.limit {
            return false;
        }
        let step = (self.committed / 8).clamp(COMMIT_STEP.0, COMMIT_STEP.1);
        let generous = round_up(top.offset().max(self.committed + step), self.kernel_page);
        let exact = round_up(top.offset(), self.kernel_page);
        let limit = self.layout.limit.offset();
        self.commit_up_to(generous.min(limit)) || self.commit_up_to(exact.min(limit))
    }

    fn commit_up_to(&mut self, end: usize) -> bool {
        let below = self.layout.descriptors(PageIndex::of(end), self.kernel_page);
        if below > self.committed_below {
            let from = self.base.wrapping_sub(below);
            if !self.commit_range(from, below - self.committed_below) {
                return false;
            }
            self.committed_below = below;
        }
        let from = self.base.wrapping_add(self.committed);
        if !self.commit_range(from, end - self.committed) {
            return false;
        }
        self.committed = end;
        true
    }

    fn commit_range(&mut self, from: *mut u8, bytes: usize) -> bool {
        self.counts.commit_calls += 1;
        // SAFETY: L1 and L2: the range lies in the reservation, on kernel pages.
        let done = unsafe { self.os.commit(from, bytes) };
        self.counts.failed_calls += u64::from(!done);
        done
    }

    /// Changes an option of a heap in use.
    pub(crate) fn set_option(&mut self, key: Key, value: i64) -> Result<(), Error> {
        Options::check_change(key, value)?;
        if key == Key::Thp {
            let (start, bytes) = (self.reservation(), self.layout.reserved);
            // SAFETY: it is this heap's whole reservation.
            if !unsafe { self.os.set_huge_pages(start, bytes, value == 1) } {
                return Err(Error::System
                    .because(format_args!("thp: the kernel refused to change huge pages")));
            }
        }
        self.remap_refused &= key != Key::RemapMin;
        self.options.put(key, value);
        Ok(())
    }
}

/// Reserves address space: what the options say, or a fair share; half as much as long as the
/// kernel refuses.
fn reserve_somewhere<S: Os>(
    os: &S,
    options: &Options,
    kernel_page: usize,
) -> Result<(*mut u8, Layout), Error> {
    let wanted = reserve::wanted(os.address_space(), options, kernel_page);
    let mut bytes = wanted;
    while bytes >= RESERVE_MIN {
        let layout = Layout::new(bytes, size_of::<Heap<S>>(), kernel_page);
        if let Some((layout, start)) = layout.zip(os.reserve(bytes)) {
            return Ok((start, layout));
        }
        bytes = round_up(bytes / 2, kernel_page);
    }
    Err(Error::Memory.because(format_args!(
        "reserve: the kernel gives no address space below 2^47, from {wanted} bytes down to \
         {RESERVE_MIN}"
    )))
}
