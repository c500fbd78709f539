//! Entry points that know Lua: a VM made on a heap, changed over to one, or shared by threads.

use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr;

use super::types::*;
use super::{ebb_alloc, ebb_alloc_checked, given_options, null};
use crate::error::Error;
use crate::lua_api::{self, Lua, lua_Alloc};
use crate::options::{self, Options};
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

pub(super) fn inner(state: *mut lua_State) -> *mut lua_api::lua_State {
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
        Ok(false) => no_vm_heap("ebb_share") as c_int,
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
        false => no_vm_heap("ebb_on_close") as c_int,
    }
}

const _: () =
    assert!(EBB_STEPMUL_WHOLE == vm::STEPMUL_WHOLE && EBB_STEPMUL_LONG == vm::STEPMUL_LONG);

fn no_vm_heap(call: &str) -> Error {
    Error::Argument.because(format_args!("{call}: the heap did not come with a VM"))
}
