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
        let [from, to] = [(); 2].map(|()| libc::mmap(ptr::null_mut(), bytes, access, FRESH, -1, 0));
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
        assert!(RANDOM_RANGE.contains(&at.addr()) && RANDOM_RANGE.contains(&(at.addr() + bytes)));
        assert_eq!(at.addr() % Kernel.page_size(), 0);
        assert!(!places[..index].contains(at), "{places:?}");
    }
    assert!(Kernel.place_for(RANDOM_RANGE.len()).is_null(), "there is but one place");
    // Where another test has a heap the kernel chooses a place.
    let as_asked = (0..16).filter(|_| {
        let at = Kernel.reserve(bytes, true).expect("address space");
        // SAFETY: a whole reservation that is not used again.
        unsafe { Kernel.release(at, bytes) };
        RANDOM_RANGE.contains(&at.addr())
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
    assert_eq!(Kernel.residency(memory.page(1), &mut flags), Ok(()));
    assert_eq!(flags, [1, 1, 0, 1, 1]);
    let unmapped = Kernel.residency(ptr::without_provenance_mut(4096), &mut flags);
    assert_eq!(unmapped, Err(libc::ENOMEM));
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
        assert!(Kernel.residency(nowhere, &mut [0]).is_err());
        assert_eq!(Kernel.probe_read(nowhere), Err(libc::EFAULT));
        assert!(!Kernel.unmap(ptr::without_provenance_mut(1), 4096));
        assert!(!Kernel.map(nowhere, usize::MAX / 4096 * 4096));
        assert!(Kernel.read_in_parts(c"/missing", &mut |_| ()).is_err());
    }
    assert_eq!(errno(), 77);
}

#[test]
fn what_is_mapped_and_inaccessible_cannot_be_read() {
    let pages = TestPages::new();
    let last_word = pages.page(1).wrapping_sub(8);
    let was_blocked = is_blocked(libc::SIGHUP);
    assert_eq!(Kernel.probe_read(last_word), Ok(()));
    // SAFETY: a page that is not looked at.
    unsafe { assert!(Kernel.decommit(pages.page(0), Kernel.page_size())) };
    assert_eq!(Kernel.probe_read(last_word), Err(libc::EFAULT));
    assert_eq!(Kernel.probe_read(pages.page(1)), Ok(()));
    // The page is full of ones: as a mask it has SIGHUP.
    assert_eq!(is_blocked(libc::SIGHUP), was_blocked);
}

fn is_blocked(signal: i32) -> bool {
    let mut mask = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable, and all-zero bytes are a valid one.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
        libc::sigismember(mask.as_ptr(), signal) == 1
    }
}

#[test]
fn heaps_are_placed_below_the_address_limit() {
    let at = Kernel.reserve(1 << 36, false).expect("address space");
    assert!(at.addr() + (1 << 36) <= crate::os::ADDRESS_LIMIT);
    // SAFETY: reserved just now.
    unsafe { Kernel.release(at, 1 << 36) };
}
