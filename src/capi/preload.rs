//! Entry points for code that stands between a program and LuaJIT: the preload library, and the
//! linker's `--wrap`.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr;

use super::ebb_newstate;
use super::null;
use super::types::*;
use super::vm::lua_State;
use crate::error;
use crate::log;
use crate::lua_api::{Lua, NewState, SetAllocF};
use crate::options::Options;
use crate::vm::{self, LuaFns};

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
        vm::enable_closed_reports();
    }
    if what & 2 != 0 {
        crate::heap::enable_shortage_report();
    }
}

/// For libebbtide_preload.so: reports what each VM made by ebb_preload_newstate()
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
