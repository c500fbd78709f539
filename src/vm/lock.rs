//! A lock that costs the thread that runs a VM hardly anything.
//!
//! In a heap that threads share the VM allocates all the time, and other threads come a few times a
//! second, for a tick or for statistics. So a [`BiasedLock`] has two sides. The VM's thread, the
//! owner, pays with two writes and a read. The others pay with a call to the kernel that orders the
//! accesses of all threads of the process, membarrier(2):
//!
//! ```text
//!   owner                                    others
//!   is_inside = true                         lock
//!   if !is_open:                             is_open = false
//!     is_inside = false, lock                order the accesses of all threads
//!   ... uses the heap ...                    wait while is_inside
//!   is_inside = false, or unlock             ... uses the heap ...
//!                                            is_open = true, unlock
//! ```
//!
//! The kernel interrupts the owner at one point of the owner's program. Before the owner has read
//! `is_open`: then the owner reads false, and waits for the lock. Or after that: then the other
//! thread sees what the owner wrote before, `is_inside`, and waits for the owner. So they never
//! meet in the heap. Where the kernel does not order threads the lock is never open, and the owner
//! takes the lock each time.
//!
//! Several threads may be the owner one after the other, if each sees what the one before it did.
//!
//! Source of the method: the asymmetric barriers of the manual page membarrier(2).

#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::spin::SpinLock;
use super::{AtomicBool, keep_order, yield_now};

/// A lock with a side for the owner, which enters often, and one for others. It is a [`SpinLock`]
/// for all until [`BiasedLock::favour`] is called.
#[derive(Default)]
pub(super) struct BiasedLock {
    lock: SpinLock,
    /// The owner may enter without the lock, as long as nobody has it.
    is_biased: AtomicBool,
    /// The owner may enter without the lock.
    is_open: AtomicBool,
    /// The owner is in without the lock.
    is_inside: AtomicBool,
}

/// How the owner is in.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    Free,
    Locked,
}

impl BiasedLock {
    /// From now on the owner may enter without the lock. Nobody has it.
    pub(super) fn favour(&self) {
        self.is_biased.store(true, Relaxed);
        self.is_open.store(true, Release);
    }

    /// The owner enters.
    #[inline(always)]
    pub(super) fn enter(&self) -> Entry {
        self.is_inside.store(true, Relaxed);
        keep_order();
        // Acquires what another thread did before it left.
        if self.is_open.load(Acquire) { Entry::Free } else { self.enter_locked() }
    }

    #[cold]
    #[inline(never)]
    fn enter_locked(&self) -> Entry {
        self.is_inside.store(false, Release);
        self.lock.lock();
        Entry::Locked
    }

    /// The owner leaves.
    #[inline(always)]
    pub(super) fn leave(&self, entry: Entry) {
        match entry {
            Entry::Free => self.is_inside.store(false, Release),
            Entry::Locked => self.lock.unlock(),
        }
    }

    /// Another thread enters, or the owner for something else than an allocation. `order_threads`
    /// orders the accesses of all threads. False: it could not, but the owner has seen since that
    /// the lock is not open, or is not in; then the owner takes the lock from now on.
    pub(super) fn lock(&self, order_threads: impl FnOnce() -> bool) {
        self.lock.lock();
        self.close(order_threads);
    }

    /// The same, unless another thread has the lock. Whether this one has.
    pub(super) fn try_lock(&self, order_threads: impl FnOnce() -> bool) -> bool {
        let is_locked = self.lock.try_lock();
        if is_locked {
            self.close(order_threads);
        }
        is_locked
    }

    fn close(&self, order_threads: impl FnOnce() -> bool) {
        if !self.is_open.load(Relaxed) {
            return;
        }
        self.is_open.store(false, Relaxed);
        if !order_threads() {
            self.is_biased.store(false, Relaxed);
        }
        while self.is_inside.load(Acquire) {
            yield_now();
        }
    }

    pub(super) fn unlock(&self) {
        if self.is_biased.load(Relaxed) {
            self.is_open.store(true, Release);
        }
        self.lock.unlock();
    }

    /// What the thread that forked had locked is unlocked in the child. The owner is not there, but
    /// may have been on its way in.
    pub(super) fn unlock_in_child(&self) {
        self.is_inside.store(false, Relaxed);
        self.unlock();
    }

    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// The owner is on its way in, for the model: it has not looked yet whether the lock is open.
    #[cfg(test)]
    #[allow(dead_code)]
    pub(super) fn approach(&self) {
        self.is_inside.store(true, Relaxed);
    }
}
