//! Options: one table with each one's name, range and default.
//!
//! An option has one name everywhere: the field of `ebb_options`, the name for `ebb_set` and
//! `ebb_get`, and, in capitals behind `EBBTIDE_`, the environment variable.
//!
//! | file            | concern                                                          | unsafe |
//! |-----------------|------------------------------------------------------------------|--------|
//! | this one        | the table; the values of one heap                                | no     |
//! | `text`          | values read from text, values and ranges in a message            | no     |
//! | `environment`   | variables read; a warning of those without effect                | yes    |
//! | `nearest`       | the names that a wrong name may have meant                       | no     |

mod environment;
mod nearest;
mod text;

use core::ffi::CStr;

use crate::error::Error;
pub(crate) use environment::{
    check_environment, note_refused, note_taken, pending, warn_once, warn_unused,
    warn_unused_at_exit,
};
use text::Value;

/// One option. The variants stand in the order of the table and of the fields of `ebb_options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Reserve,
    Thp,
    RemapMin,
    DecayMs,
    Retain,
    RetainMax,
    LimitSoft,
    LimitHard,
    StepUs,
    Auto,
    History,
    Checked,
    Background,
    Collect,
}

/// In a field of `ebb_options`: 0, where an unset field would take another value.
pub(crate) const ZERO: i64 = -1;
/// The value of a limit that is read from the cgroup.
pub(crate) const CGROUP: i64 = -2;
/// The value `auto`. Of `background`: not where the host ticks; of `collect`: in nginx alone.
pub(crate) const AUTO: i64 = 2;

/// What the table says of an option.
struct Spec {
    key: Key,
    name: &'static str,
    variable: &'static CStr,
    min: i64,
    max: i64,
    /// 0: worked out when the heap is made.
    default: i64,
    /// Whether it can change while the heap is in use.
    live: bool,
    /// Values that have a name.
    words: &'static [(&'static str, i64)],
    unit: Unit,
}

/// What an option's number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Milliseconds,
    Microseconds,
    /// The number stands for a word.
    Word,
}

/// The smallest reservation that is tried.
pub(crate) const RESERVE_MIN: usize = 1 << 20;
/// The largest: two page indices still add up in 32 bits.
pub(crate) const RESERVE_MAX: usize = 1 << 43;
/// The lowest limit. A VM of LuaJIT with its libraries holds 180 KiB resident at least, with
/// spans of all sizes that it uses; and some versions crash where not even that much is to be had.
pub(crate) const LIMIT_MIN: i64 = 512 << 10;
const BYTES_MAX: i64 = RESERVE_MAX as i64;

const SWITCH: &[(&str, i64)] = &[("off", 0), ("on", 1)];
const CHECKED: &[(&str, i64)] = &[("off", 0), ("on", 1), ("sample", 2)];
const SWITCH_OR_AUTO: &[(&str, i64)] = &[("off", 0), ("on", 1), ("auto", AUTO)];
const NO_WORDS: &[(&str, i64)] = &[];

#[rustfmt::skip]
const TABLE: [Spec; 14] = [
    Spec { key: Key::Reserve, name: "reserve", variable: c"EBBTIDE_RESERVE",
           min: RESERVE_MIN as i64, max: BYTES_MAX, default: 0, live: false, words: NO_WORDS,
           unit: Unit::Bytes },
    Spec { key: Key::Thp, name: "thp", variable: c"EBBTIDE_THP",
           min: 0, max: 1, default: 0, live: true, words: SWITCH,
           unit: Unit::Word },
    // Below 128 KiB a copy is cheaper than the kernel's work on the page tables.
    Spec { key: Key::RemapMin, name: "remap_min", variable: c"EBBTIDE_REMAP_MIN",
           min: 4096, max: BYTES_MAX, default: 128 << 10, live: true, words: NO_WORDS,
           unit: Unit::Bytes },
    // Long enough that what comes and goes within a second is never returned.
    Spec { key: Key::DecayMs, name: "decay_ms", variable: c"EBBTIDE_DECAY_MS",
           min: 0, max: 3_600_000, default: 1000, live: true, words: NO_WORDS,
           unit: Unit::Milliseconds },
    Spec { key: Key::Retain, name: "retain", variable: c"EBBTIDE_RETAIN",
           min: 0, max: BYTES_MAX, default: 0, live: true, words: NO_WORDS,
           unit: Unit::Bytes },
    Spec { key: Key::RetainMax, name: "retain_max", variable: c"EBBTIDE_RETAIN_MAX",
           min: 0, max: BYTES_MAX, default: 1 << 30, live: true, words: NO_WORDS,
           unit: Unit::Bytes },
    Spec { key: Key::LimitSoft, name: "limit_soft", variable: c"EBBTIDE_LIMIT_SOFT",
           min: 0, max: BYTES_MAX, default: 0, live: true, words: &[("cgroup", CGROUP)],
           unit: Unit::Bytes },
    Spec { key: Key::LimitHard, name: "limit_hard", variable: c"EBBTIDE_LIMIT_HARD",
           min: 0, max: BYTES_MAX, default: 0, live: true, words: NO_WORDS,
           unit: Unit::Bytes },
    // One call that returns 1 MiB takes about 150 µs.
    Spec { key: Key::StepUs, name: "step_us", variable: c"EBBTIDE_STEP_US",
           min: 1, max: 1_000_000, default: 250, live: true, words: NO_WORDS,
           unit: Unit::Microseconds },
    Spec { key: Key::Auto, name: "auto", variable: c"EBBTIDE_AUTO",
           min: 0, max: 1, default: 1, live: true, words: SWITCH,
           unit: Unit::Word },
    Spec { key: Key::History, name: "history", variable: c"EBBTIDE_HISTORY",
           min: 0, max: 1, default: 0, live: true, words: SWITCH,
           unit: Unit::Word },
    Spec { key: Key::Checked, name: "checked", variable: c"EBBTIDE_CHECKED",
           min: 0, max: 2, default: 0, live: false, words: CHECKED,
           unit: Unit::Word },
    // "auto" is not 0, which stands for a field that is not set.
    Spec { key: Key::Background, name: "background", variable: c"EBBTIDE_BACKGROUND",
           min: 0, max: 2, default: AUTO, live: true, words: SWITCH_OR_AUTO,
           unit: Unit::Word },
    Spec { key: Key::Collect, name: "collect", variable: c"EBBTIDE_COLLECT",
           min: 0, max: 2, default: AUTO, live: true, words: SWITCH_OR_AUTO,
           unit: Unit::Word },
];

/// Options that must not lie above a limit, and why: there they would have no effect.
const ORDER: [(Key, Key, &str); 3] = [
    (Key::LimitSoft, Key::LimitHard, "which the heap does not exceed"),
    (Key::Retain, Key::LimitHard, "which the heap does not exceed"),
    (Key::Retain, Key::LimitSoft, "above which no free memory stays"),
];

/// Values that somebody gives for a heap to be made, in the table's order; 0 where none is given.
#[derive(Default)]
pub(crate) struct Given([i64; TABLE.len()]);

impl Given {
    /// Gives a value, which may be 0, and is not what stands for it.
    pub(crate) fn put(&mut self, key: Key, value: i64) -> Result<(), Error> {
        if value == ZERO {
            TABLE[key as usize].in_range(value)?;
        }
        self.0[key as usize] = if value == 0 { ZERO } else { value };
        Ok(())
    }

    pub(crate) fn values(&self) -> &[i64] {
        &self.0
    }
}

/// The values of all options for one heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options([i64; TABLE.len()]);

impl Options {
    /// The defaults.
    pub(crate) const DEFAULT: Options = {
        let mut values = [0; TABLE.len()];
        let mut index = 0;
        while index < TABLE.len() {
            assert!(TABLE[index].key as usize == index);
            values[index] = TABLE[index].default;
            index += 1;
        }
        Options(values)
    };

    /// The values given, in the table's order, [`ZERO`] for 0; where there is none or it is 0, that
    /// of the environment; else the default.
    pub(crate) fn resolve(given: &[i64]) -> Result<Options, Error> {
        environment::warn_once();
        Options::resolve_with(given, environment::value_of).inspect_err(note_refused)
    }

    fn resolve_with<'env>(
        given: &[i64],
        variable: impl Fn(&CStr) -> Option<&'env CStr>,
    ) -> Result<Options, Error> {
        let (known, unknown) = given.split_at(given.len().min(TABLE.len()));
        if unknown.iter().any(|value| *value != 0) {
            return Err(Error::Argument.because(format_args!(
                "ebb_options: fields are set that this version, {}, does not have",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let mut options = Options::DEFAULT;
        let mut names = TABLE.map(|spec| spec.name);
        for (index, spec) in TABLE.iter().enumerate() {
            let value = match known.get(index) {
                Some(&ZERO) => Some(0),
                Some(value) if *value != 0 => Some(*value),
                _ => match variable(spec.variable) {
                    Some(text) => {
                        names[index] = spec.variable_name();
                        Some(spec.parse(names[index], text)?)
                    }
                    None => None,
                },
            };
            if let Some(value) = value {
                options.0[index] = spec.in_range(value)?;
            }
        }
        for key in [Key::LimitSoft, Key::LimitHard] {
            Options::check_limit(key, options.get(key), names[key as usize])?;
        }
        options.check_order(|key| names[key as usize])?;
        Ok(options)
    }

    /// Checks the values of [`ORDER`]. Messages name an option as `called` does.
    fn check_order(&self, called: impl Fn(Key) -> &'static str) -> Result<(), Error> {
        // A limit that is off, or that the cgroup sets, is no number to compare with.
        let is_broken = |(less, limit, _): &&(Key, Key, _)| {
            self.get(*limit) > 0 && self.get(*less) > self.get(*limit)
        };
        let Some(&(less, limit, why)) = ORDER.iter().find(is_broken) else { return Ok(()) };
        Err(Error::Range.because(format_args!(
            "{}={}: is above {}={}, {why}; lower the first or raise the second",
            called(less),
            Value(self.get(less), Unit::Bytes),
            called(limit),
            Value(self.get(limit), Unit::Bytes),
        )))
    }

    pub(crate) fn get(&self, key: Key) -> i64 {
        self.0[key as usize]
    }

    /// A value as a size. Of an option that takes no negative ones.
    pub(crate) fn bytes(&self, key: Key) -> usize {
        self.get(key) as usize
    }

    /// Notes a value that was checked, or that the heap worked out.
    pub(crate) fn put(&mut self, key: Key, value: i64) {
        self.0[key as usize] = value;
    }

    /// Finds an option by name.
    pub(crate) fn key(name: &CStr) -> Result<Key, Error> {
        let found = TABLE.iter().find(|spec| spec.name.as_bytes() == name.to_bytes());
        found.map(|spec| spec.key).ok_or_else(|| {
            let meant = nearest::Meant::of(name.to_bytes(), TABLE.iter().map(|spec| spec.name));
            let name = name.to_bytes().escape_ascii();
            Error::Option.because(format_args!("{name}: there is no such option{meant}"))
        })
    }

    /// The name of an option.
    pub(crate) fn name(key: Key) -> &'static str {
        TABLE[key as usize].name
    }

    /// All options by name, with their values.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = (&'static str, i64)> {
        TABLE.iter().map(|spec| spec.name).zip(self.0)
    }

    /// The value of an option that is given as text: a number, with k, m, g or t behind it, or one
    /// of the option's words.
    pub(crate) fn parse(key: Key, text: &CStr) -> Result<i64, Error> {
        let spec = &TABLE[key as usize];
        spec.parse(spec.name, text)
    }

    /// The value of an option that is given as a floating-point number.
    pub(crate) fn whole(key: Key, number: f64) -> Result<i64, Error> {
        if number.trunc() == number && number.abs() < (1u64 << 53) as f64 {
            return Ok(number as i64);
        }
        let name = TABLE[key as usize].name;
        Err(Error::Range.because(format_args!("{name}: {number} is not a whole number")))
    }

    /// Checks that a limit leaves room for a VM: `100`, meant as megabytes, is 100 bytes. Somebody
    /// gave the value by the name `called`.
    pub(crate) fn check_limit(key: Key, value: i64, called: &str) -> Result<(), Error> {
        let is_limit = matches!(key, Key::LimitSoft | Key::LimitHard);
        if !is_limit || !(1..LIMIT_MIN).contains(&value) {
            return Ok(());
        }
        Err(Error::Range.because(format_args!(
            "{called}={}: too small for a VM: takes 0 for no limit, or {} and more; a number \
             alone counts bytes, and k, m, g and t behind it are powers of 1024",
            Value(value, Unit::Bytes),
            Value(LIMIT_MIN, Unit::Bytes),
        )))
    }

    /// Checks that an option of a heap in use takes a value, beside the values of the others.
    pub(crate) fn check_change(&self, key: Key, value: i64) -> Result<(), Error> {
        let spec = &TABLE[key as usize];
        if !spec.live {
            let name = spec.name;
            return Err(Error::Fixed
                .because(format_args!("{name}: is fixed once the heap is made; set it before")));
        }
        spec.in_range(value)?;
        let mut changed = self.clone();
        changed.put(key, value);
        changed.check_order(Options::name)
    }
}

impl Spec {
    /// The variable's name as text.
    fn variable_name(&self) -> &'static str {
        self.variable.to_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
