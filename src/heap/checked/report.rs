//! What is said before the process stops: what is wrong, with which block, where, and since when.
//!
//! A line each, without allocating, for the fault of an inaccessible page comes by a signal.

use core::fmt::{self, Display};

use super::block::{HEADER, Header, HeaderState};
use super::guarded_pool::{AllocTrace, GuardedSlot, SlotState};
use super::pattern::{self, FREE_FILL};
use super::{Checked, Checking, Home, Live, RecordedCall, fault_registry, sanitizer};
use crate::bug;
use crate::heap::blocks::diagnose;
use crate::heap::slots::descriptor::PageKind;
use crate::heap::{Heap, ReclaimHooks};
use crate::os::backtrace::Backtrace;
use crate::os::fault::{self, Access};
use crate::os::{Os, this_thread};
use crate::units::PageIndex;

/// How many bytes are shown.
const SHOWN: usize = 16;

/// Bytes in hexadecimal, at most [`SHOWN`].
struct Hex {
    bytes: [u8; SHOWN],
    count: usize,
}

impl Hex {
    /// The first of `bytes` bytes at `at`, as they are now.
    ///
    /// # Safety
    ///
    /// They are readable.
    unsafe fn at(at: *mut u8, bytes: usize) -> Hex {
        let mut hex = Hex { bytes: [0; SHOWN], count: bytes.min(SHOWN) };
        // SAFETY: the caller's promise; there is room for as many, and elsewhere.
        unsafe { at.copy_to_nonoverlapping(hex.bytes.as_mut_ptr(), hex.count) };
        hex
    }
}

impl Display for Hex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes[..self.count].iter().try_for_each(|byte| write!(out, " {byte:02x}"))
    }
}

/// A number of bytes, with its unit.
struct Bytes(usize);

impl Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// Where an address lies, seen from a block.
struct BlockOffset {
    bytes: isize,
    size: usize,
}

impl Display for BlockOffset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlockOffset { bytes: offset, size } = *self;
        let distance = offset.unsigned_abs();
        match offset {
            ..0 => write!(out, "offset {offset}, {} before the block", Bytes(distance)),
            _ if distance < size => write!(out, "offset {offset}, inside of the block"),
            _ => write!(out, "offset {offset}, {} past its end", Bytes(distance - size + 1)),
        }
    }
}

fn offset_in(live: &Live, at: usize) -> BlockOffset {
    BlockOffset { bytes: at.wrapping_sub(live.at.addr()).cast_signed(), size: live.size }
}

fn log_block(live: &Live) {
    let Live { at, size, number, home } = *live;
    match home {
        Home::Slot(slot) => {
            bug::log_line(format_args!("  block: {at:p}, {}, in a slot of {slot}", Bytes(size)));
        }
        Home::Large(_) => {
            bug::log_line(format_args!("  block: {at:p}, {}, on pages of its own", Bytes(size)));
        }
        Home::Guarded(_) => {}
    }
    bug::log_line(format_args!("  allocated: number {number} of this heap's blocks"));
}

fn log_freed(freed: u64) {
    bug::log_line(format_args!("  freed: number {freed} of those that were freed"));
}

/// Logs where a guarded block was allocated, and where it was freed.
fn log_traces(slot: &GuardedSlot) {
    let log_trace = |what: &str, trace: &AllocTrace| {
        let AllocTrace { number, thread, backtrace } = trace;
        bug::log_line(format_args!("  {what} number {number}, by thread {thread:#x}, from:"));
        backtrace.write();
    };
    let GuardedSlot { at, size, .. } = *slot;
    bug::log_line(format_args!("  block: {at:p}, {}, in a guarded slot", Bytes(size)));
    log_trace("allocated:", &slot.allocated);
    if slot.used == SlotState::Freed {
        log_trace("freed:", &slot.freed);
    }
}

/// Logs what bytes are at an address, and which should be.
fn log_damage(live: &Live, at: *mut u8, bytes: usize, pattern: u8) {
    // SAFETY: the caller found a wrong byte among those that it has read.
    let (wrong, shown) = unsafe { (pattern::count_others(at, bytes, pattern), Hex::at(at, bytes)) };
    let offset = offset_in(live, at.addr());
    bug::log_line(format_args!(
        "  damage: from {offset}; {} not the {pattern:02x} put there",
        Bytes(wrong)
    ));
    bug::log_line(format_args!("  bytes there:{shown}"));
}

/// Says in which call it was found, and from where that came; then stops.
fn finish(state: &Checked) -> ! {
    let (blocks, frees, thread) = (state.allocations, state.frees, this_thread());
    bug::log_line(format_args!(
        "  found: by thread {thread:#x}, after {blocks} blocks were allocated and {frees} freed"
    ));
    bug::log_line(format_args!("  found in: {}, from:", state.call));
    log_backtrace_and_abort()
}

/// Says which functions this thread is in; then stops.
fn log_backtrace_and_abort() -> ! {
    // A program that has a handler of its own now does not need it any more.
    fault::reinstall();
    Backtrace::here().write();
    sanitizer::work_ends();
    bug::abort()
}

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    fn log_heading(&self, what: fmt::Arguments<'_>) {
        bug::log_line(format_args!("heap {:p}: {what}", self.heap.base));
    }

    /// Logs what is known of a live block: where it was allocated, if it is guarded.
    fn log_live(&self, live: &Live) {
        match live.home {
            Home::Guarded(index) => log_traces(&self.state.pool.slots[index]),
            _ => log_block(live),
        }
    }

    /// Reports that this thread came in while another one, or itself, was inside.
    #[cold]
    pub(super) fn report_two_threads(&self, this: usize, other: usize, call: RecordedCall) -> ! {
        if this == other {
            self.log_heading(format_args!(
                "it was called while it was at work: by a signal handler of the same thread"
            ));
        } else {
            self.log_heading(format_args!("two threads use it at once"));
        }
        bug::log_line(format_args!("  inside: thread {other:#x}, in {}", self.state.call));
        bug::log_line(format_args!("  came in: thread {this:#x}, with {call}, from:"));
        log_backtrace_and_abort()
    }

    /// Reports that another thread came in while this one was inside. 0: it has left.
    #[cold]
    pub(super) fn report_another_came_in(&self, this: usize, other: usize) -> ! {
        self.log_heading(format_args!("two threads use it at once"));
        match other {
            0 => bug::log_line(format_args!("  came in: a thread that has left meanwhile")),
            _ => bug::log_line(format_args!(
                "  came in: thread {other:#x}, with {}",
                self.state.call
            )),
        }
        bug::log_line(format_args!("  inside: thread {this:#x}, from:"));
        log_backtrace_and_abort()
    }

    #[cold]
    pub(super) fn report_wrong_size(&self, live: &Live) -> ! {
        let debug_stats = self.state.call.old_size;
        self.log_heading(format_args!(
            "wrong size: osize is {debug_stats} for a block of {}",
            Bytes(live.size)
        ));
        self.log_live(live);
        finish(self.state)
    }

    /// Reports that something was written beside a live block.
    #[cold]
    pub(super) fn report_written(&self, live: &Live, at: *mut u8, bytes: usize, pattern: u8) -> ! {
        if at < live.at {
            self.log_heading(format_args!("underflow: something was written before a block"));
        } else {
            self.log_heading(format_args!(
                "overflow: something was written past the end of a block"
            ));
        }
        self.log_live(live);
        log_damage(live, at, bytes, pattern);
        finish(self.state)
    }

    /// Reports that something was written into, or beside, a block that was freed.
    #[cold]
    pub(super) fn report_written_freed(
        &self,
        live: &Live,
        freed: u64,
        at: *mut u8,
        bytes: usize,
    ) -> ! {
        self.log_heading(format_args!(
            "use after free: something was written into a block that was freed"
        ));
        log_block(live);
        log_freed(freed);
        log_damage(live, at, bytes, FREE_FILL);
        finish(self.state)
    }

    /// Reports that what stands before a block was written over.
    #[cold]
    pub(super) fn report_header(&self, at: *mut u8, slot_bytes: usize, freed: Option<u64>) -> ! {
        self.log_heading(format_args!(
            "underflow: something was written before a block, or past the end of the one before"
        ));
        bug::log_line(format_args!("  block: {at:p}, in a slot of {slot_bytes}"));
        // SAFETY: a slot begins with its header, and is readable.
        let shown = unsafe { Hex::at(at.wrapping_sub(HEADER), HEADER) };
        bug::log_line(format_args!("  damage: in the {HEADER} bytes before it"));
        bug::log_line(format_args!("  bytes there:{shown}"));
        if let Some(freed) = freed {
            log_freed(freed);
        }
        finish(self.state)
    }

    /// Reports a pointer that is no live block.
    #[cold]
    pub(super) fn report_pointer(&mut self, at: *mut u8) -> ! {
        if let Some(offset) = self.state.pool.offset_of(at.addr()) {
            self.report_guarded_pointer(at, offset);
        }
        if let Some(slot_size) = self.slot_of(at) {
            self.report_slot(at, slot_size);
        }
        if let Some(page) = self.large_around(at.addr()) {
            let (live, gone) = self.large_live(page);
            self.report_inside(at, &live, gone);
        }
        if let Some(live) = self.slot_around(at) {
            self.report_inside(at, &live, false);
        }
        let offset = at.addr().wrapping_sub(self.heap.base.addr());
        let wrong = diagnose::what_is_wrong(self.heap, at.wrapping_sub(HEADER), offset);
        self.log_heading(format_args!("wrong pointer: {at:p} {wrong}"));
        let own = self.heap.base.addr();
        if let Some(other) = fault_registry::heap_around(at.addr()).filter(|other| *other != own) {
            bug::log_line(format_args!("  it lies in heap {other:#x}"));
        }
        finish(self.state)
    }

    fn report_guarded_pointer(&self, at: *mut u8, offset: usize) -> ! {
        let (index, _) = self.state.pool.nearest(offset);
        let slot = &self.state.pool.slots[index];
        if slot.used == SlotState::Freed && slot.at == at {
            self.log_heading(format_args!("double free: {at:p} is a block that was freed before"));
        } else {
            self.log_heading(format_args!(
                "wrong pointer: {at:p} is near a block, not at its start"
            ));
        }
        log_traces(slot);
        finish(self.state)
    }

    /// Reports a pointer to where a block of a slot that is in use starts.
    fn report_slot(&self, at: *mut u8, slot_size: usize) -> ! {
        // SAFETY: a slot that is in use has a header: Q1.
        let header = unsafe { at.sub(HEADER).cast::<Header>().read() };
        match header.state(self.state.secret, at.addr()) {
            HeaderState::Freed => {
                let (size, number) = (header.size(), header.number());
                self.report_twice(&Live { at, size, number, home: Home::Slot(slot_size) })
            }
            _ => self.report_header(at, slot_size, None),
        }
    }

    fn report_twice(&self, live: &Live) -> ! {
        self.log_heading(format_args!(
            "double free: {:p} is a block that was freed before",
            live.at
        ));
        log_block(live);
        if let Some(entry) = self.state.quarantine.find(live.at) {
            log_freed(entry.freed);
        }
        finish(self.state)
    }

    fn report_inside(&self, at: *mut u8, live: &Live, gone: bool) -> ! {
        if gone && live.at == at {
            self.report_twice(live);
        }
        let offset = offset_in(live, at.addr());
        let freed = if gone { " that was freed" } else { "" };
        self.log_heading(format_args!(
            "wrong pointer: {at:p} points into a block{freed}, not to its start"
        ));
        bug::log_line(format_args!("  pointer: to {offset}"));
        self.log_live(live);
        finish(self.state)
    }

    /// The block of the slot in use that an address lies in.
    fn slot_around(&mut self, at: *mut u8) -> Option<Live> {
        let page = PageIndex::of(at.addr().wrapping_sub(self.heap.base.addr()));
        if page < self.heap.layout.first || page >= self.heap.runs.top {
            return None;
        }
        let descriptor = self.heap.descriptor(page);
        if !matches!(descriptor.kind(), PageKind::Span | PageKind::SpanRest) {
            return None;
        }
        let shape = descriptor.shape();
        let first = descriptor.first_page(page);
        let start = self.heap.address(first).wrapping_add(shape.slack());
        let slot_size = shape.slot_size as usize;
        let slot = at.addr().checked_sub(start.addr())? / slot_size;
        let block = start.wrapping_add(slot * slot_size + HEADER);
        self.slot_of(block)?;
        // SAFETY: a slot that is in use has a header: Q1.
        let header = unsafe { block.sub(HEADER).cast::<Header>().read() };
        let (size, number) = (header.size(), header.number());
        let is_live = header.state(self.state.secret, block.addr()) == HeaderState::Live;
        is_live.then_some(Live { at: block, size, number, home: Home::Slot(slot_size) })
    }
}

/// Reports a forbidden access, if it was to a page of the heap or of its guarded slots.
///
/// # Safety
///
/// The heap is live and has a state. It may be at work: it is only looked at.
pub(super) unsafe fn report_fault<O: Os, R: ReclaimHooks>(
    heap: *mut u8,
    address: usize,
    access: Access,
) {
    let heap = heap.cast::<Heap<O, R>>();
    // SAFETY: the caller's promise; this thread was stopped in what it did, and will not go on if
    // anything is found.
    let checking = unsafe { Checking { heap: &mut *heap, state: &mut *(*heap).checked } };
    if let Some(offset) = checking.state.pool.offset_of(address) {
        report_guarded_fault(&checking, address, offset, access);
    }
    report_large_fault(checking, address, access);
}

fn verb(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "written",
        Access::Unknown => "read or written",
    }
}

fn report_guarded_fault<O: Os, R: ReclaimHooks>(
    checking: &Checking<'_, O, R>,
    address: usize,
    offset: usize,
    access: Access,
) -> ! {
    let (index, _) = checking.state.pool.nearest(offset);
    let slot = &checking.state.pool.slots[index];
    let (at, size, number) = (slot.at, slot.size, slot.allocated.number);
    let live = Live { at, size, number, home: Home::Guarded(index) };
    report_access(checking, &live, slot.used == SlotState::Freed, address, access, Some(slot))
}

fn report_large_fault<O: Os, R: ReclaimHooks>(
    mut checking: Checking<'_, O, R>,
    address: usize,
    access: Access,
) {
    let offset = address.wrapping_sub(checking.heap.base.addr());
    if offset >= checking.heap.committed() {
        return;
    }
    if let Some(page) = checking.large_around(address) {
        let (live, gone) = checking.large_live(page);
        report_access(&checking, &live, gone, address, access, None);
    }
}

fn report_access<O: Os, R: ReclaimHooks>(
    checking: &Checking<'_, O, R>,
    live: &Live,
    freed: bool,
    address: usize,
    access: Access,
    slot: Option<&GuardedSlot>,
) -> ! {
    let (verb, offset) = (verb(access), offset_in(live, address));
    match (freed, offset.bytes < 0) {
        (true, _) => checking.log_heading(format_args!("use after free: a freed block was {verb}")),
        (_, true) => {
            checking.log_heading(format_args!("underflow: memory before a block was {verb}"))
        }
        _ => checking
            .log_heading(format_args!("overflow: memory past the end of a block was {verb}")),
    }
    bug::log_line(format_args!("  access: at {address:#x}, {offset}"));
    match slot {
        Some(slot) => log_traces(slot),
        None => {
            log_block(live);
            if let Some(entry) = checking.state.quarantine.find(live.at) {
                log_freed(entry.freed);
            }
        }
    }
    bug::log_line(format_args!("  found: by the fault of thread {:#x}, from:", this_thread()));
    log_backtrace_and_abort()
}
