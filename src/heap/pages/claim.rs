//! Bits of pages that two threads work on: the heap's own and the background thread.
//!
//! A [`Claimable`] has a bit for each of 64 pages, of one of two kinds: `dirty` ones are free and
//! hold memory; at `resting` ones a span of several pages starts that is not its bin's active one.
//! The heap's thread sets the bit when a page becomes that, and clears it before it uses the page,
//! or the span, again. The background thread claims pages, gives their memory back, and releases
//! them. There is no lock:
//!
//! ```text
//!   heap's thread                            background thread
//!   set:   bits |= pages                     claim:    claim pages, but those that are claimed
//!   take:  claim pages, wait for those                 bits &= !pages, but those that were 0
//!          that are claimed                  purge:    madvise(pages)
//!          bits &= !pages                    put_back: bits |= those that stay what they were
//!          release pages                     release
//! ```
//!
//! A claim is one bit of `claimed`. The thread that sets the bit owns the page until it clears the
//! bit, and looks at the page's other bit meanwhile. The heap's thread holds claims for a few
//! instructions only. The background thread holds them until the pages of one system call are
//! returned, and the heap's thread waits if it needs one of these. The background thread never
//! waits.
//!
//! Setting a bit releases what the heap's thread did, and the claim that clears it acquires that.
//! So on processors that do not keep the order of their accesses, too, no access to a free page
//! comes after its purge. Slots of resting spans are freed without that: there the background
//! thread has the kernel order all threads between looking and purging (see
//! [`crate::os::Os::order_threads`]).
//!
//! - C1: the background thread purges pages, and spans, only between its claim and its release.
//! - C2: a page in use is not dirty, and an active span does not rest.
//!
//! As long as nobody watches a heap, its thread does the same without atomic read-modify-write
//! operations. It is also the one that has the watch begin.

#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::AtomicU64;

/// Bits of 64 pages.
#[derive(Debug, Default)]
pub(crate) struct Claimable {
    bits: AtomicU64,
    claimed: AtomicU64,
}

impl Claimable {
    /// The pages whose bits are set.
    pub(crate) fn get(&self) -> u64 {
        self.bits.load(Relaxed)
    }

    /// Forgets all. Nobody else may look at the heap.
    pub(crate) fn clear(&self) {
        self.bits.store(0, Relaxed);
        self.claimed.store(0, Relaxed);
    }

    /// Sets bits, and returns those that were clear. (The heap's thread)
    pub(crate) fn set(&self, pages: u64, is_watched: bool) -> u64 {
        let before = if is_watched {
            self.bits.fetch_or(pages, Release)
        } else {
            let before = self.get();
            self.bits.store(before | pages, Relaxed);
            before
        };
        pages & !before
    }

    /// Clears bits, and returns those that were set. (The heap's thread)
    ///
    /// This orders nothing, as nothing depends on it. A page that is about to be used was claimed
    /// before: the claim acquires the purge. Nobody claims a page for its clear bit: there is
    /// nothing to release.
    pub(crate) fn unset(&self, pages: u64, is_watched: bool) -> u64 {
        let before = if is_watched {
            self.bits.fetch_and(!pages, Relaxed)
        } else {
            let before = self.get();
            self.bits.store(before & !pages, Relaxed);
            before
        };
        pages & before
    }

    /// Clears bits of pages that are about to be used, and returns those that were set. `wait` is
    /// called as long as the background thread has one of the pages. (The heap's thread)
    pub(crate) fn take(&self, pages: u64, is_watched: bool, wait: impl Fn(&Claimable, u64)) -> u64 {
        if !is_watched {
            return self.unset(pages, false);
        }
        loop {
            let free = self.try_claim(pages);
            if free == pages {
                break;
            }
            self.release(free);
            wait(self, pages);
        }
        let had = self.unset(pages, true);
        self.release(pages);
        had
    }

    /// Pages whose bits are set, or may be again: the other thread has them. Neither the bits nor
    /// the claims show that by themselves: between two looks a page may be put back and released.
    /// (Either thread)
    pub(crate) fn held(&self) -> u64 {
        let mine = self.try_claim(u64::MAX);
        let set = self.get();
        self.release(mine);
        set | !mine
    }

    /// Pages that one of the threads has.
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.load(Acquire)
    }

    /// Claims those of `pages` that nobody has, and returns them. Whoever sees the claim sees what
    /// was done before: that the background thread has named the heap that it visits.
    fn try_claim(&self, pages: u64) -> u64 {
        pages & !self.claimed.fetch_or(pages, AcqRel)
    }

    /// As if one of the threads had claimed pages, and not looked at their bits yet.
    #[cfg(test)]
    pub(crate) fn pretend_claimed(&self, pages: u64) {
        self.claimed.fetch_or(pages, AcqRel);
    }

    /// Claims those of `pages` whose bits are set, clears these, and returns them. (The background
    /// thread)
    pub(crate) fn claim(&self, pages: u64) -> u64 {
        let free = self.try_claim(pages);
        let mine = self.bits.fetch_and(!free, AcqRel) & free;
        if mine != free {
            self.release(free & !mine);
        }
        mine
    }

    /// Pages that were claimed are what they were. (The background thread)
    pub(crate) fn put_back(&self, pages: u64) {
        self.bits.fetch_or(pages, Relaxed);
    }

    /// Ends a claim.
    pub(crate) fn release(&self, pages: u64) {
        self.claimed.fetch_and(!pages, Release);
    }
}
