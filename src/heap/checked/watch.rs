//! Which heaps have inaccessible pages, so that a fault finds its heap; and how many such pages the
//! process may have.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::os::fault::{self, Access};
use crate::os::{Os, frames};

/// Heaps that can have inaccessible pages at once. Others are checked without.
const HEAPS: usize = 1024;
/// What the kernel allows to a process where it does not say.
const MAPPINGS: usize = 65530;
/// The share of the kernel's mappings that inaccessible pages may take.
const SHARE: usize = 4;

/// A heap, and who explains a fault in it.
pub(super) struct Watched {
    pub(super) heap: *mut u8,
    /// Where its reservation starts, and its bytes.
    pub(super) range: (usize, usize),
    /// Explains a fault that lies in the heap, and does not return; or returns if it does not.
    pub(super) explain: unsafe fn(heap: *mut u8, address: usize, access: Access),
}

static WATCHED: [AtomicPtr<Watched>; HEAPS] = [const { AtomicPtr::new(ptr::null_mut()) }; HEAPS];
/// Mappings that inaccessible pages take, in all heaps.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// How many they may. 0: not asked yet.
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Puts a heap under watch, until it is [forgotten](forget). False: there is no room.
pub(super) fn add(watched: *mut Watched) -> bool {
    fault::watch(explain);
    frames::prepare();
    let empty = |place: &&AtomicPtr<Watched>| {
        let swap = (Ordering::Release, Ordering::Relaxed);
        place.compare_exchange(ptr::null_mut(), watched, swap.0, swap.1).is_ok()
    };
    WATCHED.iter().find(empty).is_some()
}

/// Takes a heap off the watch.
pub(super) fn forget(watched: *mut Watched) {
    let is_it = |place: &&AtomicPtr<Watched>| place.load(Ordering::Relaxed) == watched;
    if let Some(place) = WATCHED.iter().find(is_it) {
        place.store(ptr::null_mut(), Ordering::Release);
    }
}

fn explain(address: usize, access: Access) {
    for place in &WATCHED {
        // SAFETY: a heap that is watched is live.
        if let Some(watched) = unsafe { place.load(Ordering::Acquire).as_ref() } {
            // SAFETY: as above; the two belong together.
            unsafe { (watched.explain)(watched.heap, address, access) };
        }
    }
}

/// The watched heap that an address lies in.
pub(super) fn heap_at(address: usize) -> Option<*mut u8> {
    WATCHED.iter().find_map(|place| {
        // SAFETY: a heap that is watched is live.
        let watched = unsafe { place.load(Ordering::Acquire).as_ref() }?;
        let (start, bytes) = watched.range;
        (address.wrapping_sub(start) < bytes).then_some(watched.heap)
    })
}

/// Takes so many mappings of the process's share. False: it has no more to give.
pub(super) fn take_mappings(os: &impl Os, count: usize) -> bool {
    if MOST.load(Ordering::Relaxed) == 0 {
        MOST.store(most(os), Ordering::Relaxed);
    }
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
