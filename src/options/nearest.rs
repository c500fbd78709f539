//! The names that a wrong name may have meant.

#![forbid(unsafe_code)]

use core::fmt::{self, Display, Formatter};

/// Names longer than this are like no option's.
const LENGTH_MAX: usize = 32;
/// More typing errors than this are another name.
const DISTANCE_MAX: usize = 2;

/// At most two names, equally near. Written, they are the end of a message, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meant<'a> {
    names: [Option<&'a str>; 2],
    prefix: &'static str,
}

impl<'a> Meant<'a> {
    /// The nearest of `names` to a name, in either case of letters.
    pub(super) fn of(wrong: &[u8], names: impl Iterator<Item = &'a str>) -> Meant<'a> {
        let mut best = DISTANCE_MAX + 1;
        let mut meant = [None; 2];
        for name in names {
            let distance = distance(wrong, name.as_bytes());
            if distance < best {
                (best, meant) = (distance, [Some(name), None]);
            } else if distance == best && best <= DISTANCE_MAX && meant[1].is_none() {
                meant[1] = Some(name);
            }
        }
        Meant { names: meant, prefix: "" }
    }

    /// The same names, each written behind a prefix.
    pub(super) fn with_prefix(self, prefix: &'static str) -> Meant<'a> {
        Meant { prefix, ..self }
    }
}

impl Display for Meant<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix;
        match self.names {
            [Some(one), Some(other)] => {
                write!(f, "; did you mean {prefix}{one} or {prefix}{other}?")
            }
            [Some(one), None] => write!(f, "; did you mean {prefix}{one}?"),
            _ => Ok(()),
        }
    }
}

/// How far a name is from an option's: 1 when the words of one are among those of the other, in
/// any order (`DECAY`, `SOFT_LIMIT`, `DECAY_TIME_MS`), otherwise the number of typing errors.
fn distance(wrong: &[u8], name: &[u8]) -> usize {
    if wrong.eq_ignore_ascii_case(name) {
        return 0;
    }
    if wrong.len().max(name.len()) > LENGTH_MAX {
        return usize::MAX;
    }
    if has_words_of(wrong, name) || has_words_of(name, wrong) {
        return 1;
    }
    // A short name is a few typing errors away from every other short name.
    let distance = typing_errors(wrong, name);
    if distance * 3 <= name.len() { distance } else { usize::MAX }
}

fn words(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|byte| matches!(byte, b'_' | b'-'))
}

/// Whether each word of `other` is one of `name`.
fn has_words_of(name: &[u8], other: &[u8]) -> bool {
    words(other).all(|word| words(name).any(|own| own.eq_ignore_ascii_case(word)))
}

/// The number of letters to insert, drop, replace or swap with the next one that turn one name
/// into the other: the optimal string alignment distance. Of names of at most [`LENGTH_MAX`] bytes.
fn typing_errors(one: &[u8], other: &[u8]) -> usize {
    let mut rows = [[0usize; LENGTH_MAX + 1]; 3];
    for (column, value) in rows[0].iter_mut().enumerate() {
        *value = column;
    }
    let same = |i: usize, j: usize| one[i - 1].eq_ignore_ascii_case(&other[j - 1]);
    for i in 1..=one.len() {
        let (this, last, before) = (i % 3, (i + 2) % 3, (i + 1) % 3);
        rows[this][0] = i;
        for j in 1..=other.len() {
            let replaced = rows[last][j - 1] + usize::from(!same(i, j));
            let mut least = replaced.min(rows[last][j] + 1).min(rows[this][j - 1] + 1);
            if i > 1 && j > 1 && same(i, j - 1) && same(i - 1, j) {
                least = least.min(rows[before][j - 2] + 1);
            }
            rows[this][j] = least;
        }
    }
    rows[one.len() % 3][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = ["DECAY_MS", "RETAIN", "LIMIT_SOFT", "LIMIT_HARD", "CHECKED", "AUTO"];

    fn meant(wrong: &str) -> String {
        Meant::of(wrong.as_bytes(), NAMES.into_iter()).to_string()
    }

    #[test]
    fn typing_errors_are_counted() {
        for (one, other, count) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("chekced", "checked", 1),
            ("ca", "abc", 3),
            ("CHEKED", "checked", 1),
        ] {
            assert_eq!(typing_errors(one.as_bytes(), other.as_bytes()), count, "{one} {other}");
        }
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        assert_eq!(meant("DECAY"), "; did you mean DECAY_MS?");
        assert_eq!(meant("decay_ms"), "; did you mean DECAY_MS?");
        assert_eq!(meant("CHEKED"), "; did you mean CHECKED?");
        assert_eq!(meant("SOFT_LIMIT"), "; did you mean LIMIT_SOFT?");
        assert_eq!(meant("LIMIT"), "; did you mean LIMIT_SOFT or LIMIT_HARD?");
        assert_eq!(meant("LIMIT-HRAD"), "; did you mean LIMIT_HARD?");
        assert_eq!(meant("RETAIN_SIZE"), "; did you mean RETAIN?");
    }

    #[test]
    fn a_name_that_is_like_no_other_has_no_suggestion() {
        for wrong in ["", "_", "FOO", "OUT", "VERSION", "BANANA", &"LIMIT_SOFT".repeat(100)] {
            assert_eq!(meant(wrong), "", "{wrong}");
        }
    }
}
