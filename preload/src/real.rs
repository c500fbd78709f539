//! The functions that are taken over, as the program would find them without this library.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::marker::PhantomData;
use core::mem::{MaybeUninit, transmute_copy};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use crate::elf_objects;
use crate::log;

pub(crate) type EpollWait = unsafe extern "C" fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;
pub(crate) type EpollPwait =
    unsafe extern "C" fn(c_int, *mut epoll_event, c_int, c_int, *const sigset_t) -> c_int;
pub(crate) type Poll = unsafe extern "C" fn(*mut pollfd, nfds_t, c_int) -> c_int;
pub(crate) type PollChk = unsafe extern "C" fn(*mut pollfd, nfds_t, c_int, usize) -> c_int;
pub(crate) type Ppoll =
    unsafe extern "C" fn(*mut pollfd, nfds_t, *const timespec, *const sigset_t) -> c_int;
pub(crate) type Select =
    unsafe extern "C" fn(c_int, *mut fd_set, *mut fd_set, *mut fd_set, *mut timeval) -> c_int;
pub(crate) type Pselect = unsafe extern "C" fn(
    c_int,
    *mut fd_set,
    *mut fd_set,
    *mut fd_set,
    *const timespec,
    *const sigset_t,
) -> c_int;

pub(crate) type Sigaction =
    unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
/// `signal` and its kind.
pub(crate) type SignalFunction = unsafe extern "C" fn(c_int, usize) -> usize;
pub(crate) type Dlclose = unsafe extern "C" fn(*mut c_void) -> c_int;
pub(crate) type Exit = unsafe extern "C" fn(c_int) -> !;

pub(crate) static SIGACTION: RealFn<Sigaction> = RealFn::new(c"sigaction");
pub(crate) static SIGNAL: RealFn<SignalFunction> = RealFn::new(c"signal");
pub(crate) static SYSV_SIGNAL: RealFn<SignalFunction> = RealFn::new(c"sysv_signal");
pub(crate) static SYSV_SIGNAL_RESERVED: RealFn<SignalFunction> = RealFn::new(c"__sysv_signal");
pub(crate) static SIGSET: RealFn<SignalFunction> = RealFn::new(c"sigset");
pub(crate) static EXIT: RealFn<Exit> = RealFn::new(c"_exit");
pub(crate) static DLCLOSE: RealFn<Dlclose> = RealFn::new(c"dlclose");
pub(crate) static EPOLL_WAIT: RealFn<EpollWait> = RealFn::new(c"epoll_wait");
pub(crate) static EPOLL_PWAIT: RealFn<EpollPwait> = RealFn::new(c"epoll_pwait");
pub(crate) static POLL: RealFn<Poll> = RealFn::new(c"poll");
pub(crate) static POLL_CHK: RealFn<PollChk> = RealFn::new(c"__poll_chk");
pub(crate) static PPOLL: RealFn<Ppoll> = RealFn::new(c"ppoll");
pub(crate) static SELECT: RealFn<Select> = RealFn::new(c"select");
pub(crate) static PSELECT: RealFn<Pselect> = RealFn::new(c"pselect");

/// Looks all of them up. Later, in a signal handler say, the loader could not be asked.
pub(crate) fn find_all() {
    EPOLL_WAIT.find();
    EPOLL_PWAIT.find();
    POLL.find();
    POLL_CHK.find();
    PPOLL.find();
    SELECT.find();
    PSELECT.find();
    SIGACTION.find();
    SIGNAL.find();
    SYSV_SIGNAL.find();
    SYSV_SIGNAL_RESERVED.find();
    SIGSET.find();
    DLCLOSE.find();
    EXIT.find();
}

/// A function of the C library, or of whatever else stands before it.
pub(crate) struct RealFn<F> {
    /// Null until it was looked up.
    at: AtomicPtr<c_void>,
    name: &'static CStr,
    function: PhantomData<F>,
}

impl<F: Copy> RealFn<F> {
    const fn new(name: &'static CStr) -> RealFn<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        RealFn { at: AtomicPtr::new(ptr::null_mut()), name, function: PhantomData }
    }

    /// The function. The process ends if there is none, since none but its caller could go on.
    pub(crate) fn get(&self) -> F {
        let mut at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            at = self.find();
            if at.is_null() {
                log::line(&[
                    self.name.to_bytes(),
                    b": no such function behind the preload library",
                ]);
                // SAFETY: always sound.
                unsafe { libc::abort() }
            }
        }
        // SAFETY: the name is that of a function with this signature, of the size of a pointer.
        unsafe { transmute_copy(&at) }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        let at = next(self.name);
        self.at.store(at, Ordering::Relaxed);
        at
    }
}

/// What the loader finds under a name after this library; null for nothing.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    unsafe { quietly(libc::dlsym(libc::RTLD_NEXT, name.as_ptr())) }
}

/// Takes back the loader's complaint about what it did not find: the program did not ask.
fn quietly(found: *mut c_void) -> *mut c_void {
    if found.is_null() {
        // SAFETY: always sound.
        unsafe { libc::dlerror() };
    }
    found
}

/// The `lua_newstate` that `caller` would have called; null for none.
///
/// There may be several: each Lua module of Python brings its own. The loader looks into what all
/// objects see first, then into what the caller's object does. A caller in compiled Lua code has
/// no object: then it is the only one that there is.
pub(crate) fn lua_newstate(caller: *const c_void) -> *mut c_void {
    const NAME: &CStr = c"lua_newstate";
    let seen_by_all = next(NAME);
    if !seen_by_all.is_null() {
        return seen_by_all;
    }
    let own = lua_newstate as *const () as *const c_void;
    let seen_by_caller = seen_from(caller, NAME);
    if !seen_by_caller.is_null() {
        return seen_by_caller;
    }
    let (mut only, mut count) = (ptr::null_mut(), 0);
    elf_objects::walk(|object| {
        let symbol = object.symbol(NAME).filter(|_| !object.holds(own));
        only = symbol.unwrap_or(only);
        count += u32::from(symbol.is_some());
        false
    });
    if count == 1 { only } else { ptr::null_mut() }
}

/// `lua_setallocf` of the same Lua; null for none.
pub(crate) fn lua_setallocf(newstate: *const c_void) -> *mut c_void {
    const NAME: &CStr = c"lua_setallocf";
    let of_the_same = elf_objects::find(NAME, |object| object.holds(newstate));
    of_the_same.unwrap_or_else(|| next(NAME))
}

/// What the object that `caller` is in finds under a name in itself and in what it was linked with;
/// null for nothing, for this library's own, and for a caller in no object.
fn seen_from(caller: *const c_void, name: &CStr) -> *mut c_void {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: there is room for the answer, whose fields may all be zero. The name that the loader
    // gives is a C string that lives as long as the object, which its caller is in; the handle
    // counts one more use of what is loaded already, and takes it back.
    let symbol = unsafe {
        if libc::dladdr(caller, info.as_mut_ptr()) == 0 {
            return ptr::null_mut();
        }
        let path: *const c_char = info.assume_init().dli_fname;
        let handle = quietly(libc::dlopen(path, libc::RTLD_LAZY | libc::RTLD_NOLOAD));
        if handle.is_null() {
            return ptr::null_mut();
        }
        let symbol = quietly(libc::dlsym(handle, name.as_ptr()));
        DLCLOSE.get()(handle);
        symbol
    };
    let own = seen_from as *const () as *const c_void;
    let is_own = elf_objects::find(name, |object| object.holds(own)) == Some(symbol);
    if is_own { ptr::null_mut() } else { symbol }
}
