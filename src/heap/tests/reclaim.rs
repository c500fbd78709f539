//! What a reclaim returns, in how many calls, whole and in steps.

use super::*;

#[test]
fn everything_freed_goes_back_in_one_call_a_window_and_one_for_its_descriptors() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    for size in [24, 700, 5000, 30_000] {
        (0..200).for_each(|_| assert!(tested.allocate(size)));
    }
    tested.free_all();
    let outcome = tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(outcome.calls, 3, "one range in each of two windows: {outcome:?}");
    let snapshot = tested.heap().snapshot();
    assert_eq!((snapshot.live, snapshot.waste, snapshot.free_resident), (0, 0, 0));
    let descriptors = tested.heap().tables_returned();
    assert!(descriptors.abs_diff(outcome.returned.bytes() / 64) <= 2 * 4096, "{descriptors}");
    let closed = tested.heap().closed_bytes();
    assert_eq!(snapshot.returned + closed, outcome.returned.bytes() + descriptors);
    assert_eq!(tested.heap().reclaim(Budget::Unlimited).calls, 0, "nothing is left");
}

#[test]
fn holes_in_a_living_span_go_back() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..8).for_each(|_| assert!(tested.allocate(8192)));
    (0..7).for_each(|_| tested.free(0, OldSize::Right));
    let outcome = tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(outcome.returned.bytes(), 7 * 8192);
    tested.heap().check();
    tested.check_contents();
    // What comes back into the span counts as resident again.
    (0..7).for_each(|_| assert!(tested.allocate(8192)));
    tested.heap().check();
    tested.free_all();
}

#[test]
fn a_budget_stops_a_pass_and_the_next_goes_on() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    tested.act(&Step::Set(Key::Auto, 0));
    (0..8).for_each(|_| assert!(tested.allocate(4 << 20)));
    tested.free_all();
    os.state().tick_us = 10;
    let mut calls = 0;
    loop {
        let outcome = tested.heap().reclaim(Budget::Until(0));
        assert!(outcome.returned.bytes() <= 1 << 20, "a step is bounded: {outcome:?}");
        calls += 1;
        if !outcome.more {
            break;
        }
    }
    assert!((32..40).contains(&calls), "{calls} steps for 32 MiB");
    assert_eq!(os.state().longest_purge, 1 << 20);
    assert_eq!(tested.heap().snapshot().free_resident, 0);
}
