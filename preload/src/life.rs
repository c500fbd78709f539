//! The beginning and the end of the process.

use crate::{behind, library, newstate, say};

/// Before the program begins: looks up what must not be looked up later.
extern "C" fn start() {
    behind::find_all();
    library::start();
    say::start();
}

/// When the program ends by `exit`.
extern "C" fn finish() {
    let report = say::is_set(c"EBBTIDE_REPORT");
    // Where a report was asked for and there is nothing to report, that is told.
    if !library::is_loaded() && say::is_named(c"EBBTIDE_REPORT") {
        say::want();
    }
    if say::is_wanted_at_the_end() {
        newstate::say_why_none();
    }
    if report {
        library::report();
    }
}

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static START: extern "C" fn() = start;

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static FINISH: extern "C" fn() = finish;
