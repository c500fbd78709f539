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
pub(super) const RANDOM_RANGE: Range<usize> = ADDRESS_LIMIT / 8..ADDRESS_LIMIT / 8 * 5;

impl Kernel {
    /// An address that nobody can guess. Null where the kernel should choose.
    fn place_for(&self, bytes: usize) -> *mut u8 {
        let places = RANDOM_RANGE.len().saturating_sub(bytes) / self.page_size();
        let random = self.random() as usize;
        if places == 0 || random == 0 {
            return ptr::null_mut();
        }
        ptr::without_provenance_mut(RANDOM_RANGE.start + random % places * self.page_size())
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

    fn residency(&self, start: *mut u8, flags: &mut [u8]) -> Result<(), i32> {
        flag_resident(start, flags)
    }

    fn probe_read(&self, word: *const u8) -> Result<(), i32> {
        // The kernel reads the new mask before it refuses to do with it what no number names.
        const HOW: libc::c_int = -1;
        const MASK_BYTES: usize = 8;
        preserve_errno(|| {
            let none = ptr::null_mut::<u8>();
            // SAFETY: the call fails in any case, and changes nothing; errno is this thread's own.
            let errno = unsafe {
                libc::syscall(libc::SYS_rt_sigprocmask, HOW, word, none, MASK_BYTES);
                *libc::__errno_location()
            };
            match errno {
                libc::EINVAL => Ok(()),
                errno => Err(errno),
            }
        })
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
pub(super) mod tests;
