//! Memory limits: what goes back before the heap grows, what is served when it may not, and what is
//! not tried again and again.

use super::breathing::{SECOND_US, tested};
use super::*;
use crate::heap::pages::refaults::PurgeReason;
use crate::heap::slots::class::class_of;
use crate::units::{PAGE, PageIndex, Pages};

impl Tested {
    fn fill(&mut self, size: usize) -> usize {
        let before = self.live.len();
        while self.allocate(size) {}
        self.live.len() - before
    }

    /// Frees the blocks from an index on that a rule names.
    fn free_those(&mut self, from: usize, goes: impl Fn(usize) -> bool) -> usize {
        let before = self.live.len();
        for index in (from..before).rev().filter(|index| goes(*index)) {
            self.free(index, OldSize::Right);
        }
        before - self.live.len()
    }

    fn resident(&mut self) -> usize {
        self.heap().resident()
    }

    fn steps(&mut self) -> u64 {
        self.heap().hooks.step_latency.count
    }

    fn returned_at_limit(&mut self) -> u64 {
        self.heap().runs.refaults.returned[PurgeReason::Limit as usize - 1]
    }

    /// Spans of blocks of 3000 bytes, with holes of `bytes` in all, and nothing dirty.
    fn holes(&mut self, bytes: usize) {
        let count = bytes / 3072 * 4 / 3;
        let first = self.live.len();
        (0..count).for_each(|_| assert!(self.allocate(3000)));
        self.heap().reclaim(Budget::Unlimited);
        self.free_those(first, |index| index % 4 != 0);
        assert_eq!(self.heap().runs.dirty.0, 0);
    }
}

#[test]
fn empty_spans_make_room_when_no_other_pages_are_left() {
    const LIMITS: [(Key, i64); 5] = [
        (Key::LimitSoft, 0),
        (Key::LimitSoft, 1 << 20),
        (Key::LimitSoft, 3 << 20),
        (Key::LimitSoft, 3800 << 10),
        (Key::LimitHard, 3800 << 10),
    ];
    for (limit, bytes) in LIMITS {
        for size in [1_500_000, 2_500_000, 3_000_000] {
            let mut tested = Tested::new(FakeOs::new(4096), 4 << 20);
            tested.act(&Step::Set(limit, bytes));
            // Each class leaves the span that it takes slots from and a spare, scattered over the
            // heap.
            for round in 0..4096 {
                tested.allocate(1 + round * 37 % 4000);
            }
            tested.free_all();
            assert!(tested.allocate(size), "{size} bytes with {limit:?} {bytes}");
            tested.heap().check();
        }
    }
}

#[test]
fn above_a_soft_limit_holes_go_back_until_growth_fits() {
    for step_us in [1, 250] {
        let mut tested = tested(&[(Key::StepUs, step_us), (Key::DecayMs, 3_600_000)]);
        tested.os.state().tick_us = 100;
        tested.holes(24 << 20);
        let limit = tested.resident() + (1 << 20);
        tested.act(&Step::Set(Key::LimitSoft, limit as i64));
        // The second goes on where the first stopped.
        for growth in [8 << 20, 6 << 20] {
            assert!(tested.allocate(growth));
            assert!(tested.resident() <= limit, "{} above the limit", tested.resident() - limit);
        }
        assert!(tested.free_resident() > 6 << 20, "no more went back than was wanted");
        tested.heap().check();
        tested.check_contents();
    }
}

#[test]
fn room_is_made_for_each_growth_beyond_a_soft_limit() {
    let mut tested = tested(&[(Key::Auto, 0)]);
    tested.os.state().tick_us = 100;
    tested.holes(16 << 20);
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitSoft, limit as i64));
    for round in 0..4 {
        assert!(tested.allocate(2 << 20));
        let above = tested.resident().saturating_sub(limit);
        assert_eq!(above, 0, "growth {round}, though holes were left");
    }
}

/// A heap at its soft limit, where a search stopped halfway down, and behind it, in the upper
/// quarter, became holes of a page each. Returns how many.
fn passed_by_a_search() -> (Tested, usize) {
    let mut tested = tested(&[(Key::Auto, 0)]);
    tested.os.state().tick_us = 100;
    tested.holes(16 << 20);
    let mut high: Vec<usize> = tested.live.iter().map(|block| block.at.addr()).collect();
    high.sort_unstable();
    let high = high.split_off(high.len() / 4 * 3);
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitSoft, limit as i64));
    assert!(tested.allocate(6 << 20));
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitSoft, limit as i64));
    for at in high.iter().step_by(2) {
        let index = tested.live.iter().position(|block| block.at.addr() == *at);
        tested.free(index.expect("it lives"), OldSize::Right);
    }
    (tested, high.len() / 2)
}

#[test]
fn holes_that_a_search_has_passed_are_found_before_the_heap_grows() {
    let (mut twin, passed) = passed_by_a_search();
    let idle = twin.heap().reclaim(Budget::Unlimited).returned.0 as usize;
    assert!(passed > 200 && idle > 2 * passed);
    let (mut tested, _) = passed_by_a_search();
    let before = tested.resident();
    assert!(tested.allocate((idle - passed / 2) * PAGE));
    assert!(tested.resident() <= before, "it grew by {}", tested.resident() - before);
}

#[test]
fn dirty_pages_go_back_before_spans_are_searched() {
    let mut tested = tested(&[(Key::DecayMs, 3_600_000)]);
    (0..1000).for_each(|_| assert!(tested.allocate(20_000)));
    tested.free_those(0, |index| index % 2 == 0);
    let dirty = tested.heap().runs.dirty;
    // Above them, where a search would come first.
    (0..1000).for_each(|_| assert!(tested.allocate(3000)));
    tested.free_those(500, |index| index % 4 != 0);
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitSoft, limit as i64));
    assert!(tested.allocate(2 << 20));
    assert!(tested.resident() <= limit);
    let heap = tested.heap();
    assert!(heap.runs.dirty < dirty && heap.counts.purged.0 == 0, "{:?}", heap.counts);
}

#[test]
fn a_search_in_vain_is_repeated_after_a_second() {
    let mut tested = tested(&[(Key::LimitSoft, 1 << 20), (Key::DecayMs, 3_600_000)]);
    let mut searches = 0;
    for _ in 0..300 {
        tested.os.state().now_us += SECOND_US / 100;
        let before = tested.steps();
        assert!(tested.allocate(20_000), "it grows nonetheless");
        searches += tested.steps() - before;
    }
    assert!((2..=4).contains(&searches), "{searches} searches in 3 s");
}

#[test]
fn what_was_freed_here_and_there_can_be_taken_again_at_a_hard_limit() {
    for size in [64, 200, 1000, 3000, 8000] {
        let mut tested = tested(&[(Key::LimitHard, 600_000), (Key::Auto, 0)]);
        let filled = tested.fill(size);
        let freed = tested.free_those(0, |index| index % 19 == 0);
        let taken = tested.fill(size);
        assert!(taken >= freed, "{taken} of {freed} blocks of {size} bytes, {filled} in all");
        tested.heap().check();
        tested.check_contents();
        tested.free_all();
    }
}

/// Spans that lack pages come first in the list, and there is no room for a page.
#[test]
fn spans_behind_those_that_lack_pages_are_found() {
    let mut tested = tested(&[(Key::Auto, 0)]);
    (0..3000).for_each(|_| assert!(tested.allocate(3000)));
    tested.free_those(1500, |index| index % 16 != 0);
    let freed = tested.free_those(0, |index| index < 1500 && index % 3 == 0);
    // The lists begin with the first half now; turn them.
    tested.heap().reclaim(Budget::Unlimited);
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitHard, limit as i64));
    let taken = tested.fill(3000);
    assert!(taken >= freed, "{taken} of {freed}");
    assert!(tested.resident() <= limit);
    tested.heap().check();
}

/// The first of the list lack three pages each, those behind them one.
#[test]
fn pages_that_the_heap_may_hold_are_held_for_slots_on_them() {
    let mut tested = tested(&[(Key::Auto, 0)]);
    (0..480).for_each(|_| assert!(tested.allocate(1000)));
    tested.free_those(320, |index| index % 16 >= 12);
    tested.free_those(0, |index| index < 320 && index % 16 >= 4);
    tested.heap().reclaim(Budget::Unlimited);
    let limit = tested.resident() as i64;
    tested.act(&Step::Set(Key::LimitHard, limit));
    assert_eq!(tested.fill(1000), 0);
    for pages in 1..=3 {
        tested.act(&Step::Set(Key::LimitHard, limit + (pages << 12)));
        assert_eq!(tested.fill(1000), 4, "with {pages} pages more");
    }
    tested.heap().check();
    tested.check_contents();
}

#[test]
fn slots_beside_returned_pages_are_served_one_by_one() {
    let mut tested = tested(&[(Key::Auto, 0)]);
    // Four pages to a span of sixteen slots; one block stays on its first page.
    (0..1600).for_each(|_| assert!(tested.allocate(1000)));
    tested.free_those(0, |index| index % 16 != 0);
    tested.heap().reclaim(Budget::Unlimited);
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitHard, limit as i64));
    assert!(tested.fill(1000) >= 290);
    assert_eq!(tested.resident(), limit);
    tested.heap().check();
    tested.check_contents();
    tested.act(&Step::Set(Key::LimitHard, 0));
    assert!((0..1300).all(|_| tested.allocate(1000)));
    tested.free_all();
}

#[test]
fn a_full_heap_is_not_walked_for_each_refusal() {
    let mut tested = tested(&[(Key::Auto, 0)]);
    let class = class_of(1000);
    // Sixteen slots to a span of four pages. Some spans lack pages for all that is free of them.
    (0..800).for_each(|_| assert!(tested.allocate(1000)));
    tested.free_those(400, |index| index % 16 >= 4);
    tested.heap().reclaim(Budget::Unlimited);
    let limit = tested.resident();
    tested.act(&Step::Set(Key::LimitHard, limit as i64));
    tested.fill(1000);
    assert!(tested.heap().slot_scans[class].unreachable > 100);
    // A walk would leave a page there.
    tested.heap().slot_scans[class].next = PageIndex(0);
    (0..100).for_each(|_| assert!(!tested.allocate(1000)));
    assert_eq!(tested.heap().slot_scans[class].next, PageIndex(0));
    tested.free(50, OldSize::Right);
    assert!(tested.allocate(1000) && !tested.allocate(1000));
    assert_ne!(tested.heap().slot_scans[class].next, PageIndex(0));
    // There is room for the pages of a span, and its slots are served.
    tested.act(&Step::Set(Key::LimitHard, limit as i64 + (3 << 12)));
    assert!((0..12).all(|_| tested.allocate(1000)) && !tested.allocate(1000));
}

#[test]
fn an_emergency_in_vain_waits_until_as_much_is_free_as_is_lacking() {
    let mut tested = tested(&[(Key::LimitHard, 4 << 20), (Key::Auto, 0)]);
    tested.os.state().tick_us = 0;
    tested.fill(200);
    assert!(!tested.allocate(100_000));
    let steps = tested.steps();
    assert!(steps > 0, "an emergency in vain is reported");
    // Two blocks of a span, which no page goes back for.
    let mut scattered = (0..tested.live.len()).rev().filter(|index| index % 20 == 0);
    for index in scattered.by_ref().take(400) {
        tested.free(index, OldSize::Right);
        assert!(!tested.allocate(100_000));
    }
    assert_eq!(tested.steps(), steps, "83,000 bytes are less than is wanted");
    scattered.take(200).for_each(|index| tested.free(index, OldSize::Right));
    assert!(!tested.allocate(100_000));
    assert_eq!(tested.steps(), steps + 1);
    tested.os.state().now_us += SECOND_US;
    assert!(!tested.allocate(100_000));
    assert_eq!(tested.steps(), steps + 2, "nor is it believed for ever");
}

/// Though as much was free when there was none to be found.
#[test]
fn what_was_used_since_an_emergency_in_vain_may_be_found() {
    let mut tested = tested(&[(Key::LimitHard, 4 << 20)]);
    tested.os.state().tick_us = 0;
    tested.fill(200);
    tested.free_those(0, |index| index % 20 != 0);
    assert!(!tested.allocate(3_000_000), "a block on each page");
    tested.free_all();
    tested.fill(3000);
    tested.free_those(0, |index| index % 8 != 0);
    assert!(tested.allocate(2_500_000));
    tested.heap().check();
    tested.free_all();
}

/// The pages at the end are there when the block is first tried, and go to make room for the rest.
#[test]
fn room_is_made_again_for_pages_that_went_to_make_room() {
    let mut tested = tested(&[(Key::LimitHard, 4 << 20), (Key::Auto, 0)]);
    // The search stops as soon as what was asked for fits.
    tested.os.state().tick_us = 300;
    (0..900).for_each(|_| assert!(tested.allocate(3000)));
    assert!(tested.allocate(1_000_000));
    tested.free_those(0, |index| index % 8 != 0);
    assert!(tested.heap().runs.dirty >= Pages(1_000_000 / 4096));
    assert!(tested.allocate(3_000_000));
    tested.heap().check();
    tested.free_all();
}

#[test]
fn only_a_changed_limit_makes_room_at_once() {
    let mut tested = tested(&[(Key::Auto, 0)]);
    tested.holes(4 << 20);
    let steps = tested.steps();
    tested.act(&Step::Set(Key::LimitHard, 1 << 20));
    assert_eq!(tested.steps(), steps + 1);
    assert!(tested.returned_at_limit() > 0);
    for (key, value) in [(Key::StepUs, 300), (Key::LimitHard, 1 << 20), (Key::Retain, 5)] {
        tested.act(&Step::Set(key, value));
        assert_eq!(tested.steps(), steps + 1, "{key:?}");
    }
    tested.act(&Step::Set(Key::LimitHard, 1 << 19));
    assert_eq!(tested.steps(), steps + 2);
}

#[test]
fn history_counts_as_soon_as_it_is_on_and_keeps_to_a_hard_limit() {
    let limit = 4 << 20;
    let mut free = tested(&[]);
    let metadata = free.heap().metadata();
    free.act(&Step::Set(Key::History, 1));
    assert_eq!(free.heap().metadata(), metadata + (16 << 10));
    let mut tested = tested(&[(Key::LimitHard, limit), (Key::Auto, 0)]);
    for size in [4096, 64] {
        tested.fill(size);
    }
    let resident = tested.resident();
    assert_eq!(tested.heap().set_option(Key::History, 1), Err(Error::Memory));
    let text = crate::error::last_text();
    assert!(text.starts_with("history: takes 16384 bytes"), "{text}");
    assert_eq!((tested.heap().options.get(Key::History), tested.resident()), (0, resident));
    // What is idle makes room for it.
    tested.free_those(0, |index| index < 20);
    tested.act(&Step::Set(Key::History, 1));
    assert!(tested.returned_at_limit() > 0);
    let resident = tested.resident();
    assert!(resident as i64 <= limit);
    tested.act(&Step::Tick(0, 0));
    assert_eq!(tested.heap().history(9).len(), 1);
    assert!(tested.resident() <= resident, "the first sample costs nothing more");
    // It is there from now on.
    tested.act(&Step::Set(Key::History, 0));
    tested.fill(4096);
    tested.act(&Step::Set(Key::History, 1));
    assert!(tested.resident() as i64 <= limit);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever happened before: what a hard limit refuses, nobody could have served.
    #[test]
    fn at_a_hard_limit_every_slot_is_served(
        page in 0..KERNEL_PAGES.len(),
        limit in 600_000i64..2_000_000,
        sizes in prop::collection::vec(size(), 1..4),
        steps in prop::collection::vec(step(), 50..150),
    ) {
        let mut tested = Tested::new(FakeOs::new(KERNEL_PAGES[page]), 64 << 20);
        tested.os.state().tick_us = 1;
        tested.act(&Step::Set(Key::LimitHard, limit));
        for (at, step) in steps.iter().enumerate() {
            let size = sizes[at % sizes.len()];
            match step {
                Step::Allocate(_) => (0..60).for_each(|_| tested.act(&Step::Allocate(size))),
                Step::Set(Key::LimitHard, _) => {}
                step => tested.act(step),
            }
            if size <= SMALL_MAX && !tested.allocate(size) {
                let slot = tested.heap().has_slot(class_of(size), limit as usize);
                assert!(!slot, "{size} bytes were refused at step {at}");
            }
        }
        tested.heap().check();
        tested.check_contents();
    }
}

/// A block of 1 MiB comes and goes `rate` times in each of some `seconds`; is it thrashing?
fn thrashes(tested: &mut Tested, seconds: u64, rate: u64) -> bool {
    for _ in 0..seconds * rate {
        assert!(tested.allocate(1 << 20));
        tested.free(tested.live.len() - 1, OldSize::Right);
        tested.act(&Step::Tick(1_000_000 / rate, 0));
    }
    tested.heap().is_thrashing()
}

#[test]
fn a_limit_that_is_too_low_makes_a_heap_thrash() {
    for (key, limit) in [(Key::LimitSoft, 4 << 20), (Key::LimitSoft, 0)] {
        let mut tested = tested(&[(key, limit)]);
        (0..5).for_each(|_| assert!(tested.allocate(1 << 20)));
        assert!(!thrashes(&mut tested, 10, 5), "5 MiB a second are not much");
        assert_eq!(thrashes(&mut tested, 5, 50), limit > 0, "limit {limit}");
        assert!(!thrashes(&mut tested, 5, 5));
        thrashes(&mut tested, 5, 50);
        tested.os.state().now_us += 10_000_000;
        assert!(!tested.heap().is_thrashing(), "at rest");
        tested.free_all();
    }
}
