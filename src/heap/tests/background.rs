//! The background thread: what it returns, and that nothing is lost by it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::heap::pages::refaults::{PurgeReason, PurgeStamp};
use crate::heap::pages::watch::Watch;
use crate::os::{Kernel, MemoryRange, Purged};
use crate::reclaim::KernelHeap;
use crate::units::{PageIndex, Pages};

const SECOND: u64 = 1_000_000;

/// A heap with blocks of a few hundred bytes, of which the first of every `keep_one_in` stays.
pub(super) fn emptied(size: usize, count: usize, keep_one_in: usize) -> Tested {
    emptied_on(4096, size, count, keep_one_in)
}

/// The same where the kernel's pages have this size.
fn emptied_on(kernel_page: usize, size: usize, count: usize, keep_one_in: usize) -> Tested {
    let mut tested = Tested::new(FakeOs::new(kernel_page), 64 << 20);
    tested.os.state().tick_us = 1;
    (0..count).for_each(|_| assert!(tested.allocate(size)));
    tested.heap().tick(1000);
    for index in (0..count).rev().filter(|index| index % keep_one_in != 0) {
        tested.free(index, OldSize::Right);
    }
    tested
}

/// Lets time pass, and the background thread come, until it sees nothing more to do.
fn wait(tested: &mut Tested) -> u64 {
    let start_us = tested.os.state().now_us;
    while let Some(again_us) = tested.heap().visit_in_background() {
        tested.os.state().now_us = again_us;
        assert!(again_us - start_us < 10 * SECOND, "it comes again and again");
    }
    tested.os.state().now_us - start_us
}

#[test]
fn free_pages_go_back_though_the_heaps_thread_does_nothing() {
    let mut tested = emptied(400, 20_000, 20_000);
    let before = tested.heap().snapshot();
    assert!(before.free_resident > 4 << 20, "{before:?}");
    let took_us = wait(&mut tested);
    tested.heap().check();
    let after = tested.heap().snapshot();
    // What lies in active spans and in spares of one page stays.
    assert!(after.free_resident < 128 << 10, "{after:?}");
    assert!(took_us < 2 * SECOND, "after {took_us} µs");
    assert_eq!(after.committed + tested.heap().closed_bytes(), before.committed);
    tested.free_all();
}

/// The heap's thread takes one page of each kernel page just before the background thread claims
/// them. What that is left with is less than a kernel page, which would go as a whole.
#[test]
fn a_kernel_page_that_is_claimed_in_part_stays() {
    for kernel_page in [16 << 10, 64 << 10] {
        let mut tested = Tested::new(FakeOs::new(kernel_page), 64 << 20);
        let os = tested.os.clone();
        (0..200).for_each(|_| assert!(tested.allocate(100_000)));
        (1..200).rev().for_each(|index| tested.free(index, OldSize::Right));
        let heap = tested.heap();
        heap.watch().pretend();
        let before = heap.watch().dirty();
        let word = heap.watch().dirty_word(PageIndex(256));
        assert_eq!(word.get(), u64::MAX);
        let taken = (u64::MAX / (u64::MAX >> (64 - kernel_page / 4096))) << 2;
        word.pretend_claimed(taken);
        let returned = return_all(heap.watch(), &os);
        assert_eq!((word.get(), word.claimed()), (u64::MAX, taken));
        assert!(returned > Pages::ZERO && returned + Pages(64) <= before, "{returned:?}");
        word.release(taken);
        tested.heap().check();
        tested.free_all();
    }
}

/// While the kernel is asked, no page that it may refuse is forgotten.
#[test]
fn pages_that_may_stay_dirty_are_below_the_end_of_dirty_ones() {
    let mut tested = emptied(400, 20_000, 20_000);
    let heap: *mut _ = tested.heap();
    // SAFETY: the heap lives, and this is the only thread: it does what two do in turns.
    unsafe {
        (*heap).watch().pretend();
        let end = (*heap).page_runs().dirty_end();
        let purge = |_: &[MemoryRange]| {
            assert_eq!((*heap).page_runs().dirty_end(), end);
            Purged { ranges: 0, calls: 1, errno: libc::EINVAL }
        };
        let stamp = PurgeStamp::new(1, PurgeReason::Idle);
        assert_eq!((*heap).watch().return_dirty(Pages(8), &purge, &|| true, stamp), None);
        (*heap).check();
    }
    tested.free_all();
}

/// Returns all dirty pages, as the background thread does. How many.
fn return_all(watch: &Watch, os: &FakeOs) -> Pages {
    let stamp = PurgeStamp::new(os.now_us(), PurgeReason::Idle);
    // SAFETY: pages that are claimed hold nothing of value. The heap lives, and this is the only
    // thread.
    let returned = unsafe {
        let purge = |ranges: &[MemoryRange]| os.purge(ranges);
        watch.return_dirty(Pages(u32::MAX), &purge, &|| true, stamp)
    };
    returned.expect("the kernel refuses nothing")
}

#[test]
fn holes_go_back_as_far_as_a_whole_reclaim_would_find_them() {
    let mut tested = emptied(3000, 4000, 50);
    wait(&mut tested);
    tested.heap().check();
    let left = tested.heap().snapshot();
    tested.heap().reclaim(Budget::Unlimited);
    let whole = tested.heap().snapshot();
    let more = left.free_resident - whole.free_resident;
    assert!(more < 64 << 10, "{more} bytes of {whole:?}");
    tested.check_contents();
    tested.free_all();
}

#[test]
fn what_was_returned_in_error_is_known_to_the_policy() {
    let mut tested = emptied(400, 20_000, 20_000);
    wait(&mut tested);
    (0..20_000).for_each(|_| assert!(tested.allocate(400)));
    tested.heap().check();
    let refaults = &tested.heap().runs.refaults;
    assert!(refaults.premature_total() > 1000, "{refaults:?}");
}

#[test]
fn where_kernel_pages_are_larger_it_counts_no_search() {
    for (kernel_page, is_searched) in [(4 << 10, true), (16 << 10, false), (64 << 10, false)] {
        let mut tested = emptied_on(kernel_page, 400, 20_000, 100);
        wait(&mut tested);
        tested.heap().note_background_returns();
        let searches = tested.heap().runs.background.searches;
        assert_eq!(searches > 0, is_searched, "{searches} on pages of {kernel_page} bytes");
        tested.heap().check();
        tested.free_all();
    }
}

#[test]
fn what_the_kernel_refuses_stays_and_is_asked_for_later() {
    let mut tested = emptied(400, 20_000, 20_000);
    tested.os.state().now_us += 10 * SECOND;
    tested.os.state().failures = vec![true; 1].into();
    let now_us = tested.os.state().now_us;
    let again_us = tested.heap().visit_in_background().expect("it comes again");
    tested.heap().check();
    assert!(again_us > now_us + 30 * SECOND);
    let dirty = tested.heap().runs.dirty;
    tested.os.state().now_us = again_us;
    wait(&mut tested);
    tested.heap().check();
    assert!(tested.heap().runs.dirty < dirty);
    tested.heap().note_background();
    assert_eq!(tested.heap().counts.purge_refused, 1);
}

#[test]
fn a_range_that_the_kernel_refuses_is_passed_over() {
    let mut tested = emptied(400, 20_000, 20_000);
    tested.os.state().now_us += 10 * SECOND;
    let dirty = tested.heap().runs.dirty;
    assert!(dirty > Pages(1000));
    // The highest word of 64 pages is asked for first.
    tested.os.state().failures = vec![true; 1].into();
    tested.heap().visit_in_background();
    tested.heap().check();
    let left = tested.heap().runs.dirty;
    assert!(Pages::ZERO < left && left <= Pages(64), "{left:?} of {dirty:?}");
    assert_eq!(tested.heap().watch().dirty(), left);
    tested.free_all();
}

#[test]
fn a_heap_at_work_is_visited_less_than_once_a_second() {
    let mut tested = emptied(400, 20_000, 20_000);
    tested.heap().set_option(Key::Background, 1).expect("on");
    let visit_at_work = |tested: &mut Tested, now_us| {
        tested.os.state().now_us = now_us;
        // The heap's thread reads the clock, so that its forecast is young.
        tested.heap().next_tick_us();
        let again_us = tested.heap().visit_in_background().expect("it comes again");
        tested.heap().check();
        (again_us, tested.heap().runs.dirty)
    };
    // All heaps at work are visited at multiples of 1.1 s.
    const EVERY: u64 = SECOND * 11 / 10;
    let first_us = 10 * EVERY;
    let (again_us, dirty) = visit_at_work(&mut tested, first_us);
    assert!(again_us >= first_us + EVERY && dirty > Pages(1000), "{again_us} {dirty:?}");
    // From here on all of it is due.
    tested.heap().set_option(Key::DecayMs, 0).expect("in range");
    let (again_us, left) = visit_at_work(&mut tested, first_us + SECOND / 2);
    assert!((first_us + EVERY..first_us + EVERY * 11 / 10).contains(&again_us), "{again_us}");
    assert_eq!(left, dirty);
    tested.os.state().now_us = again_us;
    tested.heap().visit_in_background();
    tested.heap().check();
    assert_eq!(tested.heap().runs.dirty, Pages::ZERO);
    tested.free_all();
}

#[test]
fn much_memory_does_not_wait_a_second_though_the_heap_works() {
    let mut tested = emptied(4000, 12_000, 12_000);
    let dirty_mb = |tested: &mut Tested| tested.heap().runs.dirty.bytes() >> 20;
    tested.heap().set_option(Key::Background, 1).expect("on");
    // A visit of a heap at work, which has nothing to return.
    tested.heap().set_option(Key::Retain, 60 << 20).expect("in range");
    tested.heap().next_tick_us();
    let start_us = tested.os.state().now_us;
    tested.heap().visit_in_background();
    tested.heap().set_option(Key::Retain, 0).expect("in range");
    for (after_us, least_mb, most_mb) in [(SECOND / 10, 40, 48), (SECOND / 7, 0, 5)] {
        tested.os.state().now_us = start_us + after_us;
        tested.heap().visit_in_background();
        tested.heap().check();
        let left_mb = dirty_mb(&mut tested);
        assert!((least_mb..=most_mb).contains(&left_mb), "{left_mb} MB after {after_us} us");
    }
    tested.free_all();
}

/// Spikes of 40 MB, of which most will be due after 31 ms: until then the next one comes.
#[test]
fn early_visits_that_do_not_pay_become_rare() {
    const SECONDS: usize = 24;
    const PER_SECOND: u64 = 40;
    const BYTES: usize = 120 << 10;
    let mut tested = Tested::new(FakeOs::new(4096), 256 << 20);
    tested.os.state().tick_us = 1;
    let spike = |tested: &mut Tested| {
        let blocks = [(); 340].map(|()| tested.call(ptr::null_mut(), 0, BYTES));
        blocks.iter().for_each(|at| assert!(tested.call(*at, BYTES, 0).is_null()));
    };
    let (mut next_us, mut visits) = (0, [0; SECONDS]);
    for (second, count) in visits.iter_mut().enumerate() {
        for part in 0..PER_SECOND {
            let now_us = (10 + second as u64) * SECOND + part * SECOND / PER_SECOND;
            tested.os.state().now_us = now_us;
            spike(&mut tested);
            if now_us >= next_us {
                next_us = tested.heap().visit_in_background().expect("it comes again");
                *count += 1;
            }
        }
    }
    tested.heap().check();
    // 18 in 20 s, and at most one more.
    let later: u32 = visits[4..].iter().sum();
    assert!(visits[0] <= 5 && (17..=20).contains(&later), "{visits:?}");
    // It sleeps: then much goes back soon all the same.
    let end_us = tested.os.state().now_us;
    while tested.heap().watch().dirty() > Pages(1200) {
        assert!(next_us < end_us + SECOND * 3 / 2, "{} µs after the end", next_us - end_us);
        tested.os.state().now_us = next_us;
        next_us = tested.heap().visit_in_background().expect("it comes again");
    }
}

/// A short decay: the forecast ends before a heap at work may be visited again.
#[test]
fn what_is_due_stays_due_when_the_forecast_has_ended() {
    let mut tested = emptied(40_000, 1200, 1200);
    tested.heap().set_option(Key::Background, 1).expect("on");
    tested.heap().set_option(Key::DecayMs, 10).expect("in range");
    // A visit of a heap at work, which has nothing to return.
    tested.heap().set_option(Key::Retain, 60 << 20).expect("in range");
    tested.heap().next_tick_us();
    tested.heap().visit_in_background();
    tested.heap().set_option(Key::Retain, 0).expect("in range");
    tested.os.state().now_us += SECOND / 10;
    wait(&mut tested);
    tested.heap().check();
    let left_mb = tested.heap().runs.dirty.bytes() >> 20;
    assert_eq!(left_mb, 0);
    tested.free_all();
}

/// The new forecast has ended before a visit may follow one that was made just before.
#[test]
fn a_decay_that_becomes_short_is_heard_of() {
    for after_us in [0, SECOND / 20, SECOND / 3, 100 * SECOND] {
        let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
        tested.os.state().tick_us = 1;
        tested.heap().set_option(Key::DecayMs, 600_000).expect("in range");
        // No spans, which would be searched some seconds later.
        (0..200).for_each(|_| assert!(tested.allocate(40_000)));
        (0..200).rev().for_each(|index| tested.free(index, OldSize::Right));
        tested.heap().next_tick_us();
        tested.heap().set_option(Key::Background, 1).expect("on");
        tested.heap().visit_in_background().expect("it comes again");
        assert!(tested.heap().watch().dirty() > Pages(1000));
        tested.os.state().now_us += after_us;
        tested.heap().set_option(Key::DecayMs, 1).expect("in range");
        tested.os.state().now_us += SECOND / 20;
        wait(&mut tested);
        assert_eq!(tested.heap().watch().dirty(), Pages::ZERO, "{after_us} µs later");
    }
}

/// Nothing was ever due, so the thread was never called; and the heap's thread does nothing more.
#[test]
fn options_of_a_heap_at_rest_reach_a_thread_that_was_not_called() {
    for (key, before, after) in [(Key::Retain, 60 << 20, 0), (Key::Background, 0, 1)] {
        let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
        tested.os.state().tick_us = 1;
        tested.os.state().has_background = true;
        tested.heap().watch().pretend_uncalled();
        tested.heap().set_option(key, before).expect("in range");
        (0..20_000).for_each(|_| assert!(tested.allocate(400)));
        (0..20_000).rev().for_each(|index| tested.free(index, OldSize::Right));
        assert!(tested.heap().runs.dirty > Pages(1000) && !tested.heap().watch().is_on());
        tested.os.state().now_us += 5 * SECOND;
        tested.heap().set_option(key, after).expect("in range");
        assert!(tested.heap().watch().is_on(), "{key:?}");
        let forecast = tested.heap().watch().forecast().expect("it is not just written");
        assert!(forecast.in_the_end() < Pages(64), "{key:?}: {forecast:?}");
    }
}

#[test]
fn a_host_that_ticks_is_left_alone() {
    let mut tested = emptied(400, 20_000, 20_000);
    tested.os.state().now_us += 5 * SECOND;
    tested.heap().next_tick_us();
    let dirty = tested.heap().runs.dirty;
    let now_us = tested.os.state().now_us;
    let again_us = tested.heap().visit_in_background().expect("it comes again");
    assert!((now_us + SECOND - 1000..now_us + 3 * SECOND).contains(&again_us));
    assert_eq!(tested.heap().runs.dirty, dirty);
    tested.heap().set_option(Key::Background, 1).expect("on");
    wait(&mut tested);
    tested.heap().check();
    assert_eq!(tested.heap().runs.dirty, Pages::ZERO);
}

/// What the other thread has returned so far.
#[derive(Debug, Default)]
struct Returned {
    bytes: AtomicUsize,
    calls: AtomicUsize,
    /// Of the bytes, those of descriptors.
    sheet_bytes: AtomicUsize,
}

impl Returned {
    /// Whether the two threads have met often.
    fn is_enough(&self) -> bool {
        let pages = |bytes: &AtomicUsize| bytes.load(Relaxed) / 4096;
        self.calls.load(Relaxed) > 100
            && pages(&self.bytes) > 1000
            && pages(&self.sheet_bytes) > 100
    }
}

/// A pointer to a watch for another thread.
struct Shared(*const Watch);

// SAFETY: the test's threads use it as the heap's own and the background thread do.
unsafe impl Send for Shared {}

impl Shared {
    /// Returns all that can be, again and again.
    fn work(self, stop: &AtomicBool, returned: &Returned) {
        let purge = |ranges: &[MemoryRange]| {
            // SAFETY: pages that are claimed hold nothing of value.
            let purged = unsafe { Kernel.purge(ranges) };
            assert_eq!(purged.ranges, ranges.len());
            returned.bytes.fetch_add(ranges.iter().map(|range| range.bytes).sum(), Relaxed);
            returned.calls.fetch_add(purged.calls as usize, Relaxed);
            purged
        };
        let goes_on = || !stop.load(Relaxed);
        while goes_on() {
            let stamp = PurgeStamp::new(Kernel.now_us(), PurgeReason::Idle);
            // SAFETY: the heap outlives the thread, and no other thread does this.
            unsafe {
                (*self.0).return_dirty(Pages(u32::MAX), &purge, &goes_on, stamp);
                (*self.0).return_holes(&purge, &goes_on, stamp);
                let before = returned.bytes.load(Relaxed);
                (*self.0).return_sheets(&purge, &goes_on);
                let sheet_bytes = returned.bytes.load(Relaxed) - before;
                returned.sheet_bytes.fetch_add(sheet_bytes, Relaxed);
                let decommit = |range: MemoryRange| Kernel.decommit(range.start, range.bytes);
                (*self.0).close_runs(&decommit, &goes_on);
            }
        }
    }
}

/// A heap on the real kernel, whose thread works on its blocks.
struct AtWork {
    heap: *mut KernelHeap,
    live: Vec<Block>,
    rng: u64,
}

impl AtWork {
    fn below(&mut self, limit: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % limit
    }

    /// Allocates, resizes or frees one block, whose contents must be what they were.
    fn step(&mut self) {
        let count = self.live.len() as u64;
        let size = match self.below(16) {
            0 => 20_000 + self.below(100_000),
            1..4 => 1000 + self.below(6000),
            _ => 1 + self.below(400),
        } as usize;
        let seed = self.below(u64::MAX);
        let old = match self.below(4) {
            0 | 1 if count < 4000 => Block { at: ptr::null_mut(), size: 0, seed },
            _ if count == 0 => return,
            _ => {
                let index = self.below(count) as usize;
                self.live.swap_remove(index)
            }
        };
        old.check(old.size);
        let size = if old.at.is_null() || self.below(3) == 0 { size } else { 0 };
        // SAFETY: the block is live, or null.
        let at = unsafe { alloc(self.heap, old.at, old.size, size) };
        if size > 0 {
            let block = Block { at, size, seed: old.seed };
            block.check(old.size.min(size));
            block.fill(0);
            self.live.push(block);
        }
    }
}

#[test]
fn two_threads_on_the_same_pages_lose_nothing() {
    let options = Options::resolve(&[256 << 20, 0, 8192]).expect("good options");
    let heap = Heap::create(Kernel, options).expect("a heap");
    // SAFETY: the heap lives to the end of the test, and this thread is its own.
    let watch = unsafe { (*heap).watch() };
    watch.pretend();
    let (stop, shared) = (AtomicBool::new(false), Shared(watch));
    let mut work = AtWork { heap, live: Vec::new(), rng: 0x2545_F491_4F6C_DD1D };
    let (returned, start) = (Returned::default(), Instant::now());
    thread::scope(|scope| {
        let other = scope.spawn(|| shared.work(&stop, &returned));
        // On a busy machine the other thread may come late.
        let goes_on = |round: usize| {
            let is_missing = || !other.is_finished() && !returned.is_enough();
            round < 24 || is_missing() && start.elapsed() < Duration::from_secs(60)
        };
        for round in (0..).take_while(|round| goes_on(*round)) {
            (0..3000).for_each(|_| work.step());
            // Now and then nearly all goes, as in a collection.
            let keep = if round % 8 == 7 { 20 } else { work.live.len() };
            for block in work.live.drain(keep..) {
                block.check(block.size);
                // SAFETY: the block is live.
                unsafe { alloc(heap, block.at, block.size, 0) };
            }
        }
        stop.store(true, Relaxed);
        other.join().expect("the other thread");
    });
    // SAFETY: the other thread is gone.
    unsafe {
        (*heap).check();
        work.live.iter().for_each(|block| block.check(block.size));
        crate::reclaim::HEAPS.delete(heap);
    }
    assert!(returned.is_enough(), "{returned:?}");
}
