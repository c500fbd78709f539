//! Entry points for VMs on LuaJIT's own allocator: what its heap holds, and giving free pages back
//! in place.

use core::ffi::c_int;
use std::cell::Cell;

use super::types::*;
use super::vm::{alloc_functions, inner, lua_State};
use super::{budget_of, fill, null, too_small};
use crate::builtin::{self, Progress, Reclaimed};
use crate::error::Error;
use crate::lua_api::{self, Lua};
use crate::os::{Kernel, Os};
use crate::vm;

/// Looks at the heap of LuaJIT's own allocator, on which a VM runs or, if it was
/// attached, has run before. Walks all of it, read-only: about 20 ms for each
/// million blocks.
///
/// L         a VM of this thread's, or any coroutine of one.
/// stats     size is read; the rest is filled.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_UNKNOWN when it is another
/// allocator, or a heap that does not add up; EBB_ERR_MEMORY or EBB_ERR_SYSTEM when
/// there is no room for notes, or the kernel does not say what is mapped.
///
/// # Safety
///
/// `L` is NULL or a live VM that no other thread uses; `stats` is NULL or points
/// to `stats->size` writable bytes.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ebb_builtin_read(
    L: *mut lua_State,
    stats: *mut ebb_builtin_stats,
) -> c_int {
    if L.is_null() {
        return null("L");
    }
    if stats.is_null() {
        return null("stats");
    }
    // SAFETY: the caller's promises; `fill` keeps to the size that the structure says.
    unsafe {
        if (*stats).size < size_of::<usize>() {
            return too_small("ebb_builtin_stats");
        }
        match survey(inner(L)) {
            Ok(answer) => {
                fill(stats, answer);
                EBB_OK
            }
            Err(error) => error as c_int,
        }
    }
}

/// # Safety
///
/// `state` is a live VM of this thread's.
unsafe fn survey(state: *mut lua_api::lua_State) -> Result<ebb_builtin_stats, Error> {
    let lua = Lua::get()?;
    // SAFETY: `state` is a live VM of this thread's, so the heap that it runs on is live and this
    // thread's, too. A previous allocator belongs to that VM alone, and nothing else refers to it
    // during this call.
    let survey = unsafe {
        let heap = vm::heap_of(lua, state, alloc_functions());
        match heap.is_null().then(|| vm::known_builtin(lua, state)) {
            Some(builtin) => builtin::survey(&Kernel, builtin?.state)?,
            None => match vm::previous_of(heap) {
                Some(previous) => previous.survey()?,
                None => {
                    return Err(Error::Unknown
                        .because(format_args!("the VM has never run on LuaJIT's own allocator")));
                }
            },
        }
    };
    Ok(ebb_builtin_stats {
        size: 0,
        reserved: survey.reserved,
        segments: survey.segments,
        live: survey.live,
        blocks: survey.blocks,
        metadata: survey.metadata,
        free: survey.free,
        free_chunks: survey.free_chunks,
        largest_free: survey.largest_free,
        returnable: survey.returnable,
        returned: survey.returned,
        resident: survey.resident,
        free_by_size: survey.histogram.map(|chunks| ebb_free_chunks {
            up_to: chunks.up_to,
            count: chunks.count,
            bytes: chunks.bytes,
            returnable: chunks.returnable,
        }),
    })
}

/// Gives free pages inside the heap of LuaJIT's own allocator back, in place.
/// ebb_reclaim() does that too for a VM that was attached.
///
/// L         a VM of this thread's that runs on that allocator.
/// options   NULL: everything, at once. With a budget, a call goes on where the
///           last one of the thread stopped; a walk of all blocks, when the
///           thread's last one was for another VM, is not held to it.
/// report    NULL, or room for what was done; live and resident are 0 when there
///           was a budget.
///
/// Returns EBB_MORE when the budget ran out; EBB_OK; EBB_ERR_SYSTEM when the
/// kernel refused some of it, or does not say what is mapped; EBB_ERR_ARGUMENT;
/// EBB_ERR_UNKNOWN, and then nothing was touched.
///
/// # Safety
///
/// `L` is NULL or a live VM that no other thread uses; `options` and `report` are
/// NULL or point to as many bytes as their `size` says.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ebb_builtin_reclaim(
    L: *mut lua_State,
    options: *const ebb_reclaim_options,
    report: *mut ebb_reclaim_report,
) -> c_int {
    thread_local! {
        /// How far this thread has come with the VM that it looked at last.
        static PROGRESS: Cell<Progress> = Cell::default();
    }
    let mut progress = PROGRESS.get();
    // SAFETY: the caller's promises.
    let result = unsafe { reclaim_builtin(L, options, report, &mut progress) };
    PROGRESS.set(progress);
    result
}

/// [`ebb_builtin_reclaim`] for callers that keep the progress themselves.
///
/// # Safety
///
/// As for [`ebb_builtin_reclaim`]; the progress is that of this VM.
pub(crate) unsafe fn reclaim_builtin(
    state: *mut lua_State,
    options: *const ebb_reclaim_options,
    report: *mut ebb_reclaim_report,
    progress: &mut Progress,
) -> c_int {
    if state.is_null() {
        return null("L");
    }
    let start = Kernel.now_us();
    // SAFETY: the caller's promises: both structures are as long as their `size` says, and the VM
    // is this thread's, so that nothing changes in its allocator during the walk.
    unsafe {
        let budget_us = match budget_of(options, report) {
            Ok(budget_us) => budget_us,
            Err(code) => return code,
        };
        let deadline = (budget_us > 0).then(|| start + u64::from(budget_us));
        let done = Lua::get().and_then(|lua| {
            let heap = vm::known_builtin(lua, inner(state))?.state;
            // A budget has no time for a survey, which walks the whole heap.
            let survey = if budget_us == 0 { Some(builtin::survey(&Kernel, heap)?) } else { None };
            if survey.is_some() {
                *progress = Progress::of_surveyed(heap);
            }
            Ok((builtin::reclaim(&Kernel, heap, progress, deadline)?, survey))
        });
        let (done, survey) = match done {
            Ok(done) => done,
            Err(error) => return error as c_int,
        };
        if !report.is_null() {
            let answer = ebb_reclaim_report {
                size: 0,
                returned: done.returned,
                live: survey.as_ref().map_or(0, |survey| survey.live),
                resident: survey.as_ref().map_or(0, |survey| survey.resident - done.returned),
                elapsed_us: Kernel.now_us().saturating_sub(start),
                purge_calls: done.calls,
                refused: u64::from(done.refused),
            };
            fill(report, answer);
        }
        result_of_builtin(&done)
    }
}

fn result_of_builtin(done: &Reclaimed) -> c_int {
    match done {
        _ if done.more => EBB_MORE,
        _ if done.refused => Error::System
            .because(format_args!("reclaim: the kernel refused to take pages back"))
            as c_int,
        _ => EBB_OK,
    }
}
