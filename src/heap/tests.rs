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
mod full;
mod heap_cache;
mod limits;
mod moves;
mod pace;
mod plans;
mod reclaim;
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
use crate::os::Os;
use crate::os::fake::FakeOs;
use crate::reclaim::{Budget, Reclaim};

/// Sizes of kernel pages that the heap must live with.
const KERNEL_PAGES: [usize; 3] = [4096, 16384, 65536];

/// A heap that checks itself and every block's contents.
struct Tested {
    os: FakeOs,
    heap: *mut Heap<FakeOs, Reclaim>,
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

    fn heap(&mut self) -> &mut Heap<FakeOs, Reclaim> {
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
                self.os.state().now_us += after_us;
                self.heap().tick(budget_us);
            }
            Step::Visit(after_us) => {
                self.os.state().now_us += after_us;
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
        tested.os.state().tick_us = 1000;
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
        tested.os.state().failures = failures.into();
        for step in &program {
            tested.run(step);
        }
        tested.check_contents();
        tested.os.state().failures.clear();
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
