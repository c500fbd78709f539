//! What the environment asks for, read once, before the program begins: a program may write over
//! its environment later.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::report_signal;
use crate::switch;
use crate::system;
use crate::text::Text;

/// What the environment asks for. An empty variable counts as unset.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Log what was taken over, or why nothing was.
    pub(crate) verbose: bool,
    /// Report what each VM holds.
    pub(crate) report: bool,
    /// The signal to report on while the program runs; 0: none.
    pub(crate) report_signal: c_int,
    /// This is the process that `ebbtide run` has become, not one that it started.
    pub(crate) is_named: bool,
}

const NONE: Settings =
    Settings { verbose: false, report: false, report_signal: 0, is_named: false };

/// Written by the constructor, before `KNOWN`, and then only read.
struct InitOnce<T>(UnsafeCell<T>);

// SAFETY: see above.
unsafe impl<T> Sync for InitOnce<T> {}

static SETTINGS: InitOnce<Settings> = InitOnce(UnsafeCell::new(NONE));
/// The options of the heap that are set, as `NAME=VALUE`, with a space between two.
static OPTIONS: InitOnce<Text> = InitOnce(UnsafeCell::new(Text::new()));
/// Messages about values that the variables below do not take, and that count as unset.
static WRONG: [InitOnce<Text>; 3] = [const { InitOnce(UnsafeCell::new(Text::new())) }; 3];
static KNOWN: AtomicBool = AtomicBool::new(false);

/// Variables that are no options of the heap.
const OWN: [&[u8]; 4] =
    [b"EBBTIDE_VERBOSE", b"EBBTIDE_REPORT", b"EBBTIDE_REPORT_SIGNAL", b"EBBTIDE_PRELOAD"];

/// The name that the program was called by, without its folder. Servers write over the original.
static PROGRAM: InitOnce<Text> = InitOnce(UnsafeCell::new(Text::new()));

unsafe extern "C" {
    /// That name.
    static program_invocation_short_name: *const c_char;

    /// The variables of the process: C strings, and a null pointer behind the last one.
    static environ: *const *const c_char;
}

/// What was asked for. Nothing before [`start`].
pub(crate) fn get() -> Settings {
    match KNOWN.load(Ordering::Acquire) {
        // SAFETY: written before, and only read since.
        true => unsafe { *SETTINGS.0.get() },
        false => NONE,
    }
}

/// The options of the heap that are set; empty for none.
pub(crate) fn options() -> &'static [u8] {
    text(&OPTIONS)
}

/// Messages about values that are not taken, a line each.
pub(crate) fn wrong() -> impl Iterator<Item = &'static [u8]> {
    WRONG.iter().map(text).filter(|line| !line.is_empty())
}

/// The name that the program was called by; empty before [`start`].
pub(crate) fn program() -> &'static [u8] {
    text(&PROGRAM)
}

fn text(cell: &'static InitOnce<Text>) -> &'static [u8] {
    match KNOWN.load(Ordering::Acquire) {
        // SAFETY: written before, and only read since.
        true => unsafe { (*cell.0.get()).as_bytes() },
        false => b"",
    }
}

/// Reads the environment. Called once, by the constructor.
pub(crate) fn start() -> Settings {
    let [verbose, report, signal] = &WRONG;
    // SAFETY: one thread, which has each of the texts once; `KNOWN` is not set, so no one reads.
    let (verbose, report, signal) =
        unsafe { (&mut *verbose.0.get(), &mut *report.0.get(), &mut *signal.0.get()) };
    let report_signal = read(
        c"EBBTIDE_REPORT_SIGNAL",
        report_signal::number,
        &[report_signal::TAKES, "; no report on a signal"],
        signal,
    )
    .unwrap_or(0);
    let is_on = |variable, instead, wrong| {
        read(variable, switch::is_on, &[switch::TAKES, instead], wrong).unwrap_or(false)
    };
    let settings = Settings {
        verbose: is_on(c"EBBTIDE_VERBOSE", "; counts as off", verbose),
        report: is_on(c"EBBTIDE_REPORT", "; counts as off", report) || report_signal != 0,
        report_signal,
        is_named: names_this_process(c"_EBBTIDE_RUN"),
    };
    // SAFETY: one thread; `KNOWN` is not set, so no one reads.
    unsafe {
        *SETTINGS.0.get() = settings;
        note_options(&mut *OPTIONS.0.get());
        // The C library sets the name before anything runs, to a C string.
        (*PROGRAM.0.get()).push(CStr::from_ptr(program_invocation_short_name).to_bytes());
    }
    KNOWN.store(true, Ordering::Release);
    settings
}

/// Adds the options of the heap that are set.
fn note_options(options: &mut Text) {
    // SAFETY: the C library's own list, which does not change before the program begins.
    let mut next = unsafe { environ };
    // SAFETY: as above; the list ends in a null pointer, and is null itself when it is empty.
    while let Some(variable) = unsafe { next.as_ref() }.filter(|variable| !variable.is_null()) {
        // SAFETY: a variable is a C string.
        let variable = unsafe { CStr::from_ptr(*variable) }.to_bytes();
        if is_option(variable) {
            let between: &[u8] = if options.as_bytes().is_empty() { b"" } else { b" " };
            options.push_all(&[between, variable]);
        }
        next = next.wrapping_add(1);
    }
}

/// Whether `NAME=VALUE` sets an option of the heap.
fn is_option(variable: &[u8]) -> bool {
    let mut parts = variable.splitn(2, |byte| *byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    name.starts_with(b"EBBTIDE_") && !value.is_empty() && !OWN.contains(&name)
}

/// The meaning of a variable that is set. A message about a value without one goes into `wrong`.
fn read<T>(
    variable: &CStr,
    meaning: impl Fn(&[u8]) -> Option<T>,
    takes: &[&str],
    wrong: &mut Text,
) -> Option<T> {
    let value = value_of(variable)?.to_bytes();
    let meant = meaning(value);
    if meant.is_none() {
        wrong.push_all(&[variable.to_bytes(), b"=", value, b": "]);
        for part in takes {
            wrong.push(part.as_bytes());
        }
    }
    meant
}

/// Whether a variable has the number of this process for its value.
fn names_this_process(variable: &CStr) -> bool {
    let number = value_of(variable).and_then(|value| value.to_str().ok()?.parse().ok());
    number == Some(system::process())
}

/// The value of a variable that is not empty.
fn value_of(variable: &CStr) -> Option<&'static CStr> {
    // SAFETY: a C string. The value is read before the program begins to change its environment.
    let value = unsafe {
        let value = libc::getenv(variable.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_from_other_variables() {
        for variable in [&b"EBBTIDE_CHECKED=1"[..], b"EBBTIDE_RETAIN==", b"EBBTIDE_CHEKED=1"] {
            assert!(is_option(variable));
        }
        for variable in
            [&b"EBBTIDE_REPORT=1"[..], b"EBBTIDE_RETAIN=", b"EBBTIDE_RETAIN", b"PATH=x", b""]
        {
            assert!(!is_option(variable));
        }
    }
}
