//! How much address space a heap takes, so that ten thousand fit into one process and the rest of
//! it never starves.
//!
//! Under a limit (`RLIMIT_AS`) a heap reserves nothing. It plans a range as long as the limit, for
//! each heap may be the one that needs all there is, and maps of that what it uses. Heaps that are
//! many plan shorter ranges, of which all would fit into an eighth of the address space.
//!
//! Without a limit all heaps of a process together keep to a budget: an eighth of the address
//! space. Each new heap takes a share of what is left of the budget, and the share shrinks as heaps
//! become many:
//!
//! ```text
//! share = left / (2 + 4 × live heaps), at most 64 GiB, down to a power of two
//! ```
//!
//! The first 50 heaps get 64 GiB each, the 10,000th still gets 64 MiB. Where a kernel maps nothing
//! at a planned place, the budget is half the limit. An explicit `reserve` is reserved in any case,
//! and not held to the share.

#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::heap::{Layout, sanitizer};
use crate::options::{Key, Options, RESERVE_MIN};
use crate::os::ADDRESS_LIMIT;
use crate::units::{round_down, round_up};

/// What one heap gets at most.
const SHARE_MAX: usize = 64 << 30;

/// Up to this many heaps lie at random addresses, which costs the kernel page tables for each, and
/// have guard pages, which are mappings of the 65,530 that a process may have.
const FEW: usize = 256;

/// Bytes reserved by all heaps of the process. Only a hint for the next share: threads that make
/// heaps at once may each see it a little late.
static RESERVED: AtomicUsize = AtomicUsize::new(0);
/// Heaps alive in the process.
static HEAPS: AtomicUsize = AtomicUsize::new(0);

/// A range of addresses for a heap, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heap) enum Reservation {
    Reserved(usize),
    /// With what is to be reserved where no plan can be carried out.
    Planned(usize, usize),
}

impl Reservation {
    /// Bytes to reserve, if the range is to be reserved.
    pub(in crate::heap) fn to_reserve(self) -> usize {
        match self {
            Reservation::Reserved(bytes) | Reservation::Planned(_, bytes) => bytes,
        }
    }
}

/// The range that the next heap should have in a process with this much address space.
pub(in crate::heap) fn wanted(
    address_space: usize,
    options: &Options,
    kernel_page: usize,
) -> Reservation {
    let reserve = options.bytes(Key::Reserve);
    if reserve > 0 {
        return Reservation::Reserved(round_up(reserve, kernel_page));
    }
    let share = share(budget(address_space), RESERVED.load(Relaxed), HEAPS.load(Relaxed));
    // A tool that looks for memory bugs learns a heap's range once, when the heap is made.
    if address_space >= ADDRESS_LIMIT || sanitizer::is_there() {
        return Reservation::Reserved(share);
    }
    let longest = longest_plan(HEAPS.load(Relaxed));
    Reservation::Planned(round_down(address_space.clamp(RESERVE_MIN, longest), kernel_page), share)
}

/// The longest range that one more heap plans.
fn longest_plan(heaps: usize) -> usize {
    let longest = (ADDRESS_LIMIT / 8 / (heaps + 1)).clamp(RESERVE_MIN, SHARE_MAX);
    1 << longest.ilog2()
}

/// Whether heaps are so few that one more may cost the kernel some memory of its own.
pub(in crate::heap) fn are_few() -> bool {
    HEAPS.load(Relaxed) < FEW
}

/// Notes that a heap was made.
pub(in crate::heap) fn note_made(layout: &Layout) {
    RESERVED.fetch_add(reserved(layout), Relaxed);
    HEAPS.fetch_add(1, Relaxed);
}

/// Notes that a heap was deleted.
pub(in crate::heap) fn note_deleted(layout: &Layout) {
    RESERVED.fetch_sub(reserved(layout), Relaxed);
    HEAPS.fetch_sub(1, Relaxed);
}

fn reserved(layout: &Layout) -> usize {
    if layout.is_planned { 0 } else { layout.bytes }
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
    fn a_limit_on_address_space_makes_a_plan_as_long() {
        let wanted = |space| wanted(space, &Options::DEFAULT, 4096);
        for space in [1 << 20, 1 << 30, (3 << 30) + 4096, SHARE_MAX] {
            assert!(matches!(wanted(space), Reservation::Planned(bytes, _) if bytes == space));
        }
        assert!(
            matches!(wanted((1 << 30) + 4095), Reservation::Planned(bytes, _) if bytes == 1 << 30)
        );
        assert!(matches!(wanted(SHARE_MAX * 9), Reservation::Planned(SHARE_MAX, _)));
        assert!(matches!(wanted(ADDRESS_LIMIT), Reservation::Reserved(_)));
        let options = Options::resolve(&[8 << 20]).expect("good options");
        assert_eq!(super::wanted(1 << 30, &options, 4096), Reservation::Reserved(8 << 20));
    }

    #[test]
    fn heaps_that_are_many_plan_shorter_ranges() {
        assert_eq!(longest_plan(0), SHARE_MAX);
        assert_eq!(longest_plan(255), SHARE_MAX);
        for heaps in [256, 2000, 10_000, 100_000] {
            let longest = longest_plan(heaps);
            assert!(longest * (heaps + 1) <= ADDRESS_LIMIT / 8, "{heaps}: {longest}");
            assert!(longest * (heaps + 1) > ADDRESS_LIMIT / 32, "{heaps}: {longest}");
        }
        assert_eq!(longest_plan(usize::MAX / 2), RESERVE_MIN);
    }

    #[test]
    fn a_limit_leaves_room_for_the_rest_where_it_must_be_reserved() {
        assert_eq!(reserve_in_turn(2 << 30, 1).1, 512 << 20);
        let (reserved, last) = reserve_in_turn(2 << 30, 20);
        assert!(reserved <= 1 << 30, "{reserved}");
        assert!(last >= RESERVE_MIN, "{last}");
    }
}
