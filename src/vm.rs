//! A VM on a heap of its own: made on it, or changed over to it while it runs.
//!
//! | file            | concern                                                          | unsafe |
//! |-----------------|------------------------------------------------------------------|--------|
//! | this one        | the bond of a VM and its heap; its end                           | yes    |
//! | `birth`         | a VM that is made on a heap                                      | yes    |
//! | `attach`        | a VM that changes over; what it ran on before                    | yes    |
//! | `emergency`     | how a heap makes the collector of its VM due                     | yes    |
//! | `collect`       | collects the garbage of idle VMs                                 | yes    |
//! | `hands`         | which thread has a VM, for hosts that move VMs between threads   | yes    |
//! | `copies`        | other copies of this library in the process                      | yes    |
//! | `report`        | what VMs tell of their memory                                    | no     |
//!
//! # How it ends
//!
//! `lua_close` frees the block that holds the VM's own state last of all. That block always lies
//! outside the heap, so its end comes to the slow path of [`heap`], and from there to the bond: the
//! allocator that the VM ran on before is unmapped, the heap deleted. Nothing on the hot path
//! watches for it. Who has asked for it ([`on_close`]) is told before the heap goes.

mod attach;
mod birth;
mod collect;
pub(crate) mod copies;
mod emergency;
mod hands;
mod lock;
mod report;
mod spin;

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use std::thread::yield_now;

pub(crate) use attach::{Former, Held, attach, known_builtin};
pub(crate) use birth::{Factory, make};
pub(crate) use collect::{check_collect, tell_without_effect};
pub(crate) use emergency::{STEPMUL_LONG, STEPMUL_WHOLE};
pub(crate) use hands::{Turn, idle, publish};
pub(crate) use report::{report_open, tell_of_closed};

use crate::heap::park::KernelHeap as Heap;
use crate::heap::{self, Outside};
use crate::lua::{Lua, lua_Alloc, lua_State, symbol};
use crate::os::{Kernel, MemoryRange, Os};
use hands::Hands;

/// Keeps the order of what this thread writes before and reads after, as far as the compiler goes.
#[inline(always)]
fn keep_order() {
    compiler_fence(Ordering::SeqCst);
}

/// `ebb_alloc` and `ebb_alloc_checked`.
pub(crate) type Allocs = [lua_Alloc; 2];

/// A VM and its heap.
pub(crate) struct Bond {
    /// Null once the VM is closed.
    heap: *mut Heap,
    /// The block that is freed last. Null before it is allocated.
    state_block: *mut u8,
    held: StateBlock,
    /// Which thread has the VM, where that is watched.
    hands: Hands,
    pace: emergency::Pace,
    collection: collect::Collection,
    /// Who is told when the VM is closed.
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
    Former(Former),
}

impl Bond {
    /// Bonds a new heap, before any of its blocks is a VM's.
    fn new(heap: *mut Heap, state_block: *mut u8, held: StateBlock) -> *mut Bond {
        let bond = Box::new(Bond {
            heap,
            state_block,
            held,
            hands: Hands::default(),
            pace: Default::default(),
            collection: collect::Collection::of_new_vm(),
            closed: None,
        });
        let bond = Box::into_raw(bond);
        // SAFETY: the heap is live and no VM uses it yet.
        unsafe { Bond::answer(bond) };
        bond
    }

    /// Has the heap send what comes from outside to the bond. A VM that was made on its heap has
    /// its state there and no more: any other pointer is wrong.
    ///
    /// # Safety
    ///
    /// The bond and its heap are live, and nobody uses the heap meanwhile.
    unsafe fn answer(bond: *mut Bond) {
        // SAFETY: the caller's promise.
        unsafe {
            let only = match &(*bond).held {
                StateBlock::Mapped(range) => Some(range.start),
                StateBlock::Former(_) => None,
            };
            let outside = Outside { context: bond.cast(), only, resize: resize_outside };
            (*(*bond).heap).outside = Some(outside);
        }
    }

    /// The bond of a heap; null when it has none.
    fn of(heap: &Heap) -> *mut Bond {
        heap.outside.map_or(ptr::null_mut(), |outside| outside.context.cast())
    }
}

/// Has a function called when the VM of a heap is closed, in place of the one before. False: the
/// heap is bound to no VM.
///
/// # Safety
///
/// The heap is live and this thread's; the function may be called with its context at that time.
pub(crate) unsafe fn on_close(heap: *mut Heap, closed: Option<Closed>) -> bool {
    // SAFETY: the caller's promise; a bond lives as long as its heap.
    let bond = unsafe { Bond::of(&*heap).as_mut() };
    bond.map(|bond| bond.closed = closed).is_some()
}

/// Lets several threads use a VM's heap in turns: see [`hands::share`]. False: the VM has no heap
/// that is bound to it.
///
/// # Safety
///
/// `state` is a live VM that no other thread uses.
pub(crate) unsafe fn share(lua: &Lua, state: *mut lua_State, allocs: Allocs) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let heap = heap_of(lua, state, allocs);
        let bond = heap.as_ref().map_or(ptr::null_mut(), Bond::of);
        if !bond.is_null() {
            hands::share(lua, bond, state);
        }
        !bond.is_null()
    }
}

/// What a VM ran on before it had its heap, if there is anything.
///
/// # Safety
///
/// The heap is live and this thread's.
pub(crate) unsafe fn former_of<'heap>(heap: *mut Heap) -> Option<&'heap mut Former> {
    // SAFETY: the caller's promise; a bond lives as long as its heap.
    unsafe {
        match &mut Bond::of(&*heap).as_mut()?.held {
            StateBlock::Former(former) => Some(former),
            StateBlock::Mapped(_) => None,
        }
    }
}

/// What the VM of a heap still holds from before it had it: nothing, unless it was attached.
pub(crate) fn former_held(heap: &Heap) -> Held {
    // SAFETY: a bond lives as long as its heap.
    match unsafe { Bond::of(heap).as_ref() }.map(|bond| &bond.held) {
        Some(StateBlock::Former(former)) => former.held(),
        _ => Held::default(),
    }
}

/// Resizes or frees a block that is not of the heap: see [`Outside::resize`].
///
/// # Safety
///
/// `context` is a bond; the block is one of its VM's.
unsafe fn resize_outside(context: *mut u8, block: *mut u8, new_size: usize) -> *mut u8 {
    let bond = context.cast::<Bond>();
    // SAFETY: the caller's promise. A VM that frees its state block has ended.
    unsafe {
        if new_size > 0 {
            return match &mut (*bond).held {
                StateBlock::Former(former) => former.move_over((*bond).heap, block, new_size),
                StateBlock::Mapped(_) => ptr::null_mut(),
            };
        }
        if let StateBlock::Former(former) = &mut (*bond).held {
            former.free(block);
        }
        if block == (*bond).state_block {
            end(bond);
        }
    }
    ptr::null_mut()
}

/// The VM is closed: nothing of it is left.
///
/// # Safety
///
/// No block of the VM is live, and it is not used again.
unsafe fn end(bond: *mut Bond) {
    // SAFETY: the caller's promise. The bond came from a box.
    unsafe {
        if let Some(Closed { function, context }) = (*bond).closed.take() {
            function(context);
        }
        let heap = Hands::let_go(bond);
        let bond = Box::from_raw(bond);
        match &bond.held {
            StateBlock::Mapped(range) if range.bytes > 0 => {
                Kernel.release(range.start, range.bytes);
            }
            StateBlock::Mapped(_) => {}
            StateBlock::Former(former) => former.release(),
        }
        heap::park::delete(heap);
    }
}

/// The heap that a VM runs on; null when that is none of ours.
///
/// # Safety
///
/// `state` is a live VM of this thread's.
pub(crate) unsafe fn heap_of(lua: &Lua, state: *mut lua_State, allocs: Allocs) -> *mut Heap {
    // SAFETY: the caller's promise; the context of our functions is a heap, or a bond.
    unsafe {
        let (Some(function), context) = lua.allocator(state) else { return ptr::null_mut() };
        if hands::is_watched(function) {
            return hands::take(context.cast());
        }
        if hands::is_shared(function) {
            return (*context.cast::<Bond>()).heap;
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
