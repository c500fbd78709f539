//! The allocator that a VM ran on before it had its heap: LuaJIT's own.
//!
//! Blocks that the VM had before stay there until they are freed, and nothing new is allocated
//! there. So free pages of that allocator are of no use to the VM any more. They go back when the
//! VM changes over, and later in passes over that heap, whenever the VM has freed enough there: at
//! one of those frees, on the slow path of the new heap, and in a tick of the host. All of them go
//! back when the host asks. The background thread has no part in that, for a C module may still
//! call the previous allocator, without a lock.
//!
//! A pass that does not know that heap again leaves it alone, and is the last one by itself until
//! the host asks for a whole one, which finds the heap in order. A line in the log says so, with
//! one of two reasons:
//!
//! - The heap is damaged: its records contradict each other. The same is said at the end of the VM,
//!   if it is found only then.
//! - The heap has grown or is damaged: its list of segments leads to memory that is not known. For
//!   a pass only the list of mappings decides that, and a pass by itself opens no file. A pass that
//!   the host asks for does.
//!
//! Passes by themselves and the ends of VMs say each reason once in a process, for a host may have
//! a VM for each request. A pass that the host asks for says it once of each VM.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::attach::Builtin;
use crate::builtin::{self, KnownHeap, KnownPass, Progress, Reclaimed, Survey};
use crate::error::{self, Error};
use crate::heap::{ForeignReason, ForeignReturned};
use crate::log;
use crate::os::{Kernel, Os};

/// What a VM ran on before it had its heap.
pub(crate) struct PreviousAllocator {
    builtin: Builtin,
    heap: KnownHeap,
    /// Bytes of its blocks that the VM still has.
    live: u64,
    /// Bytes of its segments that are resident, at most: as last counted, less what went back.
    resident: u64,
    /// How far scheduled passes have come, and how far those for a host or in an idle VM.
    progress: Progress,
    host_progress: Progress,
    schedule: Schedule,
    /// See [`PreviousUsage`].
    is_damaged: bool,
    /// What a line has said of this heap.
    said: Said,
}

/// What a line has said of a heap, if any.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    /// The heap has grown or is damaged.
    Doubt,
    Damage,
}

/// Whether a line that nobody asked for has said this in the process.
static DOUBT_SAID: AtomicBool = AtomicBool::new(false);
static DAMAGE_SAID: AtomicBool = AtomicBool::new(false);

/// What the previous allocator of a VM holds, in bytes, without a walk.
#[derive(Clone, Copy, Default)]
pub(crate) struct PreviousUsage {
    /// In blocks that the VM still has.
    pub(crate) live: u64,
    /// In segments.
    pub(crate) reserved: u64,
    /// Resident there, at most.
    pub(crate) resident: u64,
    /// A pass found that its heap does not add up.
    pub(crate) is_damaged: bool,
}

impl PreviousAllocator {
    /// The allocator that a VM runs on now, as a survey has found it.
    pub(super) fn new(builtin: Builtin, heap: KnownHeap, survey: &Survey) -> PreviousAllocator {
        let Survey { live, resident, returnable, .. } = *survey;
        let progress = Progress::of_surveyed(builtin.state);
        PreviousAllocator {
            builtin,
            heap,
            live,
            resident,
            progress,
            host_progress: progress,
            schedule: Schedule { freed: returnable, ..Schedule::default() },
            is_damaged: false,
            said: Said::Nothing,
        }
    }

    /// What it holds.
    pub(super) fn usage(&self) -> PreviousUsage {
        // SAFETY: `attach` has recognised the heap, whose segments are LuaJIT's allocator's own,
        // and only this thread, which has the VM, calls that allocator.
        let reserved = || unsafe { self.heap.reserved(&Kernel) };
        let reserved = error::without_trace(reserved);
        let resident = self.resident.min(reserved);
        PreviousUsage { live: self.live, reserved, resident, is_damaged: self.is_damaged }
    }

    /// Walks its heap.
    pub(crate) fn survey(&self) -> Result<Survey, Error> {
        builtin::survey(&Kernel, self.builtin.state)
    }

    /// In how many microseconds free pages should go back. `None`: not before the VM frees more.
    pub(super) fn next_us(&self) -> Option<u64> {
        self.schedule.next_us(|| Kernel.now_us())
    }

    /// Gives free pages back, until the deadline if there is one. At the end of a pass over all of
    /// them, the kernel is asked what is left resident. A heap that does not add up is left alone.
    /// Only a pass that the host has asked for opens a file, and leaves the reason of an error.
    pub(super) fn give_back(
        &mut self,
        reason: ForeignReason,
        deadline_us: Option<u64>,
    ) -> ForeignReturned {
        match reason {
            ForeignReason::Asked => self.pass(reason, deadline_us),
            _ => error::without_trace(|| self.pass(reason, deadline_us)),
        }
    }

    /// As [`PreviousAllocator::give_back`] says.
    fn pass(&mut self, reason: ForeignReason, deadline_us: Option<u64>) -> ForeignReturned {
        let start_us = Kernel.now_us();
        let is_whole = deadline_us.is_none();
        let is_asked = reason == ForeignReason::Asked;
        // What goes back in steps, for the host or in an idle VM, has a place of its own in the
        // heap, and no say in when the next pass by itself is due.
        let (progress, is_scheduled) = match reason {
            ForeignReason::Due => (&mut self.progress, true),
            ForeignReason::Idle | ForeignReason::Asked => (&mut self.host_progress, is_whole),
        };
        if is_scheduled {
            self.schedule.note_start(is_whole);
        }
        // SAFETY: as in `usage`.
        let pass = unsafe { self.heap.reclaim(&Kernel, progress, deadline_us, is_asked) };
        let KnownPass { done, may_have_grown } = pass;
        if is_asked && is_whole && done.is_ok() {
            (self.is_damaged, self.said) = (false, Said::Nothing);
        }
        let (returned, end) = PassEnd::of(done);
        self.resident = self.resident.saturating_sub(returned.bytes);
        match end {
            PassEnd::Unknown => self.note_unknown(is_asked, may_have_grown),
            PassEnd::Deadline => {}
            _ if reason != ForeignReason::Due => self.count_resident(),
            _ => {}
        }
        if is_scheduled || end == PassEnd::Unknown {
            self.schedule.note_end(start_us, Kernel.now_us(), end);
        }
        returned
    }

    /// Has each next pass recognise the heap anew, and says why if that is news. The thread's last
    /// error is the reason.
    fn note_unknown(&mut self, is_asked: bool, may_have_grown: bool) {
        if may_have_grown {
            if self.said == Said::Nothing && !DOUBT_SAID.swap(true, Relaxed) {
                self.said = Said::Doubt;
                say("has grown or is damaged, and its free pages stay until a reclaim tells which");
            }
        } else {
            self.is_damaged = true;
            if self.said != Said::Damage && (!DAMAGE_SAID.swap(true, Relaxed) || is_asked) {
                self.said = Said::Damage;
                say("is damaged, and its free pages stay");
            }
        }
        (self.progress, self.host_progress) = Default::default();
    }

    /// Asks the kernel how much is resident.
    fn count_resident(&mut self) {
        // SAFETY: as in `usage`.
        if let Some(counted) = unsafe { self.heap.resident(&Kernel) } {
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

    /// Unmaps all that the previous allocator has.
    ///
    /// # Safety
    ///
    /// None of its blocks is live.
    pub(super) unsafe fn release(&self) {
        error::without_trace(|| {
            // SAFETY: the caller's promise, and as in `usage`. What does not add up stays mapped,
            // which takes memory until the process ends, and harms nobody.
            let released = unsafe { self.heap.release(&Kernel) };
            let is_news = released == Err(Error::Unknown) && self.said == Said::Nothing;
            if is_news && !DAMAGE_SAID.swap(true, Relaxed) {
                say("is damaged, and stays mapped after the VM's end");
            }
        });
    }
}

/// Says in a line what is wrong with a heap, and the thread's last error. The line comes from
/// within frees and allocations: it takes no lock, allocates nothing and keeps `errno`.
#[cold]
fn say(what: &str) {
    let reason = error::last_line();
    log::line(format_args!("a VM's heap from before attach() {what}: {}", reason.as_str()));
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
    /// How long a kernel that refused is left alone; 0: it did not refuse.
    rest_us: u64,
}

/// How a pass, or a part of one, has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PassEnd {
    Complete,
    Deadline,
    /// The kernel refused some of it.
    Refused,
    /// The heap does not add up, or has grown.
    Unknown,
}

impl PassEnd {
    /// What a pass gave back, and how it has ended.
    fn of(done: Result<Reclaimed, Error>) -> (ForeignReturned, PassEnd) {
        match done {
            Ok(Reclaimed { returned, calls, more, refused }) => {
                let end = match (more, refused) {
                    (true, _) => PassEnd::Deadline,
                    (false, true) => PassEnd::Refused,
                    (false, false) => PassEnd::Complete,
                };
                (ForeignReturned { bytes: returned, calls, refused: refused.into(), more }, end)
            }
            Err(Error::Unknown) => (ForeignReturned::default(), PassEnd::Unknown),
            Err(_) => (ForeignReturned { refused: 1, ..Default::default() }, PassEnd::Refused),
        }
    }
}

impl Schedule {
    /// A pass is worth its time when this many bytes were freed.
    const LEAST: u64 = 128 << 10;
    /// Passes that follow each other take a sixteenth of the time at most, for each looks at every
    /// free chunk. But the next one waits no longer than this: what a pass took includes the time
    /// for which the thread did not run.
    const SHARE: u64 = 16;
    const PAUSE_MOST_US: u64 = 1_000_000;
    /// A kernel that refused is asked again after this time at first, and at last.
    const REST_US: (u64, u64) = (1_000_000, 64_000_000);

    /// In how many microseconds a pass is due. `None`: too little was freed.
    fn next_us(&self, now_us: impl FnOnce() -> u64) -> Option<u64> {
        let is_due = self.under_way_us.is_some() || self.freed >= Self::LEAST;
        if !is_due || self.is_stopped() {
            return None;
        }
        let wait_us = self.not_before_us.saturating_sub(now_us());
        // No pause is longer: the clock has gone back.
        Some(if wait_us > Self::REST_US.1 { 0 } else { wait_us })
    }

    /// No pass is due ever: the last one did not know the heap again.
    fn is_stopped(&self) -> bool {
        self.not_before_us == u64::MAX
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
        self.rest_us = match end {
            PassEnd::Refused => (self.rest_us * 2).clamp(Self::REST_US.0, Self::REST_US.1),
            _ => 0,
        };
        self.not_before_us = match end {
            PassEnd::Complete => end_us + (took_us * Self::SHARE).min(Self::PAUSE_MOST_US),
            PassEnd::Refused => {
                // What was refused is still free.
                self.freed += Self::LEAST;
                end_us + self.rest_us
            }
            // See `is_stopped`.
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

    /// When a pass is due, at the beginning of time.
    fn due(schedule: &Schedule) -> Option<u64> {
        schedule.next_us(|| 0)
    }

    #[test]
    fn a_pass_is_due_when_enough_was_freed_and_not_before_its_time() {
        let mut schedule = Schedule::default();
        assert_eq!(due(&schedule), None);
        assert!(!schedule.note_freed(Schedule::LEAST - 1));
        assert_eq!(due(&schedule), None);
        assert!(schedule.note_freed(1));
        assert!(!schedule.note_freed(1));
        assert_eq!(due(&schedule), Some(0));
        schedule.note_start(false);
        schedule.note_end(1000, 1100, PassEnd::Complete);
        assert_eq!(due(&schedule), None);
        assert!(schedule.note_freed(Schedule::LEAST));
        assert_eq!(due(&schedule), Some(1100 + 100 * Schedule::SHARE));
        assert_eq!(schedule.next_us(|| 2000), Some(1100 + 100 * Schedule::SHARE - 2000));
        // A thread that did not run for ten seconds does not make the next pass wait for longer.
        schedule.note_start(false);
        schedule.note_end(0, 10_000_000, PassEnd::Complete);
        schedule.note_freed(Schedule::LEAST);
        assert_eq!(schedule.next_us(|| 10_000_000), Some(Schedule::PAUSE_MOST_US));
    }

    #[test]
    fn a_pass_that_met_its_deadline_goes_on_and_forgets_nothing() {
        let mut schedule = Schedule::default();
        schedule.note_freed(Schedule::LEAST);
        schedule.note_start(false);
        schedule.note_end(0, 10, PassEnd::Deadline);
        assert_eq!(due(&schedule), Some(0));
        // Freed behind the cursor: the next pass comes for that.
        schedule.note_freed(Schedule::LEAST);
        schedule.note_start(false);
        schedule.note_end(500, 510, PassEnd::Complete);
        assert_eq!(due(&schedule), Some(510 + 20 * Schedule::SHARE));
        schedule.note_start(false);
        schedule.note_end(600, 600, PassEnd::Deadline);
        schedule.note_freed(Schedule::LEAST);
        schedule.note_start(true);
        schedule.note_end(700, 700, PassEnd::Complete);
        assert_eq!(due(&schedule), None);
    }

    #[test]
    fn what_a_kernel_refused_is_tried_again_more_and_more_rarely() {
        let mut schedule = Schedule::default();
        schedule.note_freed(Schedule::LEAST);
        let mut expected_us = Schedule::REST_US.0;
        for _ in 0..10 {
            schedule.note_start(false);
            schedule.note_end(0, 0, PassEnd::Refused);
            assert_eq!(due(&schedule), Some(expected_us));
            expected_us = (2 * expected_us).min(Schedule::REST_US.1);
        }
        schedule.note_start(false);
        schedule.note_end(0, 0, PassEnd::Complete);
        assert_eq!(due(&schedule), None);
        schedule.note_start(false);
        schedule.note_end(0, 0, PassEnd::Refused);
        assert_eq!(due(&schedule), Some(Schedule::REST_US.0));
    }

    #[test]
    fn a_heap_that_does_not_add_up_is_left_alone_and_a_clock_may_go_back() {
        let mut schedule = Schedule::default();
        schedule.note_end(0, 10, PassEnd::Unknown);
        schedule.note_freed(10 * Schedule::LEAST);
        assert!(schedule.is_stopped());
        assert_eq!(due(&schedule), None);
        // The host has asked for a whole pass, which found it in order.
        schedule.note_start(true);
        schedule.note_end(20, 20, PassEnd::Complete);
        schedule.note_freed(Schedule::LEAST);
        assert!(!schedule.is_stopped() && due(&schedule) == Some(20));
        let mut schedule = Schedule::default();
        schedule.note_end(1 << 40, 1 << 40, PassEnd::Complete);
        schedule.note_freed(Schedule::LEAST);
        assert_eq!(due(&schedule), Some(0));
    }
}
