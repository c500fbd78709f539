//! When the garbage of a VM is collected: pure decisions, by the rules of the nginx module.

#![forbid(unsafe_code)]

/// How long a VM is quiet before its garbage is collected, in microseconds.
const QUIET_US: u64 = 1_000_000;

/// A VM is quiet while no more bytes than these, and than this part of what it holds, come or go.
const NOISE: u64 = 64 << 10;
const NOISE_SHARE: u64 = 64;

/// Garbage can come without an allocation: a cache that is let go. So a VM that did anything since
/// its last collection is collected again after this many times [`QUIET_US`], and while that finds
/// nothing, after twice as long each time, up to the most.
const AGAIN: u64 = 10;
const AGAIN_MOST: u64 = 600;

/// What is to be done for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A step of the collector.
    Collect,
    /// A step that returns what the collector has freed.
    Return,
    /// Nothing, for this many microseconds.
    In(u64),
    /// Nothing, unless the VM is used.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The VM is at work, or was within the last second.
    Busy,
    Collecting,
    Returning,
    /// All garbage is collected and returned.
    Settled,
}

/// The schedule of one VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CollectSchedule {
    phase: Phase,
    /// Bytes that the collector counted when the VM was last active, and when that was.
    quiet_bytes: u64,
    active_us: u64,
    /// Bytes at the beginning and at the end of the last collection, and when the collection ended.
    begun_bytes: u64,
    collected_bytes: u64,
    collected_us: u64,
    /// How long after a collection the next one may come; `None`: never.
    patience_us: Option<u64>,
    /// The last collection was not whole.
    is_partial: bool,
}

impl CollectSchedule {
    /// Of a VM that the process has made.
    pub(crate) fn new(now_us: u64, bytes: u64) -> CollectSchedule {
        CollectSchedule {
            phase: Phase::Busy,
            quiet_bytes: bytes,
            active_us: now_us,
            begun_bytes: bytes,
            collected_bytes: bytes,
            collected_us: now_us,
            patience_us: Some(AGAIN * QUIET_US),
            is_partial: false,
        }
    }

    /// Of a VM from before a fork: its pages are shared with the parent until it is used.
    pub(crate) fn inherited(now_us: u64, bytes: u64) -> CollectSchedule {
        CollectSchedule {
            phase: Phase::Settled,
            patience_us: None,
            ..CollectSchedule::new(now_us, bytes)
        }
    }

    /// What is to be done now that the collector counts these bytes.
    pub(crate) fn decide(&mut self, now_us: u64, bytes: u64) -> Due {
        if bytes.abs_diff(self.quiet_bytes) > noise(self.quiet_bytes) {
            self.quiet_bytes = bytes;
            self.active_us = now_us;
            self.patience_us = Some(AGAIN * QUIET_US);
            self.phase = Phase::Busy;
        }
        match self.phase {
            Phase::Busy => match QUIET_US.checked_sub(now_us.saturating_sub(self.active_us)) {
                None | Some(0) => self.begin(bytes),
                Some(left_us) => Due::In(left_us),
            },
            Phase::Collecting => Due::Collect,
            Phase::Returning => Due::Return,
            Phase::Settled => self.decide_settled(now_us, bytes),
        }
    }

    fn decide_settled(&mut self, now_us: u64, bytes: u64) -> Due {
        // Where they are equal nothing has run.
        let Some(patience_us) = self.patience_us.filter(|_| bytes != self.collected_bytes) else {
            return Due::Never;
        };
        match patience_us.checked_sub(now_us.saturating_sub(self.collected_us)) {
            None | Some(0) => {
                self.patience_us = Some((2 * patience_us).min(AGAIN_MOST * QUIET_US));
                self.begin(bytes)
            }
            Some(left_us) => Due::In(left_us),
        }
    }

    fn begin(&mut self, bytes: u64) -> Due {
        self.phase = Phase::Collecting;
        self.begun_bytes = bytes;
        Due::Collect
    }

    /// A step of the collector was made, and the collector counts these bytes now.
    pub(crate) fn note_step(&mut self, bytes: u64) {
        self.quiet_bytes = bytes;
    }

    /// The last step was. `is_whole`: all garbage is collected.
    pub(crate) fn note_collected(&mut self, now_us: u64, bytes: u64, is_whole: bool) {
        // Where there was garbage, there may soon be more.
        if self.begun_bytes > bytes + noise(bytes) {
            self.patience_us = Some(AGAIN * QUIET_US);
        }
        self.quiet_bytes = bytes;
        self.collected_bytes = bytes;
        self.collected_us = now_us;
        self.is_partial = !is_whole;
        self.phase = Phase::Returning;
    }

    /// All that was freed is returned. A collection that was not whole is tried again when the VM
    /// was quiet once more.
    pub(crate) fn note_returned(&mut self, now_us: u64) {
        self.phase = Phase::Settled;
        if self.is_partial {
            self.phase = Phase::Busy;
            self.active_us = now_us;
        }
    }
}

/// How many bytes may come or go in a VM that is quiet.
fn noise(bytes: u64) -> u64 {
    NOISE + bytes / NOISE_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;
    const MB: u64 = 1 << 20;

    /// A VM with garbage, quiet for long enough.
    fn collecting() -> CollectSchedule {
        let mut schedule = CollectSchedule::new(0, 100 * MB);
        assert_eq!(schedule.decide(S, 100 * MB), Due::Collect);
        schedule
    }

    #[test]
    fn a_vm_is_collected_when_it_was_quiet_for_a_second() {
        let mut schedule = CollectSchedule::new(0, MB);
        assert_eq!(schedule.decide(S - 1, MB), Due::In(1));
        assert_eq!(schedule.decide(S, 2 * MB), Due::In(S), "it was active");
        let quiet = 2 * MB + noise(2 * MB);
        assert_eq!(schedule.decide(2 * S - 1, quiet), Due::In(1), "noise is quiet");
        assert_eq!(schedule.decide(2 * S, quiet), Due::Collect);
    }

    #[test]
    fn activity_ends_a_collection_and_its_own_steps_are_none() {
        let mut schedule = collecting();
        schedule.note_step(50 * MB);
        assert_eq!(schedule.decide(S, 50 * MB), Due::Collect);
        assert_eq!(schedule.decide(S, 60 * MB), Due::In(S));
        assert_eq!(schedule.decide(S, 10 * MB), Due::In(S), "memory that goes is activity too");
    }

    #[test]
    fn what_was_freed_is_returned_and_then_it_rests() {
        let mut schedule = collecting();
        schedule.note_collected(2 * S, MB, true);
        assert_eq!(schedule.decide(2 * S, MB), Due::Return);
        schedule.note_returned(2 * S);
        assert_eq!(schedule.decide(3 * S, MB), Due::Never);
        assert_eq!(schedule.decide(90 * S, MB), Due::Never);
    }

    #[test]
    fn a_collection_that_was_not_whole_is_tried_again_after_a_second() {
        let mut schedule = collecting();
        schedule.note_collected(2 * S, 99 * MB, false);
        assert_eq!(schedule.decide(2 * S, 99 * MB), Due::Return);
        schedule.note_returned(2 * S);
        assert_eq!(schedule.decide(2 * S, 99 * MB), Due::In(S));
        assert_eq!(schedule.decide(3 * S, 99 * MB), Due::Collect);
    }

    #[test]
    fn a_little_that_has_run_is_collected_more_and_more_rarely() {
        let mut schedule = collecting();
        let (mut now, mut waits) = (2 * S, Vec::new());
        for bytes in 1..=9 {
            schedule.note_collected(now, MB + bytes, true);
            schedule.note_returned(now);
            let Due::In(left) = schedule.decide(now, MB + bytes + 1) else { panic!("due") };
            waits.push(left / S);
            now += left;
            assert_eq!(schedule.decide(now, MB + bytes + 1), Due::Collect);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    }

    #[test]
    fn what_was_inherited_is_left_alone_until_it_is_used() {
        let mut schedule = CollectSchedule::inherited(0, 100 * MB);
        assert_eq!(schedule.decide(900 * S, 100 * MB + 50), Due::Never);
        assert_eq!(schedule.decide(900 * S, 110 * MB), Due::In(S));
        assert_eq!(schedule.decide(901 * S, 110 * MB), Due::Collect);
    }
}
