//! A wait in slices: between them, heaps that belong to the waiting thread exhale, and the garbage
//! of its idle VMs is collected in steps.
//!
//! Each of the functions that wait first looks with a timeout of zero, so that what is ready is
//! returned at once. It begins a [`Wait`] when nothing is ready. From then on the thread's signals
//! are held back except while it sleeps, as `ppoll` does it: a signal that comes while a heap exhales
//! interrupts the next slice, as it would have interrupted the one wait that the program asked for.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;

use libc::{sigset_t, timespec};

use crate::library::Idle;
use crate::signals;
use crate::system::now_ns;

/// Microseconds that heaps may exhale for, and that a step of a collection may take, before the
/// descriptors are looked at again.
const BUDGET_US: u32 = 500;
/// Milliseconds after which a wait looks whether a report was asked for, where that can be.
const REPORT_MS: c_int = 500;

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanoseconds(u64);

impl Nanoseconds {
    pub(crate) const ZERO: Nanoseconds = Nanoseconds(0);

    pub(crate) fn from_ms(ms: u32) -> Nanoseconds {
        Nanoseconds(u64::from(ms) * 1_000_000)
    }

    /// Too long a time is cut off after five hundred years.
    pub(crate) fn from_parts(s: u64, ns: u64) -> Nanoseconds {
        Nanoseconds(s.saturating_mul(1_000_000_000).saturating_add(ns))
    }

    pub(crate) fn as_timespec(self) -> timespec {
        timespec {
            tv_sec: (self.0 / 1_000_000_000) as i64,
            tv_nsec: (self.0 % 1_000_000_000) as i64,
        }
    }

    /// Rounded up: no wait ends early.
    fn as_ms(self) -> c_int {
        c_int::try_from(self.0.div_ceil(1_000_000)).unwrap_or(c_int::MAX)
    }
}

/// How long a program asks to wait: none is for ever.
pub(crate) type Timeout = Option<Nanoseconds>;

/// When a wait ends.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Option<u64>);

impl Deadline {
    /// So long from now.
    pub(crate) fn after(timeout: Timeout) -> Deadline {
        Deadline(timeout.map(|timeout| now_ns().saturating_add(timeout.0)))
    }

    /// What is left until then.
    pub(crate) fn left(self) -> Timeout {
        self.0.map(|end| Nanoseconds(end.saturating_sub(now_ns())))
    }
}

/// The next slice of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    length: Timeout,
    /// The wait ends with it.
    is_last: bool,
}

impl Slice {
    /// `due_ms`: when the heaps want to exhale again; `c_int::MAX`: never.
    fn new(left: Timeout, due_ms: c_int) -> Slice {
        let due = u32::try_from(due_ms).ok().filter(|_| due_ms != c_int::MAX);
        match (left, due.map(Nanoseconds::from_ms)) {
            (None, Some(due)) => Slice { length: Some(due), is_last: false },
            (Some(left), Some(due)) if due < left => Slice { length: Some(due), is_last: false },
            _ => Slice { length: left, is_last: true },
        }
    }

    /// In milliseconds; -1: for ever.
    pub(crate) fn ms(self) -> c_int {
        self.length.map_or(-1, Nanoseconds::as_ms)
    }

    /// None: for ever.
    pub(crate) fn timespec(self) -> Option<timespec> {
        self.length.map(Nanoseconds::as_timespec)
    }
}

/// A wait that may have to sleep. Must end with [`Wait::is_over`]: it holds signals back.
pub(crate) struct Wait {
    idle: Idle,
    end: Deadline,
    /// The last slice that was given out.
    slice: Slice,
    /// The signals that the thread held back before.
    mask_before: sigset_t,
    /// The chosen signal where the program leaves it alone; 0: none. A wait would end with it,
    /// which the program does not expect, so it is held back and looked for between slices.
    report: c_int,
    /// The signals to hold back while the thread sleeps, with that one.
    mask_asleep: sigset_t,
}

impl Wait {
    pub(crate) fn begin(idle: Idle, end: Deadline) -> Wait {
        let slice = Slice { length: None, is_last: false };
        let mask_before = hold_signals();
        let report = signals::chosen_alone();
        Wait { idle, end, slice, mask_before, report, mask_asleep: mask_before }
    }

    /// Lets heaps exhale. Returns how long to sleep.
    pub(crate) fn next(&mut self) -> Slice {
        // SAFETY: errno is this thread's; the function has no conditions.
        let due_ms = unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            let due_ms = (self.idle)(BUDGET_US);
            *errno = before;
            due_ms
        };
        if self.report != 0 && !is_member(&self.mask_before, self.report) {
            signals::let_in(self.report);
        }
        let due_ms = if self.report == 0 { due_ms } else { sooner(due_ms, REPORT_MS) };
        self.slice = Slice::new(self.end.left(), due_ms);
        self.slice
    }

    /// The signals to hold back while the thread sleeps: those that the program asks for, or those
    /// that it held back anyway.
    ///
    /// # Safety
    ///
    /// `requested` is null or points to a set.
    pub(crate) unsafe fn mask_asleep(&mut self, requested: *const sigset_t) -> *const sigset_t {
        let sigmask = if requested.is_null() { &raw const self.mask_before } else { requested };
        if self.report == 0 {
            return sigmask;
        }
        // SAFETY: `sigmask` is this structure's own or, by the caller's promise, points to a set.
        unsafe {
            self.mask_asleep = *sigmask;
            libc::sigaddset(&mut self.mask_asleep, self.report);
        }
        &raw const self.mask_asleep
    }

    /// Whether the program gets the result of the last slice; if so, signals come again.
    pub(crate) fn is_over(&mut self, result: c_int) -> bool {
        let is_over = result != 0 || self.slice.is_last;
        if is_over {
            // SAFETY: the set was filled in by the same function, which leaves errno alone.
            unsafe {
                libc::sigprocmask(libc::SIG_SETMASK, &self.mask_before, ptr::null_mut());
            }
        }
        is_over
    }
}

/// Whichever of two times comes first; negative: never.
fn sooner(due_ms: c_int, other_ms: c_int) -> c_int {
    if due_ms < 0 { other_ms } else { due_ms.min(other_ms) }
}

fn is_member(set: &sigset_t, signal: c_int) -> bool {
    // SAFETY: a set.
    unsafe { libc::sigismember(set, signal) == 1 }
}

/// Holds back all signals but those that an instruction raises; returns those held back before.
fn hold_signals() -> sigset_t {
    const RAISED: [c_int; 7] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGABRT,
    ];
    let mut sigmask = MaybeUninit::<sigset_t>::zeroed();
    let mut before = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: there is room for the sets, which may be all zero; the functions leave errno alone.
    unsafe {
        libc::sigfillset(sigmask.as_mut_ptr());
        for signal in RAISED {
            libc::sigdelset(sigmask.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, sigmask.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: c_int = c_int::MAX;

    fn ms(ms: u32) -> Timeout {
        Some(Nanoseconds::from_ms(ms))
    }

    #[test]
    fn a_wait_without_due_work_is_one_slice() {
        for left in [None, ms(0), ms(7)] {
            assert_eq!(Slice::new(left, NEVER), Slice { length: left, is_last: true });
            assert_eq!(Slice::new(left, -1), Slice { length: left, is_last: true });
        }
    }

    #[test]
    fn a_slice_ends_when_work_is_due_or_the_wait_ends() {
        assert_eq!(Slice::new(None, 5), Slice { length: ms(5), is_last: false });
        assert_eq!(Slice::new(ms(9), 5), Slice { length: ms(5), is_last: false });
        assert_eq!(Slice::new(ms(5), 5), Slice { length: ms(5), is_last: true });
        assert_eq!(Slice::new(ms(3), 5), Slice { length: ms(3), is_last: true });
        assert_eq!(Slice::new(ms(9), 0), Slice { length: ms(0), is_last: false });
        assert_eq!(Slice::new(ms(0), 0), Slice { length: ms(0), is_last: true });
    }

    #[test]
    fn times_are_rounded_up_and_cut_off() {
        let slice = |ns| Slice { length: Some(Nanoseconds(ns)), is_last: true };
        assert_eq!(slice(0).ms(), 0);
        assert_eq!(slice(1).ms(), 1);
        assert_eq!(slice(1_000_000).ms(), 1);
        assert_eq!(slice(1_000_001).ms(), 2);
        assert_eq!(slice(u64::MAX).ms(), c_int::MAX);
        assert_eq!(Slice { length: None, is_last: true }.ms(), -1);
        assert_eq!(Nanoseconds::from_parts(u64::MAX, 5), Nanoseconds(u64::MAX));
        let time = Nanoseconds::from_parts(3, 14).as_timespec();
        assert_eq!((time.tv_sec, time.tv_nsec), (3, 14));
    }

    #[test]
    fn what_is_left_of_a_wait_only_shrinks() {
        let end = Deadline::after(ms(60_000));
        let left = end.left();
        assert!(left <= ms(60_000) && left > ms(1_000));
        assert_eq!(Deadline::after(Some(Nanoseconds::ZERO)).left(), Some(Nanoseconds::ZERO));
        assert_eq!(Deadline::after(None).left(), None);
        assert!(Deadline::after(Some(Nanoseconds(u64::MAX))).left() > ms(1 << 31));
    }

    #[test]
    fn the_sooner_of_two_times_is_taken() {
        assert_eq!(sooner(3, 500), 3);
        assert_eq!(sooner(NEVER, 500), 500);
        assert_eq!(sooner(-1, 500), 500);
    }

    unsafe extern "C" fn due_in_3_ms(budget_us: u32) -> c_int {
        // SAFETY: errno is this thread's.
        unsafe { *libc::__errno_location() = budget_us as c_int };
        3
    }

    fn is_held(signal: c_int) -> bool {
        let mut now = MaybeUninit::<sigset_t>::zeroed();
        // SAFETY: there is room for the set.
        unsafe {
            libc::sigprocmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr());
            libc::sigismember(now.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn signals_are_held_back_until_a_wait_is_over_and_errno_stays() {
        // SAFETY: errno is this thread's.
        unsafe { *libc::__errno_location() = 77 };
        let mut wait = Wait::begin(due_in_3_ms, Deadline::after(ms(5)));
        assert!(is_held(libc::SIGTERM) && !is_held(libc::SIGSEGV));
        assert_eq!(wait.next(), Slice { length: ms(3), is_last: false });
        assert!(!wait.is_over(0) && is_held(libc::SIGTERM));
        assert!(wait.is_over(-1) && !is_held(libc::SIGTERM));
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 77);
    }
}
