//! The functions that a thread is in: taken down as addresses, written as names.
//!
//! The unwinder is the one that Rust's own library has for panics. It is stopped at the first
//! function that is of no file: what LuaJIT compiles looks to it like a function that it can leave,
//! and it aborts when it tries. Where it loses its way before that, and faults, what it has found
//! until then is all there is.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::{self, Display};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Once;

use super::fault_probe::fault_probe;
use super::kernel::preserve_errno;
use crate::bug;

/// How many functions are taken down at most.
const DEPTH: usize = 20;

/// The functions that a thread was in, the innermost first.
#[derive(Clone, Copy)]
pub(crate) struct Backtrace {
    addresses: [*mut c_void; DEPTH],
    count: usize,
}

/// The unwinder's own notion of a frame.
enum Context {}

type Visit = unsafe extern "C" fn(*mut Context, *mut c_void) -> c_int;

unsafe extern "C" {
    fn _Unwind_Backtrace(visit: Visit, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut Context) -> usize;
}

/// What tells [`_Unwind_Backtrace`] to go on, and to stop.
const GO_ON: c_int = 0;
const STOP: c_int = 5;

type FindObject = unsafe extern "C" fn(*const c_void, *mut [usize; 32]) -> c_int;

/// A function of the C library that not every one has.
static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Looks the C library's function up, and has the unwinder do what it does only once: neither
/// should happen in a signal handler first.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        FIND_OBJECT.store(function(c"_dl_find_object"), Ordering::Release);
        Backtrace::here();
    });
}

fn function(name: &CStr) -> *mut c_void {
    // SAFETY: a C string; nothing but a look-up.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Whether an address lies in a program or library that was loaded from a file.
fn is_of_a_file(address: *mut c_void) -> bool {
    // SAFETY: null, or the function of this name, which fills in less than there is room for.
    unsafe {
        let find = FIND_OBJECT.load(Ordering::Acquire);
        match transmute::<*mut c_void, Option<FindObject>>(find) {
            Some(find) => find(address, &mut [0; 32]) == 0,
            None => !object_of(address).is_null(),
        }
    }
}

/// Takes a function down.
unsafe extern "C" fn visit(context: *mut Context, backtrace: *mut c_void) -> c_int {
    // SAFETY: `Backtrace::here` hands its frames over, and the unwinder its context.
    let (backtrace, address) =
        unsafe { (&mut *backtrace.cast::<Backtrace>(), _Unwind_GetIP(context) as *mut c_void) };
    if backtrace.count == DEPTH || address.is_null() {
        return STOP;
    }
    backtrace.addresses[backtrace.count] = address;
    backtrace.count += 1;
    if is_of_a_file(address) { GO_ON } else { STOP }
}

impl Backtrace {
    pub(crate) const NONE: Backtrace = Backtrace { addresses: [ptr::null_mut(); DEPTH], count: 0 };

    /// The functions that this thread is in, as far as they are of files.
    #[inline(never)]
    pub(crate) fn here() -> Backtrace {
        let mut backtrace = Backtrace::NONE;
        let found = &raw mut backtrace;
        // SAFETY: the frames outlive the call, and are what `visit` expects. Where the unwinder
        // believes what is not so it reads, and holds no lock.
        preserve_errno(|| unsafe { fault_probe(|| _ = _Unwind_Backtrace(visit, found.cast())) });
        backtrace
    }

    /// Tells a line for each function, this library's own innermost ones left out.
    pub(crate) fn write(&self) {
        let all = &self.addresses[..self.count];
        if all.is_empty() {
            bug::log_line(format_args!("    not known: perhaps the program handles faults itself"));
        }
        for address in all.iter().skip_while(|address| is_own(**address)) {
            match info_of(*address).filter(|_| is_of_a_file(*address)) {
                Some(info) => {
                    bug::log_line(format_args!("    {}", Symbol { address: *address, info }))
                }
                None => bug::log_line(format_args!(
                    "    {address:p}, code of no file: compiled Lua, perhaps"
                )),
            }
        }
    }
}

/// What the functions are of that a thread is in, from this one out to where the thread began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callers {
    /// None is of the object.
    Other,
    /// One is.
    Object,
    /// They cannot be followed to the end: one is of no file, or of one without unwind tables.
    Lost,
}

/// A walk through the callers.
struct Walk {
    /// Where the object starts.
    object: usize,
    found: Callers,
}

/// Visits one frame.
unsafe extern "C" fn visit_frame(context: *mut Context, walk: *mut c_void) -> c_int {
    // SAFETY: `Callers::of_this` hands its walk over, and the unwinder its context.
    let (walk, address) =
        unsafe { (&mut *walk.cast::<Walk>(), _Unwind_GetIP(context) as *const c_void) };
    let start = object_start(address);
    walk.found = match start {
        // The first function of a thread has no caller: its tables say so.
        0 if address.is_null() => Callers::Other,
        0 => Callers::Lost,
        _ if start == walk.object => Callers::Object,
        _ => {
            walk.found = Callers::Lost;
            return GO_ON;
        }
    };
    STOP
}

impl Callers {
    /// Those of this thread, with respect to an object that starts there.
    #[inline(never)]
    pub(crate) fn of_this(object: usize) -> Callers {
        prepare();
        let mut walk = Walk { object, found: Callers::Lost };
        let walking = &raw mut walk;
        // SAFETY: the walk outlives the call, and is what `visit_frame` expects. It ends at the
        // first function of the object, or of no file, before the unwinder leaves it: where the
        // tables of LuaJIT are wrong nothing is read.
        preserve_errno(|| unsafe { _ = _Unwind_Backtrace(visit_frame, walking.cast()) });
        walk.found
    }
}

/// Where the object starts that an address lies in; 0 if in none.
pub(crate) fn object_start(address: *const c_void) -> usize {
    let mut found = [0; 32];
    // SAFETY: null, or the function of this name, which fills in less than there is room for.
    unsafe {
        let find = FIND_OBJECT.load(Ordering::Acquire);
        match transmute::<*mut c_void, Option<FindObject>>(find) {
            Some(find) if find(address, &mut found) == 0 => found[1],
            Some(_) => 0,
            None => object_of(address).addr(),
        }
    }
}

/// An address as `backtrace_symbols_fd` writes it: `FILE(FUNCTION+OFFSET)[ADDRESS]`. Without the
/// name of a function the offset is what addr2line takes for this file.
struct Symbol {
    address: *mut c_void,
    info: libc::Dl_info,
}

/// How much of the end of a path is shown, and of the start of a function's name: a line is short.
const PATH_SHOWN: usize = 120;
const NAME_SHOWN: usize = 100;

impl Display for Symbol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Symbol { address, ref info } = *self;
        let path = text(info.dli_fname);
        let cut = path.len().saturating_sub(PATH_SHOWN);
        out.write_str(if cut > 0 { "..." } else { "" })?;
        write_text(out, &path[cut..])?;
        out.write_str("(")?;
        let name = text(info.dli_sname);
        write_text(out, &name[..name.len().min(NAME_SHOWN)])?;
        let start = if name.is_empty() { load_address(info) } else { info.dli_saddr.addr() };
        write!(out, "+{:#x})[{address:p}]", address.addr().wrapping_sub(start))
    }
}

/// The loader's text; empty where there is none.
fn text(text: *const c_char) -> &'static [u8] {
    // SAFETY: null, or a C string of an object that is loaded.
    if text.is_null() { b"" } else { unsafe { CStr::from_ptr(text) }.to_bytes() }
}

/// Writes what is UTF-8 of a text.
fn write_text(out: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    text.utf8_chunks().try_for_each(|chunk| out.write_str(chunk.valid()))
}

/// What an object's addresses are relative to: where it was loaded, or 0 for a program that can be
/// loaded at one place only.
fn load_address(info: &libc::Dl_info) -> usize {
    const FIXED: u16 = 2;
    // SAFETY: an object that is loaded starts with its ELF header, whose type stands at offset 16.
    let kind = unsafe { info.dli_fbase.cast::<u16>().add(8).read_unaligned() };
    if kind == FIXED { 0 } else { info.dli_fbase.addr() }
}

/// Whether an address lies in this library, as far as that is an object of its own: a program that
/// has it inside is one object with it.
fn is_own(address: *mut c_void) -> bool {
    let own = object_of(is_own as *const () as *const c_void);
    // SAFETY: it asks for nothing. The headers of the program lie in the program.
    let program = unsafe { libc::getauxval(libc::AT_PHDR) } as *const c_void;
    own != object_of(program) && own == object_of(address)
}

/// Where the object starts that an address lies in; null if in none.
fn object_of(address: *const c_void) -> *mut c_void {
    info_of(address).map_or(ptr::null_mut(), |info| info.dli_fbase)
}

/// What the loader knows of an address; `None`: it lies in no object.
fn info_of(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero.
    let info = unsafe {
        libc::dladdr(address, info.as_mut_ptr());
        info.assume_init()
    };
    (!info.dli_fbase.is_null()).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn frames_below(functions: usize) -> usize {
        let count =
            if functions == 0 { Backtrace::here().count } else { frames_below(functions - 1) };
        core::hint::black_box(count)
    }

    #[test]
    fn an_address_is_written_with_its_file_and_its_offset() {
        let address = libc::abort as *const () as *mut c_void;
        let info = info_of(address.wrapping_byte_add(3)).expect("the C library's");
        let base = info.dli_fbase.addr();
        let written = |address, info| Symbol { address, info }.to_string();
        let text = written(address.wrapping_byte_add(3), info);
        assert!(text.ends_with(&format!("(abort+0x3)[{:#x}]", address.addr() + 3)), "{text}");
        let unnamed = libc::Dl_info { dli_sname: ptr::null(), ..info };
        let text = written(address, unnamed);
        let offset = address.addr() - base;
        assert!(text.ends_with(&format!("(+{offset:#x})[{address:p}]")), "{text}");
    }

    #[test]
    fn callers_are_followed_to_where_the_thread_began() {
        prepare();
        let own = object_start(prepare as *const () as *const c_void);
        let libc = object_start(libc::abort as *const () as *const c_void);
        assert!(own != 0 && libc != 0 && own != libc);
        assert_eq!(Callers::of_this(own), Callers::Object);
        assert_eq!(Callers::of_this(1), Callers::Other, "no object starts there");
        // The thread of a test begins in the C library.
        assert_eq!(Callers::of_this(libc), Callers::Object);
        assert_eq!(object_start(&raw const own as *const c_void), 0);
    }

    #[test]
    fn the_way_out_is_found() {
        crate::os::fault::install(|_, _| {});
        let least = frames_below(0);
        assert!(least > 3);
        assert_eq!([frames_below(1), frames_below(5)], [least + 1, least + 5]);
        assert_eq!(frames_below(DEPTH), DEPTH);
    }
}
