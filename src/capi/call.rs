//! What the functions have in common: the heap that a call is for, checks of structures that are
//! handed in, and results.

use core::ffi::c_int;
use core::ops::{Deref, DerefMut};
use core::{ptr, slice};

use super::types::*;
use crate::error::Error;
use crate::heap;
use crate::heap::checked::{ApiCall, ApiGuard};
use crate::os::Kernel;
use crate::reclaim::KernelHeap as Heap;
use crate::reclaim::{Outcome, Reclaim};
use crate::vm::Turn;

/// A heap during a call that is not for a block, and the turn of the thread that calls.
pub(super) struct HeapCall<'heap> {
    /// Dropped first: the turn is still this thread's then.
    heap: ApiGuard<'heap, Kernel, Reclaim>,
    _turn: Turn,
}

impl Deref for HeapCall<'_> {
    type Target = Heap;

    fn deref(&self) -> &Self::Target {
        &self.heap
    }
}

impl DerefMut for HeapCall<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.heap
    }
}

/// The heap of a call that is not for a block, until that returns; `None`: it is NULL.
///
/// # Safety
///
/// `heap` is NULL, or live, and no other thread uses it unless its VM is shared.
pub(super) unsafe fn heap_in<'heap>(
    heap: *mut ebb_heap,
    function: ApiCall,
) -> Option<HeapCall<'heap>> {
    let heap = heap.cast::<Heap>();
    if heap.is_null() {
        return None;
    }
    heap::refuse_deleted(heap.addr(), function);
    // SAFETY: the caller's promise; from the turn on this thread is alone in the heap.
    unsafe {
        let turn = Turn::wait(heap);
        (*heap).note_background();
        Some(HeapCall { heap: (*heap).api_guard(function), _turn: turn })
    }
}

/// What a call that returned memory tells its caller.
pub(super) fn result_of(call: &str, outcome: &Outcome, errno: i32) -> c_int {
    if outcome.more {
        return EBB_MORE;
    }
    if outcome.refused == 0 {
        return EBB_OK;
    }
    let Outcome { refused, .. } = outcome;
    let error = match errno {
        0 => Error::System
            .because(format_args!("{call}: the kernel refused to take {refused} ranges back")),
        errno => Error::System.because(format_args!(
            "{call}: the kernel refused to take {refused} ranges back: {}",
            std::io::Error::from_raw_os_error(errno)
        )),
    };
    error as c_int
}

/// The budget in a pass's options, 0 for none; or the result that says what is wrong with them.
///
/// # Safety
///
/// Both are NULL or point to as many bytes as their `size` says.
pub(super) unsafe fn budget_of(
    options: *const ebb_reclaim_options,
    report: *const ebb_reclaim_report,
) -> Result<u32, c_int> {
    // SAFETY: the caller's promise: `size` is a structure's first field, and the budget is read
    // only when `size` covers it.
    unsafe {
        if !report.is_null() && (*report).size < size_of::<usize>() {
            return Err(too_small("ebb_reclaim_report"));
        }
        if options.is_null() {
            Ok(0)
        } else if (*options).size < size_of::<ebb_reclaim_options>() {
            Err(too_small("ebb_reclaim_options"))
        } else {
            Ok((*options).budget_us)
        }
    }
}

pub(super) fn null(argument: &str) -> c_int {
    Error::Argument.because(format_args!("{argument} is NULL")) as c_int
}

pub(super) fn too_small(structure: &str) -> c_int {
    Error::Argument.because(format_args!("{structure}: size is not set, or too small")) as c_int
}

/// The option values of a structure, in the table's order. NULL has none.
///
/// # Safety
///
/// `options` is NULL or points to `options->size` readable bytes.
pub(super) unsafe fn given_options<'a>(options: *const ebb_options) -> Result<&'a [i64], Error> {
    if options.is_null() {
        return Ok(&[]);
    }
    // SAFETY: the caller's promise. Behind `size` there are only i64 fields.
    unsafe {
        let size = (*options).size;
        if size < size_of::<usize>() || !size.is_multiple_of(size_of::<i64>()) {
            return Err(Error::Argument
                .because(format_args!("ebb_options: size is {size}, not sizeof(ebb_options)")));
        }
        let fields = options.byte_add(size_of::<usize>()).cast::<i64>();
        Ok(slice::from_raw_parts(fields, size / size_of::<i64>() - 1))
    }
}

/// Writes as much of `value` as the caller's structure has room for; its `size` stays.
///
/// # Safety
///
/// `to` points to as many writable bytes as its first field, a `usize`, says.
pub(super) unsafe fn fill<T>(to: *mut T, value: T) {
    const HEAD: usize = size_of::<usize>();
    // SAFETY: the caller's promise. No more than `size` bytes are written, from behind the first
    // field on; `value` is this function's own, and so elsewhere.
    unsafe {
        let size = to.cast::<usize>().read().min(size_of::<T>());
        let from = (&raw const value).cast::<u8>();
        ptr::copy_nonoverlapping(from.add(HEAD), to.cast::<u8>().add(HEAD), size - HEAD);
    }
}
