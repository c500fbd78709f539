//! What the kernel counts as a process's memory, and bytes in words. A MB is 2^20 bytes throughout.
#![forbid(unsafe_code)]

use std::time::Duration;

/// The memory of a process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Since the process was started.
    pub at: Duration,
    /// Resident bytes.
    pub rss: u64,
    /// Resident bytes, shared ones divided by how many share them.
    pub pss: u64,
}

impl Sample {
    /// Looks at a process; nothing when it has gone.
    pub fn take(process_id: u32, at: Duration) -> Option<Sample> {
        let text = std::fs::read_to_string(format!("/proc/{process_id}/smaps_rollup")).ok()?;
        Some(Sample { at, rss: field(&text, "Rss")?, pss: field(&text, "Pss")? })
    }
}

/// One line of `smaps_rollup`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes in MB.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// Bytes in MB with one digit after the point.
pub fn in_megabytes(bytes: u64) -> String {
    format!("{:.1}", megabytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLUP: &str = "5555-7fff ---p 00000000 00:00 0    [rollup]\n\
                          Rss:               12792 kB\nPss:               11852 kB\n\
                          Pss_Dirty:         10992 kB\nShared_Clean:       1024 kB\n";

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field(ROLLUP, "Rss"), Some(12792 * 1024));
        assert_eq!(field(ROLLUP, "Pss"), Some(11852 * 1024));
        assert_eq!(field(ROLLUP, "Swap"), None);
        assert_eq!(field("Rss: many kB\n", "Rss"), None);
        assert_eq!(field("", "Rss"), None);
    }

    #[test]
    fn this_process_has_memory() {
        let sample = Sample::take(std::process::id(), Duration::ZERO).expect("/proc is mounted");
        assert!(sample.rss >= sample.pss && sample.pss > 0);
    }

    #[test]
    fn megabytes_are_binary() {
        assert_eq!(in_megabytes(3 << 19), "1.5");
    }
}
