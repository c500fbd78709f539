//! A walk over all chunks of all segments, by address.
//!
//! A chunk's head says how long it is and whether it and the one before are in use. A free chunk's
//! size also stands behind it, and no two free chunks adjoin. What is free is added up by bin, for
//! the bins to be compared with.
//!
//! Several segments are walked at a time: behind a large chunk comes memory that the processor has
//! to fetch, and meanwhile another segment goes on.

#![forbid(unsafe_code)]

use super::layout::*;
use super::mappings::fetch_early;
use super::refuse;
use super::segments::{Chunk, HeapView, Segment};
use crate::error::Error;
use crate::os::Os;

/// How many segments are walked at a time.
const AT_ONCE: usize = 8;
/// What lies so far ahead has to be fetched.
const FAR: usize = 192;

/// What the chunks of a bin add up to, or the links to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkChecksum {
    pub(super) count: u64,
    /// The sum of [`mix`] of each, modulo 2^64. The order does not matter. Different sets have the
    /// same sum with a probability of about 2^-64.
    sum: u64,
}

impl LinkChecksum {
    pub(super) fn add(&mut self, at: usize) {
        self.add_link(0, at);
    }

    pub(super) fn add_link(&mut self, from: usize, to: usize) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(mix((to as u64).wrapping_add(mix(from as u64))));
    }
}

/// A number for a number, that looks random; 0 for 0.
fn mix(number: u64) -> u64 {
    let mixed = (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// What the chunks of all segments add up to.
pub(super) struct Totals {
    /// Bytes of chunks in use.
    pub(super) live: u64,
    /// How many they are.
    pub(super) blocks: u64,
    /// Bytes that the allocator keeps for itself.
    pub(super) metadata: u64,
    /// Free chunks, of trees.
    pub(super) trees: [LinkChecksum; TREE_COUNT],
    /// The links in lists, as each chunk has its link to the next, and to the one before.
    pub(super) forward: [LinkChecksum; LIST_COUNT],
    pub(super) back: [LinkChecksum; LIST_COUNT],
    victim_seen: bool,
    state_seen: bool,
}

/// Where the walk of a segment is.
struct Walker<'a> {
    segment: &'a Segment,
    at: usize,
    /// The size of the chunk before, if that is free.
    free_before: usize,
    /// The chunk that is known to be the segment's last.
    last: usize,
}

/// Walks all segments. `visit` is shown each free chunk, the top included, and its segment.
pub(super) fn walk<S: Os>(
    view: &HeapView<'_, S>,
    mut visit: impl FnMut(&Segment, Chunk),
) -> Result<Totals, Error> {
    let mut totals = Totals::NONE;
    let mut ahead = view.segments().iter().map(|segment| Walker::new(view, segment));
    let mut walkers: [Option<Walker>; AT_ONCE] = core::array::from_fn(|_| ahead.next());
    while walkers.iter().any(Option::is_some) {
        for place in &mut walkers {
            let Some(walker) = place else { continue };
            if !walker.advance(view, &mut totals, &mut visit)? {
                walker.finish(view, &mut totals, &mut visit)?;
                *place = ahead.next();
            }
        }
    }
    if view.state.victim.is_some() && !totals.victim_seen {
        return Err(refuse(format_args!("the victim is not a chunk")));
    }
    if !totals.state_seen {
        return Err(refuse(format_args!("the state is not in a chunk of its own")));
    }
    Ok(totals)
}

impl<'a> Walker<'a> {
    fn new<S: Os>(view: &HeapView<'_, S>, segment: &'a Segment) -> Walker<'a> {
        let newest = view.is_newest(segment);
        let last = if newest { view.state.top.at } else { segment.record_chunk() };
        Walker { segment, at: segment.memory.start(), free_before: 0, last }
    }

    /// Walks until the next chunk is far away, or the last one is reached: false.
    fn advance<S: Os>(
        &mut self,
        view: &HeapView<'_, S>,
        totals: &mut Totals,
        visit: &mut impl FnMut(&Segment, Chunk),
    ) -> Result<bool, Error> {
        while self.at < self.last {
            let head = self.head()?;
            let chunk = Chunk { at: self.at, size: head & !FLAGS };
            self.at += chunk.size;
            if chunk.size > FAR {
                fetch_early(self.at + HEAD);
            }
            if head & IN_USE != 0 {
                self.free_before = 0;
                totals.note_live(view, chunk)?;
            } else {
                self.free_before = chunk.size;
                totals.note_free(view, self.segment, chunk)?;
                visit(self.segment, chunk);
            }
            if chunk.size > FAR {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The head of a chunk that ends no later than the last one starts.
    #[inline]
    fn head(&self) -> Result<usize, Error> {
        let at = self.at;
        let head = self.segment.word(at + HEAD).unwrap_or(0);
        let size = head & !FLAGS;
        if head & 4 != 0 || size < CHUNK_MIN || size > self.last - at {
            return Err(refuse(format_args!("chunk {at:#x}: a head of {head:#x}")));
        }
        if self.free_before != 0 || head & PREVIOUS_IN_USE == 0 {
            self.check_before()?;
        }
        Ok(head)
    }

    /// Checks a chunk against the one before it, which is free and so large, or in use.
    fn check_before(&self) -> Result<(), Error> {
        let at = self.at;
        let flags = self.segment.word(at + HEAD).unwrap_or(0) & (PREVIOUS_IN_USE | IN_USE);
        let is_valid = match self.free_before {
            0 => flags & PREVIOUS_IN_USE != 0,
            size => flags == IN_USE && self.segment.word(at + FOOT) == Some(size),
        };
        if is_valid {
            return Ok(());
        }
        Err(refuse(format_args!("chunk {at:#x}: it does not agree with the one before")))
    }

    /// The last chunk's size and end were checked when the segments were read.
    fn finish<S: Os>(
        &self,
        view: &HeapView<'_, S>,
        totals: &mut Totals,
        visit: &mut impl FnMut(&Segment, Chunk),
    ) -> Result<(), Error> {
        self.check_before()?;
        totals.metadata += (self.segment.memory.end() - self.at) as u64;
        if view.is_newest(self.segment) {
            totals.metadata -= view.state.top.size as u64;
            visit(self.segment, view.state.top);
        }
        Ok(())
    }
}

impl Totals {
    const NONE: Totals = Totals {
        live: 0,
        blocks: 0,
        metadata: 0,
        trees: [LinkChecksum { count: 0, sum: 0 }; TREE_COUNT],
        forward: [LinkChecksum { count: 0, sum: 0 }; LIST_COUNT],
        back: [LinkChecksum { count: 0, sum: 0 }; LIST_COUNT],
        victim_seen: false,
        state_seen: false,
    };

    #[inline]
    fn note_live<S: Os>(&mut self, view: &HeapView<'_, S>, chunk: Chunk) -> Result<(), Error> {
        if chunk.at != view.state.at - CONTENTS {
            self.live += chunk.size as u64;
            self.blocks += 1;
            return Ok(());
        }
        self.state_seen = true;
        self.metadata += chunk.size as u64;
        if STATE_CHUNKS.contains(&chunk.size) {
            return Ok(());
        }
        let size = chunk.size;
        Err(refuse(format_args!("a state of {size} bytes is none that is known")))
    }

    fn note_free<S: Os>(
        &mut self,
        view: &HeapView<'_, S>,
        segment: &Segment,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let Chunk { at, size } = chunk;
        match view.state.victim {
            Some(victim) if victim.at == at => {
                self.victim_seen = victim.size == size;
                if !self.victim_seen {
                    return Err(refuse(format_args!("the victim has another size")));
                }
            }
            _ if size < LARGE_MIN => {
                let word = |offset| segment.word(at + offset).unwrap_or(0);
                self.forward[size / WORD].add_link(at, word(FORWARD));
                self.back[size / WORD].add_link(word(BACK), at);
            }
            _ => self.trees[tree_of(size)].add(at),
        }
        Ok(())
    }
}
