//! Checked heaps: every block verified when it comes back, for finding memory bugs in C
//! modules and FFI code.
//!
//! | file           | concern                                                      | unsafe |
//! |----------------|--------------------------------------------------------------|--------|
//! | this one       | which checks a call goes through, and when a heap is checked | yes    |
//! | `call`         | what a host asks, and which thread is inside                 | yes    |
//! | `block`        | a small block in its slot: header, sizes                     | no     |
//! | `pattern`      | patterns in memory that the program may write to             | yes    |
//! | `small`        | small blocks: handed out, and the shortest way back          | yes    |
//! | `large`        | large blocks between inaccessible pages                      | yes    |
//! | `guarded_pool` | guarded slots: a few small blocks between such pages         | yes    |
//! | `sample`       | which blocks get a guarded slot, and when                    | no     |
//! | `verify`       | the live block at an address; what was written beside it     | yes    |
//! | `release`      | a block that is freed, until the heap has it back            | yes    |
//! | `quarantine`   | freed blocks that are held back                              | no     |
//! | `fault_registry` | which heap a fault is in; how many mappings there may be     | yes    |
//! | `teardown`     | the last look at a heap that is deleted                      | yes    |
//! | `report`       | what is said before the process stops                        | yes    |
//!
//! The hot path knows nothing of this. A heap that is checked keeps it shut: its table says for
//! every size that it has the bin of size 0, which is always empty, and its hot path believes that
//! nothing is committed. So each call leaves for one of the functions for rare cases, which look
//! here first. Below, the blocks are ordinary ones of the heap, a little larger than asked for, and
//! all that the heap does for blocks it does for these.
//!
//! Where blocks are only sampled the hot path is open, and one refill in many hands out a block of
//! a guarded slot. Its address is not one of the heap's, so it comes back by the rare cases too.
//!
//! The state of the layer, a hundred KiB or two, comes from the process's own allocator: when the
//! heap is made, when the first guarded slot is used, and while the quarantine fills.
//!
//! - Q1: a slot of the heap that is not free has a header, sealed for its state.
//! - Q2: a block that is held back is in use for the heap, and nobody's.

mod block;
mod call;
mod fault_registry;
mod guarded_pool;
mod large;
mod pattern;
mod quarantine;
mod release;
mod report;
mod sample;
mod small;
mod teardown;
mod verify;

pub(crate) use call::{ApiCall, ApiGuard};
pub(super) use teardown::finish;

use core::ptr;
use core::sync::atomic::AtomicUsize;

use super::blocks::plain;
use super::growth::refusal::noted;
use super::slots::class::{QUICK_MAX, SMALL_MAX};
use super::{Heap, ReclaimHooks, sanitizer};
use crate::options::Key;
use crate::os::Os;
use crate::units::PageIndex;
use block::{HEADER, Header};
use call::RecordedCall;
use fault_registry::RegisteredHeap;
use guarded_pool::{GuardedPool, SlotState};
use large::GuardBudget;
use pattern::REDZONE;
use quarantine::Quarantine;

/// What the layer keeps with a heap.
pub(crate) struct Checked {
    /// Every block is checked; else only those in guarded slots.
    every: bool,
    /// Pages may be made inaccessible: a fault there would find the heap.
    may_guard: bool,
    /// Goes into every seal.
    secret: u64,
    /// The thread that is inside; 0: none.
    inside: AtomicUsize,
    call: RecordedCall,
    /// Blocks handed out so far, and taken back. Where blocks are sampled, of those.
    allocations: u64,
    frees: u64,
    /// Live blocks but those in guarded slots, and the bytes asked for in them.
    live: u64,
    live_bytes: usize,
    /// Large blocks that were freed and whose pages stay inaccessible, since the kernel refused.
    lost: u64,
    quarantine: Quarantine,
    budget: GuardBudget,
    pool: GuardedPool,
    /// Turns with each use.
    rng: u64,
    /// Blocks, or refills, until one is to go to a guarded slot.
    countdown: u32,
    /// When it may.
    next_us: u64,
    registered: RegisteredHeap,
}

/// A live block.
#[derive(Clone, Copy)]
struct Live {
    at: *mut u8,
    size: usize,
    /// How many blocks had been handed out with this one.
    number: u64,
    home: Home,
}

/// Where a block lies.
#[derive(Clone, Copy)]
enum Home {
    /// In a slot of this many bytes.
    Slot(usize),
    /// On pages from this one on.
    Large(PageIndex),
    /// In this guarded slot.
    Guarded(usize),
}

/// A checked heap during a call.
struct Checking<'heap, O: Os, R: ReclaimHooks> {
    heap: &'heap mut Heap<O, R>,
    state: &'heap mut Checked,
}

/// Fetches what stands there into the caches. Any address will do.
fn prefetch(at: *mut u8) {
    // SAFETY: it is no access, and no fault.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Where blocks can be: the start, the bytes, and how many of them are committed.
    fn for_blocks(&self) -> (*mut u8, usize, usize) {
        let first = self.layout.first.offset();
        let bytes = self.layout.limit.offset() - first;
        (self.base.wrapping_add(first), bytes, self.committed() - first)
    }

    /// Checks the heap as its option says. Before it has blocks.
    pub(super) fn check_as_asked(&mut self) {
        match self.options.get(Key::Checked) {
            _ if sanitizer::is_there() => self.start_checking(true),
            0 => {}
            how => self.start_checking(how == 1),
        }
    }

    /// Starts to check every block, or a few. The heap has none.
    fn start_checking(&mut self, every: bool) {
        let seed = self.os.now_us() ^ self.os.random();
        let state = Box::into_raw(Box::new(Checked {
            every,
            may_guard: false,
            secret: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            inside: AtomicUsize::new(0),
            call: RecordedCall::to(ApiCall::Delete),
            allocations: 0,
            frees: 0,
            live: 0,
            live_bytes: 0,
            lost: 0,
            quarantine: Quarantine::EMPTY,
            budget: GuardBudget::FULL,
            pool: GuardedPool::NONE,
            rng: seed | 1,
            countdown: 0,
            next_us: 0,
            registered: RegisteredHeap {
                heap: self.base,
                report_fault: report::report_fault::<O, R>,
            },
        }));
        self.checked = state;
        // SAFETY: made just now, and nobody else has it; it lives until the heap is deleted.
        unsafe {
            // A tool finds what a page would.
            let reservation = (self.range_start().addr(), self.layout.bytes);
            let registered = &raw mut (*state).registered;
            let is_registered = fault_registry::add(&self.os, registered, self.base, reservation);
            (*state).may_guard = is_registered && !sanitizer::is_there();
            (*state).next_sample();
        }
        let (start, bytes, _) = self.for_blocks();
        sanitizer::heap_made(start, bytes);
        if every {
            self.options.put(Key::Checked, 1);
            self.bin_of_size = [0; QUICK_MAX + 1];
            self.committed_complement = !0;
            self.small_max = 0;
        }
    }
}

/// Makes sure that every block of a heap is checked; stops when it has blocks that are not.
///
/// # Safety
///
/// The heap is live and nobody else uses it.
pub(crate) unsafe fn check_every_block<O: Os, R: ReclaimHooks>(heap: *mut Heap<O, R>) {
    // SAFETY: the caller's promise: no other reference to the heap exists. It has no blocks when
    // its state is replaced.
    unsafe {
        if (*heap).fast_path_disabled() {
            return;
        }
        let blocks = (*heap).live_blocks();
        crate::bug::ensure!(
            blocks == 0,
            "heap {heap:p}: ebb_alloc_checked was called on a heap that has {blocks} blocks of \
             ebb_alloc: give it to lua_newstate, or set EBBTIDE_CHECKED=1, before the first block"
        );
        teardown::forget(&mut *heap);
        (*heap).start_checking(true);
    }
}

/// Allocates a block of at least one byte; where blocks are sampled, a small one.
///
/// # Safety
///
/// As for [`alloc`](super::alloc); the heap has a state.
#[inline(never)]
pub(super) unsafe extern "C" fn allocate<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise; the state is no part of the heap.
    let mut checking = unsafe { Checking { heap: &mut *heap, state: &mut *(*heap).checked } };
    if !checking.state.every {
        let block = checking.sample(size);
        // SAFETY: the caller's promise, with a small block.
        let block = if block.is_null() { unsafe { plain::refill(heap, size) } } else { block };
        // SAFETY: as above.
        return unsafe { noted(heap, block, size) };
    }
    checking.enter(RecordedCall { block: ptr::null_mut(), old_size: 0, new_size: size });
    let block = checking.allocate(size);
    checking.leave();
    // SAFETY: the caller's promise.
    unsafe { noted(heap, block, size) }
}

/// Resizes or frees a block that is checked, or from outside.
///
/// # Safety
///
/// As for [`alloc`](super::alloc); the heap has a state, and the block is not null.
#[inline(never)]
pub(super) unsafe extern "C" fn resize<O: Os, R: ReclaimHooks>(
    heap: *mut Heap<O, R>,
    block: *mut u8,
    old_size: usize,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: the caller's promise; the state is no part of the heap.
    let mut checking = unsafe { Checking { heap: &mut *heap, state: &mut *(*heap).checked } };
    checking.enter(RecordedCall { block, old_size, new_size });
    // Where blocks are sampled, none of the heap's own comes here.
    let done = match checking.intact_small(block, old_size) {
        Some(live) if new_size > 0 => Some(checking.move_block(live, new_size)),
        Some(live) => {
            checking.free(live);
            Some(ptr::null_mut())
        }
        None => checking.resize_any(block, old_size, new_size),
    };
    checking.leave();
    match done {
        Some(block) if block.is_null() && new_size > 0 => {
            // SAFETY: the caller's promise.
            unsafe { noted(heap, block, new_size) }
        }
        Some(block) => block,
        // SAFETY: the caller's promise.
        None => unsafe { plain::resize_foreign(heap, block, new_size) },
    }
}

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut u8 {
        self.state.allocations += 1;
        self.state.countdown -= 1;
        if self.state.countdown == 0 {
            self.state.next_sample();
            let block = self.take_guarded(size);
            if !block.is_null() {
                return block;
            }
        }
        let mut block = match size {
            ..=block::SMALL_MAX => self.place_small(size),
            _ => self.place_large(size),
        };
        if block.is_null() && self.release_all() {
            block = self.place_again(size);
        }
        if !block.is_null() {
            self.state.live += 1;
            self.state.live_bytes += size;
        }
        block
    }

    /// Places a block after all that was held back went.
    #[cold]
    #[inline(never)]
    fn place_again(&mut self, size: usize) -> *mut u8 {
        match size {
            ..=block::SMALL_MAX => self.place_small(size),
            _ => self.place_large(size),
        }
    }

    /// Resizes or frees a block that is not small, or not sound, or guarded. `None`: it is not
    /// checked.
    #[inline(never)]
    fn resize_any(&mut self, block: *mut u8, old_size: usize, new_size: usize) -> Option<*mut u8> {
        let is_guarded = self.state.pool.offset_of(block.addr()).is_some();
        let is_outside = !is_guarded && self.heap.foreign_of(block).is_some();
        if is_outside || !(is_guarded || self.state.every) {
            return None;
        }
        let live = self.live_block(block);
        // Where blocks are sampled a wrong size stays a hint: it does no harm.
        if self.state.every && live.size != old_size {
            let may_be = new_size == 0 && old_size == block::UPVALUES_AT;
            // SAFETY: a live block of this size, which is beyond these bytes when they are read.
            let kind = || unsafe { live.at.add(block::KIND_AT).cast::<[u8; 3]>().read() };
            if !may_be || !block::is_unfinished_function(live.size, kind) {
                self.report_wrong_size(&live);
            }
        }
        self.verify(&live);
        if new_size == 0 {
            self.free(live);
            return Some(ptr::null_mut());
        }
        Some(self.move_block(live, new_size))
    }

    /// Places a block that will be checked no more. Null: there is no memory.
    fn place_unchecked(&mut self, size: usize) -> *mut u8 {
        // SAFETY: the heap is this call's alone.
        unsafe {
            match size {
                ..=SMALL_MAX => plain::allocate_small(self.heap, size),
                _ => plain::place_large(self.heap, size),
            }
        }
    }

    /// Moves a block, so that pointers to where it was are found to be stale.
    #[inline(never)]
    fn move_block(&mut self, live: Live, size: usize) -> *mut u8 {
        let new = if self.state.every { self.allocate(size) } else { self.place_unchecked(size) };
        if !new.is_null() {
            // SAFETY: both are live blocks of at least that many bytes, and apart.
            unsafe { ptr::copy_nonoverlapping(live.at, new, live.size.min(size)) };
            self.free(live);
        } else if size <= live.size {
            // A shrink never fails: the block stays where it is.
            self.shrink(&live, size);
            return live.at;
        }
        new
    }

    fn shrink(&mut self, live: &Live, size: usize) {
        match live.home {
            Home::Large(page) => self.shrink_large(live, page, size),
            Home::Guarded(index) => self.state.pool.resized(index, size),
            Home::Slot(_) => {
                let header = Header::new(self.state.secret, live.at.addr(), live.number, size);
                // SAFETY: the header is the block's.
                unsafe { live.at.sub(HEADER).cast::<Header>().write(header) };
                // When it is freed, no more than this is counted as freed.
                let less = block::slot_bytes(live.size) - block::slot_bytes(size);
                self.heap.requested_bytes = self.heap.requested_bytes.wrapping_sub(less as u64);
            }
        }
        if !matches!(live.home, Home::Guarded(_)) {
            self.state.live_bytes -= live.size - size;
        }
        // SAFETY: the block's own bytes, which it has no more.
        unsafe { pattern::fill(live.at.wrapping_add(size), live.size - size, REDZONE) };
        sanitizer::shrunk(live.at, live.size, size);
    }
}
