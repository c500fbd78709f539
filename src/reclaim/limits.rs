//! Memory limits: where growth ends, and how near that is.
//!
//! `limit_soft` is a line above which nothing idle stays; `limit_hard` one beyond which the heap
//! does not grow. Both are bytes that the heap holds resident, its tables included. A soft limit
//! taken from the cgroup moves: it is what the heap holds now and what the cgroup has left besides,
//! up to nine tenths of its limit, since the cgroup is shared with all that is not this heap.

#![forbid(unsafe_code)]

use crate::cgroup;
use crate::heap::NO_LIMIT;
use crate::options::{CGROUP, Key, Options};
use crate::os::Os;

/// Microseconds between two readings of the cgroup.
const READ_EVERY_US: u64 = 1_000_000;

/// The limits of one heap, in bytes; [`NO_LIMIT`] where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) soft: usize,
    pub(crate) hard: usize,
    from_cgroup: bool,
    read_again_us: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { soft: NO_LIMIT, hard: NO_LIMIT, from_cgroup: false, read_again_us: 0 }
    }
}

impl Limits {
    /// The limits that options say. One from the cgroup is not there until it is read.
    pub(crate) fn new(options: &Options) -> Limits {
        let bytes = |key| match options.get(key) {
            0 => NO_LIMIT,
            value => usize::try_from(value).unwrap_or(NO_LIMIT),
        };
        Limits {
            soft: bytes(Key::LimitSoft),
            hard: bytes(Key::LimitHard),
            from_cgroup: options.get(Key::LimitSoft) == CGROUP,
            read_again_us: 0,
        }
    }

    /// Whether the options say the same of both.
    pub(crate) fn are_set_as(&self, other: &Limits) -> bool {
        let soft = self.from_cgroup || self.soft == other.soft;
        soft && self.from_cgroup == other.from_cgroup && self.hard == other.hard
    }

    /// Reads the cgroup if it is time to, for a heap that holds `resident` bytes.
    pub(crate) fn refresh(&mut self, os: &impl Os, now_us: u64, resident: usize) {
        if !self.from_cgroup || now_us < self.read_again_us {
            return;
        }
        self.read_again_us = now_us + READ_EVERY_US;
        self.soft = match cgroup::memory(os) {
            Some(memory) => share_of_heap(&memory, resident),
            None => NO_LIMIT,
        };
    }

    /// Where growth is stopped first.
    pub(crate) fn growth_limit(&self) -> usize {
        self.soft.min(self.hard)
    }

    /// How near the first limit is, from 0 while no more than half of it is held to 100 when all of
    /// it is. `held` is what is not free.
    pub(crate) fn pressure(&self, held: usize) -> u32 {
        let limit = self.growth_limit();
        if limit == NO_LIMIT {
            return 0;
        }
        let half = limit / 2;
        let above = held.saturating_sub(half) as u128;
        (above * 100 / (limit - half).max(1) as u128).min(100) as u32
    }
}

fn share_of_heap(memory: &cgroup::CgroupMemory, resident: usize) -> usize {
    let allowed = memory.limit / 10 * 9;
    let share = (resident as u64).saturating_add(allowed).saturating_sub(memory.used);
    usize::try_from(share).unwrap_or(NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_from_half_of_the_limit() {
        let pressure = |held| Limits { soft: 1000, ..Limits::default() }.pressure(held);
        assert_eq!([0, 500, 505, 750, 1000, 5000].map(pressure), [0, 0, 1, 50, 100, 100]);
        assert_eq!(Limits::default().pressure(1 << 40), 0);
        assert_eq!(Limits { hard: 1, ..Limits::default() }.pressure(5), 100);
    }

    #[test]
    fn what_the_cgroup_leaves_is_no_setting() {
        let cgroup = Limits { from_cgroup: true, ..Limits::default() };
        let hard = Limits { hard: 7, ..Limits::default() };
        assert!(cgroup.are_set_as(&Limits { soft: 5, ..cgroup }));
        assert!(hard.are_set_as(&hard));
        for other in [cgroup, hard, Limits { soft: 5, ..Limits::default() }] {
            assert!(!other.are_set_as(&Limits::default()) && !Limits::default().are_set_as(&other));
        }
    }

    #[test]
    fn growth_ends_at_the_first_limit() {
        assert_eq!(Limits { soft: 5, hard: 3, ..Limits::default() }.growth_limit(), 3);
        assert_eq!(Limits { soft: 5, ..Limits::default() }.growth_limit(), 5);
        assert_eq!(Limits::default().growth_limit(), NO_LIMIT);
    }

    #[test]
    fn a_heap_may_take_what_the_cgroup_has_left() {
        let share = |used| share_of_heap(&cgroup::CgroupMemory { limit: 1000, used }, 200);
        assert_eq!([200, 700, 900, 1100, 5000].map(share), [900, 400, 200, 0, 0]);
    }
}
