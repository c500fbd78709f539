//! The signals of forbidden accesses.
//!
//! Our handler calls the function that reports a fault in a heap. Any other fault goes on to the
//! handler that the program had before. A fault inside a [`fault_probe`](super::fault_probe) ends
//! that probe.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use std::sync::Once;

use super::fault_probe::{forget_other_threads, recover};

/// What an access that was forbidden was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// This processor does not tell, or we do not know how it does.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code))]
    Unknown,
}

/// Reports a forbidden access at an address of a heap, and does not return. Returns if the address
/// is in no heap that it knows.
pub(crate) type ReportFault = fn(address: usize, access: Access);

pub(super) const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// The handlers of before, and the function that reports.
struct PreviousAction {
    actions: UnsafeCell<[MaybeUninit<libc::sigaction>; SIGNALS.len()]>,
    report_fault: UnsafeCell<Option<ReportFault>>,
}

// SAFETY: written once, before the handler is there that reads it.
unsafe impl Sync for PreviousAction {}

static BEFORE: PreviousAction = PreviousAction {
    actions: UnsafeCell::new([const { MaybeUninit::zeroed() }; SIGNALS.len()]),
    report_fault: UnsafeCell::new(None),
};

/// Our handler, as the kernel takes it.
fn ours() -> libc::sigaction {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action
}

/// From now on each forbidden access calls `report_fault`. The first call counts.
pub(crate) fn install(report_fault: ReportFault) {
    static ONCE: Once = Once::new();
    // SAFETY: the handler is there only after its data are; both handlers stay, as the library
    // does, which is never unloaded.
    ONCE.call_once(|| unsafe {
        *BEFORE.report_fault.get() = Some(report_fault);
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            let before = (&raw mut (*BEFORE.actions.get())[index]).cast::<libc::sigaction>();
            libc::sigaction(signal, ptr::null(), before);
        }
        reinstall();
        libc::pthread_atfork(None, None, Some(forget_other_threads));
    });
}

/// Puts our handler in place, whoever's is there. Before a report that ends the process.
pub(crate) fn reinstall() {
    for signal in SIGNALS {
        // SAFETY: the handler is a function for the life of the process.
        unsafe { libc::sigaction(signal, &ours(), ptr::null_mut()) };
    }
}

/// Whether a fault comes to our handler: the program has set no other one since.
pub(super) fn is_installed() -> bool {
    SIGNALS.into_iter().all(|signal| {
        let mut now = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: there is room for the answer, and all-zero bytes are a valid one.
        let now = unsafe {
            libc::sigaction(signal, ptr::null(), now.as_mut_ptr());
            now.assume_init()
        };
        now.sa_sigaction == ours().sa_sigaction
    })
}

type WithInfo = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
type Simple = unsafe extern "C" fn(c_int);

unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's arguments; what `install` wrote before this handler was there.
    unsafe {
        // The kernel's own codes: a signal that somebody sent is no access.
        let is_access = (*info).si_code > 0;
        if is_access && recover(context) {
            return;
        }
        if is_access && let Some(report_fault) = *BEFORE.report_fault.get() {
            report_fault((*info).si_addr().addr(), access_of(context));
        }
        let index = SIGNALS.iter().position(|known| *known == signal).unwrap_or(0);
        let before = (&raw const (*BEFORE.actions.get())[index]).cast::<libc::sigaction>();
        match (*before).sa_sigaction {
            libc::SIG_IGN if !is_access => {}
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::sigaction(signal, before, ptr::null_mut());
                // An access is made once more when this returns, and ends as it would have; what
                // was sent is sent again.
                if !is_access {
                    libc::raise(signal);
                }
            }
            handler => call(handler, &*before, (signal, info, context)),
        }
    }
}

/// Calls the handler that was there before as the kernel would have.
///
/// # Safety
///
/// The handler is that of the action; the rest is the kernel's.
unsafe fn call(
    handler: usize,
    action: &libc::sigaction,
    (signal, info, context): (c_int, *mut libc::siginfo_t, *mut c_void),
) {
    // SAFETY: the caller's promise. The kernel gives the thread its former mask back at the end.
    unsafe {
        let mut mask = action.sa_mask;
        if action.sa_flags & libc::SA_RESETHAND != 0 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &mask, ptr::null_mut());
        let is_masked = libc::sigismember(&mask, signal) == 1;
        if action.sa_flags & libc::SA_NODEFER != 0 && !is_masked {
            libc::sigemptyset(&mut mask);
            libc::sigaddset(&mut mask, signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &mask, ptr::null_mut());
        }
        if action.sa_flags & libc::SA_SIGINFO != 0 {
            transmute::<usize, WithInfo>(handler)(signal, info, context);
        } else {
            transmute::<usize, Simple>(handler)(signal);
        }
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn access_of(context: *mut c_void) -> Access {
    const WRITE: i64 = 2;
    // SAFETY: the kernel hands a ucontext over.
    let error =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
    if error & WRITE != 0 { Access::Write } else { Access::Read }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn access_of(_: *mut c_void) -> Access {
    Access::Unknown
}
