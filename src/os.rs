//! The operating system, behind one contract.
//!
//! Every system call that a heap makes is a method of [`Os`]. The calls keep `errno`, know nothing
//! of heaps, and report failure by value. [`Kernel`] is the real one; [`fake`] is the double that
//! tests use: it fails on schedule, pretends other page sizes, and checks each call's arguments.
//!
//! [`discard`] gives memory back by whichever call the process may make; [`plan`] maps ranges that
//! are not reserved piece by piece.
//!
//! What belongs to the process and not to a heap lies beside it: [`fault`], the signals of
//! forbidden accesses, [`backtrace`], the functions that a thread is in, [`fault_probe`], for work
//! that may fault, and [`background`], a thread that is there only while it has work.

pub(crate) mod background;
pub(crate) mod backtrace;
mod discard;
pub(crate) mod fault;
mod fault_probe;
mod file;
mod kernel;
mod plan;
mod thread;

#[cfg(test)]
pub(crate) mod fake;

use core::ffi::CStr;

pub(crate) use kernel::{Kernel, interrupt_threads};
pub(crate) use thread::this_thread;

/// Addresses of blocks stay below this: LuaJIT keeps type tags in the bits above.
pub(crate) const ADDRESS_LIMIT: usize = 1 << 47;

/// A range of addresses, as `struct iovec` has it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryRange {
    pub(crate) start: *mut u8,
    pub(crate) bytes: usize,
}

/// How far [`Os::purge`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purged {
    /// Ranges given back, from the first.
    pub(crate) ranges: usize,
    /// System calls that it took.
    pub(crate) calls: u64,
    /// Why the kernel refused the range behind these; 0: there is none.
    pub(crate) errno: i32,
}

/// What a heap asks of the operating system.
///
/// Ranges start and end on kernel pages. `bool` results: true when done; false when refused, and
/// then nothing has changed.
pub(crate) trait Os {
    /// Bytes in a kernel page: a power of two, 4 KiB or more.
    fn page_size(&self) -> usize;

    /// Bytes of address space that the process may map in all: `RLIMIT_AS`, or [`ADDRESS_LIMIT`].
    fn address_space(&self) -> usize;

    /// Reserves `bytes` of address space, inaccessible, wholly below [`ADDRESS_LIMIT`].
    /// `at_random`: where nobody can guess, if there is room, at the price of own page tables.
    fn reserve(&self, bytes: usize, at_random: bool) -> Option<*mut u8>;

    /// A range of `bytes` addresses below [`ADDRESS_LIMIT`] where the kernel maps nothing unasked,
    /// for [`Os::map`]. The range is neither mapped nor reserved, and takes no address space.
    /// `at_random`: as for [`Os::reserve`].
    fn plan(&self, bytes: usize, at_random: bool) -> Option<*mut u8>;

    /// Ends the plan of a range that starts there, once for each. Nothing of the range is mapped
    /// any more, but for what the kernel has refused to unmap.
    fn unplan(&self, start: *mut u8);

    /// Maps addresses of a planned range, readable and writable. New pages read as zero. Refused
    /// where any of the addresses is taken, too.
    ///
    /// # Safety
    ///
    /// The range lies in a range that [`Os::plan`] gave to the caller.
    unsafe fn map(&self, start: *mut u8, bytes: usize) -> bool;

    /// Gives a reservation back, or what is mapped of a planned range.
    ///
    /// # Safety
    ///
    /// The range is a whole reservation, or was mapped by [`Os::map`]; nothing in it is used again.
    unsafe fn release(&self, start: *mut u8, bytes: usize);

    /// Unmaps memory that somebody else has mapped, or that [`Os::map`] has.
    ///
    /// # Safety
    ///
    /// Nothing in the range is used again, by anybody.
    unsafe fn unmap(&self, start: *mut u8, bytes: usize) -> bool;

    /// Makes a range of a reservation readable and writable. New pages read as zero.
    ///
    /// # Safety
    ///
    /// The range lies in a reservation of the caller's.
    unsafe fn commit(&self, start: *mut u8, bytes: usize) -> bool;

    /// Takes a committed range back: it is inaccessible and counts neither as memory nor as a
    /// commitment, which limits (`RLIMIT_DATA`) and strict overcommit set bounds to. [`Os::commit`]
    /// undoes it, and may be refused. The range stays without huge pages.
    ///
    /// # Safety
    ///
    /// The range lies in a reservation of the caller's, and nobody touches it before it is
    /// committed again.
    unsafe fn decommit(&self, start: *mut u8, bytes: usize) -> bool;

    /// Makes committed ranges inaccessible; what is in them stays. [`Os::commit`] undoes it.
    ///
    /// # Safety
    ///
    /// The range lies in a reservation of the caller's, and nobody depends on access to it before
    /// it is committed again.
    unsafe fn protect(&self, start: *mut u8, bytes: usize) -> bool;

    /// Gives the memory behind committed ranges back, in their order, up to the first that is
    /// refused. The ranges stay usable and read as zero. Where a filter of the process refuses the
    /// call that does it, another one does.
    ///
    /// # Safety
    ///
    /// The ranges are private anonymous memory and hold nothing of value.
    unsafe fn purge(&self, ranges: &[MemoryRange]) -> Purged;

    /// Moves the memory behind one committed range to another; `from` then reads as zero. When the
    /// kernel refuses, `to` may have been renewed: see [`Os::remap_fresh`] for `huge_pages`.
    ///
    /// # Safety
    ///
    /// Both lie in reservations of the caller's and do not overlap; `to` holds nothing of value.
    unsafe fn move_pages(&self, from: *mut u8, to: *mut u8, bytes: usize, huge_pages: bool)
    -> bool;

    /// Replaces a committed range by a fresh one that reads as zero, so that the kernel can keep
    /// it in one mapping with its neighbours again after [`Os::move_pages`].
    ///
    /// # Safety
    ///
    /// As for [`Os::purge`].
    unsafe fn remap_fresh(&self, start: *mut u8, bytes: usize, huge_pages: bool) -> bool;

    /// Bits that nobody can guess. 0 where the kernel has none, or where the process is to do the
    /// same each time (`setarch -R`, gdb).
    fn random(&self) -> u64;

    /// Makes a committed range inaccessible for good. `may_split`: at the price of two mappings,
    /// where the kernel cannot do it without (before Linux 6.13).
    ///
    /// # Safety
    ///
    /// The range lies in a reservation of the caller's, on kernel pages, and nobody uses it.
    unsafe fn guard(&self, start: *mut u8, bytes: usize, may_split: bool) -> bool;

    /// Asks for transparent huge pages in a range, or forbids them.
    ///
    /// # Safety
    ///
    /// The range lies in a reservation of the caller's.
    unsafe fn set_huge_pages(&self, start: *mut u8, bytes: usize, wanted: bool) -> bool;

    /// Bytes of a range that the kernel holds resident; `None` when it will not say.
    fn resident(&self, start: *mut u8, bytes: usize) -> Option<u64>;

    /// Sets a flag for each page from `start` on: 1 when the kernel holds it resident, otherwise 0.
    /// The `errno` when the kernel will not say, `ENOMEM` when a page is not mapped; then the flags
    /// mean nothing.
    fn residency(&self, start: *mut u8, flags: &mut [u8]) -> Result<(), i32>;

    /// Whether the word at an address can be read, which is a multiple of 8. `EFAULT`: it cannot;
    /// another `errno`: the kernel will not say.
    fn probe_read(&self, word: *const u8) -> Result<(), i32>;

    /// Reads a file into `buffer`, as much of it as fits; how many bytes that were. `None` when it
    /// cannot be opened or read.
    fn read_file(&self, path: &CStr, buffer: &mut [u8]) -> Option<usize>;

    /// Reads a whole file and hands it over in parts, which end anywhere. The `errno` when it
    /// cannot be opened, or not be read to its end.
    fn read_in_parts(&self, path: &CStr, visit: &mut dyn FnMut(&[u8])) -> Result<(), i32>;

    /// Microseconds on a clock that never goes back.
    fn now_us(&self) -> u64;

    /// Has every thread of the process come to a point where the others see what it did before.
    /// False: the kernel cannot, and the processor's own order is not enough.
    fn order_threads(&self) -> bool;

    /// Whether the [`background`] thread may return memory of heaps on this system.
    fn has_background(&self) -> bool;
}
