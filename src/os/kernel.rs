//! The real system calls, for Linux.
//!
//! A sandbox may refuse `munmap`. Address space then stays taken: each reservation that is released
//! stays as an inaccessible mapping without memory. Its memory goes back by another way, and stays
//! only where the sandbox refuses all of them: `mmap`, `madvise`, `process_madvise` and `mremap`.

use core::ffi::CStr;
use core::ops::Range;
use core::ptr;

use super::discard::{advise, discard};
use super::{ADDRESS_LIMIT, MemoryRange, Os, Purged, file, plan};
use crate::bug::bug;

/// The kernel this process runs on.
#[derive(Clone, Copy)]
pub(crate) struct Kernel;

pub(super) const FRESH: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Runs system calls and puts `errno` back: callers of the allocator do not expect it to change.
pub(super) fn preserve_errno<T>(calls: impl FnOnce() -> T) -> T {
    // SAFETY: the location is this thread's own and valid for its life, here and below.
    let saved = unsafe { libc::__errno_location().read() };
    let result = calls();
    // SAFETY: as above.
    unsafe { libc::__errno_location().write(saved) };
    result
}

/// Maps inaccessible memory at `hint` or wherever the kernel likes.
fn map_inaccessible(hint: *mut u8, bytes: usize) -> Option<*mut u8> {
    // SAFETY: without MAP_FIXED a new mapping replaces nothing.
    let at = unsafe { libc::mmap(hint.cast(), bytes, libc::PROT_NONE, FRESH, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at.cast())
}

fn fits(at: *mut u8, bytes: usize) -> bool {
    at.addr().checked_add(bytes).is_some_and(|end| end <= ADDRESS_LIMIT)
}

/// Kernels with more than 47 bits of user addresses may place a mapping too high; a hint brings it
/// down. Tried from high to low, where programs map least.
fn map_below_limit(bytes: usize) -> Option<*mut u8> {
    const HINTS: u32 = 32;
    let spacing = ADDRESS_LIMIT / (HINTS as usize + 1);
    (1..=HINTS as usize).rev().find_map(|step| {
        let at = map_inaccessible(ptr::without_provenance_mut(step * spacing), bytes)?;
        if fits(at, bytes) {
            return Some(at);
        }
        // SAFETY: this mapping was made just now and nobody else knows of it.
        unsafe { libc::munmap(at.cast(), bytes) };
        None
    })
}

/// Where reservations and plans are placed at random: below all programs, and above what some
/// runtimes expect to find empty.
pub(super) const PLACES: Range<usize> = ADDRESS_LIMIT / 8..ADDRESS_LIMIT / 8 * 5;

impl Kernel {
    /// An address that nobody can guess. Null where the kernel should choose.
    fn place_for(&self, bytes: usize) -> *mut u8 {
        let places = PLACES.len().saturating_sub(bytes) / self.page_size();
        let random = self.random() as usize;
        if places == 0 || random == 0 {
            return ptr::null_mut();
        }
        ptr::without_provenance_mut(PLACES.start + random % places * self.page_size())
    }
}

impl Os for Kernel {
    fn page_size(&self) -> usize {
        // SAFETY: sysconf has no preconditions.
        let size = preserve_errno(|| unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
        usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
    }

    fn address_space(&self) -> usize {
        let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: 0 };
        // SAFETY: `limit` is writable.
        preserve_errno(|| unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) });
        usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX).min(ADDRESS_LIMIT)
    }

    fn reserve(&self, bytes: usize, at_random: bool) -> Option<*mut u8> {
        let hint = if at_random { self.place_for(bytes) } else { ptr::null_mut() };
        preserve_errno(|| {
            let at = map_inaccessible(hint, bytes)?;
            if fits(at, bytes) {
                return Some(at);
            }
            // SAFETY: this mapping was made just now and nobody else knows of it.
            unsafe { libc::munmap(at.cast(), bytes) };
            map_below_limit(bytes)
        })
    }

    fn plan(&self, bytes: usize, at_random: bool) -> Option<*mut u8> {
        let at = plan::next(bytes, at_random, self.random(), self.page_size());
        at.map(ptr::with_exposed_provenance_mut)
    }

    fn unplan(&self, start: *mut u8) {
        plan::end(start.addr(), self.page_size());
    }

    unsafe fn map(&self, start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the caller's promise.
        preserve_errno(|| unsafe { plan::map(start, bytes) })
    }

    unsafe fn release(&self, start: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise: nobody uses the range.
        preserve_errno(|| unsafe {
            if libc::munmap(start.cast(), bytes) != 0 && !map_over(start, bytes) {
                discard(&[MemoryRange { start, bytes }]);
            }
        });
    }

    unsafe fn unmap(&self, start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the caller's promise.
        preserve_errno(|| unsafe { libc::munmap(start.cast(), bytes) == 0 })
    }

    unsafe fn commit(&self, start: *mut u8, bytes: usize) -> bool {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the caller's promise; access is only added.
        preserve_errno(|| unsafe { libc::mprotect(start.cast(), bytes, access) == 0 })
    }

    unsafe fn decommit(&self, start: *mut u8, bytes: usize) -> bool {
        preserve_errno(|| {
            // SAFETY: the caller's promise.
            unsafe {
                let is_done = map_over(start, bytes);
                // Refusal costs a mapping of its own, nothing else.
                let _ = is_done && self.set_huge_pages(start, bytes, false);
                is_done
            }
        })
    }

    unsafe fn protect(&self, start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the caller's promise; contents stay.
        preserve_errno(|| unsafe { libc::mprotect(start.cast(), bytes, libc::PROT_NONE) == 0 })
    }

    unsafe fn purge(&self, ranges: &[MemoryRange]) -> Purged {
        // SAFETY: the caller's promise.
        preserve_errno(|| unsafe { discard(ranges) })
    }

    unsafe fn move_pages(
        &self,
        from: *mut u8,
        to: *mut u8,
        bytes: usize,
        huge_pages: bool,
    ) -> bool {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        preserve_errno(|| {
            // SAFETY: the caller's promise; DONTUNMAP leaves `from` mapped and empty.
            let moved = unsafe { libc::mremap(from.cast(), bytes, bytes, flags, to.cast::<u8>()) };
            if moved != libc::MAP_FAILED {
                return true;
            }
            // SAFETY: the caller's promise: the target holds nothing of value.
            unsafe { keep_mapped(to, bytes, || self.remap_fresh(to, bytes, huge_pages)) };
            false
        })
    }

    unsafe fn remap_fresh(&self, start: *mut u8, bytes: usize, huge_pages: bool) -> bool {
        preserve_errno(|| {
            // SAFETY: the caller's promise.
            unsafe {
                let renewed = map_fresh(start, bytes);
                // Refusal costs a mapping of its own, nothing else.
                let _ = renewed && self.set_huge_pages(start, bytes, huge_pages);
                renewed
            }
        })
    }

    fn random(&self) -> u64 {
        const ASK: libc::c_ulong = 0xFFFF_FFFF;
        let mut bits = 0u64;
        let bytes = size_of_val(&bits);
        // SAFETY: asked so, the personality changes nothing; all of `bits` is writable.
        let (personality, got) = preserve_errno(|| unsafe {
            let into = (&raw mut bits).cast();
            (libc::personality(ASK), libc::getrandom(into, bytes, libc::GRND_NONBLOCK))
        });
        let is_fixed = personality & libc::ADDR_NO_RANDOMIZE != 0;
        if got == bytes as isize && !is_fixed { bits } else { 0 }
    }

    unsafe fn guard(&self, start: *mut u8, bytes: usize, may_split: bool) -> bool {
        preserve_errno(|| {
            // SAFETY: the caller's promise.
            unsafe {
                libc::madvise(start.cast(), bytes, GUARD_INSTALL) == 0
                    || may_split && libc::mprotect(start.cast(), bytes, libc::PROT_NONE) == 0
            }
        })
    }

    unsafe fn set_huge_pages(&self, start: *mut u8, bytes: usize, wanted: bool) -> bool {
        let advice = if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        preserve_errno(|| {
            // SAFETY: the advice changes no contents.
            match unsafe { advise(MemoryRange { start, bytes }, advice) } {
                Ok(()) => true,
                // A kernel built without huge pages knows neither advice: there are none to forbid.
                Err(errno) => !wanted && errno == libc::EINVAL,
            }
        })
    }

    fn resident(&self, start: *mut u8, bytes: usize) -> Option<u64> {
        count_resident(start, bytes).ok()
    }

    fn residency(&self, start: *mut u8, flags: &mut [u8]) -> bool {
        flag_resident(start, flags).is_ok()
    }

    fn read_file(&self, path: &CStr, buffer: &mut [u8]) -> Option<usize> {
        file::read(path, buffer).ok()
    }

    fn read_in_parts(&self, path: &CStr, visit: &mut dyn FnMut(&[u8])) -> Result<(), i32> {
        file::read_in_parts(path, visit)
    }

    fn now_us(&self) -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is writable.
        preserve_errno(|| unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) });
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
    }

    fn order_threads(&self) -> bool {
        // A processor of the x86 family has its accesses in the order of the program, but that a
        // read may come before an earlier write.
        cfg!(target_arch = "x86_64") || interrupt_threads()
    }

    fn has_background(&self) -> bool {
        true
    }
}

/// Interrupts the running threads of the process. What each did before its interrupt, this thread
/// sees afterwards, and what this thread did before, each sees after its interrupt. False: the
/// kernel cannot.
pub(crate) fn interrupt_threads() -> bool {
    const REGISTER: libc::c_int = 16;
    const ORDER: libc::c_int = 8;
    preserve_errno(|| {
        // SAFETY: the call takes two numbers and changes no memory.
        let membarrier =
            |command: libc::c_int| unsafe { libc::syscall(libc::SYS_membarrier, command, 0) };
        membarrier(ORDER) == 0 || membarrier(REGISTER) == 0 && membarrier(ORDER) == 0
    })
}

/// Whether every page of a range is part of some mapping. `None`: the kernel has no time to look.
pub(super) fn is_mapped(start: *mut u8, bytes: usize) -> Option<bool> {
    match count_resident(start, bytes) {
        Ok(_) => Some(true),
        Err(errno) => (errno == libc::ENOMEM).then_some(false),
    }
}

/// Bytes of a range that the kernel holds. The `errno` when it will not say.
fn count_resident(start: *mut u8, bytes: usize) -> Result<u64, i32> {
    let page = Kernel.page_size();
    let mut flags = [0u8; 4096];
    let mut resident = 0;
    for offset in (0..bytes).step_by(flags.len() * page) {
        let window = &mut flags[..((bytes - offset) / page).min(4096)];
        flag_resident(start.wrapping_add(offset), window)?;
        let here: usize = window.iter().map(|flag| usize::from(*flag)).sum();
        resident += (here * page) as u64;
    }
    Ok(resident)
}

/// Sets a flag to 1 for each page that the kernel holds. The `errno` when it will not say.
fn flag_resident(start: *mut u8, flags: &mut [u8]) -> Result<(), i32> {
    let bytes = flags.len() * Kernel.page_size();
    preserve_errno(|| {
        // SAFETY: mincore writes one byte per page of the range: exactly the flags; errno's
        // location is this thread's own.
        let (done, errno) = unsafe {
            let done = libc::mincore(start.cast(), bytes, flags.as_mut_ptr());
            (done, *libc::__errno_location())
        };
        // The other bits may mean something one day.
        flags.iter_mut().for_each(|flag| *flag &= 1);
        if done == 0 { Ok(()) } else { Err(errno) }
    })
}

/// madvise: pages that are there for nobody, in the midst of a mapping. Linux 6.13 and later.
const GUARD_INSTALL: libc::c_int = 102;

/// Maps fresh writable memory over a range, in place of what was there.
///
/// # Safety
///
/// As for [`Os::remap_fresh`].
pub(super) unsafe fn map_fresh(at: *mut u8, bytes: usize) -> bool {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller's promise: whatever MAP_FIXED replaces holds nothing of value.
    let mapped = unsafe { libc::mmap(at.cast(), bytes, access, FRESH | libc::MAP_FIXED, -1, 0) };
    mapped != libc::MAP_FAILED
}

/// Takes the memory behind a range away: an inaccessible mapping without memory comes in its place.
///
/// # Safety
///
/// Nobody uses the range.
pub(super) unsafe fn map_over(at: *mut u8, bytes: usize) -> bool {
    let flags = FRESH | libc::MAP_FIXED;
    // SAFETY: the caller's promise; what is mapped replaces the range alone.
    let mapped = unsafe { libc::mmap(at.cast(), bytes, libc::PROT_NONE, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

/// Sees to it that a range is mapped still, to which the kernel has refused to move pages: it may
/// unmap the target before it finds a reason to refuse. `remap_fresh` maps the range afresh.
/// Whether the range is mapped; false where the kernel has no time to look, and refuses to map.
/// Where the range is known to be gone and the kernel gives no other, the process stops: a live
/// heap has a hole.
///
/// # Safety
///
/// The range is the caller's and holds nothing of value.
pub(super) unsafe fn keep_mapped(
    at: *mut u8,
    bytes: usize,
    remap_fresh: impl FnOnce() -> bool,
) -> bool {
    let mapped = is_mapped(at, bytes);
    let is_whole = mapped == Some(true) || remap_fresh();
    if !is_whole && mapped == Some(false) {
        bug!(
            "{at:p}: mremap was refused after it had unmapped {bytes} bytes of a heap, and mmap \
             was refused there: the heap cannot go on"
        );
    }
    is_whole
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const PAGES: usize = 16;

    /// A few committed pages, filled with ones.
    pub(in crate::os) struct TestPages(*mut u8);

    impl TestPages {
        pub(in crate::os) fn new() -> TestPages {
            let at = Kernel.reserve(TestPages::bytes(), false).expect("address space");
            // SAFETY: reserved just now, and committed before it is written.
            unsafe {
                assert!(Kernel.commit(at, TestPages::bytes()));
                at.write_bytes(1, TestPages::bytes());
            }
            TestPages(at)
        }

        pub(in crate::os) fn bytes() -> usize {
            PAGES * Kernel.page_size()
        }

        fn page(&self, index: usize) -> *mut u8 {
            self.0.wrapping_add(index * Kernel.page_size())
        }

        /// Which pages read as zero.
        pub(in crate::os) fn zeroed(&self) -> Vec<usize> {
            // SAFETY: all pages are committed.
            (0..PAGES).filter(|index| unsafe { *self.page(*index) } == 0).collect()
        }

        pub(in crate::os) fn range(&self, first: usize, count: usize) -> MemoryRange {
            MemoryRange { start: self.page(first), bytes: count * Kernel.page_size() }
        }
    }

    impl Drop for TestPages {
        fn drop(&mut self) {
            // SAFETY: a whole reservation that is not used again.
            unsafe { Kernel.release(self.0, TestPages::bytes()) }
        }
    }

    fn errno() -> i32 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }

    #[test]
    fn a_refused_range_stops_a_purge_there() {
        let memory = TestPages::new();
        let nowhere = MemoryRange { start: ptr::without_provenance_mut(1), bytes: 4096 };
        // SAFETY: the pages hold nothing of value, and nothing is mapped at address 1.
        let purged = unsafe { Kernel.purge(&[memory.range(2, 1), nowhere, memory.range(5, 1)]) };
        assert_eq!((purged.ranges, purged.errno), (1, libc::EINVAL));
        assert_eq!(memory.zeroed(), [2]);
    }

    /// Whether this kernel moves pages and leaves the range that they were in mapped: Linux does
    /// from 5.7 on, valgrind does not. By calls of the test's own.
    fn kernel_moves_pages() -> bool {
        let bytes = Kernel.page_size();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: both mappings are made here and used nowhere else.
        unsafe {
            let [from, to] =
                [(); 2].map(|()| libc::mmap(ptr::null_mut(), bytes, access, FRESH, -1, 0));
            assert!(from != libc::MAP_FAILED && to != libc::MAP_FAILED);
            let moved = libc::mremap(from, bytes, bytes, flags, to);
            libc::munmap(from, bytes);
            libc::munmap(to, bytes);
            moved == to
        }
    }

    #[test]
    fn pages_move_with_their_contents() {
        let memory = TestPages::new();
        // SAFETY: the ranges are committed and apart; the target holds nothing of value.
        unsafe {
            memory.page(2).write(7);
            let bytes = 3 * Kernel.page_size();
            let moved = Kernel.move_pages(memory.page(2), memory.page(8), bytes, false);
            assert_eq!(moved, kernel_moves_pages(), "pages move where the kernel can");
            if moved {
                assert_eq!(*memory.page(8), 7);
                assert_eq!(memory.zeroed(), [2, 3, 4]);
                assert!(Kernel.remap_fresh(memory.page(8), bytes, false));
                assert_eq!(memory.zeroed(), [2, 3, 4, 8, 9, 10]);
            } else {
                assert_eq!(*memory.page(2), 7);
            }
        }
    }

    #[test]
    fn a_hint_brings_a_reservation_below_the_limit() {
        let bytes = 1 << 30;
        let at = map_below_limit(bytes).expect("address space");
        assert!(fits(at, bytes) && !fits(at, ADDRESS_LIMIT));
        // SAFETY: mapped just now.
        unsafe { Kernel.release(at, bytes) };
    }

    #[test]
    fn reservations_lie_where_nobody_can_guess() {
        let bytes = 2 << 30;
        let places: Vec<*mut u8> = (0..4).map(|_| Kernel.place_for(bytes)).collect();
        for (index, at) in places.iter().enumerate() {
            assert!(PLACES.contains(&at.addr()) && PLACES.contains(&(at.addr() + bytes)));
            assert_eq!(at.addr() % Kernel.page_size(), 0);
            assert!(!places[..index].contains(at), "{places:?}");
        }
        assert!(Kernel.place_for(PLACES.len()).is_null(), "there is but one place");
        // Where another test has a heap the kernel chooses a place.
        let as_asked = (0..16).filter(|_| {
            let at = Kernel.reserve(bytes, true).expect("address space");
            // SAFETY: a whole reservation that is not used again.
            unsafe { Kernel.release(at, bytes) };
            PLACES.contains(&at.addr())
        });
        assert!(as_asked.count() > 8, "most are not where they were asked for");
    }

    #[test]
    fn resident_pages_are_those_that_were_written() {
        let memory = TestPages::new();
        assert_eq!(Kernel.resident(memory.0, TestPages::bytes()), Some(TestPages::bytes() as u64));
        // SAFETY: the page holds nothing of value.
        unsafe { Kernel.purge(&[memory.range(3, 1)]) };
        let left = (TestPages::bytes() - Kernel.page_size()) as u64;
        assert_eq!(Kernel.resident(memory.0, TestPages::bytes()), Some(left));
    }

    #[test]
    fn residency_tells_which_pages() {
        let memory = TestPages::new();
        // SAFETY: the page holds nothing of value.
        unsafe { Kernel.purge(&[memory.range(3, 1)]) };
        let mut flags = [7; 5];
        assert!(Kernel.residency(memory.page(1), &mut flags));
        assert_eq!(flags, [1, 1, 0, 1, 1]);
        assert!(!Kernel.residency(ptr::without_provenance_mut(4096), &mut flags));
    }

    #[test]
    fn memory_of_others_is_unmapped() {
        // Where no other test's mapping takes its place.
        let at = Kernel.reserve(1 << 16, true).expect("address space");
        // SAFETY: reserved just now, and never used.
        unsafe {
            assert!(Kernel.unmap(at, 1 << 16));
            assert!(!Kernel.unmap(ptr::without_provenance_mut(1), 4096));
        }
        assert_eq!(is_mapped(at, 1 << 16), Some(false));
    }

    #[test]
    fn failing_calls_leave_errno_alone() {
        // SAFETY: errno is this thread's own; nothing is mapped at address 1.
        unsafe {
            *libc::__errno_location() = 77;
            let nowhere = ptr::without_provenance_mut::<u8>(4096);
            assert_eq!(is_mapped(nowhere, 4096), Some(false));
            assert!(!Kernel.commit(nowhere, 4096));
            assert_eq!(Kernel.purge(&[MemoryRange { start: nowhere, bytes: 4096 }]).ranges, 0);
            assert_eq!(Kernel.resident(nowhere, 4096), None);
            assert!(Kernel.reserve(usize::MAX / 2, true).is_none());
            assert_eq!(Kernel.read_file(c"/proc", &mut [0]), None);
            assert_eq!(Kernel.read_file(c"/missing", &mut [0]), None);
            assert!(!Kernel.residency(nowhere, &mut [0]));
            assert!(!Kernel.unmap(ptr::without_provenance_mut(1), 4096));
            assert!(!Kernel.map(nowhere, usize::MAX / 4096 * 4096));
            assert!(Kernel.read_in_parts(c"/missing", &mut |_| ()).is_err());
        }
        assert_eq!(errno(), 77);
    }
}
