//! What two threads of the library do to the same memory, in every order that the memory model
//! allows: the sources themselves, with loom's atomics in place of the processor's.
#![cfg(test)]

mod spans;
mod turns;

use loom::sync::atomic::AtomicU64;

#[path = "../../../src/heap/pages/claim.rs"]
#[allow(dead_code)]
mod claim;

#[path = "../../../src/heap/pages/batch.rs"]
#[allow(dead_code)]
mod batch;

#[path = "../../../src/units.rs"]
#[allow(dead_code)]
mod units;

use claim::Claimable;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

const PAGE: u64 = 1;
const NEXT: u64 = 2;

/// Bits of pages, and the memory of the first: a purge and the program's own writes to it must
/// never meet, or the model panics.
struct Pages {
    bits: Claimable,
    memory: UnsafeCell<u64>,
}

// SAFETY: the model is to show that the bits keep the threads apart.
unsafe impl Sync for Pages {}

impl Pages {
    /// Both pages are free and dirty; the first holds 7.
    fn new() -> Arc<Pages> {
        let pages = Pages { bits: Claimable::default(), memory: UnsafeCell::new(7) };
        pages.bits.set(PAGE | NEXT, true);
        Arc::new(pages)
    }

    /// The heap's thread uses the first page and frees it again.
    fn use_and_free(&self, value: u64) {
        self.bits.take(PAGE, true, |_, _| thread::yield_now());
        // SAFETY: this is what the model checks.
        self.memory.with_mut(|memory| unsafe { *memory = value });
        // SAFETY: the same.
        let read = self.memory.with(|memory| unsafe { *memory });
        assert_eq!(read, value, "the page was purged while it was used");
        self.bits.set(PAGE, true);
    }

    /// The background thread claims both pages, purges the first, and releases them; or the kernel
    /// refuses, and they stay dirty. How many it returned.
    fn visit(&self, refuses: bool) -> u32 {
        let mine = self.bits.claim(self.bits.get());
        if refuses {
            self.bits.put_back(mine);
        } else if mine & PAGE != 0 {
            // SAFETY: this is what the model checks.
            self.memory.with_mut(|memory| unsafe { *memory = 0 });
        }
        self.bits.release(mine);
        if refuses { 0 } else { mine.count_ones() }
    }
}

/// The heap's thread and the background thread do this at the same time. Both are threads of their
/// own: what the model's main thread does before it waits for another is not tried in every order.
/// What they return.
fn race<T: Send + Sync + 'static, H: 'static, B: 'static>(
    shared: &Arc<T>,
    heap: impl FnOnce(&T) -> H + Send + 'static,
    background: impl FnOnce(&T) -> B + Send + 'static,
) -> (H, B) {
    let (one, other) = (Arc::clone(shared), Arc::clone(shared));
    let heap = thread::spawn(move || heap(&one));
    let background = thread::spawn(move || background(&other));
    (heap.join().expect("the heap's thread"), background.join().expect("the background thread"))
}

/// Every order in which the threads change places up to three times.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_page_is_purged_only_while_nobody_uses_it() {
    for refuses in [false, true] {
        explore(move || {
            let pages = Pages::new();
            race(&pages, |pages| pages.use_and_free(1), move |pages| pages.visit(refuses));
            assert_eq!(pages.bits.claimed(), 0);
            let is_left = pages.bits.get() & NEXT != 0;
            assert_eq!(is_left, refuses, "a page that nobody used");
        });
    }
}

#[test]
fn a_page_in_use_is_never_dirty() {
    explore(|| {
        let pages = Pages::new();
        let take = |pages: &Pages| {
            pages.bits.take(PAGE, true, |_, _| thread::yield_now());
            assert_eq!(pages.bits.get() & PAGE, 0, "C2");
        };
        race(&pages, take, |pages| pages.visit(true));
        assert_eq!(pages.bits.get() & PAGE, 0, "C2, afterwards");
        assert_eq!(pages.bits.get() & NEXT, NEXT, "what was refused stays dirty");
    });
}

#[test]
fn every_page_is_counted_once() {
    explore(|| {
        let pages = Pages::new();
        let take = |pages: &Pages| {
            pages.bits.take(PAGE | NEXT, true, |_, _| thread::yield_now()).count_ones()
        };
        let (taken, returned) = race(&pages, take, |pages| pages.visit(false));
        assert_eq!(taken + returned, 2);
        assert_eq!((pages.bits.get(), pages.bits.claimed()), (0, 0));
    });
}

#[test]
fn two_uses_and_two_visits_keep_apart() {
    explore(|| {
        let use_twice = |pages: &Pages| {
            pages.use_and_free(1);
            pages.use_and_free(2);
        };
        let visit_twice = |pages: &Pages| {
            pages.visit(false);
            pages.visit(false);
        };
        race(&Pages::new(), use_twice, visit_twice);
    });
}

/// Whenever the heap's thread looks: before, while the kernel refuses the page, and after.
#[test]
fn a_page_that_stays_dirty_is_always_seen() {
    explore(|| {
        let pages = Pages::new();
        let look = |pages: &Pages| assert_eq!(pages.bits.held() & PAGE, PAGE);
        race(&pages, look, |pages| pages.visit(true));
        assert_eq!(pages.bits.claimed(), 0);
    });
}

/// The heap's thread returns a page itself, and uses it then.
#[test]
fn a_page_that_both_threads_return_is_counted_once() {
    explore(|| {
        let pages = Pages::new();
        let clean_and_use = |pages: &Pages| {
            let cleaned = pages.bits.unset(PAGE | NEXT, true).count_ones();
            pages.use_and_free(1);
            cleaned
        };
        let (cleaned, returned) = race(&pages, clean_and_use, |pages| pages.visit(false));
        let left = (pages.bits.get() & PAGE).count_ones();
        assert_eq!(cleaned + returned + left, 3, "two that were dirty, and one that is again");
        assert_eq!(pages.bits.claimed(), 0);
    });
}

/// The heap's thread needs two pages, of which the background thread has one: it lets go of the
/// other while it waits, or it would wait for itself.
#[test]
fn pages_that_are_claimed_in_part_are_waited_for() {
    explore(|| {
        let pages = Pages::new();
        let take = |pages: &Pages| pages.bits.take(PAGE | NEXT, true, |_, _| thread::yield_now());
        let visit = |pages: &Pages| {
            let mine = pages.bits.claim(NEXT);
            pages.bits.release(mine);
            mine
        };
        let (taken, returned) = race(&pages, take, visit);
        assert_eq!((taken & returned, taken | returned), (0, PAGE | NEXT));
        assert_eq!((pages.bits.get(), pages.bits.claimed()), (0, 0));
    });
}
