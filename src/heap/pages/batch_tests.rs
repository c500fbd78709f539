//! What is released of a batch, and when.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};

use super::batch::{Claim, ClaimBatch};
use super::claim::Claimable;
use crate::units::{PageIndex, PageRange, Pages};

/// A word that spans rest in, or pages are dirty in.
fn word(bits: u64) -> Claimable {
    let word = Claimable::default();
    word.set(bits, true);
    word
}

fn span(word: &Claimable, first: u32, holes: u64) -> Claim<'_> {
    let mut claim = Claim::of_span(word, PageIndex(first)).expect("it rests");
    claim.choose(holes);
    claim
}

fn range(start: u32, count: u32) -> PageRange {
    PageRange::new(PageIndex(start), Pages(count))
}

#[test]
fn a_span_of_several_holes_is_one_claim_of_several_ranges() {
    let word = word(1 << 3 | 1 << 20);
    let mut batch = ClaimBatch::new();
    batch.add(span(&word, 3, 0b1_0110_1001));
    batch.add(span(&word, 20, 0b101));
    let (ranges, count) = batch.ranges(range(0, 0), |range| range);
    let holes = [(3, 1), (6, 1), (8, 2), (11, 1), (20, 1), (22, 1)];
    assert_eq!(ranges[..count], holes.map(|(start, count)| range(start, count)));
    assert_eq!((batch.claim_count(), batch.pages()), (2, Pages(7)));
}

/// The heap's thread takes each span as soon as it is released, and uses it: nobody releases
/// it, or has it rest, for a second time.
#[test]
fn every_claim_ends_once_and_after_all_of_its_ranges() {
    let word = word(1 << 3 | 1 << 20);
    let mut batch = ClaimBatch::new();
    batch.add(span(&word, 3, 0b10101));
    batch.add(span(&word, 20, 0b101));
    let (held, noted) = (1 << 3 | 1 << 20, RefCell::new(Vec::new()));
    let calls = Cell::new(0);
    let purge = |from| {
        assert_eq!((word.claimed(), word.get()), (held, 0), "B1, at range {from}");
        calls.set(calls.get() + 1);
        // The second range is refused.
        if from == 0 { 1 } else { 5 - from }
    };
    let refused = batch.purge(purge, |claim, range| {
        assert_eq!((word.claimed(), word.get()), (held, 0), "B1, {range:?}");
        noted.borrow_mut().push((claim.span(), range));
    });
    assert_eq!((refused, calls.get()), (1, 2));
    let span = |page| Some(PageIndex(page));
    let all = [(span(3), range(3, 1)), (span(3), range(7, 1)), (span(20), range(20, 1))];
    assert_eq!(noted.borrow()[..3], all);
    assert_eq!((word.claimed(), word.get()), (held, 0));
    let [first, second] = [0, 1].map(|claim| batch.take_claim(claim));
    drop(first);
    assert_eq!((word.claimed(), word.get()), (1 << 20, 1 << 3), "the first, and no other");
    word.take(1 << 3, true, |_, _| panic!("it is free"));
    assert_eq!(word.claim(1 << 3), 0);
    drop((second, batch));
    assert_eq!((word.claimed(), word.get()), (0, 1 << 20), "the first is in use");
}

#[test]
fn pages_that_were_returned_are_clean_and_all_others_dirty_again() {
    let word = word(0b1111_0111_0011);
    let mut batch = ClaimBatch::new();
    // The heap's thread has two of them.
    let theirs = word.claim(0b1001_0000_0000);
    let mut claim = Claim::of_pages(&word, PageIndex(64), 0b1111_1111_1111);
    assert_eq!(claim.pages(), 0b0110_0111_0011);
    claim.choose(0b0110_0111_0001);
    batch.add(claim);
    let (ranges, count) = batch.ranges(range(0, 0), |range| range);
    assert_eq!(ranges[..count], [range(64, 1), range(68, 3), range(73, 2)]);
    let refused = batch.purge(|_| 1, |_, _| ());
    assert_eq!(refused, 1);
    drop(batch);
    assert_eq!((word.get(), word.claimed()), (0b0000_0111_0010, theirs));
}

#[test]
fn what_is_not_purged_stays_what_it_was() {
    let (dirty, resting) = (word(0xFF), word(1));
    let mut batch = ClaimBatch::new();
    batch.add(Claim::of_pages(&dirty, PageIndex(0), 0x0F));
    batch.add(span(&resting, 0, 0b11));
    // No pages: it ends at once.
    assert_eq!(dirty.claimed(), 0x0F);
    batch.add(Claim::of_pages(&dirty, PageIndex(0), 0x0F));
    assert_eq!((dirty.claimed(), batch.claim_count()), (0x0F, 2));
    assert!(Claim::of_span(&resting, PageIndex(0)).is_none());
    drop(batch);
    assert_eq!((dirty.get(), dirty.claimed()), (0xFF, 0));
    assert_eq!((resting.get(), resting.claimed()), (1, 0));
}

#[test]
fn a_word_of_single_pages_fits_and_is_all_there_is_room_for() {
    let words = [word(u64::MAX / 3), word(u64::MAX / 3)];
    let mut batch = ClaimBatch::new();
    for (index, word) in words.iter().enumerate() {
        assert!(!batch.is_full());
        batch.add(Claim::of_pages(word, PageIndex(index as u32 * 64), u64::MAX));
    }
    assert!(batch.is_full());
    assert_eq!(batch.pages(), Pages(64));
    let whole = word(u64::MAX);
    let claim = Claim::of_pages(&whole, PageIndex(0), u64::MAX);
    assert_eq!(claim.ranges().collect::<Vec<_>>(), [range(0, 64)]);
}
