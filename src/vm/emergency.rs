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
//! they do not know where the frame is then. After a whole cycle no step follows for long. So a
//! step is long there ([`STEPMUL_LONG`]) and no cycle, each allocation on the slow path makes the
//! next one due, and in the end a cycle is under way at the program's own pace.
//!
//! While the program has the collector stopped, and inside of a finalizer, the threshold is beyond
//! reach (`LUA_GCISRUNNING` says 0), and nothing is touched. The program's own step multiplier is
//! put back afterwards, unless the program has set another one meanwhile.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::sync::OnceLock;

use super::VmHeap;
use super::collect::{IdleCollector, Unproven};
use crate::heap::Collector;
use crate::lua_api::{CollectorApi, Lua, NewState, SetAllocF, lua_State, symbol};
use crate::lua_api::{GC_COUNT, GC_COUNTB, GC_IS_RUNNING, GC_RESTART, GC_SET_STEP_MUL};
use crate::os::{Kernel, Os};

/// `lua_gc`.
type Gc = unsafe extern "C-unwind" fn(*mut lua_State, c_int, c_int) -> c_int;

/// The multiplier for a step as long as it takes: ten times this many bytes, which 32 bits just
/// hold, may be marked in it. 0 would do the same, but programs set 0, and nobody could tell whose
/// value it is. `EBB_STEPMUL_WHOLE` is the same value for hosts.
pub(crate) const STEPMUL_WHOLE: c_int = 400_000_003;

/// The multiplier for a step in which 1 MB may be marked. `EBB_STEPMUL_LONG` is the same value.
pub(crate) const STEPMUL_LONG: c_int = 100_003;

/// LuaJIT's own.
pub(super) const STEPMUL_DEFAULT: c_int = 200;

/// What a `VmHeap` knows of its VM's collector.
#[derive(Default)]
pub(super) struct CollectorPace {
    /// The VM's LuaJIT; `None`: the collector is left alone.
    pub(super) luajit: Option<&'static LuaJit>,
    /// The program's own step multiplier, while the collector is due.
    step_mul: Option<c_int>,
}

/// Has a `VmHeap`'s heap make its VM's collector due when memory is short. Nothing is done for
/// another Lua than LuaJIT: PUC Lua collects by itself before it fails.
///
/// # Safety
///
/// The `VmHeap`'s VM is made and this thread's, and `setallocf` is of its Lua.
pub(super) unsafe fn serve(vm_heap: *mut VmHeap, setallocf: SetAllocF) {
    let luajit = LuaJit::of(setallocf);
    if luajit.functions.is_none() {
        return;
    }
    // SAFETY: the caller's promise. The `VmHeap` lives as long as its heap has it for a context.
    unsafe {
        (*vm_heap).pace = CollectorPace { luajit: Some(luajit), step_mul: None };
        (*(*vm_heap).heap).set_collector(Collector {
            context: vm_heap.cast(),
            make_due,
            cancel_due,
            may_cancel_due,
            goes_in_steps,
            in_steps: None,
        });
    }
}

/// A Lua that VMs are of.
pub(super) struct LuaJit {
    /// The address of its `lua_setallocf`.
    setallocf: usize,
    /// `None`: it is no LuaJIT.
    functions: Option<Functions>,
    /// The multiplier that makes its collector due; 0: its version is not known yet.
    step_mul: AtomicI32,
    /// What collecting in its idle VMs takes, from the first time on.
    idle: OnceLock<Result<IdleCollector, Unproven>>,
    next: *const LuaJit,
}

impl LuaJit {
    /// The Lua that a `lua_setallocf` is of, for the process may have several. Each is looked up
    /// once, and stays loaded and known from then on.
    fn of(setallocf: SetAllocF) -> &'static LuaJit {
        static NEWEST: AtomicPtr<LuaJit> = AtomicPtr::new(ptr::null_mut());
        let newest = NEWEST.load(Ordering::Acquire);
        let mut next = newest.cast_const();
        // SAFETY: what is in the list stays there, and does not change but for an atomic.
        while let Some(known) = unsafe { next.as_ref() } {
            if known.setallocf == setallocf as usize {
                return known;
            }
            next = known.next;
        }
        let new = Box::into_raw(Box::new(LuaJit {
            setallocf: (setallocf as *const c_void).expose_provenance(),
            functions: in_object_of(setallocf as *const c_void, |find| Functions::look_up(find)),
            step_mul: AtomicI32::new(0),
            idle: OnceLock::new(),
            next: newest,
        }));
        // What another thread has put there meanwhile is looked up again when it is needed.
        NEWEST.store(new, Ordering::Release);
        // SAFETY: it is never freed.
        unsafe { &*new }
    }

    /// What collecting in its idle VMs takes, or why it cannot be done.
    pub(super) fn idle_collector(&self) -> &Result<IdleCollector, Unproven> {
        self.idle.get_or_init(|| {
            let setallocf = ptr::with_exposed_provenance::<c_void>(self.setallocf);
            IdleCollector::prove(in_object_of(setallocf, |find| CollectorApi::look_up(find).ok()))
        })
    }

    /// Whether it is known by now that it cannot be done.
    pub(super) fn is_known_to_lack_idle_collector(&self) -> bool {
        self.idle.get().is_some_and(Result::is_err)
    }

    /// Bytes that the collector of a VM counts.
    ///
    /// # Safety
    ///
    /// `state` is a live VM of this thread's, and of this LuaJIT.
    pub(super) unsafe fn counted(&self, state: *mut lua_State) -> u64 {
        let Some(gc) = self.gc() else { return 0 };
        // SAFETY: the caller's promise: `lua_gc` is of the LuaJIT that the state is of. To count
        // runs no Lua code and throws no error.
        let (kilobytes, bytes) = unsafe { (gc(state, GC_COUNT, 0), gc(state, GC_COUNTB, 0)) };
        ((i64::from(kilobytes) << 10) + i64::from(bytes)).max(0) as u64
    }

    fn gc(&self) -> Option<Gc> {
        self.functions.as_ref().map(|functions| functions.gc)
    }

    /// The step multiplier that makes its collector due.
    fn step_mul(&self) -> c_int {
        /// The first whose version is the time of its last change.
        const ROLLING: f64 = 20_199.0;
        let known = self.step_mul.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let version = self.functions.as_ref().map_or(0.0, Functions::version);
        let step_mul = if version >= ROLLING { STEPMUL_WHOLE } else { STEPMUL_LONG };
        self.step_mul.store(step_mul, Ordering::Relaxed);
        step_mul
    }
}

/// What is called of a LuaJIT, and to learn its version. One that lacks any is none of ours.
struct Functions {
    gc: Gc,
    newstate: NewState,
    close: unsafe extern "C-unwind" fn(*mut lua_State),
    openlibs: unsafe extern "C-unwind" fn(*mut lua_State),
    getfield: unsafe extern "C-unwind" fn(*mut lua_State, c_int, *const c_char),
    tonumber: unsafe extern "C-unwind" fn(*mut lua_State, c_int) -> f64,
}

impl Functions {
    fn look_up(find: impl Fn(&CStr) -> *mut c_void) -> Option<Functions> {
        let names = [
            c"luaJIT_setmode",
            c"lua_gc",
            c"lua_newstate",
            c"lua_close",
            c"luaL_openlibs",
            c"lua_getfield",
            c"lua_tonumber",
        ];
        let found = names.map(find);
        if found.contains(&ptr::null_mut()) {
            return None;
        }
        let [_, gc, newstate, close, openlibs, getfield, tonumber] = found;
        // SAFETY: symbols of these names are those functions, whose signatures the Lua 5.1
        // interface fixes.
        unsafe {
            Some(Functions {
                gc: transmute::<*mut c_void, Gc>(gc),
                newstate: transmute::<*mut c_void, NewState>(newstate),
                close: transmute::<*mut c_void, unsafe extern "C-unwind" fn(*mut lua_State)>(close),
                openlibs: transmute::<*mut c_void, unsafe extern "C-unwind" fn(*mut lua_State)>(
                    openlibs,
                ),
                getfield: transmute::<
                    *mut c_void,
                    unsafe extern "C-unwind" fn(*mut lua_State, c_int, *const c_char),
                >(getfield),
                tonumber: transmute::<
                    *mut c_void,
                    unsafe extern "C-unwind" fn(*mut lua_State, c_int) -> f64,
                >(tonumber),
            })
        }
    }

    /// `jit.version_num`, from a VM made for this purpose; 0: it is not to be had.
    fn version(&self) -> f64 {
        const GLOBALS: c_int = -10_002;
        let Some(mut probe) = Probe::new() else { return 0.0 };
        // SAFETY: the VM and its memory are new, this thread's, and gone before anybody else knows
        // of them. The library `jit` is among those that are opened, with a number of that name.
        unsafe {
            let state = (self.newstate)(Probe::alloc, (&raw mut probe).cast());
            let mut version = 0.0;
            if !state.is_null() {
                (self.openlibs)(state);
                (self.getfield)(state, GLOBALS, c"jit".as_ptr());
                (self.getfield)(state, -1, c"version_num".as_ptr());
                version = (self.tonumber)(state, -1);
                (self.close)(state);
            }
            probe.release();
            version
        }
    }
}

/// The memory of a VM that is made to learn something of its LuaJIT: nothing is freed before all of
/// it is.
pub(super) struct Probe {
    pub(super) start: *mut u8,
    used: usize,
}

impl Probe {
    /// A VM with its libraries takes some 100 KB, and as much again in what was resized.
    pub(super) const BYTES: usize = 4 << 20;

    pub(super) fn new() -> Option<Probe> {
        let start = Kernel.reserve(Probe::BYTES, false)?;
        // SAFETY: the mapping was made just now, and nobody knows of it yet.
        unsafe {
            if !Kernel.commit(start, Probe::BYTES) {
                Kernel.release(start, Probe::BYTES);
                return None;
            }
        }
        Some(Probe { start, used: 0 })
    }

    /// # Safety
    ///
    /// The VM is closed.
    pub(super) unsafe fn release(&self) {
        // SAFETY: the caller's promise; the mapping is that of `new`.
        unsafe { Kernel.release(self.start, Probe::BYTES) };
    }

    /// A lua_Alloc.
    ///
    /// # Safety
    ///
    /// `probe` is a [`Probe`] that nobody else uses; the rest is as for lua_Alloc.
    pub(super) unsafe extern "C-unwind" fn alloc(
        probe: *mut c_void,
        block: *mut c_void,
        old_size: usize,
        new_size: usize,
    ) -> *mut c_void {
        // SAFETY: the caller's promises: blocks lie one after the other in the memory, which ends
        // behind the last of them.
        unsafe {
            let Probe { start, used } = &mut *probe.cast::<Probe>();
            if new_size <= old_size || new_size > Probe::BYTES - *used {
                return if new_size == 0 || new_size > old_size { ptr::null_mut() } else { block };
            }
            let new = start.add(*used);
            *used = (*used + new_size).next_multiple_of(16).min(Probe::BYTES);
            if !block.is_null() {
                ptr::copy_nonoverlapping(block.cast::<u8>(), new, old_size);
            }
            new.cast()
        }
    }
}

/// Looks functions of a Lua up by their names.
pub(super) type Find<'a> = &'a dyn Fn(&CStr) -> *mut c_void;

/// Looks functions up in the object of the `lua_setallocf` first: what the process sees under these
/// names may be the preload library's. The object stays loaded, for the functions are kept.
fn in_object_of<T>(setallocf: *const c_void, look_up: impl Fn(Find) -> Option<T>) -> Option<T> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero; a name in it is a C
    // string for as long as the library is loaded. NOLOAD loads nothing.
    unsafe {
        if libc::dladdr(setallocf, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        let stays = libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        let library = libc::dlopen(name, libc::RTLD_LAZY | stays);
        if name.is_null() || library.is_null() {
            // The program itself cannot be opened by its name.
            let is_same = |lua: &Lua| lua.lua_setallocf as usize == setallocf.addr();
            return Lua::get().ok().filter(|lua| is_same(lua)).and_then(|_| look_up(&symbol));
        }
        let found = look_up(&|name| libc::dlsym(library, name.as_ptr()));
        libc::dlclose(library);
        found
    }
}

/// See [`Collector::make_due`].
///
/// # Safety
///
/// `context` is a `VmHeap`, whose VM is live and this thread's.
unsafe fn make_due(context: *mut u8) -> bool {
    let vm_heap = context.cast::<VmHeap>();
    // SAFETY: the caller's promise: LuaJIT's first block begins with the main thread's state.
    unsafe {
        let (state, pace) = ((*vm_heap).state_block.cast::<lua_State>(), &mut (*vm_heap).pace);
        let Some((gc, ours)) = pace.gc() else { return false };
        if gc(state, GC_IS_RUNNING, 0) != 1 {
            return false;
        }
        let step_mul = gc(state, GC_SET_STEP_MUL, ours);
        // Another value than ours is the program's, set before or meanwhile. A program that reads
        // ours and sets it again later has no other.
        if step_mul != ours {
            pace.step_mul = Some(step_mul);
        } else if pace.step_mul.is_none() {
            pace.step_mul = Some(STEPMUL_DEFAULT);
        }
        gc(state, GC_RESTART, 0);
    }
    true
}

/// See [`Collector::cancel_due`].
///
/// # Safety
///
/// As for [`make_due`].
unsafe fn cancel_due(context: *mut u8) {
    let vm_heap = context.cast::<VmHeap>();
    // SAFETY: as in `make_due`.
    unsafe {
        let (state, pace) = ((*vm_heap).state_block.cast::<lua_State>(), &mut (*vm_heap).pace);
        let (Some((gc, ours)), Some(step_mul)) = (pace.gc(), pace.step_mul.take()) else { return };
        let now = gc(state, GC_SET_STEP_MUL, step_mul);
        if now != ours {
            gc(state, GC_SET_STEP_MUL, now);
        }
        if ours == STEPMUL_LONG && gc(state, GC_IS_RUNNING, 0) == 1 {
            gc(state, GC_RESTART, 0);
        }
    }
}

/// See [`Collector::may_cancel_due`]: threads that take turns in a heap do so while another one of
/// them runs the VM. And a thread that breathes for a watched VM is only the last that allocated in
/// it: another may run it by now, and has not allocated yet.
///
/// # Safety
///
/// `context` is a `VmHeap`.
unsafe fn may_cancel_due(context: *mut u8) -> bool {
    // SAFETY: the caller's promise.
    let owner = unsafe { &(*context.cast::<VmHeap>()).owner };
    !owner.is_shared() && !owner.is_locked()
}

/// See [`Collector::goes_in_steps`].
///
/// # Safety
///
/// `context` is a `VmHeap`.
unsafe fn goes_in_steps(context: *mut u8) -> bool {
    // SAFETY: the caller's promise.
    let luajit = unsafe { (*context.cast::<VmHeap>()).pace.luajit };
    luajit.is_some_and(|luajit| luajit.step_mul() == STEPMUL_LONG)
}

impl CollectorPace {
    /// `lua_gc` of the VM's LuaJIT, and the multiplier that makes its collector due.
    fn gc(&self) -> Option<(Gc, c_int)> {
        let luajit = self.luajit?;
        Some((luajit.gc()?, luajit.step_mul()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lua_api::lua_Alloc;

    unsafe extern "C-unwind" fn of_one(_: *mut lua_State, _: lua_Alloc, context: *mut c_void) {
        assert!(context.is_null());
    }

    unsafe extern "C-unwind" fn of_another(state: *mut lua_State, _: lua_Alloc, _: *mut c_void) {
        assert!(state.is_null());
    }

    #[test]
    fn the_functions_of_each_lua_are_looked_up_once() {
        let (one, another) = (LuaJit::of(of_one), LuaJit::of(of_another));
        assert!(one.functions.is_none() && another.functions.is_none(), "they are of no Lua");
        assert!(ptr::eq(LuaJit::of(of_one), one));
        assert!(ptr::eq(LuaJit::of(of_another), another));
        assert!(!ptr::eq(one, another));
    }
}
