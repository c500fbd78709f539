//! Reports on signals: on the one that the user has chosen, and on SIGTERM.
//!
//! The program must not notice. It sets what a signal does through the functions here, and reads back
//! what it would read without this library:
//!
//! | the program's action  | what the kernel gets      | what happens                             |
//! |-----------------------|---------------------------|------------------------------------------|
//! | the default, SIGTERM  | [`alone`]                 | a report; then the signal ends it anyway |
//! | the default, chosen   | [`alone`]                 | a report                                 |
//! | a handler             | one of [`BEFORE`]         | a report; then the program's handler     |
//! | ignored               | the same                  | nothing                                  |
//!
//! The kernel alone knows which action is set: no state here could differ from it, in a child of
//! `vfork` or on another thread. All that is kept is which handler each function of [`BEFORE`]
//! calls, and that never changes once it is set.
//!
//! A handler here reads what heaps were last seen to hold and writes lines. It touches no heap,
//! takes no lock and allocates nothing.

use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use libc::{SIG_DFL, SIG_IGN, sigaction as Action, siginfo_t, sigset_t};

use crate::real::{SIGACTION, SIGNAL, SIGSET, SYSV_SIGNAL, SYSV_SIGNAL_RESERVED, SignalFunction};
use crate::settings::Settings;
use crate::system::now_ns;
use crate::{library, log, report_signal, settings, why};

type Handler = unsafe extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// The chosen signal; 0: none.
static CHOSEN: AtomicI32 = AtomicI32::new(0);
/// Whether SIGTERM is reported on.
static ON_TERM: AtomicBool = AtomicBool::new(false);
/// When a report last came with SIGTERM; 0: never.
static TERM_REPORTED_AT_NS: AtomicU64 = AtomicU64::new(0);
/// An end within this time after SIGTERM is the answer to SIGTERM: a second report would repeat the
/// first. A program that lives longer has survived the signal, and its end is news.
const SURVIVED_NS: u64 = 1_000_000_000;
/// The line that the chosen signal brings no report was written.
static SAID: AtomicBool = AtomicBool::new(false);

/// A report where another copy of the library has the heaps.
const OTHERS: &[u8] = b"no VM was taken over: its VMs are on heaps of another ebbtide, ";

/// Handlers of the program that a report can come before.
const HANDLERS: usize = 16;
/// Those that have been set so far, each where its function in [`BEFORE`] finds it.
static PROGRAMS: [AtomicUsize; HANDLERS] = [const { AtomicUsize::new(0) }; HANDLERS];
const BEFORE: [Handler; HANDLERS] = [
    before::<0>,
    before::<1>,
    before::<2>,
    before::<3>,
    before::<4>,
    before::<5>,
    before::<6>,
    before::<7>,
    before::<8>,
    before::<9>,
    before::<10>,
    before::<11>,
    before::<12>,
    before::<13>,
    before::<14>,
    before::<15>,
];

/// Begins to report, where that is asked for. Called by the constructor.
pub(crate) fn start(settings: &Settings) {
    if !settings.report {
        return;
    }
    ON_TERM.store(true, Ordering::Relaxed);
    CHOSEN.store(settings.report_signal, Ordering::Relaxed);
    for signal in [libc::SIGTERM, settings.report_signal] {
        if signal != 0 {
            // SAFETY: what is set is what there was, as the program sees it.
            unsafe {
                let mut now = MaybeUninit::<Action>::zeroed();
                if SIGACTION.get()(signal, ptr::null(), now.as_mut_ptr()) == 0 {
                    sigaction(signal, now.as_ptr(), ptr::null_mut());
                }
            }
        }
    }
}

/// Whether a report comes with a signal.
fn is_ours(signal: c_int) -> bool {
    signal != 0
        && (signal == CHOSEN.load(Ordering::Relaxed)
            || signal == libc::SIGTERM && ON_TERM.load(Ordering::Relaxed))
}

/// The chosen signal if the program leaves it to its default; 0 otherwise.
pub(crate) fn chosen_alone() -> c_int {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    if chosen == 0 {
        return 0;
    }
    let mut now = MaybeUninit::<Action>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero.
    let handler = unsafe {
        SIGACTION.get()(chosen, ptr::null(), now.as_mut_ptr());
        now.assume_init().sa_sigaction
    };
    if handler == alone as *const () as usize { chosen } else { 0 }
}

/// Whether a report can be asked for while the program runs.
pub(crate) fn is_chosen() -> bool {
    CHOSEN.load(Ordering::Relaxed) != 0
}

/// Whether a report came with SIGTERM within the last second.
pub(crate) fn has_just_reported_term() -> bool {
    let at = TERM_REPORTED_AT_NS.load(Ordering::Relaxed);
    at != 0 && now_ns().saturating_sub(at) < SURVIVED_NS
}

/// Lets in a signal that this thread holds back, if it has come.
pub(crate) fn let_in(signal: c_int) {
    let mut set = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: there is room for the set, which may be all zero; the handler that runs is `alone`,
    // or what the program has set meanwhile.
    unsafe {
        if libc::sigpending(set.as_mut_ptr()) == 0 && libc::sigismember(set.as_ptr(), signal) == 1 {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        }
    }
}

/// The handler where the program has none.
///
/// # Safety
///
/// The kernel calls it.
unsafe extern "C" fn alone(signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    report(signal);
    if signal != CHOSEN.load(Ordering::Relaxed) {
        end_by(signal);
    }
}

/// The handler where the program has set one: the report comes before that.
///
/// # Safety
///
/// The kernel calls it.
unsafe extern "C" fn before<const INDEX: usize>(
    signal: c_int,
    info: *mut siginfo_t,
    context: *mut c_void,
) {
    report(signal);
    let handler = PROGRAMS.get(INDEX).map_or(0, |handler| handler.load(Ordering::Acquire));
    if handler != 0 {
        // SAFETY: the program has set it for a signal, with the flags that the kernel has called
        // this function by. A handler of one argument does not mind the others.
        unsafe { transmute::<usize, Handler>(handler)(signal, info, context) };
    }
}

fn report(signal: c_int) {
    // SAFETY: errno is this thread's.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    if signal == libc::SIGTERM {
        TERM_REPORTED_AT_NS.store(now_ns(), Ordering::Relaxed);
    }
    let is_asked_here = signal == CHOSEN.load(Ordering::Relaxed) || settings::get().is_named;
    if library::report_last_seen() == 0 && is_asked_here {
        match why::other_ebbtide() {
            Some(path) => log::line_of_process(&[OTHERS, path]),
            None => log::line_of_process(&[b"no VM that was taken over is open"]),
        };
    }
    // SAFETY: as above.
    unsafe { *errno = kept };
}

/// Ends the process as the default action of the signal does.
fn end_by(signal: c_int) {
    let mut default = MaybeUninit::<Action>::zeroed();
    let mut set = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: an action that is all zero is the default; there is room for the set. The signal
    // comes when it is let in. (The first process of a container it does not end, as without a
    // handler.)
    unsafe {
        SIGACTION.get()(signal, default.as_mut_ptr(), ptr::null_mut());
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), signal);
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
    }
}

/// What the kernel gets when the program sets a handler.
fn for_kernel(signal: c_int, handler: usize) -> usize {
    match handler {
        SIG_DFL => alone as *const () as usize,
        SIG_IGN => {
            log_unanswered(signal, b"the program ignores it");
            handler
        }
        // SIG_ERR, and SIG_HOLD of sigset().
        libc::SIG_ERR | 2 => handler,
        _ if for_program(handler) != handler => handler,
        _ => before_handler(handler).unwrap_or_else(|| {
            log_unanswered(signal, b"the program has set too many handlers");
            handler
        }),
    }
}

/// The function that calls this handler; none if there is none left.
fn before_handler(handler: usize) -> Option<usize> {
    let mine = |slot: &&AtomicUsize| {
        let taken = slot.compare_exchange(0, handler, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(handler)
    };
    let mut pairs = PROGRAMS.iter().zip(BEFORE);
    pairs.find(|(slot, _)| mine(slot)).map(|(_, before)| before as *const () as usize)
}

/// What the program reads when the kernel has this handler.
fn for_program(handler: usize) -> usize {
    if handler == alone as *const () as usize {
        return SIG_DFL;
    }
    let mut pairs = PROGRAMS.iter().zip(BEFORE);
    let found = pairs.find(|(_, before)| *before as *const () as usize == handler);
    found.map_or(handler, |(slot, _)| slot.load(Ordering::Acquire))
}

/// Logs once that the chosen signal brings no report.
fn log_unanswered(signal: c_int, why: &[u8]) {
    let is_news = signal == CHOSEN.load(Ordering::Relaxed)
        && (settings::get().is_named || library::has_vms())
        && !SAID.swap(true, Ordering::Relaxed);
    if is_news {
        let name = report_signal::name(signal).unwrap_or(b"the chosen signal");
        log::line(&[b"no report on ", name, b": ", why, b"; choose another --report-signal"]);
    }
}

/// Sets what a signal does, and returns what it did, as in the C library.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    let real = SIGACTION.get();
    // SAFETY: the caller's promise, also for what is handed on.
    unsafe {
        if !is_ours(signal) {
            return real(signal, new, old);
        }
        let changed = new.as_ref().map(|new| {
            let mut changed = *new;
            changed.sa_sigaction = for_kernel(signal, new.sa_sigaction);
            if new.sa_sigaction == SIG_DFL {
                // Interrupts as little as can be, on whichever stack there is.
                changed.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            }
            changed
        });
        let result = real(signal, changed.as_ref().map_or(ptr::null(), ptr::from_ref), old);
        if let Some(old) = old.as_mut().filter(|_| result == 0) {
            let seen = for_program(old.sa_sigaction);
            if seen == SIG_DFL && old.sa_sigaction != SIG_DFL {
                old.sa_flags = 0;
            }
            old.sa_sigaction = seen;
        }
        result
    }
}

/// The same by its other name in the C library.
///
/// # Safety
///
/// As for [`sigaction`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { sigaction(signal, new, old) }
}

/// Ignores a signal, as in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn sigignore(signal: c_int) -> c_int {
    let mut ignored = MaybeUninit::<Action>::zeroed();
    // SAFETY: the fields of an action may all be zero; to ignore a signal calls nothing.
    unsafe {
        (*ignored.as_mut_ptr()).sa_sigaction = SIG_IGN;
        sigaction(signal, ignored.as_ptr(), ptr::null_mut())
    }
}

/// # Safety
///
/// That of `real`, which is `signal` or of its kind.
unsafe fn set(real: SignalFunction, signal: c_int, handler: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        if !is_ours(signal) {
            return real(signal, handler);
        }
        let old = for_program(real(signal, for_kernel(signal, handler)));
        if handler == SIG_DFL && old != libc::SIG_ERR {
            // With the flags that suit: some of these functions let a handler run once only.
            let mut default = MaybeUninit::<Action>::zeroed();
            sigaction(signal, default.as_mut_ptr(), ptr::null_mut());
        }
        old
    }
}

macro_rules! functions {
    ($($name:ident: $real:ident;)*) => {
        $(
            /// Sets what a signal does, as in the C library.
            ///
            /// # Safety
            ///
            /// That of the function of the same name in the C library.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C" fn $name(signal: c_int, handler: usize) -> usize {
                // SAFETY: the caller's promise.
                unsafe { set($real.get(), signal, handler) }
            }
        )*
    };
}

// ssignal and bsd_signal are other names of signal in the C library.
functions! {
    signal: SIGNAL;
    ssignal: SIGNAL;
    bsd_signal: SIGNAL;
    sysv_signal: SYSV_SIGNAL;
    __sysv_signal: SYSV_SIGNAL_RESERVED;
    sigset: SIGSET;
}
