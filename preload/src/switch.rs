//! The switches among the variables of the preload library. Shared with the command.

#![forbid(unsafe_code)]

/// What a message says of them.
pub(crate) const TAKES: &str = "takes off or on";

/// Whether a value means on; none if a switch does not take that value.
pub(crate) fn is_on(value: &[u8]) -> Option<bool> {
    match value {
        b"on" | b"1" => Some(true),
        b"off" | b"0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_what_those_of_a_heap_take() {
        for (value, expected) in [
            ("on", Some(true)),
            ("1", Some(true)),
            ("off", Some(false)),
            ("0", Some(false)),
            ("no", None),
            ("maybe", None),
            ("2", None),
            ("ON", None),
        ] {
            assert_eq!(is_on(value.as_bytes()), expected, "{value}");
        }
    }
}
