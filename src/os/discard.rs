//! Gives memory back to the kernel, by whichever call the process may make.
//!
//! ```text
//! several ranges  process_madvise, where the kernel takes a list (Linux 6.14 and later)
//! each range      madvise
//!                   refused: is it the range (locked memory), or the call?
//!                   the call: process_madvise, then mremap, then mmap
//! ```
//!
//! A sandbox (seccomp) may refuse `madvise` and nothing else, or other calls too: a call that is
//! refused is a way that does not work. Whether it refuses `madvise` shows an advice for no bytes,
//! which no kernel refuses. A range that is refused for its own sake stays as it is: locked memory
//! is locked because the program wants it so.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::kernel::{keep_mapped, map_fresh, map_over};
use super::{MemoryRange, Purged};

/// Whether the kernel may know how to discard several ranges at once: Linux 6.14 and later.
static BATCHES: AtomicBool = AtomicBool::new(true);

/// Whether pages that were moved away can be unmapped.
static MOVES: AtomicBool = AtomicBool::new(true);

/// "This process", where a pidfd is asked for.
const PIDFD_SELF: libc::c_int = -10000;

/// How many more ranges may become fresh mappings. Each can split a mapping in three, and a process
/// may have 65,530: a quarter of these at most.
static FRESH_LEFT: AtomicU32 = AtomicU32::new(8192);

fn last_errno() -> i32 {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() }
}

/// Discards ranges, in their order, up to the first that the kernel refuses.
///
/// # Safety
///
/// As for [`Os::purge`](super::Os::purge), and for each function below.
pub(super) unsafe fn discard(ranges: &[MemoryRange]) -> Purged {
    let mut purged = Purged { ranges: 0, calls: 0, errno: 0 };
    if ranges.len() > 1 && BATCHES.load(Relaxed) {
        // SAFETY: the caller's promise.
        purged = unsafe { discard_at_once(ranges, libc::MADV_DONTNEED) }.unwrap_or(purged);
    }
    // What stopped a batch says why when it is asked for by itself.
    for range in &ranges[purged.ranges..] {
        // SAFETY: the caller's promise.
        if let Err(errno) = unsafe { discard_one(*range, &mut purged.calls) } {
            purged.errno = errno;
            break;
        }
        purged.ranges += 1;
    }
    purged
}

/// Discards one range. The `errno` when the kernel refuses; counts the calls.
///
/// # Safety
///
/// See [`discard`].
unsafe fn discard_one(range: MemoryRange, calls: &mut u64) -> Result<(), i32> {
    *calls += 1;
    // SAFETY: the caller's promise.
    unsafe {
        if libc::madvise(range.start.cast(), range.bytes, libc::MADV_DONTNEED) == 0 {
            return Ok(());
        }
        let errno = last_errno();
        if may_advise(libc::MADV_DONTNEED) {
            return Err(errno);
        }
        for way in [discard_by_list, discard_by_moving, discard_by_mapping] {
            *calls += 1;
            let is_discarded = way(range);
            if is_discarded {
                return Ok(());
            }
        }
        Err(errno)
    }
}

/// Whether the process may make this advice at all: then it is the range that is refused.
fn may_advise(advice: libc::c_int) -> bool {
    // SAFETY: an advice for no bytes changes nothing.
    unsafe { libc::madvise(ptr::null_mut(), 0, advice) == 0 }
}

/// Advises by madvise, or by process_madvise where that is refused. The first `errno`.
///
/// # Safety
///
/// The advice is one that the range can bear.
pub(super) unsafe fn advise(range: MemoryRange, advice: libc::c_int) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    unsafe {
        if libc::madvise(range.start.cast(), range.bytes, advice) == 0 {
            return Ok(());
        }
        let errno = last_errno();
        let by_list = BATCHES.load(Relaxed) && !may_advise(advice);
        match by_list.then(|| discard_at_once(&[range], advice)).flatten() {
            Some(Purged { ranges: 1, .. }) => Ok(()),
            _ => Err(errno),
        }
    }
}

/// # Safety
///
/// See [`discard`].
unsafe fn discard_by_list(range: MemoryRange) -> bool {
    // SAFETY: the caller's promise.
    let purged = BATCHES
        .load(Relaxed)
        .then(|| unsafe { discard_at_once(&[range], libc::MADV_DONTNEED) })
        .flatten();
    purged.is_some_and(|purged| purged.ranges == 1)
}

/// Moves the pages away and unmaps them there. The range stays the mapping that it was, with all
/// that was set for it, such as that it takes no huge pages. Linux 5.7 and later; a range of one
/// mapping only.
///
/// Where `munmap` is refused, too, the pages come back, and another way follows. If they cannot
/// come back, an inaccessible mapping replaces them where they are: that costs address space, once,
/// for this way is not taken again.
///
/// # Safety
///
/// See [`discard`].
unsafe fn discard_by_moving(range: MemoryRange) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let MemoryRange { start, bytes } = range;
    if !MOVES.load(Relaxed) {
        return false;
    }
    // SAFETY: the caller's promise: nothing in the pages is of value. The kernel chooses where they
    // go, so that they replace nothing, and nobody else knows of them there. Back they replace the
    // empty range alone.
    unsafe {
        let moved = libc::mremap(start.cast(), bytes, bytes, flags, ptr::null_mut::<u8>());
        if moved == libc::MAP_FAILED {
            return false;
        }
        if libc::munmap(moved, bytes) == 0 {
            return true;
        }
        MOVES.store(false, Relaxed);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        if libc::mremap(moved, bytes, bytes, flags, start.cast::<u8>()) != libc::MAP_FAILED {
            return false;
        }
        let is_whole = keep_mapped(start, bytes, || map_fresh(start, bytes));
        let is_discarded = map_over(moved.cast(), bytes) && is_whole;
        if !is_discarded {
            // The pages stay in memory, and the heap counts them in the range. A mapping over the
            // range would count them as gone.
            FRESH_LEFT.store(0, Relaxed);
        }
        is_discarded
    }
}

/// Maps fresh memory over the range, as a mapping of its own where its neighbours are not alike.
///
/// # Safety
///
/// See [`discard`].
unsafe fn discard_by_mapping(range: MemoryRange) -> bool {
    let MemoryRange { start, bytes } = range;
    if FRESH_LEFT.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
        return false;
    }
    // SAFETY: the caller's promise.
    unsafe { map_fresh(start, bytes) }
}

/// Advises on ranges in one call. To discard them takes one flush of the processor's translations
/// for all: three times as fast as one call each where holes are single pages. `None`: the kernel
/// cannot, or refuses the first.
///
/// # Safety
///
/// See [`discard`] and [`advise`].
unsafe fn discard_at_once(ranges: &[MemoryRange], advice: libc::c_int) -> Option<Purged> {
    let flags = 0u32;
    let (list, count) = (ranges.as_ptr(), ranges.len());
    // SAFETY: the caller's promise; a MemoryRange is laid out as an iovec.
    let bytes =
        unsafe { libc::syscall(libc::SYS_process_madvise, PIDFD_SELF, list, count, advice, flags) };
    let Ok(mut bytes) = usize::try_from(bytes) else {
        let unknown = [libc::ENOSYS, libc::EBADF, libc::EPERM].contains(&last_errno());
        BATCHES.fetch_and(!unknown, Relaxed);
        return None;
    };
    // The kernel counts what it discarded up to the first range that it refused.
    let covered = |range: &MemoryRange| {
        let whole = range.bytes <= bytes;
        bytes = bytes.saturating_sub(range.bytes);
        whole
    };
    let done = ranges.iter().map(covered).position(|whole| !whole).unwrap_or(count);
    Some(Purged { ranges: done, calls: 1, errno: 0 })
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::TestPages;
    use super::*;

    /// Discards ranges in a call each.
    unsafe fn one_by_one(
        ranges: &[MemoryRange],
        way: unsafe fn(MemoryRange) -> bool,
    ) -> Option<Purged> {
        // SAFETY: the caller's promise.
        let done = ranges.iter().filter(|range| unsafe { way(**range) }).count();
        (done > 0).then_some(Purged { ranges: done, calls: ranges.len() as u64, errno: 0 })
    }

    #[test]
    fn ranges_go_back_in_every_way() {
        type Discard = unsafe fn(&[MemoryRange]) -> Option<Purged>;
        // SAFETY: all are called with pages that hold nothing of value.
        let ways: [(Discard, u64, bool); 5] = unsafe {
            [
                (|ranges| discard_at_once(ranges, libc::MADV_DONTNEED), 1, false),
                (|ranges| one_by_one(ranges, |range| discard(&[range]).ranges == 1), 3, true),
                (|ranges| one_by_one(ranges, discard_by_list), 3, false),
                (|ranges| one_by_one(ranges, discard_by_moving), 3, false),
                (|ranges| one_by_one(ranges, discard_by_mapping), 3, true),
            ]
        };
        for (discard, calls, is_sure) in ways {
            let memory = TestPages::new();
            let ranges = [memory.range(1, 1), memory.range(4, 3), memory.range(9, 1)];
            // SAFETY: the pages hold nothing of value.
            match unsafe { discard(&ranges) } {
                Some(purged) => {
                    assert_eq!(purged, Purged { ranges: 3, calls, errno: 0 });
                    assert_eq!(memory.zeroed(), [1, 4, 5, 6, 9]);
                }
                // A kernel before 6.14, or before 5.7, or valgrind.
                None => assert!(!is_sure),
            }
        }
    }
}
