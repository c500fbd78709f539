//! How fast memory goes back inside of allocations, at all rates of them, and when a large block is
//! gone.

use std::ptr;

use super::breathing::{SECOND_US, tested};
use super::*;
use crate::heap::pages::refaults::{PurgeReason, total};
use crate::units::Pages;

const MB: usize = 1 << 20;

/// A heap of 1 GiB on which returning 1 MiB takes 150 µs: a step reads the clock twice.
fn slow() -> Tested {
    let tested = Tested::new(FakeOs::new(4096), 1 << 30);
    tested.os.state().tick_us = 75;
    tested
}

impl Tested {
    /// A block whose contents nobody checks.
    fn raw(&mut self, bytes: usize) -> *mut u8 {
        let at = self.call(ptr::null_mut(), 0, bytes);
        assert!(!at.is_null());
        at
    }

    fn discard(&mut self, at: *mut u8, bytes: usize) {
        assert!(self.call(at, bytes, 0).is_null());
    }

    /// Memory that is free and holds something, though a large block left it.
    fn make_dirty(&mut self, bytes: usize) {
        self.act(&Step::Set(Key::Auto, 0));
        let at = self.raw(bytes);
        self.discard(at, bytes);
        self.act(&Step::Set(Key::Auto, 1));
        assert!(self.dirty() >= bytes);
    }

    fn dirty(&mut self) -> usize {
        self.heap().runs.dirty.bytes()
    }

    fn now_us(&self) -> u64 {
        self.os.state().now_us
    }

    /// Allocates and frees `rate` small blocks in a second until less than 1 MiB is dirty. Returns
    /// the milliseconds that this took, and the microseconds of the longest allocation.
    fn work_until_clean(&mut self, rate: u64) -> (u64, u64) {
        let start_us = self.now_us();
        let (mut made, mut longest_us) = (0, 0);
        let mut blocks = Vec::new();
        while self.dirty() >= MB {
            self.os.state().now_us += SECOND_US * (made + 1) / rate - SECOND_US * made / rate;
            made += 1;
            let before_us = self.now_us();
            blocks.push(self.raw(16));
            longest_us = longest_us.max(self.now_us() - before_us);
            if blocks.len() == 640 {
                blocks.drain(..).for_each(|at| self.discard(at, 16));
            }
            assert!(self.now_us() - start_us < 3600 * SECOND_US, "{} are left", self.dirty());
        }
        self.heap().check();
        ((self.now_us() - start_us) / 1000, longest_us)
    }
}

/// The law of the slow path, in figures: 400 MiB, of which the first go after a second. A small
/// block in 64 takes the slow path.
#[test]
fn what_is_due_goes_back_at_any_rate_of_allocation() {
    let most_ms = [
        (10_000_000, 3500),
        (100_000, 2800),
        (10_000, 2800),
        (1000, 2800),
        (640, 3200),
        (256, 4000),
        (64, 12_000),
        (1, 12 * 64_000),
    ];
    for (rate, most_ms) in most_ms {
        let mut tested = slow();
        tested.make_dirty(400 * MB);
        let (ms, longest_us) = tested.work_until_clean(rate);
        assert!(ms > 1000 && ms < most_ms, "{ms} ms at {rate} blocks a second");
        // 32 steps of 250 µs, and the step that was under way.
        assert!(longest_us < 8500, "{longest_us} us at {rate} blocks a second");
    }
}

/// Ten operations a second, on a kernel that takes 300 µs to return 1 MiB, with a host that ticks
/// in between or without. The background thread could come, but leaves both alone for a second.
#[test]
fn holes_go_back_in_two_seconds_though_a_little_work_goes_on() {
    for has_host in [false, true] {
        let mut tested = Tested::new(FakeOs::new(4096), 256 << 20);
        tested.heap().watch().pretend();
        let blocks: Vec<_> = (0..12_000).map(|_| tested.raw(3000)).collect();
        for (index, at) in blocks.into_iter().enumerate() {
            if index % 50 != 0 {
                tested.discard(at, 3000);
            }
        }
        tested.os.state().tick_us = 150;
        let end_us = tested.now_us() + 2 * SECOND_US;
        while tested.now_us() < end_us {
            tested.os.state().now_us += SECOND_US / 10;
            let at = tested.raw(9000);
            tested.discard(at, 9000);
            if has_host {
                tested.heap().tick(250);
                tested.heap().next_tick_us();
            }
        }
        let left = tested.heap().snapshot().free_resident;
        tested.heap().reclaim(Budget::Unlimited);
        let more = left - tested.heap().snapshot().free_resident;
        assert!(more < 2 * MB, "{more} bytes could have gone, with a host: {has_host}");
        tested.heap().check();
    }
}

/// At full speed, on a kernel that is slow once: milliseconds until 400 MB are back, and the
/// longest allocation after that in microseconds.
fn at_full_speed(slow_us: u64) -> (u64, u64) {
    let mut tested = slow();
    tested.make_dirty(400 * MB);
    for tick_us in [75, slow_us] {
        tested.os.state().tick_us = tick_us;
        let before = tested.dirty();
        while tested.dirty() == before {
            tested.os.state().now_us += 10;
            tested.raw(16);
        }
    }
    tested.os.state().tick_us = 75;
    for _ in 0..10_000 {
        tested.os.state().now_us += 10;
        tested.raw(16);
    }
    tested.work_until_clean(100_000)
}

#[test]
fn at_full_speed_a_look_takes_one_step() {
    // The heap pauses for 16 times as long as a look took.
    let (ms, longest_us) = at_full_speed(1000);
    assert!(longest_us < 500 && ms < 3000, "{longest_us} us, {ms} ms");
    // Unless that is so long that the thread had to wait.
    let (ms, longest_us) = at_full_speed(1_000_000);
    assert!(longest_us < 500 && ms < 3000, "{longest_us} us, {ms} ms");
}

/// A heap of which much is due, ten operations a second, and a background thread that does not
/// come: MB that are left some milliseconds after they are due.
fn left_to_a_thread_that_does_not_come(after_ms: u64) -> usize {
    let mut tested = slow();
    tested.os.state().has_background = true;
    tested.make_dirty(400 * MB);
    let mut due_us = None;
    while due_us.is_none_or(|due_us| tested.now_us() < due_us + after_ms * 1000) {
        tested.os.state().now_us += SECOND_US / 640;
        tested.heap().pretend_thread();
        tested.raw(16);
        if tested.heap().due() >= Pages(100 * 256) {
            due_us = due_us.or(Some(tested.now_us()));
        }
    }
    tested.dirty() / MB
}

#[test]
fn much_is_left_to_the_background_thread_for_a_while_only() {
    let left_mb = left_to_a_thread_that_does_not_come(200);
    assert!(left_mb > 390, "{left_mb} MB are left");
    let left_mb = left_to_a_thread_that_does_not_come(2000);
    assert!(left_mb < 20, "{left_mb} MB are left");
}

#[test]
fn a_longer_step_returns_more_at_low_rates() {
    let mut tested = slow();
    tested.act(&Step::Set(Key::StepUs, 1000));
    tested.make_dirty(400 * MB);
    let (ms, _) = tested.work_until_clean(64);
    assert!(ms < 6000, "{ms} ms");
}

/// How often the clock is read in 4,000 operations at full speed.
fn readings(has_background: bool) -> u64 {
    let mut tested = tested(&[]);
    tested.os.state().has_background = has_background;
    let start_us = tested.now_us();
    (0..64 * 4000).for_each(|_| assert!(!tested.raw(16).is_null()));
    // One microsecond is one reading.
    tested.now_us() - start_us
}

#[test]
fn full_speed_reads_the_clock_for_one_operation_in_four_or_sixteen() {
    // Pages are another reason: 32 are 128 operations.
    let alone = readings(false);
    assert!((800..1333).contains(&alone), "{alone}");
    let with_thread = readings(true);
    assert!((200..350).contains(&with_thread), "{with_thread}");
}

#[test]
fn without_decay_memory_goes_at_once() {
    let mut tested = tested(&[(Key::DecayMs, 0)]);
    tested.wave(8 << 20);
    assert!(tested.dirty() <= MB / 4, "{} bytes stay", tested.dirty());
    assert!(total(&tested.heap().runs.refaults.returned) > 2000);
    tested.act(&Step::Set(Key::Retain, 4 * MB as i64));
    tested.wave(8 << 20);
    assert!((3 * MB..5 * MB).contains(&tested.dirty()), "{} bytes stay", tested.dirty());
    tested.free_all();
}

/// Bytes that stay dirty when a block of 64 MiB is gone.
fn left(settings: &[(Key, i64)], go: impl Fn(&mut Tested, *mut u8)) -> usize {
    let mut tested = tested(settings);
    let at = tested.raw(64 * MB);
    go(&mut tested, at);
    tested.heap().check();
    tested.dirty()
}

#[test]
fn a_large_block_goes_back_when_it_is_freed_or_shrunk() {
    type Go = fn(&mut Tested, *mut u8);
    let free: Go = |tested, at| tested.discard(at, 64 * MB);
    let resize: [Go; 3] = [
        |tested, at| assert!(!tested.call(at, 64 * MB, MB).is_null()),
        |tested, at| assert!(!tested.call(at, 64 * MB, 100).is_null()),
        |tested, at| {
            let sizes = (0..64).rev().map(|size| size * MB + 9000);
            sizes.for_each(|size| assert!(!tested.call(at, 64 * MB, size).is_null()));
        },
    ];
    for go in resize.into_iter().chain([free]) {
        let stays = left(&[], go);
        assert!(stays <= 8 * MB, "{stays} bytes stay");
    }
    assert_eq!(left(&[(Key::DecayMs, 0)], free), 0);
    assert_eq!(left(&[(Key::RetainMax, MB as i64)], free), MB);
    assert_eq!(left(&[(Key::Retain, 20 * MB as i64)], free), 20 * MB);
    assert!(left(&[(Key::Auto, 0)], free) >= 64 * MB);
}

#[test]
fn a_new_cap_holds_for_the_next_large_block() {
    let mut tested = tested(&[]);
    let at = tested.raw(6 * MB);
    tested.act(&Step::Set(Key::RetainMax, MB as i64));
    tested.discard(at, 6 * MB);
    assert_eq!(tested.dirty(), MB);
}

#[test]
fn an_old_place_goes_back_when_a_block_is_copied() {
    let mut tested = tested(&[(Key::RemapMin, 1 << 40)]);
    let at = tested.raw(32 * MB);
    tested.raw(9000);
    tested.call(at, 32 * MB, 33 * MB);
    assert!(tested.dirty() <= 8 * MB, "{} bytes stay", tested.dirty());
}

#[test]
fn of_what_is_in_use_a_sixteenth_stays() {
    let mut tested = tested(&[]);
    tested.raw(160 * MB);
    let at = tested.raw(64 * MB);
    tested.discard(at, 64 * MB);
    assert_eq!(tested.dirty(), 10 * MB);
}

/// A buffer of 64 MiB that comes and goes for ten seconds beside a block of `beside_mb`, there and
/// gone for so many microseconds: how often, and the dirty bytes while it is gone.
fn buffer(tested: &mut Tested, beside_mb: usize, there_us: u64, gone_us: u64) -> Vec<usize> {
    tested.raw(beside_mb * MB + 9000);
    let count = 10 * SECOND_US / (there_us + gone_us).max(1000);
    let turn = |_| {
        let at = tested.raw(64 * MB);
        tested.os.state().now_us += there_us;
        tested.discard(at, 64 * MB);
        tested.os.state().now_us += gone_us;
        tested.dirty()
    };
    (0..count).map(turn).collect()
}

#[test]
fn a_buffer_that_comes_and_goes_in_a_large_heap_is_seldom_returned() {
    for pause_us in [10, 1000, 100_000] {
        let mut tested = Tested::new(FakeOs::new(4096), 1 << 30);
        let count = buffer(&mut tested, 640, pause_us, pause_us).len();
        // It is learned anew every five seconds: that costs a hundredth of the time.
        let returned = total(&tested.heap().runs.refaults.returned) / 256;
        assert!((20..=256).contains(&returned), "{returned} MB in {count}, {pause_us} us apart");
        let refaults = &tested.heap().runs.refaults;
        assert_eq!(refaults.returned[PurgeReason::Limit as usize - 1], 0, "{refaults:?}");
    }
}

/// LuaJIT's own allocator unmaps it each time.
#[test]
fn of_a_buffer_that_comes_and_goes_little_more_stays_than_without_ebbtide() {
    // What is there for less than 4 ms is there when a look comes, and gone before the next.
    for (there_us, gone_us) in [(100_000, 100_000), (1000, 20_000), (1000, 300_000)] {
        let dirty = buffer(&mut tested(&[]), 1, there_us, gone_us);
        let sum = dirty.iter().map(|bytes| *bytes as u64 * gone_us).sum::<u64>();
        let mean = sum / (there_us + gone_us) / dirty.len() as u64;
        assert!(mean <= 5 << 20, "{mean} bytes more on average, {there_us} us of {gone_us}");
    }
}

/// The recipe for timers in the Lua module's documentation.
#[test]
fn a_timer_returns_everything_in_two_seconds() {
    let mut tested = slow();
    tested.make_dirty(800 * MB);
    tested.act(&Step::Tick(0, 1000));
    let start_us = tested.now_us();
    while tested.heap().runs.dirty > Pages::ZERO {
        let more = tested.heap().tick(1000).more;
        tested.os.state().now_us += if more { 10_000 } else { SECOND_US / 2 };
        assert!(tested.now_us() - start_us < 20 * SECOND_US, "{} are left", tested.dirty());
    }
    let ms = (tested.now_us() - start_us) / 1000;
    // A second and a half until all of it is due, and half a second until that is seen.
    assert!(ms < 4000, "{ms} ms");
}
