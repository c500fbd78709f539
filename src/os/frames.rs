//! The functions that a thread is in: taken down as addresses, written as names.
//!
//! The C library's `backtrace` is looked up when the process runs, for not every one has it.

use core::ffi::{CStr, c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::kernel::keeping_errno;

/// How many functions are taken down at most.
const DEPTH: usize = 16;

/// The functions that a thread was in, the innermost first.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    addresses: [*mut c_void; DEPTH],
    count: usize,
}

type Backtrace = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
type SymbolsToFile = unsafe extern "C" fn(*const *mut c_void, c_int, c_int);

static BACKTRACE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static SYMBOLS: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Looks the C library's functions up. `backtrace` loads a library when it is called first, which
/// must not happen in a signal handler.
pub(crate) fn prepare() {
    if BACKTRACE.load(Ordering::Relaxed).is_null() {
        SYMBOLS.store(function(c"backtrace_symbols_fd"), Ordering::Relaxed);
        BACKTRACE.store(function(c"backtrace"), Ordering::Release);
        Frames::here();
    }
}

fn function(name: &CStr) -> *mut c_void {
    // SAFETY: a C string; nothing but a look-up.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

impl Frames {
    pub(crate) const NONE: Frames = Frames { addresses: [ptr::null_mut(); DEPTH], count: 0 };

    /// The functions that this thread is in. None where the C library does not tell.
    #[inline(never)]
    pub(crate) fn here() -> Frames {
        let mut frames = Frames::NONE;
        let backtrace = BACKTRACE.load(Ordering::Acquire);
        // SAFETY: null, or the function of this name; it writes as many addresses as there is room.
        unsafe {
            let backtrace = transmute::<*mut c_void, Option<Backtrace>>(backtrace);
            let Some(backtrace) = backtrace else { return frames };
            let addresses = frames.addresses.as_mut_ptr();
            let count = keeping_errno(|| backtrace(addresses, DEPTH as c_int));
            frames.count = usize::try_from(count).unwrap_or(0);
        }
        frames
    }

    /// Writes a line for each function to standard error, this library's own innermost ones left
    /// out where that can be told.
    pub(crate) fn write(&self) {
        let all = &self.addresses[..self.count];
        let own = all.iter().take_while(|address| is_own(**address)).count();
        // A program that has the library inside is one object with it.
        let shown = if own == all.len() { all } else { &all[own..] };
        let symbols = SYMBOLS.load(Ordering::Relaxed);
        // SAFETY: null, or the function of this name.
        let Some(symbols) = (unsafe { transmute::<*mut c_void, Option<SymbolsToFile>>(symbols) })
        else {
            return;
        };
        for address in shown {
            // SAFETY: both are as long as they say; the address is only looked up.
            unsafe {
                let indent = b"ebbtide:     ";
                libc::write(libc::STDERR_FILENO, indent.as_ptr().cast(), indent.len());
                symbols(address, 1, libc::STDERR_FILENO);
            }
        }
    }
}

/// Whether an address lies in the object that this function lies in.
fn is_own(address: *mut c_void) -> bool {
    let base = |address: *const c_void| {
        let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: there is room for the answer, whose fields may all be zero.
        let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
        // SAFETY: as above.
        (found != 0).then(|| unsafe { info.assume_init() }.dli_fbase)
    };
    base(address) == base(is_own as *const () as *const c_void)
}

/// A number that no other living thread has, as debuggers show it.
pub(crate) fn this_thread() -> usize {
    // SAFETY: it asks for nothing, and reads a register.
    unsafe { libc::pthread_self() as usize }
}
