//! Finding the lowest run of N free pages.
//!
//! A few pages are looked for in the bits themselves, from where such a run was found last: freed
//! pages move that place back (P4). Beyond, and for more pages, there are summaries of parts of
//! pages: how many free pages stand at the start, at the end, and in the longest run. Two
//! neighbours' summaries join into one, so chunks sum up words, and the first chunk of a group sums
//! up the group. A change only marks its chunk and group as stale; the next search that comes by
//! sums up anew. (Go's page allocator, Knyszek and Clements 2019, keeps the same three numbers in a
//! tree of five levels, eagerly.)

#![forbid(unsafe_code)]

use super::{CHUNK_PAGES, CHUNK_WORDS, GROUP_CHUNKS, GROUP_PAGES, PageChunk, PageRuns, free_of};
use crate::units::{PageIndex, Pages};

/// Runs of up to this many pages, the most that a span has, are looked for in the bits first.
pub(super) const FEW: usize = 16;
/// In this many words.
const NEAR_WORDS: usize = if cfg!(test) { 3 } else { 8 };

/// Free pages in a part of the pages: at its start, at its end, and most anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    start: u16,
    end: u16,
    most: u16,
    pub(super) stale: bool,
}

impl Summary {
    const EMPTY: Summary = Summary { start: 0, end: 0, most: 0, stale: false };
    /// Of pages that have changed.
    pub(super) const STALE: Summary = Summary { stale: true, ..Summary::EMPTY };

    fn of_word(free: u64) -> Summary {
        let mut most = 0;
        // Each step shortens every run of ones by one.
        let mut rest = free;
        while rest != 0 {
            rest &= rest << 1;
            most += 1;
        }
        Summary {
            start: free.trailing_ones() as u16,
            end: free.leading_ones() as u16,
            most,
            stale: false,
        }
    }

    /// The summary of a part of `len` pages followed by one of `next_len`.
    fn join(self, len: usize, next: Summary, next_len: usize) -> Summary {
        let whole = |summary: Summary, len: usize| summary.start as usize == len;
        Summary {
            start: if whole(self, len) { self.start + next.start } else { self.start },
            end: if whole(next, next_len) { self.end + next.end } else { next.end },
            most: self.most.max(next.most).max(self.end + next.start),
            stale: false,
        }
    }

    /// The summary of equal parts of `len` pages, one after the other.
    fn of_parts(parts: impl Iterator<Item = Summary>, len: usize) -> Summary {
        let mut total = Summary::EMPTY;
        let mut total_len = 0;
        for part in parts {
            total = total.join(total_len, part, len);
            total_len += len;
        }
        total
    }
}

impl PageChunk {
    pub(super) fn refresh(&self) -> Summary {
        if self.summary.get().stale {
            let words = self.free.iter().map(|word| Summary::of_word(word.get()));
            self.summary.set(Summary::of_parts(words, 64));
        }
        self.summary.get()
    }
}

impl PageRuns<'_> {
    /// The first page of the lowest run.
    pub(super) fn find(&mut self, count: Pages) -> Option<PageIndex> {
        let wanted = count.0 as usize;
        if let Some(page) = self.find_near_lowest(wanted) {
            return Some(page);
        }
        let first_group = self.no_run_below(wanted) / GROUP_PAGES;
        let group_end = (self.counts.top.0 as usize).div_ceil(GROUP_PAGES);
        // Length of the run of free pages that ends at where the search stands.
        let mut run = 0;
        for group in first_group..group_end {
            let summary = self.refresh_group(group);
            let start = group * GROUP_PAGES;
            if run + summary.start as usize >= wanted {
                return Some(PageIndex((start - run) as u32));
            }
            if summary.most as usize >= wanted {
                return Some(self.find_in_group(group, wanted));
            }
            let whole = summary.start as usize == GROUP_PAGES;
            run = if whole { run + GROUP_PAGES } else { summary.end as usize };
        }
        None
    }

    /// Below this page no run of `wanted` pages starts.
    fn no_run_below(&self, wanted: usize) -> usize {
        self.counts.lowest[wanted.min(FEW) - 1].0 as usize
    }

    /// The common case: a few pages, soon behind where such a run was found last. No summary is
    /// needed, so that none is made that the next change would spoil.
    fn find_near_lowest(&self, wanted: usize) -> Option<PageIndex> {
        if wanted > FEW {
            return None;
        }
        let first = self.no_run_below(wanted) / 64;
        let words = self.chunks.len() * CHUNK_WORDS;
        // Length of the run of free pages that ends at the word.
        let mut run = 0;
        for at in first..words.min(first + NEAR_WORDS) {
            let word = free_of(&self.chunks[at / CHUNK_WORDS], at % CHUNK_WORDS);
            if run + word.trailing_ones() as usize >= wanted {
                return Some(PageIndex((at * 64 - run) as u32));
            }
            let starts = starts_in_word(word, wanted);
            if starts != 0 {
                return Some(PageIndex(at as u32 * 64 + starts.trailing_zeros()));
            }
            run = word.leading_ones() as usize;
        }
        None
    }

    pub(super) fn refresh_group(&self, group: usize) -> Summary {
        let first = group * GROUP_CHUNKS;
        let group = &self.chunks[first].group;
        if group.get().stale {
            let end = self.chunks.len().min(first + GROUP_CHUNKS);
            let parts = self.chunks[first..end].iter().map(PageChunk::refresh);
            group.set(Summary::of_parts(parts, CHUNK_PAGES));
        }
        group.get()
    }

    /// The lowest run in a group that has one. Its chunks' summaries are fresh.
    fn find_in_group(&self, group: usize, wanted: usize) -> PageIndex {
        let first = group * GROUP_CHUNKS;
        let parts = self.chunks[first..].iter().map(|chunk| chunk.summary.get());
        let (chunk, index) = match lowest_fit(parts, CHUNK_PAGES, wanted) {
            Fit::Across(page) => return PageIndex((group * GROUP_PAGES + page) as u32),
            Fit::Within(chunk) => (first + chunk, chunk),
        };
        debug_assert!(index < GROUP_CHUNKS);
        let words = self.chunks[chunk].free.iter().map(|word| Summary::of_word(word.get()));
        let page = match lowest_fit(words, 64, wanted) {
            Fit::Across(page) => page,
            Fit::Within(word) => {
                word * 64 + lowest_in_word(free_of(&self.chunks[chunk], word), wanted)
            }
        };
        PageIndex((chunk * CHUNK_PAGES + page) as u32)
    }
}

/// Where a run was found among parts of the pages.
enum Fit {
    /// From this page on, across parts.
    Across(usize),
    /// Somewhere within this part.
    Within(usize),
}

/// The lowest run of `wanted` pages among parts that have one.
fn lowest_fit(parts: impl Iterator<Item = Summary>, len: usize, wanted: usize) -> Fit {
    let mut before = 0;
    for (index, summary) in parts.enumerate() {
        if before + summary.start as usize >= wanted {
            return Fit::Across(index * len - before);
        }
        if summary.most as usize >= wanted {
            return Fit::Within(index);
        }
        let whole = summary.start as usize == len;
        before = if whole { before + len } else { summary.end as usize };
    }
    crate::bug::bug!("page runs: P5: a summary promised {wanted} pages that are not there")
}

/// The lowest run of `wanted` ones in a word that has one.
fn lowest_in_word(word: u64, wanted: usize) -> usize {
    starts_in_word(word, wanted).trailing_zeros() as usize
}

/// Where in a word runs of `wanted` ones start.
fn starts_in_word(word: u64, wanted: usize) -> u64 {
    // A bit is set where a run of that many ones starts.
    let (mut starts, mut length) = (word, 1);
    while length < wanted {
        let step = length.min(wanted - length);
        starts &= starts >> step;
        length += step;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn summaries_join(
            words in prop::collection::vec(
                prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 1..6),
        ) {
            let joined = Summary::of_parts(words.iter().map(|word| Summary::of_word(*word)), 64);
            let bit = |page: usize| words[page / 64] >> (page % 64) & 1 == 1;
            let bits: Vec<bool> = (0..words.len() * 64).map(bit).collect();
            let longest = bits.split(|bit| !bit).map(<[bool]>::len).max().unwrap_or(0);
            prop_assert_eq!(joined.most as usize, longest);
            prop_assert_eq!(joined.start as usize, bits.iter().take_while(|bit| **bit).count());
            prop_assert_eq!(joined.end as usize, bits.iter().rev().take_while(|bit| **bit).count());
        }
    }
}
