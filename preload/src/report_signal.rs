//! The signals on which a program under the preload library can be asked for a report. Shared with
//! the command.

#![forbid(unsafe_code)]

use core::ffi::c_int;

/// By their names: those that programs are sent on purpose, and that do not mean the end.
const NAMES: [(&[u8], c_int); 5] = [
    (b"HUP", libc::SIGHUP),
    (b"USR1", libc::SIGUSR1),
    (b"USR2", libc::SIGUSR2),
    (b"URG", libc::SIGURG),
    (b"WINCH", libc::SIGWINCH),
];
/// By their numbers alone: the real-time signals that the C library leaves to programs. 32 and 33
/// are its own. Of the numbers below, those of the names are taken, too.
const NUMBERS: core::ops::RangeInclusive<c_int> = 34..=64;

/// What a message says of them.
pub(crate) const TAKES: &str = "takes HUP, USR1, USR2, URG or WINCH, the number of one of these, \
                                or a number from 34 to 64, a real-time signal; the other signals \
                                have a meaning for the system";

/// The number of a signal by its name, with or without SIG before it, or by its number.
pub(crate) fn number(text: &[u8]) -> Option<c_int> {
    let name = match text.get(..3) {
        Some(start) if start.eq_ignore_ascii_case(b"SIG") => text.get(3..).unwrap_or_default(),
        _ => text,
    };
    let named = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    named.map(|(_, number)| *number).or_else(|| {
        let number = core::str::from_utf8(text).ok()?.parse().ok()?;
        (NUMBERS.contains(&number) || self::name(number).is_some()).then_some(number)
    })
}

/// The name of a signal that [`number`] knows by one.
pub(crate) fn name(number: c_int) -> Option<&'static [u8]> {
    NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("USR2", Some(libc::SIGUSR2)),
            ("SIGUSR1", Some(libc::SIGUSR1)),
            ("sighup", Some(libc::SIGHUP)),
            ("34", Some(34)),
            ("64", Some(64)),
            ("TERM", None),
            ("KILL", None),
            ("33", None),
            ("12", Some(libc::SIGUSR2)),
            ("28", Some(libc::SIGWINCH)),
            ("9", None),
            ("15", None),
            ("-1", None),
            ("0", None),
            ("", None),
            ("SIG", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text}");
        }
    }
}
