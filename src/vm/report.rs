//! What watched VMs tell about their memory: when they are closed, when the process ends, and in
//! between when somebody asks.

#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::figures::{self, LastSeen, Trouble};
use crate::log;

/// Whether VMs are reported when they are closed.
static REPORTS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Has each VM reported when it is closed.
pub(crate) fn enable_closed_reports() {
    REPORTS_CLOSED.store(true, Ordering::Relaxed);
}

/// Reports what each open watched VM was last seen to hold. Returns how many there are.
/// Signal handlers may.
pub(crate) fn report_open() -> u32 {
    let mut count = 0;
    figures::each(|number, held| {
        log_vm(number, "open", held);
        count += 1;
    });
    count
}

/// Reports a VM that is being closed, if that is wanted.
pub(super) fn report_closed(number: u64, last_seen: LastSeen) {
    if REPORTS_CLOSED.load(Ordering::Relaxed) {
        log_vm(number, "closed", last_seen);
    }
}

fn log_vm(number: u64, state: &str, last_seen: LastSeen) {
    let LastSeen { live, resident, resident_peak, returned_total, trouble, .. } = last_seen;
    log::line(format_args!(
        "VM {number} {state}: live {}, resident {}, at most {}; gave back {}{trouble}",
        Megabytes(live),
        Megabytes(resident),
        Megabytes(resident_peak),
        Megabytes(returned_total),
    ));
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.refused > 0 {
            write!(f, "; refused {} allocations", self.refused)?;
        }
        if self.refused_address_space > 0 {
            write!(f, ", {} for RLIMIT_AS", self.refused_address_space)?;
        }
        if self.thrashing > 0 {
            f.write_str("; thrashing at its limit")?;
        }
        if self.purge_errno > 0 {
            write!(f, "; the kernel takes nothing back (errno {})", self.purge_errno)?;
        }
        Ok(())
    }
}

/// Bytes, written in MB with one digit behind the point. Without floating point, whose formatting
/// takes more of a signal handler's stack.
struct Megabytes(u64);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (u128::from(self.0) * 10 + (1 << 19)) >> 20;
        write!(f, "{}.{} MB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_where_there_is_some() {
        assert_eq!(Trouble::default().to_string(), "");
        let all = Trouble { refused: 12, refused_address_space: 9, thrashing: 1, purge_errno: 1 };
        let text = "; refused 12 allocations, 9 for RLIMIT_AS; thrashing at its limit; \
                    the kernel takes nothing back (errno 1)";
        assert_eq!(all.to_string(), text);
    }

    #[test]
    fn megabytes_are_rounded_to_a_tenth() {
        for (bytes, text) in [
            (0, "0.0 MB"),
            (52_428, "0.0 MB"),
            (52_429, "0.1 MB"),
            (1 << 20, "1.0 MB"),
            ((1 << 20) * 3 / 2, "1.5 MB"),
            ((10 << 20) - 1, "10.0 MB"),
            (u64::MAX, "17592186044416.0 MB"),
        ] {
            assert_eq!(Megabytes(bytes).to_string(), text);
        }
    }
}
