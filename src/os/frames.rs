//! The functions that a thread is in: taken down as addresses, written as names.
//!
//! The unwinder is the one that Rust's own library has for panics. It is stopped at the first
//! function that is of no file: what LuaJIT compiles looks to it like a function that it can leave,
//! and it aborts when it tries. Where it loses its way before that, and faults, what it has found
//! until then is all there is.

use core::ffi::{CStr, c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::attempt::attempt;
use super::kernel::keeping_errno;
use crate::bug;

/// How many functions are taken down at most.
const DEPTH: usize = 20;

/// The functions that a thread was in, the innermost first.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
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

type SymbolsToFile = unsafe extern "C" fn(*const *mut c_void, c_int, c_int);
type FindObject = unsafe extern "C" fn(*const c_void, *mut [usize; 32]) -> c_int;

/// Functions of the C library that not every one has.
static SYMBOLS: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Looks the C library's functions up, and has the unwinder do what it does only once: neither
/// should happen in a signal handler first.
pub(crate) fn prepare() {
    if SYMBOLS.load(Ordering::Relaxed).is_null() {
        FIND_OBJECT.store(function(c"_dl_find_object"), Ordering::Relaxed);
        SYMBOLS.store(function(c"backtrace_symbols_fd"), Ordering::Release);
        Frames::here();
    }
}

fn function(name: &CStr) -> *mut c_void {
    // SAFETY: a C string; nothing but a look-up.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Whether an address lies in a program or library that was loaded from a file.
fn is_of_a_file(address: *mut c_void) -> bool {
    // SAFETY: null, or the function of this name, which fills in less than there is room for.
    unsafe {
        let find = FIND_OBJECT.load(Ordering::Relaxed);
        match transmute::<*mut c_void, Option<FindObject>>(find) {
            Some(find) => find(address, &mut [0; 32]) == 0,
            None => !object_of(address).is_null(),
        }
    }
}

/// Takes a function down.
unsafe extern "C" fn visit(context: *mut Context, frames: *mut c_void) -> c_int {
    // SAFETY: `Frames::here` hands its frames over, and the unwinder its context.
    let (frames, address) =
        unsafe { (&mut *frames.cast::<Frames>(), _Unwind_GetIP(context) as *mut c_void) };
    if frames.count == DEPTH || address.is_null() {
        return STOP;
    }
    frames.addresses[frames.count] = address;
    frames.count += 1;
    if is_of_a_file(address) { GO_ON } else { STOP }
}

impl Frames {
    pub(crate) const NONE: Frames = Frames { addresses: [ptr::null_mut(); DEPTH], count: 0 };

    /// The functions that this thread is in, as far as they are of files.
    #[inline(never)]
    pub(crate) fn here() -> Frames {
        let mut frames = Frames::NONE;
        let found = &raw mut frames;
        // SAFETY: the frames outlive the call, and are what `visit` expects. Where the unwinder
        // believes what is not so it reads, and holds no lock.
        keeping_errno(|| unsafe { attempt(|| _ = _Unwind_Backtrace(visit, found.cast())) });
        frames
    }

    /// Writes a line for each function to standard error, this library's own innermost ones left
    /// out.
    pub(crate) fn write(&self) {
        let all = &self.addresses[..self.count];
        if all.is_empty() {
            bug::say(format_args!("    not known: perhaps the program handles faults itself"));
        }
        let symbols = SYMBOLS.load(Ordering::Relaxed);
        // SAFETY: null, or the function of this name.
        let symbols = unsafe { transmute::<*mut c_void, Option<SymbolsToFile>>(symbols) };
        for address in all.iter().skip_while(|address| is_own(**address)) {
            let Some(symbols) = symbols.filter(|_| is_of_a_file(*address)) else {
                bug::say(format_args!("    {address:p}, code of no file: compiled Lua, perhaps"));
                continue;
            };
            // SAFETY: both are as long as they say; the address is only looked up.
            unsafe {
                let indent = b"ebbtide:     ";
                libc::write(libc::STDERR_FILENO, indent.as_ptr().cast(), indent.len());
                symbols(address, 1, libc::STDERR_FILENO);
            }
        }
    }
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
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero.
    unsafe {
        libc::dladdr(address, info.as_mut_ptr());
        info.assume_init().dli_fbase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn frames_below(functions: usize) -> usize {
        let count = if functions == 0 { Frames::here().count } else { frames_below(functions - 1) };
        core::hint::black_box(count)
    }

    #[test]
    fn the_way_out_is_found() {
        crate::os::fault::watch(|_, _| {});
        let least = frames_below(0);
        assert!(least > 3);
        assert_eq!([frames_below(1), frames_below(5)], [least + 1, least + 5]);
        assert_eq!(frames_below(DEPTH), DEPTH);
    }
}
