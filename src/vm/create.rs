//! A VM that is made on a heap.

use core::ffi::c_void;
use core::ptr;

use super::owner::{watch, watched_alloc};
use super::{StateBlock, VmHeap, collect, destroy, emergency, whole_pages};
use crate::error::Error;
use crate::heap;
use crate::lua_api::{NewState, SetAllocF, lua_Alloc, lua_State};
use crate::options::Options;
use crate::os::{Kernel, MemoryRange, Os};
use crate::reclaim::HEAPS;

/// The functions of Lua that make a VM, and what it shall allocate with.
pub(crate) struct LuaFns {
    pub(crate) newstate: NewState,
    pub(crate) setallocf: SetAllocF,
    /// `ebb_alloc`; `None`: the function that watches which thread has the VM.
    pub(crate) alloc: Option<lua_Alloc>,
}

/// What is allocated while a VM is made comes through here.
struct Creation {
    vm_heap: *mut VmHeap,
    /// The VM has ended already, for lack of memory.
    ended: bool,
}

/// Makes a VM on a new heap, which is deleted when the VM is closed.
///
/// # Safety
///
/// The factory's functions are those of one Lua.
pub(crate) unsafe fn make(lua_fns: &LuaFns, options: Options) -> Result<*mut lua_State, Error> {
    let heap = HEAPS.create(Kernel, options)?;
    // SAFETY: the heap is live and nobody else knows of it.
    let options = unsafe { &(*heap).options };
    match lua_fns.alloc {
        Some(_) => collect::warn_without_effect(options),
        None => collect::warn_in_nginx(options),
    }
    let nothing = MemoryRange { start: ptr::null_mut(), bytes: 0 };
    let mut creation = Creation {
        vm_heap: VmHeap::new(heap, ptr::null_mut(), StateBlock::Mapped(nothing)),
        ended: false,
    };
    // SAFETY: the caller's promise; `creation` outlives the call, and after it the VM allocates
    // with another function. The `VmHeap` and the heap live until the VM ends.
    unsafe {
        let state = (lua_fns.newstate)(creation_alloc, (&raw mut creation).cast());
        if !state.is_null() {
            match lua_fns.alloc {
                Some(alloc) => (lua_fns.setallocf)(state, alloc, heap.cast()),
                None => {
                    watch(creation.vm_heap);
                    (lua_fns.setallocf)(state, watched_alloc, creation.vm_heap.cast());
                }
            }
            if state.addr() == (*creation.vm_heap).state_block.addr() {
                emergency::serve(creation.vm_heap, lua_fns.setallocf);
            }
            return Ok(state);
        }
        if !creation.ended {
            destroy(creation.vm_heap);
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
/// `creation` is a [`Creation`] that goes on; the rest is as for lua_Alloc.
unsafe extern "C-unwind" fn creation_alloc(
    creation: *mut c_void,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    let creation = creation.cast::<Creation>();
    // SAFETY: the caller's promises: `creation` and its `VmHeap` live until `lua_newstate` returns,
    // and nobody else has them. When the state block is freed the heap ends with it, and neither is
    // touched afterwards.
    unsafe {
        let vm_heap = (*creation).vm_heap;
        if (*vm_heap).state_block.is_null() {
            return map_state(vm_heap, new_size).cast();
        }
        // With the state block the `VmHeap` ends, and the heap.
        (*creation).ended |= new_size == 0 && block.cast() == (*vm_heap).state_block;
        heap::alloc((*vm_heap).heap, block.cast(), old_size, new_size).cast()
    }
}

/// Maps the VM's state.
///
/// # Safety
///
/// The `VmHeap` and its heap are live and this thread's.
unsafe fn map_state(vm_heap: *mut VmHeap, size: usize) -> *mut u8 {
    let bytes = whole_pages(size);
    let Some(start) = Kernel.reserve(bytes, false) else { return ptr::null_mut() };
    // SAFETY: the range was mapped just now, as a whole, and is not shared.
    unsafe {
        if !Kernel.commit(start, bytes) {
            Kernel.release(start, bytes);
            return ptr::null_mut();
        }
    }
    // SAFETY: the caller's promise: the `VmHeap` and its heap are live.
    unsafe {
        (*vm_heap).state_block = start;
        (*vm_heap).state_home = StateBlock::Mapped(MemoryRange { start, bytes });
        VmHeap::install(vm_heap);
    }
    start
}
