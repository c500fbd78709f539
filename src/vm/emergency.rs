//! How a heap makes the collector of its VM due.
//!
//! Two of `lua_gc`'s commands do it, each of which is a store in LuaJIT: they neither allocate, nor
//! throw, nor collect.
//!
//! - `LUA_GCRESTART` puts the threshold where the VM is: the next check of it, at a safe point of
//!   the interpreter, of compiled code or of a C function, runs a step.
//! - `LUA_GCSETSTEPMUL` with [`STEPMUL_WHOLE`] makes that step as long as the rest of the cycle, or
//!   a whole one.
//!
//! LuaJITs from before August 2023, which call themselves 2.1.0-beta3, may crash where an
//! allocation is refused in compiled code in which no step of the collector ran shortly before:
//! they do not know where the frame is then. After a whole cycle no step follows for long. So the
//! next cycle begins when an emergency ends, at the program's own pace.
//!
//! While the program has the collector stopped, and inside of a finalizer, the threshold is beyond
//! reach (`LUA_GCISRUNNING` says 0), and nothing is touched. The program's own step multiplier is
//! put back afterwards, unless the program has set another one meanwhile.

use core::ffi::{CStr, c_int};
use core::mem::{MaybeUninit, transmute};

use super::Bond;
use crate::heap::Collector;
use crate::lua::{GC_IS_RUNNING, GC_RESTART, GC_SET_STEP_MUL, Lua, SetAllocF, lua_State, symbol};

/// `lua_gc`.
type Gc = unsafe extern "C-unwind" fn(*mut lua_State, c_int, c_int) -> c_int;

/// The multiplier for a step as long as it takes: ten times this many bytes, which 32 bits just
/// hold, may be marked in it. 0 would do the same, but programs set 0, and nobody could tell whose
/// value it is. `EBB_STEPMUL_WHOLE` is the same value for hosts.
pub(crate) const STEPMUL_WHOLE: c_int = 400_000_003;

/// What a bond knows of its VM's collector.
#[derive(Default)]
pub(super) struct Pace {
    /// `lua_gc` of the VM's LuaJIT; `None`: the collector is left alone.
    gc: Option<Gc>,
    /// The program's own step multiplier, while the collector is due.
    step_mul: Option<c_int>,
}

/// Has a bond's heap make its VM's collector due when memory is short. Nothing is done for another
/// Lua than LuaJIT: PUC Lua collects by itself before it fails.
///
/// # Safety
///
/// The bond's VM is made and this thread's, and `setallocf` is of its Lua.
pub(super) unsafe fn serve(bond: *mut Bond, setallocf: SetAllocF) {
    // SAFETY: the caller's promise. The bond lives as long as its heap has it for a context.
    unsafe {
        (*bond).pace.gc = gc_beside(setallocf);
        if (*bond).pace.gc.is_some() {
            let context = bond.cast();
            (*(*bond).heap).set_collector(Collector { context, make_due, let_be });
        }
    }
}

/// `lua_gc` of the LuaJIT that a `lua_setallocf` is of: the process may have several.
fn gc_beside(setallocf: SetAllocF) -> Option<Gc> {
    let is_same = |lua: &&Lua| lua.lua_setallocf as usize == setallocf as usize;
    if let Some(lua) = Lua::get().ok().filter(is_same) {
        let is_luajit = !symbol(c"luaJIT_setmode").is_null();
        return is_luajit.then_some(lua.lua_gc);
    }
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero; a name in it is a C
    // string for as long as the library is loaded. NOLOAD loads nothing. A symbol of that name in
    // an object that has LuaJIT's functions is that function.
    unsafe {
        if libc::dladdr(setallocf as *const _, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        let library = libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if name.is_null() || library.is_null() {
            return None;
        }
        let find = |name: &CStr| libc::dlsym(library, name.as_ptr());
        let [gc, luajit] = [c"lua_gc", c"luaJIT_setmode"].map(find);
        libc::dlclose(library);
        let is_luajit = !gc.is_null() && !luajit.is_null();
        is_luajit.then(|| transmute::<*mut libc::c_void, Gc>(gc))
    }
}

/// See [`Collector::make_due`].
///
/// # Safety
///
/// `context` is a bond, whose VM is live and this thread's.
unsafe fn make_due(context: *mut u8) -> bool {
    let bond = context.cast::<Bond>();
    // SAFETY: the caller's promise: LuaJIT's first block begins with the main thread's state.
    unsafe {
        let (state, pace) = ((*bond).state_block.cast::<lua_State>(), &mut (*bond).pace);
        let Some(gc) = pace.gc else { return false };
        if gc(state, GC_IS_RUNNING, 0) != 1 {
            return false;
        }
        let step_mul = gc(state, GC_SET_STEP_MUL, STEPMUL_WHOLE);
        // Another value than ours is the program's, set before or meanwhile.
        if pace.step_mul.is_none() || step_mul != STEPMUL_WHOLE {
            pace.step_mul = Some(step_mul);
        }
        gc(state, GC_RESTART, 0);
    }
    true
}

/// See [`Collector::let_be`].
///
/// # Safety
///
/// As for [`make_due`].
unsafe fn let_be(context: *mut u8) {
    let bond = context.cast::<Bond>();
    // SAFETY: as in `make_due`.
    unsafe {
        let (state, pace) = ((*bond).state_block.cast::<lua_State>(), &mut (*bond).pace);
        let (Some(gc), Some(step_mul)) = (pace.gc, pace.step_mul.take()) else { return };
        let now = gc(state, GC_SET_STEP_MUL, step_mul);
        if now != STEPMUL_WHOLE {
            gc(state, GC_SET_STEP_MUL, now);
        }
        if gc(state, GC_IS_RUNNING, 0) == 1 {
            gc(state, GC_RESTART, 0);
        }
    }
}
