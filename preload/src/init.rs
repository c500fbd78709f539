//! The beginning and the end of the process.

use core::ffi::c_int;

use crate::real::{self, EXIT};
use crate::{library, log, settings, signals, why};

/// Before the program begins: looks up what must not be looked up later.
extern "C" fn start() {
    real::find_all();
    library::start();
    let settings = settings::start();
    log::start(&settings);
    signals::start(&settings);
}

/// For `libebbtide.so`, which looks for a symbol of this name: the variables of this library have
/// an effect in this process.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_upper_case_globals)]
pub static ebb_preload_is_here: u8 = 1;

/// When the program ends by `exit`.
extern "C" fn finish() {
    let settings = settings::get();
    if !library::has_vms() && log::is_first_process() {
        why::log_why_none(&settings);
    }
    if settings.report {
        library::report();
    }
}

/// Ends the process at once, as in the C library. Daemons call it, from signal handlers too, and so
/// do children of a fork, which have no VMs to report on.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    if settings::get().report && library::made_vms_here() && !signals::has_just_reported_term() {
        library::report_last_seen();
    }
    // SAFETY: the caller's promise.
    unsafe { EXIT.get()(status) }
}

/// The same by its name in C99.
///
/// # Safety
///
/// As for [`_exit`].
#[allow(non_snake_case)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the caller's promise is that of `_exit`, which is the same function by another name.
    unsafe { _exit(status) }
}

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static START: extern "C" fn() = start;

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static FINISH: extern "C" fn() = finish;
