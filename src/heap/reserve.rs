//! How much address space a heap takes, so that ten thousand fit into one process and the rest of
//! it never starves.
//!
//! All heaps of a process together keep to a budget: an eighth of the address space, or half of it
//! where a limit (`RLIMIT_AS`) makes it small. Each new heap takes a share of what is left of the
//! budget, and the share shrinks as heaps become many:
//!
//! ```text
//! share = left / (2 + 4 × live heaps), at most 64 GiB, down to a power of two
//! ```
//!
//! With 47 bits the first 50 heaps get 64 GiB each, the 10,000th still gets 64 MiB; under a limit
//! of 2 GiB the first gets 512 MiB. An explicit `reserve` is not held to the share.

#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::options::{Key, Options, RESERVE_MIN};
use crate::os::ADDRESS_LIMIT;
use crate::units::round_up;

/// What one heap gets at most.
const SHARE_MAX: usize = 64 << 30;

/// So many heaps may each cost the kernel page tables of its own, to lie at random, and mappings of
/// the 65,530 that a process may have, for guards.
const FEW: usize = 256;

/// Bytes reserved by all heaps of the process. Only a hint for the next share: threads that make
/// heaps at once may each see it a little late.
static RESERVED: AtomicUsize = AtomicUsize::new(0);
/// Heaps alive in the process.
static HEAPS: AtomicUsize = AtomicUsize::new(0);

/// What the next heap should reserve in a process with this much address space.
pub(super) fn wanted(address_space: usize, options: &Options, kernel_page: usize) -> usize {
    match options.bytes(Key::Reserve) {
        0 => share(budget(address_space), RESERVED.load(Relaxed), HEAPS.load(Relaxed)),
        bytes => round_up(bytes, kernel_page),
    }
}

/// Whether heaps are so few that one more may cost the kernel some memory of its own.
pub(super) fn are_few() -> bool {
    HEAPS.load(Relaxed) < FEW
}

/// Notes that a heap was made.
pub(super) fn note_made(bytes: usize) {
    RESERVED.fetch_add(bytes, Relaxed);
    HEAPS.fetch_add(1, Relaxed);
}

/// Notes that a heap was deleted.
pub(super) fn note_deleted(bytes: usize) {
    RESERVED.fetch_sub(bytes, Relaxed);
    HEAPS.fetch_sub(1, Relaxed);
}

fn budget(address_space: usize) -> usize {
    if address_space >= ADDRESS_LIMIT { ADDRESS_LIMIT / 8 } else { address_space / 2 }
}

fn share(budget: usize, reserved: usize, heaps: usize) -> usize {
    let left = budget.saturating_sub(reserved);
    let share = (left / (2 + 4 * heaps)).clamp(RESERVE_MIN, SHARE_MAX);
    1 << share.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `count` heaps reserve in all, and what the last one gets.
    fn reserve_in_turn(address_space: usize, count: usize) -> (usize, usize) {
        let budget = budget(address_space);
        (0..count).fold((0, 0), |(reserved, _), heaps| {
            let next = share(budget, reserved, heaps);
            (reserved + next, next)
        })
    }

    #[test]
    fn the_first_heaps_get_all_they_could_want() {
        assert_eq!(reserve_in_turn(ADDRESS_LIMIT, 50).1, SHARE_MAX);
    }

    #[test]
    fn ten_thousand_heaps_fit_into_an_eighth() {
        let (reserved, last) = reserve_in_turn(ADDRESS_LIMIT, 10_000);
        assert!(reserved <= ADDRESS_LIMIT / 8, "{reserved}");
        assert!(last >= 64 << 20, "the last one gets {last}");
    }

    #[test]
    fn a_limit_on_address_space_leaves_room_for_the_rest() {
        assert_eq!(reserve_in_turn(2 << 30, 1).1, 512 << 20);
        let (reserved, last) = reserve_in_turn(2 << 30, 20);
        assert!(reserved <= 1 << 30, "{reserved}");
        assert!(last >= RESERVE_MIN, "{last}");
    }
}
