//! Bits of pages that two threads work on: the heap's own and the background thread.
//!
//! A [`Claimable`] has a bit for each of 64 pages, of one of two kinds: `dirty` ones are free and
//! hold memory; at `resting` ones a span of several pages starts that is not its bin's current one.
//! The heap's thread sets the bit when a page becomes that, and clears it before it uses the page,
//! or the span, again. The background thread claims pages, gives their memory back, and releases
//! them. There is no lock:
//!
//! ```text
//!   heap's thread                            background thread
//!   set:   bits |= pages                     claim:    claimed |= pages
//!   take:  bits &= !pages  ◀── one order ──▶           mine = pages of (bits &= !pages)
//!          wait while claimed & pages                  claimed &= !(pages that are not mine)
//!          bits &= !pages                    purge:    madvise(mine)
//!                                            put_back: bits |= those that stay what they were
//!                                            release:  claimed &= !mine
//! ```
//!
//! Whoever clears a page's bit has the page. Both do it by one atomic operation, so one of them is
//! first. If it is the background thread, the other one reads what that has written, and so sees
//! the claim, which came before: it uses the page after the release only. What was put back before
//! that, it clears a second time.
//!
//! Setting a bit releases what the heap's thread did, and clearing it acquires that. So on
//! processors that do not keep the order of their accesses, too, no access to a freed page comes
//! after its purge.
//!
//! - C1: the background thread purges pages, and spans, only between its claim and its release.
//! - C2: a page in use is not dirty, and a current span does not rest.
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
    pub(crate) fn unset(&self, pages: u64, is_watched: bool) -> u64 {
        let before = if is_watched {
            self.bits.fetch_and(!pages, AcqRel)
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
        let mut had = self.unset(pages, is_watched);
        while is_watched && self.claimed() & pages != 0 {
            wait(self, pages);
            had |= self.unset(pages, true);
        }
        had
    }

    /// Pages that the background thread has. (The heap's thread)
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.load(Acquire)
    }

    /// Takes those of `pages` whose bits are set, and returns them. (The background thread)
    pub(crate) fn claim(&self, pages: u64) -> u64 {
        self.claimed.fetch_or(pages, Relaxed);
        let mine = self.bits.fetch_and(!pages, AcqRel) & pages;
        if mine != pages {
            self.release(pages & !mine);
        }
        mine
    }

    /// Pages that were claimed are what they were. (The background thread)
    pub(crate) fn put_back(&self, pages: u64) {
        self.bits.fetch_or(pages, Relaxed);
    }

    /// Leaves pages that were claimed to the heap's thread. (The background thread)
    pub(crate) fn release(&self, pages: u64) {
        self.claimed.fetch_and(!pages, Release);
    }
}
