//! One deleted heap is kept for the next one.
//!
//! Hosts that make a VM for each request make and delete heaps all the time. Each costs the kernel
//! a mapping, page tables and a fault for each page: 35 µs for an empty heap. So the heap that was
//! deleted last is reset and kept, with its first [`KEEP`] bytes still resident. The next heap with
//! the same range takes it over in under 1 µs. A process caches one heap at most, and only one that
//! was small and never had huge pages.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::deleted;
use crate::error::{self, Error};
use crate::heap::blocks::last_slots::SlotScan;
use crate::heap::blocks::span;
use crate::heap::growth::reserve::{self, Reservation};
use crate::heap::pages::layout;
use crate::heap::pages::split_mappings::SplitMappings;
use crate::heap::{Counts, Descriptor, Heap, NO_LIMIT, ReclaimHooks, RunCounts, checked};
use crate::options::{self, Key, Options};
use crate::os::{MemoryRange, Os};
use crate::units::{PageIndex, PageRange, Pages, round_up};

/// Bytes for blocks that stay resident in a cached heap.
const KEEP: usize = 512 << 10;
/// A heap that committed more than this for blocks is not cached.
const COMMITTED_MAX: usize = 8 << 20;
/// Nor one in a plan that has mapped more than this, since others want the address space.
const MAPPED_MAX: usize = 1 << 20;

/// The cached heap, or null. The thread that swaps it out owns it.
pub(crate) struct HeapCache<O: Os, R: ReclaimHooks>(AtomicPtr<Heap<O, R>>);

impl<O: Os, R: ReclaimHooks> HeapCache<O, R> {
    /// Without a heap.
    pub(crate) const fn new() -> HeapCache<O, R> {
        HeapCache(AtomicPtr::new(ptr::null_mut()))
    }

    /// Makes a heap, the cached one if that matches.
    pub(crate) fn create(&self, os: O, options: Options) -> Result<*mut Heap<O, R>, Error> {
        let made = self.made_or_reused(os, options).inspect_err(options::note_refused)?;
        options::note_taken();
        Ok(made)
    }

    fn made_or_reused(&self, os: O, options: Options) -> Result<*mut Heap<O, R>, Error> {
        error::prepare();
        let cached = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: swapping it out has made it ours.
        if let Some(heap) = unsafe { cached.as_mut() } {
            if heap.matches(&options) {
                deleted::note_made(cached.addr());
                heap.reuse(options);
                heap.check_as_asked();
                return Ok(cached);
            }
            // SAFETY: as above; it is not used again.
            unsafe { Heap::release(cached) };
        }
        Heap::create(os, options)
    }

    /// Deletes a heap, or caches it.
    ///
    /// # Safety
    ///
    /// As for `Heap::release`.
    pub(crate) unsafe fn delete(&self, heap: *mut Heap<O, R>) {
        deleted::note_deleted(heap.addr());
        // SAFETY: the caller's promise; whichever heap comes out of the swap is ours.
        unsafe {
            (*heap).watch().end();
            let is_spent = checked::finish(&mut *heap);
            reserve::note_deleted(&(*heap).layout);
            if is_spent || !(*heap).reset_state() {
                return Heap::release(heap);
            }
            (*heap).close();
            let before = self.0.swap(heap, Ordering::AcqRel);
            if !before.is_null() {
                Heap::release(before);
            }
        }
    }
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Whether a heap made with these options would be like this one.
    fn matches(&self, options: &Options) -> bool {
        let wanted = reserve::wanted(self.os.address_space(), options, self.kernel_page);
        let is_alike = match (self.layout.is_planned, wanted) {
            (true, Reservation::Planned(bytes, _)) => bytes == self.layout.bytes,
            (false, Reservation::Reserved(bytes)) => bytes == self.layout.bytes,
            _ => false,
        };
        let has_history = self.extent.has_history || options.get(Key::History) == 0;
        is_alike && has_history && options.get(Key::Thp) == 0
    }

    /// Turns a reset heap into one made with these options.
    pub(in crate::heap) fn reuse(&mut self, mut options: Options) {
        if !self.layout.is_planned {
            options.put(Key::Reserve, self.layout.bytes as i64);
        }
        self.options = options;
        self.open();
        self.hooks = R::State::default();
        R::options_changed(self);
        reserve::note_made(&self.layout);
    }

    /// Makes the heap as new, but that its first pages are free and resident. False: it is too
    /// large to be worth it, may hold more than it counts, or the kernel refused; then it can only
    /// be released.
    pub(in crate::heap) fn reset_state(&mut self) -> bool {
        let first = self.layout.first;
        let is_large = match self.layout.is_planned {
            true => self.reserved() > MAPPED_MAX,
            false => self.committed() - first.offset() > COMMITTED_MAX,
        };
        if is_large || self.split_mappings.room() < SplitMappings::CAPACITY || self.huge_pages {
            return false;
        }
        if !self.open_all_sheets() {
            return false;
        }
        let keep = PageIndex::of(round_up(first.offset() + KEEP, self.kernel_page));
        let top = self.runs.top.min(keep);
        self.page_runs().clear();
        if keep < self.runs.reached() && !self.purge_beyond(keep) {
            return false;
        }
        for page in (first.0..top.0).map(PageIndex) {
            self.set_descriptor(page, Descriptor::none());
        }
        self.runs = RunCounts::new(first);
        let watch = self.new_watch();
        // SAFETY: nobody looks by the old one any more, and it needs no drop.
        unsafe { self.watch_at().write(watch) };
        self.bins = span::empty_bins::<O, R>(self.base);
        self.counts = Counts::default();
        self.slot_scans = SlotScan::ALL_NEW;
        (self.requested_bytes, self.freed_bytes) = (0, 0);
        self.growth_limit = NO_LIMIT;
        self.packing = false;
        self.foreign = None;
        (self.collector, self.collecting) = (None, false);
        self.remap_refused = false;
        if first < top {
            let kept = PageRange { start: first, end: top };
            self.page_runs().take(kept);
            self.page_runs().give_back(kept, true);
            self.note_peak(Pages::ZERO);
        }
        true
    }

    /// Gives back the memory of all pages from `keep` on, of their descriptors, and of their
    /// chunks, which are clear.
    fn purge_beyond(&mut self, keep: PageIndex) -> bool {
        let below = self.layout.descriptors(keep, self.kernel_page);
        let [chunks, chunks_end] =
            [keep, self.runs.reached()].map(|end| self.layout.chunks_end(end, self.kernel_page));
        let [MemoryRange { start, .. }, ..] = self.committed_parts();
        // A page of descriptors may serve pages on both sides of `keep`.
        let end = PageIndex((below / layout::DESCRIPTOR) as u32);
        for page in (keep.0..end.0.min(self.runs.top.0)).map(PageIndex) {
            self.set_descriptor(page, Descriptor::none());
        }
        // The end of a plan may have been cut off below `keep`.
        let bytes = self.committed().saturating_sub(keep.offset());
        let pages = MemoryRange { start: self.address(keep), bytes };
        let descriptors = MemoryRange { start, bytes: self.extent.below.saturating_sub(below) };
        let chunks =
            MemoryRange { start: self.base.wrapping_add(chunks), bytes: chunks_end - chunks };
        let ranges = [pages, descriptors, chunks];
        let purge = |range: MemoryRange| {
            // SAFETY: each range is committed and on kernel pages; nothing is in use.
            range.bytes == 0 || unsafe { self.os.purge(&[range]).ranges == 1 }
        };
        ranges.into_iter().all(purge)
    }
}

/// Pages that a cached heap keeps at most.
#[cfg(test)]
pub(in crate::heap) const KEPT_PAGES: u32 = (KEEP / crate::units::PAGE) as u32;
