//! Which thread has a VM, for hosts that know nothing of heaps.
//!
//! A program under the preload library may use a VM on one thread after another. While a thread
//! waits, what is due in the heaps of its VMs shall go back ([`idle`]). Only the thread that used a
//! VM last may touch its heap then, and only while no other thread does. So a watched VM allocates
//! through [`watched_alloc`], which compares the calling thread with the noted owner. Another
//! thread first becomes the owner, under the lock that [`idle`] holds too. [`idle`] touches a heap
//! only while it holds the lock and the calling thread is the owner: this thread is then not inside
//! the VM, and no other thread can enter before the lock is released.
//!
//! A host need not report that a VM is handed over: the thread that allocates is the owner. Another
//! thread may be inside the VM and not have allocated yet, so [`idle`] touches the heap alone, and
//! not the VM. Garbage is collected ([`collect`]) only in VMs that one thread alone ever had.

mod idle;

pub(crate) use idle::{idle, publish};

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;

use super::collect;
use super::lock::BiasedLock;
use super::spin::SpinLock;
use super::{VmHeap, report};
use crate::figures::{self, Figures};
use crate::heap;
use crate::lua_api::{Lua, lua_Alloc, lua_State};
use crate::os::{interrupt_threads, this_thread};
use crate::reclaim::KernelHeap as Heap;

/// A running thread is interrupted more often.
const AFTER_ANY_INTERRUPT: Duration = Duration::from_millis(50);

/// The thread that owns a VM, and its lock.
#[derive(Default)]
pub(super) struct ThreadOwner {
    /// The thread that used it last; 0: nobody watches.
    thread: AtomicUsize,
    lock: BiasedLock,
    /// Threads take turns in the heap, each under the lock: see [`share`].
    shared: AtomicBool,
    /// The number of the VM in reports.
    number: u64,
    /// Where others read what the heap holds.
    figures: Option<&'static Figures>,
    /// The next watched VM.
    next: Cell<*mut VmHeap>,
}

/// All watched VMs, the newest first, and the lock of the list.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static LIST: SpinLock = SpinLock::new();
/// VMs ever watched.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A lua_Alloc that notices when another thread has the VM.
///
/// # Safety
///
/// `vm_heap` is a live watched `VmHeap`; the rest is as for lua_Alloc.
pub(super) unsafe extern "C-unwind" fn watched_alloc(
    vm_heap: *mut c_void,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    let vm_heap = vm_heap.cast::<VmHeap>();
    // SAFETY: the caller's promises. When the calling thread is the owner, no other thread touches
    // the heap: `idle` and `take` do so as owners only.
    unsafe {
        if (*vm_heap).owner.thread.load(Ordering::Relaxed) != this_thread() {
            return take_and_alloc(vm_heap, block, old_size, new_size);
        }
        heap::alloc((*vm_heap).heap, block.cast(), old_size, new_size).cast()
    }
}

/// # Safety
///
/// As for [`watched_alloc`].
#[cold]
#[inline(never)]
unsafe fn take_and_alloc(
    vm_heap: *mut VmHeap,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    // SAFETY: the caller's promises. After `take` this thread is the owner, and no other one is
    // inside the heap: it would hold the lock that `take` has waited for.
    unsafe {
        let heap = take(vm_heap);
        heap::alloc(heap, block.cast(), old_size, new_size).cast()
    }
}

/// Whether an allocation function is [`watched_alloc`].
pub(super) fn is_watched(function: lua_Alloc) -> bool {
    function as usize == watched_alloc as *const () as usize
}

/// The calling thread has the VM from now on. Returns its heap.
///
/// # Safety
///
/// `vm_heap` is a live watched `VmHeap`, and no other thread uses its VM.
pub(super) unsafe fn take(vm_heap: *mut VmHeap) -> *mut Heap {
    // SAFETY: the caller's promise. What changes in it meanwhile are atomics and cells; the cells
    // are the owner's.
    let vm_heap = unsafe { &*vm_heap };
    let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
    if thread.load(Ordering::Relaxed) != this_thread() {
        vm_heap.collection.note_handover();
        lock.lock(order_threads);
        thread.store(this_thread(), Ordering::Relaxed);
        lock.unlock();
    }
    vm_heap.heap
}

/// Puts a new `VmHeap` under watch, in the calling thread's hands.
///
/// # Safety
///
/// `vm_heap` is live and new.
pub(super) unsafe fn watch(vm_heap: *mut VmHeap) {
    // SAFETY: the caller's promise. The heap of a live `VmHeap` is live, and nobody else uses it
    // yet.
    unsafe {
        enlist(vm_heap);
        let figures = figures::claim((*vm_heap).owner.number);
        (*vm_heap).owner.figures = Some(figures);
        (*(*vm_heap).heap).publish_in(figures);
        (*(*vm_heap).heap).publish();
    }
}

/// Puts a `VmHeap` into the list of those that a fork's child goes through, in the calling thread's
/// hands.
///
/// # Safety
///
/// `vm_heap` is live, in no list, and no other thread uses it.
unsafe fn enlist(vm_heap: *mut VmHeap) {
    static FORKS: Once = Once::new();
    // SAFETY: the handlers are functions for the life of the process, since the library is never
    // unloaded.
    FORKS.call_once(|| unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child));
    });
    // SAFETY: the caller's promise: it is in no list, so that no other reference to the owner
    // exists until the list has it.
    let owner = unsafe { &mut (*vm_heap).owner };
    owner.thread = AtomicUsize::new(this_thread());
    owner.number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    LIST.with(|| {
        owner.next.set(first());
        FIRST.store(vm_heap.expose_provenance(), Ordering::Relaxed);
    });
}

/// Lets several threads use the heap of a VM, one at a time: from now on the VM allocates as
/// the owner of the lock, and every other call for the heap waits for its [`Turn`].
///
/// # Safety
///
/// `vm_heap` is live, its VM is `state`, and no other thread uses either.
pub(crate) unsafe fn share(lua: &Lua, vm_heap: *mut VmHeap, state: *mut lua_State) {
    // SAFETY: the caller's promise: no other thread uses the heap or the VM while the VM gets
    // another allocation function, which takes the lock for each call.
    unsafe {
        if !(*vm_heap).owner.is_listed() {
            enlist(vm_heap);
        }
        let ThreadOwner { shared, lock, .. } = &(*vm_heap).owner;
        // A fork finds each listed heap shared or not, all the time.
        LIST.with(|| {
            if !shared.swap(true, Ordering::Relaxed) && interrupt_threads() {
                lock.favour();
            }
        });
        (lua.lua_setallocf)(state, shared_alloc, vm_heap.cast());
    }
}

/// The lua_Alloc of a shared VM.
///
/// # Safety
///
/// `vm_heap` is a live shared `VmHeap`; the rest is as for lua_Alloc. The VM is closed while no
/// other thread makes a call for its heap.
unsafe extern "C-unwind" fn shared_alloc(
    vm_heap: *mut c_void,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    let vm_heap = vm_heap.cast::<VmHeap>();
    // SAFETY: the caller's promises. The `VmHeap` is gone when its state block is freed, and with
    // it the lock: that call is made without.
    unsafe {
        let ThreadOwner { lock, shared, .. } = &(*vm_heap).owner;
        let entry = lock.enter();
        let ends = new_size == 0 && block.cast() == (*vm_heap).state_block;
        if ends {
            shared.store(false, Ordering::Relaxed);
            lock.leave(entry);
        }
        let block = heap::alloc((*vm_heap).heap, block.cast(), old_size, new_size);
        if !ends {
            lock.leave(entry);
        }
        block.cast()
    }
}

/// Has each thread of the process see what this one wrote, and the other way round.
fn order_threads() -> bool {
    interrupt_threads() || {
        // The kernel refuses what it did when the VM was shared: a filter is new. What a processor
        // has written it shows to the others at its next interrupt, or task switch.
        std::thread::sleep(AFTER_ANY_INTERRUPT);
        false
    }
}

/// Whether an allocation function is that of a shared VM.
pub(super) fn is_shared(function: lua_Alloc) -> bool {
    function as usize == shared_alloc as *const () as usize
}

/// The right to make a call for a heap, until this is dropped.
pub(crate) struct Turn(*const BiasedLock);

impl Turn {
    /// Waits for it, if the heap's VM is shared; otherwise there is nothing to wait for.
    ///
    /// # Safety
    ///
    /// `heap` is live, and outlives the turn.
    pub(crate) unsafe fn wait(heap: *const Heap) -> Turn {
        // SAFETY: the caller's promise. The `VmHeap` does not change while the heap is shared, so
        // that it can be read beside the thread that has the lock; it lives as long as the heap.
        unsafe {
            let foreign = (&raw const (*heap).foreign).read();
            let vm_heap = foreign.map_or(ptr::null(), |foreign| foreign.context.cast::<VmHeap>());
            match vm_heap.as_ref() {
                Some(VmHeap { owner, .. }) if owner.is_shared() => {
                    owner.lock.lock(order_threads);
                    Turn(&raw const owner.lock)
                }
                _ => Turn(ptr::null()),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // SAFETY: the lock lives as long as the heap, which outlives the turn.
        if let Some(lock) = unsafe { self.0.as_ref() } {
            lock.unlock();
        }
    }
}

/// A child of a fork must find the list, and each shared heap, as nobody left it.
extern "C" fn before_fork() {
    LIST.lock();
    each_shared(|lock| lock.lock(order_threads));
}

extern "C" fn after_fork() {
    each_shared(BiasedLock::unlock);
    LIST.unlock();
}

/// The list is locked.
fn each_shared(visit: fn(&BiasedLock)) {
    each(|vm_heap| {
        if vm_heap.owner.is_shared() {
            visit(&vm_heap.owner.lock);
        }
    });
}

/// The other threads are not in the child, nor is what they were doing: their VMs are nobody's. A
/// new thread may be given the number of one of them.
extern "C" fn in_child() {
    each(|vm_heap| {
        let ThreadOwner { thread, lock, shared, .. } = &vm_heap.owner;
        if thread.load(Ordering::Relaxed) != this_thread() || shared.load(Ordering::Relaxed) {
            thread.store(0, Ordering::Relaxed);
            lock.unlock_in_child();
        }
        collect::note_fork(vm_heap);
    });
    LIST.unlock();
}

/// The first watched `VmHeap`. The list is locked.
fn first() -> *mut VmHeap {
    ptr::with_exposed_provenance_mut(FIRST.load(Ordering::Relaxed))
}

/// Calls `visit` for each watched `VmHeap`. The list is locked.
fn each(mut visit: impl FnMut(&VmHeap)) {
    let mut next = first();
    // SAFETY: heaps of VMs are in the list while they live, and it does not change while it
    // is locked.
    while let Some(vm_heap) = unsafe { next.as_ref() } {
        visit(vm_heap);
        next = vm_heap.owner.next.get();
    }
}

impl ThreadOwner {
    fn is_listed(&self) -> bool {
        self.number > 0
    }

    /// Whether it is noticed which thread has the VM.
    pub(super) fn is_watched(&self) -> bool {
        self.figures.is_some()
    }

    /// Whether threads take turns in the heap.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Whether the lock is taken: the caller does what is due for the VM, or has its turn.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// The VM is no longer there: nobody finds the `VmHeap` any more. Returns the heap.
    ///
    /// # Safety
    ///
    /// `vm_heap` is live.
    pub(super) unsafe fn unlink(vm_heap: *mut VmHeap) -> *mut Heap {
        // SAFETY: the caller's promise. Others that walk the list look at it by shared references
        // as well.
        let this = unsafe { &*vm_heap };
        if this.owner.is_listed() {
            LIST.with(|| {
                if first() == vm_heap {
                    FIRST.store(this.owner.next.get().expose_provenance(), Ordering::Relaxed);
                }
                each(|other| {
                    if other.owner.next.get() == vm_heap {
                        other.owner.next.set(this.owner.next.get());
                    }
                });
            });
        }
        if let Some(figures) = this.owner.figures {
            // SAFETY: the heap of a live `VmHeap` is live, and the thread that closes a VM has it.
            // What the heap still frees is not published: the entry may be another heap's by then.
            unsafe {
                (*this.heap).publish();
                (*this.heap).publish_no_more();
            }
            report::report_closed(this.owner.number, figures.last_seen());
            figures.release();
        }
        this.heap
    }
}
