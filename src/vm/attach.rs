//! A VM that changes over to a heap while it runs.
//!
//! The blocks that it has stay where they are, in LuaJIT's own allocator, and go back to it when
//! they are freed; what is resized moves over. The VM's state is the last of them, so what LuaJIT
//! would have unmapped at the end of its own allocator is unmapped then.

use core::ffi::{c_int, c_void};
use core::ptr;
use std::sync::OnceLock;

use super::{
    Allocs, PreviousAllocator, StateBlock, VmHeap, emergency, heap_of, warn_without_effect,
};
use crate::builtin::KnownHeap;
use crate::error::Error;
use crate::heap::ForeignReason;
use crate::lua_api::{Lua, lua_Alloc, lua_State};
use crate::options::{Key, Options};
use crate::os::Kernel;
use crate::reclaim::HEAPS;

/// LuaJIT's own allocator, which a VM runs on.
#[derive(Clone, Copy)]
pub(crate) struct Builtin {
    pub(super) function: lua_Alloc,
    /// Its state, which is the function's context.
    pub(crate) state: *mut u8,
    /// The block with the VM's state.
    state_block: *mut u8,
}

/// How VMs of the LuaJIT in this process are made.
struct BuiltinIdentity {
    function: lua_Alloc,
    /// From the state of the allocator to that of the VM, the first block of all.
    distance: usize,
}

// SAFETY: a function and a number.
unsafe impl Send for BuiltinIdentity {}
// SAFETY: as above.
unsafe impl Sync for BuiltinIdentity {}

/// Why it is not known how they are made.
#[derive(Clone, Copy)]
enum NotBuiltin {
    Lua,
    Allocator,
}

/// Learns from a VM made for this purpose what LuaJIT's own allocator is. Once: what was found out
/// stands, be it nothing.
fn known(lua: &Lua) -> Result<&'static BuiltinIdentity, Error> {
    static IDENTITY: OnceLock<Result<BuiltinIdentity, NotBuiltin>> = OnceLock::new();
    let known = match IDENTITY.get() {
        Some(known) => known,
        None => {
            let known = find_out(lua)?;
            IDENTITY.get_or_init(|| known)
        }
    };
    known.as_ref().map_err(|other| {
        Error::Unknown.because(match other {
            NotBuiltin::Lua => {
                format_args!("this Lua is no LuaJIT 2.1 with 64-bit pointers in Lua values (GC64)")
            }
            NotBuiltin::Allocator => format_args!(
                "this LuaJIT makes VMs on another allocator than its own: built so, or preloaded"
            ),
        })
    })
}

/// Makes a VM, looks at its allocator, and closes it.
fn find_out(lua: &Lua) -> Result<Result<BuiltinIdentity, NotBuiltin>, Error> {
    // SAFETY: the VM is new, this thread's, and closed before anybody else knows of it.
    let (function, context, state, has_gc64) = unsafe {
        let state = (lua.luaL_newstate)();
        if state.is_null() {
            return Err(Error::Memory.because(format_args!(
                "luaL_newstate: there is no memory for a VM to compare with"
            )));
        }
        let (function, context) = lua.allocator(state);
        let has_gc64 = has_gc64(lua, state);
        (lua.lua_close)(state);
        (function, context, state, has_gc64)
    };
    if !has_gc64 {
        return Ok(Err(NotBuiltin::Lua));
    }
    // The state of the allocator comes first, then that of the VM.
    let distance = state.addr().wrapping_sub(context.addr());
    let function = function.filter(|_| !context.is_null() && distance < 4096);
    Ok(function.map(|function| BuiltinIdentity { function, distance }).ok_or(NotBuiltin::Allocator))
}

/// Whether a VM keeps pointers of 64 bits: its bytecode says so.
///
/// # Safety
///
/// `state` is a live VM of this thread's that nobody else knows.
unsafe fn has_gc64(lua: &Lua, state: *mut lua_State) -> bool {
    /// In the flags of LuaJIT's bytecode: frames have two slots, as with 64-bit pointers only.
    const TWO_SLOTS: u8 = 8;
    let mut header = [0u8; 5];
    // SAFETY: the caller's promise; the writer gets the header.
    unsafe {
        if (lua.luaL_loadbuffer)(state, c"".as_ptr(), 0, c"=".as_ptr()) == 0 {
            (lua.lua_dump)(state, keep_header, header.as_mut_ptr().cast());
        }
    }
    header.starts_with(b"\x1bLJ") && header[4] & TWO_SLOTS != 0
}

/// Keeps the first five bytes that are dumped, and stops.
///
/// # Safety
///
/// `part` has `bytes` bytes, and `header` room for five.
unsafe extern "C-unwind" fn keep_header(
    _: *mut lua_State,
    part: *const c_void,
    bytes: usize,
    header: *mut c_void,
) -> c_int {
    // SAFETY: `part` has `bytes` bytes by the rules of lua_Writer, and `header` room for 5, by the
    // caller's promise. They are apart: one is LuaJIT's buffer, the other the caller's array.
    unsafe { ptr::copy_nonoverlapping(part.cast::<u8>(), header.cast(), bytes.min(5)) };
    1
}

/// LuaJIT's own allocator, if that is beyond doubt what a VM runs on. Reads nothing of it.
///
/// # Safety
///
/// `state` is a live VM of this thread's.
pub(crate) unsafe fn known_builtin(lua: &Lua, state: *mut lua_State) -> Result<Builtin, Error> {
    // SAFETY: the caller's promise; the pushed thread is popped again.
    let (function, context, is_main) = unsafe {
        let (function, context) = lua.allocator(state);
        let is_main = (lua.lua_pushthread)(state) == 1;
        (lua.lua_settop)(state, -2);
        (function, context, is_main)
    };
    let known = known(lua)?;
    let Some(function) = function.filter(|it| *it as usize == known.function as usize) else {
        return Err(
            Error::Unknown.because(format_args!("the VM does not run on LuaJIT's own allocator"))
        );
    };
    let state_block = context.cast::<u8>().wrapping_add(known.distance);
    if is_main && state_block.addr() != state.addr() {
        return Err(Error::Unknown.because(format_args!(
            "the VM's state at {state:p} is not the first block of its allocator at {context:p}"
        )));
    }
    Ok(Builtin { function, state: context.cast(), state_block })
}

/// Changes a VM over to a new heap. True: it was on one already, and nothing has changed.
///
/// # Safety
///
/// `state` is a live VM of this thread's.
pub(crate) unsafe fn attach(
    lua: &Lua,
    state: *mut lua_State,
    options: Options,
    allocs: Allocs,
) -> Result<bool, Error> {
    // SAFETY: the caller's promise. The new heap is live and this thread's. From the change of the
    // function on, every block that the VM frees is one of the heap's or comes to the `VmHeap`,
    // which knows the previous allocator.
    unsafe {
        if !heap_of(lua, state, allocs).is_null() {
            return Ok(true);
        }
        let builtin = known_builtin(lua, state)?;
        let (known, survey) = KnownHeap::recognise(&Kernel, builtin.state)?;
        warn_without_effect(&options);
        let heap = HEAPS.create(Kernel, options)?;
        let mut previous = PreviousAllocator::new(builtin, known, &survey);
        if (*heap).options.get(Key::Auto) == 1 {
            previous.give_back(ForeignReason::Asked, None);
        }
        let vm_heap = VmHeap::new(heap, builtin.state_block, StateBlock::Previous(previous));
        (lua.lua_setallocf)(state, allocs[0], heap.cast());
        emergency::serve(vm_heap, lua.lua_setallocf);
    }
    Ok(false)
}
