//! Which thread has a VM, for hosts that know nothing of heaps.
//!
//! A program under the preload library may hand a VM from thread to thread and then wait, and while
//! it waits its heaps shall exhale. Only the thread that used a VM last may touch its heap then,
//! and only as long as no other one does. So a watched VM allocates through [`watched_alloc`],
//! which looks whether the calling thread is the one that is written down; if not, the thread first
//! takes the VM over, under the lock that a breath holds too. A breath begins only when it holds
//! the lock and the calling thread is still the one: then the thread is not in the VM, for it is
//! here, and no other can get in before the lock is open.
//!
//! Nobody needs to say that a VM has changed hands: whoever allocates has it. Another thread may be
//! in the VM and not have allocated yet, so a breath touches the heap alone, and not the VM. Only
//! where one thread alone has ever had the VM is its garbage collected too ([`collect`]).

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;

use super::collect::{self, Due};
use super::lock::BiasedLock;
use super::spin::SpinLock;
use super::{VmHeap, report};
use crate::figures::{self, Figures};
use crate::heap;
use crate::heap::cached_heap::KernelHeap as Heap;
use crate::heap::checked::ApiCall;
use crate::lua_api::{Lua, lua_Alloc, lua_State};
use crate::os::{Kernel, Os, interrupt_threads, this_thread};

/// A thread looks after its heaps once in this many microseconds at most, or in 32 times as long as
/// the look takes: a busy event loop waits ten thousand times a second.
const LOOK_US: u64 = 10_000;
const LOOK_SHARE: u64 = 32;

/// Microseconds that the thread waits for at least after a step of a collection: the rest of the
/// machine has a share too.
const PAUSE_US: u64 = 1_000;

/// A running thread is interrupted more often.
const AFTER_ANY_INTERRUPT: Duration = Duration::from_millis(50);

/// Who has a VM.
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

thread_local! {
    /// When this thread looks after its heaps again.
    static NEXT_LOOK_US: Cell<u64> = const { Cell::new(0) };
    /// The number of the VM that had the last step of a collection.
    static LAST_STEP: Cell<u64> = const { Cell::new(0) };
}

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
    // SAFETY: the caller's promises.
    unsafe {
        if (*vm_heap).owner.thread.load(Ordering::Relaxed) != this_thread() {
            return take_and_alloc(vm_heap, block, old_size, new_size);
        }
        heap::alloc::<Kernel>((*vm_heap).heap, block.cast(), old_size, new_size).cast()
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
    // SAFETY: the caller's promises.
    unsafe {
        let heap = take(vm_heap);
        heap::alloc::<Kernel>(heap, block.cast(), old_size, new_size).cast()
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
    // SAFETY: the caller's promise.
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
    // SAFETY: the caller's promise.
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
    // SAFETY: the caller's promise.
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
        let block = heap::alloc::<Kernel>((*vm_heap).heap, block.cast(), old_size, new_size);
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

    /// Whether the lock is taken: the caller breathes for the VM, or has its turn.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// The VM is no longer there: nobody finds the `VmHeap` any more. Returns the heap.
    ///
    /// # Safety
    ///
    /// `vm_heap` is live.
    pub(super) unsafe fn unlink(vm_heap: *mut VmHeap) -> *mut Heap {
        // SAFETY: the caller's promise.
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

/// Does what is due in the heaps of the VMs that the calling thread used last, within a budget for
/// all; and in one of these VMs a step of a collection, with a budget of its own. Returns after how
/// many microseconds it makes sense to call again; `None`: never, unless one of them is used.
pub(crate) fn idle(budget_us: u64) -> Option<u64> {
    collect::note_wait();
    let start_us = Kernel.now_us();
    let wait_us = NEXT_LOOK_US.get().saturating_sub(start_us);
    if wait_us > 0 {
        return Some(wait_us);
    }
    if !LIST.try_lock() {
        return Some(LOOK_US);
    }
    let mut next_us: Option<u64> = None;
    let mut turns = Turns::after(LAST_STEP.get());
    each(|vm_heap| {
        let visit = breathe(vm_heap, start_us, start_us + budget_us);
        next_us = [next_us, visit.next_us].into_iter().flatten().min();
        if visit.wants_step {
            turns.add(vm_heap.owner.number);
        }
    });
    LIST.unlock();
    let looked_us = Kernel.now_us().saturating_sub(start_us);
    if make_steps(&turns, budget_us) {
        let pause_us = PAUSE_US.max(looked_us * LOOK_SHARE);
        NEXT_LOOK_US.set(Kernel.now_us() + pause_us);
        return Some(pause_us);
    }
    NEXT_LOOK_US.set(start_us + LOOK_US.max(looked_us * LOOK_SHARE));
    next_us.map(|us| us.max(1))
}

/// Makes a step in each of these VMs, until the budget is spent. Whether any was made.
fn make_steps(turns: &Turns, budget_us: u64) -> bool {
    let deadline_us = Kernel.now_us() + budget_us;
    let mut is_any_made = false;
    for number in turns.in_order() {
        let left_us = deadline_us.saturating_sub(Kernel.now_us());
        if left_us == 0 || !LIST.try_lock() {
            break;
        }
        let vm_heap = locked(number);
        LIST.unlock();
        let Some(vm_heap) = vm_heap else { continue };
        LAST_STEP.set(number);
        // SAFETY: this thread has the VM and is not in it, and the lock keeps others out, one that
        // closes the VM too. The list is open.
        is_any_made |= unsafe { collect::step(vm_heap, left_us) };
        vm_heap.owner.lock.unlock();
    }
    is_any_made
}

/// Whose turn it is among VMs that want a step, by their numbers: those below the last that had
/// one, downwards, then those from the highest on.
struct Turns {
    last: u64,
    /// Whether it is below the last, and its number, the highest first.
    wanting: [(bool, u64); Turns::MOST],
    count: usize,
}

impl Turns {
    const MOST: usize = 16;

    fn after(last: u64) -> Turns {
        Turns { last, wanting: [(false, 0); Turns::MOST], count: 0 }
    }

    /// Adds a VM, unless there are enough before it.
    fn add(&mut self, number: u64) {
        let turn = (number < self.last, number);
        let at = self.wanting[..self.count].partition_point(|before| *before > turn);
        if at < Turns::MOST {
            self.count = Turns::MOST.min(self.count + 1);
            self.wanting[at..self.count].rotate_right(1);
            self.wanting[at] = turn;
        }
    }

    fn in_order(&self) -> impl Iterator<Item = u64> {
        self.wanting[..self.count].iter().map(|turn| turn.1)
    }
}

/// The `VmHeap` of a number, with its lock taken, if the calling thread has its VM. The list is
/// locked.
fn locked<'vm_heap>(number: u64) -> Option<&'vm_heap VmHeap> {
    let mut next = first();
    // SAFETY: as in `each`. A `VmHeap` ends after its VM has freed its last block, for which
    // another thread has to wait for the lock.
    while let Some(vm_heap) = unsafe { next.as_ref() } {
        let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
        if vm_heap.owner.number == number {
            if !lock.try_lock(order_threads) {
                return None;
            }
            if thread.load(Ordering::Relaxed) == this_thread() {
                return Some(vm_heap);
            }
            lock.unlock();
            return None;
        }
        next = vm_heap.owner.next.get();
    }
    None
}

/// What came of a visit.
#[derive(Default)]
struct Visit {
    /// In how many microseconds more will be due; `None`: not before the VM is used.
    next_us: Option<u64>,
    /// A step of a collection is due in the VM.
    wants_step: bool,
}

/// Does what is due in one heap if the calling thread has its VM.
fn breathe(vm_heap: &VmHeap, now_us: u64, deadline_us: u64) -> Visit {
    let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
    if thread.load(Ordering::Relaxed) != this_thread() || !lock.try_lock(order_threads) {
        return Visit::default();
    }
    let mut visit = Visit::default();
    if thread.load(Ordering::Relaxed) == this_thread() {
        // SAFETY: this thread has the VM and is not in it, and the lock keeps others out; a
        // `VmHeap` in the list has a live heap.
        unsafe {
            let mut heap = (*vm_heap.heap).visit(ApiCall::Tick);
            heap.publish();
            visit.next_us = heap.next_tick_us();
            let left_us = deadline_us.saturating_sub(Kernel.now_us());
            if visit.next_us == Some(0) && left_us > 0 && !vm_heap.collection.is_under_way() {
                heap.tick(left_us as u32);
                visit.next_us = heap.next_tick_us();
            }
        }
        if collect::is_possible_here() {
            // SAFETY: as above.
            match unsafe { collect::look(vm_heap, now_us) } {
                Due::Collect | Due::Return => visit.wants_step = true,
                Due::In(us) => {
                    visit.next_us = [visit.next_us, Some(us)].into_iter().flatten().min()
                }
                Due::Never => {}
            }
        }
    }
    lock.unlock();
    visit
}

/// Has the heaps of the VMs that the calling thread used last publish what they hold now. The
/// thread is in none of them.
pub(crate) fn publish() {
    LIST.with(|| {
        each(|vm_heap| {
            let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
            if thread.load(Ordering::Relaxed) == this_thread() && lock.try_lock(order_threads) {
                // SAFETY: this thread has the VM and is not in it, and the lock keeps others out;
                // a `VmHeap` in the list has a live heap.
                unsafe { (*vm_heap.heap).publish() };
                lock.unlock();
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_that_want_a_step_take_turns() {
        let order = |last: u64, wanting: &[u64]| {
            let mut turns = Turns::after(last);
            wanting.iter().for_each(|number| turns.add(*number));
            turns.in_order().collect::<Vec<u64>>()
        };
        assert_eq!(order(0, &[]), [0; 0]);
        assert_eq!(order(0, &[3, 9, 5]), [9, 5, 3]);
        assert_eq!(order(9, &[3, 9, 5]), [5, 3, 9]);
        assert_eq!(order(5, &[9, 3, 5]), [3, 9, 5]);
        assert_eq!(order(7, &[8]), [8]);
        let many: Vec<u64> = (1..=40).collect();
        let expected: Vec<u64> = (1..=9).rev().chain(34..=40).collect();
        let mut got = order(10, &many);
        got[9..].reverse();
        assert_eq!(got, expected);
    }
}
