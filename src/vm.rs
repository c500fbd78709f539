//! A VM on a heap of its own: made on it, or changed over to it while it runs.
//!
//! | file        | concern                                                        | unsafe |
//! |-------------|----------------------------------------------------------------|--------|
//! | this one    | what ties a VM to its heap; the end of a VM                    | yes    |
//! | `create`    | a VM that is made on a heap                                    | yes    |
//! | `attach`    | a VM that changes over                                         | yes    |
//! | `previous`  | what such a VM ran on before, and its free pages               | yes    |
//! | `emergency` | how a heap makes the collector of its VM due                   | yes    |
//! | `collect`   | collects the garbage of idle VMs                               | yes    |
//! | `owner`     | which thread has a VM, for hosts that move VMs between threads | yes    |
//! | `copies`    | other copies of this library in the process                    | yes    |
//! | `report`    | what VMs tell of their memory                                  | no     |
//!
//! # How it ends
//!
//! `lua_close` frees the block that holds the VM's own state last of all. That block always lies
//! outside the heap, so its end comes to the slow path of [`heap`], and from there to [`VmHeap`]:
//! the allocator that the VM ran on before is unmapped, the heap deleted. Nothing on the hot path
//! watches for it. A function set by [`on_close`] is called before the heap goes.

mod attach;
mod collect;
pub(crate) mod copies;
mod create;
mod emergency;
mod lock;
mod owner;
mod previous;
mod report;
mod spin;

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use std::thread::yield_now;

pub(crate) use attach::{attach, known_builtin};
pub(crate) use collect::{check_collect, warn_without_effect};
pub(crate) use create::{LuaFns, make};
pub(crate) use emergency::{STEPMUL_LONG, STEPMUL_WHOLE};
pub(crate) use owner::{Turn, idle, publish};
pub(crate) use previous::{PreviousAllocator, PreviousUsage};
pub(crate) use report::{enable_closed_reports, report_open};

use crate::builtin;
use crate::heap::{self, ForeignBlocks, ForeignPages, ForeignReason, ForeignReturned};
use crate::lua_api::{Lua, lua_Alloc, lua_State, symbol};
use crate::options::Key;
use crate::os::{Kernel, MemoryRange, Os};
use crate::reclaim::HEAPS;
use crate::reclaim::KernelHeap as Heap;
use owner::ThreadOwner;

/// Keeps the order of what this thread writes before and reads after, as far as the compiler goes.
#[inline(always)]
fn keep_order() {
    compiler_fence(Ordering::SeqCst);
}

/// `ebb_alloc` and `ebb_alloc_checked`.
pub(crate) type Allocs = [lua_Alloc; 2];

/// A VM and its heap.
pub(crate) struct VmHeap {
    /// Null once the VM is closed.
    heap: *mut Heap,
    /// The block that is freed last. Null before it is allocated.
    state_block: *mut u8,
    state_home: StateBlock,
    /// Which thread has the VM, where that is watched.
    owner: ThreadOwner,
    pace: emergency::CollectorPace,
    collection: collect::Collection,
    /// What is called when the VM is closed.
    closed: Option<Closed>,
}

/// A function that is called when a VM is closed, and its argument.
pub(crate) struct Closed {
    pub(crate) function: unsafe extern "C-unwind" fn(*mut c_void),
    pub(crate) context: *mut c_void,
}

/// Where the block that is freed last comes from.
enum StateBlock {
    /// A mapping of its own.
    Mapped(MemoryRange),
    /// The allocator that the VM ran on before.
    Previous(PreviousAllocator),
}

impl VmHeap {
    /// Bonds a new heap, before any of its blocks is a VM's.
    fn new(heap: *mut Heap, state_block: *mut u8, state_home: StateBlock) -> *mut VmHeap {
        let vm_heap = Box::new(VmHeap {
            heap,
            state_block,
            state_home,
            owner: ThreadOwner::default(),
            pace: Default::default(),
            collection: collect::Collection::of_new_vm(),
            closed: None,
        });
        let vm_heap = Box::into_raw(vm_heap);
        // SAFETY: the heap is live and no VM uses it yet.
        unsafe { VmHeap::install(vm_heap) };
        vm_heap
    }

    /// Has the heap send what comes from outside to the `VmHeap`. A VM that was made on its heap
    /// has its state there and no more: any other pointer is wrong.
    ///
    /// # Safety
    ///
    /// The `VmHeap` and its heap are live, and nobody uses the heap meanwhile.
    unsafe fn install(vm_heap: *mut VmHeap) {
        // SAFETY: the caller's promise: nobody else uses the heap, so that its fields may be
        // written. The context is this `VmHeap`, which lives as long as the heap.
        unsafe {
            let (only, pages) = match &(*vm_heap).state_home {
                StateBlock::Mapped(range) => (Some(range.start), None),
                StateBlock::Previous(_) => (None, Some(ForeignPages { next_us, give_back })),
            };
            let context = vm_heap.cast();
            let foreign = ForeignBlocks { context, only, resize: resize_foreign, pages };
            (*(*vm_heap).heap).foreign = Some(foreign);
        }
    }

    /// The `VmHeap` of a heap; null when it has none.
    fn of(heap: &Heap) -> *mut VmHeap {
        heap.foreign.map_or(ptr::null_mut(), |foreign| foreign.context.cast())
    }
}

/// Has a function called when the VM of a heap is closed, in place of the one before. False: the
/// heap is bound to no VM.
///
/// # Safety
///
/// The heap is live and this thread's; the function may be called with its context at that time.
pub(crate) unsafe fn on_close(heap: *mut Heap, closed: Option<Closed>) -> bool {
    // SAFETY: the caller's promise; a `VmHeap` lives as long as its heap.
    let vm_heap = unsafe { VmHeap::of(&*heap).as_mut() };
    vm_heap.map(|vm_heap| vm_heap.closed = closed).is_some()
}

/// Lets several threads use a VM's heap in turns: see [`owner::share`]. False: the VM has no heap
/// that is bound to it.
///
/// # Safety
///
/// `state` is a live VM that no other thread uses.
pub(crate) unsafe fn share(lua: &Lua, state: *mut lua_State, allocs: Allocs) -> bool {
    // SAFETY: the caller's promise. A heap that is found is live, and bound to this VM: its
    // `VmHeap` is live, too, and no other thread uses either.
    unsafe {
        let heap = heap_of(lua, state, allocs);
        let vm_heap = heap.as_ref().map_or(ptr::null_mut(), VmHeap::of);
        if !vm_heap.is_null() {
            owner::share(lua, vm_heap, state);
        }
        !vm_heap.is_null()
    }
}

/// What a VM ran on before it had its heap, if there is anything.
///
/// # Safety
///
/// The heap is live and this thread's.
pub(crate) unsafe fn previous_of<'heap>(heap: *mut Heap) -> Option<&'heap mut PreviousAllocator> {
    // SAFETY: the caller's promise; a `VmHeap` lives as long as its heap.
    unsafe {
        match &mut VmHeap::of(&*heap).as_mut()?.state_home {
            StateBlock::Previous(previous) => Some(previous),
            StateBlock::Mapped(_) => None,
        }
    }
}

/// What the VM of a heap still holds from before it had it: nothing, unless it was attached.
pub(crate) fn previous_usage(heap: &Heap) -> PreviousUsage {
    // SAFETY: a `VmHeap` lives as long as its heap.
    match unsafe { VmHeap::of(heap).as_ref() }.map(|vm_heap| &vm_heap.state_home) {
        Some(StateBlock::Previous(previous)) => previous.usage(),
        _ => PreviousUsage::default(),
    }
}

/// Resizes or frees a block that is not of the heap: see [`ForeignBlocks::resize`].
///
/// # Safety
///
/// `context` is a `VmHeap`; the block is one of its VM's.
unsafe fn resize_foreign(context: *mut u8, block: *mut u8, new_size: usize) -> *mut u8 {
    let vm_heap = context.cast::<VmHeap>();
    // SAFETY: the caller's promise. A VM that frees its state block has ended.
    unsafe {
        let is_previous = matches!((*vm_heap).state_home, StateBlock::Previous(_));
        if new_size > 0 {
            return if is_previous {
                migrate_block(vm_heap, block, new_size)
            } else {
                ptr::null_mut()
            };
        }
        let is_last = block == (*vm_heap).state_block;
        if is_previous {
            free_foreign(vm_heap, block, is_last);
        }
        if is_last {
            destroy(vm_heap);
        }
    }
    ptr::null_mut()
}

/// Moves a block of the previous allocator that is resized to the heap. A shrink never fails.
///
/// # Safety
///
/// `vm_heap` is live and this thread's, its VM was attached, and the block is one of its VM's that
/// the previous allocator has.
unsafe fn migrate_block(vm_heap: *mut VmHeap, block: *mut u8, new_size: usize) -> *mut u8 {
    // SAFETY: the caller's promises; the new block is another one. Nothing of the `VmHeap` is
    // borrowed while the heap allocates, for that may give pages of the previous allocator back.
    unsafe {
        let (size, _) = builtin::block_size(block);
        let new = heap::alloc((*vm_heap).heap, ptr::null_mut(), 0, new_size);
        if !new.is_null() {
            ptr::copy_nonoverlapping(block, new, size.min(new_size));
            free_foreign(vm_heap, block, false);
            return new;
        }
        if new_size <= size { block } else { ptr::null_mut() }
    }
}

/// Frees a block of the previous allocator, and gives free pages of that allocator back where that
/// is due and the block is not the VM's last.
///
/// # Safety
///
/// As for [`migrate_block`].
unsafe fn free_foreign(vm_heap: *mut VmHeap, block: *mut u8, is_last: bool) {
    // SAFETY: the caller's promises; the borrow ends before the heap looks.
    unsafe {
        let StateBlock::Previous(previous) = &mut (*vm_heap).state_home else { return };
        if !previous.free(block) || is_last {
            return;
        }
        if !(*vm_heap).owner.is_shared() {
            (*(*vm_heap).heap).poll_now();
        } else if (*(*vm_heap).heap).options.get(Key::Auto) == 1 && previous.next_us() == Some(0) {
            // The host's ticks leave these pages alone: see `next_us`. This is the VM's own thread.
            previous.give_back(ForeignReason::Due, Some(Kernel.now_us()));
        }
    }
}

/// See [`ForeignPages::next_us`].
///
/// # Safety
///
/// `context` is a `VmHeap`, and its heap is the calling thread's.
unsafe fn next_us(context: *mut u8) -> Option<u64> {
    // SAFETY: the caller's promise. The `VmHeap` is only looked at by reference: what changes in it
    // are cells and atomics.
    let vm_heap = unsafe { &*context.cast::<VmHeap>() };
    match &vm_heap.state_home {
        // The thread that ticks for a shared VM need not be the one that runs the VM, and a C
        // module there may call the previous allocator without the lock.
        StateBlock::Previous(previous) if !vm_heap.owner.is_shared() => previous.next_us(),
        _ => None,
    }
}

/// See [`ForeignPages::give_back`].
///
/// # Safety
///
/// As for [`next_us`].
unsafe fn give_back(
    context: *mut u8,
    reason: ForeignReason,
    deadline_us: Option<u64>,
) -> ForeignReturned {
    // SAFETY: the caller's promise. The heap, which the caller may hold, is not touched.
    match unsafe { &mut (*context.cast::<VmHeap>()).state_home } {
        StateBlock::Previous(previous) => previous.give_back(reason, deadline_us),
        StateBlock::Mapped(_) => ForeignReturned::default(),
    }
}

/// The VM is closed: nothing of it is left.
///
/// # Safety
///
/// No block of the VM is live, and it is not used again.
unsafe fn destroy(vm_heap: *mut VmHeap) {
    // SAFETY: the caller's promise. The `VmHeap` came from a box.
    unsafe {
        if let Some(Closed { function, context }) = (*vm_heap).closed.take() {
            function(context);
        }
        let heap = ThreadOwner::unlink(vm_heap);
        let vm_heap = Box::from_raw(vm_heap);
        match &vm_heap.state_home {
            StateBlock::Mapped(range) if range.bytes > 0 => {
                Kernel.release(range.start, range.bytes);
            }
            StateBlock::Mapped(_) => {}
            StateBlock::Previous(previous) => previous.release(),
        }
        HEAPS.delete(heap);
    }
}

/// The heap that a VM runs on; null when that is none of ours.
///
/// # Safety
///
/// `state` is a live VM of this thread's.
pub(crate) unsafe fn heap_of(lua: &Lua, state: *mut lua_State, allocs: Allocs) -> *mut Heap {
    // SAFETY: the caller's promise; the context of our functions is a heap, or a `VmHeap`.
    unsafe {
        let (Some(function), context) = lua.allocator(state) else { return ptr::null_mut() };
        if owner::is_watched(function) {
            return owner::take(context.cast());
        }
        if owner::is_shared(function) {
            return (*context.cast::<VmHeap>()).heap;
        }
        let is_ours = allocs.iter().any(|ours| *ours as usize == function as usize)
            || copies::is_visible()
                && [c"ebb_alloc", c"ebb_alloc_checked"]
                    .iter()
                    .any(|name| symbol(name).addr() == function as usize);
        if is_ours { context.cast() } else { ptr::null_mut() }
    }
}

/// A size as the kernel counts it.
fn whole_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(Kernel.page_size())
}
