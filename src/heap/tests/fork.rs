//! The child of a fork whose parent had the background thread: what that had begun is ended.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::background::emptied;
use super::*;
use crate::heap::pages::claim::Claimable;
use crate::heap::pages::refaults::{PurgeReason, PurgeStamp};
use crate::heap::pages::watch::Watch;
use crate::os::{MemoryRange, Purged};
use crate::units::{PageIndex, PageRange, Pages};

/// Runs a test in a thread of its own, and fails when it does not end.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let runner = thread::spawn(move || {
        test();
        sender.send(()).expect("a receiver");
    });
    let ended = receiver.recv_timeout(Duration::from_secs(60));
    assert_ne!(ended, Err(mpsc::RecvTimeoutError::Timeout), "it waits for a thread that is gone");
    runner.join().expect("no failure");
}

type Purge<'a> = &'a dyn Fn(&[MemoryRange]) -> Purged;

/// Has the background thread work by `visit`, and vanish in its second call to the kernel, of which
/// the first took the first range. Returns that range: its claim stands, as all others of the call.
fn vanish(tested: &mut Tested, visit: impl Fn(&Watch, Purge, PurgeStamp)) -> PageIndex {
    let (os, first) = (tested.os.clone(), Cell::new(None));
    let purge = |ranges: &[MemoryRange]| {
        if first.replace(Some(ranges[0].start.addr())).is_some() {
            resume_unwind(Box::new("the thread is gone"));
        }
        // SAFETY: pages that are claimed hold nothing of value.
        unsafe { os.purge(&ranges[..1]) }
    };
    let base = tested.heap.addr();
    let heap = tested.heap();
    let visited = catch_unwind(AssertUnwindSafe(|| {
        visit(heap.watch(), &purge, PurgeStamp::new(os.now_us(), PurgeReason::Idle));
    }));
    assert!(visited.is_err(), "the kernel is called once more");
    let address = first.get().expect("a first range");
    PageIndex(((address - base) / 4096) as u32)
}

fn return_dirty(watch: &Watch, purge: Purge, stamp: PurgeStamp) {
    // SAFETY: the heap lives, and this is the only thread that does so.
    unsafe { watch.return_dirty(Pages(u32::MAX), purge, &|| true, stamp) };
}

fn return_holes(watch: &Watch, purge: Purge, stamp: PurgeStamp) {
    // SAFETY: the heap lives, and this is the only thread.
    unsafe { watch.return_holes(purge, &|| true, stamp) };
}

#[test]
fn a_heap_does_not_wait_for_a_thread_that_its_parent_has() {
    ends(|| {
        let mut tested = emptied(400, 20_000, 20_000);
        tested.heap().watch().pretend();
        vanish(&mut tested, return_dirty);
        tested.heap().watch().pretend_fork();
        (0..20_000).for_each(|_| assert!(tested.allocate(400)));
        tested.heap().check();
        tested.check_contents();
        tested.free_all();
    });
}

#[test]
fn a_child_takes_a_page_that_was_returned_and_is_claimed() {
    ends(|| {
        let mut tested = emptied(400, 20_000, 20_000);
        tested.heap().watch().pretend();
        let page = vanish(&mut tested, return_dirty);
        tested.heap().watch().pretend_fork();
        let range = PageRange::new(page, Pages(1));
        assert!(tested.heap().take_pages(range, Pages::ZERO));
        tested.heap().page_runs().give_back(range, true);
        assert_eq!(tested.heap().watch().dirty(), tested.heap().runs.dirty);
        tested.heap().page_runs().check();
        tested.free_all();
    });
}

/// As when a signal handler forks while the heap's thread waits.
#[test]
fn who_waits_already_does_not_wait_for_ever() {
    ends(|| {
        let mut tested = Tested::new(FakeOs::new(4096), 8 << 20);
        let watch = tested.heap().watch();
        let word = Claimable::default();
        word.set(0xFF, false);
        assert_eq!(word.claim(0x0F), 0x0F);
        watch.pretend_fork();
        watch.wait_for(&word, 0x3C);
        assert_eq!((word.get(), word.claimed()), (0xFC, 0x03));
    });
}

#[test]
fn all_that_the_parents_thread_had_is_free_again() {
    ends(|| {
        let mut tested = emptied(400, 20_000, 20_000);
        tested.heap().watch().pretend();
        vanish(&mut tested, return_dirty);
        tested.heap().watch().pretend_fork();
        tested.heap().mend_after_fork();
        tested.heap().check();
        let before = tested.heap().runs.dirty;
        let os = tested.os.clone();
        // SAFETY: pages that are claimed hold nothing of value, and this is the only thread.
        let returned = unsafe {
            let purge = |ranges: &[MemoryRange]| os.purge(ranges);
            let stamp = PurgeStamp::new(os.now_us(), PurgeReason::Idle);
            tested.heap().watch().return_dirty(Pages(u32::MAX), &purge, &|| true, stamp)
        };
        assert_eq!(returned, Some(before), "none stays claimed");
        tested.heap().check();
        tested.free_all();
    });
}

/// The thread had claimed what it saw free, and the heap's thread had taken it just before.
#[test]
fn claims_of_what_is_in_use_put_nothing_back() {
    for size in [400, 3000, 20_000] {
        ends(move || {
            let mut tested = emptied(size, 2000, 50);
            tested.heap().watch().pretend();
            tested.heap().watch().pretend_late_claims();
            tested.heap().watch().pretend_fork();
            tested.heap().mend_after_fork();
            tested.heap().check();
            tested.heap().reclaim(Budget::Unlimited);
            (0..500).for_each(|_| assert!(tested.allocate(size)));
            tested.heap().check();
            tested.check_contents();
            tested.free_all();
        });
    }
}

/// Nothing is taken in this child: it only looks at the heap.
#[test]
fn a_child_that_looks_leaves_a_right_forecast() {
    ends(|| {
        let mut tested = emptied(400, 20_000, 20_000);
        tested.heap().watch().pretend();
        vanish(&mut tested, return_dirty);
        tested.heap().watch().pretend_fork();
        tested.os.state().has_background = true;
        tested.heap().set_option(Key::DecayMs, 1000).expect("in range");
        tested.heap().check();
        tested.free_all();
    });
}

/// The child has the background thread off: only its own thread returns memory.
#[test]
fn a_child_without_the_thread_returns_what_its_parents_had() {
    ends(|| {
        let mut tested = emptied(400, 20_000, 20_000);
        tested.heap().watch().pretend();
        vanish(&mut tested, return_dirty);
        tested.heap().watch().pretend_fork();
        tested.os.state().has_background = true;
        tested.heap().set_option(Key::Background, 0).expect("in range");
        tested.heap().set_option(Key::DecayMs, 0).expect("in range");
        tested.heap().tick(0);
        tested.heap().check();
        assert_eq!(tested.heap().runs.dirty, Pages::ZERO);
        tested.free_all();
    });
}

/// The fork falls between the bits of a span and the count of them.
#[test]
fn what_was_returned_of_spans_is_counted_anew() {
    ends(|| {
        let mut tested = emptied(3000, 4000, 50);
        tested.heap().watch().pretend();
        let page = vanish(&mut tested, return_holes);
        let heap = tested.heap();
        let first = heap.descriptor(page).first_page(page);
        let span = heap.descriptor(first);
        let more = span.hole_pages() & !span.purged();
        assert_ne!(more, 0, "a span of several holes");
        span.purged.fetch_or(more, std::sync::atomic::Ordering::Relaxed);
        heap.watch().pretend_fork();
        heap.disturb(first);
        heap.page_runs().rest(first);
        heap.check();
        (0..4000).for_each(|_| assert!(tested.allocate(3000)));
        tested.heap().check();
        tested.free_all();
    });
}

#[test]
fn pages_that_the_background_thread_has_are_not_given_up() {
    let mut tested = emptied(400, 20_000, 20_000);
    tested.heap().watch().pretend();
    vanish(&mut tested, return_dirty);
    tested.heap().set_option(Key::DecayMs, 0).expect("in range");
    tested.heap().tick(0);
    // Their bits are clear, but they are not counted as returned yet: they may still come back.
    assert!(tested.heap().due() > Pages::ZERO);
    assert_eq!(tested.heap().next_tick_us(), Some(0));
}
