//! Which heaps have inaccessible pages, so that a fault finds its heap; and how many such pages the
//! process may have.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

use crate::os::fault::{self, Access};
use crate::os::{Os, backtrace};

/// Heaps that can have inaccessible pages at once. Others are checked without.
const HEAPS: usize = 1024;
/// What the kernel allows to a process where it does not say.
const MAPPINGS: usize = 65530;
/// The share of the kernel's mappings that inaccessible pages may take.
const SHARE: usize = 4;

/// A heap, and the function that reports a fault in it.
pub(super) struct RegisteredHeap {
    pub(super) heap: *mut u8,
    /// Explains a fault that lies in the heap, and does not return; or returns if it does not.
    pub(super) report_fault: unsafe fn(heap: *mut u8, address: usize, access: Access),
}

/// A range of addresses; empty at first.
struct AtomicRange {
    start: AtomicUsize,
    bytes: AtomicUsize,
}

impl AtomicRange {
    const fn empty() -> AtomicRange {
        AtomicRange { start: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    fn set(&self, (start, bytes): (usize, usize)) {
        // Nothing lies in it meanwhile. An empty range keeps its start, so that a reader of the
        // previous length finds nothing else in it.
        self.bytes.store(0, Ordering::Relaxed);
        if bytes == 0 {
            return;
        }
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Release);
    }

    fn contains(&self, address: usize) -> bool {
        let bytes = self.bytes.load(Ordering::Acquire);
        address.wrapping_sub(self.start.load(Ordering::Relaxed)) < bytes
    }
}

/// A registered heap, and where it lies. Another thread may be deleting it, so nothing of it is
/// looked at for an address that is elsewhere. One that is in it was used just now: its heap stays.
struct RegistryEntry {
    registered: AtomicPtr<RegisteredHeap>,
    /// The heap's address, to be told.
    heap: AtomicUsize,
    reservation: AtomicRange,
    slots: AtomicRange,
}

impl RegistryEntry {
    fn contains(&self, address: usize) -> bool {
        self.reservation.contains(address) || self.slots.contains(address)
    }
}

static REGISTRY: [RegistryEntry; HEAPS] = [const {
    RegistryEntry {
        registered: AtomicPtr::new(ptr::null_mut()),
        heap: AtomicUsize::new(0),
        reservation: AtomicRange::empty(),
        slots: AtomicRange::empty(),
    }
}; HEAPS];
/// Mappings that inaccessible pages take, in all heaps.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// How many they may, read when the first heap is added: a sandbox may forbid to open files later.
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Puts a heap whose reservation lies there into the registry, until it is [forgotten](forget).
/// False: there is no room.
pub(super) fn add(
    os: &impl Os,
    registered: *mut RegisteredHeap,
    heap: *mut u8,
    reservation: (usize, usize),
) -> bool {
    if MOST.load(Ordering::Relaxed) == 0 {
        MOST.store(most(os), Ordering::Relaxed);
    }
    fault::install(report_fault);
    backtrace::prepare();
    let empty = |entry: &&RegistryEntry| {
        let swap = (Ordering::Acquire, Ordering::Relaxed);
        entry.registered.compare_exchange(ptr::null_mut(), registered, swap.0, swap.1).is_ok()
    };
    let Some(entry) = REGISTRY.iter().find(empty) else { return false };
    entry.heap.store(heap.addr(), Ordering::Relaxed);
    entry.reservation.set(reservation);
    true
}

fn entry_of(registered: *mut RegisteredHeap) -> Option<&'static RegistryEntry> {
    REGISTRY.iter().find(|entry| entry.registered.load(Ordering::Relaxed) == registered)
}

/// Notes where a registered heap's guarded slots lie.
pub(super) fn add_slots(registered: *mut RegisteredHeap, slots: (usize, usize)) {
    if let Some(entry) = entry_of(registered) {
        entry.slots.set(slots);
    }
}

/// Takes a heap out of the registry.
pub(super) fn forget(registered: *mut RegisteredHeap) {
    if let Some(entry) = entry_of(registered) {
        entry.slots.set((0, 0));
        entry.reservation.set((0, 0));
        entry.registered.store(ptr::null_mut(), Ordering::Release);
    }
}

fn report_fault(address: usize, access: Access) {
    for entry in &REGISTRY {
        if !entry.contains(address) {
            continue;
        }
        // SAFETY: a heap that is registered is live, and this one stays so while it is used.
        if let Some(registered) = unsafe { entry.registered.load(Ordering::Acquire).as_ref() } {
            // SAFETY: as above; the two belong together.
            unsafe { (registered.report_fault)(registered.heap, address, access) };
        }
    }
}

/// The registered heap that an address lies in: in the heap's reservation, or in the guarded slots
/// of the heap.
pub(super) fn heap_around(address: usize) -> Option<usize> {
    let entry = REGISTRY.iter().find(|entry| entry.contains(address))?;
    Some(entry.heap.load(Ordering::Relaxed))
}

/// Takes `count` mappings of the process's share, for a heap that was added. False: it has no more
/// to give.
pub(super) fn take_mappings(count: usize) -> bool {
    let fits = TAKEN.fetch_add(count, Ordering::Relaxed) + count <= MOST.load(Ordering::Relaxed);
    if !fits {
        give_mappings(count);
    }
    fits
}

/// Gives them back.
pub(super) fn give_mappings(count: usize) {
    TAKEN.fetch_sub(count, Ordering::Relaxed);
}

/// What the kernel says, or else what it says by default.
fn most(os: &impl Os) -> usize {
    let mut buffer = [0; 32];
    let length = os.read_file(c"/proc/sys/vm/max_map_count", &mut buffer).unwrap_or(0);
    let said = core::str::from_utf8(&buffer[..length]).ok();
    said.and_then(|text| text.trim().parse().ok()).unwrap_or(MAPPINGS) / SHARE
}
