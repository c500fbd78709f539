//! Entry points that know Lua: a VM made on a heap, changed over to one, or looked at as it is.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr;
use std::cell::Cell;

use super::types::*;
use super::{budget_of, ebb_alloc, ebb_alloc_checked, fill, given_options, null, too_small};
use crate::builtin::{self, Progress, Reclaimed};
use crate::error::{self, Error};
use crate::log;
use crate::lua_api::{self, Lua, NewState, SetAllocF, lua_Alloc};
use crate::options::{self, Options};
use crate::os::{Kernel, Os};
use crate::vm::{self, Allocs, Closed, LuaFns};

/// A Lua VM, as lua.h declares it.
#[allow(non_camel_case_types)]
pub struct lua_State {
    _private: [u8; 0],
}

/// A function of ours as Lua takes it.
type Exported = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize) -> *mut c_void;

/// ebb_alloc as Lua takes it.
fn alloc_function() -> lua_Alloc {
    alloc_functions()[0]
}

/// The functions that a VM on a heap may have for its own.
pub(crate) fn alloc_functions() -> Allocs {
    // SAFETY: the two types differ in whether an unwinding function may be behind them.
    [ebb_alloc as Exported, ebb_alloc_checked]
        .map(|function| unsafe { transmute::<Exported, lua_Alloc>(function) })
}

fn inner(state: *mut lua_State) -> *mut lua_api::lua_State {
    state.cast()
}

/// Makes a VM on a heap of its own, which lua_close() deletes with it. Like
/// luaL_newstate(), but without its panic function.
///
/// options   as for ebb_heap_new().
///
/// Returns the VM, or NULL: ebb_strerror(0) then says why. The Lua is the one
/// that the process has: of several the one whose functions the dynamic linker
/// finds first. A 64-bit LuaJIT must be built with GC64, as it is by default.
///
/// # Safety
///
/// `options` is NULL or points to `options->size` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_newstate(options: *const ebb_options) -> *mut lua_State {
    // SAFETY: the caller's promise; the functions are those of one Lua.
    unsafe {
        let made = given_options(options).and_then(Options::resolve).and_then(|options| {
            let lua = Lua::get()?;
            let lua_fns = LuaFns {
                newstate: lua.lua_newstate,
                setallocf: lua.lua_setallocf,
                alloc: Some(alloc_function()),
            };
            vm::make(&lua_fns, options)
        });
        made.map_or(ptr::null_mut(), |state| state.cast())
    }
}

/// Changes a running VM over from LuaJIT's own allocator to a heap. The blocks
/// that it has stay where they are and go back to that allocator when they are
/// freed; what is resized moves over. At the end lua_close() unmaps the one and
/// deletes the other.
///
/// Free pages of that allocator are given back at once, after a walk of its heap:
/// 20 ms for each million blocks, and an eighth of a second for each GB that is
/// free. Later ones go back on the slow path of ebb_alloc(), in ebb_tick() and in
/// ebb_reclaim(). With the option auto off all go back in the last two only.
///
/// L         a VM of this thread's, or any coroutine of one, at any age.
/// options   as for ebb_heap_new().
///
/// Returns EBB_OK; EBB_MORE when the VM was on a heap already, and then nothing
/// has changed; EBB_ERR_UNKNOWN when it does not run on LuaJIT's own allocator
/// beyond doubt, and then nothing was touched; EBB_ERR_SYSTEM when the kernel's list
/// of mappings cannot be read; what else ebb_heap_new() can fail with. C modules
/// that have kept the allocation function of before and go on using it for blocks
/// of their own do no harm.
///
/// # Safety
///
/// `L` is NULL or a live VM that no other thread uses; `options` is NULL or points
/// to `options->size` readable bytes.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ebb_attach(L: *mut lua_State, options: *const ebb_options) -> c_int {
    if L.is_null() {
        return null("L");
    }
    // SAFETY: the caller's promises: the options are readable as far as their `size` says, and the
    // VM is live and no other thread uses it.
    let attached = unsafe {
        given_options(options)
            .and_then(Options::resolve)
            .and_then(|options| vm::attach(Lua::get()?, inner(L), options, alloc_functions()))
    };
    attached.inspect_err(options::note_refused).map_or_else(|error| error as c_int, c_int::from)
}

/// Finds the heap of a VM.
///
/// L         a VM of this thread's, or any coroutine of one.
///
/// Returns the heap, which is the VM's: do not delete it unless you made it.
/// NULL when the VM runs on another allocator.
///
/// Under libebbtide_preload.so the thread that calls this has the VM from then on,
/// until another one allocates in it or calls this too; when it waits, the heap
/// exhales. That is not noticed of a thread that uses the heap alone: one that is to
/// call ebb_tick() and the like calls this first, while no other is in the VM.
///
/// # Safety
///
/// `L` is NULL or a live VM that no other thread uses.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ebb_heap_of(L: *mut lua_State) -> *mut ebb_heap {
    let Some(lua) = Lua::get().ok().filter(|_| !L.is_null()) else { return ptr::null_mut() };
    // SAFETY: the caller's promise.
    unsafe { vm::heap_of(lua, inner(L), alloc_functions()).cast() }
}

/// Lets several threads use the heap of a VM: one may run the VM while another one
/// calls ebb_tick(), ebb_stats_read() and the like. From now on each of these calls
/// waits while the VM allocates or another such call is made, and the VM waits for
/// them. Two threads that allocate at once are not kept apart: run the VM, and call
/// what lua_getallocf() returns, in one thread at a time.
///
/// L         a VM of this thread's, or any coroutine of one.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT when the VM has no heap that came with it
/// (ebb_newstate(), ebb_attach(), preloaded). The VM is closed while no other
/// thread makes a call for its heap.
///
/// # Safety
///
/// `L` is NULL or a live VM that no other thread uses.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ebb_share(L: *mut lua_State) -> c_int {
    if L.is_null() {
        return null("L");
    }
    // SAFETY: the caller's promise.
    let shared = Lua::get().map(|lua| unsafe { vm::share(lua, inner(L), alloc_functions()) });
    match shared {
        Ok(true) => EBB_OK,
        Ok(false) => no_bond("ebb_share") as c_int,
        Err(error) => error as c_int,
    }
}

/// Has a function called when the VM of a heap is closed: after its last block was
/// freed and before the heap is deleted, by the thread that closes the VM. A heap
/// has one such function; NULL takes it away again.
///
/// heap      of a VM, from ebb_heap_of().
/// closed    is called with `context`. It may read the heap's statistics, and keeps
///           no pointer to the heap.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT when the heap did not come with a VM
/// (ebb_newstate(), ebb_attach(), preloaded): you delete such a heap yourself.
///
/// # Safety
///
/// `heap` is NULL, or live and no other thread uses it; `closed` may be called with
/// `context` until the VM is closed, in a child of a fork too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_on_close(
    heap: *mut ebb_heap,
    closed: Option<unsafe extern "C-unwind" fn(context: *mut c_void)>,
    context: *mut c_void,
) -> c_int {
    if heap.is_null() {
        return null("heap");
    }
    let closed = closed.map(|function| Closed { function, context });
    // SAFETY: the caller's promises.
    match unsafe { vm::on_close(heap.cast(), closed) } {
        true => EBB_OK,
        false => no_bond("ebb_on_close") as c_int,
    }
}

const _: () =
    assert!(EBB_STEPMUL_WHOLE == vm::STEPMUL_WHOLE && EBB_STEPMUL_LONG == vm::STEPMUL_LONG);

fn no_bond(call: &str) -> Error {
    Error::Argument.because(format_args!("{call}: the heap did not come with a VM"))
}

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
            Ok(told) => {
                fill(stats, told);
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
    // SAFETY: the caller's promise.
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
            let told = ebb_reclaim_report {
                size: 0,
                returned: done.returned,
                live: survey.as_ref().map_or(0, |survey| survey.live),
                resident: survey.as_ref().map_or(0, |survey| survey.resident - done.returned),
                elapsed_us: Kernel.now_us().saturating_sub(start),
                purge_calls: done.calls,
                refused: u64::from(done.refused),
            };
            fill(report, told);
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

/// For the linker: what lua_newstate() becomes in a LuaJIT that is linked with
/// --wrap=lua_newstate. A VM that asks for LuaJIT's own allocator gets a heap
/// instead, or, when there is none to be had, what it asked for; standard error
/// then says why. The program must export Lua's functions (-rdynamic), as luajit
/// does; else there is no VM.
///
/// # Safety
///
/// As for lua_newstate.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_lua_newstate(
    function: *mut c_void,
    context: *mut c_void,
) -> *mut lua_State {
    let Ok(lua) = Lua::get() else {
        log::line(format_args!(
            "no VM: the program does not export Lua's functions; link it with -rdynamic"
        ));
        return ptr::null_mut();
    };
    // SAFETY: the caller's promise, handed on; a function pointer is a pointer, and what stands for
    // LuaJIT's own allocator is only handed on.
    unsafe {
        if function.addr() == BUILTIN_ALLOCATOR {
            let made = ebb_newstate(ptr::null());
            if !made.is_null() {
                return made;
            }
            let reason = CStr::from_ptr(error::last().cast()).to_string_lossy();
            log::line(format_args!("{reason}: this VM has LuaJIT's own allocator"));
        }
        let newstate: unsafe extern "C-unwind" fn(*mut c_void, *mut c_void) -> *mut lua_State =
            transmute(lua.lua_newstate);
        newstate(function, context)
    }
}

/// What LuaJIT's lua_newstate takes for its own allocator.
const BUILTIN_ALLOCATOR: usize = 1237 << 4;

/// For libebbtide_preload.so: makes a VM on a heap of its own, with the functions
/// of the Lua that the program uses. Its heap notices which thread has the VM.
///
/// Returns the VM, or NULL: ebb_strerror(0) then says why.
///
/// # Safety
///
/// The functions are lua_newstate and lua_setallocf of one Lua.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_preload_newstate(
    newstate: *mut c_void,
    setallocf: *mut c_void,
) -> *mut lua_State {
    if newstate.is_null() || setallocf.is_null() {
        null("lua_newstate or lua_setallocf");
        return ptr::null_mut();
    }
    // SAFETY: the caller's promise: both pointers are to functions of these types, of one LuaJIT. A
    // pointer to a function is as large as one to data here.
    let made = Options::resolve(&[]).and_then(|options| unsafe {
        let lua_fns = LuaFns {
            newstate: transmute::<*mut c_void, NewState>(newstate),
            setallocf: transmute::<*mut c_void, SetAllocF>(setallocf),
            alloc: None,
        };
        vm::make(&lua_fns, options)
    });
    made.map_or(ptr::null_mut(), |state| state.cast())
}

/// For libebbtide_preload.so, before the calling thread waits: does what is due in the
/// heaps of those VMs made by ebb_preload_newstate() that the thread used last, and a
/// step of a garbage collection in one of the VMs, where that is asked for and due.
///
/// budget_us  microseconds after which to stop, for all heaps together, and again for
///            the step.
///
/// Returns in how many milliseconds to call again; EBB_NEVER.
#[unsafe(no_mangle)]
pub extern "C" fn ebb_preload_idle(budget_us: u32) -> c_int {
    let next_ms = vm::idle(budget_us.into()).map(|us| us.div_ceil(1000));
    next_ms.map_or(EBB_NEVER, |ms| c_int::try_from(ms).unwrap_or(EBB_NEVER))
}

/// For libebbtide_preload.so, before the first VM: lines for people go through a
/// function from now on.
///
/// say       takes the text of one line, without its end, its bytes, and in `last`
///           not 0 where the process ends with that line and those around it.
///           Returns 0 where it drops the line. Signal handlers may call it.
/// what      what is reported besides, as a sum. 1: each VM reports what it held and gave
///           back when it is closed. 2: the first allocation that RLIMIT_AS refuses.
///
/// # Safety
///
/// `say` may be called as long as the process lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_preload_listen(
    say: Option<unsafe extern "C" fn(text: *const c_char, bytes: usize, last: c_int) -> c_int>,
    what: c_int,
) {
    if let Some(say) = say {
        log::through(say);
    }
    if what & 1 != 0 {
        vm::tell_of_closed();
    }
    if what & 2 != 0 {
        crate::heap::tell_of_shortage();
    }
}

/// For libebbtide_preload.so: tells what each VM made by ebb_preload_newstate()
/// that is still open holds and gave back.
///
/// exact     0: what each heap was last seen to hold, at most a few milliseconds
///           ago while it is in use; then signal handlers may call this. Not 0: of
///           VMs that the calling thread used last, what they hold now; the thread
///           is in none of them.
///
/// Returns the number of VMs that are open.
#[unsafe(no_mangle)]
pub extern "C" fn ebb_preload_report(exact: c_int) -> c_int {
    if exact != 0 {
        vm::publish();
    }
    vm::report_open() as c_int
}
