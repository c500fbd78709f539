//! Blocks and free pages from outside: who takes care of them, and when.

use std::collections::VecDeque;

use super::breathing::{SECOND_US, tested};
use super::*;
use crate::heap::{ForeignBlocks, ForeignPages, ForeignReason, ForeignReturned};
use crate::reclaim::Outcome;
use crate::units::{PAGE, Pages};

/// Counts the call, and leaves the block where it is.
unsafe fn count(context: *mut u8, block: *mut u8, _size: usize) -> *mut u8 {
    // SAFETY: the count of the test that set this up.
    unsafe { *context.cast::<u32>() += 1 };
    block
}

#[test]
fn where_one_block_can_come_from_outside_any_other_is_a_wrong_pointer() {
    let (mut blocks, mut calls) = ([0u64; 2], 0u32);
    let [one, other] = blocks.each_mut().map(|block| (&raw mut *block).cast::<u8>());
    for only in [Some(one), None] {
        let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
        let context = (&raw mut calls).cast();
        tested.heap().foreign = Some(ForeignBlocks { context, only, resize: count, pages: None });
        assert_eq!(tested.call(one, 8, 16), one);
        if only.is_none() {
            assert_eq!(tested.call(other, 8, 16), other);
        } else {
            let words = last_words(|| tested.call(other, 8, 16));
            assert!(words.contains(&format!("pointer {other:p} is not of this heap")), "{words}");
        }
        assert!(tested.allocate(100));
        tested.free_all();
    }
    assert_eq!(calls, 3);
}

/// Free pages from outside.
#[derive(Default)]
struct Outside {
    /// In how many microseconds some are due.
    next_us: Option<u64>,
    /// What each coming call gives back. Behind the last one nothing is left, and nothing due.
    coming: VecDeque<ForeignReturned>,
    /// The calls: why, and until when.
    calls: Vec<(ForeignReason, Option<u64>)>,
}

unsafe fn outside_next_us(context: *mut u8) -> Option<u64> {
    // SAFETY: the `Outside` of the test that set this up.
    unsafe { (*context.cast::<Outside>()).next_us }
}

unsafe fn outside_give_back(
    context: *mut u8,
    reason: ForeignReason,
    deadline_us: Option<u64>,
) -> ForeignReturned {
    // SAFETY: as above.
    let outside = unsafe { &mut *context.cast::<Outside>() };
    outside.calls.push((reason, deadline_us));
    let returned = outside.coming.pop_front().unwrap_or_default();
    if !returned.more {
        outside.next_us = None;
    }
    returned
}

/// A heap with pages outside, and the heap's clock.
struct WithOutside {
    tested: Tested,
    outside: *mut Outside,
}

impl WithOutside {
    fn new(settings: &[(Key, i64)], outside: Outside) -> WithOutside {
        let mut tested = tested(settings);
        let outside = Box::into_raw(Box::new(outside));
        let pages = Some(ForeignPages { next_us: outside_next_us, give_back: outside_give_back });
        let context = outside.cast();
        tested.heap().foreign = Some(ForeignBlocks { context, only: None, resize: count, pages });
        WithOutside { tested, outside }
    }

    /// Sets up what is outside, or looks at it.
    fn outside(&mut self) -> &mut Outside {
        // SAFETY: lives as long as `self`; the heap uses it only while it is called.
        unsafe { &mut *self.outside }
    }

    /// Pages outside are due, and come in these portions.
    fn fall_due(&mut self, portions: &[ForeignReturned]) {
        let coming = portions.iter().copied().collect();
        *self.outside() = Outside { next_us: Some(0), coming, calls: Vec::new() };
    }

    fn tick(&mut self, budget_us: u32) -> Outcome {
        self.tested.heap().tick(budget_us)
    }

    fn calls(&mut self) -> Vec<(ForeignReason, Option<u64>)> {
        std::mem::take(&mut self.outside().calls)
    }

    /// Pages of the heap itself that are due at the next tick.
    fn heap_falls_due(&mut self, bytes: usize) {
        for (key, value) in [(Key::Auto, 0), (Key::DecayMs, 0)] {
            self.tested.act(&Step::Set(key, value));
        }
        let at = self.tested.call(ptr::null_mut(), 0, bytes);
        assert!(!at.is_null() && self.tested.call(at, bytes, 0).is_null());
        assert!(self.tested.heap().runs.dirty.bytes() >= bytes);
    }
}

impl Drop for WithOutside {
    fn drop(&mut self) {
        self.tested.heap().foreign = None;
        // SAFETY: from a box, and the heap has forgotten it.
        drop(unsafe { Box::from_raw(self.outside) });
    }
}

const DONE: ForeignReturned =
    ForeignReturned { bytes: 3 * PAGE as u64, calls: 2, refused: 0, more: false };

#[test]
fn a_tick_gives_back_what_is_due_outside_and_says_how_much() {
    let mut both = WithOutside::new(&[], Outside::default());
    for next_us in [None, Some(1), Some(SECOND_US)] {
        both.outside().next_us = next_us;
        assert_eq!(both.tick(500), Outcome::default());
        assert_eq!(both.calls(), []);
        assert_eq!(both.tested.heap().next_tick_us(), next_us);
    }
    let part = ForeignReturned { more: true, refused: 1, ..DONE };
    both.fall_due(&[part, DONE]);
    assert_eq!(both.tested.heap().next_tick_us(), Some(0));
    let steps = both.tested.heap().hooks.step_latency.count;
    let start_us = both.tested.os.state().now_us;
    let outcome = both.tick(500);
    assert_eq!(outcome, Outcome { returned: Pages(3), calls: 2, refused: 1, more: true });
    let [(ForeignReason::Due, Some(deadline_us))] = both.calls()[..] else { panic!("no call") };
    assert!((start_us + 500..start_us + 510).contains(&deadline_us));
    // Without a budget.
    let outcome = both.tick(0);
    assert_eq!(outcome, Outcome { returned: Pages(3), calls: 2, refused: 0, more: false });
    assert_eq!(both.calls(), [(ForeignReason::Due, None)]);
    assert_eq!(both.tested.heap().hooks.step_latency.count, steps + 2, "both were steps");
    assert_eq!(both.tested.heap().next_tick_us(), None);
    assert_eq!((both.tick(0), both.calls()), (Outcome::default(), Vec::new()));
}

/// A byte that went back is a page for whoever counts pages.
#[test]
fn bytes_from_outside_are_told_in_pages() {
    for (bytes, pages) in [(0, 0), (1, 1), (PAGE as u64, 1), (16384 + 1, 5)] {
        let outcome = Outcome::from(ForeignReturned { bytes, ..ForeignReturned::default() });
        assert_eq!(outcome.returned, Pages(pages));
    }
}

#[test]
fn the_heap_goes_first_and_what_is_outside_is_not_forgotten() {
    let mut both = WithOutside::new(&[], Outside::default());
    both.heap_falls_due(5 << 20);
    both.fall_due(&[DONE]);
    // One step of 1 MiB at most a call: no budget is left for what is outside.
    let (mut returned, mut steps) = (Pages::ZERO, 0);
    let last = loop {
        let outcome = both.tick(1);
        if !both.outside().calls.is_empty() {
            break outcome;
        }
        assert!(outcome.more && outcome.calls > 0, "{outcome:?}");
        (returned, steps) = (returned + outcome.returned, steps + 1);
    };
    assert!(returned.bytes() >= 5 << 20 && steps >= 5, "{returned:?} in {steps} steps");
    // A call takes one step at least, and this one had taken none yet.
    assert_eq!(last, Outcome { returned: Pages(3), calls: 2, refused: 0, more: false });
    assert_eq!(both.calls().len(), 1);
    assert_eq!(both.tested.heap().next_tick_us(), None);
    // With time enough, both go back in one call.
    both.heap_falls_due(5 << 20);
    both.fall_due(&[DONE]);
    let outcome = both.tick(0);
    assert!(!outcome.more && outcome.returned.bytes() >= (5 << 20) + 3 * PAGE, "{outcome:?}");
    assert_eq!(both.calls(), [(ForeignReason::Due, None)]);
}

#[test]
fn a_reclaim_asks_for_all_that_is_outside_due_or_not() {
    for next_us in [None, Some(0), Some(SECOND_US)] {
        let mut both = WithOutside::new(&[], Outside::default());
        *both.outside() = Outside { next_us, coming: [DONE].into(), ..Outside::default() };
        let outcome = both.tested.heap().reclaim(Budget::Unlimited);
        assert_eq!(outcome, Outcome { returned: Pages(3), calls: 2, refused: 0, more: false });
        assert_eq!(both.calls(), [(ForeignReason::Asked, None)]);
    }
    // In steps: first the heap, then what is outside.
    let mut both = WithOutside::new(&[], Outside::default());
    both.heap_falls_due(5 << 20);
    let part = ForeignReturned { more: true, ..DONE };
    both.fall_due(&[part, DONE]);
    let (mut of_heap, mut of_both) = (0, Vec::new());
    loop {
        let outcome = both.tested.heap().reclaim(Budget::Until(0));
        let calls = both.calls();
        match calls.len() {
            0 => of_heap += 1,
            _ => of_both.extend(calls),
        }
        assert!(outcome.more || of_both.len() == 2, "what is outside is not at its end");
        if !outcome.more {
            break;
        }
    }
    assert!(of_heap > 3, "only {of_heap} steps");
    assert_eq!(of_both, [(ForeignReason::Asked, Some(0)); 2]);
    both.tested.heap().reclaim_idle(Budget::Unlimited);
    assert_eq!(both.calls(), [(ForeignReason::Idle, None)]);
}

/// What is outside falls due while the VM works. With `auto=off` that is for ticks alone.
#[test]
fn the_slow_path_gives_back_what_is_due_outside() {
    for auto in [1, 0] {
        let mut both = WithOutside::new(&[(Key::Auto, auto)], Outside::default());
        both.tested.os.state().tick_us = 1000;
        both.fall_due(&[DONE]);
        for _ in 0..2000 {
            both.tested.act(&Step::Allocate(100));
        }
        let calls = both.calls();
        assert!(calls.iter().all(|call| call.0 == ForeignReason::Due && call.1.is_some()));
        assert_eq!(calls.len() as i64, auto, "{calls:?}");
        if auto == 0 {
            assert_eq!(both.tick(0).returned, Pages(3));
        }
        // At a free, which asks by itself whether something is due.
        both.fall_due(&[DONE]);
        both.tested.os.state().now_us += SECOND_US;
        both.tested.heap().poll_now();
        assert_eq!(both.calls().len() as i64, auto);
    }
}
