//! A heap that was deleted is reset for the next one, if that is worth it.

use super::*;
use crate::heap::lifecycle::heap_cache::KEPT_PAGES;

#[test]
fn a_reset_heap_is_as_new() {
    for size in [100, 5000, 50_000] {
        let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
        for round in 1..4 {
            (0..round * 40).for_each(|_| assert!(tested.allocate(size)));
            // Some of it is free, and some of that is clean, when the heap is deleted.
            (0..round * 10).for_each(|_| tested.free(0, OldSize::Right));
            tested.heap().reclaim(Budget::Unlimited);
            (0..round * 10).for_each(|_| tested.free(0, OldSize::Right));
            tested.live.clear();
            assert!(tested.heap().reset_state(), "{size} bytes, round {round}");
            tested.heap().check();
            let snapshot = tested.heap().snapshot();
            assert_eq!((snapshot.live, snapshot.blocks, snapshot.spans), (0, 0, 0));
            assert!(snapshot.free_resident <= KEPT_PAGES as usize * 4096);
            let kernel = tested.heap().kernel_resident().expect("mincore") as usize;
            assert!(kernel <= snapshot.resident(), "{kernel} of {snapshot:?}");
        }
        (0..100).for_each(|_| assert!(tested.allocate(size)));
        tested.heap().check();
        tested.free_all();
    }
}

#[test]
fn a_heap_that_the_kernel_will_not_purge_or_that_grew_long_is_not_kept() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..40).for_each(|_| assert!(tested.allocate(50_000)));
    tested.os.state().failures = vec![true].into();
    tested.live.clear();
    assert!(!tested.heap().reset_state());
    let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
    assert!(tested.allocate(10 << 20));
    tested.live.clear();
    assert!(!tested.heap().reset_state());
}
