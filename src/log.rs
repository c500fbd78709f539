//! Lines for people: where they go.
//!
//! Standard error may have become another file while the program ran: a database that was opened
//! after descriptor 2 was closed. The preload library knows which file standard error was when
//! the program began, so under it every line goes through a function of its own. Without the
//! preload library a line goes to the file that standard error was at the first use of this
//! library: when the first heap was made, the environment checked, a Lua module opened or a line
//! told. Not when the library was loaded: a daemon turns its standard error into its log between
//! the two. A regular file that is open for reading and writing then, as databases are, is never
//! taken for standard error. Once descriptor 2 leads elsewhere, lines are dropped.
//!
//! The last lines of a process, which say why it ends, may go to two more places, under the preload
//! library too:
//!
//! - to descriptor 2, if that is the write end of a pipe or a file that is open for nothing but
//!   appending: a log. A server opens its log anew when the log is rotated, and nginx makes it
//!   standard error only after it has read its configuration;
//! - else to the system's log, as a daemon's lines do. Where nobody listens to `/dev/log`, as in
//!   most containers, they are dropped, and the core file alone tells what happened.
//!
//! A line to a pipe that nobody reads raises no SIGPIPE. A line comes from within allocations, with
//! locks held: all lines together wait for the reader of a full pipe for at most [`PATIENCE`], and
//! are dropped then. The last lines wait as long as `fd` says. Signal handlers may call everything
//! here.

use core::ffi::{CStr, c_char, c_int};
use core::fmt;
use core::mem::{MaybeUninit, size_of, transmute};
use core::sync::atomic::{AtomicPtr, Ordering};
use std::sync::OnceLock;

use crate::fd::{
    File, ReaderPatience, file_of, flags_of, is_log, is_of_kind, write_in_time, write_last,
};
use crate::fixed_str::FixedStr;

/// Takes the text of one line, without an end and without `ebbtide: ` before it, its bytes, and
/// whether it is one of the last lines. Returns 0 where the line was dropped. Signal handlers may
/// call it.
pub(crate) type Sink = unsafe extern "C" fn(*const c_char, usize, c_int) -> c_int;

/// A [`Sink`]; null: standard error.
static SINK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// The file that descriptor 2 led to at the first use of the library; `None`: it was closed, or led
/// to what is no standard error.
static STDERR: OnceLock<Option<File>> = OnceLock::new();

/// How long the lines of a process that goes on wait for readers, together.
static PATIENCE: ReaderPatience = ReaderPatience::of_ms(100);

/// Where the system's log takes lines.
const SYSTEM_LOG: &CStr = c"/dev/log";

/// From now on lines go through this function.
pub(crate) fn through(sink: Sink) {
    SINK.store(sink as *mut (), Ordering::Release);
}

/// Tells a line, or drops it where its reader is too slow.
#[cold]
pub(crate) fn line(message: fmt::Arguments<'_>) {
    let line = FixedStr::new(message);
    if through_sink(&line, false).is_none() && leads_to_stderr() {
        // SAFETY: the parts are as long as they say.
        unsafe { write_in_time(libc::STDERR_FILENO, &parts(&line), &PATIENCE) };
    }
}

/// Tells one of the last lines of a process that ends.
#[cold]
pub(crate) fn last_line(message: fmt::Arguments<'_>) {
    let line = FixedStr::new(message);
    let is_told = through_sink(&line, true).unwrap_or_else(|| {
        // SAFETY: the parts are as long as they say.
        (leads_to_stderr() || is_log(libc::STDERR_FILENO))
            && unsafe { write_last(libc::STDERR_FILENO, &parts(&line)) }
    });
    if !is_told {
        write_to_system_log(SYSTEM_LOG, &line);
    }
}

/// Tells a line through the function for lines, if there is one. Whether the line was not dropped.
fn through_sink(line: &FixedStr, is_last: bool) -> Option<bool> {
    let sink = SINK.load(Ordering::Acquire);
    // SAFETY: null, or what `through` has stored; a null pointer is `None`.
    let sink = unsafe { transmute::<*mut (), Option<Sink>>(sink) }?;
    let text = line.as_bytes();
    // SAFETY: the bytes are there, and are only read.
    Some(unsafe { sink(text.as_ptr().cast(), text.len(), is_last.into()) != 0 })
}

/// A line as it is written, in one piece.
fn parts(line: &FixedStr) -> [libc::iovec; 3] {
    [b"ebbtide: ", line.as_bytes(), b"\n"]
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
}

/// Remembers which file standard error leads to, unless that is known.
pub(crate) fn note_stderr() {
    let _ = leads_to_stderr();
}

/// Whether descriptor 2 leads to the file that it led to at the first use of the library.
fn leads_to_stderr() -> bool {
    let file = file_of(libc::STDERR_FILENO);
    *STDERR.get_or_init(|| file.filter(|_| !may_be_database())) == file && file.is_some()
}

/// Whether descriptor 2 leads to a regular file that is open for reading and writing. A program
/// that has closed descriptor 2 gets that number for the next file that it opens.
fn may_be_database() -> bool {
    flags_of(libc::STDERR_FILENO).is_some_and(|flags| flags & libc::O_ACCMODE == libc::O_RDWR)
        && is_of_kind(libc::STDERR_FILENO, libc::S_IFREG)
}

/// Sends a line to the log that listens at a path, if one does, without waiting for it.
fn write_to_system_log(path: &CStr, line: &FixedStr) {
    const PRIORITY: c_int = libc::LOG_USER | libc::LOG_CRIT;
    // SAFETY: getpid and socket ask for nothing; the address is as long as it says, all-zero bytes
    // are a valid one, and the text is only read.
    unsafe {
        let (process, text) = (libc::getpid(), line.as_str());
        let text = FixedStr::new(format_args!("<{PRIORITY}>ebbtide[{process}]: {text}"));
        let mut address = MaybeUninit::<libc::sockaddr_un>::zeroed().assume_init();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // The zero behind the path stays.
        let room = address.sun_path.len() - 1;
        for (to, from) in address.sun_path[..room].iter_mut().zip(path.to_bytes()) {
            *to = *from as c_char;
        }
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = libc::socket(libc::AF_UNIX, kind, 0);
        if socket >= 0 {
            libc::sendto(
                socket,
                text.as_bytes().as_ptr().cast(),
                text.as_bytes().len(),
                libc::MSG_NOSIGNAL,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_un>() as libc::socklen_t,
            );
            libc::close(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_line_reaches_the_system_log() {
        let name = format!("ebbtide-log-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let log = UnixDatagram::bind(&path).expect("a socket");
        let c_path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        write_to_system_log(&c_path, &FixedStr::new(format_args!("heap 0x1: broken")));
        std::fs::remove_file(&path).expect("the socket's name");
        let mut text = [0; 100];
        let length = log.recv(&mut text).expect("a line");
        let expected = format!("<10>ebbtide[{}]: heap 0x1: broken", std::process::id());
        assert_eq!(str::from_utf8(&text[..length]), Ok(expected.as_str()));
        // Nobody listens any more.
        write_to_system_log(&c_path, &FixedStr::new(format_args!("to nobody")));
    }
}
