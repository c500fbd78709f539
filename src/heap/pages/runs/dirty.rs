//! Dirty pages: which free pages hold memory.

#![forbid(unsafe_code)]

use super::{CHUNK_PAGES, PageRuns, place_of, words_of};
use crate::heap::pages::claim::Claimable;
use crate::units::{PageIndex, PageRange, Pages};

impl PageRuns<'_> {
    /// How many pages of a range below `top` hold memory though they are free.
    pub(crate) fn dirty_in(&self, range: PageRange) -> Pages {
        self.count(range, |chunk, word| chunk.dirty[word].get())
    }

    /// Notes that free pages hold no memory any more; returns how many held some.
    pub(crate) fn clean(&mut self, range: PageRange) -> Pages {
        let is_watched = self.watch.is_on();
        let cleaned = self.dirty_words(range, |word, mask| word.unset(mask, is_watched));
        self.counts.dirty -= cleaned;
        cleaned
    }

    /// The same for pages that are about to be used: waits for those that the background thread
    /// has.
    pub(super) fn take_dirty(&mut self, range: PageRange) -> Pages {
        let (watch, is_watched) = (self.watch, self.watch.is_on());
        let wait = |word: &Claimable, mask| watch.wait_for(word, mask);
        self.dirty_words(range, |word, mask| word.take(mask, is_watched, wait))
    }

    /// Changes every word of a range. Returns how many bits `change` says it has changed.
    pub(super) fn dirty_words(
        &self,
        range: PageRange,
        change: impl Fn(&Claimable, u64) -> u64,
    ) -> Pages {
        let in_part = |part: PageRange| {
            let (chunk, word, mask) = place_of(part);
            change(&self.chunks[chunk].dirty[word], mask).count_ones()
        };
        Pages(words_of(range).map(in_part).sum())
    }

    /// Notes that the dirty pages of a range of free ones lost their memory, but not by a return.
    pub(crate) fn empty(&mut self, range: PageRange) {
        let is_watched = self.watch.is_on();
        for part in words_of(range) {
            let (chunk, word, mask) = place_of(part);
            let chunk = &self.chunks[chunk];
            let emptied = chunk.dirty[word].unset(mask, is_watched);
            chunk.moved[word].update(|moved| moved | emptied);
            self.counts.dirty -= Pages(emptied.count_ones());
        }
    }

    /// Whether a page is free and holds memory.
    pub(crate) fn is_dirty(&self, page: PageIndex) -> bool {
        self.dirty_in(PageRange::new(page, Pages(1))).0 == 1
    }

    /// The first page from `from` up to, not including, `end` that is dirty or, if asked for, one
    /// that a resting span of several pages starts at.
    pub(crate) fn next_dirty(
        &self,
        from: PageIndex,
        end: PageIndex,
        or_resting: bool,
    ) -> Option<PageIndex> {
        let mut page = from.0 as usize;
        while page < end.0 as usize {
            let chunk = &self.chunks[page / CHUNK_PAGES];
            let word = page % CHUNK_PAGES / 64;
            let resting = if or_resting { chunk.resting[word].get() } else { 0 };
            let bits = (chunk.dirty[word].get() | resting) >> (page % 64);
            if bits != 0 {
                let found = PageIndex(page as u32 + bits.trailing_zeros());
                return (found < end).then_some(found);
            }
            page = (page / 64 + 1) * 64;
        }
        None
    }

    /// Where the highest dirty page ends, or one that will be dirty if the kernel refuses it to the
    /// background thread.
    pub(crate) fn dirty_end(&mut self) -> PageIndex {
        let visits = self.watch.unvisited();
        let end = self.dirty_end_by(Claimable::get);
        let is_sure = visits.is_some_and(|visits| self.watch.is_unvisited_since(visits));
        self.counts.dirty_end = if is_sure { end } else { self.dirty_end_by(Claimable::held) };
        self.counts.dirty_end
    }

    fn dirty_end_by(&self, look: impl Fn(&Claimable) -> u64) -> PageIndex {
        let mut end = self.counts.dirty_end.0 as usize;
        while end > 0 {
            let last = end - 1;
            let word = look(&self.chunks[last / CHUNK_PAGES].dirty[last % CHUNK_PAGES / 64]);
            let upto = word << (63 - last % 64);
            if upto != 0 {
                end -= upto.leading_zeros() as usize;
                break;
            }
            end = last / 64 * 64;
        }
        PageIndex(end as u32)
    }

    /// Where the run of dirty pages that starts at `from` ends.
    pub(crate) fn dirty_end_of(&self, from: PageIndex) -> PageIndex {
        let within = PageRange { start: from, end: self.counts.top };
        self.run_end(within, |chunk, word| chunk.dirty[word].get())
    }
}
