//! The functions of `ebbtide.core`, by their names in Lua.

use core::ffi::{CStr, c_int};

use super::stack::{Stack, call};
use crate::builtin::Progress;
use crate::capi::{self, *};
use crate::error;
use crate::fixed_str::FixedStr;
use crate::lua_api::{self, Lua, lua_CFunction, lua_State};
use crate::options::{self, Options};
use crate::os::{Kernel, Os};
use crate::reclaim::KernelHeap;
use crate::vm;

/// The functions of the core, by their names.
const CORE: &[(&CStr, lua_CFunction)] = &[
    (c"allocator", core_allocator),
    (c"attach", core_attach),
    (c"stats", core_stats),
    (c"builtin", core_builtin),
    (c"process", core_process),
    (c"reclaim", core_reclaim),
    (c"may_collect", core_may_collect),
    (c"tick", core_tick),
    (c"next_tick", core_next_tick),
    (c"pressure", core_pressure),
    (c"options", core_options),
    (c"environment", core_environment),
    (c"at_end", core_at_end),
    (c"get", core_get),
    (c"set", core_set),
];

/// Pushes the table `ebbtide.core`.
///
/// # Safety
///
/// `state` is a live VM of this thread's.
pub(super) unsafe fn push_core(lua: &Lua, state: *mut lua_State) {
    // Not at the end of the VM: os.exit() does not close it, and a VM may never have a heap.
    options::warn_once();
    options::warn_unused_at_exit();
    // SAFETY: the caller's promise; the memory is as large as a Progress, aligned to 8 bytes, and
    // lives as long as one of the functions that have it as their upvalue.
    unsafe {
        (lua.lua_createtable)(state, 0, CORE.len() as c_int + 1);
        let progress = (lua.lua_newuserdata)(state, size_of::<Progress>());
        progress.cast::<Progress>().write(Progress::default());
        for (name, function) in CORE {
            (lua.lua_pushvalue)(state, -1);
            (lua.lua_pushcclosure)(state, *function, 1);
            (lua.lua_setfield)(state, -3, name.as_ptr());
        }
        (lua.lua_settop)(state, -2);
        (lua.lua_pushstring)(state, ebb_version());
        (lua.lua_setfield)(state, -2, c"version".as_ptr());
    }
}

/// Defines functions of the core: each gets the stack of the VM that called.
macro_rules! core {
    ($($(#[doc = $doc:literal])* fn $name:ident($stack:ident) $body:block)*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Safety
        ///
        /// `state` is a live VM of this thread's, which calls this as a function of the core.
        unsafe extern "C-unwind" fn $name(state: *mut lua_State) -> c_int {
            // Without a Lua nobody could call.
            let Ok(lua) = Lua::get() else { return 0 };
            let $stack = Stack { lua, state };
            $body
        }
    )*};
}

core! {
    /// allocator() returns "ebbtide", "builtin" or nil and why it is neither; and whether the VM
    /// was attached.
    fn core_allocator(stack) {
        let heap = stack.heap();
        if !heap.is_null() {
            call!(stack.lua_pushstring(c"ebbtide".as_ptr()));
            return 1 + stack.answer(previous_of(heap).is_some());
        }
        // SAFETY: the VM that called is live and this thread's.
        match unsafe { vm::known_builtin(stack.lua, stack.state) } {
            Ok(_) => call!(stack.lua_pushstring(c"builtin".as_ptr())),
            Err(_) => return stack.failed(),
        }
        1
    }

    /// attach(options) returns "attached" or "already", or nil and why not.
    fn core_attach(stack) {
        let given = stack.given().and_then(|given| Options::resolve(given.values()));
        let allocs = capi::alloc_functions();
        // SAFETY: the VM that called is live and this thread's.
        let attached = given
            .and_then(|options| unsafe { vm::attach(stack.lua, stack.state, options, allocs) });
        match attached.inspect_err(options::note_refused) {
            Ok(false) => call!(stack.lua_pushstring(c"attached".as_ptr())),
            Ok(true) => call!(stack.lua_pushstring(c"already".as_ptr())),
            Err(_) => return stack.failed(),
        }
        1
    }

    /// stats() returns what the VM's own heap holds, or nil and why there is none.
    fn core_stats(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        // SAFETY: all-zero bytes are a valid ebb_stats; the heap is the VM's.
        let stats = unsafe {
            let mut stats = core::mem::zeroed::<ebb_stats>();
            stats.size = size_of::<ebb_stats>();
            ebb_stats_read(heap, &mut stats);
            stats
        };
        stack.push_table(STATS.len() + 4);
        for (name, field) in STATS {
            stack.field(name, field(&stats));
        }
        stack.field(c"collected", stack.collected());
        stack.flag(c"thrashing", stats.thrashing == 1);
        stack.flag(c"previous_damaged", stats.previous_damaged == 1);
        1
    }

    /// builtin() returns what the heap of LuaJIT's own allocator holds, or nil and why not.
    fn core_builtin(stack) {
        // SAFETY: all-zero bytes are valid statistics.
        let mut stats = unsafe { core::mem::zeroed::<ebb_builtin_stats>() };
        stats.size = size_of::<ebb_builtin_stats>();
        // SAFETY: the VM that called is live and this thread's.
        let result = unsafe { ebb_builtin_read(stack.state.cast(), &mut stats) };
        if result < 0 {
            return stack.failed();
        }
        stack.push_table(BUILTIN.len() + 2);
        for (name, field) in BUILTIN {
            stack.field(name, field(&stats));
        }
        stack.field(c"collected", stack.collected());
        stack.push_table(0);
        for (index, chunks) in stats.free_by_size.iter().enumerate() {
            stack.push_table(4);
            let all_larger = chunks.up_to == u64::MAX;
            stack.push_number(if all_larger { f64::INFINITY } else { chunks.up_to as f64 });
            stack.put(c"up_to");
            stack.field(c"count", chunks.count);
            stack.field(c"bytes", chunks.bytes);
            stack.field(c"returnable", chunks.returnable);
            call!(stack.lua_rawseti(-2, index as c_int + 1));
        }
        stack.put(c"free_by_size");
        1
    }

    /// process() returns what the kernel holds resident for the whole process, in bytes; nil when
    /// the kernel does not say.
    fn core_process(stack) {
        match resident_of_process() {
            Some(bytes) => stack.push_number(bytes as f64),
            None => call!(stack.lua_pushnil()),
        }
        1
    }

    /// reclaim(budget_us) gives free memory back, and returns what it did, or nil and why not. A
    /// budget of 0 is no limit.
    fn core_reclaim(stack) {
        let budget_us = stack.microseconds(1);
        let options = ebb_reclaim_options { size: size_of::<ebb_reclaim_options>(), budget_us };
        // SAFETY: all-zero bytes are a valid report; the VM that called is live and this thread's.
        let (report, result) = unsafe {
            let mut report = core::mem::zeroed::<ebb_reclaim_report>();
            report.size = size_of::<ebb_reclaim_report>();
            let heap = stack.heap();
            let result = if heap.is_null() {
                let state = stack.state.cast();
                // Every function of the core has it as its upvalue.
                let progress = &mut *stack.progress();
                capi::reclaim_builtin(state, &options, &mut report, progress)
            } else {
                ebb_reclaim(heap, &options, &mut report)
            };
            (report, result)
        };
        // What the kernel took only in part is reported in full.
        if result < 0 && report.refused == 0 {
            return stack.failed();
        }
        stack.push_table(8);
        stack.field(c"returned", report.returned);
        stack.field(c"live", report.live);
        stack.field(c"resident", report.resident);
        stack.field(c"elapsed_us", report.elapsed_us);
        stack.field(c"refused", report.refused);
        stack.flag(c"more", result == EBB_MORE);
        1
    }

    /// may_collect() returns whether a full collection may run now: not inside of a finalizer, in
    /// which the collector stands still as it does when it is stopped.
    fn core_may_collect(stack) {
        stack.answer(call!(stack.lua_gc(lua_api::GC_IS_RUNNING, 0)) != 0)
    }

    /// tick(budget_us) does what is due and returns whether more is, or nil and why not.
    fn core_tick(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        // SAFETY: the heap is the VM's, which is this thread's.
        match unsafe { ebb_tick(heap, stack.microseconds(1)) } {
            result if result < 0 => stack.failed(),
            result => stack.answer(result == EBB_MORE),
        }
    }

    /// next_tick() returns in how many milliseconds to call tick(), infinity for never, or nil and
    /// why not.
    fn core_next_tick(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        // SAFETY: the heap is the VM's, which is this thread's.
        let milliseconds = unsafe { ebb_next_tick(heap) };
        let never = milliseconds == EBB_NEVER;
        stack.push_number(if never { f64::INFINITY } else { f64::from(milliseconds) });
        1
    }

    /// pressure() returns how near the heap is to its limit, 0 to 100, or nil and why not.
    fn core_pressure(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        // SAFETY: the heap is the VM's, which is this thread's.
        stack.push_number(f64::from(unsafe { ebb_pressure(heap) }));
        1
    }

    /// options() returns the values of all options, or nil and why not.
    fn core_options(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        stack.push_table(16);
        // SAFETY: the heap is the VM's; the turn keeps other threads out while the options are
        // copied. It ends there, for pushing allocates in this heap.
        let options = unsafe {
            let heap = heap.cast::<KernelHeap>();
            let _turn = vm::Turn::wait(heap);
            (*heap).options.clone()
        };
        for (name, value) in options.by_name() {
            call!(stack.lua_pushlstring(name.as_ptr().cast(), name.len()));
            stack.push_number(value as f64);
            call!(stack.lua_rawset(-3));
        }
        1
    }

    /// environment() returns which options in the environment wait for a heap, which variables have
    /// no effect, and why a heap cannot be made from the environment: each a text or nil.
    fn core_environment(stack) {
        let pending = options::pending();
        let (unknown, values) = options::check_environment(false);
        stack.push_text(pending.as_ref().map(FixedStr::as_str));
        stack.push_text(unknown.as_ref().map(FixedStr::as_str));
        match values {
            Ok(()) => call!(stack.lua_pushnil()),
            Err(_) => call!(stack.lua_pushstring(error::last().cast())),
        }
        3
    }

    /// at_end() ends the module, with its VM: settings that never had an effect are reported.
    fn core_at_end(_stack) {
        options::warn_unused();
        0
    }

    /// get(name) returns the value of an option, or nil and why not.
    fn core_get(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        let (name, mut value) = (stack.text(1).unwrap_or_default(), 0);
        // SAFETY: the heap is the VM's, which is this thread's.
        if unsafe { ebb_get(heap, name.as_ptr(), &mut value) } < 0 {
            return stack.failed();
        }
        stack.push_number(value as f64);
        1
    }

    /// set(name, value) changes an option; returns true, or nil and why not.
    fn core_set(stack) {
        let Some(heap) = stack.own_heap() else { return stack.failed() };
        let name = stack.text(1).unwrap_or_default();
        let value = stack.option_value(name, 2);
        // SAFETY: the heap is the VM's, which is this thread's.
        match value.map(|value| unsafe { ebb_set(heap, name.as_ptr(), value) }) {
            Ok(EBB_OK) => stack.answer(true),
            _ => stack.failed(),
        }
    }
}

/// What the VM of a heap ran on before.
fn previous_of(heap: *mut ebb_heap) -> Option<&'static mut vm::PreviousAllocator> {
    // SAFETY: the callers got the heap from a VM that is live and this thread's.
    unsafe { vm::previous_of(heap.cast()) }
}

/// What the kernel holds resident for this process, in bytes: the second number in statm.
fn resident_of_process() -> Option<u64> {
    let mut buffer = [0; 128];
    let length = Kernel.read_file(c"/proc/self/statm", &mut buffer)?;
    let text = core::str::from_utf8(&buffer[..length]).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * Kernel.page_size() as u64)
}

/// A number of a structure, by its name.
type Field<T> = (&'static CStr, fn(&T) -> u64);

macro_rules! fields {
    ($structure:ty: $($name:ident)*) => {
        &[$((
            {
                match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => unreachable!(),
                }
            },
            |from: &$structure| from.$name,
        ),)*]
    };
}

const STATS: &[Field<ebb_stats>] = fields!(ebb_stats:
    reserved committed live waste free_resident returned never_touched metadata resident
    resident_peak blocks large_blocks spans commit_calls purge_calls remap_calls failed_calls
    reclaim_passes returned_total trend keep floor floor_reason due idle_age_ms limit_soft
    limit_hard pressure steps step_p50_us step_p99_us step_max_us
    returned_asked returned_idle returned_limit
    refaulted_asked refaulted_idle refaulted_limit
    premature_refaults_asked premature_refaults_idle premature_refaults_limit
    previous_live previous_reserved previous_resident purge_refused purge_errno refused_allocations
    refused_address_space);

const BUILTIN: &[Field<ebb_builtin_stats>] = fields!(ebb_builtin_stats:
    reserved segments live blocks metadata free free_chunks largest_free returnable returned
    resident);
