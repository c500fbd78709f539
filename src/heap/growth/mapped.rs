//! What a heap has mapped of its range of addresses.
//!
//! A reservation is mapped as a whole, and committed in it is one range. Of a plan the parts are
//! mapped that the heap has committed, and nothing else. See `pages::layout` for both.
//!
//! - M1: all parts of a plan that are mapped were mapped by this heap, and are committed.
//! - M2: pages up to `top`, their descriptors and their chunks lie in what is committed.

use core::fmt;

use super::reserve::{self, Reservation};
use crate::error::Error;
use crate::heap::pages::layout::Layout;
use crate::heap::{Heap, ReclaimHooks};
use crate::options::{Key, Options, RESERVE_MIN};
use crate::os::{ADDRESS_LIMIT, MemoryRange, Os};
use crate::units::{PageIndex, Pages, round_up};

/// Bytes for blocks that are committed when a heap is made: what a bare VM needs.
const FIRST: usize = 256 << 10;
/// In a plan, where other heaps and the rest of the process want the same address space: what a VM
/// with its libraries needs there, 24 pages, and a page more.
const FIRST_PLANNED: usize = 100 << 10;
/// Fewer pages than these, 256 KiB, stay mapped at the end of a plan.
const CUT_MIN: Pages = Pages(64);
/// The most addresses that are tried for a plan. The range at an address may be taken, by another
/// heap or by chance.
const PLAN_ATTEMPTS: usize = 16;

/// A range for a new heap. Its first parts are committed.
pub(in crate::heap) struct Extent {
    pub(in crate::heap) layout: Layout,
    pub(in crate::heap) base: *mut u8,
    /// Bytes below the base that are committed: of descriptors.
    pub(in crate::heap) below: usize,
    /// Where the header and the chunks that are committed end, as bytes above the base.
    pub(in crate::heap) tables_end: usize,
    /// Where the pages that are committed end, as bytes above the base.
    pub(in crate::heap) end: usize,
    /// Whether the history buffer is committed.
    pub(in crate::heap) has_history: bool,
}

impl Extent {
    /// A range at an address, laid out by `layout`, of which nothing is committed yet.
    fn new(start: *mut u8, layout: Layout, kernel_page: usize, with_history: bool) -> Extent {
        let first = if layout.is_planned { FIRST_PLANNED } else { FIRST };
        let end = layout.first.offset() + round_up(first, kernel_page);
        let end = end.min(layout.limit.offset());
        let pages = PageIndex::of(end);
        let tables_end = match layout.is_planned {
            true => layout.tables_end(pages, kernel_page),
            false => layout.first.offset(),
        };
        Extent {
            base: start.wrapping_add(layout.base),
            below: layout.descriptors(pages, kernel_page),
            tables_end,
            end,
            has_history: with_history || !layout.is_planned,
            layout,
        }
    }

    /// What is committed: descriptors and tables, in a plan the history buffer, pages. Parts may be
    /// empty.
    pub(in crate::heap) fn committed(&self) -> [MemoryRange; 3] {
        let Layout { history, guard, first, is_planned, .. } = self.layout;
        let part = |from: usize, to: usize| MemoryRange {
            start: self.base.wrapping_add(from),
            bytes: to - from,
        };
        let descriptors = MemoryRange {
            start: self.base.wrapping_sub(self.below),
            bytes: self.below + self.tables_end,
        };
        let history =
            if is_planned && self.has_history { part(history, guard) } else { part(0, 0) };
        [descriptors, history, part(first.offset(), self.end)]
    }

    /// Bytes of what is committed.
    fn bytes(&self) -> usize {
        self.committed().iter().map(|part| part.bytes).sum()
    }
}

/// The parts that are not empty.
fn some(parts: [MemoryRange; 3]) -> impl Iterator<Item = MemoryRange> {
    parts.into_iter().filter(|part| part.bytes > 0)
}

/// Finds a range for a new heap with a header of `header` bytes, and commits its first parts.
pub(in crate::heap) fn new_extent<O: Os, R: ReclaimHooks>(
    os: &O,
    options: &Options,
    kernel_page: usize,
    header: usize,
) -> Result<Extent, Error> {
    let range = reserve::wanted(os.address_space(), options, kernel_page);
    if let Reservation::Planned(bytes, _) = range {
        let layout = Layout::new(bytes, header, R::HISTORY_WORDS, kernel_page);
        let layout = layout.map(|layout| Layout { is_planned: true, ..layout });
        let with_history = options.get(Key::History) == 1;
        if let Some(extent) = layout.and_then(|it| plan(os, it, kernel_page, with_history)) {
            return Ok(extent);
        }
        // A kernel that maps nothing where it is asked to may reserve.
    }
    let (start, layout) = reserve_somewhere::<O, R>(os, range.to_reserve(), header, kernel_page)?;
    let extent = Extent::new(start, layout, kernel_page, true);
    let [descriptors, ..] = extent.committed();
    // SAFETY: the reservation is ours; L1 and L2 hold for the range, which is one.
    unsafe {
        if os.commit(descriptors.start, extent.bytes()) {
            return Ok(extent);
        }
        os.release(start, layout.bytes);
    }
    Err(Error::Memory.because(format_args!(
        "the kernel gives no {} bytes of memory for a new heap",
        extent.bytes()
    )))
}

/// Plans a range where its first parts can be mapped, and maps them. Where a place is taken the
/// next one is at random: those behind it may be taken, too.
fn plan<O: Os>(os: &O, layout: Layout, kernel_page: usize, with_history: bool) -> Option<Extent> {
    (0..PLAN_ATTEMPTS).find_map(|refused| {
        let start = os.plan(layout.bytes, refused > 0 || reserve::are_few())?;
        let extent = Extent::new(start, layout, kernel_page, with_history);
        let is_mapped = map_all(os, extent.committed());
        if !is_mapped {
            os.unplan(start);
        }
        is_mapped.then_some(extent)
    })
}

/// Maps parts of a planned range, all or none of them.
fn map_all<O: Os>(os: &O, parts: [MemoryRange; 3]) -> bool {
    for (index, part) in some(parts).enumerate() {
        // SAFETY: L1 and L2: the part lies in the range that was planned just now.
        if !unsafe { os.map(part.start, part.bytes) } {
            for mapped in some(parts).take(index) {
                // SAFETY: mapped just now, and nobody else knows of it.
                unsafe { os.release(mapped.start, mapped.bytes) };
            }
            return false;
        }
    }
    true
}

/// Reserves a range of `wanted` bytes; half as much as long as the kernel refuses.
fn reserve_somewhere<O: Os, R: ReclaimHooks>(
    os: &O,
    wanted: usize,
    header: usize,
    kernel_page: usize,
) -> Result<(*mut u8, Layout), Error> {
    let mut bytes = wanted;
    while bytes >= RESERVE_MIN {
        let layout = Layout::new(bytes, header, R::HISTORY_WORDS, kernel_page);
        if let Some((layout, start)) = layout.zip(os.reserve(bytes, reserve::are_few())) {
            return Ok((start, layout));
        }
        bytes = round_up(bytes / 2, kernel_page);
    }
    Err(match shortage(os, RESERVE_MIN) {
        Some(shortage) => Error::Memory.because(format_args!("reserve: no heap: {shortage}")),
        None => Error::Memory.because(format_args!(
            "reserve: the kernel gives no address space below 2^47, from {wanted} bytes down to \
             {RESERVE_MIN}"
        )),
    })
}

/// A limit on the address space of the process, and how much of it is in use.
#[derive(Clone, Copy)]
pub(in crate::heap) struct Shortage {
    pub(in crate::heap) limit: usize,
    pub(in crate::heap) used: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { limit, used } = self;
        write!(
            out,
            "RLIMIT_AS (ulimit -v) is {limit} bytes, and the process uses {used} of its address \
             space"
        )
    }
}

/// Whether RLIMIT_AS is what leaves no room for `bytes` more bytes.
pub(in crate::heap) fn shortage<O: Os>(os: &O, bytes: usize) -> Option<Shortage> {
    let limit = os.address_space();
    if limit >= ADDRESS_LIMIT {
        return None;
    }
    let mut buffer = [0; 64];
    let length = os.read_file(c"/proc/self/statm", &mut buffer)?;
    let pages = core::str::from_utf8(buffer.get(..length)?).ok()?.split(' ').next()?;
    let used = pages.parse::<usize>().ok()?.checked_mul(os.page_size())?;
    (used.saturating_add(bytes) > limit).then_some(Shortage { limit, used })
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// What is committed. Parts may be empty.
    pub(crate) fn committed_parts(&self) -> [MemoryRange; 3] {
        self.extent.committed()
    }

    /// Bytes that are committed.
    pub(crate) fn committed_bytes(&self) -> usize {
        self.extent.bytes()
    }

    /// What the heap has taken of the address space: its reservation, or the parts that are mapped.
    pub(crate) fn mapped(&self) -> [MemoryRange; 3] {
        if self.layout.is_planned {
            return self.committed_parts();
        }
        let nothing = MemoryRange { start: self.base, bytes: 0 };
        let reservation = MemoryRange { start: self.range_start(), bytes: self.layout.bytes };
        [reservation, nothing, nothing]
    }

    /// Bytes of that.
    pub(crate) fn reserved(&self) -> usize {
        self.mapped().iter().map(|part| part.bytes).sum()
    }

    /// Whether an address is the heap's own, or was before the end of its plan was cut off.
    pub(in crate::heap) fn is_inside(&self, address: *mut u8) -> bool {
        let holds =
            |part: &MemoryRange| address.addr().wrapping_sub(part.start.addr()) < part.bytes;
        self.mapped().iter().any(holds)
            || self.is_cut_off(address.addr().wrapping_sub(self.base.addr()))
    }

    /// Whether pages that were cut off lie `offset` bytes above the base.
    pub(in crate::heap) fn is_cut_off(&self, offset: usize) -> bool {
        (self.committed()..self.runs.reached().offset()).contains(&offset)
    }

    /// Gives all that is mapped back.
    ///
    /// # Safety
    ///
    /// Nothing in it is used again; the heap itself was moved out of it.
    pub(in crate::heap) unsafe fn unmap_all(&self) {
        for part in some(self.mapped()) {
            // SAFETY: a whole reservation, or M1; and the caller's promise.
            unsafe { self.os.release(part.start, part.bytes) };
        }
        if self.layout.is_planned {
            self.os.unplan(self.range_start());
        }
    }

    /// Allows huge pages in all that is mapped, or forbids them. False: the kernel refused.
    pub(in crate::heap) fn set_huge_pages(&self, wanted: bool) -> bool {
        // SAFETY: the heap's own reservation, or M1.
        let set =
            |part: MemoryRange| unsafe { self.os.set_huge_pages(part.start, part.bytes, wanted) };
        some(self.mapped()).all(set)
    }

    /// Commits a further part of the range, on kernel pages, which touches what is committed.
    pub(in crate::heap) fn commit_part(&mut self, from: *mut u8, bytes: usize) -> bool {
        self.counts.commit_calls += 1;
        let (is_planned, huge_pages) = (self.layout.is_planned, self.options.get(Key::Thp) == 1);
        // SAFETY: L1 and L2: the part lies in the heap's range, on kernel pages.
        let done = unsafe {
            if is_planned { self.os.map(from, bytes) } else { self.os.commit(from, bytes) }
        };
        if done && is_planned {
            // SAFETY: mapped just now. When it is like what it touches, the kernel keeps both in
            // one mapping.
            let is_set = unsafe { self.os.set_huge_pages(from, bytes, huge_pages) };
            self.huge_pages |= !is_set;
        }
        self.counts.failed_calls += u64::from(!done);
        if !done {
            self.kernel_denied = bytes;
        }
        done
    }

    /// Gives the address space of returned pages at the end of a plan back, so that the rest of the
    /// process can have it. A reservation keeps its addresses.
    pub(crate) fn cut_end(&mut self) {
        if !self.layout.is_planned {
            return;
        }
        self.mend_after_fork();
        let end = self.page_runs().clean_end();
        if self.runs.top.since(end) < CUT_MIN {
            return;
        }
        let (range, is_dirty) = self.page_runs().cut(end);
        self.note_background_returns();
        let (new, old) = (round_up(end.offset(), self.kernel_page), self.extent.end);
        // SAFETY: M1; the pages from there on are free, and the background thread has done with
        // them.
        if !unsafe { self.os.unmap(self.base.wrapping_add(new), old - new) } {
            self.counts.failed_calls += 1;
            self.page_runs().join(range, is_dirty);
            return;
        }
        self.extent.end = new;
        if !self.fast_path_disabled() {
            self.committed_complement = !new;
        }
        self.cut_descriptors();
    }

    /// Gives the descriptors of pages that are mapped no more back.
    fn cut_descriptors(&mut self) {
        let end = PageIndex::of(self.extent.end);
        let (new, old) = (self.layout.descriptors(end, self.kernel_page), self.extent.below);
        if new == old {
            return;
        }
        let from = self.base.wrapping_sub(old);
        // SAFETY: M1; descriptors of pages above the top say nothing, and the background thread
        // looks at those of spans only.
        if unsafe { self.os.unmap(from, old - new) } {
            self.extent.below = new;
            return;
        }
        self.counts.failed_calls += 1;
        let rest = MemoryRange { start: from, bytes: old - new };
        // SAFETY: as above; they are committed, whole kernel pages, and zeroed ones say the same.
        unsafe { self.os.purge(&[rest]) };
    }

    /// Commits the history buffer, if it is not. False: there is no memory.
    pub(in crate::heap) fn commit_history(&mut self) -> bool {
        let Layout { history, guard, .. } = self.layout;
        self.extent.has_history |= self.extent.has_history
            || self.commit_part(self.base.wrapping_add(history), guard - history);
        self.extent.has_history
    }
}
