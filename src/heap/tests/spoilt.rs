//! Descriptors that somebody wrote into: what is acted on next stops the process with a line.

use super::*;
use crate::heap::SpanState;
use crate::heap::slots::class::class_of;
use crate::reclaim::Reclaim;
use crate::units::{PageIndex, Pages};

/// A heap with three spans of 1000 bytes in the list of their class, and the page of each in the
/// list's order.
fn three_listed() -> (Tested, [PageIndex; 3]) {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..2000).for_each(|_| assert!(tested.allocate(1000)));
    (0..2000).rev().step_by(2).for_each(|index| tested.free(index, OldSize::Right));
    tested.heap().check();
    let first = tested.heap().bins[class_of(1000)].partial;
    let second = tested.heap().descriptor(first).next();
    let third = tested.heap().descriptor(second).next();
    (tested, [first, second, third])
}

/// What is said when a span that was spoilt is emptied.
fn said(
    tested: &mut Tested,
    page: PageIndex,
    spoil: impl FnOnce(&mut Heap<FakeOs, Reclaim>),
) -> String {
    let start = tested.heap().address(page);
    let end = start.wrapping_add(tested.heap().descriptor(page).shape().pages.bytes());
    let blocks: Vec<*mut u8> = tested.live.iter().map(|block| block.at).collect();
    let heap = tested.heap;
    let words = last_words(|| {
        // SAFETY: the heap is live; what it says afterwards is what is asked for.
        spoil(unsafe { &mut *heap });
        let inside = blocks.iter().filter(|at| (start..end).contains(*at));
        for at in inside {
            // SAFETY: the blocks are live.
            unsafe { alloc(heap, *at, 1000, 0) };
        }
    });
    assert!(words.contains(&format!("ebbtide: heap {heap:p}: ")), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    words
}

#[test]
fn a_link_that_leads_elsewhere_stops_the_process() {
    let (mut tested, [first, second, third]) = three_listed();
    let mut expect = |spoil: &dyn Fn(&mut Heap<FakeOs, Reclaim>), wrong: &str| {
        let words = said(&mut tested, second, |heap| spoil(heap));
        assert!(words.contains(wrong), "{words}");
    };
    expect(&|heap| heap.descriptor(second).set_next(first), "S2: the links");
    expect(&|heap| heap.descriptor(first).set_next(third), "S2: the links");
    expect(&|heap| heap.descriptor(third).set_previous(first), "S2: the links");
    expect(&|heap| heap.descriptor(second).set_next(PageIndex(77_000)), "never used");
    expect(&|heap| heap.descriptor(second).set_previous(PageIndex(1)), "never used");
    expect(&|heap| heap.descriptor(third).set_span_state(SpanState::Full), "says that it is not");
    expect(&|heap| heap.descriptor(second).free.set_word(3, 1 << 63), "D2: ");
    expect(&|heap| heap.descriptor(third).reciprocal.update(|it| it ^ 64), "says that it is not");
    tested.free_all();
}

#[test]
fn a_span_whose_descriptor_is_spoilt_is_not_used() {
    let (mut tested, [first, ..]) = three_listed();
    let heap = tested.heap;
    let expect = |spoil: &dyn Fn(&mut Heap<FakeOs, Reclaim>), wrong: &str| {
        let words = last_words(|| {
            // SAFETY: the heap is live.
            spoil(unsafe { &mut *heap });
            for _ in 0..50 {
                // SAFETY: as above.
                unsafe { alloc(heap, ptr::null_mut(), 0, 1000) };
            }
        });
        assert!(words.contains(wrong) && words.lines().count() == 1, "{words}");
    };
    expect(&|heap| heap.bins[class_of(1000)].partial = PageIndex(77_000), "H1: ");
    expect(&|heap| heap.descriptor(first).free.set_word(2, 1 << 40), "D2: ");
    expect(&|heap| heap.descriptor(first).neg_start.update(|it| it + 8), "is not that of a span");
    expect(&|heap| heap.descriptor(first).span_head.set(ptr::null_mut()), "is not that of a span");
    expect(&|heap| heap.descriptor(first).reciprocal.set(0xFFFF), "says that it is not");
    tested.free_all();
}

#[test]
fn a_large_block_whose_descriptor_is_spoilt_is_not_freed() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    assert!(tested.allocate(20_000) && tested.allocate(20_000));
    let (heap, at) = (tested.heap, tested.live[0].at);
    let page = PageIndex::of(at.addr() - tested.heap().base.addr());
    for (pages, requested) in [(5, 30_000), (9, 20_000), (4, 20_000), (1 << 30, 20_000)] {
        let words = last_words(|| {
            // SAFETY: the heap is live, and the call breaks no contract of its own.
            unsafe {
                (*heap).descriptor(page).set_large(Pages(pages), requested);
                alloc(heap, at, 20_000, 0)
            }
        });
        assert!(words.contains("H2: a large block at"), "{words}");
    }
    tested.free_all();
}
