//! The beginning and the end of the process.

use crate::{behind, library, say, settings, signals, why};

/// Before the program begins: looks up what must not be looked up later.
extern "C" fn start() {
    behind::find_all();
    library::start();
    let settings = settings::start();
    say::start(&settings);
    signals::start(&settings);
}

/// When the program ends by `exit`.
extern "C" fn finish() {
    let settings = settings::get();
    if !library::has_vms() && say::is_first_process() {
        why::say_why_none(&settings);
    }
    if settings.report {
        library::report();
    }
}

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static START: extern "C" fn() = start;

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static FINISH: extern "C" fn() = finish;
