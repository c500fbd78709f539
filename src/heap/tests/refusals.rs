//! What the kernel refuses: each call in turn, memory, address space, moves, and returns.

use super::*;

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
    os.world().reserve_limit = Some(5 << 20);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    assert_eq!(tested.heap().layout.reserved, 4 << 20);
    assert!(tested.allocate(1000));
    tested.free_all();
    os.world().reserve_limit = Some(1000);
    let refused = Heap::create(os, Options::DEFAULT).map(drop);
    assert_eq!(refused, Err(Error::Memory));
    assert!(crate::error::last_text().starts_with("reserve: the kernel gives no address space"));
}

#[test]
fn strict_overcommit_is_lived_with() {
    let os = FakeOs::new(4096);
    os.world().commit_limit = Some(3 << 20);
    let mut tested = Tested::new(os.clone(), 1 << 30);
    while tested.allocate(10_000) {}
    tested.heap().check();
    assert!(tested.live.len() > 150, "{} blocks fit", tested.live.len());
    tested.free_all();
    let os = FakeOs::new(4096);
    os.world().commit_limit = Some(1000);
    let refused = Heap::create(os, Options::DEFAULT).map(drop);
    assert_eq!(refused, Err(Error::Memory));
}

#[test]
fn each_system_call_fails_once() {
    let mut refused_heaps = 0;
    for call in 0.. {
        let os = FakeOs::new(4096);
        os.world().failures = (0..=call).map(|at| at == call).collect();
        let Ok(mut tested) = Tested::try_new(os.clone(), 16 << 20) else {
            refused_heaps += 1;
            continue;
        };
        eventful(&mut tested);
        tested.free_all();
        tested.heap().reclaim(Budget::Unlimited);
        tested.heap().reclaim(Budget::Unlimited);
        assert_eq!(tested.heap().snapshot().free_resident, 0, "call {call}");
        if !os.world().failures.is_empty() {
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
    (0..4).for_each(|_| assert!(tested.allocate(4 << 20)));
    tested.free_all();
    os.world().failures = vec![true].into();
    os.world().tick_us = 10;
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
    (0..8).for_each(|_| assert!(tested.allocate(1 << 16)));
    os.world().failures = vec![true].into();
    // `resize` puts the block last: these are four blocks, each with a neighbour.
    (0..4).for_each(|_| tested.resize(0, 1 << 17, OldSize::Right));
    assert_eq!(os.world().moves, 0);
    assert_eq!(tested.heap().counts.remap_calls, 1, "it is not tried again");
    tested.heap().set_option(crate::options::Key::RemapMin, 8192).expect("in range");
    (0..8).for_each(|_| tested.resize(0, 1 << 19, OldSize::Right));
    assert!(os.world().moves > 0, "but for when the host asks anew");
    tested.heap().check();
    tested.free_all();
}
