//! Page runs against a plain array, with every invariant checked.

use super::*;
use crate::heap::pages::refaults::PurgeReason;
use crate::heap::pages::sheet::sheets_of;
use crate::units::PAGE;
use proptest::prelude::*;
use std::ptr;

impl PageRuns<'_> {
    /// Panics on the first broken invariant.
    pub(crate) fn check(&mut self) {
        let (mut free, mut dirty) = (Pages::ZERO, Pages::ZERO);
        // Length of the run of free pages that ends here.
        let mut run = 0;
        for page in (0..(self.chunks.len() * CHUNK_PAGES) as u32).map(PageIndex) {
            let (is_free, is_dirty) = (self.is_free(page), self.is_dirty(page));
            assert!(is_free || !is_dirty, "P1: {page:?} is dirty and in use");
            assert!(page < self.counts.top || !is_free, "P2: {page:?} is above the top");
            run = if is_free { run + 1 } else { 0 };
            for (before, lowest) in self.counts.lowest.iter().enumerate().take(run) {
                assert!(page.0 >= lowest.0 + before as u32, "P4: {before} and {page:?} are free");
            }
            assert!(page < self.counts.dirty_end || !is_dirty, "P6: {page:?} is beyond the end");
            let is_moved = self.is_moved(page);
            assert!(!is_moved || is_free && !is_dirty, "P7: {page:?} was moved away");
            free += Pages(is_free.into());
            dirty += Pages(is_dirty.into());
        }
        assert_eq!((free, dirty), (self.counts.free, self.counts.dirty), "P3: counts and bits");
        self.check_sheets();
        for index in 0..self.chunks.len() {
            let chunk = &self.chunks[index];
            let (summary, group) = (chunk.summary.get(), chunk.group.get());
            if !summary.stale {
                chunk.summary.set(Summary::STALE);
                assert_eq!(chunk.refresh(), summary, "P5: chunk {index}");
            }
            if index % GROUP_CHUNKS == 0 && !group.stale {
                chunk.group.set(Summary::STALE);
                assert_eq!(self.refresh_group(index / GROUP_CHUNKS), group, "P5: group of {index}");
            }
        }
    }

    fn check_sheets(&self) {
        let all = PageRange { start: PageIndex(0), end: self.counts.top };
        let mut found = SheetCounts::default();
        for pages in sheets_of(all, self.watch.sheet_pages()) {
            let is_vacant = (pages.start.0..pages.end.0)
                .all(|page| page < self.counts.top.0 && self.is_free(PageIndex(page)));
            let sheet = self.sheet(pages.start);
            assert_eq!(sheet.is_vacant(), is_vacant, "K1: {pages:?}");
            assert!(is_vacant || !sheet.is_returned(), "K2: {pages:?}");
            if sheet.is_closed() {
                let is_dirty = self.dirty_in(pages) > Pages::ZERO;
                assert!(sheet.is_returned() && !is_dirty, "K4: {pages:?}");
            }
            found.vacant += u32::from(is_vacant);
            found.held += u32::from(is_vacant && !sheet.is_returned());
            found.note_closed(sheet.is_closed().into());
        }
        assert_eq!(found, self.counts.sheets, "K3");
    }

    /// The sheets whose descriptors were returned.
    pub(crate) fn returned_sheets(&self) -> Vec<PageRange> {
        let all = PageRange { start: PageIndex(0), end: self.counts.top };
        let sheets = sheets_of(all, self.watch.sheet_pages());
        sheets.filter(|pages| self.sheet(pages.start).is_returned()).collect()
    }
}

const PAGES: usize = 3 * GROUP_PAGES - CHUNK_PAGES;
const FIRST: PageIndex = PageIndex(3);

/// Page runs with memory of their own.
struct Owned {
    counts: RunCounts,
    chunks: Vec<PageChunk>,
    watch: Watch,
}

impl Owned {
    fn new() -> Owned {
        Owned {
            counts: RunCounts::new(FIRST),
            chunks: (0..chunk_count(PAGES)).map(|_| PageChunk::default()).collect(),
            watch: Watch::new(ptr::null_mut(), ptr::null(), PAGE, PageIndex(0)),
        }
    }

    fn view(&mut self) -> PageRuns<'_> {
        PageRuns { counts: &mut self.counts, chunks: &self.chunks, watch: &self.watch }
    }

    fn allocate(&mut self, count: Pages) -> Option<PageIndex> {
        let mut runs = self.view();
        let range = runs.find_lowest(count).unwrap_or_else(|| runs.at_top(count));
        let fits = range.end.0 as usize <= PAGES;
        fits.then(|| runs.take(range))?;
        Some(range.start)
    }
}

/// The lowest free run by looking at every page.
fn lowest_by_sight(used: &[bool], count: usize) -> Option<usize> {
    used.windows(count).position(|pages| pages.iter().all(|used| !used))
}

proptest! {
    #[test]
    fn agrees_with_a_plain_array(
        steps in prop::collection::vec((0u32..300, any::<u16>()), 1..200),
    ) {
        let mut owned = Owned::new();
        let mut used = vec![false; PAGES];
        used[..FIRST.0 as usize].fill(true);
        let mut live: Vec<PageRange> = Vec::new();
        for (count, choice) in steps {
            if choice % 3 == 0 && !live.is_empty() {
                let range = live.swap_remove(choice as usize % live.len());
                owned.view().give_back(range, choice % 2 == 0);
                used[range.start.0 as usize..range.end.0 as usize].fill(false);
            } else {
                let count = [count + 1, 1, count % 18 + 1, count + 1][choice as usize % 4];
                let page = owned.allocate(Pages(count));
                let expected = lowest_by_sight(&used, count as usize);
                prop_assert_eq!(page.map(|page| page.0 as usize), expected);
                if let Some(page) = page {
                    let range = PageRange::new(page, Pages(count));
                    used[page.0 as usize..range.end.0 as usize].fill(true);
                    live.push(range);
                }
            }
            owned.view().check();
        }
    }
}

#[test]
fn cleaning_counts_what_held_memory() {
    let mut owned = Owned::new();
    let page = owned.allocate(Pages(10)).expect("room");
    owned.view().give_back(PageRange::new(page, Pages(10)), true);
    assert_eq!(owned.view().clean(PageRange::new(page, Pages(4))), Pages(4));
    assert_eq!(owned.view().clean(PageRange::new(page, Pages(10))), Pages(6));
    assert_eq!(owned.counts.dirty, Pages::ZERO);
    owned.view().check();
}

#[test]
fn the_highest_dirty_page_is_found() {
    let mut owned = Owned::new();
    let page = owned.allocate(Pages(200)).expect("room");
    for (from, count) in [(0, 1), (63, 1), (64, 3), (150, 40)] {
        owned.view().give_back(PageRange::new(page + Pages(from), Pages(count)), true);
    }
    for (from, count) in [(150, 40), (66, 1), (64, 2), (63, 1)] {
        let end = page + Pages(from + count);
        assert_eq!(owned.view().dirty_end(), end);
        owned.view().clean(PageRange { start: page + Pages(from), end });
        owned.view().check();
    }
    assert_eq!(owned.view().dirty_end(), page + Pages(1));
    owned.view().clean(PageRange::new(page, Pages(1)));
    assert_eq!(owned.view().dirty_end(), PageIndex(0));
}

#[test]
fn what_was_returned_is_recalled_by_its_stamp() {
    let mut owned = Owned::new();
    let page = owned.allocate(Pages(100)).expect("room");
    let range = PageRange::new(page, Pages(100));
    let mut runs = owned.view();
    runs.give_back(range, true);
    let half = PageRange::new(page, Pages(50));
    let cleaned = runs.clean(half);
    runs.counts.refaults.note_returned(PurgeReason::Idle, cleaned);
    runs.stamp(half, PurgeStamp::new(0, PurgeReason::Idle));
    runs.note_refaults(range, 1000);
    assert_eq!(owned.counts.refaults.refaulted, [0, 50, 0]);
    assert_eq!(owned.counts.refaults.premature_total(), 50);
}

#[test]
fn what_was_moved_away_is_not_recalled() {
    let mut owned = Owned::new();
    let page = owned.allocate(Pages(100)).expect("room");
    let range = PageRange::new(page, Pages(100));
    let part = |from, count| PageRange::new(page + Pages(from), Pages(count));
    owned.view().give_back(part(0, 60), true);
    owned.view().give_back(part(60, 40), false);
    owned.view().clean(part(0, 10));
    owned.view().empty(part(5, 20));
    owned.view().stamp(range, PurgeStamp::new(0, PurgeReason::Idle));
    owned.view().check();
    owned.counts.refaults.note_returned(PurgeReason::Idle, Pages(10));
    owned.view().note_refaults(range, 1000);
    assert_eq!(owned.counts.refaults.refaulted, [0, 10, 0]);
    owned.view().take(range);
    assert!((0..100).all(|at| !owned.view().is_moved(page + Pages(at))));
}

#[test]
fn growing_in_place_stops_at_a_neighbour() {
    let mut owned = Owned::new();
    let low = owned.allocate(Pages(2)).expect("room");
    let high = owned.allocate(Pages(1)).expect("room");
    let after = |page: PageIndex, skip, count| PageRange::new(page + Pages(skip), Pages(count));
    assert!(!owned.view().can_extend(after(low, 2, 1)));
    assert!(owned.view().can_extend(after(high, 1, 100)));
    owned.view().take(after(high, 1, 100));
    assert_eq!(owned.counts.top, high + Pages(101));
    owned.view().check();
}
