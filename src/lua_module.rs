//! What Lua sees: `require "ebbtide"`.
//!
//! The module is written in Lua (`lua/ebbtide.lua`, which is part of the library too) over the few
//! functions of `ebbtide.core` (see `functions`). Those take and give plain values, check nothing
//! that the Lua side has checked, and hold nothing that an error thrown through them would leak.
//!
//! A Lua error that one of Lua's functions throws, for lack of memory, passes through these
//! functions as an exception. Where panics unwind Rust lets it pass; where they abort, the program
//! aborts.
//!
//! Numbers reach Lua as doubles: whole up to 2^53.

mod functions;
mod stack;

use core::ffi::{CStr, c_char, c_int, c_void};

use crate::capi;
use crate::error;
use crate::log;
use crate::lua_api::{Lua, lua_CFunction, lua_State};
use crate::vm;
use functions::push_core;

/// The Lua half of the module.
const SOURCE: &str = include_str!("../lua/ebbtide.lua");

/// Opens the Lua module: leaves its table on the stack, as `require` expects. For hosts that
/// preload it: put it into package.preload.ebbtide.
///
/// L         a VM of this thread's.
///
/// Returns 1. Throws a Lua error when memory runs out. Returns 0 in a program that
/// does not export Lua's functions, and says so on standard error: nothing can be
/// thrown without them.
///
/// # Safety
///
/// `L` is a live VM of the Lua that the process exports (see ebb_newstate()), and
/// no other thread uses it.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C-unwind" fn luaopen_ebbtide(L: *mut capi::lua_State) -> c_int {
    // SAFETY: the caller's promise; the chunk gets the name that it would get from `require`, and
    // the core.
    unsafe {
        if let Some(elsewhere) = other_instance(L.cast(), c"luaopen_ebbtide") {
            return elsewhere(L.cast());
        }
        let Ok(lua) = Lua::get() else { return no_module() };
        let state = L.cast::<lua_State>();
        let code = SOURCE.as_ptr().cast::<c_char>();
        if (lua.luaL_loadbuffer)(state, code, SOURCE.len(), c"=ebbtide.lua".as_ptr()) != 0 {
            return (lua.lua_error)(state);
        }
        (lua.lua_pushstring)(state, c"ebbtide".as_ptr());
        push_core(lua, state);
        (lua.lua_call)(state, 2, 1);
    }
    1
}

/// Opens `ebbtide.core`, which lua/ebbtide.lua asks for when it is loaded from a file.
///
/// # Safety
///
/// As for [`luaopen_ebbtide`].
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C-unwind" fn luaopen_ebbtide_core(L: *mut capi::lua_State) -> c_int {
    // SAFETY: `L` is a live VM of this thread's. `push_core` may throw: nothing here needs a drop,
    // and `C-unwind` lets the error pass.
    unsafe {
        if let Some(elsewhere) = other_instance(L.cast(), c"luaopen_ebbtide_core") {
            return elsewhere(L.cast());
        }
        let Ok(lua) = Lua::get() else { return no_module() };
        push_core(lua, L.cast());
    }
    1
}

/// Says why there is no module. `require` then returns true: without Lua's functions there is no
/// way to throw an error.
#[cold]
fn no_module() -> c_int {
    // SAFETY: the reason is a C string of this thread's.
    let reason = unsafe { CStr::from_ptr(error::last().cast()) }.to_string_lossy();
    log::line(format_args!("no module: {reason}"));
    0
}

/// The same function of another copy of this library, if that is the one to speak for a VM: the one
/// that its heap is of, or, as long as it has none, the one that the process sees first.
///
/// # Safety
///
/// `state` is a live VM of this thread's.
unsafe fn other_instance(state: *mut lua_State, name: &CStr) -> Option<lua_CFunction> {
    let mut found = core::ptr::null_mut();
    let mut is_own = false;
    if let Ok(lua) = Lua::get() {
        // SAFETY: the caller's promise.
        let (function, _) = unsafe { lua.allocator(state) };
        let function = function.map_or(core::ptr::null(), |it| it as *const c_void);
        found = vm::copies::of_allocator(function, name);
        is_own = vm::copies::is_own(function);
    }
    if found.is_null() && !is_own {
        found = vm::copies::of_process(name);
    }
    // SAFETY: a symbol of that name is that function.
    (!found.is_null()).then(|| unsafe { core::mem::transmute::<*mut c_void, lua_CFunction>(found) })
}
