//! The descriptors of free pages go back, and come again when the pages are used.

use super::*;
use crate::heap::pages::refaults::{PurgeReason, PurgeStamp};
use crate::os::{Kernel, MemoryRange, Os};
use crate::reclaim::Sweep;
use crate::units::{PageIndex, PageRange, Pages};

/// A block of one page's worth of slots of its own: each page of the heap gets a descriptor.
const BLOCK: usize = 4000;

/// A heap that has had 4,000 blocks of a page, and has freed all but the first.
fn emptied(kernel_page: usize) -> Tested {
    let mut tested = Tested::new(FakeOs::new(kernel_page), 64 << 20);
    tested.os.state().tick_us = 1;
    tested.heap().tick(1000);
    (0..4000).for_each(|_| assert!(tested.allocate(BLOCK)));
    tested.free_after(1);
    tested
}

impl Tested {
    fn free_after(&mut self, kept: usize) {
        (kept..self.live.len()).rev().for_each(|index| self.free(index, OldSize::Right));
    }

    /// Bytes that the kernel holds for the descriptors of all pages.
    fn descriptors_held(&mut self) -> usize {
        let heap = self.heap();
        let [MemoryRange { start, .. }, ..] = heap.committed_parts();
        Kernel.resident(start, heap.base.addr() - start.addr()).expect("mincore") as usize
    }

    /// What must hold when all free pages were returned: nearly no descriptors are left.
    fn has_returned_descriptors(&mut self) {
        self.heap().check();
        self.heap().note_background();
        let returned = self.heap().tables_returned();
        assert!(returned >= 4000 * 64 - 2 * self.heap().kernel_page, "{returned}");
        let held = self.descriptors_held();
        assert!(held <= 2 * self.heap().kernel_page, "{held} bytes");
    }

    /// The same when some dirty pages, which lie side by side, were to stay.
    fn holds_descriptors_of_dirty_pages(&mut self) {
        self.heap().check();
        let dirty = self.heap().runs.dirty;
        assert!((Pages(400)..Pages(2000)).contains(&dirty), "{dirty:?}");
        let held = self.heap().runs.sheets.held;
        assert!(held <= dirty.0 / 64 + 2, "{held} sheets hold memory beside {dirty:?}");
    }
}

#[test]
fn the_background_thread_returns_them() {
    for kernel_page in KERNEL_PAGES {
        let mut tested = emptied(kernel_page);
        while let Some(again_us) = tested.heap().visit_in_background() {
            tested.os.state().now_us = again_us;
        }
        tested.has_returned_descriptors();
        tested.free_all();
    }
}

#[test]
fn a_reclaim_returns_them() {
    for kernel_page in KERNEL_PAGES {
        let mut tested = emptied(kernel_page);
        tested.heap().reclaim(Budget::Unlimited);
        tested.has_returned_descriptors();
        tested.free_all();
    }
}

/// Each call does a step, the last ones with descriptors.
#[test]
fn a_reclaim_in_steps_returns_them() {
    let mut tested = emptied(4096);
    while tested.heap().reclaim(Budget::Until(0)).more {
        tested.heap().check();
    }
    tested.has_returned_descriptors();
}

/// A heap of which a part of the pages was due and went in steps, each by a tick, until the host
/// had no more to do for a while.
fn partly_emptied() -> Tested {
    let mut tested = emptied(4096);
    while tested.heap().runs.dirty > Pages(3900) {
        let pause_us = tested.heap().next_tick_us().expect("some will be due");
        tested.act(&Step::Tick(pause_us, 1));
    }
    let mut ticks = 0;
    while tested.heap().next_tick_us() == Some(0) {
        tested.act(&Step::Tick(0, 1));
        ticks += 1;
        assert!(ticks < 40, "it spins");
    }
    tested
}

/// When the last page that is due has gone, its descriptors are still there.
#[test]
fn a_host_ticks_until_descriptors_are_returned() {
    let mut tested = partly_emptied();
    tested.holds_descriptors_of_dirty_pages();
    while let Some(pause_us) = tested.heap().next_tick_us() {
        tested.act(&Step::Tick(pause_us, 1));
    }
    tested.has_returned_descriptors();
}

/// Fewer pages may stay by the time that a sweep has looked at the descriptors.
#[test]
fn a_sweep_that_goes_on_returns_more_of_them() {
    let mut tested = emptied(4096);
    tested.os.state().tick_us = 5;
    let mut sweep = Sweep { keep: Pages(1500), holes: false, reason: PurgeReason::Idle };
    let mut cursor = tested.heap().sweep_from(&sweep);
    let all = tested.heap().runs.sheets.held;
    while tested.heap().runs.sheets.held == all {
        assert!(tested.heap().sweep(&sweep, &mut cursor, Budget::Until(0)).more);
    }
    sweep.keep = Pages::ZERO;
    while tested.heap().sweep(&sweep, &mut cursor, Budget::Until(0)).more {}
    tested.holds_descriptors_of_dirty_pages();
}

#[test]
fn the_slow_path_returns_them() {
    let mut tested = emptied(4096);
    tested.heap().set_option(Key::Background, 0).expect("off");
    for _ in 0..2000 {
        tested.os.state().now_us += 10_000;
        assert!(tested.allocate(100_000));
        tested.free(1, OldSize::Right);
    }
    tested.heap().reclaim(Budget::Until(0));
    let returned = tested.heap().tables_returned();
    assert!(returned >= 3000 * 64, "{returned}");
}

#[test]
fn pages_are_used_again_and_their_descriptors_count_again() {
    for kernel_page in KERNEL_PAGES {
        let mut tested = emptied(kernel_page);
        tested.heap().reclaim(Budget::Unlimited);
        let metadata = tested.heap().metadata();
        let returned = tested.heap().tables_returned();
        (1..4000).for_each(|_| assert!(tested.allocate(BLOCK)));
        tested.heap().check();
        assert_eq!(tested.heap().metadata(), metadata + returned);
        tested.check_contents();
        tested.free_all();
    }
}

/// Sheets stay what they are where the kernel refuses, and go when it does not.
#[test]
fn what_the_kernel_refuses_stays() {
    let mut tested = emptied(4096);
    let (bytes, [MemoryRange { start, .. }, ..]) =
        (tested.heap().committed_bytes(), tested.heap().committed_parts());
    let descriptors = start.addr()..start.addr() + tested.heap().extent.below;
    assert!(descriptors.len() < bytes);
    tested.os.state().locked = descriptors;
    let outcome = tested.heap().reclaim(Budget::Unlimited);
    assert!(outcome.refused > 0 && outcome.returned > Pages(3000), "{outcome:?}");
    tested.heap().check();
    assert_eq!(tested.heap().tables_returned(), 0);
    assert_eq!(tested.heap().counts.purge_errno, libc::EPERM);
    tested.os.state().now_us += 10_000_000;
    let now_us = tested.os.state().now_us;
    let again_us = tested.heap().visit_in_background().expect("it comes again");
    assert!(again_us > now_us + 30_000_000, "it lets the kernel be");
    tested.heap().note_background();
    tested.heap().check();
    assert_eq!(tested.heap().tables_returned(), 0);
    tested.os.state().locked = 0..0;
    tested.heap().reclaim(Budget::Unlimited);
    tested.has_returned_descriptors();
}

/// A heap of more vacant sheets than go in one call, with a sheet in use between each two, in which
/// the kernel refuses to take descriptors back. What is due goes by `step` until it does.
fn refused_apart(mut step: impl FnMut(&mut Tested)) -> Tested {
    let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
    (0..9000).for_each(|_| assert!(tested.allocate(BLOCK)));
    let freed = (0..9000).rev().filter(|index| index % 128 != 0);
    freed.for_each(|index| tested.free(index, OldSize::Right));
    tested.heap().tick(1);
    let [MemoryRange { start, .. }, ..] = tested.heap().committed_parts();
    tested.os.state().locked = start.addr()..start.addr() + tested.heap().extent.below;
    // All of it is due, and a look at the clock takes longer than the budgets of these tests.
    tested.os.state().now_us += 10_000_000;
    tested.os.state().tick_us = 5;
    let mut steps = 0;
    while tested.heap().counts.purge_errno == 0 {
        step(&mut tested);
        steps += 1;
        assert!(steps < 100, "no descriptors are refused");
    }
    tested
}

#[test]
fn refused_descriptors_do_not_have_a_host_tick_for_ever() {
    let mut tested = refused_apart(|tested| tested.act(&Step::Tick(0, 1)));
    let mut ticks = 0;
    while tested.heap().next_tick_us() == Some(0) {
        tested.act(&Step::Tick(0, 1));
        ticks += 1;
        assert!(ticks < 40, "it spins");
    }
    tested.heap().check();
    assert_eq!(tested.heap().tables_returned(), 0);
    tested.os.state().locked = 0..0;
    tested.heap().reclaim(Budget::Unlimited);
    assert!(tested.heap().tables_returned() > 64 * 4096);
}

#[test]
fn a_reclaim_in_steps_ends_where_descriptors_are_refused() {
    let mut tested = refused_apart(|tested| tested.act(&Step::ReclaimSome));
    let mut outcome = tested.heap().reclaim(Budget::Until(0));
    let mut steps = 0;
    while outcome.more {
        outcome = tested.heap().reclaim(Budget::Until(0));
        steps += 1;
        assert!(steps < 40, "it spins");
    }
    assert_eq!(outcome.refused, 64, "the first batch, and no other");
    tested.heap().check();
}

/// Each step would be spent on the refusal if the sweep did not go on below.
#[test]
fn a_run_is_closed_though_other_descriptors_are_refused() {
    let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
    tested.os.state().tick_us = 5;
    (0..4000).for_each(|_| assert!(tested.allocate(BLOCK)));
    let freed = (1..4000).rev().filter(|index| *index != 1000);
    freed.for_each(|index| tested.free(index, OldSize::Right));
    // Those of the pages below the second block that stays.
    let base = tested.heap().base.addr();
    tested.os.state().locked = base - 900 * 64..base;
    let mut steps = 0;
    while tested.heap().reclaim(Budget::Until(0)).more {
        steps += 1;
        assert!(steps < 100, "it spins");
    }
    assert_eq!(tested.heap().counts.purge_errno, libc::EPERM);
    let bytes = closed(&mut tested);
    assert!(bytes > 8 << 20, "{bytes}");
}

/// The growth limit counts descriptors that come again.
#[test]
fn a_hard_limit_holds_while_descriptors_come_again() {
    let mut tested = emptied(4096);
    for pages in 200..270 {
        let limit = pages * 4096;
        tested.free_after(0);
        tested.heap().reclaim(Budget::Unlimited);
        tested.heap().set_option(Key::LimitHard, limit as i64).expect("a limit");
        while tested.allocate(BLOCK) {}
        let held = tested.heap().resident();
        assert!((limit - (32 << 10)..=limit).contains(&held), "{held} of {limit}");
    }
    tested.heap().check();
}

/// In the child of a fork all claims of the parent's thread are stale.
#[test]
fn claims_can_be_counted_anew() {
    let mut tested = emptied(4096);
    tested.heap().reclaim(Budget::Unlimited);
    let counts = tested.heap().runs.sheets;
    assert!(counts.returned() > 50, "{counts:?}");
    tested.heap().runs.sheets.held += 7;
    assert_eq!(tested.heap().page_runs().sheets_by_bits(), counts);
    tested.heap().runs.sheets = counts;
    tested.heap().check();
}

/// Descriptors wait for the pages that they describe.
#[test]
fn those_of_pages_that_stay_do_too() {
    let mut tested = emptied(4096);
    tested.heap().set_option(Key::Retain, 1 << 30).expect("all stays");
    tested.heap().tick(0);
    tested.os.state().now_us += 10_000_000;
    tested.heap().visit_in_background();
    tested.heap().note_background();
    assert_eq!(tested.heap().tables_returned(), 0);
    // A part of the pages goes.
    tested.heap().set_option(Key::Retain, 8 << 20).expect("a part stays");
    tested.heap().tick(0);
    tested.heap().check();
    let returned = tested.heap().tables_returned();
    assert!((28 * 4096..34 * 4096).contains(&returned), "{returned}");
}

#[test]
fn checked_heaps_keep_them() {
    let mut tested = emptied(4096);
    let mut checked = Tested::new(FakeOs::new(4096), 64 << 20);
    checked.heap().options.put(Key::Checked, 1);
    checked.heap().check_as_asked();
    for heap in [&mut tested, &mut checked] {
        (0..1000).for_each(|_| assert!(heap.allocate(BLOCK)));
        heap.free_after(0);
        heap.heap().reclaim(Budget::Unlimited);
        heap.heap().check();
    }
    assert!(tested.heap().tables_returned() > 0);
    assert_eq!(checked.heap().tables_returned(), 0);
}

/// Closed bytes, by the heap's account and by what the kernel lets the process touch.
fn closed(tested: &mut Tested) -> usize {
    tested.heap().note_background();
    tested.heap().check();
    let bytes = tested.heap().closed_bytes();
    let snapshot = tested.heap().snapshot();
    let committed = tested.heap().committed_bytes();
    assert_eq!(snapshot.committed + bytes, committed);
    bytes
}

#[test]
fn long_returned_ranges_are_closed_and_opened_again() {
    for kernel_page in KERNEL_PAGES {
        let mut tested = emptied(kernel_page);
        assert_eq!(closed(&mut tested), 0);
        tested.heap().reclaim(Budget::Unlimited);
        let bytes = closed(&mut tested);
        assert!(bytes >= 4000 * 4096 - 2 * tested.heap().kernel_page * 64, "{bytes}");
        (1..4000).for_each(|_| assert!(tested.allocate(BLOCK)));
        assert_eq!(closed(&mut tested), 0);
        tested.check_contents();
        tested.free_all();
    }
}

#[test]
fn the_background_thread_closes_them() {
    for kernel_page in KERNEL_PAGES {
        let mut tested = emptied(kernel_page);
        while let Some(again_us) = tested.heap().visit_in_background() {
            tested.os.state().now_us = again_us;
        }
        let bytes = closed(&mut tested);
        assert!(bytes >= 4000 * 4096 - 2 * tested.heap().kernel_page * 64, "{bytes}");
        (1..4000).for_each(|_| assert!(tested.allocate(BLOCK)));
        assert_eq!(closed(&mut tested), 0);
        tested.check_contents();
        tested.free_all();
    }
}

/// The step that returns the descriptors leaves no time to close the run.
#[test]
fn what_was_returned_in_steps_is_closed_by_the_next() {
    let mut tested = partly_emptied();
    let bytes = closed(&mut tested);
    assert!(bytes > 8 << 20, "{bytes}");
}

#[test]
fn a_sweep_without_a_budget_closes_what_steps_have_returned() {
    let mut tested = emptied(4096);
    let all = tested.heap().runs.sheets.held;
    while tested.heap().runs.sheets.held == all {
        let pause_us = tested.heap().next_tick_us().expect("some will be due");
        tested.act(&Step::Tick(pause_us, 1));
    }
    assert_eq!(closed(&mut tested), 0);
    tested.act(&Step::Tick(0, 0));
    let bytes = closed(&mut tested);
    assert!(bytes > 8 << 20, "{bytes}");
}

/// What is used opens little more, and what stays closed is never a short run.
#[test]
fn few_are_opened_for_few() {
    let mut tested = emptied(4096);
    tested.heap().reclaim(Budget::Unlimited);
    let (bytes, decommits) = (closed(&mut tested), tested.os.state().decommits);
    (0..200).for_each(|_| assert!(tested.allocate(BLOCK)));
    let after = closed(&mut tested);
    // The first sheet, and 2 MiB more, so that the next blocks need no call.
    assert_eq!(bytes - after, 64 * 4096 + (2 << 20));
    // A large block in the midst of what is closed.
    assert!(tested.allocate(after / 2));
    let last = closed(&mut tested);
    assert!(last < after / 2 + 4096 && last + (5 << 20) > after / 2, "{last} of {after}");
    assert_eq!(tested.os.state().decommits, decommits, "and nothing was closed for that");
    tested.free_all();
}

#[test]
fn what_is_opened_leaves_no_short_run_closed() {
    let mut tested = emptied(4096);
    tested.heap().reclaim(Budget::Unlimited);
    let bytes = closed(&mut tested);
    // The first sheet, which pages in use are on, is open; the last closed one is number 61.
    let sheet = |index: u32| PageRange::new(PageIndex(index * 64), Pages(64));
    assert!(tested.heap().open_sheets(sheet(2)));
    let opened = bytes - tested.heap().closed_bytes();
    assert_eq!(opened, (2 + 8) * 64 * 4096, "with number 1, and 2 MiB above");
    assert!(tested.heap().open_sheets(sheet(20)));
    let opened = bytes - tested.heap().closed_bytes() - opened;
    assert_eq!(opened, (1 + 8) * 64 * 4096, "with nothing below");
}

#[test]
fn short_runs_stay_committed() {
    let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
    (0..2000).for_each(|_| assert!(tested.allocate(BLOCK)));
    (500..900).rev().for_each(|index| tested.free(index, OldSize::Right));
    tested.heap().reclaim(Budget::Unlimited);
    assert!(tested.heap().tables_returned() >= 4 * 4096);
    assert_eq!(closed(&mut tested), 0);
    tested.heap().tick(0);
    tested.os.state().now_us += 10_000_000;
    tested.heap().visit_in_background();
    assert_eq!(closed(&mut tested), 0);
}

/// Growth is refused where the kernel does not open what it needs, and nothing is lost by it.
#[test]
fn a_refused_opening_is_a_refused_growth() {
    let mut tested = emptied(4096);
    tested.heap().reclaim(Budget::Unlimited);
    let bytes = closed(&mut tested);
    let committed = tested.heap().snapshot().committed;
    // All is refused, then what is more than needed, and then nothing.
    tested.os.state().commit_limit = Some(committed);
    while tested.allocate(BLOCK) {}
    let held = closed(&mut tested);
    assert!(held + (512 << 10) >= bytes, "{held} of {bytes}");
    assert!(!tested.allocate(1 << 20));
    assert_eq!(closed(&mut tested), held);
    tested.os.state().commit_limit = Some(committed + (1 << 20));
    while tested.allocate(BLOCK) {}
    assert!(closed(&mut tested) + (2 << 20) >= held);
    tested.check_contents();
    tested.os.state().commit_limit = None;
    (1..2000).for_each(|_| assert!(tested.allocate(BLOCK)));
    tested.check_contents();
    tested.free_all();
}

#[test]
fn claims_that_are_dropped_end() {
    let mut tested = emptied(4096);
    tested.heap().set_option(Key::Thp, 1).expect("nothing is closed");
    tested.heap().watch().pretend();
    let watch = tested.heap().watch();
    let stamp = PurgeStamp::new(0, PurgeReason::Idle);
    // SAFETY: pages that are claimed hold nothing of value.
    let purge = |ranges: &[MemoryRange]| unsafe { Kernel.purge(ranges) };
    // SAFETY: the heap lives, and no other thread looks at it.
    unsafe { watch.return_dirty(Pages(u32::MAX), &purge, &|| true, stamp) };
    let claims_sheets = || !watch.claim_sheets(&mut watch.all_sheets()).is_empty();
    assert!(claims_sheets() && claims_sheets());
    watch.return_sheets(&purge, &|| true);
    let claims_run = || watch.claim_run(&mut watch.all_sheets()).is_some();
    assert!(claims_run() && claims_run());
    tested.free_all();
}

#[test]
fn a_refused_closing_changes_nothing() {
    let mut tested = emptied(4096);
    tested.heap().set_option(Key::Thp, 1).expect("huge pages");
    tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(closed(&mut tested), 0, "where huge pages are allowed all stays");
    tested.heap().set_option(Key::Thp, 0).expect("none again");
    tested.os.state().failures = vec![true; 2].into();
    tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(closed(&mut tested), 0);
    tested.os.state().failures = vec![true; 1].into();
    tested.heap().visit_in_background();
    tested.os.state().failures.clear();
    assert_eq!(closed(&mut tested), 0);
    tested.heap().reclaim(Budget::Unlimited);
    assert!(closed(&mut tested) > 10 << 20);
}

#[test]
fn committed_pages_above_the_top_are_given_up() {
    let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
    assert!(tested.allocate(24 << 20) && tested.allocate(BLOCK));
    let (before, top) = (tested.heap().committed(), tested.heap().runs.top.offset());
    assert!(before - top >= 2 << 20, "{before} bytes for {top}");
    tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(tested.heap().committed(), top);
    tested.heap().check();
    tested.os.state().commit_limit = Some(tested.heap().committed_bytes());
    assert!(!tested.allocate(10 << 20));
    tested.os.state().commit_limit = None;
    assert!(tested.allocate(10 << 20));
    tested.check_contents();
    tested.free_all();
}
