//! Spans that rest, which the background thread returns the holes of while the heap's thread takes
//! them: a span of several holes is released once.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use crate::batch::{Claim, ClaimBatch};
use crate::claim::Claimable;
use crate::units::{PageIndex, PageRange};
use crate::{explore, race};

/// Pages of a span: the second has a live slot.
const SPAN: usize = 3;
const HOLES: u64 = 0b101;

/// Two spans of one word, one after the other, and the memory of their holes: a purge and the
/// program's own writes to it must never meet, or the model panics.
struct Spans {
    resting: Claimable,
    memory: [UnsafeCell<u64>; 2 * SPAN],
    /// Holes of the first and the second that were purged.
    purged: [AtomicU32; 2],
}

// SAFETY: the model is to show that the bits keep the threads apart.
unsafe impl Sync for Spans {}

impl Spans {
    /// `count` of the spans rest.
    fn new(count: usize) -> Arc<Spans> {
        let spans = Spans {
            resting: Claimable::default(),
            memory: core::array::from_fn(|_| UnsafeCell::new(7)),
            purged: core::array::from_fn(|_| AtomicU32::new(0)),
        };
        spans.resting.set(bits(count), true);
        Arc::new(spans)
    }

    /// The background thread claims the spans that rest, by one batch, and purges their holes.
    fn visit(&self, count: usize) {
        let mut batch = ClaimBatch::new();
        for span in 0..count {
            let first = PageIndex((span * SPAN) as u32);
            let Some(mut claim) = Claim::of_span(&self.resting, first) else { continue };
            claim.choose(HOLES & !u64::from(self.purged[span].load(Relaxed)));
            batch.add(claim);
        }
        let (ranges, count) = batch.ranges(None, Some);
        let purge = |from: usize| {
            ranges[from..count].iter().flatten().for_each(|range| self.purge(*range));
            count - from
        };
        let refused = batch.purge(purge, |claim, range| {
            let span = claim.span().expect("a span").0 as usize / SPAN;
            self.purged[span].fetch_or(claim.bits_of(range) as u32, Relaxed);
        });
        assert_eq!(refused, 0);
    }

    fn purge(&self, range: PageRange) {
        for page in range.start.0..range.end.0 {
            // SAFETY: this is what the model checks.
            self.memory[page as usize].with_mut(|memory| unsafe { *memory = 0 });
        }
    }

    /// The heap's thread takes a span, and uses its holes.
    fn take(&self, span: usize, value: u64) {
        let bit = 1 << (span * SPAN);
        let rested = self.resting.take(bit, true, |_, _| thread::yield_now());
        assert_eq!(rested, bit, "a span that was not taken rests");
        for hole in [0, 2] {
            // SAFETY: this is what the model checks.
            self.memory[span * SPAN + hole].with_mut(|memory| unsafe { *memory = value });
        }
        self.purged[span].store(0, Relaxed);
    }

    /// It still has what it wrote there, and the span is active.
    fn check(&self, span: usize, value: u64) {
        assert_eq!(self.resting.get() >> (span * SPAN) & 1, 0, "C2");
        assert_eq!(self.purged[span].load(Relaxed), 0, "S4");
        for hole in [0, 2] {
            // SAFETY: this is what the model checks.
            let read = self.memory[span * SPAN + hole].with(|memory| unsafe { *memory });
            assert_eq!(read, value, "the span was purged while it was used");
        }
    }

    /// And has it rest again.
    fn rest(&self, span: usize) {
        self.resting.set(1 << (span * SPAN), true);
    }
}

/// The bits of the first spans.
fn bits(count: usize) -> u64 {
    (0..count).map(|span| 1 << (span * SPAN)).sum()
}

/// A second release would have the span rest though it is active.
#[test]
fn a_span_of_several_holes_is_released_once() {
    explore(|| {
        let spans = Spans::new(1);
        let take = |spans: &Spans| {
            spans.take(0, 1);
            spans.check(0, 1);
        };
        race(&spans, take, |spans| spans.visit(1));
        spans.check(0, 1);
        assert_eq!((spans.resting.get(), spans.resting.claimed()), (0, 0));
    });
}

#[test]
fn a_span_that_was_used_meanwhile_is_purged_by_the_next_visit_only() {
    explore(|| {
        let spans = Spans::new(1);
        let take_twice = |spans: &Spans| {
            spans.take(0, 1);
            spans.check(0, 1);
            spans.rest(0);
            spans.take(0, 2);
            spans.check(0, 2);
        };
        let visit_twice = |spans: &Spans| {
            spans.visit(1);
            spans.visit(1);
        };
        race(&spans, take_twice, visit_twice);
        spans.check(0, 2);
        assert_eq!((spans.resting.get(), spans.resting.claimed()), (0, 0));
    });
}

#[test]
fn the_heap_takes_either_of_two_spans_of_a_batch() {
    for span in [0, 1] {
        explore(move || {
            let spans = Spans::new(2);
            let take = move |spans: &Spans| {
                spans.take(span, 1);
                spans.check(span, 1);
            };
            race(&spans, take, |spans| spans.visit(2));
            spans.check(span, 1);
            let left = bits(2) & !(1 << (span * SPAN));
            assert_eq!((spans.resting.get(), spans.resting.claimed()), (left, 0));
        });
    }
}
