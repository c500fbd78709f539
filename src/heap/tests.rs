//! Random programs against a model, with every invariant checked after every step.

mod background;
mod breathing;
mod checking;
mod collector;
mod colors;
mod counts;
mod diagnose;
mod exchange;
mod foreign;
mod fork;
mod limits;
mod moves;
mod pace;
mod plans;
mod refusals;
mod sheets;
mod short;
mod spoilt;

use std::ptr;

use proptest::prelude::*;

use diagnose::last_words;

use super::slots::class::SMALL_MAX;
use super::{Heap, alloc};
use crate::error::Error;
use crate::options::{Key, Options};
use crate::os::fake::FakeOs;
use crate::os::{Kernel, Os};
use crate::reclaim::Budget;

/// Sizes of kernel pages that the heap must live with.
const KERNEL_PAGES: [usize; 3] = [4096, 16384, 65536];

/// A heap that checks itself and every block's contents.
struct Tested {
    os: FakeOs,
    heap: *mut Heap<FakeOs>,
    live: Vec<Block>,
    made: u64,
}

struct Block {
    at: *mut u8,
    size: usize,
    seed: u64,
}

impl Block {
    /// The byte that belongs at an offset.
    fn pattern(&self, offset: usize) -> u8 {
        (self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8
            ^ (offset as u8).wrapping_mul(31)
    }

    fn fill(&self, from: usize) {
        for offset in from..self.size {
            // SAFETY: the block has `size` bytes.
            unsafe { self.at.add(offset).write(self.pattern(offset)) };
        }
    }

    fn check(&self, size: usize) {
        for offset in 0..size.min(self.size) {
            // SAFETY: the block has `size` bytes.
            let byte = unsafe { self.at.add(offset).read() };
            assert_eq!(byte, self.pattern(offset), "byte {offset} of {} is lost", self.size);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    /// Which block, and what is wrong with the size given.
    Free(usize, OldSize),
    Resize(usize, usize, OldSize),
    /// Frees about three in four, as a dropped data structure does.
    Drop,
    ReclaimAll,
    ReclaimSome,
    /// Time passes, then the heap is ticked, with a budget in microseconds or none.
    Tick(u64, u32),
    Set(Key, i64),
    /// Time passes, then the background thread comes.
    Visit(u64),
}

/// What the host says a block's size was.
#[derive(Clone, Copy, Debug)]
enum OldSize {
    Right,
    Wrong(usize),
}

impl OldSize {
    fn of(self, size: usize) -> usize {
        match self {
            OldSize::Right => size,
            OldSize::Wrong(other) => other,
        }
    }
}

impl Tested {
    fn new(os: FakeOs, reserve: i64) -> Tested {
        Tested::try_new(os, reserve).expect("a heap")
    }

    fn try_new(os: FakeOs, reserve: i64) -> Result<Tested, Error> {
        // Moving by remapping from two pages on, so that small tests reach it.
        let options = Options::resolve(&[reserve, 0, 8192]).expect("good options");
        let heap = Heap::create(os.clone(), options)?;
        Ok(Tested { os, heap, live: Vec::new(), made: 0 })
    }

    fn heap(&mut self) -> &mut Heap<FakeOs> {
        // SAFETY: the heap lives until drop, and this borrow is the only one.
        unsafe { &mut *self.heap }
    }

    fn call(&mut self, at: *mut u8, old: usize, new: usize) -> *mut u8 {
        // SAFETY: tests pass live blocks.
        unsafe { alloc(self.heap, at, old, new) }
    }

    fn allocate(&mut self, size: usize) -> bool {
        let at = self.call(ptr::null_mut(), 0, size);
        if at.is_null() {
            return false;
        }
        let alignment = if size.is_multiple_of(16) { 16 } else { 8 };
        assert_eq!(at.addr() % alignment, 0, "{size} bytes at {at:p}");
        self.made += 1;
        let block = Block { at, size, seed: self.made };
        self.check_apart(&block);
        block.fill(0);
        self.live.push(block);
        true
    }

    fn check_apart(&self, new: &Block) {
        let (start, end) = (new.at.addr(), new.at.addr() + new.size);
        for block in &self.live {
            let apart = block.at.addr() + block.size <= start || end <= block.at.addr();
            assert!(apart, "two blocks share memory at {:p}", new.at);
        }
    }

    fn free(&mut self, index: usize, old: OldSize) {
        let block = self.live.swap_remove(index);
        block.check(block.size);
        assert!(self.call(block.at, old.of(block.size), 0).is_null());
    }

    fn resize(&mut self, index: usize, size: usize, old: OldSize) {
        let mut block = self.live.swap_remove(index);
        let at = self.call(block.at, old.of(block.size), size);
        if at.is_null() {
            assert!(size > block.size, "a shrink from {} to {size} failed", block.size);
            block.check(block.size);
        } else {
            block.at = at;
            block.check(size);
            let kept = block.size.min(size);
            block.size = size;
            self.check_apart(&block);
            block.fill(kept);
        }
        self.live.push(block);
    }

    fn run(&mut self, step: &Step) {
        self.act(step);
        self.heap().check();
    }

    fn act(&mut self, step: &Step) {
        let count = self.live.len();
        match *step {
            Step::Allocate(size) => drop(self.allocate(size)),
            Step::Free(which, old) if count > 0 => self.free(which % count, old),
            Step::Resize(which, size, old) if count > 0 => self.resize(which % count, size, old),
            Step::Drop => {
                for index in (0..count).rev().filter(|index| index % 4 != 1) {
                    self.free(index, OldSize::Right);
                }
            }
            Step::ReclaimAll => drop(self.heap().reclaim(Budget::Unlimited)),
            Step::ReclaimSome => drop(self.heap().reclaim(Budget::Until(0))),
            Step::Tick(after_us, budget_us) => {
                self.os.world().now_us += after_us;
                self.heap().tick(budget_us);
            }
            Step::Visit(after_us) => {
                self.os.world().now_us += after_us;
                self.heap().visit_in_background();
            }
            Step::Set(key, value) => match self.heap().set_option(key, value) {
                Err(Error::Memory) => assert_eq!(key, Key::History),
                // Above a limit, or a limit below another option.
                Err(Error::Range) => {
                    assert!([Key::LimitSoft, Key::LimitHard, Key::Retain].contains(&key));
                }
                result => result.expect("in range"),
            },
            Step::Free(..) | Step::Resize(..) => {}
        }
    }

    fn check_contents(&self) {
        self.live.iter().for_each(|block| block.check(block.size));
    }

    fn free_all(&mut self) {
        while let Some(last) = self.live.len().checked_sub(1) {
            self.free(last, OldSize::Right);
        }
        self.heap().check();
        assert_eq!(self.heap().snapshot().blocks, 0);
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        // SAFETY: nothing uses the heap after this.
        unsafe {
            super::checked::finish(&mut *self.heap);
            super::growth::reserve::note_deleted(&(*self.heap).layout);
            Heap::release(self.heap)
        }
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 1usize..200,
        3 => 200usize..SMALL_MAX + 600,
        1 => SMALL_MAX..160_000,
    ]
}

fn old_size() -> impl Strategy<Value = OldSize> {
    prop_oneof![
        4 => Just(OldSize::Right),
        1 => prop_oneof![Just(0), Just(usize::MAX), 1usize..10_000].prop_map(OldSize::Wrong),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => size().prop_map(Step::Allocate),
        4 => (any::<usize>(), old_size()).prop_map(|(which, old)| Step::Free(which, old)),
        4 => (any::<usize>(), size(), old_size()).prop_map(|(i, n, old)| Step::Resize(i, n, old)),
        1 => Just(Step::Drop),
        1 => Just(Step::ReclaimAll),
        1 => Just(Step::ReclaimSome),
        2 => (0u64..2_000_000, 0u32..3).prop_map(|(after_us, budget_us)| {
            Step::Tick(after_us, budget_us)
        }),
        2 => (0u64..4_000_000).prop_map(Step::Visit),
        1 => setting(),
    ]
}

fn setting() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![Just(0), 100_000i64..4_000_000];
    prop_oneof![
        (0i64..2000).prop_map(|ms| Step::Set(Key::DecayMs, ms)),
        bytes().prop_map(|bytes| Step::Set(Key::Retain, bytes)),
        bytes().prop_map(|bytes| Step::Set(Key::RetainMax, bytes)),
        bytes().prop_map(|bytes| Step::Set(Key::LimitSoft, bytes)),
        bytes().prop_map(|bytes| Step::Set(Key::LimitHard, bytes)),
        (0i64..2).prop_map(|on| Step::Set(Key::Auto, on)),
        (0i64..2).prop_map(|on| Step::Set(Key::History, on)),
    ]
}

/// A burst of blocks of one size, so that spans fill and retire, then single steps.
fn program() -> impl Strategy<Value = Vec<Step>> {
    let burst = (size(), 1usize..80).prop_map(|(size, n)| vec![Step::Allocate(size); n]);
    let single = prop::collection::vec(step(), 1..30);
    prop::collection::vec(prop_oneof![1 => burst, 2 => single], 1..8)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn random_programs_keep_every_invariant(program in program(), page in 0usize..3) {
        let mut tested = Tested::new(FakeOs::new(KERNEL_PAGES[page]), 4 << 20);
        // So that the slow path looks again and again.
        tested.os.world().tick_us = 1000;
        for step in &program {
            tested.run(step);
        }
        tested.check_contents();
        tested.free_all();
    }

    #[test]
    fn failing_system_calls_lose_nothing(
        program in program(),
        failures in prop::collection::vec(any::<bool>(), 1..60),
        page in 0usize..3,
    ) {
        let mut tested = Tested::new(FakeOs::new(KERNEL_PAGES[page]), 4 << 20);
        tested.os.world().failures = failures.into();
        for step in &program {
            tested.run(step);
        }
        tested.check_contents();
        tested.os.world().failures.clear();
        tested.free_all();
        tested.run(&Step::Set(Key::LimitHard, 0));
        prop_assert!(tested.allocate(100_000), "the heap goes on");
        tested.free_all();
        tested.heap().reclaim(Budget::Unlimited);
        prop_assert_eq!(tested.heap().snapshot().free_resident, 0);
    }

    #[test]
    fn after_a_reclaim_the_kernel_holds_what_the_account_says(program in program()) {
        let mut tested = Tested::new(FakeOs::new(4096), 4 << 20);
        for step in &program {
            tested.run(step);
        }
        let outcome = tested.heap().reclaim(Budget::Unlimited);
        prop_assert!(!outcome.more && outcome.refused == 0);
        let snapshot = tested.heap().snapshot();
        let kernel = tested.heap().kernel_resident().expect("mincore") as usize;
        // Every live byte was written, so only pages of the heap's tables may differ: descriptors
        // of pages that no span begins on are counted and were never touched.
        prop_assert!(kernel <= snapshot.resident(), "{kernel} of {snapshot:?}");
        prop_assert!(kernel + snapshot.metadata >= snapshot.resident(), "{kernel} of {snapshot:?}");
        tested.check_contents();
    }
}

#[test]
fn a_full_heap_says_so_and_goes_on() {
    let mut tested = Tested::new(FakeOs::new(4096), 1 << 20);
    while tested.allocate(3000) {}
    tested.heap().check();
    assert!(tested.live.len() > 150, "{} blocks fit", tested.live.len());
    for index in 0..tested.live.len() {
        tested.resize(index, 10, OldSize::Right);
    }
    tested.heap().check();
    tested.free_all();
    assert!(tested.allocate(200_000));
    tested.free_all();
}

#[test]
fn sizes_beyond_the_heap_are_refused() {
    let mut tested = Tested::new(FakeOs::new(4096), 2 << 20);
    for size in [usize::MAX, usize::MAX - 4095, usize::MAX / 2, 1 << 47, 1 << 44, 3 << 20] {
        assert!(!tested.allocate(size), "{size}");
        assert!(tested.allocate(5000) && tested.allocate(20_000));
        for index in 0..tested.live.len() {
            let (at, old) = (tested.live[index].at, tested.live[index].size);
            assert!(tested.call(at, old, size).is_null(), "{size}");
        }
        tested.check_contents();
        tested.heap().check();
    }
    tested.free_all();
}

#[test]
fn size_nought_is_nothing() {
    let mut tested = Tested::new(FakeOs::new(4096), 2 << 20);
    assert!(tested.call(ptr::null_mut(), 0, 0).is_null());
    assert!(tested.call(ptr::null_mut(), 17, 0).is_null());
    tested.heap().check();
}

#[test]
fn everything_freed_goes_back_in_one_call_a_window_and_one_for_its_descriptors() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    for size in [24, 700, 5000, 30_000] {
        (0..200).for_each(|_| assert!(tested.allocate(size)));
    }
    tested.free_all();
    let outcome = tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(outcome.calls, 3, "one range in each of two windows: {outcome:?}");
    let snapshot = tested.heap().snapshot();
    assert_eq!((snapshot.live, snapshot.waste, snapshot.free_resident), (0, 0, 0));
    let descriptors = tested.heap().tables_returned();
    assert!(descriptors.abs_diff(outcome.returned.bytes() / 64) <= 2 * 4096, "{descriptors}");
    let closed = tested.heap().closed_bytes();
    assert_eq!(snapshot.returned + closed, outcome.returned.bytes() + descriptors);
    assert_eq!(tested.heap().reclaim(Budget::Unlimited).calls, 0, "nothing is left");
}

#[test]
fn holes_in_a_living_span_go_back() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..8).for_each(|_| assert!(tested.allocate(8192)));
    (0..7).for_each(|_| tested.free(0, OldSize::Right));
    let outcome = tested.heap().reclaim(Budget::Unlimited);
    assert_eq!(outcome.returned.bytes(), 7 * 8192);
    tested.heap().check();
    tested.check_contents();
    // What comes back into the span counts as resident again.
    (0..7).for_each(|_| assert!(tested.allocate(8192)));
    tested.heap().check();
    tested.free_all();
}

#[test]
fn a_budget_stops_a_pass_and_the_next_goes_on() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    tested.act(&Step::Set(Key::Auto, 0));
    (0..8).for_each(|_| assert!(tested.allocate(4 << 20)));
    tested.free_all();
    os.world().tick_us = 10;
    let mut calls = 0;
    loop {
        let outcome = tested.heap().reclaim(Budget::Until(0));
        assert!(outcome.returned.bytes() <= 1 << 20, "a step is bounded: {outcome:?}");
        calls += 1;
        if !outcome.more {
            break;
        }
    }
    assert!((32..40).contains(&calls), "{calls} steps for 32 MiB");
    assert_eq!(os.world().longest_purge, 1 << 20);
    assert_eq!(tested.heap().snapshot().free_resident, 0);
}

#[test]
fn a_long_block_is_moved_by_the_kernel_and_leaves_no_scar_behind() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    for size in [1 << 16, 1 << 17, 1 << 18, 1 << 19] {
        assert!(tested.allocate(1 << 15));
        let large_growth = tested.live.len() - 1;
        tested.resize(large_growth, size, OldSize::Right);
        // A neighbour behind, so that the next growth must move.
        assert!(tested.allocate(1 << 15));
        tested.resize(large_growth, size * 2, OldSize::Right);
        tested.heap().check();
    }
    assert!(os.world().moves >= 4, "{} moves", os.world().moves);
    tested.check_contents();
    tested.free_all();
    let moves = os.world().moves;
    assert_eq!(os.world().renewals, moves, "each split mapping was renewed");
    assert_eq!(tested.heap().split_mappings.room(), super::SplitMappings::CAPACITY);
}

/// Where there is memory, pages that move in its place would throw it away.
#[test]
fn a_block_is_copied_to_pages_that_have_memory_and_moved_to_others() {
    for (reclaimed, moves) in [(false, 0), (true, 1)] {
        let os = FakeOs::new(4096);
        let mut tested = Tested::new(os.clone(), 64 << 20);
        for size in [4 << 20, 1 << 20, 1 << 16] {
            assert!(tested.allocate(size));
        }
        tested.free(0, OldSize::Right);
        if reclaimed {
            tested.heap().reclaim(Budget::Unlimited);
        }
        // The block behind it is in its way; `free` has put the last one first.
        tested.resize(1, 2 << 20, OldSize::Right);
        assert_eq!(os.world().moves, moves);
        tested.free_all();
    }
}

#[test]
fn a_block_that_moved_and_grew_moves_again_in_pieces() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    assert!(tested.allocate(1 << 16) && tested.allocate(1 << 15));
    // `resize` puts the block last.
    tested.resize(0, 1 << 17, OldSize::Right);
    assert_eq!(os.world().moves, 1);
    tested.resize(1, 1 << 18, OldSize::Right);
    assert_eq!(os.world().moves, 1, "it grew in place behind its split mapping");
    // Too long for the place that the block left.
    assert!(tested.allocate(1 << 17));
    tested.resize(1, 1 << 19, OldSize::Right);
    assert_eq!(os.world().moves, 3, "the split mapping and what is behind it moved apart");
    tested.heap().check();
    tested.check_contents();
    tested.free_all();
    assert_eq!(tested.heap().split_mappings.room(), super::SplitMappings::CAPACITY);
}

#[test]
fn heaps_are_placed_below_the_address_limit_on_the_real_kernel() {
    let at = Kernel.reserve(1 << 36, false).expect("address space");
    assert!(at.addr() + (1 << 36) <= crate::os::ADDRESS_LIMIT);
    // SAFETY: reserved just now.
    unsafe { Kernel.release(at, 1 << 36) };
}

#[test]
fn a_wiped_heap_is_as_new() {
    for size in [100, 5000, 50_000] {
        let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
        for round in 1..4 {
            (0..round * 40).for_each(|_| assert!(tested.allocate(size)));
            // Some of it is free, and some of that is clean, when the heap is deleted.
            (0..round * 10).for_each(|_| tested.free(0, OldSize::Right));
            tested.heap().reclaim(Budget::Unlimited);
            (0..round * 10).for_each(|_| tested.free(0, OldSize::Right));
            tested.live.clear();
            assert!(tested.heap().reset_state(), "{size} bytes, round {round}");
            tested.heap().check();
            let snapshot = tested.heap().snapshot();
            assert_eq!((snapshot.live, snapshot.blocks, snapshot.spans), (0, 0, 0));
            assert!(
                snapshot.free_resident <= super::lifecycle::cached_heap::KEPT_PAGES as usize * 4096
            );
            let kernel = tested.heap().kernel_resident().expect("mincore") as usize;
            assert!(kernel <= snapshot.resident(), "{kernel} of {snapshot:?}");
        }
        (0..100).for_each(|_| assert!(tested.allocate(size)));
        tested.heap().check();
        tested.free_all();
    }
}

#[test]
fn a_heap_that_the_kernel_will_not_purge_or_that_grew_long_is_not_kept() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    (0..40).for_each(|_| assert!(tested.allocate(50_000)));
    tested.os.world().failures = vec![true].into();
    tested.live.clear();
    assert!(!tested.heap().reset_state());
    let mut tested = Tested::new(FakeOs::new(4096), 64 << 20);
    assert!(tested.allocate(10 << 20));
    tested.live.clear();
    assert!(!tested.heap().reset_state());
}

#[test]
fn heaps_of_odd_sizes_fill_up_on_every_kernel_page() {
    for kernel_page in KERNEL_PAGES {
        for reserve in [1 << 20, 1_200_000, 3 << 20, 5_000_000] {
            let mut tested = Tested::new(FakeOs::new(kernel_page), reserve);
            while tested.allocate(12_000) {}
            while tested.allocate(100) {}
            tested.heap().check();
            tested.free_all();
        }
    }
}
