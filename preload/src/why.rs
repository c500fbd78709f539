//! Why no VM was taken over, as reported when the process ends.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::elf_objects::{self, Object};
use crate::real::DLCLOSE;
use crate::settings::{self, Settings};
use crate::text::Text;
use crate::{library, log};

/// A fact that was noted once: the path of an object, and what is true of it.
struct Note {
    claimed: AtomicBool,
    is_known: AtomicBool,
    path: UnsafeCell<Text>,
    reason: UnsafeCell<&'static [u8]>,
}

// SAFETY: whoever claims it first writes it, before `is_known`; then it is only read.
unsafe impl Sync for Note {}

impl Note {
    const fn new() -> Note {
        Note {
            claimed: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            path: UnsafeCell::new(Text::new()),
            reason: UnsafeCell::new(b""),
        }
    }

    fn is_free(&self) -> bool {
        !self.claimed.load(Ordering::Relaxed)
    }

    fn write(&self, path: &[u8], reason: &'static [u8]) {
        if !self.claimed.swap(true, Ordering::AcqRel) {
            // SAFETY: the claim is this thread's; `is_known` is not set, so no one reads.
            unsafe {
                (*self.path.get()).push(path);
                *self.reason.get() = reason;
            }
            self.is_known.store(true, Ordering::Release);
        }
    }

    fn read(&self) -> Option<(&'static [u8], &'static [u8])>
    where
        Self: 'static,
    {
        // SAFETY: written before, and only read since; the notes are statics.
        self.is_known.load(Ordering::Acquire).then(|| unsafe {
            let path: &'static Text = &*self.path.get();
            (path.as_bytes(), *self.reason.get())
        })
    }
}

/// A copy of ebbtide that the program's VMs got their heaps from.
static OTHER_EBBTIDE: Note = Note::new();
/// A LuaJIT that the program has made a VM through, with an allocator of its own.
static PASSED: Note = Note::new();
/// A LuaJIT that the program has closed again.
static CLOSED: Note = Note::new();

/// Notes that a VM was asked for with an allocator of the program's own, from the `lua_newstate`
/// that is `real`.
pub(crate) fn note_passed(alloc: *const c_void, real: *const c_void) {
    if !PASSED.is_free() {
        return;
    }
    elf_objects::walk(|object| {
        if object.holds(alloc) && object.symbol(c"ebb_version").is_some() {
            OTHER_EBBTIDE.write(object.path().to_bytes(), b"");
        }
        if object.holds(real) && is_luajit(object) {
            PASSED.write(object.path().to_bytes(), b"");
        }
        false
    });
}

/// The path of a copy of ebbtide that the program's VMs got their heaps from. Signal handlers may
/// ask.
pub(crate) fn other_ebbtide() -> Option<&'static [u8]> {
    OTHER_EBBTIDE.read().map(|(path, _)| path)
}

/// Logs why no VM was taken over, if that is asked for, or if options are set that had no effect.
pub(crate) fn log_why_none(settings: &Settings) {
    let is_wanted = log::is_wanted() || settings.report && settings.is_named;
    // Another copy of the library takes the options, too.
    let options = if has_ebbtide() { b"" } else { settings::options() };
    if log::is_said() || !is_wanted && options.is_empty() {
        return;
    }
    let mut has_luajit = false;
    let mut why = Text::new();
    describe(&mut why, &mut has_luajit);
    // A daemon goes on in a child of the process that began.
    let goes_on = log::has_forked() && PASSED.is_free() && OTHER_EBBTIDE.is_free();
    let place: &[u8] = if goes_on { b" in the process that began" } else { b"" };
    let why = why.as_bytes();
    // A shell starts many programs that have nothing to do with Lua.
    if options.is_empty() {
        log::always_once(&[b"nothing taken over", place, b": ", why]);
    } else if is_wanted || settings.is_named || has_luajit {
        log::always_once(&[options, b" has no effect, nothing was taken over", place, b": ", why]);
    }
}

fn describe(why: &mut Text, has_luajit: &mut bool) {
    *has_luajit = true;
    if let Some(path) = other_ebbtide() {
        return why.push_all(&[b"its VMs are on heaps of another ebbtide, ", path]);
    }
    if PASSED.read().is_some() {
        return why.push(b"VMs with an allocator of their own passed through");
    }
    let mut is_program = true;
    let mut found = false;
    elf_objects::walk(|object| {
        if is_luajit(object) {
            found = true;
            if object.symbol(c"ebb_version").is_some() {
                why.push(b"ebbtide is linked in with LuaJIT, and its VMs have heaps of that");
            } else if is_program {
                why.push(b"LuaJIT is linked into the program itself: left alone");
            } else {
                why.push_all(&[object.path().to_bytes(), reason(object)]);
            }
        }
        is_program = false;
        found
    });
    if found {
        return;
    }
    if let Some((path, reason)) = CLOSED.read() {
        return why.push_all(&[path, reason, b", and was closed again"]);
    }
    *has_luajit = false;
    why.push(b"no LuaJIT in this program (none shared, none exported)");
}

/// Whether a copy of ebbtide is in the process.
fn has_ebbtide() -> bool {
    elf_objects::find(c"ebb_version", |_| true).is_some()
}

/// Whether a LuaJIT lies in an object, for others to see.
fn is_luajit(object: &Object<'_>) -> bool {
    object.symbol(c"luaJIT_setmode").is_some() && object.symbol(c"lua_newstate").is_some()
}

/// Why a shared LuaJIT has asked for no VM: the end of a sentence that begins with its path.
fn reason(object: &Object<'_>) -> &'static [u8] {
    const NAME: &CStr = c"lua_newstate";
    if object.has_symbol_beginning(b"luaJIT_version_2_0_") {
        return b" is LuaJIT 2.0, whose VMs cannot be taken over: use LuaJIT 2.1";
    }
    // A LuaJIT whose luaL_newstate() does not go by lua_newstate() has this in its lua_newstate().
    if object.contains(b"Must use luaL_newstate() for 64 bit target") {
        return b" is built without GC64, and its VMs cannot be taken over: build it with GC64";
    }
    let own = object.symbol(NAME);
    match object.import(NAME) {
        Some(target) if own == Some(target) => {
            b" calls its own lua_newstate (was it opened with RTLD_DEEPBIND?), so that its VMs \
              cannot be taken over: use require 'ebbtide'.attach()"
        }
        Some(_) => b" was loaded, but asked for no VM",
        None => {
            b" was linked so that it calls its own lua_newstate, so that its VMs cannot be taken \
              over: use require 'ebbtide'.attach()"
        }
    }
}

/// Closes a library, as in the C library. A LuaJIT that goes away is noted.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn dlclose(handle: *mut c_void) -> c_int {
    let is_asked_for = log::is_wanted()
        || settings::get().report && settings::get().is_named
        || !settings::options().is_empty();
    if is_asked_for && CLOSED.is_free() && !library::has_vms() {
        let mut is_program = true;
        elf_objects::walk(|object| {
            let found = !is_program && is_luajit(object);
            if found {
                CLOSED.write(object.path().to_bytes(), reason(object));
            }
            is_program = false;
            found
        });
    }
    // SAFETY: the caller's promise.
    unsafe { DLCLOSE.get()(handle) }
}
