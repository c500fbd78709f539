//! Random heaps, surveyed, reclaimed and spoilt.

mod known;
mod mappings;
mod model;
mod release;
mod spoilt;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::error::last_text;
use crate::os::Kernel;
use model::{Heap, Random, Shape};

const PAGES: [usize; 2] = [4096, 16384];

/// The contents, and which pages may be lost from them.
struct Before {
    contents: Vec<u8>,
    idle: BTreeSet<usize>,
}

impl Before {
    fn new(heap: &Heap) -> Before {
        let idle = heap.all_idle_pages().into_iter().collect();
        Before { contents: heap.contents().to_vec(), idle }
    }

    /// Checks that nothing was lost but idle pages; returns which of those are resident.
    fn check(&self, heap: &Heap) -> BTreeSet<usize> {
        // Those that are read become resident.
        let resident = self.idle.iter().copied().filter(|at| heap.is_resident(*at)).collect();
        let page = heap.os.page_size();
        let pages = self.contents.chunks(page).zip(heap.contents().chunks(page));
        for (at, (before, after)) in heap.area.clone().step_by(page).zip(pages) {
            assert!(before == after || self.idle.contains(&at), "page {at:#x} has changed");
        }
        resident
    }
}

fn reclaim_all(heap: &Heap, progress: &mut Progress) -> Reclaimed {
    let reclaimed = reclaim(&heap.os, heap.state(), progress, None);
    reclaimed.unwrap_or_else(|error| panic!("{error:?}: {}", last_text()))
}

/// Reclaims with no time for more than one step, or two without a clock; returns in how many calls.
fn reclaim_in_steps(heap: &Heap) -> usize {
    let (before, expected) = (Before::new(heap), heap.survey());
    heap.os.state().longest_purge = 0;
    let mut progress = Progress::default();
    let (mut returned, mut calls) = (0, 0);
    loop {
        let deadline = heap.os.now_us() + 1;
        let done = reclaim(&heap.os, heap.state(), &mut progress, Some(deadline));
        let done = done.expect("a heap");
        assert!(done.calls <= 1 || heap.os.state().tick_us == 0, "{done:?} in one step");
        assert!(heap.os.state().longest_purge <= 1 << 20);
        returned += done.returned;
        calls += 1;
        if !done.more {
            break;
        }
        assert!(calls < 10 + heap.chunks.len(), "no end");
    }
    assert_eq!(returned, expected.returnable);
    // The next sweep begins at the beginning.
    heap.touch_idle_pages();
    let all = expected.returnable + expected.returned;
    assert_eq!(reclaim_all(heap, &mut progress).returned, all);
    assert!(before.check(heap).is_empty());
    calls
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn a_survey_finds_what_is_there(seed: u64, page in 0usize..2, segments in 1usize..5) {
        let heap = Heap::new(seed, PAGES[page], Shape::Usual(segments));
        let expected = heap.survey();
        let found = survey(&heap.os, heap.state());
        prop_assert_eq!(found, Ok(expected), "{}", last_text());
    }

    #[test]
    fn reclaim_returns_idle_pages_and_nothing_else(seed: u64, page in 0usize..2) {
        let heap = Heap::new(seed, PAGES[page], Shape::Usual(3));
        let (before, expected) = (Before::new(&heap), heap.survey());
        let mut progress = Progress::default();
        let reclaimed = reclaim_all(&heap, &mut progress);
        prop_assert_eq!(reclaimed.returned, expected.returnable);
        prop_assert!(!reclaimed.more && !reclaimed.refused);
        for progress in [&mut progress, &mut Progress::default()] {
            prop_assert_eq!(reclaim_all(&heap, progress), Reclaimed::default());
        }
        let after = survey(&heap.os, heap.state()).expect("a heap");
        prop_assert_eq!(after.returned, expected.returnable + expected.returned);
        prop_assert_eq!((after.live, after.free), (expected.live, expected.free));
        // What is used and free again goes back again.
        heap.touch_idle_pages();
        prop_assert_eq!(reclaim_all(&heap, &mut progress).returned, after.returned);
        prop_assert!(before.check(&heap).is_empty());
    }

    #[test]
    fn a_budget_ends_each_call_and_not_the_sweep(seed: u64, tick_us in 0u64..100) {
        let heap = Heap::new(seed, 4096, Shape::Usual(4));
        heap.os.state().tick_us = tick_us;
        let calls = reclaim_in_steps(&heap);
        prop_assert!(tick_us > 0 || calls <= 2);
    }

    #[test]
    fn a_heap_that_has_changed_is_gone_on_with(seed: u64, steps in 1usize..6) {
        let mut random = Random(seed);
        let mut heap = Heap::new(seed, 4096, Shape::Usual(3));
        heap.os.state().tick_us = 1;
        let mut progress = Progress::default();
        for _ in 0..steps {
            let before = Before::new(&heap);
            let deadline = Some(heap.os.now_us());
            reclaim(&heap.os, heap.state(), &mut progress, deadline).expect("a heap");
            before.check(&heap);
            heap = heap.again(random.next());
        }
        let before = Before::new(&heap);
        // Without a deadline the sweep is whole, wherever the last one stopped.
        let done = reclaim(&heap.os, heap.state(), &mut progress, None).expect("a heap");
        prop_assert!(!done.more);
        prop_assert!(before.check(&heap).is_empty());
    }

    #[test]
    fn whatever_is_refused_nothing_else_is_lost(
        seed: u64,
        failures in prop::collection::vec(prop::bool::weighted(0.2), 0..100),
    ) {
        let heap = Heap::new(seed, 4096, Shape::Usual(3));
        let before = Before::new(&heap);
        heap.os.state().failures.extend(failures);
        let mut progress = Progress::default();
        let result = reclaim(&heap.os, heap.state(), &mut progress, None);
        let _ = survey(&heap.os, heap.state());
        heap.os.state().failures.clear();
        let left = before.check(&heap);
        match result {
            Ok(done) => prop_assert_eq!(done.refused, !left.is_empty()),
            Err(error) => prop_assert_eq!(error, Error::Memory),
        }
        // That it was recognised is not forgotten, nor where the sweep has to go on.
        reclaim_all(&heap, &mut progress);
        reclaim_all(&heap, &mut progress);
        prop_assert!(before.check(&heap).is_empty());
    }
}

#[test]
fn a_large_top_goes_back_in_steps_and_at_once() {
    for seed in 0..3 {
        let mut heap = Heap::new(seed, 4096, Shape::LargeTop);
        heap.os.state().tick_us = 1;
        assert!(reclaim_in_steps(&heap) > 1);
        heap = heap.again(seed + 100);
        let expected = heap.survey().returnable;
        assert_eq!(reclaim_all(&heap, &mut Progress::default()).returned, expected);
        heap.touch_idle_pages();
        assert!(reclaim_in_steps(&heap) > 2);
    }
}

#[test]
fn a_long_ring_goes_back_in_steps_and_at_once() {
    let mut heap = Heap::new(1, 4096, Shape::LongRing);
    heap.os.state().tick_us = 1;
    assert!(reclaim_in_steps(&heap) > 5);
    heap = heap.again(2);
    let expected = heap.survey().returnable;
    assert_eq!(reclaim_all(&heap, &mut Progress::default()).returned, expected);
}

#[test]
fn a_range_that_is_refused_is_passed_over() {
    for seed in 0..20 {
        let mut heap = Heap::new(seed, 4096, Shape::Usual(2));
        let has_pages = |chunk: &&model::Chunk| !heap.idle_pages(chunk).is_empty();
        if heap.free_chunks().iter().filter(has_pages).count() < 3 {
            continue;
        }
        heap.touch_idle_pages();
        heap.os.state().failures.extend([false; 1000]);
        reclaim_all(&heap, &mut Progress::default());
        // All ranges go back in one call, the last of all.
        let asked = 1000 - heap.os.state().failures.len();
        heap.os.state().failures.clear();
        heap = heap.again(seed);
        heap.touch_idle_pages();
        let before = Before::new(&heap);
        heap.os.state().failures.extend((0..asked).map(|call| call + 3 == asked));
        assert!(reclaim_all(&heap, &mut Progress::default()).refused);
        let left: Vec<usize> = before.check(&heap).into_iter().collect();
        let adjoin = left.windows(2).all(|pair| pair[0] + 4096 == pair[1]);
        assert!(!left.is_empty() && adjoin, "{seed}: {left:x?}");
    }
}

#[test]
fn a_kernel_that_does_not_tell_residency_is_told_of() {
    let heap = Heap::new(1, 4096, Shape::Usual(2));
    heap.os.state().failures.extend([false, false, false, false, false, false, true]);
    assert_eq!(survey(&heap.os, heap.state()), Err(Error::System));
    heap.os.state().failures.clear();
}

#[test]
fn the_size_of_a_block_is_known_from_its_chunk() {
    let mut chunk = [0usize; 4];
    let of = |chunk: &[usize; 4]| {
        // SAFETY: the two words in front of it are there.
        unsafe { block_size(chunk[2..].as_ptr().cast()) }
    };
    chunk[1] = 48 | layout::IN_USE | PREVIOUS_IN_USE;
    chunk[0] = 0xfff;
    assert_eq!(of(&chunk), (40, 48));
    chunk[1] = 48 | layout::IN_USE;
    chunk[0] = 64;
    assert_eq!(of(&chunk), (40, 48));
    chunk[1] = 0x21000 | layout::IN_USE;
    chunk[0] = MMAPPED;
    assert_eq!(of(&chunk), (0x21000 - 16, 0));
}

#[test]
fn errno_is_left_alone() {
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = 77 };
    assert_eq!(survey(&Kernel, std::ptr::without_provenance(4112)), Err(Error::Unknown));
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(77));
}
