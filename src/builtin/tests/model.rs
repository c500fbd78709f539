//! Heaps as LuaJIT's allocator leaves them, made at random, and what is known of them.

use std::ffi::CString;
use std::fmt::Write;
use std::ops::Range;

use super::super::layout::*;
use super::super::{SIZES, Survey};
use crate::os::fake::FakeOs;
use crate::os::{Kernel, MemoryRange, Os};

/// Numbers that look random.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for index in (1..values.len()).rev() {
            values.swap(index, self.below(index + 1));
        }
    }
}

/// What a wrong value in a word of the heap must lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The heap is refused.
    Essential,
    /// It is refused, if the lower half is wrong.
    Half,
    /// It is refused, or found to have the same free memory.
    InUse,
    /// Nothing.
    Idle,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) at: usize,
    pub(super) size: usize,
    pub(super) is_free: bool,
}

/// What a heap is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Like any other, of up to so many segments.
    Usual(usize),
    /// Almost all of it is the top.
    LargeTop,
    /// Almost all of it is free chunks of one size.
    LongRing,
    /// Free chunks may adjoin, which is wrong.
    Adjoining,
    /// Rings may hold chunks of several sizes, which is wrong.
    MixedRings,
}

/// A heap.
pub(super) struct Heap {
    pub(super) os: FakeOs,
    pub(super) area: Range<usize>,
    pub(super) state: usize,
    /// Base and size, the oldest first.
    pub(super) segments: Vec<(usize, usize)>,
    /// All chunks but the top and those of records.
    pub(super) chunks: Vec<Chunk>,
    pub(super) top: Chunk,
    pub(super) victim: Option<Chunk>,
    /// Chunks of trees that are not in the ring of another.
    pub(super) nodes: Vec<usize>,
    shape: Shape,
    /// Words of the heap, and what they are.
    pub(super) words: Vec<(usize, Word)>,
    state_bytes: usize,
    random: Random,
}

const JUNK: u8 = 0xa5;

pub(super) fn get(at: usize) -> usize {
    // SAFETY: a word of a test's heap.
    unsafe { std::ptr::with_exposed_provenance::<usize>(at).read() }
}

pub(super) fn set(at: usize, value: usize) {
    // SAFETY: as above.
    unsafe { std::ptr::with_exposed_provenance_mut::<usize>(at).write(value) }
}

impl Heap {
    /// A heap in memory of its own.
    pub(super) fn new(seed: u64, page: usize, shape: Shape) -> Heap {
        let os = FakeOs::new(page);
        let bytes = 20 * GRANULARITY;
        let start = os.reserve(bytes, false).expect("address space");
        let start = start.expose_provenance();
        let heap = Heap {
            os,
            area: start..start + bytes,
            state: 0,
            segments: Vec::new(),
            chunks: Vec::new(),
            top: Chunk { at: 0, size: 0, is_free: true },
            victim: None,
            nodes: Vec::new(),
            shape,
            words: Vec::new(),
            state_bytes: 0,
            random: Random(seed),
        };
        // SAFETY: reserved just now; tests share it with nobody.
        unsafe { assert!(heap.os.commit(heap.start(), bytes)) };
        heap.fill()
    }

    /// Another heap in the same memory.
    pub(super) fn again(mut self, seed: u64) -> Heap {
        self.random = Random(seed);
        (self.segments, self.chunks, self.words) = (Vec::new(), Vec::new(), Vec::new());
        self.nodes = Vec::new();
        self.victim = None;
        self.fill()
    }

    fn start(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.area.start)
    }

    pub(super) fn state(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.state)
    }

    pub(super) fn contents(&self) -> &[u8] {
        // SAFETY: the area is committed, and tests change it only between these calls.
        unsafe { std::slice::from_raw_parts(self.start(), self.area.len()) }
    }

    fn put(&mut self, at: usize, value: usize, word: Word) {
        set(at, value);
        self.words.push((at, word));
    }

    fn fill(mut self) -> Heap {
        // SAFETY: the area is committed.
        unsafe { self.start().write_bytes(JUNK, self.area.len()) };
        self.place_segments();
        for index in 0..self.segments.len() {
            self.fill_segment(index);
        }
        self.write_chunks();
        self.write_state();
        self.write_bins();
        self.write_records();
        self.lose_pages();
        self.list_mappings();
        self
    }

    /// Segments apart or adjoining, whichever is older.
    fn place_segments(&mut self) {
        let most = match self.shape {
            Shape::Usual(most) => most,
            Shape::LargeTop | Shape::LongRing => {
                self.segments.push((self.area.start, self.area.len()));
                return;
            }
            Shape::Adjoining => 1,
            Shape::MixedRings => 4,
        };
        let mut at = self.area.start;
        for _ in 0..=self.random.below(most) {
            at += self.random.below(3) * self.os.page_size().max(16 << 10);
            let size = (1 + self.random.below(3)) * GRANULARITY;
            self.segments.push((at, size));
            at += size;
        }
        self.random.shuffle(&mut self.segments);
    }

    fn fill_segment(&mut self, index: usize) {
        let (base, size) = self.segments[index];
        let mut at = base;
        if index == 0 {
            // The segment has grown downwards since, or not.
            let before = if size > GRANULARITY { self.random.below(2) * GRANULARITY } else { 0 };
            self.fill_range(base, base + before);
            self.state_bytes = STATE_CHUNKS[self.random.below(2)];
            self.state = base + before + CONTENTS;
            self.chunks.push(Chunk { at: base + before, size: self.state_bytes, is_free: false });
            at = base + before + self.state_bytes;
        }
        let end = base + size - END_BYTES;
        if index + 1 < self.segments.len() {
            let left = WORD * self.random.below(4);
            self.fill_range(at, end - left);
            return;
        }
        let most = if self.random.chance(3) { 4 } else { (end - at) / WORD };
        let top = match self.shape {
            Shape::LargeTop => end - at - 1024,
            Shape::LongRing => WORD,
            _ => WORD * (1 + self.random.below(most)),
        };
        // What lies between must hold a chunk, or nothing.
        let top = if end - top - at < CHUNK_MIN { end - at } else { top };
        self.top = Chunk { at: end - top, size: top, is_free: true };
        self.fill_range(at, end - top);
        if let Some(last) = self.chunks.last_mut() {
            last.is_free = last.is_free && last.at + last.size != end - top;
        }
    }

    fn fill_range(&mut self, mut at: usize, end: usize) {
        let mut was_free = false;
        while at < end {
            let rest = end - at;
            let size = match self.random.below(8) {
                _ if self.shape == Shape::LongRing => {
                    if was_free {
                        40
                    } else {
                        8216
                    }
                }
                0..4 => CHUNK_MIN + WORD * self.random.below(28),
                4 | 5 => CHUNK_MIN + WORD * self.random.below(500),
                // The same size often: rings.
                6 => [296, 4200, 8216][self.random.below(3)],
                _ => CHUNK_MIN + WORD * self.random.below(4000),
            };
            let size = if rest < size + CHUNK_MIN { rest } else { size };
            let may_be_free = !was_free || self.shape == Shape::Adjoining;
            let is_free = may_be_free && (self.shape == Shape::LongRing || self.random.chance(2));
            self.chunks.push(Chunk { at, size, is_free });
            was_free = is_free;
            at += size;
        }
    }

    fn is_state(&self, chunk: &Chunk) -> bool {
        chunk.at + CONTENTS == self.state
    }

    fn write_chunks(&mut self) {
        let mut before = Chunk { at: 0, size: 0, is_free: false };
        for chunk in self.chunks.clone() {
            // Nothing is before a segment's first chunk.
            let is_next = before.at + before.size == chunk.at
                && !self.segments.iter().any(|(base, _)| *base == chunk.at);
            let after_free = is_next && before.is_free;
            let flags = if after_free { 0 } else { PREVIOUS_IN_USE };
            let (used, word) =
                if chunk.is_free { (0, Word::Essential) } else { (IN_USE, Word::InUse) };
            self.put(chunk.at + HEAD, chunk.size | flags | used, word);
            if chunk.is_free {
                self.put(chunk.at + chunk.size + FOOT, chunk.size, Word::Essential);
            }
            before = chunk;
        }
        let Chunk { at, size, .. } = self.top;
        self.put(at + HEAD, size | PREVIOUS_IN_USE, Word::Essential);
        self.put(at + size + HEAD, END_BYTES, Word::Essential);
    }

    fn write_state(&mut self) {
        let at = self.state;
        // SAFETY: within the state's chunk, but for its size.
        unsafe { self.state().write_bytes(0, self.state_bytes - 2 * WORD) };
        let free: Vec<Chunk> = self.chunks.iter().copied().filter(|chunk| chunk.is_free).collect();
        if !free.is_empty() && !self.random.chance(3) {
            self.victim = Some(free[self.random.below(free.len())]);
        }
        let (victim, size) = self.victim.map_or((0, 0), |victim| (victim.at, victim.size));
        self.put(at + VICTIM, victim, Word::Essential);
        self.put(at + VICTIM_SIZE, size, Word::Essential);
        self.put(at + TOP, self.top.at, Word::Essential);
        self.put(at + TOP_SIZE, self.top.size, Word::Essential);
        self.put(at + 40, 2 << 20, Word::Idle);
        self.put(at + 48, 255, Word::Idle);
        if self.state_bytes == STATE_CHUNKS[1] {
            self.put(at + NEWEST + RECORD_BYTES, 0xdead_beef, Word::Idle);
        }
    }

    fn write_bins(&mut self) {
        let victim = self.victim.map(|victim| victim.at);
        let mut binned = self.chunks.clone();
        binned.retain(|chunk| chunk.is_free && Some(chunk.at) != victim);
        self.random.shuffle(&mut binned);
        let mut map = 0;
        for list in 0..LIST_COUNT {
            let size = list * WORD;
            let chunks: Vec<usize> =
                binned.iter().filter(|chunk| chunk.size == size).map(|chunk| chunk.at).collect();
            map |= usize::from(!chunks.is_empty()) << list;
            self.write_list(list, &chunks);
        }
        for tree in 0..TREE_COUNT {
            let mut chunks = binned.clone();
            chunks.retain(|chunk| chunk.size >= LARGE_MIN && tree_of(chunk.size) == tree);
            map |= usize::from(!chunks.is_empty()) << (LIST_COUNT + tree);
            let root = self.state + TREES + tree * WORD;
            self.write_tree(tree, chunks, 0, root, root);
        }
        self.put(self.state + MAPS, map, Word::Essential);
    }

    fn write_list(&mut self, list: usize, chunks: &[usize]) {
        let head = self.state + LISTS + 2 * list * WORD;
        if chunks.is_empty() {
            // A list that becomes empty keeps its last links.
            let stale = if self.random.chance(2) { self.top.at } else { head };
            self.put(head + FORWARD, stale, Word::Idle);
            self.put(head + BACK, head, Word::Idle);
            return;
        }
        let mut around = vec![head];
        around.extend(chunks);
        for (index, at) in around.iter().copied().enumerate() {
            let next = around[(index + 1) % around.len()];
            self.put(at + FORWARD, next, Word::Essential);
            self.put(next + BACK, at, Word::Essential);
        }
    }

    /// A tree of any shape that chunks can be in: any of them may be the root.
    fn write_tree(
        &mut self,
        tree: usize,
        chunks: Vec<Chunk>,
        depth: usize,
        link: usize,
        parent: usize,
    ) {
        let Some(first) = chunks.first().copied() else {
            return self.put(link, 0, Word::Essential);
        };
        self.put(link, first.at, Word::Essential);
        self.nodes.push(first.at);
        let (mut ring, mut others): (Vec<Chunk>, Vec<Chunk>) =
            chunks.into_iter().partition(|chunk| chunk.size == first.size);
        if self.shape == Shape::MixedRings {
            ring.extend(others.pop());
        }
        for (index, chunk) in ring.iter().enumerate() {
            let next = ring[(index + 1) % ring.len()].at;
            self.put(chunk.at + BACK, next, Word::Essential);
            self.put(next + FORWARD, chunk.at, Word::Essential);
            self.put(chunk.at + PARENT, if index == 0 { parent } else { 0 }, Word::Essential);
            self.put(chunk.at + INDEX, tree | 0xabcd << 32, Word::Half);
            if index > 0 {
                self.put(chunk.at + CHILDREN, 0, Word::Essential);
                self.put(chunk.at + CHILDREN + WORD, 0, Word::Essential);
            }
        }
        let bit = |chunk: &Chunk| tree_path(tree, chunk.size) >> (63 - depth) & 1;
        let (right, left) = others.into_iter().partition(|chunk| bit(chunk) == 1);
        self.write_tree(tree, left, depth + 1, first.at + CHILDREN, first.at);
        self.write_tree(tree, right, depth + 1, first.at + CHILDREN + WORD, first.at);
    }

    /// Each segment's record is at its end, the newest one's in the state.
    fn write_records(&mut self) {
        let segments = self.segments.clone();
        let mut next = 0;
        for (index, (base, size)) in segments.iter().copied().enumerate() {
            let end = base + size;
            let record = if index + 1 == segments.len() {
                self.state + NEWEST
            } else {
                let last = self.chunks.iter().rev().find(|chunk| (base..end).contains(&chunk.at));
                let last = *last.expect("a segment has chunks");
                let at = last.at + last.size;
                let flags = if last.is_free { IN_USE } else { IN_USE | PREVIOUS_IN_USE };
                self.put(at + HEAD, RECORD_CHUNK | flags, Word::Essential);
                for post in (at + RECORD_CHUNK + HEAD..end).step_by(WORD) {
                    self.put(post, FENCEPOST, Word::Essential);
                }
                at + CONTENTS
            };
            self.put(record, base, Word::Essential);
            self.put(record + WORD, size, Word::Essential);
            self.put(record + 2 * WORD, next, Word::Essential);
            next = record;
        }
    }

    /// Whole pages of a chunk that the allocator does not use.
    pub(super) fn idle_pages(&self, chunk: &Chunk) -> Vec<usize> {
        let page = self.os.page_size();
        let pages = self.area.clone().step_by(page);
        pages.filter(|at| chunk.at + 64 <= *at && at + page <= chunk.at + chunk.size).collect()
    }

    pub(super) fn free_chunks(&self) -> Vec<Chunk> {
        let free = self.chunks.iter().filter(|chunk| chunk.is_free);
        free.copied().chain([self.top]).collect()
    }

    pub(super) fn all_idle_pages(&self) -> Vec<usize> {
        self.free_chunks().iter().flat_map(|chunk| self.idle_pages(chunk)).collect()
    }

    /// All idle pages become resident.
    pub(super) fn touch_idle_pages(&self) {
        self.all_idle_pages().into_iter().for_each(|at| set(at, 7));
    }

    /// Some idle pages are not resident.
    fn lose_pages(&mut self) {
        let one_in = if self.shape == Shape::LargeTop { 40 } else { 2 + self.random.below(5) };
        for at in self.all_idle_pages() {
            if self.random.chance(one_in) {
                let start = std::ptr::with_exposed_provenance_mut(at);
                let range = MemoryRange { start, bytes: self.os.page_size() };
                // SAFETY: the page holds junk.
                unsafe { Kernel.purge(&[range]) };
            }
        }
    }

    pub(super) fn is_resident(&self, page: usize) -> bool {
        let start = std::ptr::with_exposed_provenance_mut(page);
        Kernel.resident(start, self.os.page_size()) != Some(0)
    }

    /// The segments and some neighbours, as the kernel would list them.
    fn list_mappings(&mut self) {
        let mut sorted = self.segments.clone();
        sorted.sort_unstable();
        let mut text = String::from("00400000-00452000 r-xp 00000000 08:02 173521  /usr/bin/lua\n");
        let mut end = 0;
        for (base, size) in sorted {
            if end != 0 && end < base {
                let _ = writeln!(text, "{end:x}-{base:x} ---p 00000000 00:00 0 ");
            }
            let middle = base + GRANULARITY / 2;
            end = base + size;
            let _ = writeln!(text, "{base:x}-{middle:x} rw-p 00000000 00:00 0 ");
            let _ = writeln!(text, "{middle:x}-{end:x} rw-p 00000000 00:00 0    [anon:lua heap]");
        }
        text.push_str("7fff14bd5000-7fff14bf6000 rw-p 00000000 00:00 0  [stack]\n");
        let path = CString::from(c"/proc/self/maps");
        self.os.state().files.insert(path, text.into_bytes());
    }

    /// What a survey must find.
    pub(super) fn survey(&self) -> Survey {
        let page = self.os.page_size() as u64;
        let mut survey = Survey { segments: self.segments.len() as u64, ..Survey::default() };
        for (power, chunks) in survey.histogram.iter_mut().enumerate() {
            chunks.up_to = if power + 1 == SIZES { u64::MAX } else { 32 << power };
        }
        for (base, size) in &self.segments {
            survey.reserved += *size as u64;
            let pages = (*base..base + size).step_by(page as usize);
            survey.resident += pages.filter(|at| self.is_resident(*at)).count() as u64 * page;
        }
        for chunk in self.chunks.iter().filter(|chunk| !chunk.is_free && !self.is_state(chunk)) {
            survey.live += chunk.size as u64;
            survey.blocks += 1;
        }
        for chunk in self.free_chunks() {
            let size = chunk.size as u64;
            let idle = self.idle_pages(&chunk);
            let resident = idle.iter().filter(|at| self.is_resident(**at)).count() as u64 * page;
            let sizes = &mut survey.histogram;
            let class = sizes.iter_mut().find(|class| size <= class.up_to).expect("a class");
            class.count += 1;
            class.bytes += size;
            class.returnable += resident;
            survey.free += size;
            survey.free_chunks += 1;
            survey.largest_free = survey.largest_free.max(size);
            survey.returnable += resident;
            survey.returned += idle.len() as u64 * page - resident;
        }
        survey.metadata = survey.reserved - survey.live - survey.free;
        survey
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.os.state().failures.clear();
        // SAFETY: the whole reservation, which is not used again.
        unsafe { self.os.release(self.start(), self.area.len()) };
    }
}
