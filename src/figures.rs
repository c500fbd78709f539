//! What heaps held when they were last looked at, for code that may not look into a heap: signal
//! handlers, and threads that do not own it.
//!
//! A heap with figures publishes them on its slow path, at most every few milliseconds, and when
//! its thread waits. The background thread adds what it returns in between. Entries are never
//! freed, only used again, and their list only grows. So a walk takes no lock, in a signal handler
//! either, and the child of a fork finds the list whole. The list has as many entries as there were
//! heaps with figures at the same time.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What one heap holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastSeen {
    pub(crate) live: u64,
    pub(crate) resident: u64,
    pub(crate) resident_peak: u64,
    pub(crate) returned_total: u64,
    /// Bytes that the background thread returned, as far as the others know of them.
    pub(crate) background_returned: u64,
    pub(crate) trouble: Trouble,
}

/// What is wrong with one heap; nothing, if all is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Allocations that were refused, and those of them that RLIMIT_AS has refused.
    pub(crate) refused: u64,
    pub(crate) refused_address_space: u64,
    /// 1: the heap is thrashing at a limit.
    pub(crate) thrashing: u64,
    /// Why the kernel took the last range not back; 0: it did.
    pub(crate) purge_errno: u64,
}

/// The entry of one heap.
#[derive(Default)]
pub(crate) struct Figures {
    /// The number of the heap's VM; 0: the entry is nobody's.
    number: AtomicU64,
    live: AtomicU64,
    resident: AtomicU64,
    resident_peak: AtomicU64,
    returned_total: AtomicU64,
    /// Bytes that the background thread has returned in all, and those that the others know of.
    pub(crate) background_returned: AtomicU64,
    background_known: AtomicU64,
    refused: AtomicU64,
    refused_address_space: AtomicU64,
    thrashing: AtomicU64,
    purge_errno: AtomicU64,
    next: NextEntry,
}

/// Where the next entry is; null until there is one, and then the same for ever.
#[derive(Default)]
struct NextEntry(AtomicPtr<Figures>);

static FIRST: NextEntry = NextEntry(AtomicPtr::new(ptr::null_mut()));

impl NextEntry {
    fn get(&self) -> Option<&'static Figures> {
        // SAFETY: null, or an entry that `put` has got from a box and that is never freed. Its
        // fields can be read and written at any time.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Puts a new entry here, unless another thread was faster.
    fn put(&self, new: *mut Figures) -> bool {
        let null = ptr::null_mut();
        self.0.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// An entry for VM `number`, which is not 0. Allocates where no entry is free.
pub(crate) fn claim(number: u64) -> &'static Figures {
    let take = |entry: &Figures| {
        entry.number.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let mut end = &FIRST;
    while let Some(entry) = end.get() {
        if take(entry) {
            entry.background_returned.store(0, Ordering::Relaxed);
            entry.publish(LastSeen::default());
            return entry;
        }
        end = &entry.next;
    }
    let figures = Figures { number: AtomicU64::new(number), ..Figures::default() };
    let made = Box::into_raw(Box::new(figures));
    while !end.put(made) {
        // Another thread's entry comes first.
        end = end.get().map_or(end, |entry| &entry.next);
    }
    // SAFETY: just made, and never freed.
    unsafe { &*made }
}

/// Calls `visit` for each VM that has an entry, the oldest entry first. Signal handlers may.
pub(crate) fn each(mut visit: impl FnMut(u64, LastSeen)) {
    let mut next = FIRST.get();
    while let Some(entry) = next {
        let number = entry.number.load(Ordering::Acquire);
        let last_seen = entry.last_seen();
        // Otherwise the entry has changed hands meanwhile, and the figures may be mixed.
        if number != 0 && entry.number.load(Ordering::Acquire) == number {
            visit(number, last_seen);
        }
        next = entry.next.get();
    }
}

impl Figures {
    pub(crate) fn publish(&self, last_seen: LastSeen) {
        let LastSeen {
            live,
            resident,
            resident_peak,
            returned_total,
            background_returned,
            trouble,
        } = last_seen;
        self.refused.store(trouble.refused, Ordering::Relaxed);
        self.refused_address_space.store(trouble.refused_address_space, Ordering::Relaxed);
        self.thrashing.store(trouble.thrashing, Ordering::Relaxed);
        self.purge_errno.store(trouble.purge_errno, Ordering::Relaxed);
        self.live.store(live, Ordering::Relaxed);
        self.resident.store(resident, Ordering::Relaxed);
        self.background_known.store(background_returned, Ordering::Relaxed);
        self.resident_peak.store(resident_peak, Ordering::Relaxed);
        self.returned_total.store(returned_total, Ordering::Release);
    }

    /// What was published last.
    pub(crate) fn last_seen(&self) -> LastSeen {
        let returned_total = self.returned_total.load(Ordering::Acquire);
        let background_returned = self.background_returned.load(Ordering::Relaxed);
        // Returned since the heap's own thread has published.
        let since =
            background_returned.saturating_sub(self.background_known.load(Ordering::Relaxed));
        LastSeen {
            returned_total: returned_total + since,
            live: self.live.load(Ordering::Relaxed),
            resident: self.resident.load(Ordering::Relaxed).saturating_sub(since),
            background_returned,
            resident_peak: self.resident_peak.load(Ordering::Relaxed),
            trouble: Trouble {
                refused: self.refused.load(Ordering::Relaxed),
                refused_address_space: self.refused_address_space.load(Ordering::Relaxed),
                thrashing: self.thrashing.load(Ordering::Relaxed),
                purge_errno: self.purge_errno.load(Ordering::Relaxed),
            },
        }
    }

    /// The heap is gone.
    pub(crate) fn release(&self) {
        self.number.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: the list is the process's.
    #[test]
    fn entries_are_found_while_they_are_somebodys_and_used_again() {
        let numbers = || {
            let mut numbers = Vec::new();
            each(|number, last_seen| numbers.push((number, last_seen.live)));
            numbers.sort();
            numbers
        };
        let [a, b] = [901, 902].map(claim);
        a.publish(LastSeen { live: 5, ..LastSeen::default() });
        assert_eq!(numbers(), [(901, 5), (902, 0)]);
        a.release();
        assert_eq!(numbers(), [(902, 0)]);
        assert!(core::ptr::eq(claim(903), a), "a free entry is used again");
        assert_eq!(numbers(), [(902, 0), (903, 0)]);
        std::thread::scope(|scope| {
            for number in 1000..1008 {
                scope.spawn(move || claim(number));
            }
        });
        assert_eq!(numbers().len(), 10);
        a.release();
        b.release();
    }
}
