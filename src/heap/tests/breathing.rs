//! Memory that goes back by itself, on a clock that the tests turn: on the slow path, at ticks, at
//! the limits, and what becomes of it when the kernel or the clock will not play along.

use super::*;
use crate::heap::pages::refaults::total;
use crate::heap::slots::class::{CLASSES, class_of};
use crate::units::PAGE;

pub(super) const SECOND_US: u64 = 1_000_000;

pub(super) fn tested(settings: &[(Key, i64)]) -> Tested {
    let mut tested = Tested::new(FakeOs::new(4096), 256 << 20);
    tested.os.state().tick_us = 1;
    for (key, value) in settings {
        tested.heap().set_option(*key, *value).expect("in range");
    }
    tested
}

impl Tested {
    pub(super) fn free_resident(&mut self) -> usize {
        self.heap().snapshot().free_resident
    }

    /// Blocks of 1500 bytes and of many pages, `bytes` of each, all freed but one in a hundred.
    pub(super) fn wave(&mut self, bytes: usize) {
        let first = self.live.len();
        (0..bytes / 1500).for_each(|_| self.act(&Step::Allocate(1500)));
        (0..bytes / 100_000).for_each(|_| self.act(&Step::Allocate(100_000)));
        for index in (first..self.live.len()).rev().filter(|index| index % 100 != 0) {
            self.free(index, OldSize::Right);
        }
    }

    /// Waits and ticks as the heap asks, for at most so long. Returns when it was asked for the
    /// last tick, and how many there were.
    pub(super) fn idle(&mut self, lasting_us: u64) -> (u64, usize) {
        let start_us = self.os.state().now_us;
        let (mut last_us, mut ticks) = (0, 0);
        while let Some(pause_us) = self.heap().next_tick_us() {
            let now_us = self.os.state().now_us - start_us;
            if now_us + pause_us > lasting_us || ticks > 10_000 {
                break;
            }
            self.act(&Step::Tick(pause_us, 500));
            (last_us, ticks) = (now_us + pause_us, ticks + 1);
        }
        self.heap().check();
        (last_us, ticks)
    }
}

#[test]
fn an_idle_heap_comes_down_in_two_seconds_and_rests() {
    for page in KERNEL_PAGES {
        let mut tested = Tested::new(FakeOs::new(page), 256 << 20);
        tested.os.state().tick_us = 1;
        tested.wave(4 << 20);
        assert!(tested.free_resident() > 4 << 20);
        let (last_us, ticks) = tested.idle(60 * SECOND_US);
        assert!((SECOND_US..2 * SECOND_US).contains(&last_us), "settled after {last_us} us");
        assert!(ticks < 100, "{ticks} ticks");
        assert_eq!(tested.heap().next_tick_us(), None, "it rests");
        let left = tested.free_resident();
        tested.heap().reclaim(Budget::Unlimited);
        assert_eq!(tested.free_resident(), left, "nothing was left to reclaim");
        assert_eq!(tested.heap().next_tick_us(), None, "it still rests");
        tested.check_contents();
    }
}

#[test]
fn nothing_goes_back_before_its_time_and_everything_without_one() {
    let mut tested = tested(&[]);
    tested.wave(4 << 20);
    tested.act(&Step::Tick(0, 0));
    tested.act(&Step::Tick(SECOND_US * 9 / 10, 0));
    assert_eq!(total(&tested.heap().runs.refaults.returned), 0);
    tested.act(&Step::Set(Key::DecayMs, 0));
    tested.act(&Step::Tick(1, 0));
    assert_eq!(tested.heap().runs.dirty.0, 0);
}

#[test]
fn the_slow_path_returns_memory_while_the_heap_is_busy() {
    for (auto, returns) in [(1, true), (0, false)] {
        let mut tested = tested(&[(Key::Auto, auto)]);
        tested.wave(8 << 20);
        let before = tested.free_resident();
        for _ in 0..100 {
            tested.os.state().now_us += SECOND_US / 10;
            (0..4).for_each(|_| tested.act(&Step::Allocate(200_000)));
            (0..4).for_each(|_| tested.free(tested.live.len() - 1, OldSize::Right));
        }
        let after = tested.free_resident();
        assert_eq!(after < before / 2, returns, "auto {auto}: {before}, then {after}");
        tested.heap().check();
        tested.check_contents();
    }
}

#[test]
fn the_smallest_budget_makes_progress_with_every_call() {
    let mut tested = tested(&[]);
    tested.wave(4 << 20);
    tested.act(&Step::Tick(0, 1));
    tested.os.state().now_us += 3 * SECOND_US;
    // A look alone takes longer than the budget.
    tested.os.state().tick_us = 5;
    let mut calls = 0;
    while tested.heap().next_tick_us() == Some(0) || calls == 0 {
        tested.act(&Step::Tick(0, 1));
        calls += 1;
        assert!(calls < 200, "{calls} ticks: it makes no progress");
    }
    let left = tested.free_resident();
    tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(tested.free_resident(), left);
}

/// An event loop that is woken by other things in between, and ticks when it is time.
#[test]
fn to_ask_when_to_tick_does_not_put_the_tick_off() {
    let mut tested = tested(&[]);
    tested.wave(4 << 20);
    let mut ticks = 0;
    for _ in 0..400 {
        tested.os.state().now_us += 10_000;
        if tested.heap().next_tick_us() == Some(0) {
            tested.act(&Step::Tick(0, 500));
            ticks += 1;
        }
    }
    assert!(ticks > 5, "{ticks} ticks in four seconds");
    assert_eq!(tested.heap().next_tick_us(), None, "it rests");
}

#[test]
fn holes_that_appear_at_rest_are_news() {
    let mut tested = tested(&[]);
    (0..800).for_each(|_| assert!(tested.allocate(5000)));
    tested.idle(60 * SECOND_US);
    assert_eq!(tested.heap().next_tick_us(), None);
    (0..800).rev().filter(|at| at % 6 != 0).for_each(|at| tested.free(at, OldSize::Right));
    assert!(tested.heap().next_tick_us().is_some());
    tested.idle(60 * SECOND_US);
    let left = tested.free_resident();
    tested.heap().reclaim(Budget::Unlimited);
    assert!(left - tested.free_resident() < 1 << 20, "{left}");
}

#[test]
fn a_changed_option_asks_for_a_tick() {
    for (key, value) in
        [(Key::LimitSoft, 1 << 20), (Key::Retain, 0), (Key::RetainMax, 0), (Key::DecayMs, 0)]
    {
        let mut tested = tested(&[(Key::Retain, 1 << 20)]);
        tested.wave(4 << 20);
        tested.idle(60 * SECOND_US);
        assert_eq!(tested.heap().next_tick_us(), None);
        tested.act(&Step::Set(key, value));
        assert_eq!(tested.heap().next_tick_us(), Some(0), "{key:?}");
    }
}

#[test]
fn a_refused_request_commits_nothing() {
    let mut tested = tested(&[(Key::LimitHard, 4 << 20)]);
    assert!(tested.allocate(100_000));
    let committed = tested.heap().committed_bytes();
    assert!(!tested.allocate(100 << 20));
    tested.resize(0, 100 << 20, OldSize::Right);
    assert_eq!(tested.heap().committed_bytes(), committed);
    tested.free_all();
}

#[test]
fn blocks_that_move_keep_to_a_hard_limit_whoever_moves_them() {
    let limit = 8 << 20;
    let mut tested = tested(&[(Key::LimitHard, limit), (Key::RemapMin, 8192)]);
    // More blocks move than the heap keeps split mappings for.
    (0..120).for_each(|_| assert!(tested.allocate(20_000)));
    for size in [40_000, 60_000, 80_000, 120_000] {
        (0..120).for_each(|_| tested.resize(0, size, OldSize::Right));
        let resident = tested.heap().resident() as i64;
        assert!(resident <= limit, "{resident} after blocks of {size}");
        tested.heap().check();
    }
    tested.check_contents();
    tested.free_all();
}

#[test]
fn a_refusing_kernel_does_not_slow_a_heap_down_at_its_limit() {
    for key in [Key::LimitSoft, Key::LimitHard] {
        let mut tested = tested(&[]);
        (0..600).for_each(|_| assert!(tested.allocate(12_000)));
        (0..300).rev().for_each(|at| tested.free(2 * at, OldSize::Right));
        tested.os.state().failures = vec![true; 10_000_000].into();
        tested.act(&Step::Set(key, 1 << 20));
        let calls = tested.heap().counts.purge_calls;
        (0..500).for_each(|_| tested.act(&Step::Allocate(20_000)));
        let calls = tested.heap().counts.purge_calls - calls;
        assert!(calls < 10_000, "{calls} calls in vain with {key:?}");
        tested.os.state().failures.clear();
        tested.free_all();
    }
}

#[test]
fn retained_memory_stays_and_no_more() {
    let (retain, retain_max) = (2 << 20, 3 << 20);
    let mut tested = tested(&[(Key::Retain, retain), (Key::RetainMax, retain_max)]);
    tested.wave(8 << 20);
    tested.act(&Step::Tick(1, 0));
    let dirty = tested.heap().runs.dirty.bytes() as i64;
    assert!(dirty <= retain_max, "{dirty} is over the cap at once");
    tested.idle(60 * SECOND_US);
    let dirty = tested.heap().runs.dirty.bytes() as i64;
    assert!((retain - (1 << 20)..=retain).contains(&dirty), "{dirty} stays");
    assert_eq!(tested.heap().next_tick_us(), None);
}

#[test]
fn what_is_used_again_is_counted_by_its_cause_and_within_a_second_premature() {
    for (pause_us, premature) in [(SECOND_US / 2, true), (3 * SECOND_US, false)] {
        for asked in [false, true] {
            let mut tested = tested(&[(Key::Auto, 0)]);
            tested.wave(4 << 20);
            if asked {
                tested.act(&Step::ReclaimAll);
            } else {
                tested.idle(60 * SECOND_US);
            }
            tested.os.state().now_us += pause_us;
            tested.wave(4 << 20);
            let refaults = &tested.heap().runs.refaults;
            let (cause, other) = if asked { (0, 1) } else { (1, 0) };
            assert!(refaults.refaulted[cause] > 1000, "{refaults:?}");
            assert!(refaults.refaulted[cause] <= refaults.returned[cause], "{refaults:?}");
            assert_eq!(refaults.premature[cause] > 0, premature, "{pause_us}: {refaults:?}");
            assert_eq!((refaults.returned[other], refaults.refaulted[other]), (0, 0));
        }
    }
}

#[test]
fn a_kernel_that_refuses_is_left_alone_for_a_while() {
    let mut tested = tested(&[]);
    tested.wave(4 << 20);
    tested.os.state().failures = vec![true; 1_000_000].into();
    let (_, ticks) = tested.idle(300 * SECOND_US);
    assert!(ticks < 200, "{ticks} ticks: it spins");
    assert!(tested.heap().counts.failed_calls > 0);
    tested.os.state().failures.clear();
    tested.check_contents();
    // Something new to return wakes it up, and what was refused goes too.
    tested.wave(4 << 20);
    tested.idle(300 * SECOND_US);
    assert_eq!(tested.heap().runs.dirty.0, 0);
    assert_eq!(tested.heap().next_tick_us(), None);
}

#[test]
fn a_clock_that_jumps_loses_nothing_and_does_not_spin() {
    for jump_us in [0, 1, 1 << 40] {
        let mut tested = tested(&[]);
        tested.os.state().now_us = 1 << 41;
        tested.wave(4 << 20);
        tested.act(&Step::Tick(0, 500));
        tested.os.state().now_us = jump_us;
        let (_, ticks) = tested.idle(60 * SECOND_US);
        assert!(ticks < 200, "{ticks} ticks after a jump to {jump_us}");
        assert_eq!(tested.heap().runs.dirty.0, 0, "after a jump to {jump_us}");
        tested.wave(1 << 20);
        tested.act(&Step::Tick(1 << 50, 500));
        tested.idle(60 * SECOND_US);
        assert_eq!(tested.heap().next_tick_us(), None);
        tested.check_contents();
    }
}

#[test]
fn a_hard_limit_refuses_what_does_not_fit_and_the_heap_goes_on() {
    let limit = 4 << 20;
    let mut tested = tested(&[(Key::LimitHard, limit)]);
    for size in [100, 5000, 100_000] {
        while tested.allocate(size) {}
        let resident = tested.heap().resident() as i64;
        assert!(resident <= limit && resident > limit * 9 / 10, "{size}: {resident}");
        tested.heap().check();
        // Shrinks and frees need no room; what they leave serves blocks of other sizes.
        (0..tested.live.len()).for_each(|index| tested.resize(index, 50, OldSize::Right));
        tested.check_contents();
        tested.free_all();
    }
    tested.act(&Step::Set(Key::LimitHard, 0));
    assert!(tested.allocate(8 << 20));
    tested.free_all();
}

#[test]
fn an_emergency_is_not_repeated_when_it_found_nothing() {
    let mut tested = tested(&[(Key::LimitHard, 4 << 20)]);
    while tested.allocate(5000) {}
    while tested.allocate(16) {}
    let passes = |tested: &mut Tested| tested.os.state().now_us;
    let before = passes(&mut tested);
    (0..1000).for_each(|_| assert!(!tested.allocate(5000)));
    let looks = passes(&mut tested) - before;
    assert!(looks < 1500, "{looks} looks at the clock: each refusal walks the heap");
    let last = tested.live.len() - 1;
    (0..400).for_each(|back| tested.free(last - back, OldSize::Right));
    (0..3).for_each(|_| tested.free(0, OldSize::Right));
    assert!(tested.allocate(5000), "but it is when something was freed");
    tested.free_all();
}

#[test]
fn above_a_soft_limit_the_heap_returns_before_it_grows_and_grows() {
    let limit = 6 << 20;
    let mut tested = tested(&[(Key::LimitSoft, limit), (Key::DecayMs, 3_600_000)]);
    // Idle memory of one kind makes room for another.
    (0..400).for_each(|_| tested.act(&Step::Allocate(12_000)));
    (0..200).rev().for_each(|index| tested.free(2 * index, OldSize::Right));
    for _ in 0..30 {
        assert!(tested.allocate(100_000));
        let resident = tested.heap().resident() as i64;
        assert!(resident <= limit, "{resident} while all that lives would fit");
    }
    let refaults = &tested.heap().runs.refaults;
    assert!(refaults.returned[2] > 0 && refaults.returned[1] == 0, "{refaults:?}");
    (0..40).for_each(|_| assert!(tested.allocate(100_000), "it grows nonetheless"));
    assert_eq!(tested.heap().pressure(), 100);
    tested.free_all();
    assert_eq!(tested.heap().pressure(), 0);
}

#[test]
fn the_limit_can_come_from_the_cgroup() {
    let mut tested = tested(&[]);
    let file = |tested: &Tested, path: &std::ffi::CStr, text: &str| {
        tested.os.state().files.insert(path.into(), text.into());
    };
    file(&tested, c"/proc/self/cgroup", "0::/\n");
    file(&tested, c"/sys/fs/cgroup/memory.max", "20000000\n");
    file(&tested, c"/sys/fs/cgroup/memory.current", "8000000\n");
    tested.act(&Step::Set(Key::LimitSoft, crate::options::CGROUP));
    let resident = tested.heap().resident();
    assert_eq!(tested.heap().limits().soft, resident + 10_000_000);
    file(&tested, c"/sys/fs/cgroup/memory.current", "20000000\n");
    tested.act(&Step::Tick(SECOND_US / 2, 0));
    assert_eq!(tested.heap().limits().soft, resident + 10_000_000, "it is not read all the time");
    tested.act(&Step::Tick(SECOND_US, 0));
    assert!(tested.heap().limits().soft < resident);
    assert_eq!(tested.heap().pressure(), 100);
}

#[test]
fn history_is_a_sample_a_second_of_activity() {
    let mut tested = tested(&[(Key::History, 1)]);
    for second in 1..=5 {
        assert!(tested.allocate(1 << 20));
        (0..10).for_each(|_| tested.act(&Step::Tick(SECOND_US / 10, 0)));
        let samples: Vec<_> = tested.heap().history(100).collect();
        assert!(samples.len().abs_diff(second) <= 1, "{} after {second} s", samples.len());
        assert!(samples.is_sorted_by_key(|sample| (sample.now_us, sample.live)));
    }
    assert_eq!(tested.heap().history(2).len(), 2);
    tested.heap().check();
    tested.free_all();
}

#[test]
fn new_blocks_drain_sparse_spans_when_the_heap_should_shrink() {
    let slots = CLASSES[class_of(100)].slots as usize;
    let pages_left = |packing| {
        let mut tested = tested(&[(Key::Auto, 0)]);
        (0..60 * slots).for_each(|_| assert!(tested.allocate(100)));
        // Every other span keeps a few blocks, and those between keep most.
        let share = |span: usize| if span.is_multiple_of(2) { slots / 13 } else { slots * 3 / 4 };
        let keeps = |at: usize| at % slots < share(at / slots);
        let old: Vec<u64> = tested.live.iter().map(|block| block.seed).collect();
        let kept = |tested: &mut Tested, keeps: &dyn Fn(usize) -> bool| {
            for (at, block) in old.iter().enumerate() {
                let live = tested.live.iter().position(|live| live.seed == *block);
                if let (false, Some(index)) = (keeps(at), live) {
                    tested.free(index, OldSize::Right);
                }
            }
        };
        kept(&mut tested, &keeps);
        tested.heap().packing = packing;
        (0..5 * slots / 2).for_each(|_| assert!(tested.allocate(100)));
        // Then the last old ones of the sparse spans go.
        kept(&mut tested, &|at| at / slots % 2 == 1);
        tested.heap().check();
        tested.heap().reclaim(Budget::Unlimited);
        tested.heap().resident() / PAGE
    };
    let (packed, fast) = (pages_left(true), pages_left(false));
    assert!(packed < fast, "{packed} pages packed, {fast} in the fast order");
}
