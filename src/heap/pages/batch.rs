//! Claims of the background thread whose pages go back by one call to the kernel.
//!
//! A [`Claim`] is of the dirty pages of a word, or of a span. It can be neither copied nor ended by
//! hand: it ends when it is dropped, which happens once. A span with several holes is one claim of
//! several ranges. So the ranges of a [`ClaimBatch`] say what goes back, and its claims what is
//! released.
//!
//! - B1: a claim ends after all of its ranges were purged, or refused, and counted.
//! - B2: a page that was claimed and not returned is dirty again when its claim ends. A span rests
//!   again.

#![forbid(unsafe_code)]

use super::claim::Claimable;
use crate::units::{PageIndex, PageRange, Pages};

/// Most ranges in a batch. A word of 64 pages has 32 at most.
pub(crate) const RANGES: usize = 64;

/// Dirty pages of one word that were claimed, or one span.
#[derive(Debug)]
pub(crate) struct Claim<'heap> {
    word: &'heap Claimable,
    /// The bits that were claimed: those of the pages, or that of the span's first page.
    claimed: u64,
    /// Those of them that are set again when the claim ends.
    stays: u64,
    /// The first page of the word, or of the span.
    first: PageIndex,
    /// The pages that should go back, counted from the first.
    pages: u64,
    is_span: bool,
}

impl<'heap> Claim<'heap> {
    /// Claims those pages of a word that are dirty and that nobody has. All of them should go back.
    pub(crate) fn of_pages(word: &'heap Claimable, first: PageIndex, pages: u64) -> Claim<'heap> {
        let claimed = word.claim(pages);
        Claim { word, claimed, stays: claimed, first, pages: claimed, is_span: false }
    }

    /// Claims a span that rests. None of its pages should go back. `None`: it does not rest, or the
    /// heap's thread has it.
    pub(crate) fn of_span(word: &'heap Claimable, first: PageIndex) -> Option<Claim<'heap>> {
        let claimed = word.claim(1 << (first.0 % 64));
        let claim = Claim { word, claimed, stays: claimed, first, pages: 0, is_span: true };
        (claimed != 0).then_some(claim)
    }

    /// Has only these of its pages, or these pages of its span, go back.
    pub(crate) fn choose(&mut self, pages: u64) {
        self.pages = pages;
    }

    /// The pages that should go back, counted from the first of the word, or of the span.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The first page of the span that it is of.
    pub(crate) fn span(&self) -> Option<PageIndex> {
        self.is_span.then_some(self.first)
    }

    /// The ranges of its pages, lowest first.
    pub(super) fn ranges(&self) -> impl Iterator<Item = PageRange> + use<> {
        let (first, mut pages) = (self.first, self.pages);
        core::iter::from_fn(move || {
            let start = pages.trailing_zeros();
            let count = pages.checked_shr(start)?.trailing_ones();
            pages &= !(u64::MAX >> (64 - count) << start);
            Some(PageRange::new(first + Pages(start), Pages(count)))
        })
    }

    /// Notes that a range of its pages was returned.
    fn note_returned(&mut self, range: PageRange) {
        if !self.is_span {
            self.stays &= !self.bits_of(range);
        }
    }

    /// The bits of a range of its pages, counted from the first.
    pub(crate) fn bits_of(&self, range: PageRange) -> u64 {
        u64::MAX >> (64 - range.count().0) << range.start.since(self.first).0
    }

    fn end(&self) {
        if self.stays != 0 {
            self.word.put_back(self.stays);
        }
        if self.claimed != 0 {
            self.word.release(self.claimed);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !vanishes() {
            self.end();
        }
    }
}

/// Whether the thread is one that vanishes, and its claims stand: one that panics, in tests.
pub(super) fn vanishes() -> bool {
    cfg!(test) && std::thread::panicking()
}

/// Claims, and the ranges of their pages.
pub(crate) struct ClaimBatch<'heap> {
    claims: [Option<Claim<'heap>>; RANGES],
    claim_count: usize,
    /// Each with the index of its claim.
    ranges: [(PageRange, usize); RANGES],
    range_count: usize,
    pages: Pages,
}

impl<'heap> ClaimBatch<'heap> {
    pub(crate) fn new() -> ClaimBatch<'heap> {
        let none = PageRange::new(PageIndex(0), Pages::ZERO);
        ClaimBatch {
            claims: [const { None }; RANGES],
            claim_count: 0,
            ranges: [(none, 0); RANGES],
            range_count: 0,
            pages: Pages::ZERO,
        }
    }

    /// Whether another claim may have more ranges than there is room for.
    pub(crate) fn is_full(&self) -> bool {
        self.range_count > RANGES - 32
    }

    /// The pages that should go back.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// Adds a claim. One without pages ends here.
    pub(crate) fn add(&mut self, claim: Claim<'heap>) {
        if claim.pages == 0 {
            return;
        }
        self.pages += Pages(claim.pages.count_ones());
        for range in claim.ranges() {
            self.ranges[self.range_count] = (range, self.claim_count);
            self.range_count += 1;
        }
        self.claims[self.claim_count] = Some(claim);
        self.claim_count += 1;
    }

    /// The ranges, in the order in which claims were added, as `each` has them; `rest` in the
    /// places that are left. With their number.
    pub(crate) fn ranges<T: Copy>(
        &self,
        rest: T,
        each: impl Fn(PageRange) -> T,
    ) -> ([T; RANGES], usize) {
        let mut all = [rest; RANGES];
        for (at, (range, _)) in all.iter_mut().zip(&self.ranges[..self.range_count]) {
            *at = each(*range);
        }
        (all, self.range_count)
    }

    /// Has all ranges purged. `purge` takes the ranges from an index on, in their order, and
    /// returns how many went back before the kernel refused one, which is passed over. `note` is
    /// called for each that went back. How many were refused. The claims last until the batch is
    /// dropped: what was counted has to be known before.
    pub(crate) fn purge(
        &mut self,
        mut purge: impl FnMut(usize) -> usize,
        note: impl Fn(&Claim<'heap>, PageRange),
    ) -> u32 {
        let (mut index, mut refused) = (0, 0);
        while index < self.range_count {
            let end = index + purge(index);
            for (range, claim) in &self.ranges[index..end] {
                if let Some(claim) = &mut self.claims[*claim] {
                    note(claim, *range);
                    claim.note_returned(*range);
                }
            }
            index = end;
            if index < self.range_count {
                (index, refused) = (index + 1, refused + 1);
            }
        }
        refused
    }
}

#[cfg(test)]
impl<'heap> ClaimBatch<'heap> {
    /// Takes a claim out, by the order in which they were added.
    pub(super) fn take_claim(&mut self, index: usize) -> Option<Claim<'heap>> {
        self.claims[index].take()
    }

    pub(super) fn claim_count(&self) -> usize {
        self.claim_count
    }
}
