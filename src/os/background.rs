//! The background thread: one for the process, which is there only while it has something to do.
//!
//! It visits the items that were added to its list, one after the other, and learns from each when
//! to come again. When none wants a visit it ends; whoever has news for it starts it again.
//!
//! | who                | does                                                                 |
//! |--------------------|----------------------------------------------------------------------|
//! | an item's owner    | [`add`], once; [`call`], when the next visit is due earlier          |
//! | the thread         | names the item that it visits, then looks whether it is still listed |
//! | the item's owner   | [`remove`]: takes it off the list, then waits while it is named      |
//!
//! There is no lock, so none can be found locked after a fork. What the thread writes for the
//! owners lies on a page that the kernel wipes in the child of a fork, or of a bare `clone`: the
//! child finds no thread, and no item visited. The list lies elsewhere, and stays.
//! (`MADV_WIPEONFORK`: Linux 4.14. Where the kernel refuses it there is no background thread.)
//!
//! An owner stores its news, then looks whether the thread is there. The thread stores that it is
//! gone, then looks for news. Fences between the two make sure that one of them sees the other's.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, fence};

use super::kernel::preserve_errno;
use super::{Kernel, Os};

/// What the thread does for the items of its list.
pub(crate) trait Work {
    /// Visits an item. `is_listed` tells whether to go on; the visit asks between steps that take
    /// some 100 µs each. Returns when to come again on the clock of [`Os::now_us`]; `None`: when
    /// called.
    ///
    /// # Safety
    ///
    /// The item was given to [`add`] and is on the list, or [`remove`] waits.
    unsafe fn visit(item: *mut c_void, is_listed: &dyn Fn() -> bool) -> Option<u64>;
}

/// What is the thread's alone: wiped in the child of a fork.
#[repr(C)]
struct Thread {
    /// 1: the thread is there.
    is_there: AtomicU32,
    /// Changes when the thread should look at all items anew.
    bell: AtomicU32,
    /// When it will do so by itself.
    wakes_us: AtomicU64,
    /// The item that it visits, or null.
    visited: AtomicPtr<c_void>,
    /// Visits that have begun.
    visits: AtomicU64,
    /// Which process this is; 0: nobody has asked yet.
    process: AtomicU64,
}

/// The page with the [`Thread`], once somebody has added an item. Never unmapped.
static THREAD: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());

const ITEMS: usize = 511;

/// A part of the list: a page.
#[repr(C)]
struct Part {
    items: [AtomicPtr<c_void>; ITEMS],
    next: AtomicPtr<Part>,
}

static LIST: Part = Part {
    items: [const { AtomicPtr::new(ptr::null_mut()) }; ITEMS],
    next: AtomicPtr::new(ptr::null_mut()),
};

/// The thread is woken when it is due earlier than it would wake by itself, by more than this. It
/// saves wake-ups when each of many heaps has news. A thread that cannot be woken looks at the bell
/// as often.
const SLACK_US: u64 = 100_000;
/// The thread looks every 5 s whether it is the last of the process. It does not wake for that
/// alone where it wakes twice as often anyway.
const LOOK_AROUND_US: u64 = 5_000_000;
/// Enough for the thread's few frames and for what C libraries keep on a stack for themselves.
const STACK: usize = 256 << 10;

/// Puts an item on the list. False: there can be no thread.
pub(crate) fn add(item: *mut c_void) -> bool {
    if thread().is_none() {
        return false;
    }
    let mut part = &LIST;
    loop {
        for place in &part.items {
            if place.compare_exchange(ptr::null_mut(), item, Release, Relaxed).is_ok() {
                return true;
            }
        }
        match next_or_new(part) {
            Some(next) => part = next,
            None => return false,
        }
    }
}

/// Takes an item off the list, and waits until the thread does not visit it any more.
pub(crate) fn remove(item: *mut c_void) {
    let is_item = |place: &&AtomicPtr<c_void>| place.load(Relaxed) == item;
    if let Some(place) = parts().flat_map(|part| &part.items).find(is_item) {
        place.store(ptr::null_mut(), SeqCst);
    }
    fence(SeqCst);
    let mut patience = Patience::default();
    while is_visited(item) {
        patience.wait();
    }
}

/// Whether the thread visits an item now.
pub(crate) fn is_visited(item: *mut c_void) -> bool {
    thread_if_any().is_some_and(|thread| thread.visited.load(SeqCst) == item)
}

/// How many visits have begun. Between two calls that return the same number nobody worked on an
/// item that was not visited just after the first of them.
pub(crate) fn visits() -> u64 {
    thread_if_any().map_or(0, |thread| thread.visits.load(SeqCst))
}

/// A number that the child of a fork does not share with its parent. Not 0, but where there can be
/// no thread.
pub(crate) fn process() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let Some(thread) = thread_if_any() else { return 0 };
    let process = thread.process.load(Relaxed);
    if process != 0 {
        return process;
    }
    let new = LAST.fetch_add(1, Relaxed) + 1;
    thread.process.compare_exchange(0, new, Relaxed, Relaxed).map_or_else(|other| other, |_| new)
}

/// Tells the thread that an item of its list wants a visit at a time, as the item itself says by
/// now. Starts the thread if it is not there. False: it could not be started. Whoever is told that
/// it is there, while another owner is about to fail to start it, calls in vain.
pub(crate) fn call<W: Work>(at_us: u64) -> bool {
    let Some(thread) = thread_if_any() else { return false };
    fence(SeqCst);
    while thread.is_there.load(SeqCst) == 1 {
        if at_us.saturating_add(SLACK_US) >= thread.wakes_us.load(Relaxed) {
            return true;
        }
        thread.bell.fetch_add(1, SeqCst);
        wake(&thread.bell);
        // It may have gone without hearing the bell.
        if thread.is_there.load(SeqCst) == 1 {
            return true;
        }
    }
    if thread.is_there.compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
        // Another owner was faster, and its thread has not looked yet.
        return true;
    }
    thread.wakes_us.store(u64::MAX, SeqCst);
    let started = start::<W>();
    if !started {
        thread.is_there.store(0, SeqCst);
    }
    started
}

/// Waiting for the thread, which may be in the midst of a system call, or without a processor.
#[derive(Default)]
pub(crate) struct Patience(u32);

impl Patience {
    const SPINS: u32 = 200;
    const NAP_NS: i64 = 20_000;

    pub(crate) fn wait(&mut self) {
        self.0 += 1;
        if self.0 < Patience::SPINS {
            return core::hint::spin_loop();
        }
        let nap = libc::timespec { tv_sec: 0, tv_nsec: Patience::NAP_NS };
        // SAFETY: `nap` is readable. The thread may need this one's processor.
        preserve_errno(|| unsafe { libc::nanosleep(&nap, ptr::null_mut()) });
    }
}

/// The thread's page, made when it is first asked for.
fn thread() -> Option<&'static Thread> {
    if let Some(thread) = thread_if_any() {
        return Some(thread);
    }
    let bytes = Kernel.page_size();
    let made = Kernel.reserve(bytes, false)?;
    // SAFETY: the page was reserved just now; the advice is for it alone.
    let is_good = unsafe {
        Kernel.commit(made, bytes)
            && preserve_errno(|| libc::madvise(made.cast(), bytes, libc::MADV_WIPEONFORK) == 0)
    };
    let null = ptr::null_mut();
    if !is_good || THREAD.compare_exchange(null, made.cast(), Release, Relaxed).is_err() {
        // SAFETY: nobody else knows of it.
        unsafe { Kernel.release(made, bytes) };
    }
    thread_if_any()
}

fn thread_if_any() -> Option<&'static Thread> {
    // SAFETY: null, or a page that is mapped for good, of which any bytes are a `Thread`.
    unsafe { THREAD.load(Acquire).as_ref() }
}

fn parts() -> impl Iterator<Item = &'static Part> {
    core::iter::successors(Some(&LIST), |part| next_of(part))
}

fn next_of(part: &Part) -> Option<&'static Part> {
    // SAFETY: null, or a part that is mapped for good.
    unsafe { part.next.load(Acquire).as_ref() }
}

fn next_or_new(part: &Part) -> Option<&'static Part> {
    if part.next.load(Acquire).is_null() {
        let bytes = size_of::<Part>().next_multiple_of(Kernel.page_size());
        let made = Kernel.reserve(bytes, false)?;
        // SAFETY: the range was reserved just now. Zeroed memory is a part without items.
        let is_good = unsafe { Kernel.commit(made, bytes) };
        let null = ptr::null_mut();
        if !is_good || part.next.compare_exchange(null, made.cast(), Release, Relaxed).is_err() {
            // SAFETY: nobody else knows of it.
            unsafe { Kernel.release(made, bytes) };
        }
    }
    next_of(part)
}

/// Starts the thread, with all signals held back: they are for the program's own threads. The C
/// library holds none back that it uses itself, to change the user in all threads.
fn start<W: Work>() -> bool {
    preserve_errno(|| {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        let mut id = MaybeUninit::uninit();
        // SAFETY: each is initialised before it is read. The thread needs nothing of this one's.
        unsafe {
            if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
                return false;
            }
            let attributes = attributes.as_mut_ptr();
            libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED);
            libc::pthread_attr_setstacksize(attributes, STACK);
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            let done = libc::pthread_create(id.as_mut_ptr(), attributes, run::<W>, ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
            libc::pthread_attr_destroy(attributes);
            done == 0
        }
    })
}

/// The thread.
extern "C" fn run<W: Work>(_: *mut c_void) -> *mut c_void {
    let Some(thread) = thread_if_any() else { return ptr::null_mut() };
    // SAFETY: the name is a C string of less than 16 bytes.
    unsafe { libc::pthread_setname_np(libc::pthread_self(), c"ebbtide".as_ptr()) };
    let mut looked_us = Kernel.now_us();
    loop {
        let bell = thread.bell.load(SeqCst);
        // Whoever has news from now on rings the bell.
        thread.wakes_us.store(u64::MAX, SeqCst);
        fence(SeqCst);
        match visit_all::<W>(thread) {
            Some(at_us) => {
                thread.wakes_us.store(at_us, SeqCst);
                if !sleep_until(at_us, &thread.bell, bell, &mut looked_us) {
                    return ptr::null_mut();
                }
            }
            None if may_end(thread, bell) => return ptr::null_mut(),
            None => {}
        }
    }
}

/// Visits all items; returns when to do so again.
fn visit_all<W: Work>(thread: &Thread) -> Option<u64> {
    let mut next_us = None;
    for place in parts().flat_map(|part| &part.items) {
        let item = place.load(Relaxed);
        if item.is_null() {
            continue;
        }
        // In this order, for `visits`.
        thread.visited.store(item, SeqCst);
        thread.visits.fetch_add(1, SeqCst);
        fence(SeqCst);
        let is_listed = || place.load(SeqCst) == item;
        if is_listed() {
            // What was written before the item was put there is seen.
            fence(Acquire);
            // SAFETY: it is named as visited, and was on the list after that, so that `remove`
            // waits.
            let again_us = unsafe { W::visit(item, &is_listed) };
            next_us = [next_us, again_us].into_iter().flatten().min();
        }
        thread.visited.store(ptr::null_mut(), SeqCst);
    }
    next_us
}

/// Whether the thread may end: not if it was called since it has heard the bell.
fn may_end(thread: &Thread, bell: u32) -> bool {
    thread.is_there.store(0, SeqCst);
    fence(SeqCst);
    if thread.bell.load(SeqCst) == bell {
        return true;
    }
    // Unless an owner has started another one already.
    thread.is_there.compare_exchange(0, 1, SeqCst, Relaxed).is_err()
}

/// Sleeps until a time, or until the bell is not as it was heard. False: all other threads of the
/// process have ended, and it ends with this one. `looked_us`: when the thread last looked at that.
fn sleep_until(at_us: u64, bell: &AtomicU32, heard: u32, looked_us: &mut u64) -> bool {
    loop {
        let now_us = Kernel.now_us();
        if now_us.saturating_sub(*looked_us) >= LOOK_AROUND_US / 2 {
            if is_last() {
                return false;
            }
            *looked_us = now_us;
        }
        if now_us >= at_us || bell.load(SeqCst) != heard {
            return true;
        }
        let nap_us = (at_us - now_us).min((*looked_us + LOOK_AROUND_US).saturating_sub(now_us));
        let nap = timespec(nap_us);
        let flags = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word and the time are readable, and errno's location is this thread's own.
        let errno = unsafe {
            match libc::syscall(libc::SYS_futex, bell.as_ptr(), flags, heard, &raw const nap) {
                0 => 0,
                _ => *libc::__errno_location(),
            }
        };
        let is_refused = !matches!(errno, 0 | libc::EINTR | libc::ETIMEDOUT);
        // The kernel says EAGAIN, too, when the bell has rung just before.
        if is_refused && bell.load(SeqCst) == heard {
            sleep_without_bell(nap_us.min(SLACK_US));
        }
    }
}

/// Sleeps for some microseconds where a sandbox refuses the futex, by one of two other calls. The
/// bell does not end this sleep.
fn sleep_without_bell(us: u64) {
    let nap = timespec(us);
    // SAFETY: the time is readable; `poll` reads nothing of an empty list.
    unsafe {
        if libc::nanosleep(&nap, ptr::null_mut()) != 0 {
            libc::poll(ptr::null_mut(), 0, us.div_ceil(1000) as libc::c_int);
        }
    }
}

fn timespec(us: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (us / 1_000_000) as libc::time_t,
        tv_nsec: (us % 1_000_000 * 1000) as _,
    }
}

/// Whether all other threads of the process have ended, the main one by `pthread_exit`.
fn is_last() -> bool {
    // Only then is a file opened: the program may be about to open one for a certain number.
    if !has_main_ended() {
        return false;
    }
    let mut text = [0; 512];
    let length = Kernel.read_file(c"/proc/self/stat", &mut text).unwrap_or(0);
    is_last_in(&text[..length])
}

/// Whether the main thread has ended: then it has no memory to read from.
fn has_main_ended() -> bool {
    let (mut read, byte) = (0_u8, 0_u8);
    let local = libc::iovec { iov_base: (&raw mut read).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: (&raw const byte).cast_mut().cast(), iov_len: 1 };
    // SAFETY: one byte is read into another, both of which are this thread's; errno's location is,
    // too.
    preserve_errno(|| unsafe {
        let done = libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0);
        done < 0 && *libc::__errno_location() == libc::ESRCH
    })
}

/// What [`is_last`] asks, from the text of `/proc/self/stat`. The state there is the main thread's,
/// which stays as a zombie until the process ends, and counts as a thread.
fn is_last_in(stat: &[u8]) -> bool {
    const STATE: usize = 0;
    const THREADS: usize = 17;
    // The name before may have blanks and brackets.
    let end = stat.iter().rposition(|byte| *byte == b')').map_or(stat.len(), |at| at + 1);
    let mut fields = stat[end..].split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    fields.nth(STATE) == Some(b"Z") && fields.nth(THREADS - STATE - 1) == Some(b"2")
}

fn wake(bell: &AtomicU32) {
    let flags = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is mapped; waking changes no memory.
    preserve_errno(|| unsafe { libc::syscall(libc::SYS_futex, bell.as_ptr(), flags, 1) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thread_is_known_by_a_main_one_that_has_ended() {
        let stat = |state, threads| {
            format!("7 (a) Z 2 b) {state} 1 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 {threads} 0 99 0")
        };
        assert!(is_last_in(stat("Z", 2).as_bytes()));
        assert!(!is_last_in(stat("Z", 3).as_bytes()) && !is_last_in(stat("S", 2).as_bytes()));
        assert!(!is_last_in(b"") && !is_last_in(b"7 (a) Z 1 7"));
        assert!(!has_main_ended());
    }
}
