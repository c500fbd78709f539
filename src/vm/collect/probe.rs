//! A VM that is made to learn where VMs of its LuaJIT keep their activity.

use core::ffi::{CStr, c_int, c_void};
use core::ptr;
use std::cell::Cell;

use super::layout::{GLOBAL, LuaLayout, LuaSnapshot, Seen, THREAD, VmActivity};
use crate::lua_api::{CollectorApi, GC_COLLECT, GC_STOP, GLOBALS, lua_State};
use crate::vm::emergency::Probe;

/// `lua_resume` returns it for a coroutine that has yielded.
const YIELDED: c_int = 1;

/// A table whose array is of 38 slots, the first unused: no other block is of that size.
macro_rules! table {
    () => {
        "{i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i,i}"
    };
}
const ARRAY: core::ops::RangeInclusive<usize> = 300..=320;

const CALL: &str = "take_snapshot()";
const COROUTINE: &str = "take_snapshot() coroutine.yield() take_snapshot()";
/// Too few turns to be compiled, and enough.
const INTERPRETED: &str = concat!("local t = {} for i = 1, 4 do t[i] = ", table!(), " end");
const TRACED: &str = concat!("local t = {} for i = 1, 400 do t[i] = ", table!(), " end");

/// The VM, and what was seen of it.
#[repr(C)]
struct Lab {
    probe: Probe,
    /// The block of the main thread's state, with the state that all threads share.
    main: *mut u8,
    main_bytes: usize,
    /// The coroutine's state.
    other: *mut u8,
    /// Words from the first to the second part of the main thread's block.
    distance: usize,
    /// The activity that an allocation comes at, where it is to be seen.
    stage: Option<VmActivity>,
    observations: Vec<LuaSnapshot>,
}

thread_local! {
    /// The lab of this thread, for [`take_snapshot`].
    static LAB: Cell<*mut Lab> = const { Cell::new(ptr::null_mut()) };
}

/// Learns the layout of the VMs of a LuaJIT. The error says why that failed.
pub(super) fn prove(api: &CollectorApi) -> Result<LuaLayout, &'static str> {
    const NO_MEMORY: &str = "there is no memory for a VM to compare with";
    let probe = Probe::new().ok_or(NO_MEMORY)?;
    let mut lab = Lab {
        probe,
        main: ptr::null_mut(),
        main_bytes: 0,
        other: ptr::null_mut(),
        distance: 0,
        stage: None,
        observations: Vec::with_capacity(16),
    };
    let lab = &raw mut lab;
    let outer = LAB.replace(lab);
    // SAFETY: the VM is new, this thread's, and closed before anybody else knows of it; the lab
    // outlives it.
    let ran = unsafe {
        let state = (api.lua_newstate)(alloc, lab.cast());
        if state.is_null() {
            Err(NO_MEMORY)
        } else {
            let ran = observe(api, lab, state);
            Lab::set_stage(lab, None);
            (api.lua_close)(state);
            ran
        }
    };
    LAB.set(outer);
    // SAFETY: the VM is closed; the lab is this function's.
    let lab = unsafe { &*lab };
    let start = lab.probe.start.addr() as u64;
    let found = ran.and_then(|()| {
        LuaLayout::find(&Seen {
            observations: &lab.observations,
            main: lab.main.addr() as u64,
            other: lab.other.addr() as u64,
            memory: start..start + Probe::BYTES as u64,
            distance: lab.distance,
            readable: lab.main_bytes / 8 - lab.distance,
        })
    });
    // SAFETY: the VM is closed.
    unsafe { lab.probe.release() };
    found
}

/// Brings the VM into each state, and looks.
///
/// # Safety
///
/// `state` is the lab's VM, which nobody else uses, and not in a call.
unsafe fn observe(
    api: &CollectorApi,
    lab: *mut Lab,
    state: *mut lua_State,
) -> Result<(), &'static str> {
    const FAILED: &str = "its Lua does not run as expected";
    // SAFETY: the caller's promise. What is pushed fits into the 20 slots that Lua guarantees; the
    // code that is loaded is that above, in protected calls and coroutines.
    unsafe {
        (*lab).distance =
            (*lab).find_global().ok_or("the state that threads share (glref) is not found")?;
        (api.luaL_openlibs)(state);
        (api.lua_gc)(state, GC_STOP, 0);
        (api.lua_pushcclosure)(state, take_snapshot, 0);
        (api.lua_setfield)(state, GLOBALS, c"take_snapshot".as_ptr());
        let run = move |code: &str| load(api, state, code) && (api.lua_pcall)(state, 0, 0, 0) == 0;
        let during = move |stage: VmActivity, code: &str| {
            Lab::set_stage(lab, Some(stage));
            let ran = run(code);
            Lab::set_stage(lab, None);
            ran
        };
        let mut ran = run(CALL);
        Lab::note(lab, VmActivity::NoFunction);
        let other = (api.lua_newthread)(state);
        (*lab).other = other.cast();
        ran = ran && load(api, other, COROUTINE) && (api.lua_resume)(other, 0) == YIELDED;
        Lab::note(lab, VmActivity::Yielded);
        ran = ran && run(CALL);
        Lab::note(lab, VmActivity::NoFunction);
        ran = ran
            && during(VmActivity::Interpreted, INTERPRETED)
            && during(VmActivity::Traced, TRACED);
        Lab::note(lab, VmActivity::NoFunction);
        ran = ran && (api.lua_resume)(other, 0) == 0;
        Lab::note(lab, VmActivity::Yielded);
        (api.lua_settop)(state, 0);
        Lab::set_stage(lab, Some(VmActivity::Collecting));
        (api.lua_gc)(state, GC_COLLECT, 0);
        (api.lua_gc)(state, GC_COLLECT, 0);
        Lab::set_stage(lab, None);
        Lab::note(lab, VmActivity::Dead);
        if ran { Ok(()) } else { Err(FAILED) }
    }
}

/// # Safety
///
/// `state` is a thread of the lab's VM, with a free slot.
unsafe fn load(api: &CollectorApi, state: *mut lua_State, code: &str) -> bool {
    let name: &CStr = c"=ebbtide";
    // SAFETY: the caller's promise.
    unsafe { (api.luaL_loadbuffer)(state, code.as_ptr().cast(), code.len(), name.as_ptr()) == 0 }
}

impl Lab {
    /// The distance of the state that all threads share, which begins with the allocation function
    /// and its context: the one address in the main thread's state that leads to these.
    ///
    /// # Safety
    ///
    /// The VM is there.
    unsafe fn find_global(&self) -> Option<usize> {
        let own = [alloc as *const () as u64, ptr::from_ref(self).addr() as u64];
        let is_global = |word: u64| {
            let offset = (word as usize).wrapping_sub(self.main.addr());
            let fits = offset.is_multiple_of(8) && offset.saturating_add(16) <= self.main_bytes;
            // SAFETY: both words lie in the main thread's block.
            fits && unsafe { self.main.add(offset).cast::<[u64; 2]>().read() } == own
        };
        // SAFETY: the state of a thread is larger than these words.
        let words = unsafe { self.main.cast::<[u64; 8]>().read() };
        let found = words.into_iter().find(|word| is_global(*word))?;
        Some((found as usize - self.main.addr()) / 8)
    }

    /// # Safety
    ///
    /// The lab is there.
    unsafe fn set_stage(lab: *mut Lab, stage: Option<VmActivity>) {
        // SAFETY: the caller's promise.
        unsafe { (*lab).stage = stage };
    }

    /// Looks, instead of the last time in case of an allocation.
    ///
    /// # Safety
    ///
    /// The VM is there.
    #[inline(never)]
    unsafe fn note(lab: *mut Lab, activity: VmActivity) {
        let mut here = 0u8;
        // SAFETY: the caller's promise: what is copied lies in the VM's memory, which stays until
        // the end.
        unsafe {
            let Lab { main, other, distance, main_bytes, observations, .. } = &mut *lab;
            let mut snapshot = LuaSnapshot {
                activity,
                stack: (&raw mut here).addr() as u64,
                main: [0; THREAD],
                other: [0; THREAD],
                global: [0; GLOBAL],
            };
            copy(*main, *distance, &mut snapshot.main);
            if !other.is_null() {
                copy(*other, *distance, &mut snapshot.other);
            }
            copy(main.add(*distance * 8), *main_bytes / 8 - *distance, &mut snapshot.global);
            let is_allocation = matches!(
                activity,
                VmActivity::Interpreted | VmActivity::Traced | VmActivity::Collecting
            );
            match observations
                .iter_mut()
                .find(|snapshot| is_allocation && snapshot.activity == activity)
            {
                Some(last) => *last = snapshot,
                None => observations.push(snapshot),
            }
        }
    }
}

/// Copies as many of these words as there is room for.
///
/// # Safety
///
/// They can be read.
unsafe fn copy(from: *const u8, words: usize, to: &mut [u64]) {
    let count = words.min(to.len());
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from.cast(), to.as_mut_ptr(), count) };
}

/// A function that Lua calls: it looks.
///
/// # Safety
///
/// The VM is that of this thread's lab.
unsafe extern "C-unwind" fn take_snapshot(state: *mut lua_State) -> c_int {
    let lab = LAB.get();
    // SAFETY: the caller's promise.
    unsafe {
        let is_main = (*lab).main.addr() == state.addr();
        Lab::note(lab, if is_main { VmActivity::InMain } else { VmActivity::InOther });
    }
    0
}

/// The lua_Alloc of the VM.
///
/// # Safety
///
/// `lab` is a [`Lab`]; the rest is as for lua_Alloc.
unsafe extern "C-unwind" fn alloc(
    lab: *mut c_void,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    let lab = lab.cast::<Lab>();
    // SAFETY: the caller's promises; the first block is the main thread's.
    unsafe {
        match (*lab).stage {
            Some(VmActivity::Collecting) if new_size == 0 => Lab::note(lab, VmActivity::Collecting),
            Some(stage) if block.is_null() && ARRAY.contains(&new_size) => Lab::note(lab, stage),
            _ => {}
        }
        let new = Probe::alloc((&raw mut (*lab).probe).cast(), block, old_size, new_size);
        if (*lab).main.is_null() {
            (*lab).main = new.cast();
            (*lab).main_bytes = new_size;
        }
        new
    }
}
