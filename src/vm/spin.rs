//! A lock for work that is soon done.

#![forbid(unsafe_code)]

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::yield_now;

/// Lets one thread in. It is held at most while a thread does what is due in its heaps, so waiting
/// for it is not worth a system call of its own.
#[derive(Default)]
pub(super) struct SpinLock(AtomicBool);

impl SpinLock {
    pub(super) const fn new() -> SpinLock {
        SpinLock(AtomicBool::new(false))
    }

    pub(super) fn try_lock(&self) -> bool {
        !self.0.swap(true, Acquire)
    }

    pub(super) fn lock(&self) {
        while !self.try_lock() {
            yield_now();
        }
    }

    pub(super) fn unlock(&self) {
        self.0.store(false, Release);
    }

    pub(super) fn is_locked(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Acts while nobody else is let in.
    pub(super) fn with<T>(&self, act: impl FnOnce() -> T) -> T {
        self.lock();
        let done = act();
        self.unlock();
        done
    }
}
