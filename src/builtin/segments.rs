//! LuaJIT's heap: its state and its segments, read and checked.
//!
//! The newest segment's record is in the state, and the older ones' each at the end of the segment
//! that it describes, the oldest last. The state lies in the oldest; the top, the free rest that
//! the heap grows into, ends the newest. All others end with their record and fenceposts.

#![forbid(unsafe_code)]

use super::layout::*;
use super::mapped_vec::MappedVec;
use super::mappings::{Mappings, Memory, MemoryMap};
use super::refuse;
use crate::error::Error;
use crate::os::Os;

/// A segment of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) memory: Memory,
    /// Where its record is.
    record: usize,
    /// Bytes of all segments at lower addresses.
    pub(super) bytes_before: usize,
}

/// A free chunk that has a place of its own in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) at: usize,
    pub(super) size: usize,
}

/// What the state says.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// Where it is.
    pub(super) at: usize,
    memory: Memory,
    /// The free rest of the newest segment, without what is kept at its end.
    pub(super) top: Chunk,
    /// The free chunk that small blocks are cut from.
    pub(super) victim: Option<Chunk>,
    /// Which bins have chunks, a bit each.
    pub(super) map: u64,
}

/// The state and the segments.
pub(super) struct HeapView<'a, S: Os> {
    pub(super) os: &'a S,
    /// Bytes in a kernel page.
    pub(super) page: usize,
    pub(super) state: State,
    segments: MappedVec<'a, S, Segment>,
    newest: Segment,
    oldest: Segment,
}

impl Segment {
    pub(super) fn word(&self, at: usize) -> Option<usize> {
        self.memory.word(at)
    }

    /// The chunk that its record lies in, if it is not the newest.
    pub(super) fn record_chunk(&self) -> usize {
        self.record - CONTENTS
    }

    /// Checks the end of a segment that is not the newest: the record's chunk, then fenceposts.
    pub(super) fn check_end(&self) -> Result<(), Error> {
        let (chunk, end) = (self.record_chunk(), self.memory.end());
        let head = self.word(chunk + HEAD);
        if head.map(|head| head & !PREVIOUS_IN_USE) != Some(RECORD_CHUNK | IN_USE) {
            return Err(refuse(format_args!("{chunk:#x}: not the chunk of a segment's record")));
        }
        let mut posts = (chunk + RECORD_CHUNK + HEAD..end).step_by(WORD);
        match posts.find(|post| self.word(*post) != Some(FENCEPOST)) {
            Some(post) => Err(refuse(format_args!("{post:#x}: not a fencepost"))),
            None => Ok(()),
        }
    }
}

impl State {
    /// The word at an offset in the state.
    fn word(&self, offset: usize) -> Result<usize, Error> {
        read(&self.memory, self.at + offset)
    }

    /// The memory of the state at an address.
    pub(super) fn find(mappings: &impl MemoryMap, page: usize, at: usize) -> Result<Memory, Error> {
        // A new heap begins with the chunk of its state.
        let chunk = at.wrapping_sub(CONTENTS);
        let memory = mappings.find(chunk, STATE_CHUNKS[0]);
        let memory = memory.filter(|_| chunk.is_multiple_of(page));
        memory.ok_or_else(|| refuse(format_args!("{at:#x} cannot be its state")))
    }

    pub(super) fn read(at: usize, memory: Memory) -> Result<State, Error> {
        let word = |offset| read(&memory, at + offset);
        let top = Chunk { at: word(TOP)?, size: word(TOP_SIZE)? };
        let victim = Chunk { at: word(VICTIM)?, size: word(VICTIM_SIZE)? };
        if (victim.at == 0) != (victim.size == 0) {
            let Chunk { at: dv, size } = victim;
            return Err(refuse(format_args!("state: victim {dv:#x} of {size} bytes")));
        }
        let victim = (victim.at != 0).then_some(victim);
        Ok(State { at, memory, top, victim, map: word(MAPS)? as u64 })
    }

    /// Where a list's links are, as if they were a chunk's.
    pub(super) fn list(&self, index: usize) -> usize {
        self.at + LISTS + index * 2 * WORD
    }

    /// The link at an offset in the head of a list.
    pub(super) fn list_link(&self, index: usize, offset: usize) -> Result<usize, Error> {
        self.word(LISTS + index * 2 * WORD + offset)
    }

    /// Where a tree's root is kept.
    pub(super) fn tree(&self, index: usize) -> usize {
        self.at + TREES + index * WORD
    }

    /// The root of a tree; 0 when it is empty, as the map says too.
    pub(super) fn tree_root(&self, index: usize) -> Result<usize, Error> {
        let root = self.word(TREES + index * WORD)?;
        if (root != 0) != self.has_chunks(LIST_COUNT + index) {
            return Err(refuse(format_args!("tree {index}: its root and the map disagree")));
        }
        Ok(root)
    }

    pub(super) fn has_chunks(&self, bin: usize) -> bool {
        self.map >> bin & 1 == 1
    }

    /// Checks that the oldest segment holds the state.
    pub(super) fn check_oldest(&self, oldest: &Segment) -> Result<(), Error> {
        match oldest.memory.holds(self.at - CONTENTS, STATE_CHUNKS[0]) {
            true => Ok(()),
            false => Err(refuse(format_args!("the state is not in the oldest segment"))),
        }
    }

    /// Checks that the top is the end of the newest segment. Words of the segment are read only
    /// when the state says so, too: what lies behind its end is not LuaJIT's.
    pub(super) fn check_top(&self, newest: &Segment) -> Result<(), Error> {
        let (Chunk { at, size }, memory) = (self.top, &newest.memory);
        let fits = memory.holds(at, size) && memory.end() - at - size == END_BYTES && size > 0;
        let ends = || {
            newest.word(at + HEAD) == Some(size | PREVIOUS_IN_USE)
                && newest.word(at + size + HEAD) == Some(END_BYTES)
        };
        match fits && ends() {
            true => Ok(()),
            false => Err(refuse(format_args!("the top at {at:#x} does not end a segment"))),
        }
    }
}

impl<'a, S: Os> HeapView<'a, S> {
    /// Reads the state at an address and the list of segments.
    pub(super) fn read(os: &'a S, state: usize) -> Result<HeapView<'a, S>, Error> {
        HeapView::read_in(os, &Mappings::read(os)?, state)
    }

    /// The same, where only this memory may be read.
    pub(super) fn read_in(
        os: &'a S,
        mappings: &impl MemoryMap,
        state: usize,
    ) -> Result<HeapView<'a, S>, Error> {
        let page = os.page_size();
        let memory = State::find(mappings, page, state).inspect_err(|_| mappings.note_way_out())?;
        let mut segments = MappedVec::with_capacity(os, mappings.segments_max())?;
        let (newest, oldest) = collect(mappings, page, state + NEWEST, &mut segments)
            .inspect_err(|_| mappings.note_way_out())?;
        let state = State::read(state, memory)?;
        let newest = sort(segments.values_mut(), newest);
        let view = HeapView { os, page, state, segments, newest, oldest };
        view.check_segments()?;
        view.state.check_oldest(&view.oldest)?;
        view.state.check_top(&view.newest)?;
        Ok(view)
    }

    /// By address.
    pub(super) fn segments(&self) -> &[Segment] {
        self.segments.values()
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> usize {
        self.segments().iter().map(|segment| segment.memory.bytes()).sum()
    }

    pub(super) fn newest(&self) -> &Segment {
        &self.newest
    }

    pub(super) fn is_newest(&self, segment: &Segment) -> bool {
        segment.record == self.newest.record
    }

    /// The segment that holds `bytes` bytes from an address on.
    pub(super) fn find(&self, at: usize, bytes: usize) -> Option<&Segment> {
        let segments = self.segments.values();
        let behind = segments.partition_point(|segment| segment.memory.start() <= at);
        segments[..behind].last().filter(|segment| segment.memory.holds(at, bytes))
    }

    /// Checks that no segments overlap, and what is at their ends.
    fn check_segments(&self) -> Result<(), Error> {
        let mut end = 0;
        for segment in self.segments() {
            if segment.memory.start() < end {
                let start = segment.memory.start();
                return Err(refuse(format_args!("the segment at {start:#x} overlaps another")));
            }
            end = segment.memory.end();
            if !self.is_newest(segment) {
                segment.check_end()?;
            }
        }
        Ok(())
    }

    /// Checks a free chunk against what comes behind it. The word there is the chunk's foot.
    /// Returns the segment.
    pub(super) fn check_free(&self, chunk: Chunk) -> Result<&Segment, Error> {
        let Chunk { at, size } = chunk;
        let behind = at.wrapping_add(size);
        let fits = |segment: &&Segment| segment.memory.holds(behind, CHUNK_MIN);
        let segment = self.find(at, size).filter(fits).filter(|segment| {
            segment.word(at + HEAD) == Some(size | PREVIOUS_IN_USE)
                && segment.word(behind + FOOT) == Some(size)
                && segment.word(behind + HEAD).map(|head| head & 3) == Some(IN_USE)
        });
        segment.ok_or_else(|| refuse(format_args!("{at:#x}: not a free chunk")))
    }
}

/// Puts segments in the order of their addresses; returns the one that is given, as it then is.
fn sort(segments: &mut [Segment], mut wanted: Segment) -> Segment {
    segments.sort_unstable_by_key(|segment| segment.memory.start());
    let mut bytes_before = 0;
    for segment in segments {
        segment.bytes_before = bytes_before;
        bytes_before += segment.memory.bytes();
        if segment.record == wanted.record {
            wanted = *segment;
        }
    }
    wanted
}

/// Collects the segments, and returns the newest and the oldest.
fn collect<S: Os>(
    mappings: &impl MemoryMap,
    page: usize,
    first: usize,
    segments: &mut MappedVec<'_, S, Segment>,
) -> Result<(Segment, Segment), Error> {
    let mut newest = None;
    let oldest = follow(mappings, page, first, |segment| {
        newest.get_or_insert(segment);
        segments.push(segment).then_some(()).ok_or_else(too_many)
    })?;
    Ok((newest.unwrap_or(oldest), oldest))
}

/// Follows the records from the newest on, and shows each segment before it reads the next record.
/// Returns the oldest segment. Records may go around: the visitor ends that.
pub(super) fn follow(
    mappings: &impl MemoryMap,
    page: usize,
    first: usize,
    mut visit: impl FnMut(Segment) -> Result<(), Error>,
) -> Result<Segment, Error> {
    let mut record = first;
    loop {
        let Some(memory) = mappings.find(record, RECORD_BYTES) else {
            return Err(refuse(format_args!("{record:#x}: no segment's record")));
        };
        let [base, size, next] = [0, 1, 2].map(|word| memory.word(record + word * WORD));
        let segment = segment_of(mappings, page, record, (base, size)).filter(|segment| {
            // Within the last word that the allocator leaves in front of it, or exactly there.
            let to_end = segment.memory.end().wrapping_sub(record - CONTENTS);
            record == first || (END_BYTES..END_BYTES + CHUNK_MIN).contains(&to_end)
        });
        let Some(segment) = segment else {
            return Err(refuse(format_args!("{record:#x}: its segment cannot be")));
        };
        visit(segment)?;
        match next {
            Some(0) => return Ok(segment),
            // Of words that are not aligned there is none.
            _ => record = next.unwrap_or(0),
        }
    }
}

pub(super) fn too_many() -> Error {
    refuse(format_args!("too many segments"))
}

/// The segment that a record describes, if that is possible.
fn segment_of(
    mappings: &impl MemoryMap,
    page: usize,
    record: usize,
    (base, size): (Option<usize>, Option<usize>),
) -> Option<Segment> {
    let (base, size) = (base?, size?);
    if !base.is_multiple_of(page) || !size.is_multiple_of(GRANULARITY) || size >= SEGMENT_LIMIT {
        return None;
    }
    let memory = mappings.find(base, size).filter(|_| size > 0)?;
    Some(Segment { memory, record, bytes_before: 0 })
}

/// A word of the state.
fn read(memory: &Memory, at: usize) -> Result<usize, Error> {
    memory.word(at).ok_or_else(|| refuse(format_args!("{at:#x}: not in the state")))
}
