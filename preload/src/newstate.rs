//! Which VMs are taken over: those for which LuaJIT's own allocator is asked for.

use core::arch::naked_asm;
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::elf_objects;
use crate::library;
use crate::log;
use crate::real;
use crate::text::Text;
use crate::{settings, why};

/// What `luaL_newstate` of LuaJIT 2.1 passes for its own allocator: LJ_ALLOCF_INTERNAL, an address
/// that no function has.
const BUILT_IN: usize = 1237 << 4;

/// `lua_newstate`, with the third argument that it has from Lua 5.5 on.
type Newstate = unsafe extern "C" fn(usize, *mut c_void, usize) -> *mut c_void;

/// Makes a VM, on a heap of its own if LuaJIT's allocator is asked for. Adds the caller's address
/// to the arguments and goes on to [`newstate_from`].
///
/// # Safety
///
/// That of `lua_newstate`.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn lua_newstate() {
    naked_asm!("mov rcx, [rsp]", "jmp {}", sym newstate_from)
}

/// Makes a VM, on a heap of its own if LuaJIT's allocator is asked for. Adds the caller's address
/// to the arguments and goes on to [`newstate_from`].
///
/// # Safety
///
/// That of `lua_newstate`.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn lua_newstate() {
    naked_asm!("mov x3, x30", "b {}", sym newstate_from)
}

/// # Safety
///
/// That of `lua_newstate`. `caller` is the address that the call returns to.
unsafe extern "C" fn newstate_from(
    alloc: usize,
    context: *mut c_void,
    seed: usize,
    caller: *const c_void,
) -> *mut c_void {
    let real = real::lua_newstate(caller);
    if real.is_null() {
        log::once(&[b"no VM: there is no lua_newstate behind the preload library"]);
        return ptr::null_mut();
    }
    if alloc == BUILT_IN {
        // SAFETY: the marker is LuaJIT's, and so is the function that it was meant for.
        let vm = unsafe { newstate_on_heap(real) };
        if !vm.is_null() {
            return vm;
        }
    } else {
        why::note_passed(alloc as *const c_void, real);
    }
    // SAFETY: the function of this name; the caller's promise. An argument that it does not have
    // does no harm.
    unsafe { transmute::<*mut c_void, Newstate>(real)(alloc, context, seed) }
}

/// A VM on a heap of its own; null if that is not to be had. Says either.
///
/// # Safety
///
/// `real` is `lua_newstate` of a LuaJIT.
unsafe fn newstate_on_heap(real: *mut c_void) -> *mut c_void {
    let mut why = Text::new();
    // SAFETY: the caller's promise; `real::lua_setallocf` finds the function of the same Lua.
    let vm = unsafe { library::newstate(real, real::lua_setallocf(real), &mut why) };
    if vm.is_null() {
        log::always_once(&[b"LuaJIT keeps its own allocator: ", why.as_bytes()]);
        return vm;
    }
    elf_objects::walk(|object| {
        let found = object.holds(real);
        if found {
            let name = object.path().to_bytes();
            log::once(&[b"taken over: the VMs of ", name, b", each on a heap of its own"]);
        }
        found
    });
    log_wrong();
    vm
}

/// Logs once which of the library's own variables have a value that they do not take.
fn log_wrong() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        for line in settings::wrong() {
            log::line(&[line]);
        }
    }
}
