//! Making a heap, and giving all that it has mapped back.

use core::ptr;

use super::deleted;
use crate::error::Error;
use crate::heap::blocks::last_slots::SlotScan;
use crate::heap::blocks::span;
use crate::heap::growth::{mapped, reserve};
use crate::heap::pages::split_mappings::SplitMappings;
use crate::heap::pages::watch::Watch;
use crate::heap::slots::class::SMALL_MAX;
use crate::heap::{
    BIN_OF_SIZE, BINS, Counts, Heap, NO_LIMIT, ReclaimHooks, RunCounts, watch_offset,
};
use crate::options::{Key, Options};
use crate::os::Os;
use crate::units::Pages;

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Makes a heap.
    pub(crate) fn create(os: O, mut options: Options) -> Result<*mut Heap<O, R>, Error> {
        let kernel_page = os.page_size();
        let header = watch_offset::<O, R>() + size_of::<Watch>();
        let extent = mapped::new_extent::<O, R>(&os, &options, kernel_page, header)?;
        let (layout, base) = (extent.layout, extent.base);
        if !layout.is_planned {
            options.put(Key::Reserve, layout.bytes as i64);
        }
        const { assert!(core::mem::offset_of!(Heap<O, R>, bins) == BINS) };
        let random = os.random();
        let mut heap = Heap {
            no_bin: span::no_bin::<O, R>(base),
            below: base.addr() - 1,
            committed_complement: !extent.end,
            requested_bytes: 0,
            freed_bytes: 0,
            always_zero: 0,
            bins: span::empty_bins::<O, R>(base),
            bin_of_size: BIN_OF_SIZE,
            base,
            runs: RunCounts::new(layout.first),
            layout,
            counts: Counts { commit_calls: 1, ..Counts::default() },
            options,
            small_max: SMALL_MAX,
            checked: ptr::null_mut(),
            guarded_pages: Pages::ZERO,
            chunk_count: layout.chunks_below(extent.tables_end),
            extent,
            kernel_denied: 0,
            address_space_refused: false,
            split_mappings: SplitMappings::NONE,
            color_seed: random as u32,
            word_seed: (random >> 32) as u32,
            slot_scans: SlotScan::ALL_NEW,
            huge_pages: false,
            remap_refused: false,
            growth_limit: NO_LIMIT,
            denied_pages: Pages::ZERO,
            poll_threshold: Pages(u32::MAX),
            poll_in: u32::MAX,
            history_bytes: 0,
            packing: false,
            kernel_page,
            foreign: None,
            collector: None,
            collecting: false,
            grace: 0,
            hooks: R::State::default(),
            os,
        };
        let huge_pages = heap.options.get(Key::Thp) == 1;
        heap.huge_pages = !heap.set_huge_pages(huge_pages) || huge_pages;
        // SAFETY: the range is ours, and its first parts are committed; the base is page-aligned
        // and the tables have room for the header, which is written before anybody reads it.
        unsafe {
            if !layout.is_planned {
                // Without it the heap is no worse than before.
                heap.os.guard(base.add(layout.guard), kernel_page, reserve::are_few());
            }
            reserve::note_made(&layout);
            deleted::note_made(base.addr());
            let at = base.cast::<Heap<O, R>>();
            let watch = heap.new_watch();
            heap.watch_at().write(watch);
            at.write(heap);
            R::options_changed(&mut *at);
            (*at).check_as_asked();
            Ok(at)
        }
    }

    /// Gives all that a heap has mapped back, with all that is in it.
    ///
    /// # Safety
    ///
    /// `heap` came from [`Heap::create`], and neither it nor any block in it is used again.
    pub(in crate::heap) unsafe fn release(heap: *mut Heap<O, R>) {
        // SAFETY: the caller's promise; the header is moved out before its memory goes.
        unsafe {
            let heap = heap.read();
            (*heap.watch_at()).end();
            heap.unmap_all();
        }
    }
}
