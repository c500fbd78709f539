//! What a host asks of a checked heap, and which thread is inside.
//!
//! Both threads look and neither locks: they miss each other at times, but not for long.

use core::fmt::{self, Display};
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::Ordering;

use super::{Checking, sanitizer};
use crate::heap::{Heap, ReclaimHooks};
use crate::os::{Os, this_thread};

/// A call that is not for a block.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum ApiCall {
    Delete,
    Reclaim,
    Tick,
    NextTick,
    Pressure,
    StatsRead,
    HistoryRead,
    Set,
    Get,
}

const NAMES: [&str; ApiCall::Get as usize + 1] = [
    "ebb_heap_delete or the end of the VM",
    "ebb_reclaim",
    "ebb_tick",
    "ebb_next_tick",
    "ebb_pressure",
    "ebb_stats_read",
    "ebb_history_read",
    "ebb_set",
    "ebb_get",
];

impl ApiCall {
    pub(crate) fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// A call, for reports. One for nothing and to nothing is never noted, since it does nothing: such
/// a one stands for another function, with its number for the old size.
#[derive(Clone, Copy)]
pub(super) struct RecordedCall {
    pub(super) block: *mut u8,
    pub(super) old_size: usize,
    pub(super) new_size: usize,
}

impl RecordedCall {
    pub(super) const fn to(function: ApiCall) -> RecordedCall {
        RecordedCall { block: ptr::null_mut(), old_size: function as usize, new_size: 0 }
    }
}

impl Display for RecordedCall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordedCall { block, old_size, new_size } = *self;
        match NAMES.get(old_size) {
            Some(name) if block.is_null() && new_size == 0 => out.write_str(name),
            _ => write!(out, "ebb_alloc(heap, {block:p}, {old_size}, {new_size})"),
        }
    }
}

/// A heap during a call that is not for a block.
pub(crate) struct ApiGuard<'heap, O: Os, R: ReclaimHooks>(&'heap mut Heap<O, R>);

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Begins a call that is not for a block. Stops when another thread is inside.
    pub(crate) fn api_guard(&mut self, function: ApiCall) -> ApiGuard<'_, O, R> {
        if let Some(mut checking) = self.checking_every() {
            checking.enter(RecordedCall::to(function));
        }
        ApiGuard(self)
    }

    /// The heap during a call, if every block is checked.
    pub(super) fn checking_every(&mut self) -> Option<Checking<'_, O, R>> {
        // SAFETY: null, or live as long as the heap, and no part of it.
        let state = unsafe { self.checked.as_mut() }?;
        state.every.then_some(Checking { heap: self, state })
    }
}

impl<O: Os, R: ReclaimHooks> Drop for ApiGuard<'_, O, R> {
    fn drop(&mut self) {
        if let Some(mut checking) = self.0.checking_every() {
            checking.leave();
        }
    }
}

impl<O: Os, R: ReclaimHooks> Deref for ApiGuard<'_, O, R> {
    type Target = Heap<O, R>;

    fn deref(&self) -> &Heap<O, R> {
        self.0
    }
}

impl<O: Os, R: ReclaimHooks> DerefMut for ApiGuard<'_, O, R> {
    fn deref_mut(&mut self) -> &mut Heap<O, R> {
        self.0
    }
}

impl<O: Os, R: ReclaimHooks> Checking<'_, O, R> {
    /// Notes that this thread is inside; stops when another one is.
    #[inline(always)]
    pub(super) fn enter(&mut self, call: RecordedCall) {
        sanitizer::work_begins();
        if self.state.every {
            let (this, other) = (this_thread(), self.state.inside.load(Ordering::Relaxed));
            if other != 0 {
                self.report_two_threads(this, other, call);
            }
            self.state.inside.store(this, Ordering::Relaxed);
        }
        // One by one: a call that has to be in memory as a whole makes the processor wait for it.
        let RecordedCall { block, old_size, new_size } = call;
        self.state.call.block = block;
        self.state.call.old_size = old_size;
        self.state.call.new_size = new_size;
    }

    /// Notes that this thread is done; stops when another one came in meanwhile.
    #[inline(always)]
    pub(super) fn leave(&mut self) {
        if self.state.every {
            let (this, now) = (this_thread(), self.state.inside.load(Ordering::Relaxed));
            if now != this {
                self.report_another_came_in(this, now);
            }
            self.state.inside.store(0, Ordering::Relaxed);
        }
        sanitizer::work_ends();
    }
}
