//! What the hot path counts: countdowns, blocks and bytes.

use super::*;

#[test]
fn a_block_freed_twice_is_found_out_as_its_spans_countdown_ends() {
    // Blocks of the first span, which is full: at one of these numbers the second free is also the
    // one that its countdown ends with.
    for size in [64, 512, 4096] {
        let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
        (0..300).for_each(|_| assert!(tested.allocate(size)));
        let blocks: Vec<*mut u8> = tested.live.iter().map(|block| block.at).collect();
        let heap = tested.heap;
        // SAFETY: the last call breaks the contract on purpose, in a child that it stops.
        let free = |index: usize| unsafe { alloc(heap, blocks[index], size, 0) };
        for freed in 1..=7 {
            let words = last_words(|| {
                (0..freed).for_each(|index| assert!(free(index).is_null()));
                free(freed - 1)
            });
            let wrong = format!("is a block of {size} bytes that was freed before");
            assert!(words.contains(&wrong), "{freed} freed: {words}");
        }
        tested.free_all();
    }
}

#[test]
fn more_frees_than_a_countdown_counts_leave_the_counts_right() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..10).for_each(|_| assert!(tested.allocate(64)));
    for _ in 0..3 {
        for _ in 0..50_000 {
            let at = tested.call(ptr::null_mut(), 0, 64);
            assert!(!at.is_null() && tested.call(at, 64, 0).is_null());
        }
        tested.heap().check();
        assert_eq!(tested.heap().snapshot().blocks, 10);
        assert_eq!(tested.heap().snapshot().live, 640);
    }
    tested.free_all();
}

#[test]
fn a_shrink_that_stays_is_counted_for_what_is_left() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    while tested.live.len() < 100 {
        assert!(tested.allocate(5000));
    }
    tested.heap().retire_all();
    tested.run(&Step::Set(Key::LimitHard, 1));
    for size in [4000, 700, 17] {
        (0..50).for_each(|index| tested.resize(index, size, OldSize::Right));
        let asked: usize = tested.live.iter().map(|block| block.size).sum();
        assert_eq!(tested.heap().snapshot().live, asked);
    }
    tested.run(&Step::Set(Key::LimitHard, 0));
    // What moves to a slot of its size now is counted by that.
    (0..100).chain([0]).for_each(|index| tested.resize(index, 10, OldSize::Right));
    assert_eq!(tested.heap().snapshot().live, 1000);
    tested.free_all();
    assert_eq!(tested.heap().snapshot().live, 0);
}

#[test]
fn large_blocks_that_go_leave_the_count_of_small_ones_alone() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..10).for_each(|_| assert!(tested.allocate(60) && tested.allocate(20_001)));
    tested.resize(1, 30_001, OldSize::Right);
    assert_eq!(tested.heap().snapshot().live, 600 + 9 * 20_001 + 30_001);
    while let Some(index) = tested.live.iter().position(|block| block.size > 60) {
        tested.free(index, OldSize::Right);
    }
    assert_eq!(tested.heap().snapshot().live, 600);
    tested.free_all();
}
