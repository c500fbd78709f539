//! Which free pages hold memory, for two threads: the heap's own and the background thread.
//!
//! A [`DirtyWord`] has two bits for each of 64 pages. The heap's thread sets `dirty` when pages
//! become free, and clears it when they are used again. The background thread claims dirty pages,
//! gives their memory back, and releases them. There is no lock:
//!
//! ```text
//!   heap's thread                            background thread
//!   free:  dirty |= pages                    claim:   claimed |= pages
//!   take:  dirty &= !pages ◀── one order ──▶          mine = pages of (dirty &= !pages)
//!          wait while claimed & pages                 claimed &= !(pages that are not mine)
//!          dirty &= !pages                   purge:   madvise(mine)
//!                                            release: claimed &= !mine
//! ```
//!
//! Whoever clears a page's dirty bit has the page. Both do it by one atomic operation, so one of
//! them is first. If it is the background thread, the other one reads what that has written, and so
//! sees the claim, which came before. The page is then used only after the release. When the kernel
//! refuses, the background thread sets the bit again before it releases the page, which is why the
//! heap's thread clears it a second time.
//!
//! A page that is freed is written to no more, and its contents are read no more: setting the bit
//! releases what the heap's thread did, and clearing it acquires that. So on processors that do not
//! keep the order of their accesses, too, no access of the program's comes after the purge.
//!
//! - C1: the background thread purges a page only between its claim and its release.
//! - C2: a page in use is neither dirty nor purged.
//!
//! As long as nobody watches a heap, its thread does the same without atomic read-modify-write
//! operations. It is also the one that has the watch begin.

#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::AtomicU64;

/// The bits of 64 free pages.
#[derive(Debug, Default)]
pub(crate) struct DirtyWord {
    dirty: AtomicU64,
    claimed: AtomicU64,
}

impl DirtyWord {
    /// The pages that hold memory.
    pub(crate) fn get(&self) -> u64 {
        self.dirty.load(Relaxed)
    }

    /// Forgets all. Nobody else may look at the heap.
    pub(crate) fn clear(&self) {
        self.dirty.store(0, Relaxed);
        self.claimed.store(0, Relaxed);
    }

    /// Pages have become free: returns those that were not dirty. (The heap's thread)
    pub(crate) fn set(&self, pages: u64, is_watched: bool) -> u64 {
        let before = if is_watched {
            self.dirty.fetch_or(pages, Release)
        } else {
            let before = self.get();
            self.dirty.store(before | pages, Relaxed);
            before
        };
        pages & !before
    }

    /// Pages are not dirty any more: returns those that were. (The heap's thread)
    pub(crate) fn unset(&self, pages: u64, is_watched: bool) -> u64 {
        let before = if is_watched {
            self.dirty.fetch_and(!pages, AcqRel)
        } else {
            let before = self.get();
            self.dirty.store(before & !pages, Relaxed);
            before
        };
        pages & before
    }

    /// Pages that the background thread has. (The heap's thread)
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.load(Acquire)
    }

    /// Takes those of `pages` that are dirty, and returns them. (The background thread)
    pub(crate) fn claim(&self, pages: u64) -> u64 {
        self.claimed.fetch_or(pages, Relaxed);
        let mine = self.dirty.fetch_and(!pages, AcqRel) & pages;
        if mine != pages {
            self.release(pages & !mine);
        }
        mine
    }

    /// Pages that were claimed hold memory still. (The background thread)
    pub(crate) fn refuse(&self, pages: u64) {
        self.dirty.fetch_or(pages, Relaxed);
    }

    /// Leaves pages that were claimed to the heap's thread. (The background thread)
    pub(crate) fn release(&self, pages: u64) {
        self.claimed.fetch_and(!pages, Release);
    }
}
