//! Heaps whose every block is checked: to the layers below they are heaps like any other, whatever
//! the kernel refuses.

use super::*;

/// A heap with its blocks checked: each (1), or a few (2).
fn checked(os: &FakeOs, how: i64) -> Tested {
    let tested = Tested::new(os.clone(), 256 << 20);
    // SAFETY: the heap is the test's alone, and has no blocks.
    unsafe {
        (*tested.heap).options.put(Key::Checked, how);
        (*tested.heap).check_as_asked();
    }
    tested
}

/// What blocks there are, by the statistics and by the model.
fn compare(tested: &mut Tested) {
    let live: usize = tested.live.iter().map(|block| block.size).sum();
    let count = tested.live.len() as u64;
    let snapshot = tested.heap().snapshot();
    assert_eq!((snapshot.live, snapshot.blocks), (live, count));
    tested.heap().check();
}

/// Numbers without a pattern.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn size(&mut self) -> usize {
        match self.below(16) {
            0 => 1 + self.below(100_000),
            1..4 => 1 + self.below(12_000),
            _ => 1 + self.below(300),
        }
    }
}

fn random_steps(tested: &mut Tested, rng: &mut Rng, steps: usize) {
    for step in 0..steps {
        // Time passes, so that more than one block is sampled.
        tested.os.state().now_us += 1000;
        let count = tested.live.len();
        match rng.below(8) {
            0..4 if count < 400 => drop(tested.allocate(rng.size())),
            4..6 if count > 0 => {
                let (index, size) = (rng.below(count), rng.size());
                tested.resize(index, size, OldSize::Right);
            }
            _ if count > 0 => tested.free(rng.below(count), OldSize::Right),
            _ => {}
        }
        if step % 500 == 0 {
            tested.act(&Step::ReclaimAll);
            tested.heap().check();
        }
    }
}

#[test]
fn every_invariant_holds_below_checked_blocks() {
    for page_size in KERNEL_PAGES {
        let os = FakeOs::new(page_size);
        let mut tested = checked(&os, 1);
        let mut rng = Rng(page_size as u64);
        for _ in 0..4 {
            random_steps(&mut tested, &mut rng, 3000);
            compare(&mut tested);
        }
        tested.free_all();
    }
}

#[test]
fn a_heap_that_samples_keeps_its_invariants() {
    let os = FakeOs::new(4096);
    let mut tested = checked(&os, 2);
    let mut rng = Rng(7);
    let mut sampled = 0;
    for _ in 0..60 {
        random_steps(&mut tested, &mut rng, 500);
        compare(&mut tested);
        sampled += tested.heap().debug_stats().guarded;
    }
    assert!(sampled > 0, "no block was sampled");
    // A slot of a page each, and a page beside each.
    assert_eq!(tested.heap().guarded_reserved(), 257 * 4096);
    tested.free_all();
    assert_eq!(tested.heap().debug_stats().guarded, 0);
}

#[test]
fn checked_heaps_go_on_when_the_kernel_refuses() {
    let mut rng = Rng(99);
    for refused in 0..60 {
        let os = FakeOs::new(4096);
        let mut tested = checked(&os, 1);
        random_steps(&mut tested, &mut rng, 50 * refused);
        let calls = (0..400).map(|_| rng.below(3) == 0).collect();
        os.state().failures = calls;
        random_steps(&mut tested, &mut rng, 600);
        os.state().failures.clear();
        compare(&mut tested);
        // Larger ones than a slot has room for, with what lies around them.
        let large = tested.live.iter().filter(|block| block.size > 8168).count() as u64;
        let heap = tested.heap();
        assert_eq!(heap.counts.large_blocks - heap.debug_stats().held_large, large);
        tested.free_all();
    }
}

#[test]
fn what_is_held_back_goes_before_an_allocation_is_refused() {
    let os = FakeOs::new(4096);
    let mut tested = checked(&os, 1);
    tested.act(&Step::Set(Key::LimitHard, 8 << 20));
    let fill = |tested: &mut Tested, size: usize| {
        while tested.allocate(size) {}
        let count = tested.live.len();
        assert!(tested.heap().resident() <= 8 << 20);
        tested.free_all();
        count
    };
    for size in [3000, 20_000] {
        let first = fill(&mut tested, size);
        let again = fill(&mut tested, size);
        assert!(first > 50 && again + again / 10 >= first, "{size}: {first}, then {again}");
    }
}

#[test]
fn what_is_asked_for_and_freed_agrees_when_blocks_shrink_where_they_are() {
    let os = FakeOs::new(4096);
    let mut tested = checked(&os, 1);
    tested.act(&Step::Set(Key::LimitHard, 4 << 20));
    while tested.allocate(4000) {}
    let long = tested.live.len();
    while tested.allocate(40) {}
    for index in 0..long {
        tested.resize(index, 40, OldSize::Right);
    }
    tested.free_all();
    // All that is held back goes.
    assert!(!tested.allocate(8 << 20));
    assert_eq!(tested.heap().small_requested(), 0);
}

#[test]
fn a_thread_that_had_to_wait_samples_again_soon() {
    let mut tested = checked(&FakeOs::new(4096), 1);
    let fill = |tested: &mut Tested| (0..5000).for_each(|_| assert!(tested.allocate(40)));
    // Each look at the clock comes an hour after the one before.
    tested.os.state().tick_us = 3_600_000_000;
    fill(&mut tested);
    tested.os.state().tick_us = 0;
    let sampled = tested.heap().debug_stats().guarded;
    tested.os.state().now_us += 50_000;
    fill(&mut tested);
    assert!(sampled > 0 && tested.heap().debug_stats().guarded > sampled);
}
