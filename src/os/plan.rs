//! Ranges of addresses that are planned, and mapped piece by piece.
//!
//! A planned range is no reservation: the kernel knows nothing of it. It maps nothing there
//! unasked, since the range lies far from where the kernel looks for room. So what is mapped can
//! be extended at both ends, unless somebody else has asked for just these addresses.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::kernel::{FRESH, RANDOM_RANGE};

/// Bytes of a cell. No plan is longer.
const CELL: usize = 64 << 30;
/// Cells in [`RANDOM_RANGE`], wherever in the first 64 GiB the first one begins.
const CELLS: usize = (RANDOM_RANGE.end - RANDOM_RANGE.start) / CELL - 1;
/// Bits of a cell's word that are the length of its plans, in kernel pages. Those above count the
/// plans.
const LENGTH_BITS: u32 = 40;

/// Where the first cell of the process begins, as bits that nobody can guess; 0: not known yet.
static ORIGIN: AtomicU64 = AtomicU64::new(0);
/// The ranges that were planned one behind the other.
static PLANNED: AtomicUsize = AtomicUsize::new(0);
/// What is planned in the process.
static PLANS: Plans = Plans([const { AtomicU64::new(0) }; CELLS]);

/// The cells: how many plans each has, and how long these are. 0: none.
///
/// All plans in a cell have one length, and lie at multiples of that length. So two plans are at
/// the same place or have nothing in common, whatever the lengths of plans are. Two plans at the
/// same place have the same parts, so the first mapping of the second one finds the place taken.
struct Plans([AtomicU64; CELLS]);

impl Plans {
    /// Counts one more plan of a length in a cell. False: the plans that are there have another
    /// one.
    fn enter(&self, cell: usize, pages: u64) -> bool {
        let more = |word: u64| {
            let fits = word == 0 || word % (1 << LENGTH_BITS) == pages;
            fits.then_some((word | pages) + (1 << LENGTH_BITS))
        };
        self.0[cell].fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Counts one plan less in a cell.
    fn leave(&self, cell: usize) {
        let less = |word: u64| {
            let left = (word >> LENGTH_BITS).saturating_sub(1);
            Some(if left == 0 { 0 } else { word - (1 << LENGTH_BITS) })
        };
        let _ = self.0[cell].fetch_update(Relaxed, Relaxed, less);
    }

    /// The range of a number, in the first cell from its own on that has plans of this length, or
    /// none. The length is in whole pages.
    fn place(&self, bytes: usize, origin: u64, number: usize, page: usize) -> Option<usize> {
        let in_cell = CELL.checked_div(bytes).filter(|in_cell| *in_cell > 0)?;
        let own = ((origin >> 32) as usize).wrapping_add(number / in_cell);
        let mut cells = (0..CELLS).map(|further| own.wrapping_add(further) % CELLS);
        let cell = cells.find(|cell| self.enter(*cell, (bytes / page) as u64))?;
        Some(first_cell(origin, page) + cell * CELL + number % in_cell * bytes)
    }

    /// Ends the plan of a range that starts at an address.
    fn end(&self, start: usize, origin: u64, page: usize) {
        let cell = start.saturating_sub(first_cell(origin, page)) / CELL;
        self.leave(cell.min(CELLS - 1));
    }
}

/// Where the first cell begins.
fn first_cell(origin: u64, page: usize) -> usize {
    RANDOM_RANGE.start + origin as usize % (CELL / page) * page
}

/// The next range of `bytes`: at random, or behind the range before. `random` is bits that nobody
/// can guess; without them the ranges are the same in each process.
pub(super) fn next(bytes: usize, at_random: bool, random: u64, page: usize) -> Option<usize> {
    let origin = match ORIGIN.compare_exchange(0, random.max(1), Relaxed, Relaxed) {
        Ok(_) => random.max(1),
        Err(known) => known,
    };
    let number = match at_random && random != 0 {
        true => random as usize,
        false => PLANNED.fetch_add(1, Relaxed),
    };
    PLANS.place(bytes, origin, number, page)
}

/// Ends the plan of a range that starts at an address: others may have its place.
pub(super) fn end(start: usize, page: usize) {
    PLANS.end(start, ORIGIN.load(Relaxed), page);
}

/// Maps addresses, readable and writable. False: some of them are taken, or the kernel gives none.
///
/// # Safety
///
/// As for [`Os::map`](super::Os::map).
pub(super) unsafe fn map(start: *mut u8, bytes: usize) -> bool {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = FRESH | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: the flag has the kernel replace nothing. A kernel before 4.17 takes the address for a
    // hint: what it maps elsewhere nobody knows of.
    unsafe {
        let at = libc::mmap(start.cast(), bytes, access, flags, -1, 0);
        if at == libc::MAP_FAILED || at == start.cast() {
            return at == start.cast();
        }
        libc::munmap(at, bytes);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::is_mapped;
    use super::super::{Kernel, Os};
    use super::*;

    fn none() -> Plans {
        Plans([const { AtomicU64::new(0) }; CELLS])
    }

    /// Numbers one behind the other, and far apart.
    fn numbers() -> impl Iterator<Item = usize> {
        (0..50).chain((0..50).map(|number| usize::MAX / 50 * number))
    }

    #[test]
    fn plans_of_any_lengths_are_the_same_or_apart() {
        let page = Kernel.page_size();
        let lengths = [1 << 20, 64 << 30, (1 << 30) + 5 * page, 1 << 30, 3 << 30, (1 << 20) + page];
        for origin in [1, 0x1234_5678_9ABC_DEF0, u64::MAX] {
            let plans = none();
            let mut ranges: Vec<(usize, usize)> = Vec::new();
            for number in numbers() {
                for bytes in lengths {
                    let start = plans.place(bytes, origin, number, page).expect("a range");
                    assert_eq!(start % page, 0);
                    assert!(
                        RANDOM_RANGE.contains(&start)
                            && RANDOM_RANGE.contains(&(start + bytes - 1))
                    );
                    let is_apart = |(other, length): &(usize, usize)| {
                        let is_same = start == *other && bytes == *length;
                        is_same || start >= other + length || *other >= start + bytes
                    };
                    assert!(ranges.iter().all(is_apart), "{start:x}, {bytes}: {ranges:x?}");
                    ranges.push((start, bytes));
                }
            }
            assert_eq!(plans.place(CELL + 1, origin, 0, page), None);
            assert_eq!(plans.place(usize::MAX, origin, 0, page), None);
            for (start, _) in ranges {
                plans.end(start, origin, page);
            }
            assert!(plans.0.iter().all(|cell| cell.load(Relaxed) == 0), "all cells are free again");
        }
    }

    #[test]
    fn neighbours_lie_apart_and_cells_serve_others_once_they_are_empty() {
        let (plans, page) = (none(), Kernel.page_size());
        let start = |bytes: usize, number: usize| plans.place(bytes, 1, number, page);
        let behind = |number: usize| start(1 << 30, number).zip(start(1 << 30, number + 1));
        assert!((0..200).all(|number| behind(number).is_some_and(|(one, next)| one != next)));
        // Every cell is taken by plans of 64 GiB, or by those.
        let most: Vec<usize> = (0..CELLS).map_while(|number| start(CELL, number)).collect();
        assert_eq!(start(1 << 20, 0), None);
        most.iter().for_each(|start| plans.end(*start, 1, page));
        assert!(start(1 << 20, 0).is_some());
    }

    #[test]
    fn mapping_takes_free_addresses_only() {
        let page = Kernel.page_size();
        // Where another test has a heap the next place does.
        let mapped = (0..100).find_map(|_| {
            let at = Kernel.plan(1 << 30, true).expect("a range");
            // SAFETY: the range was planned.
            unsafe { Kernel.map(at, 4 * page) }.then_some(at)
        });
        let at = mapped.expect("a place");
        // SAFETY: the range was planned; what is mapped of it is not used again.
        unsafe {
            at.write(1);
            assert!(!Kernel.map(at, 4 * page), "all of it is taken");
            assert!(!Kernel.map(at.wrapping_add(3 * page), 2 * page), "one of two is taken");
            assert_eq!(*at, 1, "nothing was replaced");
            assert_eq!(is_mapped(at.wrapping_add(4 * page), page), Some(false));
            assert!(Kernel.map(at.wrapping_add(4 * page), page));
            at.wrapping_add(5 * page - 1).write(1);
            Kernel.release(at, 5 * page);
            Kernel.unplan(at);
        }
        assert_eq!(is_mapped(at, 5 * page), Some(false));
    }
}
