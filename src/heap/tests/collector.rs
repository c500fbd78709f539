//! Emergency collections: when the collector of a VM is made due, and how often.

use super::breathing::{SECOND_US, tested};
use super::*;
use crate::heap::Collector;

/// A collector that counts how often it was made due, and let be.
#[derive(Default)]
struct Counted {
    due: u32,
    cancel_due: u32,
    is_stopped: bool,
    is_shared: bool,
}

unsafe fn make_due(context: *mut u8) -> bool {
    // SAFETY: the collector of the test that set this up.
    let counted = unsafe { &mut *context.cast::<Counted>() };
    counted.due += u32::from(!counted.is_stopped);
    !counted.is_stopped
}

unsafe fn cancel_due(context: *mut u8) {
    // SAFETY: as above.
    unsafe { (*context.cast::<Counted>()).cancel_due += 1 };
}

unsafe fn may_cancel_due(context: *mut u8) -> bool {
    // SAFETY: as above.
    unsafe { !(*context.cast::<Counted>()).is_shared }
}

const LIMIT: usize = 8 << 20;

fn with_collector(counted: &mut Counted) -> Tested {
    let mut tested = tested(&[(Key::LimitHard, LIMIT as i64)]);
    tested.heap().set_collector(Collector {
        context: core::ptr::from_mut(counted).cast(),
        make_due,
        cancel_due,
        may_cancel_due,
        goes_in_steps: |_| false,
        in_steps: None,
    });
    tested
}

fn fill(tested: &mut Tested, bytes: usize) {
    while tested.heap().resident() < bytes {
        assert!(tested.allocate(10_000), "at {}", tested.heap().resident());
    }
}

#[test]
fn a_collector_is_made_due_before_the_limit_and_let_be_when_it_has_helped() {
    let mut counted = Counted::default();
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 8 * 7 - (256 << 10));
    assert_eq!((counted.due, counted.cancel_due), (0, 0), "there is room");
    fill(&mut tested, LIMIT / 8 * 7 + 1);
    assert_eq!(counted.cancel_due, 0);
    assert!(counted.due > 0, "it is made due");
    let due = counted.due;
    (0..tested.live.len() / 2).for_each(|_| tested.free(0, OldSize::Right));
    assert!(tested.allocate(1000));
    assert_eq!((counted.due, counted.cancel_due), (due, 1), "it has helped");
    assert_eq!(tested.heap().counts.refused_allocations, 0);
    tested.heap().check();
    tested.free_all();
}

#[test]
fn a_collector_that_does_not_help_rests_but_for_refusals() {
    let mut counted = Counted::default();
    let mut tested = with_collector(&mut counted);
    while tested.allocate(10_000) {}
    assert_eq!((counted.due, counted.cancel_due), (4, 1), "three cycles in vain, then a refusal");
    assert!(tested.heap().resident() <= LIMIT - LIMIT / 32);
    let refused = tested.heap().counts.refused_allocations;
    assert_eq!(refused, 1);
    assert!(!tested.allocate(10_000));
    assert!(counted.due > 4, "a refusal begins anew");
    // What may be the collector's own table has some room yet.
    assert!(tested.allocate(1 << 17) && !tested.allocate(100_000));
    assert!(tested.heap().resident() <= LIMIT);
    tested.free_all();
    assert!(tested.allocate(100_000));
    assert_eq!(counted.cancel_due, 2);
    tested.heap().check();
    tested.free_all();
}

#[test]
fn after_a_rest_the_collector_is_asked_again() {
    let mut counted = Counted::default();
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 8 * 7 + (640 << 10));
    assert_eq!((counted.due, counted.cancel_due), (3, 1), "in vain");
    tested.os.state().now_us += 10 * SECOND_US;
    // A look lowers the growth limit again.
    tested.act(&Step::Tick(0, 0));
    assert!(tested.allocate(100_000));
    assert!(counted.due > 3, "it is asked again");
    tested.free_all();
}

#[test]
fn a_collector_that_stands_still_is_asked_until_it_runs() {
    let mut counted = Counted { is_stopped: true, ..Counted::default() };
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 16 * 15);
    assert_eq!((counted.due, counted.cancel_due), (0, 0));
    counted.is_stopped = false;
    assert!(tested.allocate(10_000));
    assert_eq!(counted.due, 1);
    tested.free_all();
}

#[test]
fn without_a_collector_all_of_the_limit_is_for_blocks() {
    let mut tested = tested(&[(Key::LimitHard, LIMIT as i64)]);
    while tested.allocate(10_000) {}
    assert!(tested.heap().resident() > LIMIT - (32 << 10));
    assert!(!tested.heap().collecting);
    tested.free_all();
}

#[test]
fn where_three_quarters_are_live_one_cycle_is_enough_each_time() {
    let mut counted = Counted::default();
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 4 * 3 + (64 << 10));
    let live = tested.live.len();
    for round in 1..=20 {
        while !tested.heap().collecting {
            assert!(tested.allocate(10_000));
        }
        while tested.live.len() > live {
            tested.free(live, OldSize::Right);
        }
        assert!(tested.allocate(10_000));
        assert_eq!((counted.due, counted.cancel_due), (round, round), "it has helped");
    }
    assert_eq!(tested.heap().counts.refused_allocations, 0);
    tested.free_all();
}

#[test]
fn a_tick_lets_the_collector_be_until_the_heap_grows_again() {
    let mut counted = Counted::default();
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 8 * 7 + 1);
    assert!(tested.heap().collecting);
    assert_eq!((counted.due, counted.cancel_due), (1, 0));
    assert_eq!(tested.heap().next_tick_us(), Some(0));
    tested.act(&Step::Tick(0, 0));
    assert!(!tested.heap().collecting);
    assert_eq!((counted.due, counted.cancel_due), (1, 1), "the VM is idle");
    assert!(tested.allocate(100_000));
    assert!(tested.heap().collecting);
    assert_eq!(counted.due, 2, "the emergency goes on");
    for _ in 0..3 {
        tested.act(&Step::Tick(0, 0));
        assert!(tested.allocate(10_000));
    }
    assert_eq!((counted.due, counted.cancel_due), (3, 3), "three cycles in vain, as without ticks");
    tested.free_all();
}

/// A VM whose next emergency begins above seven eighths of the limit. Returns where it would.
fn with_raised_limit(counted: &mut Counted) -> (Tested, usize) {
    let mut tested = with_collector(counted);
    fill(&mut tested, LIMIT / 64 * 61);
    assert_eq!((counted.due, counted.cancel_due), (3, 1), "in vain");
    tested.os.state().now_us += 10 * SECOND_US;
    tested.act(&Step::Tick(0, 0));
    let raised = tested.heap().growth_limit;
    assert!(raised > LIMIT / 32 * 29, "{raised}");
    (tested, raised)
}

/// Frees blocks until `bytes` bytes are live, and returns free memory.
fn drop_to(tested: &mut Tested, bytes: usize) {
    while tested.heap().snapshot().live > bytes {
        tested.free(0, OldSize::Right);
    }
    tested.act(&Step::ReclaimAll);
}

/// After the VM has dropped half of what it may hold, and the host has ticked or not.
fn the_limit_falls(ticks: bool) {
    let mut counted = Counted::default();
    let (mut tested, raised) = with_raised_limit(&mut counted);
    drop_to(&mut tested, LIMIT / 2);
    if ticks {
        tested.act(&Step::Tick(0, 0));
    }
    let due = counted.due;
    fill(&mut tested, LIMIT / 8 * 7 + (64 << 10));
    assert!(tested.heap().resident() < raised);
    assert_eq!(counted.due, due + 1, "it is made due where it was before the peak");
    tested.free_all();
}

#[test]
fn the_limit_falls_with_what_is_held() {
    the_limit_falls(true);
}

#[test]
fn the_limit_falls_without_a_tick_nor_time() {
    the_limit_falls(false);
}

#[test]
fn an_emergency_that_was_suspended_does_not_end_unasked() {
    let mut counted = Counted::default();
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 64 * 61);
    drop_to(&mut tested, LIMIT / 2);
    while tested.allocate(10_000) {}
    assert_eq!((counted.due, counted.cancel_due), (4, 1), "in vain, a rest, and a refusal");
    tested.act(&Step::Tick(0, 0));
    assert_eq!((counted.due, counted.cancel_due), (4, 2), "suspended");
    // The host collects by itself.
    drop_to(&mut tested, LIMIT / 8 * 5);
    tested.os.state().now_us += 10 * SECOND_US;
    tested.act(&Step::Tick(0, 0));
    fill(&mut tested, LIMIT / 64 * 58);
    assert!(counted.due > 4, "the next growth asks the collector");
    assert_eq!(counted.cancel_due, 2);
    tested.free_all();
}

#[test]
fn a_tick_leaves_the_collector_of_a_vm_alone_that_another_thread_may_run() {
    let mut counted = Counted { is_shared: true, ..Counted::default() };
    let mut tested = with_collector(&mut counted);
    fill(&mut tested, LIMIT / 8 * 7 + 1);
    tested.act(&Step::Tick(0, 0));
    assert!(tested.heap().collecting);
    assert_ne!(tested.heap().next_tick_us(), Some(0));
    assert_eq!((counted.due, counted.cancel_due), (1, 0));
    tested.free_all();
}
