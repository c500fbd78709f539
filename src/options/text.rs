//! Option values read from text, and values and ranges written into a message.
//!
//! Every message begins with the name that the caller used and ends with what [`Spec::takes`]
//! writes, so that all interfaces give one range in one form.

#![forbid(unsafe_code)]

use core::ffi::CStr;
use core::fmt::{self, Display, Formatter};

use super::{CGROUP, Key, LIMIT_MIN, Spec, Unit};
use crate::error::Error;

/// Powers of 1024 by their suffix, the largest first.
const SUFFIXES: [(char, u32); 4] = [('t', 40), ('g', 30), ('m', 20), ('k', 10)];

/// A number as people write it: a size with its suffix where that is exact.
pub(super) struct Value(pub(super) i64, pub(super) Unit);

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Value(number, unit) = *self;
        let exact = |(_, shift): &&(char, u32)| number > 0 && number % (1 << shift) == 0;
        match SUFFIXES.iter().find(exact).filter(|_| unit == Unit::Bytes) {
            Some((suffix, shift)) => write!(f, "{}{suffix}", number >> shift),
            None => write!(f, "{number}"),
        }
    }
}

/// The numbers that an option takes, with the unit of the last one.
struct Range<'a>(&'a Spec);

impl Display for Range<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Spec { max, unit, .. } = *self.0;
        let min = if self.0.is_limit() { LIMIT_MIN } else { self.0.min };
        let symbol = match unit {
            Unit::Bytes | Unit::Word => "",
            Unit::Milliseconds => " ms",
            Unit::Microseconds => " us",
        };
        write!(f, "from {} to {}{symbol}", Value(min, unit), Value(max, unit))
    }
}

/// The words that an option takes: "off, on or sample".
struct Words<'a>(&'a [(&'static str, i64)]);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (word, _)) in self.0.iter().enumerate() {
            let before = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{before}{word}")?;
        }
        Ok(())
    }
}

/// What an option takes, as the end of a message.
struct Takes<'a>(&'a Spec);

impl Display for Takes<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Takes(spec) = self;
        if spec.unit == Unit::Word {
            return write!(f, "takes {}", Words(spec.words));
        }
        let zero = spec.zero_apart();
        write!(f, "takes {zero}a number {}", Range(spec))?;
        if !spec.words.is_empty() {
            write!(f, " or {}", Words(spec.words))?;
        }
        if spec.unit == Unit::Bytes {
            write!(f, "; k, m, g and t behind it are powers of 1024")?;
        }
        Ok(())
    }
}

impl Spec {
    /// What the option takes, in words and units.
    pub(super) fn takes(&self) -> impl Display + '_ {
        Takes(self)
    }

    fn is_limit(&self) -> bool {
        matches!(self.key, Key::LimitSoft | Key::LimitHard)
    }

    /// The words for a 0 that lies apart from the range: no limit.
    fn zero_apart(&self) -> &'static str {
        if self.is_limit() { "0, or " } else { "" }
    }

    /// Checks a number that somebody gave.
    pub(super) fn in_range(&self, value: i64) -> Result<i64, Error> {
        if (self.min..=self.max).contains(&value) || self.words.iter().any(|word| word.1 == value) {
            return Ok(value);
        }
        let Spec { name, unit, .. } = *self;
        let value = Value(value, unit);
        let or = if self.words.iter().any(|word| word.1 == CGROUP) { " or cgroup" } else { "" };
        let (zero, range) = (self.zero_apart(), Range(self));
        Err(Error::Range.because(format_args!("{name}: {value} is not {zero}{range}{or}")))
    }

    /// Reads a value that somebody gave as text under a name.
    pub(super) fn parse(&self, called: &str, text: &CStr) -> Result<i64, Error> {
        let named = self.words.iter().find(|(word, _)| word.as_bytes() == text.to_bytes());
        if let Some((_, value)) = named {
            return Ok(*value);
        }
        let number = parse_size(text.to_bytes());
        number.filter(|value| (self.min..=self.max).contains(value)).ok_or_else(|| {
            let takes = self.takes();
            let meant = self.word_meant_by(text.to_bytes());
            let say = if meant.is_some() { "; say " } else { "" };
            let (text, meant) = (text.to_bytes().escape_ascii(), meant.unwrap_or_default());
            Error::Range.because(format_args!("{called}={text}: {takes}{say}{meant}"))
        })
    }

    /// The option's own word for a word that other programs use, or for one in other letters.
    fn word_meant_by(&self, text: &[u8]) -> Option<&'static str> {
        const ON: [&str; 5] = ["true", "yes", "y", "enable", "enabled"];
        const OFF: [&str; 6] = ["false", "no", "n", "none", "disable", "disabled"];
        let is = |word: &&str| word.as_bytes().eq_ignore_ascii_case(text);
        let meant = |value: i64| self.words.iter().find(|word| word.1 == value).map(|word| word.0);
        let own = self.words.iter().map(|(word, _)| *word).find(is);
        let usual = || match self.unit {
            Unit::Word if ON.iter().any(is) => meant(1),
            Unit::Word if OFF.iter().any(is) => meant(0),
            _ => None,
        };
        own.or_else(usual)
    }
}

/// A whole number, with k, m, g or t for powers of 1024 behind it.
fn parse_size(text: &[u8]) -> Option<i64> {
    let (last, all_but_last) = text.split_last()?;
    let suffix = SUFFIXES.iter().find(|(suffix, _)| *suffix == last.to_ascii_lowercase() as char);
    let (digits, shift) = suffix.map_or((text, 0), |(_, shift)| (all_but_last, *shift));
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0i64, |number, digit| {
        let digit = (*digit as char).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::last_text;
    use crate::options::{Key, TABLE};

    #[test]
    fn sizes_are_numbers_with_a_power_of_1024() {
        for (text, value) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("4k", Some(4096)),
            ("4K", Some(4096)),
            ("2g", Some(2 << 30)),
            ("8388607t", Some(8388607 << 40)),
            ("8388608t", None),
            ("9223372036854775808", None),
            ("", None),
            ("k", None),
            ("-1", None),
            ("+1", None),
            (" 1", None),
            ("1.5g", None),
            ("1gb", None),
            ("banana", None),
        ] {
            assert_eq!(parse_size(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_written_with_the_suffix_that_is_exact() {
        let text = |value| Value(value, Unit::Bytes).to_string();
        assert_eq!([0, 1, 1024, 1025, 3 << 20].map(text), ["0", "1", "1k", "1025", "3m"]);
        assert_eq!([5 << 30, 8 << 40, -2, i64::MAX - 1023].map(text)[..3], ["5g", "8t", "-2"]);
        assert_eq!(Value(1 << 20, Unit::Milliseconds).to_string(), "1048576");
    }

    #[test]
    fn what_an_option_takes_is_said_in_its_unit() {
        let takes = |key: Key| TABLE[key as usize].takes().to_string();
        const SOFT: &str = "takes 0, or a number from 512k to 8t or cgroup; \
                            k, m, g and t behind it are powers of 1024";
        let sizes = "; k, m, g and t behind it are powers of 1024";
        assert_eq!(takes(Key::Reserve), format!("takes a number from 1m to 8t{sizes}"));
        assert_eq!(takes(Key::LimitSoft), SOFT);
        assert_eq!(takes(Key::LimitHard), format!("takes 0, or a number from 512k to 8t{sizes}"));
        assert_eq!(takes(Key::DecayMs), "takes a number from 0 to 3600000 ms");
        assert_eq!(takes(Key::StepUs), "takes a number from 1 to 1000000 us");
        assert_eq!(takes(Key::Auto), "takes off or on");
        assert_eq!(takes(Key::Checked), "takes off, on or sample");
    }

    #[test]
    fn words_of_other_programs_are_refused_with_ours() {
        let says = |key: Key, text: &CStr| {
            assert_eq!(TABLE[key as usize].parse("NAME", text), Err(Error::Range));
            last_text()
        };
        assert_eq!(says(Key::Auto, c"true"), "NAME=true: takes off or on; say on");
        assert_eq!(says(Key::Auto, c"No"), "NAME=No: takes off or on; say off");
        assert_eq!(
            says(Key::Checked, c"SAMPLE"),
            "NAME=SAMPLE: takes off, on or sample; say sample"
        );
        assert_eq!(says(Key::Auto, c"maybe"), "NAME=maybe: takes off or on");
        assert!(says(Key::LimitSoft, c"CGROUP").ends_with("; say cgroup"), "{}", last_text());
        assert!(says(Key::Retain, c"true").ends_with("1024"), "{}", last_text());
        assert!(says(Key::Retain, c"\x1b\xff").starts_with(r"NAME=\x1b\xff: "), "{}", last_text());
        assert_eq!(TABLE[Key::Auto as usize].parse("NAME", c"1"), Ok(1));
    }
}
