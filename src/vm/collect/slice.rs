//! A slice of a collection, as the nginx module makes it.
//!
//! `LUA_GCSTEP` makes all the steps at once that LuaJIT owes for what was allocated: after a large
//! string these are many. `LUA_GCRESTART` makes one due, and the next function that may allocate
//! makes that one.
//!
//! In single steps nothing tells of the end of a collection. But the end of each marking shows: it
//! clears a weak value that nothing else refers to. The first may be that of a marking that had
//! begun before the last garbage was made; the second has found all of it; at the third all of that
//! is swept or finalized, and at the fourth what was finalized is swept too.

use core::ffi::{CStr, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::cell::Cell;

use crate::log;
use crate::lua_api::{
    CollectorApi, ERROR_MEMORY, GC_IS_RUNNING, GC_RESTART, GC_SET_STEP_MUL, REGISTRY, TYPE_NIL,
    TYPE_STRING, lua_State,
};
use crate::os::{Kernel, Os};
use crate::vm::emergency::STEPMUL_DEFAULT;

/// Ends of markings after which a collection is whole.
const MARKINGS: u8 = 4;

/// How far a collection has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SliceProgress {
    /// The weak value is there.
    is_watched: bool,
    markings: u8,
}

/// What became of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SliceOutcome {
    More,
    /// All garbage is collected; or the program has stopped its collector, and means that.
    Whole,
    /// There is no memory to collect with.
    NoMemory,
}

/// The slice that a thread makes.
struct Slice<'a> {
    api: &'a CollectorApi,
    progress: SliceProgress,
    until_us: u64,
}

thread_local! {
    static SLICE: Cell<*mut Slice<'static>> = const { Cell::new(ptr::null_mut()) };
}

/// The address is the key of the table with the weak value, in a VM's registry.
static KEY: AtomicU8 = AtomicU8::new(0);

/// Collects garbage until that time, but one step at least. Finalizers run in here.
///
/// # Safety
///
/// `state` is the main thread of a live VM of this thread's in which no Lua function is active; the
/// functions are those of its LuaJIT.
pub(super) unsafe fn run(
    api: &CollectorApi,
    state: *mut lua_State,
    progress: &mut SliceProgress,
    until_us: u64,
) -> SliceOutcome {
    let mut slice = Slice { api, progress: *progress, until_us };
    // SAFETY: the caller's promise. The slice outlives the call, which no error leaves.
    unsafe {
        if (api.lua_gc)(state, GC_IS_RUNNING, 0) != 1 {
            return SliceOutcome::Whole;
        }
        // The program's own may make a step a whole collection; that of a heap at its limit does.
        let step_mul = (api.lua_gc)(state, GC_SET_STEP_MUL, STEPMUL_DEFAULT);
        let outer = SLICE.replace((&raw mut slice).cast());
        let mut result = (api.lua_cpcall)(state, collect, ptr::null_mut());
        if result == ERROR_MEMORY {
            (api.lua_settop)(state, -2);
            // The refusal has opened what the heap keeps for its collector.
            result = (api.lua_cpcall)(state, collect, ptr::null_mut());
        }
        SLICE.set(outer);
        (api.lua_gc)(state, GC_SET_STEP_MUL, step_mul);
        *progress = slice.progress;
        if result != 0 {
            log_error(api, state);
            (api.lua_settop)(state, -2);
        }
        match result {
            ERROR_MEMORY => SliceOutcome::NoMemory,
            _ if progress.markings < MARKINGS => SliceOutcome::More,
            _ => SliceOutcome::Whole,
        }
    }
}

/// The function that Lua calls.
///
/// # Safety
///
/// The VM is that of this thread's slice.
unsafe extern "C-unwind" fn collect(state: *mut lua_State) -> c_int {
    // SAFETY: the caller's promise; `run` waits for this call. Errors leave it, and nothing here
    // has to be dropped. What is pushed fits into the 20 slots that Lua guarantees.
    unsafe {
        let slice = &mut *SLICE.get();
        let api = slice.api;
        push_weak_table(api, state);
        loop {
            if !slice.progress.is_watched {
                (api.lua_createtable)(state, 0, 0);
                (api.lua_rawseti)(state, 1, 1);
                slice.progress.is_watched = true;
            }
            (api.lua_gc)(state, GC_RESTART, 0);
            (api.lua_pushlstring)(state, c"".as_ptr(), 0);
            (api.lua_rawgeti)(state, 1, 1);
            if (api.lua_type)(state, -1) == TYPE_NIL {
                slice.progress.is_watched = false;
                slice.progress.markings += 1;
            }
            (api.lua_settop)(state, 1);
            if slice.progress.markings >= MARKINGS || Kernel.now_us() >= slice.until_us {
                return 0;
            }
        }
    }
}

/// Leaves the table with the weak value as the only value on the stack. It is made when there is
/// none.
///
/// # Safety
///
/// As for [`collect`].
unsafe fn push_weak_table(api: &CollectorApi, state: *mut lua_State) {
    let key = KEY.as_ptr().cast::<c_void>();
    // SAFETY: called by `collect` inside lua_cpcall: an error leaves through both, with nothing to
    // drop. It takes three of the 20 stack slots.
    unsafe {
        (api.lua_settop)(state, 0);
        (api.lua_pushlightuserdata)(state, key);
        (api.lua_rawget)(state, REGISTRY);
        if (api.lua_type)(state, 1) != TYPE_NIL {
            return;
        }
        (api.lua_settop)(state, 0);
        (api.lua_createtable)(state, 1, 0);
        (api.lua_createtable)(state, 0, 1);
        (api.lua_pushlstring)(state, c"v".as_ptr(), 1);
        (api.lua_setfield)(state, -2, c"__mode".as_ptr());
        (api.lua_setmetatable)(state, -2);
        (api.lua_pushlightuserdata)(state, key);
        (api.lua_pushvalue)(state, 1);
        (api.lua_rawset)(state, REGISTRY);
    }
}

/// A finalizer threw what is on top of the stack: the first of a process is reported. Newer
/// versions of LuaJIT keep such errors to themselves.
///
/// # Safety
///
/// As for [`run`]; a value is on the stack.
unsafe fn log_error(api: &CollectorApi, state: *mut lua_State) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    // SAFETY: the caller's promise; a string stays while it is on the stack.
    unsafe {
        if (api.lua_type)(state, -1) == TYPE_STRING && !TOLD.swap(true, Ordering::Relaxed) {
            let text = CStr::from_ptr((api.lua_tolstring)(state, -1, ptr::null_mut()));
            let text = text.to_string_lossy();
            let text = text.lines().next().unwrap_or_default();
            log::line(format_args!("a finalizer threw while garbage was collected: {text}"));
        }
    }
}
