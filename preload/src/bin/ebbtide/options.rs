//! The options of the library as flags of the command.
//!
//! Which values an option takes is the library's to say, the very one that the program would load:
//! it is asked with the environment that the program would get.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::fmt::Write;
use std::mem::transmute;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::nearest::Meant;
use crate::{report_signal, switch};

/// An option: its name in the library, what stands for its value in the help, what it does.
pub struct Flag {
    /// As the field of `ebb_options`.
    pub name: &'static str,
    /// What stands for its value in the help.
    pub value: &'static str,
    help: &'static str,
}

/// Every option of the library, in the order of use.
pub const FLAGS: [Flag; 14] = [
    flag("decay_ms", "MS", "how long free memory stays in case it is needed again (1000)"),
    flag("retain", "SIZE", "free memory that always stays (0)"),
    flag("retain_max", "SIZE", "the most free memory that may stay (1g)"),
    flag("limit_soft", "SIZE", "no free memory stays above it; cgroup: its limit (0: none)"),
    flag("limit_hard", "SIZE", "beyond this a heap does not grow (0: none)"),
    flag("step_us", "US", "time of one step of giving back inside an allocation (250)"),
    flag("auto", "on|off", "give back memory inside allocations too (on)"),
    flag("background", "auto|on|off", "a thread gives back memory while the program waits (auto)"),
    flag("collect", "[auto|on|off]", "collect garbage while an event loop waits (auto: in nginx)"),
    flag("history", "on|off", "keep a sample for each second of activity (off)"),
    flag("checked", "off|on|sample", "find memory bugs of C modules and FFI code (off)"),
    flag("thp", "on|off", "use huge pages (off)"),
    flag("reserve", "SIZE", "address space of a heap (64g)"),
    flag("remap_min", "SIZE", "blocks of this size and more move by remapping (128k)"),
];

const fn flag(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, value, help }
}

impl Flag {
    /// The option that `--NAME` stands for.
    pub fn named(argument: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|flag| flag.argument() == argument)
    }

    /// The name as an argument, without the dashes before it.
    pub fn argument(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The variable that the library reads.
    pub fn variable(&self) -> String {
        format!("EBBTIDE_{}", self.name.to_uppercase())
    }
}

/// The options as lines of the help.
pub fn help() -> String {
    FLAGS.iter().fold(String::new(), |mut text, flag| {
        let left = format!("--{} {}", flag.argument(), flag.value);
        writeln!(text, "  {left:<24} {}", flag.help).expect("a string takes all");
        text
    })
}

/// `ebb_environment_check`.
type Check = unsafe extern "C" fn(*mut c_char, usize) -> c_int;
type Strerror = unsafe extern "C" fn(c_int) -> *const c_char;

/// What the command asks the library.
struct Library {
    check: Check,
    strerror: Strerror,
}

impl Library {
    /// Loads `libebbtide.so` for good. The error says why it cannot be.
    fn load(path: &Path) -> Result<Library, String> {
        let c_path = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        // SAFETY: a C string. After a failure the loader has a text.
        let handle = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: as above.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) };
            return Err(format!("cannot load the library: {}", why.to_string_lossy()));
        }
        let function = |name: &CStr| {
            // SAFETY: a live handle and a C string.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            match found.is_null() {
                false => Ok(found),
                true => Err(format!("{}: is not ebbtide's: no {name:?}", path.display())),
            }
        };
        // SAFETY: the functions of these names in ebbtide.h.
        unsafe {
            Ok(Library {
                check: transmute::<*mut c_void, Check>(function(c"ebb_environment_check")?),
                strerror: transmute::<*mut c_void, Strerror>(function(c"ebb_strerror")?),
            })
        }
    }

    /// Why the library makes no heap from this environment; none if it does.
    fn refusal(&self) -> Option<String> {
        // SAFETY: no room for a warning; a C string is read before the next call.
        unsafe {
            let refuses = (self.check)(ptr::null_mut(), 0) != 0;
            let why = CStr::from_ptr((self.strerror)(0));
            refuses.then(|| why.to_string_lossy().into_owned())
        }
    }
}

/// Sets the variables in this process, for the library and for the program to come, and has the
/// library at `path` look at them and at those that were there. The error is its own words, about
/// the flag that set the variable.
pub fn set(given: &[(&'static Flag, OsString)], path: &Path) -> Result<(), String> {
    for (flag, value) in given {
        // SAFETY: the command has one thread.
        unsafe { std::env::set_var(flag.variable(), value) };
    }
    match Library::load(path)?.refusal() {
        Some(said) if is_about_an_option(&said) => Err(by_flag(&said, given)),
        // A heap that is refused for another reason need not be for the program.
        _ => Ok(()),
    }
}

/// Refuses variables that are none of ours though they look so. An empty one counts as unset, and
/// is taken away.
pub fn check_environment() -> Result<(), String> {
    let ours = std::env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy()));
    let (empty, set): (Vec<_>, Vec<_>) = ours.partition(|(_, value)| value.is_empty());
    for (name, _) in empty {
        // SAFETY: the command has one thread.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in &set {
        let bytes = value.as_bytes();
        let (is_taken, takes) = match name.to_str() {
            Some("EBBTIDE_REPORT_SIGNAL") => {
                (report_signal::number(bytes).is_some(), report_signal::TAKES)
            }
            Some("EBBTIDE_REPORT" | "EBBTIDE_VERBOSE") => {
                (switch::is_on(bytes).is_some(), switch::TAKES)
            }
            _ => continue,
        };
        if !is_taken {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            return Err(format!("{name}={value}: {takes}"));
        }
    }
    check_names(set.into_iter().map(|(name, _)| name))
}

/// Refuses variables that look like settings of ebbtide and are none.
fn check_names(names: impl Iterator<Item = OsString>) -> Result<(), String> {
    let known: Vec<String> =
        FLAGS.iter().map(Flag::variable).chain(OWN.map(str::to_owned)).collect();
    for name in names {
        let name = name.to_string_lossy();
        if is_ours(&name) && !known.iter().any(|known| *known == name) {
            let bare = &name.as_bytes()[PREFIX.len()..];
            let meant = Meant::of(bare, known.iter().map(|known| &known[PREFIX.len()..]));
            let meant = meant.with_prefix(PREFIX);
            return Err(format!(
                "{name}: there is no such setting{meant}; unset it, or set another"
            ));
        }
    }
    Ok(())
}

/// Variables that are no options of the heap.
const OWN: [&str; 4] =
    ["EBBTIDE_VERBOSE", "EBBTIDE_REPORT", "EBBTIDE_REPORT_SIGNAL", "EBBTIDE_PRELOAD"];

const PREFIX: &str = "EBBTIDE_";

fn is_ours(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// Whether the library complains of an option: `VARIABLE=VALUE: …`, or `name: …`.
fn is_about_an_option(said: &str) -> bool {
    let end = said.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(said.len());
    let name = &said[..end];
    FLAGS.iter().any(|flag| flag.name == name || flag.variable() == name)
}

/// The words of the library with `--FLAG VALUE` for each `VARIABLE=VALUE` that a flag has set.
fn by_flag(said: &str, given: &[(&'static Flag, OsString)]) -> String {
    given.iter().fold(said.to_owned(), |said, (flag, _)| {
        said.replace(&format!("{}=", flag.variable()), &format!("--{} ", flag.argument()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_has_the_name_of_its_option_with_dashes() {
        let flag = Flag::named("limit-soft").expect("an option");
        assert_eq!((flag.name, flag.variable().as_str()), ("limit_soft", "EBBTIDE_LIMIT_SOFT"));
        assert!(Flag::named("limit_soft").is_none() && Flag::named("").is_none());
    }

    /// Each option of the header is a flag, and the library knows each flag.
    #[test]
    fn flags_are_the_options_of_the_library() {
        let header = include_str!("../../../../include/ebbtide.h");
        let fields = header.split("typedef struct ebb_options {").nth(1).expect("the structure");
        let fields = fields.split("} ebb_options;").next().expect("its end");
        let mut options: Vec<&str> = fields
            .lines()
            .filter_map(|line| line.trim().strip_prefix("int64_t "))
            .map(|line| line.trim_end_matches(';').trim_end_matches('_'))
            .collect();
        let mut flags: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        options.sort();
        flags.sort();
        assert_eq!(flags, options);
    }

    #[test]
    fn the_librarys_words_name_the_flag() {
        let flag = Flag::named("retain").expect("an option");
        let given = [(flag, OsString::from("x"))];
        assert_eq!(by_flag("EBBTIDE_RETAIN=x: no", &given), "--retain x: no");
        assert_eq!(by_flag("EBBTIDE_RETAIN_MAX=x: no", &given), "EBBTIDE_RETAIN_MAX=x: no");
        let two = [(flag, OsString::from("2")), (&FLAGS[2], OsString::from("1"))];
        let said = "EBBTIDE_RETAIN=2: above EBBTIDE_RETAIN_MAX=1";
        assert_eq!(by_flag(said, &two), "--retain 2: above --retain-max 1");
        assert!(is_about_an_option(said) && is_about_an_option("limit_hard: 3 is too small"));
        assert!(!is_about_an_option("no address space") && !is_about_an_option(""));
    }

    #[test]
    fn settings_that_do_not_exist_are_refused() {
        let check = |name: &str| check_names([OsString::from(name)].into_iter());
        for name in FLAGS.iter().map(Flag::variable).chain(OWN.map(str::to_owned)) {
            assert_eq!(check(&name), Ok(()));
        }
        assert_eq!(check("PATH"), Ok(()));
        assert_eq!(check("EBBTIDES"), Ok(()));
        let error = check("EBBTIDE_CHEKED").expect_err("a refusal");
        assert!(error.contains("did you mean EBBTIDE_CHECKED?"), "{error}");
        let error = check("EBBTIDE_DECAY").expect_err("a refusal");
        assert!(error.contains("did you mean EBBTIDE_DECAY_MS?"), "{error}");
        assert!(check("ebbtide_retain").is_err());
    }

    #[test]
    fn the_help_has_short_lines() {
        assert!(help().lines().all(|line| line.len() <= 90), "{}", help());
        assert_eq!(help().lines().count(), FLAGS.len());
    }
}
