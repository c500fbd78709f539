//! Work of others that may fault: a fault ends the work, and nothing else.
//!
//! The unwinder is such work. It believes what a function's file says of its frame, and for one
//! function of LuaJIT, the one that leaves compiled code, that is not true: it then takes numbers
//! that the program computes for addresses.
//!
//! The work starts in [`enter`], which saves what the C calling convention has it preserve. When it
//! faults, the handler of [`fault`](super::fault) has the thread go on in [`leave`] instead, where
//! it also comes when it is done. (`setjmp` and `longjmp` do as much; Rust has no function that
//! returns twice.)

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::fault::{SIGNALS, is_installed};
use super::this_thread;

/// Threads that can attempt something at once. Others do without.
const ATTEMPTS: usize = 64;

/// A thread that attempts something.
struct Attempt {
    /// 0: none.
    thread: AtomicUsize,
    /// Where its stack was when the work started.
    stack: AtomicUsize,
}

static ACTIVE: [Attempt; ATTEMPTS] =
    [const { Attempt { thread: AtomicUsize::new(0), stack: AtomicUsize::new(0) } }; ATTEMPTS];

/// In the child of a fork: only the thread that forked is left.
pub(super) extern "C" fn forget_other_threads() {
    let this = this_thread();
    for place in &ACTIVE {
        if place.thread.load(Ordering::Relaxed) != this {
            place.stack.store(0, Ordering::Relaxed);
            place.thread.store(0, Ordering::Relaxed);
        }
    }
}

/// Does some work until it is done or faults. Nothing is done without room for one more attempt, or
/// where a fault would come to somebody else.
///
/// # Safety
///
/// The work may end at any access: it holds no lock then, and leaves nothing half done that
/// anybody sees.
pub(super) unsafe fn fault_probe<W: FnMut()>(mut work: W) {
    extern "C" fn run<W: FnMut()>(work: *mut c_void) {
        // SAFETY: `fault_probe` hands its own over.
        unsafe { (*work.cast::<W>())() }
    }
    if !is_installed() {
        return;
    }
    let free = |place: &&Attempt| {
        let swap = (Ordering::Relaxed, Ordering::Relaxed);
        place.thread.compare_exchange(0, this_thread(), swap.0, swap.1).is_ok()
    };
    let Some(place) = ACTIVE.iter().find(free) else {
        return;
    };
    // SAFETY: the work's own argument; the caller's promise. All-zero bytes are a valid set.
    unsafe {
        let [mut before, mut faults] = [MaybeUninit::<libc::sigset_t>::zeroed().assume_init(); 2];
        SIGNALS.iter().for_each(|signal| _ = libc::sigaddset(&mut faults, *signal));
        // The kernel ends a process that faults while the signal is blocked, as it is in a handler.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &faults, &mut before);
        enter(run::<W>, (&raw mut work).cast(), place.stack.as_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
    }
    place.stack.store(0, Ordering::Relaxed);
    place.thread.store(0, Ordering::Release);
}

/// In the handler of a fault: if this thread attempts something, has it go on behind that.
///
/// # Safety
///
/// The context is the one that the kernel handed to the handler.
pub(super) unsafe fn recover(context: *mut c_void) -> bool {
    let this = this_thread();
    let is_here = |place: &&Attempt| place.thread.load(Ordering::Relaxed) == this;
    let place = ACTIVE.iter().find(is_here);
    let stack = place.map_or(0, |place| place.stack.load(Ordering::Relaxed));
    if stack != 0 {
        // SAFETY: the caller's promise. `enter` wrote the stack down, and has not returned: what it
        // saved is there.
        unsafe { go_on(&mut (*context.cast::<libc::ucontext_t>()).uc_mcontext, stack) };
    }
    stack != 0
}

type Run = extern "C" fn(*mut c_void);

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::{Run, c_void};

    /// Saves what a function has to preserve, writes down where that is, and runs the work.
    ///
    /// # Safety
    ///
    /// The argument is the work's; the place can be written.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn enter(run: Run, argument: *mut c_void, stack: *mut usize) {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "push rbp",
            ".cfi_def_cfa_offset 16",
            ".cfi_offset rbp, -16",
            "mov rbp, rsp",
            ".cfi_def_cfa_register rbp",
            "push rbx",
            ".cfi_offset rbx, -24",
            "push r12",
            ".cfi_offset r12, -32",
            "push r13",
            ".cfi_offset r13, -40",
            "push r14",
            ".cfi_offset r14, -48",
            "push r15",
            ".cfi_offset r15, -56",
            "sub rsp, 8",
            "mov [rdx], rsp",
            "mov rax, rdi",
            "mov rdi, rsi",
            "call rax",
            "jmp {leave}",
            ".cfi_endproc",
            leave = sym leave,
        )
    }

    /// Returns from `enter`, with the stack as that wrote it down.
    #[unsafe(naked)]
    unsafe extern "C" fn leave() {
        core::arch::naked_asm!(
            "add rsp, 8",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "ret",
        )
    }

    /// Has a thread that was interrupted go on in `leave`.
    pub(super) unsafe fn go_on(thread: &mut libc::mcontext_t, stack: usize) {
        thread.gregs[libc::REG_RSP as usize] = stack as i64;
        thread.gregs[libc::REG_RIP as usize] = leave as *const () as i64;
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::{Run, c_void};

    /// Saves what a function has to preserve, writes down where that is, and runs the work.
    ///
    /// # Safety
    ///
    /// The argument is the work's; the place can be written.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn enter(run: Run, argument: *mut c_void, stack: *mut usize) {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "stp x29, x30, [sp, #-160]!",
            ".cfi_def_cfa_offset 160",
            ".cfi_offset x29, -160",
            ".cfi_offset x30, -152",
            "stp x19, x20, [sp, #16]",
            ".cfi_offset x19, -144",
            ".cfi_offset x20, -136",
            "stp x21, x22, [sp, #32]",
            ".cfi_offset x21, -128",
            ".cfi_offset x22, -120",
            "stp x23, x24, [sp, #48]",
            ".cfi_offset x23, -112",
            ".cfi_offset x24, -104",
            "stp x25, x26, [sp, #64]",
            ".cfi_offset x25, -96",
            ".cfi_offset x26, -88",
            "stp x27, x28, [sp, #80]",
            ".cfi_offset x27, -80",
            ".cfi_offset x28, -72",
            "stp d8, d9, [sp, #96]",
            "stp d10, d11, [sp, #112]",
            "stp d12, d13, [sp, #128]",
            "stp d14, d15, [sp, #144]",
            "mov x29, sp",
            "mov x9, sp",
            "str x9, [x2]",
            "mov x9, x0",
            "mov x0, x1",
            "blr x9",
            "b {leave}",
            ".cfi_endproc",
            leave = sym leave,
        )
    }

    /// Returns from `enter`, with the stack as that wrote it down.
    #[unsafe(naked)]
    unsafe extern "C" fn leave() {
        core::arch::naked_asm!(
            "ldp d14, d15, [sp, #144]",
            "ldp d12, d13, [sp, #128]",
            "ldp d10, d11, [sp, #112]",
            "ldp d8, d9, [sp, #96]",
            "ldp x27, x28, [sp, #80]",
            "ldp x25, x26, [sp, #64]",
            "ldp x23, x24, [sp, #48]",
            "ldp x21, x22, [sp, #32]",
            "ldp x19, x20, [sp, #16]",
            "ldp x29, x30, [sp], #160",
            "ret",
        )
    }

    /// Has a thread that was interrupted go on in `leave`.
    pub(super) unsafe fn go_on(thread: &mut libc::mcontext_t, stack: usize) {
        thread.sp = stack as u64;
        thread.pc = leave as *const () as u64;
    }
}

/// On other processors a fault is not caught.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine {
    use super::{Run, c_void};

    pub(super) unsafe fn enter(run: Run, argument: *mut c_void, _: *mut usize) {
        run(argument);
    }

    pub(super) unsafe fn go_on(_: &mut libc::mcontext_t, _: usize) {}
}

use machine::{enter, go_on};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fault;

    /// Addresses that nobody can read: in the first page, and one that no processor takes.
    const BAD: [usize; 2] = [8, 0x4027_3333_3333_3333];

    fn read(address: usize) -> u8 {
        // SAFETY: a fault is expected.
        unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() }
    }

    fn begins_and_ends(mut work: impl FnMut()) -> (bool, bool) {
        let (mut begins, mut ends) = (false, false);
        let work = || {
            begins = true;
            work();
            ends = true;
        };
        // SAFETY: the work holds nothing.
        unsafe { fault_probe(work) };
        (begins, ends)
    }

    #[test]
    fn a_fault_ends_the_work_and_nothing_else() {
        fault::install(|_, _| {});
        for _ in 0..3 * ATTEMPTS {
            assert_eq!(begins_and_ends(|| ()), (true, true));
            for address in BAD {
                assert_eq!(begins_and_ends(|| _ = read(address)), (true, false));
            }
        }
    }

    #[test]
    fn where_the_signals_are_blocked_too() {
        fault::install(|_, _| {});
        // SAFETY: sets of this thread's own; all-zero bytes are a valid one.
        unsafe {
            let [mut all, mut after] = [MaybeUninit::<libc::sigset_t>::zeroed().assume_init(); 2];
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut());
            assert_eq!(begins_and_ends(|| _ = read(BAD[0])), (true, false));
            libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), &mut after);
            assert!(SIGNALS.iter().all(|signal| libc::sigismember(&after, *signal) == 1));
        }
    }

    /// The exit status of a child that runs this.
    fn in_child(run: impl FnOnce() -> bool) -> i32 {
        // SAFETY: the child calls nothing that takes a lock.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(if run() { 0 } else { 1 });
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            status
        }
    }

    #[test]
    fn what_other_threads_attempt_does_not_go_on_in_a_child() {
        fault::install(|_, _| {});
        let status = std::sync::OnceLock::new();
        std::thread::scope(|scope| {
            scope.spawn(|| begins_and_ends(|| _ = *status.wait()));
            let is_free = |place: &Attempt| place.thread.load(Ordering::Relaxed) == 0;
            while ACTIVE.iter().all(is_free) {
                std::thread::yield_now();
            }
            _ = status.set(in_child(|| ACTIVE.iter().all(is_free)));
        });
        assert_eq!(status.get(), Some(&0));
    }

    #[test]
    fn where_others_would_handle_the_fault_nothing_is_attempted() {
        fault::install(|_, _| {});
        let status = in_child(|| {
            // SAFETY: what a program does that has handlers of its own.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
            let without = begins_and_ends(|| ()) == (false, false);
            fault::reinstall();
            without && begins_and_ends(|| ()) == (true, true)
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn in_many_threads_at_once() {
        fault::install(|_, _| {});
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        assert_eq!(begins_and_ends(|| _ = read(BAD[1])), (true, false));
                    }
                });
            }
        });
    }
}
