//! The functions that wait. Each goes straight on to the one behind until there is a VM on a heap,
//! and later too when its timeout is zero.
//!
//! The program gets the result that one call would have had: what is ready; nothing, after all of
//! the timeout; or the error as it comes, with its errno.
//!
//! Each function here is a point where its thread can be cancelled, as the one behind is. The C
//! library then unwinds the thread through the frames here, which have tables for it, nothing to
//! drop, and no landing pad: calls by the C ABI have none. (By "C-unwind" they would, in a build
//! whose panics abort, and it would end the process.)
//!
//! `ppoll`, `pselect` and `epoll_pwait2` are left alone: few programs use them.

use core::ffi::{c_int, c_void};
use core::ptr;

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use crate::library::{self, Idle};
use crate::real::{EPOLL_PWAIT, EPOLL_WAIT, POLL, POLL_CHK, PPOLL, PSELECT, SELECT};
use crate::signals;
use crate::sliced_wait::{Deadline, Nanoseconds, Timeout, Wait};

/// What does the due work between slices; none where no wait needs them: there is no VM on a heap,
/// and no report to be asked for.
#[inline]
fn idle() -> Option<Idle> {
    library::idle().or_else(|| signals::is_chosen().then_some(nothing_is_due as Idle))
}

/// # Safety
///
/// Always sound.
unsafe extern "C" fn nothing_is_due(_budget_us: u32) -> c_int {
    c_int::MAX
}

/// Waits on an epoll instance, as in the C library.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    events_max: c_int,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match idle() {
            Some(idle) if timeout_ms != 0 => {
                epoll_in_slices(idle, epoll, events, events_max, timeout_ms, ptr::null())
            }
            _ => EPOLL_WAIT.get()(epoll, events, events_max, timeout_ms),
        }
    }
}

/// Waits on an epoll instance with other signals held back, as in the C library.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn epoll_pwait(
    epoll: c_int,
    events: *mut epoll_event,
    events_max: c_int,
    timeout_ms: c_int,
    sigmask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match idle() {
            Some(idle) if timeout_ms != 0 => {
                epoll_in_slices(idle, epoll, events, events_max, timeout_ms, sigmask)
            }
            _ => EPOLL_PWAIT.get()(epoll, events, events_max, timeout_ms, sigmask),
        }
    }
}

/// # Safety
///
/// That of `epoll_pwait`; `sigmask` may be null.
unsafe extern "C" fn epoll_in_slices(
    idle: Idle,
    epoll: c_int,
    events: *mut epoll_event,
    events_max: c_int,
    timeout_ms: c_int,
    sigmask: *const sigset_t,
) -> c_int {
    let end = Deadline::after(timeout_from_ms(timeout_ms));
    let epoll_pwait = EPOLL_PWAIT.get();
    // SAFETY: the caller's promise; the set is that of `wait`, or the caller's.
    unsafe {
        let ready = epoll_pwait(epoll, events, events_max, 0, sigmask);
        if ready != 0 {
            return ready;
        }
        let mut wait = Wait::begin(idle, end);
        loop {
            let ms = wait.next().ms();
            let ready = epoll_pwait(epoll, events, events_max, ms, wait.mask_asleep(sigmask));
            if wait.is_over(ready) {
                return ready;
            }
        }
    }
}

/// Waits for descriptors, as in the C library.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn poll(descriptors: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match idle() {
            Some(idle) if timeout_ms != 0 => poll_in_slices(idle, descriptors, count, timeout_ms),
            _ => POLL.get()(descriptors, count, timeout_ms),
        }
    }
}

/// `poll` as `_FORTIFY_SOURCE` calls it where the compiler knows how large the array is.
///
/// # Safety
///
/// That of `poll`; `descriptors` has `size` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __poll_chk(
    descriptors: *mut pollfd,
    count: nfds_t,
    timeout_ms: c_int,
    size: usize,
) -> c_int {
    let fits = size / size_of::<pollfd>() >= count as usize;
    // SAFETY: the caller's promise. What does not fit is for the function behind to complain about.
    unsafe {
        match idle() {
            Some(idle) if timeout_ms != 0 && fits => {
                poll_in_slices(idle, descriptors, count, timeout_ms)
            }
            _ => POLL_CHK.get()(descriptors, count, timeout_ms, size),
        }
    }
}

/// # Safety
///
/// That of `poll`.
unsafe extern "C" fn poll_in_slices(
    idle: Idle,
    descriptors: *mut pollfd,
    count: nfds_t,
    timeout_ms: c_int,
) -> c_int {
    let end = Deadline::after(timeout_from_ms(timeout_ms));
    let ppoll = PPOLL.get();
    let at_once = Nanoseconds::ZERO.as_timespec();
    // SAFETY: the caller's promise; the set is that of `wait`.
    unsafe {
        let ready = ppoll(descriptors, count, &at_once, ptr::null());
        if ready != 0 {
            return ready;
        }
        let mut wait = Wait::begin(idle, end);
        loop {
            let time = wait.next().timespec();
            let ready = ppoll(descriptors, count, pointer(&time), wait.mask_asleep(ptr::null()));
            if wait.is_over(ready) {
                return ready;
            }
        }
    }
}

/// Waits for sets of descriptors, as in the C library.
///
/// # Safety
///
/// That of the function of the same name in the C library.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn select(
    count: c_int,
    readable: *mut fd_set,
    writable: *mut fd_set,
    special: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match idle() {
            Some(idle) if may_be_sliced(count, timeout) => {
                select_in_slices(idle, count, readable, writable, special, timeout)
            }
            _ => SELECT.get()(count, readable, writable, special, timeout),
        }
    }
}

/// # Safety
///
/// That of `select`; [`may_be_sliced`] says so.
unsafe extern "C" fn select_in_slices(
    idle: Idle,
    count: c_int,
    readable: *mut fd_set,
    writable: *mut fd_set,
    special: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    let sets = [readable, writable, special];
    let pselect = PSELECT.get();
    let at_once = Nanoseconds::ZERO.as_timespec();
    // SAFETY: the caller's promise; the set of signals is that of `wait`.
    unsafe {
        let end = Deadline::after(timeout_from_timeval(timeout));
        let requested = Sets::copied(count, sets);
        let ready = pselect(count, readable, writable, special, &at_once, ptr::null());
        if ready != 0 {
            write_left(timeout, end);
            return ready;
        }
        let mut wait = Wait::begin(idle, end);
        loop {
            requested.write_to(sets);
            let time = wait.next().timespec();
            let sigmask = wait.mask_asleep(ptr::null());
            let ready = pselect(count, readable, writable, special, pointer(&time), sigmask);
            if wait.is_over(ready) {
                write_left(timeout, end);
                return ready;
            }
        }
    }
}

/// A timeout as `epoll_wait` and `poll` take it: a negative one is for ever.
fn timeout_from_ms(ms: c_int) -> Timeout {
    u32::try_from(ms).ok().map(Nanoseconds::from_ms)
}

/// A timeout as `select` takes it: null is for ever.
///
/// # Safety
///
/// `timeout` is null or points to a time that is not negative.
unsafe fn timeout_from_timeval(timeout: *const timeval) -> Timeout {
    // SAFETY: the caller's promise.
    let time = unsafe { timeout.as_ref() }?;
    let ns = (time.tv_usec as u64).saturating_mul(1000);
    Some(Nanoseconds::from_parts(time.tv_sec as u64, ns))
}

/// Whether a call of `select` may take time, makes sense, and keeps to the size of `fd_set`.
///
/// # Safety
///
/// `timeout` is null or points to a time.
unsafe fn may_be_sliced(count: c_int, timeout: *const timeval) -> bool {
    // SAFETY: the caller's promise.
    let time = unsafe { timeout.as_ref() };
    let takes_time = time.is_none_or(|time| {
        time.tv_sec >= 0 && time.tv_usec >= 0 && (time.tv_sec > 0 || time.tv_usec > 0)
    });
    takes_time && (0..=libc::FD_SETSIZE as c_int).contains(&count)
}

/// `select` on Linux tells how much of its timeout was left.
///
/// # Safety
///
/// `timeout` is null or points to a time.
unsafe fn write_left(timeout: *mut timeval, end: Deadline) {
    // SAFETY: the caller's promise.
    if let (Some(timeout), Some(left)) = (unsafe { timeout.as_mut() }, end.left()) {
        let left = left.as_timespec();
        timeout.tv_sec = left.tv_sec;
        timeout.tv_usec = left.tv_nsec / 1000;
    }
}

fn pointer(time: &Option<timespec>) -> *const timespec {
    time.as_ref().map_or(ptr::null(), ptr::from_ref)
}

/// The descriptors that a program asks `select` for: the kernel empties the sets when none is
/// ready.
struct Sets {
    words: [[usize; Sets::WORDS]; 3],
    /// Bytes of each set that count.
    bytes: usize,
}

impl Sets {
    const WORDS: usize = libc::FD_SETSIZE / usize::BITS as usize;

    /// # Safety
    ///
    /// `count` is at most FD_SETSIZE; each set is null or has `count` bits, in whole words.
    unsafe fn copied(count: c_int, sets: [*mut fd_set; 3]) -> Sets {
        let bytes = (count as usize).div_ceil(usize::BITS as usize) * size_of::<usize>();
        let mut copy = Sets { words: [[0; Sets::WORDS]; 3], bytes };
        for (to, from) in copy.words.iter_mut().zip(sets) {
            if !from.is_null() {
                let to = to.as_mut_ptr().cast::<c_void>();
                // SAFETY: the caller's promise; there is room for FD_SETSIZE bits.
                unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), bytes) };
            }
        }
        copy
    }

    /// # Safety
    ///
    /// The sets are those that were copied.
    unsafe fn write_to(&self, sets: [*mut fd_set; 3]) {
        for (from, to) in self.words.iter().zip(sets) {
            if !to.is_null() {
                let from = from.as_ptr().cast::<u8>();
                // SAFETY: the caller's promise: the set has as many bytes, for they were copied
                // from there, and `from` is this structure's own.
                unsafe { ptr::copy_nonoverlapping(from, to.cast(), self.bytes) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_copied_and_written_in_whole_words_of_the_count() {
        let original: [usize; Sets::WORDS] = [0b1011; Sets::WORDS];
        let mut set = original;
        let sets = [set.as_mut_ptr().cast(), ptr::null_mut(), ptr::null_mut()];
        // SAFETY: the set has FD_SETSIZE bits.
        let requested = unsafe { Sets::copied(65, sets) };
        set.fill(0);
        let sets = [set.as_mut_ptr().cast(), ptr::null_mut(), ptr::null_mut()];
        // SAFETY: as above.
        unsafe { requested.write_to(sets) };
        assert_eq!(set[..2], original[..2]);
        assert!(set[2..].iter().all(|word| *word == 0));
    }

    #[test]
    fn only_what_makes_sense_is_sliced() {
        let sliced = |count, s, us| {
            let time = timeval { tv_sec: s, tv_usec: us };
            // SAFETY: a time.
            unsafe { may_be_sliced(count, &time) }
        };
        assert!(sliced(1, 0, 1) && sliced(1024, 1, 0) && sliced(0, 5, 2_000_000));
        assert!(!sliced(1, 0, 0) && !sliced(-1, 1, 0) && !sliced(1025, 1, 0));
        assert!(!sliced(1, -1, 0) && !sliced(1, 1, -1));
        // SAFETY: null is for ever.
        assert!(unsafe { may_be_sliced(1, ptr::null()) });
    }
}
