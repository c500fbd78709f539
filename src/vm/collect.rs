//! Collects the garbage of idle VMs, while the thread that has one waits in its event loop.
//!
//! Only VMs under the preload library come here: it sees the waits. A slice of a collection is made
//! when all of this holds:
//!
//! - `collect` is on for the VM; `auto` is on in nginx, for the VMs of its configuration.
//! - One thread alone has ever used the VM, and this is it. A VM that was handed over once may be
//!   so again: the other thread may run the VM before it allocates, and nobody would notice.
//! - The VM was quiet for a second ([`schedule`]).
//! - No Lua function is active in the VM, by the VM's own state ([`layout`], [`probe`]).
//! - No caller of the wait is a function of LuaJIT: a wait that Lua called is not idle, even where
//!   the VM's state shows another coroutine, one that has yielded.
//! - The program itself does not look after the VM (`ebb_on_close`, as the nginx module does).
//!
//! Finalizers run inside the wait. Signals are held back meanwhile, and so is the thread's
//! cancellation.
//!
//! | file       | concern                                                             | unsafe |
//! |------------|---------------------------------------------------------------------|--------|
//! | this one   | which VM, on what conditions, by which option                       | yes    |
//! | `schedule` | when a collection begins, and when what it freed is returned        | no     |
//! | `layout`   | where a VM keeps its activity, concluded from what was seen         | no     |
//! | `probe`    | the VM in which that is seen                                        | yes    |
//! | `slice`    | a slice of a collection                                             | yes    |

mod layout;
mod probe;
mod schedule;
mod slice;

use core::ffi::c_int;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::cell::Cell;

use super::VmHeap;
use crate::error::Error;
use crate::heap::checked::ApiCall;
use crate::log;
use crate::lua_api::{CollectorApi, lua_State, symbol};
use crate::options::{AUTO, Key, Options};
use crate::os::backtrace::{self, Callers, object_start};
use crate::os::{Kernel, Os};
use crate::reclaim::Budget;
use crate::reclaim::KernelHeap as Heap;
use layout::{LuaLayout, Reading};
use schedule::CollectSchedule;
pub(super) use schedule::Due;
use slice::{SliceOutcome, SliceProgress};

/// What a `VmHeap` knows of the collections in its VM.
#[derive(Default)]
pub(super) struct Collection {
    /// None before the first look.
    schedule: Cell<Option<CollectSchedule>>,
    progress: Cell<SliceProgress>,
    /// The last step was made, and there is another one.
    is_under_way: Cell<bool>,
    /// The VM is from before the first wait of the process, or from before a fork.
    is_early: Cell<bool>,
    was_handed_over: AtomicBool,
}

/// What collecting in the idle VMs of a LuaJIT takes.
pub(super) struct IdleCollector {
    api: CollectorApi,
    layout: LuaLayout,
    /// Where the object of its functions starts.
    object: usize,
}

/// Why there is none: the reason.
pub(super) struct Unproven(&'static str);

/// The process has waited.
static HAS_WAITED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The thread is in a slice: finalizers may wait.
    static IS_IN_SLICE: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

const CANCEL_DISABLE: c_int = 1;

/// The process waits.
pub(super) fn note_wait() {
    if !HAS_WAITED.load(Ordering::Relaxed) {
        HAS_WAITED.store(true, Ordering::Relaxed);
    }
}

/// Whether the calling thread may make a slice.
pub(super) fn is_possible_here() -> bool {
    !IS_IN_SLICE.get()
}

/// Whether the process is an nginx whose VMs are known to bear it: the VMs of its configuration
/// belong to its event loop, and what finalizers of its Lua module do, they do in the loop anyway.
fn is_nginx() -> bool {
    static IS_NGINX: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *IS_NGINX.get_or_init(|| !symbol(c"ngx_process_events_and_timers").is_null())
}

/// Whether ebbtide's own nginx module is there.
fn has_nginx_module() -> bool {
    !symbol(c"ngx_http_ebbtide_module").is_null()
}

/// Logs once that garbage is collected in VMs under the preload library, which no option asks for.
pub(super) fn warn_in_nginx(options: &Options) {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    let is_automatic = options.get(Key::Collect) == AUTO && is_nginx() && !has_nginx_module();
    if is_automatic && !LOGGED.swap(true, Ordering::Relaxed) {
        log::line(format_args!(
            "nginx: the garbage of idle workers is collected; EBBTIDE_COLLECT=off, or \
             ebbtide run --collect off, turns that off"
        ));
    }
}

/// Logs once that `collect` is set to on and has no effect on the heap that is made.
pub(crate) fn warn_without_effect(options: &Options) {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    if options.get(Key::Collect) == 1 && !LOGGED.swap(true, Ordering::Relaxed) {
        log::line(format_args!("{WITHOUT_EFFECT}"));
    }
}

/// Refuses to have the garbage collected in a VM that nobody watches.
pub(crate) fn check_collect(heap: &Heap, key: Key, value: i64) -> Result<(), Error> {
    // SAFETY: a `VmHeap` lives as long as its heap.
    let is_watched =
        unsafe { VmHeap::of(heap).as_ref() }.is_some_and(|vm_heap| vm_heap.owner.is_watched());
    match key == Key::Collect && value == 1 && !is_watched {
        true => Err(Error::Argument.because(format_args!("{WITHOUT_EFFECT}"))),
        false => Ok(()),
    }
}

const WITHOUT_EFFECT: &str = "collect=on has no effect here: it is for VMs that a \
    program makes under ebbtide run; the nginx module collects by itself, and other hosts call \
    lua_gc()";

impl Collection {
    pub(super) fn of_new_vm() -> Collection {
        let collection = Collection::default();
        collection.is_early.set(!HAS_WAITED.load(Ordering::Relaxed));
        collection
    }

    /// Another thread has the VM now.
    pub(super) fn note_handover(&self) {
        self.was_handed_over.store(true, Ordering::Relaxed);
    }

    /// Whether slices follow one another: what is due by age waits for their end.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way.get()
    }

    fn is_wanted(&self, collect: i64) -> bool {
        match collect {
            AUTO => is_nginx() && self.is_early.get(),
            other => other == 1,
        }
    }
}

/// The main thread of a `VmHeap`'s VM.
fn main_thread(vm_heap: &VmHeap) -> *mut lua_State {
    vm_heap.state_block.cast()
}

/// The process is the child of a fork. What the VM holds now is shared with the parent, so it is
/// counted now: the next wait may come after the first work.
pub(super) fn note_fork(vm_heap: &VmHeap) {
    let this = &vm_heap.collection;
    this.is_early.set(true);
    this.progress.set(SliceProgress::default());
    this.is_under_way.set(false);
    this.schedule.set(vm_heap.pace.luajit.map(|luajit| {
        // SAFETY: a `VmHeap` in the list has a live VM, and no other thread is in the child. The
        // count is only read, whatever the VM was doing.
        let bytes = unsafe { luajit.counted(main_thread(vm_heap)) };
        CollectSchedule::inherited(Kernel.now_us(), bytes)
    }));
}

/// What is to be done in a VM, without a check whether Lua is active.
///
/// # Safety
///
/// The calling thread has the VM, and the lock of the live `VmHeap`.
pub(super) unsafe fn due_step(vm_heap: &VmHeap, now_us: u64) -> Due {
    let this = &vm_heap.collection;
    // SAFETY: the caller's promise: a live `VmHeap` has a live heap, and its lock keeps other
    // threads out.
    let collect = unsafe { (*vm_heap.heap).options.get(Key::Collect) };
    let is_handed_over = this.was_handed_over.load(Ordering::Relaxed) || vm_heap.owner.is_shared();
    let luajit = vm_heap.pace.luajit.filter(|luajit| {
        this.is_wanted(collect)
            && !is_handed_over
            && vm_heap.closed.is_none()
            && !luajit.is_known_to_lack_idle_collector()
    });
    let Some(luajit) = luajit else {
        this.schedule.set(None);
        this.is_under_way.set(false);
        return Due::Never;
    };
    // SAFETY: the caller's promise. The count is only read.
    let bytes = unsafe { luajit.counted(main_thread(vm_heap)) };
    let mut schedule = this.schedule.get().unwrap_or_else(|| CollectSchedule::new(now_us, bytes));
    let due = schedule.decide(now_us, bytes);
    if matches!(due, Due::In(_) | Due::Never) {
        this.progress.set(SliceProgress::default());
        this.is_under_way.set(false);
    }
    this.schedule.set(Some(schedule));
    due
}

/// Makes the step that is due, and more while there is time. False: none can be made in this wait.
///
/// # Safety
///
/// As for [`due_step`], which has returned a step. The caller holds nothing that a finalizer may
/// want, but the lock of the `VmHeap`.
pub(super) unsafe fn step(vm_heap: &VmHeap, budget_us: u64) -> bool {
    let this = &vm_heap.collection;
    let Some(mut schedule) = this.schedule.get() else { return false };
    let until_us = Kernel.now_us() + budget_us;
    let mut is_made = false;
    loop {
        // SAFETY: the caller's promise: this thread has the VM and is not inside it, and holds the
        // lock of the live `VmHeap` for all of the loop.
        let goes_on = unsafe {
            let bytes =
                vm_heap.pace.luajit.map_or(0, |luajit| luajit.counted(main_thread(vm_heap)));
            match schedule.decide(Kernel.now_us(), bytes) {
                Due::Collect => collect(vm_heap, &mut schedule, until_us),
                Due::Return => return_freed(vm_heap, &mut schedule, until_us),
                Due::In(_) | Due::Never => false,
            }
        };
        is_made |= goes_on;
        if !goes_on || Kernel.now_us() >= until_us {
            break;
        }
    }
    this.is_under_way.set(is_made);
    this.schedule.set(Some(schedule));
    is_made
}

/// A slice of the collection, if no Lua function is active.
///
/// # Safety
///
/// As for [`step`].
unsafe fn collect(vm_heap: &VmHeap, schedule: &mut CollectSchedule, until_us: u64) -> bool {
    let Some(luajit) = vm_heap.pace.luajit else { return false };
    let collector = match luajit.idle_collector() {
        Ok(collector) => collector,
        Err(Unproven(why)) => {
            log_disabled(format_args!("of this LuaJIT, {why}"));
            return false;
        }
    };
    let state = main_thread(vm_heap);
    // SAFETY: the caller's promise. The main thread is that of this VM, and the collector was
    // proven to be of the VM's own LuaJIT.
    if !unsafe { collector.is_idle(vm_heap, state) } {
        return false;
    }
    let mut progress = vm_heap.collection.progress.get();
    // SAFETY: the caller's promise; no Lua function is active.
    let (outcome, bytes) = unsafe {
        let outcome = without_cancellation(|| {
            IS_IN_SLICE.set(true);
            let outcome = slice::run(&collector.api, state, &mut progress, until_us);
            IS_IN_SLICE.set(false);
            outcome
        });
        (outcome, luajit.counted(state))
    };
    if outcome == SliceOutcome::More {
        schedule.note_step(bytes);
    } else {
        schedule.note_collected(Kernel.now_us(), bytes, outcome == SliceOutcome::Whole);
        progress = SliceProgress::default();
    }
    vm_heap.collection.progress.set(progress);
    true
}

/// Returns what was freed, unless some of it shall stay: then the heap knows what.
///
/// # Safety
///
/// As for [`step`].
unsafe fn return_freed(vm_heap: &VmHeap, schedule: &mut CollectSchedule, until_us: u64) -> bool {
    // SAFETY: the caller's promise: this thread has the heap, and is in no call for it.
    let mut heap = unsafe { (*vm_heap.heap).api_guard(ApiCall::Reclaim) };
    let retains = heap.options.get(Key::Retain) != 0;
    let has_more = !retains && heap.reclaim_idle(Budget::Until(until_us)).more;
    heap.publish();
    if !has_more {
        schedule.note_returned(Kernel.now_us());
    }
    true
}

/// Logs once that `collect` stays off.
fn log_disabled(why: fmt::Arguments<'_>) {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    if !LOGGED.swap(true, Ordering::Relaxed) {
        log::line(format_args!("collect stays off: {why}"));
    }
}

/// A finalizer may call what ends a thread that is cancelled, and the thread is in a VM then.
fn without_cancellation<T>(act: impl FnOnce() -> T) -> T {
    let mut before = 0;
    // SAFETY: there is room for the state of before, which is set again.
    unsafe {
        pthread_setcancelstate(CANCEL_DISABLE, &mut before);
        let done = act();
        pthread_setcancelstate(before, ptr::null_mut());
        done
    }
}

impl IdleCollector {
    /// Finds out where VMs keep their activity; `api` are the functions of a LuaJIT, if it has all.
    pub(super) fn prove(api: Option<CollectorApi>) -> Result<IdleCollector, Unproven> {
        let api = api.ok_or(Unproven("not all functions are exported"))?;
        backtrace::prepare();
        let object = object_start(api.lua_gc as *const () as *const _);
        let layout = probe::prove(&api).map_err(Unproven)?;
        Ok(IdleCollector { api, layout, object })
    }

    /// Whether no Lua function is active in a VM of this thread's, nor has called this one.
    ///
    /// # Safety
    ///
    /// `state` is the main thread of the VM of the `VmHeap`, which is of this LuaJIT.
    unsafe fn is_idle(&self, vm_heap: &VmHeap, state: *mut lua_State) -> bool {
        // SAFETY: the caller's promise: the layout is that of the LuaJIT that the state is of.
        let reading = unsafe { self.read(vm_heap, state) };
        if !reading.is_some_and(|reading| self.layout.is_idle(&reading)) {
            return false;
        }
        match Callers::of_this(self.object) {
            Callers::Other => true,
            Callers::Object => false,
            Callers::Lost => {
                log_disabled(format_args!(
                    "the callers of a wait cannot be followed, for the program lacks unwind tables"
                ));
                false
            }
        }
    }

    /// What the VM says of its activity. `None`: it is not what it seems.
    ///
    /// # Safety
    ///
    /// As for [`IdleCollector::is_idle`].
    unsafe fn read(&self, vm_heap: &VmHeap, state: *mut lua_State) -> Option<Reading> {
        let LuaLayout { distance, frame, current, compiled, state: activity, .. } = self.layout;
        let thread = state.cast::<u64>();
        // SAFETY: the caller's promise. The layout is that of the VMs of this LuaJIT: the state
        // that all threads share lies that far behind the main thread's, and begins with the
        // allocation function's context behind its address. The thread that ran last is live, or
        // the field is null.
        unsafe {
            let global = thread.add(distance);
            if global.add(1).read() != ptr::from_ref(vm_heap).addr() as u64 {
                return None;
            }
            let current = ptr::with_exposed_provenance::<u64>(global.add(current).read() as usize);
            Some(Reading {
                main_frame: thread.add(frame).read(),
                current_frame: if current.is_null() { 0 } else { current.add(frame).read() },
                compiled: global.add(compiled).read(),
                state: global.cast::<i32>().add(activity).read(),
                status: (self.api.lua_status)(state),
            })
        }
    }
}
