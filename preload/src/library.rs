//! `libebbtide.so`: loaded from the folder of this library when the first VM asks for it.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use crate::settings::Settings;
use crate::text::Text;
use crate::{log, settings, system};

/// `ebb_preload_newstate`.
type Newstate = unsafe extern "C" fn(*mut c_void, *mut c_void) -> *mut c_void;
/// `ebb_preload_idle`.
pub(crate) type Idle = unsafe extern "C" fn(u32) -> c_int;
/// `ebb_preload_report`.
type Report = unsafe extern "C" fn(c_int) -> c_int;
/// `ebb_preload_listen`.
type Listen = unsafe extern "C" fn(Option<Sink>, c_int);
/// [`log::line_of_library`].
type Sink = unsafe extern "C" fn(*const c_char, usize, c_int) -> c_int;
/// `ebb_strerror`.
type Strerror = unsafe extern "C" fn(c_int) -> *const c_char;

/// By its soname, which an installed library has, and as it was built.
const NAMES: [&[u8]; 2] =
    [concat!("libebbtide.so.", env!("CARGO_PKG_VERSION_MAJOR")).as_bytes(), b"libebbtide.so"];

/// The loader's handle. Null until there is one; it is never closed.
static HANDLE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// Loading it has failed, and is not tried again for each VM.
static MISSING: AtomicBool = AtomicBool::new(false);
/// [`Idle`], from the first VM on.
static IDLE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// [`Report`], from the first VM on.
static REPORT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// The process that made the last VM.
static MADE_BY: AtomicI32 = AtomicI32::new(0);
/// The library knows where lines go.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// What does the due work; none as long as no VM was made.
#[inline]
pub(crate) fn idle() -> Option<Idle> {
    // Acquire, for what the library set up before the first VM; on x86-64 it costs nothing.
    let idle = IDLE.load(Ordering::Acquire);
    // SAFETY: null, or where the library has the function of this name.
    unsafe { transmute(idle) }
}

/// Makes a VM on a heap of its own with these functions of a Lua. Null on failure: then `why` says why.
///
/// # Safety
///
/// They are `lua_newstate` and `lua_setallocf` of one LuaJIT.
pub(crate) unsafe fn newstate(
    real: *mut c_void,
    setallocf: *mut c_void,
    why: &mut Text,
) -> *mut c_void {
    let Some(handle) = handle(why) else { return ptr::null_mut() };
    let names = [
        c"ebb_preload_newstate",
        c"ebb_preload_idle",
        c"ebb_strerror",
        c"ebb_preload_report",
        c"ebb_preload_listen",
    ];
    let functions = names.map(|name| function(handle, name));
    let [newstate, idle, strerror, report, listen] = functions;
    if functions.contains(&ptr::null_mut()) {
        why.push(b"libebbtide.so is of another version than the preload library");
        return ptr::null_mut();
    }
    // SAFETY: the functions have these signatures under these names; the caller's promise.
    unsafe {
        let newstate: Newstate = transmute(newstate);
        let strerror: Strerror = transmute(strerror);
        if !LISTENS.swap(true, Ordering::AcqRel) {
            let listen: Listen = transmute(listen);
            let Settings { report, verbose, .. } = settings::get();
            let what = c_int::from(report) | c_int::from(report || verbose) << 1;
            listen(Some(log::line_of_library), what);
        }
        let vm = newstate(real, setallocf);
        match vm.is_null() {
            true => why.push(CStr::from_ptr(strerror(0)).to_bytes()),
            false => {
                MADE_BY.store(system::process(), Ordering::Relaxed);
                REPORT.store(report, Ordering::Release);
                IDLE.store(idle, Ordering::Release);
            }
        }
        vm
    }
}

/// Whether a VM was taken over.
pub(crate) fn has_vms() -> bool {
    !IDLE.load(Ordering::Acquire).is_null()
}

/// Whether this process itself has made VMs, not only one that it was forked from.
pub(crate) fn made_vms_here() -> bool {
    MADE_BY.load(Ordering::Relaxed) == system::process()
}

/// Reports what each VM that is still open holds. The thread must run none of them.
pub(crate) fn report() {
    report_by(1);
}

/// Reports what each VM that is open was last seen to hold. Returns the number of VMs. Signal handlers
/// may call it.
pub(crate) fn report_last_seen() -> c_int {
    report_by(0)
}

fn report_by(exact: c_int) -> c_int {
    let report = REPORT.load(Ordering::Acquire);
    // SAFETY: null, or where the library has the function of this name.
    match unsafe { transmute::<*mut c_void, Option<Report>>(report) } {
        // SAFETY: the callers' promise about the thread.
        Some(report) => unsafe { report(exact) },
        None => 0,
    }
}

fn function(handle: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: a live handle and a C string.
    unsafe { libc::dlsym(handle, name.as_ptr()) }
}

/// The loaded library. Threads may load it side by side: the loader counts.
fn handle(why: &mut Text) -> Option<*mut c_void> {
    let known = HANDLE.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    if MISSING.load(Ordering::Relaxed) {
        why.push(b"libebbtide.so could not be loaded");
        return None;
    }
    for name in NAMES {
        let mut path = Text::new();
        path.push_all(&[folder().as_bytes(), b"/", name]);
        let flags = libc::RTLD_NOW | libc::RTLD_GLOBAL;
        // SAFETY: a C string.
        let handle = unsafe { libc::dlopen(path.as_c_str().as_ptr(), flags) };
        if !handle.is_null() {
            HANDLE.store(handle, Ordering::Release);
            return Some(handle);
        }
    }
    MISSING.store(true, Ordering::Relaxed);
    // SAFETY: after a failure the loader's text is there until it is asked for anything else.
    let complaint = unsafe { libc::dlerror() };
    if !complaint.is_null() {
        // SAFETY: as above.
        why.push(unsafe { CStr::from_ptr(complaint) }.to_bytes());
    }
    None
}

/// The folder that this library was loaded from, without a slash at its end.
fn folder() -> Text {
    let mut folder = Text::new();
    let path = own_path();
    let mut parts = path.to_bytes().rsplitn(2, |byte| *byte == b'/');
    let (_, before) = (parts.next(), parts.next().unwrap_or_default());
    if path.to_bytes().first() != Some(&b'/') {
        folder.push_all(&[started_in().to_bytes(), b"/"]);
    }
    folder.push(before);
    folder
}

/// The path of this library as the loader knows it.
fn own_path() -> &'static CStr {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let own = own_path as *const () as *const c_void;
    // SAFETY: there is room for the answer, whose fields may all be zero; the path is a C string
    // that lives as long as this library.
    unsafe {
        if libc::dladdr(own, info.as_mut_ptr()) == 0 {
            return c"";
        }
        let path = info.assume_init().dli_fname;
        if path.is_null() { c"" } else { CStr::from_ptr(path) }
    }
}

/// A path with its end, written before the program begins.
struct Folder(core::cell::UnsafeCell<[c_char; 4096]>);

// SAFETY: written by the constructor only, before `STARTED_IN_IS_KNOWN`; then only read.
unsafe impl Sync for Folder {}

static STARTED_IN: Folder = Folder(core::cell::UnsafeCell::new([0; 4096]));
static STARTED_IN_IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// Notes the working folder if the path of this library is relative to it: the program may go
/// elsewhere before it makes a VM. Called once, by the constructor.
pub(crate) fn start() {
    if own_path().to_bytes().first() == Some(&b'/') {
        return;
    }
    let room = STARTED_IN.0.get();
    // SAFETY: there is room for that many bytes; `STARTED_IN_IS_KNOWN` is not set, so no one reads.
    let found = unsafe { libc::getcwd(room.cast(), 4096) };
    STARTED_IN_IS_KNOWN.store(!found.is_null(), Ordering::Release);
}

fn started_in() -> &'static CStr {
    match STARTED_IN_IS_KNOWN.load(Ordering::Acquire) {
        // SAFETY: the constructor has written a C string, which stays.
        true => unsafe { CStr::from_ptr(STARTED_IN.0.get().cast()) },
        false => c".",
    }
}
