//! Gives free pages back, in steps.
//!
//! Chunks that can hold a whole page are the top, the victim, and in the trees. A sweep takes them
//! in this order, and those in trees from the largest down, those of one size in the order of
//! their ring. It asks the kernel which of their pages are resident, and returns those. A sweep
//! that runs out of budget leaves word of where it was; the heap may have changed when it goes on,
//! so that is a place in this order, not a chunk. Each chunk is checked again, against the trees
//! that lead to it and against what comes behind it.

use core::ptr;

use super::bins::{Node, check_bins};
use super::layout::*;
use super::residency::{self, Residency};
use super::segments::{Chunk, HeapView, Segment};
use super::walk::walk;
use super::{idle_pages, refuse};
use crate::error::Error;
use crate::os::{MemoryRange, Os};

/// Most ranges that go back in one call.
const BATCH: usize = 64;
/// Most chunks, or parts of one, that are looked at between two looks at the clock.
const LOOKS: usize = 32;
/// Most pages that count as one look.
const WINDOW: usize = 512;
/// Most bytes that go back in one step of a sweep with a deadline: about 150 µs.
const STEP_BYTES: usize = 1 << 20;

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reclaimed {
    /// Bytes given back.
    pub(crate) returned: u64,
    /// Calls to the kernel that gave them back.
    pub(crate) calls: u64,
    /// The deadline came before the sweep ended.
    pub(crate) more: bool,
    /// The kernel refused to take some pages, or to say which are resident; they are passed over.
    pub(crate) refused: bool,
}

/// What is known of a heap from one call to the next: that it was recognised, and how far the
/// sweep has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The state of the heap that was recognised; 0: none.
    state: usize,
    cursor: SweepCursor,
}

/// A place in the order of the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SweepCursor {
    stage: SweepStage,
    /// No chunk of the stage is larger.
    size: usize,
    /// How many chunks of that size come before.
    nth: usize,
    /// All pages up to this address are done, if it is in that chunk.
    done: usize,
}

/// Where a chunk is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SweepStage {
    Top,
    Victim,
    /// This tree, then those of smaller chunks.
    Tree(usize),
}

/// A chunk in the order of the sweep.
#[derive(Clone, Copy)]
struct SweepPlace {
    stage: SweepStage,
    chunk: Chunk,
    /// How many chunks of its size come before, and the one that is in the tree.
    nth: usize,
    node: Option<Node>,
}

/// Ranges that go back in one call.
struct Batch {
    ranges: [MemoryRange; BATCH],
    count: usize,
    /// How many bytes, and how many looks at chunks, are left in this step.
    room: usize,
    looks: usize,
}

impl SweepCursor {
    const START: SweepCursor =
        SweepCursor { stage: SweepStage::Top, size: usize::MAX, nth: 0, done: 0 };
}

impl Progress {
    /// Of a heap that a survey has recognised just now.
    pub(crate) fn of_surveyed(state: *const u8) -> Progress {
        Progress { state: state.expose_provenance(), cursor: SweepCursor::START }
    }
}

impl Default for Progress {
    /// Of a heap that was not looked at yet.
    fn default() -> Progress {
        Progress { state: 0, cursor: SweepCursor::START }
    }
}

/// Gives whole free pages of the heap with this state back, until the deadline. At least one step
/// is done. A heap is recognised before anything is done to it for the first time, by a walk that
/// the deadline does not end; `progress` remembers that, until the heap is refused.
pub(crate) fn reclaim<S: Os>(
    os: &S,
    state: *const u8,
    progress: &mut Progress,
    deadline_us: Option<u64>,
) -> Result<Reclaimed, Error> {
    reclaim_view(HeapView::read(os, state.expose_provenance()), progress, deadline_us)
}

/// The same for a heap that was read, if that could be done.
pub(super) fn reclaim_view<S: Os>(
    view: Result<HeapView<'_, S>, Error>,
    progress: &mut Progress,
    deadline_us: Option<u64>,
) -> Result<Reclaimed, Error> {
    let result = view.and_then(|view| go_on(&view, progress, deadline_us));
    note_error(result, progress)
}

/// After an error a sweep begins anew, and a heap that was refused is recognised anew.
fn note_error(
    result: Result<Reclaimed, Error>,
    progress: &mut Progress,
) -> Result<Reclaimed, Error> {
    match result {
        Err(Error::Unknown) => *progress = Progress::default(),
        Err(_) => progress.cursor = SweepCursor::START,
        Ok(_) => {}
    }
    result
}

fn go_on<S: Os>(
    view: &HeapView<'_, S>,
    progress: &mut Progress,
    deadline_us: Option<u64>,
) -> Result<Reclaimed, Error> {
    let state = view.state.at;
    if progress.state != state {
        check_bins(view, &walk(view, |_, _| ())?)?;
        *progress = Progress { state, cursor: SweepCursor::START };
    }
    // Without a deadline the sweep is whole, wherever an earlier one stopped.
    if deadline_us.is_none() {
        progress.cursor = SweepCursor::START;
    }
    sweep(view, &mut progress.cursor, deadline_us)
}

/// Goes on from a mark to the end of the sweep, or to the deadline.
fn sweep<S: Os>(
    view: &HeapView<'_, S>,
    cursor: &mut SweepCursor,
    deadline_us: Option<u64>,
) -> Result<Reclaimed, Error> {
    let mut reclaimed = Reclaimed::default();
    let window = if deadline_us.is_some() { residency::SOME } else { residency::ALL };
    let mut residency = Residency::new(view, window)?;
    let start_us = view.os.now_us();
    let mut place = view.place_at(cursor)?;
    let (mut last_us, mut longest_us) = (view.os.now_us(), 0);
    // A place far along a ring takes long to find. As long as that took the sweep goes on at least,
    // so that many calls together take no more than twice the time of one.
    let found_us = last_us.saturating_sub(start_us);
    let deadline_us = deadline_us.map(|deadline_us| deadline_us.max(last_us + found_us));
    while let Some(here) = place {
        let mut batch = Batch::new(deadline_us.is_some());
        place = step(view, &mut residency, here, cursor, &mut batch)?;
        give_to_kernel(view, &batch, &mut reclaimed);
        let now_us = view.os.now_us();
        longest_us = now_us.saturating_sub(last_us).max(longest_us);
        last_us = now_us;
        // Whether one more step, as long as the longest so far, would miss the deadline.
        if deadline_us.is_some_and(|deadline| now_us + longest_us >= deadline) {
            break;
        }
    }
    match place {
        Some(here) => cursor.stand_at(here),
        None => *cursor = SweepCursor::START,
    }
    reclaimed.more = place.is_some();
    reclaimed.refused |= residency.refused;
    Ok(reclaimed)
}

/// Collects what one call of the kernel may take, and returns where to go on.
fn step<'a, S: Os>(
    view: &HeapView<'a, S>,
    residency: &mut Residency<'a, S>,
    mut here: SweepPlace,
    cursor: &mut SweepCursor,
    batch: &mut Batch,
) -> Result<Option<SweepPlace>, Error> {
    while batch.looks > 0 {
        batch.looks -= 1;
        let segment = match here.stage {
            SweepStage::Top => view.newest(),
            _ => view.check_free(here.chunk)?,
        };
        if !collect(segment, residency, here.chunk, cursor, batch) {
            break;
        }
        match view.place_after(&here)? {
            Some(next) => here = next,
            None => return Ok(None),
        }
    }
    Ok(Some(here))
}

/// Collects a chunk's resident pages that are not done; true when all of them are.
fn collect<S: Os>(
    segment: &Segment,
    residency: &mut Residency<'_, S>,
    chunk: Chunk,
    cursor: &mut SweepCursor,
    batch: &mut Batch,
) -> bool {
    let page = residency.page;
    let pages = idle_pages(chunk, page);
    let mut at = if pages.contains(&cursor.done) { cursor.done } else { pages.start };
    while at < pages.end && batch.has_room(page) {
        let window = at..pages.end.min(at + WINDOW * page);
        let (resident, absent) = residency.runs(segment, window);
        let fitted = batch.add(at, resident, page);
        at += fitted * page;
        if fitted == resident {
            at += absent * page;
        }
    }
    cursor.done = at;
    at >= pages.end
}

/// Gives a batch back. A range that the kernel refuses is passed over.
fn give_to_kernel<S: Os>(view: &HeapView<'_, S>, batch: &Batch, reclaimed: &mut Reclaimed) {
    let mut ranges = &batch.ranges[..batch.count];
    while !ranges.is_empty() {
        // SAFETY: the ranges are whole kernel pages in private anonymous memory. They lie in free
        // chunks of LuaJIT's heap, behind all that its allocator keeps there and in front of the
        // chunk's end, so that nothing is read from them before it is written.
        let purged = unsafe { view.os.purge(ranges) };
        reclaimed.calls += purged.calls;
        let (done, rest) = ranges.split_at(purged.ranges);
        reclaimed.returned += done.iter().map(|range| range.bytes as u64).sum::<u64>();
        reclaimed.refused |= !rest.is_empty();
        ranges = rest.get(1..).unwrap_or_default();
    }
}

impl SweepCursor {
    /// Here the sweep goes on.
    fn stand_at(&mut self, place: SweepPlace) {
        *self = SweepCursor { stage: place.stage, size: place.chunk.size, nth: place.nth, ..*self };
    }
}

impl Batch {
    fn new(is_bounded: bool) -> Batch {
        let none = MemoryRange { start: ptr::null_mut(), bytes: 0 };
        let (room, looks) = if is_bounded { (STEP_BYTES, LOOKS) } else { (usize::MAX, usize::MAX) };
        Batch { ranges: [none; BATCH], count: 0, room, looks }
    }

    /// Whether another range may be added. That is asked for each, so it counts as a look.
    fn has_room(&mut self, page: usize) -> bool {
        let room = self.looks > 0 && self.count < BATCH && self.room >= page;
        self.looks = self.looks.saturating_sub(1);
        room
    }

    /// Adds pages; returns how many of them there is room for.
    fn add(&mut self, at: usize, pages: usize, page: usize) -> usize {
        let fitting = pages.min(self.room / page);
        if fitting > 0 {
            let start = ptr::with_exposed_provenance_mut(at);
            self.ranges[self.count] = MemoryRange { start, bytes: fitting * page };
            self.count += 1;
            self.room -= fitting * page;
        }
        fitting
    }
}

impl<S: Os> HeapView<'_, S> {
    /// The first chunk of the sweep at or behind a mark.
    fn place_at(&self, cursor: &SweepCursor) -> Result<Option<SweepPlace>, Error> {
        let alone = |stage, chunk| Some(SweepPlace { stage, chunk, nth: 0, node: None });
        match (cursor.stage, self.state.victim) {
            (SweepStage::Top, _) => Ok(alone(SweepStage::Top, self.state.top)),
            (SweepStage::Victim, Some(victim)) => Ok(alone(SweepStage::Victim, victim)),
            (SweepStage::Victim, None) => self.place_in_tree(TREE_COUNT - 1, usize::MAX, 0),
            (SweepStage::Tree(tree), _) => self.place_in_tree(tree, cursor.size, cursor.nth),
        }
    }

    /// The next chunk of the sweep.
    fn place_after(&self, here: &SweepPlace) -> Result<Option<SweepPlace>, Error> {
        match (here.stage, here.node) {
            (SweepStage::Tree(tree), Some(node)) => {
                let next = self.ring_next(tree, node.chunk, here.chunk.at)?;
                if next != node.chunk.at {
                    let chunk = Chunk { at: next, ..here.chunk };
                    return Ok(Some(SweepPlace { chunk, nth: here.nth + 1, ..*here }));
                }
                self.place_in_tree(tree, here.chunk.size - 1, 0)
            }
            (SweepStage::Top, _) => {
                self.place_at(&SweepCursor { stage: SweepStage::Victim, ..SweepCursor::START })
            }
            _ => self.place_in_tree(TREE_COUNT - 1, usize::MAX, 0),
        }
    }

    /// The nth of the chunks of a size in a tree, or the first smaller one. `None`: there is none
    /// that could hold a whole page.
    fn place_in_tree(
        &self,
        tree: usize,
        size: usize,
        nth: usize,
    ) -> Result<Option<SweepPlace>, Error> {
        for tree in (0..=tree).rev() {
            if tree_max(tree) < self.page + HEADER {
                break;
            }
            let Some(node) = self.largest_up_to(tree, size)? else { continue };
            if node.chunk.size < self.page + HEADER {
                break;
            }
            let place = SweepPlace {
                stage: SweepStage::Tree(tree),
                chunk: node.chunk,
                nth: 0,
                node: Some(node),
            };
            if node.chunk.size < size {
                return Ok(Some(place));
            }
            return self.place_in_ring(place, nth);
        }
        Ok(None)
    }

    /// The place `nth` places on in a ring, or the one behind the ring.
    fn place_in_ring(
        &self,
        mut place: SweepPlace,
        nth: usize,
    ) -> Result<Option<SweepPlace>, Error> {
        while place.nth < nth {
            match self.place_after(&place)? {
                Some(next) if next.nth > place.nth => place = next,
                other => return Ok(other),
            }
        }
        Ok(Some(place))
    }

    /// The largest chunk of a tree, of those up to a size.
    fn largest_up_to(&self, tree: usize, size: usize) -> Result<Option<Node>, Error> {
        if size < tree_min(tree) {
            return Ok(None);
        }
        let mut path = tree_path(tree, size.min(tree_max(tree)));
        let (mut at, mut parent) = (self.state.tree_root(tree)?, self.state.tree(tree));
        let (mut best, mut smaller) = (None, None);
        // Down to what branches off and from there to a leaf.
        let mut levels = 2 * usize::BITS;
        // Along the bits of the size; what branches off to the left is smaller, and of that the
        // last is the largest.
        while at != 0 {
            let node = self.node(tree, at, parent)?;
            best = larger(best, node, size);
            let [left, right] = node.children;
            let goes_right = path >> (usize::BITS - 1) == 1;
            if goes_right && left != 0 {
                smaller = Some((left, node.chunk.at));
            }
            (at, parent) = (if goes_right { right } else { left }, node.chunk.at);
            path <<= 1;
            levels = one_less(levels, tree)?;
        }
        // In there, what lies to the right is larger.
        (at, parent) = smaller.unwrap_or_default();
        while at != 0 {
            let node = self.node(tree, at, parent)?;
            best = larger(best, node, size);
            let [left, right] = node.children;
            (at, parent) = (if right != 0 { right } else { left }, node.chunk.at);
            levels = one_less(levels, tree)?;
        }
        Ok(best)
    }
}

/// The larger of two, if it is not above a size.
fn larger(best: Option<Node>, node: Node, size: usize) -> Option<Node> {
    let better = best.is_none_or(|best: Node| best.chunk.size < node.chunk.size);
    if better && node.chunk.size <= size { Some(node) } else { best }
}

/// Counts the levels of a tree, which cannot have more than a size has bits.
fn one_less(levels: u32, tree: usize) -> Result<u32, Error> {
    levels.checked_sub(1).ok_or_else(|| refuse(format_args!("tree {tree} is too deep")))
}
