//! What the kernel refuses: each call in turn, memory, address space, moves, and returns.

use super::breathing::{SECOND_US, tested};
use super::*;
use crate::reclaim::Reclaim;

/// A program that makes every kind of system call: it grows, moves, heals and reclaims, twice.
fn eventful(tested: &mut Tested) {
    for _ in 0..2 {
        for size in [40, 700, 5000, 20_000, 70_000] {
            (0..20).for_each(|_| tested.act(&Step::Allocate(size)));
        }
        (0..30).for_each(|block| tested.act(&Step::Resize(block * 3, 30_000, OldSize::Right)));
        tested.run(&Step::Drop);
        tested.run(&Step::ReclaimSome);
        tested.run(&Step::ReclaimAll);
    }
    tested.check_contents();
}

#[test]
fn a_refused_reservation_is_halved_until_it_fits() {
    let os = FakeOs::new(4096);
    os.state().reserve_limit = Some(5 << 20);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    assert_eq!(tested.heap().layout.bytes, 4 << 20);
    assert!(tested.allocate(1000));
    tested.free_all();
    os.state().reserve_limit = Some(1000);
    let refused = Heap::<_, Reclaim>::create(os, Options::DEFAULT).map(drop);
    assert_eq!(refused, Err(Error::Memory));
    assert!(crate::error::last_text().starts_with("reserve: the kernel gives no address space"));
}

#[test]
fn strict_overcommit_is_lived_with() {
    let os = FakeOs::new(4096);
    os.state().commit_limit = Some(3 << 20);
    let mut tested = Tested::new(os.clone(), 1 << 30);
    while tested.allocate(10_000) {}
    tested.heap().check();
    assert!(tested.live.len() > 150, "{} blocks fit", tested.live.len());
    tested.free_all();
    let os = FakeOs::new(4096);
    os.state().commit_limit = Some(1000);
    let refused = Heap::<_, Reclaim>::create(os, Options::DEFAULT).map(drop);
    assert_eq!(refused, Err(Error::Memory));
}

#[test]
fn each_system_call_fails_once() {
    let mut refused_heaps = 0;
    for call in 0.. {
        let os = FakeOs::new(4096);
        os.state().failures = (0..=call).map(|at| at == call).collect();
        let Ok(mut tested) = Tested::try_new(os.clone(), 16 << 20) else {
            refused_heaps += 1;
            continue;
        };
        eventful(&mut tested);
        tested.free_all();
        tested.heap().reclaim(Budget::Unlimited);
        tested.heap().reclaim(Budget::Unlimited);
        assert_eq!(tested.heap().snapshot().free_resident, 0, "call {call}");
        if !os.state().failures.is_empty() {
            assert!(call > 50, "{call} calls were made to fail");
            break;
        }
    }
    assert_eq!(refused_heaps, 1, "only the first commit is vital");
}

#[test]
fn a_refusal_is_told_at_the_end_of_the_pass_and_not_before() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    tested.act(&Step::Set(Key::Auto, 0));
    (0..4).for_each(|_| assert!(tested.allocate(4 << 20)));
    tested.free_all();
    os.state().failures = vec![true].into();
    os.state().tick_us = 10;
    let mut outcome = tested.heap().reclaim(Budget::Until(0));
    assert!(outcome.more && outcome.refused == 1, "{outcome:?}");
    while outcome.more {
        outcome = tested.heap().reclaim(Budget::Until(0));
    }
    assert_eq!(outcome.refused, 1, "the pass remembers");
    let left = tested.heap().snapshot().free_resident;
    assert!((1..=1 << 20).contains(&left), "what was refused is left: {left}");
    assert_eq!(tested.heap().reclaim(Budget::Unlimited).refused, 0);
    assert_eq!(tested.heap().snapshot().free_resident, 0);
}

#[test]
fn after_a_refused_move_blocks_are_copied() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    // So that the first call to come is a move.
    assert!(tested.allocate(4 << 20));
    tested.free(0, OldSize::Right);
    tested.heap().reclaim(Budget::Unlimited);
    (0..8).for_each(|_| assert!(tested.allocate(1 << 16)));
    os.state().failures = vec![true].into();
    // `resize` puts the block last: these are four blocks, each with a neighbour.
    (0..4).for_each(|_| tested.resize(0, 1 << 17, OldSize::Right));
    assert_eq!(os.state().moves, 0);
    assert_eq!(tested.heap().counts.remap_calls, 1, "it is not tried again");
    tested.heap().set_option(crate::options::Key::RemapMin, 8192).expect("in range");
    (0..8).for_each(|_| tested.resize(0, 1 << 19, OldSize::Right));
    assert!(os.state().moves > 0, "but for when the host asks anew");
    tested.heap().check();
    tested.free_all();
}

#[test]
fn a_heap_knows_whether_the_kernel_takes_anything_back() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    let wave = |tested: &mut Tested| {
        (0..4).for_each(|_| assert!(tested.allocate(1 << 20)));
        tested.free_all();
    };
    let refusals = |tested: &mut Tested| {
        let counts = &tested.heap().counts;
        (counts.purge_refused, counts.purge_errno)
    };
    wave(&mut tested);
    os.state().failures = vec![true; 1000].into();
    let outcome = tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(refusals(&mut tested), (outcome.refused, libc::EPERM));
    assert!(outcome.refused > 0 && tested.free_resident() >= 4 << 20);
    os.state().failures.clear();
    tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(refusals(&mut tested), (outcome.refused, 0), "it took something since");
    // A block that moves empties its old place, which may be refused as well.
    wave(&mut tested);
    os.state().failures = vec![true; 1000].into();
    tested.heap().set_option(Key::LimitHard, 1 << 20).expect("in range");
    assert_eq!(refusals(&mut tested).1, libc::EPERM);
}

/// Ticks for a while as the heap asks for it, while the kernel refuses; returns how often.
fn tick_refused(tested: &mut Tested, seconds: u64) -> usize {
    tested.os.state().failures = vec![true; 1_000_000].into();
    let start_us = tested.os.state().now_us;
    let mut ticks = 0;
    while tested.os.state().now_us < start_us + seconds * SECOND_US {
        let pause_us = tested.heap().next_tick_us().expect("there is something to ask for");
        tested.act(&Step::Tick(pause_us, 500));
        ticks += 1;
        assert!(ticks < 10_000, "it spins");
    }
    tested.os.state().failures.clear();
    ticks
}

#[test]
fn what_was_refused_is_tried_again_once_a_minute_for_ever() {
    for (dirty, holes) in [(true, false), (false, true), (true, true)] {
        let mut tested = tested(&[]);
        (0..4000).for_each(|_| assert!(tested.allocate(3000)));
        assert!(tested.allocate(4 << 20));
        tested.heap().reclaim(Budget::Unlimited);
        if dirty {
            tested.free(4000, OldSize::Right);
            // So that what is refused next begins at another time.
            tick_refused(&mut tested, 11);
        }
        if holes {
            let those = (0..4000).rev().filter(|index| index % 4 != 0);
            those.for_each(|index| tested.free(index, OldSize::Right));
        }
        let before = tested.free_resident();
        tick_refused(&mut tested, 600);
        let ticks = tick_refused(&mut tested, 3600);
        assert!((55..=58).contains(&ticks), "{ticks} wake-ups in an hour");
        assert_eq!(tested.free_resident(), before);
        tested.idle(65 * SECOND_US);
        assert_eq!(tested.heap().next_tick_us(), None, "all of it is gone");
        let left = tested.free_resident();
        assert!(left < before / 2, "{left} of {before}");
        tested.heap().reclaim(Budget::Unlimited);
        assert_eq!(tested.free_resident(), left);
        tested.check_contents();
    }
}

#[test]
fn a_tiny_budget_gets_past_what_is_refused() {
    let mut tested = tested(&[]);
    tested.os.state().tick_us = 5;
    assert!(tested.allocate(16 << 20));
    tested.free_all();
    tested.act(&Step::Tick(0, 1));
    tested.os.state().now_us += 3 * SECOND_US;
    // The upper half, which is tried first, in steps of 1 MiB.
    let top = tested.heap().runs.top;
    let end = tested.heap().address(top).addr();
    tested.os.state().locked = end - (8 << 20)..end;
    let mut ticks = 0;
    while tested.heap().next_tick_us() == Some(0) {
        tested.act(&Step::Tick(0, 1));
        ticks += 1;
        assert!(ticks < 40, "it spins");
    }
    assert!(tested.free_resident() <= 9 << 20, "it gets past it");
    tested.os.state().locked = 0..0;
    let (last_us, _) = tested.idle(60 * SECOND_US);
    assert!(last_us <= 2 * SECOND_US, "a kernel that takes a part is asked again soon");
    assert_eq!(tested.free_resident(), 0);
}

#[test]
fn parts_of_kernel_pages_do_not_spin() {
    let mut tested = Tested::new(FakeOs::new(65536), 256 << 20);
    tested.os.state().tick_us = 1;
    (0..600).for_each(|_| assert!(tested.allocate(12_000)));
    (0..300).rev().for_each(|index| tested.free(2 * index, OldSize::Right));
    let (last_us, ticks) = tested.idle(600 * SECOND_US);
    assert!(ticks < 100 && last_us < 3 * SECOND_US, "{ticks} ticks, the last after {last_us} us");
    assert!(tested.heap().runs.dirty.0 > 300, "they cannot go");
    assert_eq!(tested.heap().next_tick_us(), None);
    // Their other parts take them along.
    (0..299).rev().for_each(|index| tested.free(index, OldSize::Right));
    tested.idle(60 * SECOND_US);
    assert!(tested.heap().runs.dirty.0 < 32, "{:?}", tested.heap().runs.dirty);
    assert_eq!(tested.heap().next_tick_us(), None);
}
