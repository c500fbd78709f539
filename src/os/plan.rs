//! Ranges of addresses that are planned, and mapped piece by piece.
//!
//! A planned range is no reservation: the kernel knows nothing of it. It maps nothing there
//! unasked, since the range lies far from where the kernel looks for room. So what is mapped can
//! be extended at both ends, unless somebody else has asked for just these addresses.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::kernel::{FRESH, PLACES};

/// Where the planned ranges of the process begin, as bits that nobody can guess; 0: not known yet.
static ORIGIN: AtomicU64 = AtomicU64::new(0);
/// The ranges that were planned one behind the other.
static PLANNED: AtomicUsize = AtomicUsize::new(0);

/// The planned range of a number, among all of one length. Ranges of one length are whole steps
/// apart, so that two of them are the same or have nothing in common: what is mapped in one is in
/// no other's way.
fn planned(bytes: usize, origin: u64, number: usize, page: usize) -> Option<usize> {
    // One range less, for the first begins anywhere in a step.
    let count = (PLACES.len() / bytes).checked_sub(1).filter(|count| *count > 0)?;
    let first = origin as usize % (bytes / page) * page;
    let step = ((origin >> 32) as usize).wrapping_add(number) % count;
    Some(PLACES.start + first + step * bytes)
}

/// The next range of so many bytes: at random, or behind the range before. `random` is bits that
/// nobody can guess; without them the ranges are the same in each process.
pub(super) fn next(bytes: usize, at_random: bool, random: u64, page: usize) -> Option<usize> {
    let origin = match ORIGIN.compare_exchange(0, random.max(1), Relaxed, Relaxed) {
        Ok(_) => random.max(1),
        Err(known) => known,
    };
    let number = match at_random && random != 0 {
        true => random as usize,
        false => PLANNED.fetch_add(1, Relaxed),
    };
    planned(bytes, origin, number, page)
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

    #[test]
    fn planned_ranges_are_the_same_or_apart() {
        let page = Kernel.page_size();
        for bytes in [1 << 20, (1 << 30) + 5 * page, 64 << 30] {
            for origin in [1, 0x1234_5678_9ABC_DEF0, u64::MAX] {
                let numbers = (0..50).chain((0..50).map(|number| usize::MAX / 50 * number));
                let starts: Vec<usize> = numbers
                    .map(|number| planned(bytes, origin, number, page).expect("a range"))
                    .collect();
                for (index, start) in starts.iter().enumerate() {
                    assert_eq!(start % page, 0);
                    assert!(PLACES.contains(start) && PLACES.contains(&(start + bytes - 1)));
                    let apart = |other: &usize| match other.abs_diff(*start) {
                        0 => true,
                        distance => distance >= bytes,
                    };
                    assert!(starts[..index].iter().all(apart), "{bytes}: {starts:x?}");
                }
                assert!((0..49).all(|at| starts[at] != starts[at + 1]), "{bytes}: {starts:x?}");
            }
        }
        assert_eq!(planned(PLACES.len(), 1, 0, page), None);
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
        }
        assert_eq!(is_mapped(at, 5 * page), Some(false));
    }
}
