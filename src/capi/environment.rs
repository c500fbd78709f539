//! The environment, for hosts with a log of their own.

use core::ffi::{c_char, c_int};
use core::ptr;

use super::{EBB_OK, too_small};
use crate::options;

/// Checks the variables of the environment whose names begin with EBBTIDE_. For
/// hosts with a log: call it once, before the first heap is made.
///
/// warning   NULL, or room for size bytes. Receives one line on variables that have
///           no effect: those that no option has, with the nearest names, and
///           EBBTIDE_REPORT, EBBTIDE_REPORT_SIGNAL and EBBTIDE_VERBOSE without
///           the preload library (the nginx module warns of those itself). An
///           empty string if there are none. What does not fit is cut off. A host
///           that takes the line logs it: the library does not write it to
///           standard error any more, as it otherwise does with the process's
///           first heap or Lua module.
/// size      bytes at warning; 320 are enough for every line.
///
/// Returns EBB_OK; EBB_ERR_RANGE when a value makes no sense, and no heap can be made
/// from this environment: ebb_strerror(0) names the variable and what it takes;
/// EBB_ERR_ARGUMENT when size is 0. Any thread, while none changes the environment.
///
/// # Safety
///
/// `warning` is NULL or points to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_environment_check(warning: *mut c_char, size: usize) -> c_int {
    if size == 0 && !warning.is_null() {
        return too_small("warning");
    }
    let (line, values) = options::check_environment(!warning.is_null());
    if !warning.is_null() {
        let text = line.as_ref().map_or("", |line| line.as_str());
        let text = &text.as_bytes()[..text.len().min(size - 1)];
        // SAFETY: the caller's promise: there is room for the text and the 0 behind the text.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr(), warning.cast(), text.len());
            warning.add(text.len()).write(0);
        }
    }
    values.map_or_else(|error| error as c_int, |()| EBB_OK)
}
