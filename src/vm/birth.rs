//! A VM that is made on a heap.

use core::ffi::c_void;
use core::ptr;

use super::hands::{watch, watched_alloc};
use super::{Bond, StateBlock, collect, emergency, end, whole_pages};
use crate::error::Error;
use crate::heap;
use crate::lua::{NewState, SetAllocF, lua_Alloc, lua_State};
use crate::options::Options;
use crate::os::{Kernel, MemoryRange, Os};

/// The functions of Lua that make a VM, and what it shall allocate with.
pub(crate) struct Factory {
    pub(crate) newstate: NewState,
    pub(crate) setallocf: SetAllocF,
    /// `ebb_alloc`; `None`: the function that watches which thread has the VM.
    pub(crate) alloc: Option<lua_Alloc>,
}

/// What is allocated while a VM is made comes through here.
struct Birth {
    bond: *mut Bond,
    /// The VM has ended already, for lack of memory.
    ended: bool,
}

/// Makes a VM on a new heap, which is deleted when the VM is closed.
///
/// # Safety
///
/// The factory's functions are those of one Lua.
pub(crate) unsafe fn make(factory: &Factory, options: Options) -> Result<*mut lua_State, Error> {
    let heap = heap::park::create(options)?;
    // SAFETY: the heap is live and nobody else knows of it.
    let options = unsafe { &(*heap).options };
    match factory.alloc {
        Some(_) => collect::tell_without_effect(options),
        None => collect::tell_of_nginx(options),
    }
    let nothing = MemoryRange { start: ptr::null_mut(), bytes: 0 };
    let mut birth =
        Birth { bond: Bond::new(heap, ptr::null_mut(), StateBlock::Mapped(nothing)), ended: false };
    // SAFETY: the caller's promise; `birth` outlives the call, and after it the VM allocates with
    // another function. The bond and the heap live until the VM ends.
    unsafe {
        let state = (factory.newstate)(birth_alloc, (&raw mut birth).cast());
        if !state.is_null() {
            match factory.alloc {
                Some(alloc) => (factory.setallocf)(state, alloc, heap.cast()),
                None => {
                    watch(birth.bond);
                    (factory.setallocf)(state, watched_alloc, birth.bond.cast());
                }
            }
            if state.addr() == (*birth.bond).state_block.addr() {
                emergency::serve(birth.bond, factory.setallocf);
            }
            return Ok(state);
        }
        if !birth.ended {
            end(birth.bond);
        }
    }
    Err(Error::Memory.because(format_args!(
        "lua_newstate refused: there is no memory, or this LuaJIT is built without GC64"
    )))
}

/// A lua_Alloc whose first block is the VM's state.
///
/// # Safety
///
/// `birth` is a [`Birth`] that goes on; the rest is as for lua_Alloc.
unsafe extern "C-unwind" fn birth_alloc(
    birth: *mut c_void,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    let birth = birth.cast::<Birth>();
    // SAFETY: the caller's promises.
    unsafe {
        let bond = (*birth).bond;
        if (*bond).state_block.is_null() {
            return map_state(bond, new_size).cast();
        }
        // With the state block the bond ends, and the heap.
        (*birth).ended |= new_size == 0 && block.cast() == (*bond).state_block;
        heap::alloc::<Kernel>((*bond).heap, block.cast(), old_size, new_size).cast()
    }
}

/// Maps the VM's state.
///
/// # Safety
///
/// The bond and its heap are live and this thread's.
unsafe fn map_state(bond: *mut Bond, size: usize) -> *mut u8 {
    let bytes = whole_pages(size);
    let Some(start) = Kernel.reserve(bytes, false) else { return ptr::null_mut() };
    // SAFETY: the mapping was made just now; the caller's promise.
    unsafe {
        if !Kernel.commit(start, bytes) {
            Kernel.release(start, bytes);
            return ptr::null_mut();
        }
        (*bond).state_block = start;
        (*bond).held = StateBlock::Mapped(MemoryRange { start, bytes });
        Bond::answer(bond);
    }
    start
}
