//! The environment: the values of options, and variables that have no effect.
//!
//! A variable of ours that no option has is a spelling mistake, and nobody would notice; one of
//! `ebbtide run` does nothing in a process without the preload library. The process warns of such
//! variables once: in the log of a host that asks ([`check_environment`]), or else on standard
//! error when the process first makes a heap or opens a Lua module. Texts are made apart from that.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::OnceLock;

use super::nearest::Meant;
use super::{Options, TABLE};
use crate::error::{self, Error};
use crate::fixed_str::FixedStr;
use crate::log;

const PREFIX: &str = "EBBTIDE_";

/// Variables that are no options: those of the preload library, and that of the `ebbtide` command.
const NOT_OPTIONS: [&str; 4] =
    ["EBBTIDE_VERBOSE", "EBBTIDE_REPORT", "EBBTIDE_REPORT_SIGNAL", "EBBTIDE_PRELOAD"];
/// How many of them the preload library alone reads.
const OF_PRELOAD: usize = 3;

/// Whether the process was warned of variables without effect.
static WARNED: AtomicBool = AtomicBool::new(false);
/// Whether a heap was made, which has the values of the environment.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Why the first heap that was refused was refused.
static REFUSED: OnceLock<FixedStr> = OnceLock::new();
/// Whether it was warned that these values had no effect.
static WARNED_UNUSED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// The variables of the process: C strings, and a null pointer behind the last one.
    static environ: *const *const c_char;
}

/// The value of a variable. An empty one counts as unset.
pub(super) fn value_of(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: `name` is a C string. The result is read before this call returns to the host, which
    // must not change its environment in another thread meanwhile: getenv's own rule.
    let value = unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    value.filter(|value| !value.is_empty())
}

/// The process's variables, as `NAME=VALUE`.
fn variables() -> impl Iterator<Item = &'static [u8]> {
    // SAFETY: the C library's own list, which ends in a null pointer; it is null itself when the
    // program cleared the environment. As in [`value_of`], nobody changes it meanwhile.
    (0..).map_while(|index| unsafe {
        let list = environ;
        let variable = if list.is_null() { list.cast() } else { *list.add(index) };
        (!variable.is_null()).then(|| CStr::from_ptr(variable).to_bytes())
    })
}

/// A warning of variables that are ours by their name and have no effect. `None`: there are none.
fn without_effect<'a>(
    variables: impl Iterator<Item = &'a [u8]>,
    is_left_to_others: impl Fn() -> bool,
) -> Option<FixedStr> {
    let mut line = FixedStr::EMPTY;
    for variable in variables {
        let Some(name) = name_of_ours(variable) else { continue };
        let before = if line.as_bytes().is_empty() { "" } else { "; " };
        // What does not fit is cut off.
        if let Some(name) = asks_the_preload_library(variable) {
            if !is_left_to_others() {
                let _ = write!(line, "{before}{name} has an effect under ebbtide run only");
            }
            continue;
        }
        let known = || TABLE.iter().map(|spec| spec.variable_name()).chain(NOT_OPTIONS);
        if known().any(|known| known.as_bytes() == name) {
            continue;
        }
        let meant = Meant::of(&name[PREFIX.len()..], known().map(|known| &known[PREFIX.len()..]));
        let name = name.escape_ascii();
        let _ = write!(line, "{before}unknown option {name}{}", meant.with_prefix(PREFIX));
    }
    (!line.as_bytes().is_empty()).then_some(line)
}

/// The name of a variable that asks the preload library for something. A switch that is off does
/// not.
fn asks_the_preload_library(variable: &[u8]) -> Option<&'static str> {
    NOT_OPTIONS[..OF_PRELOAD].iter().copied().find(|name| {
        let value = variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| !matches!(value, b"off" | b"0"))
    })
}

/// Whether the preload library's variables are left to others in this process: to the preload
/// library itself, or to the nginx module, which warns of them in the words of nginx. Each exports
/// a symbol to be known by.
fn is_left_to_others() -> bool {
    let symbols = [c"ebb_preload_is_here", c"ngx_http_ebbtide_module"];
    // SAFETY: C strings.
    symbols.iter().any(|name| unsafe { !libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()).is_null() })
}

/// The name of a variable that has a value and begins as ours do, in either case of letters.
fn name_of_ours(variable: &[u8]) -> Option<&[u8]> {
    let end = variable.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&variable[..end], &variable[end + 1..]);
    let is_ours = name.get(..PREFIX.len())?.eq_ignore_ascii_case(PREFIX.as_bytes());
    (is_ours && !value.is_empty()).then_some(name)
}

/// Warns of variables without effect, once.
pub(crate) fn warn_once() {
    log::note_stderr();
    if WARNED.load(Relaxed) || WARNED.swap(true, Relaxed) {
        return;
    }
    if let Some(line) = without_effect(variables(), is_left_to_others) {
        log::line(format_args!("{}", line.as_str()));
    }
}

/// Notes that a heap has the values of the environment.
pub(crate) fn note_taken() {
    TAKEN.store(true, Relaxed);
}

/// Notes that a heap was refused, for this thread's last reason.
pub(crate) fn note_refused(_: &Error) {
    REFUSED.get_or_init(error::last_line);
}

/// The warning of variables without effect, for a host with a log of its own, and whether the
/// values of the others make sense. Counts as given when the host takes the text.
pub(crate) fn check_environment(takes_text: bool) -> (Option<FixedStr>, Result<(), Error>) {
    log::note_stderr();
    if takes_text {
        WARNED.store(true, Relaxed);
    }
    let line = without_effect(variables(), is_left_to_others);
    (line, Options::resolve_with(&[], value_of).map(drop))
}

/// The variables of options, as `NAME=VALUE`. They wait for a heap.
pub(crate) fn pending() -> Option<FixedStr> {
    let mut line = FixedStr::EMPTY;
    for spec in &TABLE {
        if let Some(value) = value_of(spec.variable) {
            let before = if line.as_bytes().is_empty() { "" } else { " " };
            let value = value.to_bytes().escape_ascii();
            let _ = write!(line, "{before}{}={value}", spec.variable_name());
        }
    }
    (!line.as_bytes().is_empty()).then_some(line)
}

/// Warns, once, that options in the environment never had an effect, because the process made no
/// heap, and why not if it tried.
pub(crate) fn warn_unused() {
    if let Some(line) = pending().filter(|_| !TAKEN.load(Relaxed))
        && !WARNED_UNUSED.swap(true, Relaxed)
    {
        let set = line.as_str();
        match REFUSED.get().map(FixedStr::as_str) {
            Some(why) => log::line(format_args!("{set} had no effect: a heap was refused: {why}")),
            None => log::line(format_args!(
                "{set} had no effect: no VM had a heap; attach() gives it one"
            )),
        }
    }
}

/// Has exit() warn of the same at the end of this process: os.exit() does not close the VM. A child
/// of a fork gives no warning, for it is seldom the program that the user has started. Nor does a
/// process that ends by _exit().
pub(crate) fn warn_unused_at_exit() {
    static PROCESS: AtomicI32 = AtomicI32::new(0);
    extern "C" fn at_exit() {
        if PROCESS.load(Relaxed) == this_process() {
            warn_unused();
        }
    }
    if PROCESS.load(Relaxed) == 0 && PROCESS.swap(this_process(), Relaxed) == 0 {
        // SAFETY: the function stays as long as the process, for the library is never unloaded.
        unsafe { libc::atexit(at_exit) };
    }
}

fn this_process() -> c_int {
    // SAFETY: it asks for nothing.
    unsafe { libc::getpid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(variables: &[&str]) -> String {
        told_where(variables, false)
    }

    fn told_where(variables: &[&str], is_left_to_others: bool) -> String {
        let variables = variables.iter().map(|variable| variable.as_bytes());
        let line = without_effect(variables, || is_left_to_others);
        line.map_or(String::new(), |line| line.as_str().to_owned())
    }

    #[test]
    fn a_variable_that_no_option_has_is_told_with_the_nearest_name() {
        for (variable, text) in [
            ("EBBTIDE_DECAY=500", "unknown option EBBTIDE_DECAY; did you mean EBBTIDE_DECAY_MS?"),
            ("EBBTIDE_CHEKED=1", "unknown option EBBTIDE_CHEKED; did you mean EBBTIDE_CHECKED?"),
            ("ebbtide_retain=1m", "unknown option ebbtide_retain; did you mean EBBTIDE_RETAIN?"),
            (
                "EBBTIDE_LIMIT=1g",
                "unknown option EBBTIDE_LIMIT; \
                 did you mean EBBTIDE_LIMIT_SOFT or EBBTIDE_LIMIT_HARD?",
            ),
            ("EBBTIDE_REPROT=1", "unknown option EBBTIDE_REPROT; did you mean EBBTIDE_REPORT?"),
            ("EBBTIDE_BANANA=1", "unknown option EBBTIDE_BANANA"),
            ("EBBTIDE_=1", "unknown option EBBTIDE_"),
            ("EBBTIDE_\x1b=1", r"unknown option EBBTIDE_\x1b"),
        ] {
            assert_eq!(warning(&[variable]), text);
        }
        let both = "unknown option EBBTIDE_A; unknown option EBBTIDE_B";
        assert_eq!(warning(&["EBBTIDE_A=1", "PATH=x", "EBBTIDE_B=1"]), both);
    }

    #[test]
    fn nothing_is_told_of_what_has_an_effect_or_is_not_ours() {
        let known = TABLE.iter().map(|spec| spec.variable_name()).chain(NOT_OPTIONS);
        let known: Vec<String> = known.map(|name| format!("{name}=x")).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        assert_eq!(told_where(&known, true), "");
        assert_eq!(
            warning(&["", "=", "EBBTIDE", "EBBTIDE=1", "XEBBTIDE_A=1", "EBBTIDE_DECAY="]),
            ""
        );
        assert_eq!(
            warning(&["EBBTIDE_REPORT=off", "EBBTIDE_VERBOSE=0", "EBBTIDE_PRELOAD=/lib"]),
            ""
        );
    }

    #[test]
    fn variables_of_the_preload_library_are_told_where_there_is_none() {
        let variables = ["EBBTIDE_REPORT=on", "EBBTIDE_REPORT_SIGNAL=USR2", "EBBTIDE_VERBOSE=1"];
        let text = "EBBTIDE_REPORT has an effect under ebbtide run only; \
                    EBBTIDE_REPORT_SIGNAL has an effect under ebbtide run only; \
                    EBBTIDE_VERBOSE has an effect under ebbtide run only";
        assert_eq!(warning(&variables), text);
        assert_eq!(told_where(&variables, true), "");
    }
}
