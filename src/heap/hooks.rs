//! What the layer above keeps with a heap, and when the heap calls that layer.
//!
//! The heap never decides to give memory back, nor what to do at a memory limit. It knows the
//! moments at which the layer above should decide: when pages were taken or freed, when operations
//! took the slow path, when a large block makes the heap longer or leaves many free pages, when
//! the growth limit stopped an allocation, when an allocation failed, and, while the VM's
//! collector is due, when an allocation was made. All are off the hot path.

#![forbid(unsafe_code)]

use super::Heap;
use crate::os::Os;
use crate::units::Pages;

/// The layer above, as the heap sees it. Implemented once, by `reclaim`.
pub(crate) trait ReclaimHooks: Sized {
    /// What it keeps with each heap. The heap does not look inside.
    type State: Default;
    /// Words of 8 bytes in the buffer of the option `history`: [`Heap::history_buffer`].
    const HISTORY_WORDS: usize;

    /// The heap is new, or an option was changed.
    fn options_changed<O: Os>(heap: &mut Heap<O, Self>);

    /// More than [`Heap::poll_threshold`] pages were taken or freed since the last poll, or
    /// [`Heap::poll_in`] operations took the slow path.
    fn poll<O: Os>(heap: &mut Heap<O, Self>);

    /// A large block has taken `pages` that were never used, because no run of free pages was long
    /// enough. For each of them one free page may go back.
    fn large_growth<O: Os>(heap: &mut Heap<O, Self>, pages: Pages);

    /// A large block that was freed, shrunk or moved has left `pages` free.
    fn emptied<O: Os>(heap: &mut Heap<O, Self>, pages: Pages);

    /// The growth limit refused [`Heap::denied_pages`] pages. Makes room, and raises the limit as
    /// far as it may be raised, for one more attempt.
    fn make_room<O: Os>(heap: &mut Heap<O, Self>);

    /// An allocation failed.
    fn allocation_refused<O: Os>(heap: &mut Heap<O, Self>);

    /// The heap can reach its VM's collector from now on.
    fn collector_set<O: Os>(heap: &mut Heap<O, Self>);

    /// Raises the growth limit by what is kept for the VM's collector, for one attempt.
    fn open_collector_share<O: Os>(heap: &mut Heap<O, Self>);

    /// While [`Heap::collecting`]: an allocation took the slow path.
    fn allocated<O: Os>(heap: &mut Heap<O, Self>);

    /// That attempt is over.
    fn restore_limit<O: Os>(heap: &mut Heap<O, Self>);
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Calls [`ReclaimHooks::poll`] when its threshold is reached. Every operation off the hot path
    /// ends with this.
    #[inline]
    pub(super) fn poll_hooks(&mut self) {
        self.poll_in = self.poll_in.wrapping_sub(1);
        if self.runs.pages_churned > self.poll_threshold || self.poll_in == 0 {
            R::poll(self);
        }
    }

    /// Calls [`ReclaimHooks::poll`], whatever the threshold.
    pub(crate) fn poll_now(&mut self) {
        R::poll(self);
    }
}
