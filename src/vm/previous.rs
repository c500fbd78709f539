//! The allocator that a VM ran on before it had its heap: LuaJIT's own.
//!
//! Blocks that the VM had before stay there until they are freed, and nothing new is allocated
//! there. So free pages of that allocator are of no use to the VM any more. They go back when the
//! VM changes over, and later in passes over that heap, whenever the VM has freed enough there: on
//! the slow path of the new heap and in a tick of the host. The background thread has no part in
//! that, for a C module may still call the previous allocator, without a lock.

use core::ffi::c_void;
use core::ptr;

use super::attach::Builtin;
use crate::builtin::{self, Progress, Survey};
use crate::error::Error;
use crate::heap;
use crate::heap::ForeignReturned;
use crate::heap::cached_heap::KernelHeap as Heap;
use crate::os::{Kernel, Os};

/// What a VM ran on before it had its heap.
pub(crate) struct PreviousAllocator {
    builtin: Builtin,
    /// Bytes of its blocks that the VM still has.
    live: u64,
    /// Bytes of its segments that are resident, at most: as last counted, less what went back.
    resident: u64,
    progress: Progress,
    schedule: Schedule,
}

/// What the previous allocator of a VM holds, in bytes, without a walk.
#[derive(Clone, Copy, Default)]
pub(crate) struct PreviousUsage {
    /// In blocks that the VM still has.
    pub(crate) live: u64,
    /// In segments.
    pub(crate) reserved: u64,
    /// Resident there, at most.
    pub(crate) resident: u64,
}

impl PreviousAllocator {
    /// The allocator that a VM runs on now, as a survey has found it.
    pub(super) fn new(builtin: Builtin, survey: &Survey) -> PreviousAllocator {
        let Survey { live, resident, returnable, .. } = *survey;
        let progress = Progress::of_surveyed(builtin.state);
        let schedule = Schedule { freed: returnable, ..Schedule::default() };
        PreviousAllocator { builtin, live, resident, progress, schedule }
    }

    /// What it holds.
    pub(super) fn usage(&self) -> PreviousUsage {
        // SAFETY: a previous allocator's state is LuaJIT's, and only this thread, which has the VM,
        // uses it.
        let reserved = unsafe { builtin::reserved(self.builtin.state) };
        PreviousUsage { live: self.live, reserved, resident: self.resident.min(reserved) }
    }

    /// Walks its heap.
    pub(crate) fn survey(&self) -> Result<Survey, Error> {
        builtin::survey(&Kernel, self.builtin.state)
    }

    /// In how many microseconds free pages should go back. `None`: not before the VM frees more.
    pub(super) fn next_us(&self) -> Option<u64> {
        self.schedule.due_us().map(|due_us| due_us.saturating_sub(Kernel.now_us()))
    }

    /// Gives free pages back, until the deadline if there is one. After the end of a pass the
    /// kernel is asked what is left resident, if `counts`. A heap that does not add up is left
    /// alone. What the kernel does not let be looked at counts as a refusal.
    pub(super) fn give_back(&mut self, deadline_us: Option<u64>, counts: bool) -> ForeignReturned {
        let start_us = Kernel.now_us();
        self.schedule.note_start(deadline_us.is_none());
        let state = self.builtin.state;
        let done = builtin::reclaim(&Kernel, state, &mut self.progress, deadline_us);
        let (returned, end) = match done {
            Ok(done) => {
                let returned = ForeignReturned {
                    bytes: done.returned,
                    calls: done.calls,
                    refused: done.refused.into(),
                    more: done.more,
                };
                let end = match done {
                    _ if done.more => PassEnd::Deadline,
                    _ if done.refused => PassEnd::Refused,
                    _ => PassEnd::Complete,
                };
                (returned, end)
            }
            Err(Error::Unknown) => (ForeignReturned::default(), PassEnd::Unknown),
            Err(_) => (ForeignReturned { refused: 1, ..Default::default() }, PassEnd::Refused),
        };
        self.resident = self.resident.saturating_sub(returned.bytes);
        if counts && end != PassEnd::Deadline {
            self.count_resident();
        }
        self.schedule.note_end(start_us, Kernel.now_us(), end);
        returned
    }

    /// Asks the kernel how much is resident.
    fn count_resident(&mut self) {
        // SAFETY: as in `usage`.
        if let Some(counted) = unsafe { builtin::resident(&Kernel, self.builtin.state) } {
            self.resident = counted;
        }
    }

    /// # Safety
    ///
    /// `block` is a live block of the previous allocator.
    unsafe fn call(&mut self, block: *mut u8, new_size: usize) -> *mut u8 {
        let Builtin { function, state, .. } = self.builtin;
        // SAFETY: the caller's promise; the function does not look at the old size.
        unsafe { function(state.cast::<c_void>(), block.cast(), 0, new_size).cast() }
    }

    /// Frees a block. True: this is a moment to ask whether free pages should go back.
    ///
    /// # Safety
    ///
    /// `block` is a live block of the previous allocator.
    pub(super) unsafe fn free(&mut self, block: *mut u8) -> bool {
        // SAFETY: the caller's promise.
        let bytes = unsafe {
            let bytes = builtin::block_size(block).1 as u64;
            self.call(block, 0);
            bytes
        };
        self.live = self.live.saturating_sub(bytes);
        self.schedule.note_freed(bytes)
    }

    /// Moves a block that is resized to the heap. A shrink never fails.
    ///
    /// # Safety
    ///
    /// `heap` is live and this thread's, and `block` a live block of the previous allocator.
    pub(super) unsafe fn migrate_block(
        &mut self,
        heap: *mut Heap,
        block: *mut u8,
        new_size: usize,
    ) -> *mut u8 {
        // SAFETY: the caller's promises; the new block is another one.
        unsafe {
            let (size, _) = builtin::block_size(block);
            let new = heap::alloc::<Kernel>(heap, ptr::null_mut(), 0, new_size);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, size.min(new_size));
                self.free(block);
                return new;
            }
            if new_size <= size { block } else { ptr::null_mut() }
        }
    }

    /// Unmaps all that the previous allocator has.
    ///
    /// # Safety
    ///
    /// None of its blocks is live.
    pub(super) unsafe fn release(&self) {
        // SAFETY: the caller's promise. What does not add up stays mapped, which harms nobody; a
        // process without a free file descriptor or without /proc gets rid of it all the same.
        let _ = unsafe { builtin::release(&Kernel, self.builtin.state) };
    }
}

/// When the next pass over the previous allocator's heap is due.
#[derive(Default)]
struct Schedule {
    /// Bytes that became free there since the last pass began.
    freed: u64,
    /// A pass has stopped at its deadline: how many microseconds it has taken until then.
    under_way_us: Option<u64>,
    /// No pass before this time.
    not_before_us: u64,
}

/// How a pass, or a part of one, has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PassEnd {
    Complete,
    Deadline,
    /// The kernel refused some of it.
    Refused,
    /// The heap does not add up.
    Unknown,
}

impl Schedule {
    /// A pass is worth its time when this many bytes were freed.
    const LEAST: u64 = 128 << 10;
    /// Passes that follow each other take a sixteenth of the time at most: each opens the kernel's
    /// list of mappings, and looks at every free chunk.
    const SHARE: u64 = 16;
    /// A kernel that refused is asked again after this time.
    const REST_US: u64 = 1_000_000;

    /// When a pass is due. `None`: too little was freed.
    fn due_us(&self) -> Option<u64> {
        let is_due = self.under_way_us.is_some() || self.freed >= Self::LEAST;
        (is_due && self.not_before_us < u64::MAX).then_some(self.not_before_us)
    }

    /// True once for every [`Schedule::LEAST`] bytes.
    fn note_freed(&mut self, bytes: u64) -> bool {
        let before = self.freed;
        self.freed += bytes;
        before / Self::LEAST != self.freed / Self::LEAST
    }

    /// A pass begins, or goes on unless it `is_whole`. What is freed after the beginning of a pass
    /// is for the next one.
    fn note_start(&mut self, is_whole: bool) {
        if is_whole || self.under_way_us.is_none() {
            self.freed = 0;
        }
    }

    fn note_end(&mut self, start_us: u64, end_us: u64, end: PassEnd) {
        let took_us = self.under_way_us.take().unwrap_or(0) + end_us.saturating_sub(start_us);
        self.not_before_us = match end {
            PassEnd::Complete => end_us + took_us * Self::SHARE,
            PassEnd::Refused => end_us + Self::REST_US,
            PassEnd::Unknown => u64::MAX,
            PassEnd::Deadline => {
                self.under_way_us = Some(took_us);
                0
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_when_enough_was_freed_and_not_before_its_time() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due_us(), None);
        assert!(!schedule.note_freed(Schedule::LEAST - 1));
        assert_eq!(schedule.due_us(), None);
        assert!(schedule.note_freed(1));
        assert!(!schedule.note_freed(1));
        assert_eq!(schedule.due_us(), Some(0));
        schedule.note_start(false);
        schedule.note_end(1000, 1100, PassEnd::Complete);
        assert_eq!(schedule.due_us(), None);
        assert!(schedule.note_freed(Schedule::LEAST));
        assert_eq!(schedule.due_us(), Some(1100 + 100 * Schedule::SHARE));
    }

    #[test]
    fn a_pass_that_met_its_deadline_goes_on_and_forgets_nothing() {
        let mut schedule = Schedule::default();
        schedule.note_freed(Schedule::LEAST);
        schedule.note_start(false);
        schedule.note_end(0, 10, PassEnd::Deadline);
        assert_eq!(schedule.due_us(), Some(0));
        // Freed behind the cursor: the next pass comes for that.
        schedule.note_freed(Schedule::LEAST);
        schedule.note_start(false);
        schedule.note_end(500, 510, PassEnd::Complete);
        assert_eq!(schedule.due_us(), Some(510 + 20 * Schedule::SHARE));
        schedule.note_start(false);
        schedule.note_end(600, 600, PassEnd::Deadline);
        schedule.note_freed(Schedule::LEAST);
        schedule.note_start(true);
        schedule.note_end(700, 700, PassEnd::Complete);
        assert_eq!(schedule.due_us(), None);
    }

    #[test]
    fn a_kernel_that_refused_rests_and_a_heap_that_does_not_add_up_is_left_alone() {
        let mut schedule = Schedule::default();
        schedule.note_start(false);
        schedule.note_end(0, 10, PassEnd::Refused);
        schedule.note_freed(Schedule::LEAST);
        assert_eq!(schedule.due_us(), Some(10 + Schedule::REST_US));
        schedule.note_start(false);
        schedule.note_end(0, 10, PassEnd::Unknown);
        schedule.note_freed(10 * Schedule::LEAST);
        assert_eq!(schedule.due_us(), None);
    }
}
