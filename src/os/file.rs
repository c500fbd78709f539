//! Files of the kernel's, read without allocating.

use core::ffi::CStr;

use super::kernel::preserve_errno;

/// Reads a file as far as it fits into `buffer`. How many bytes that were, or the `errno`.
pub(super) fn read(path: &CStr, buffer: &mut [u8]) -> Result<usize, i32> {
    reading(path, |file| fill_from(file, buffer))
}

/// Reads a whole file in parts, which end anywhere. The `errno` when it cannot be read.
pub(super) fn read_in_parts(path: &CStr, visit: &mut dyn FnMut(&[u8])) -> Result<(), i32> {
    let mut buffer = [0; 4096];
    reading(path, |file| {
        loop {
            match fill_from(file, &mut buffer)? {
                0 => return Ok(()),
                length => visit(&buffer[..length]),
            }
        }
    })
}

/// Opens a file, and closes it when `read` is done with it. The `errno` when it cannot be opened,
/// or when `read` says so.
fn reading<T>(path: &CStr, read: impl FnOnce(libc::c_int) -> Result<T, i32>) -> Result<T, i32> {
    preserve_errno(|| {
        // SAFETY: `path` is a C string; errno's location is this thread's own.
        let (file, errno) = unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            (file, *libc::__errno_location())
        };
        if file < 0 {
            return Err(errno);
        }
        let result = read(file);
        // SAFETY: opened just now, and nobody else knows of it.
        unsafe { libc::close(file) };
        result
    })
}

/// Fills `buffer` from a file until one of them ends, whatever signals arrive meanwhile.
fn fill_from(file: libc::c_int, buffer: &mut [u8]) -> Result<usize, i32> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        // SAFETY: all of `rest` is writable; errno's location is this thread's own.
        let (count, errno) = unsafe {
            let count = libc::read(file, rest.as_mut_ptr().cast(), rest.len());
            (count, *libc::__errno_location())
        };
        match usize::try_from(count) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(_) if errno == libc::EINTR => {}
            Err(_) => return Err(errno),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use crate::os::{Kernel, Os};

    #[test]
    fn a_long_file_is_read_in_parts() {
        let path = c"/proc/self/smaps";
        let (mut text, mut parts) = (Vec::new(), 0);
        let done = Kernel.read_in_parts(path, &mut |part| {
            text.extend_from_slice(part);
            parts += 1;
        });
        assert_eq!(done, Ok(()));
        assert!(text.len() > 4096 && parts > 1, "{} bytes in {parts} parts", text.len());
        assert_eq!(text.last(), Some(&b'\n'));
        for (path, expected) in [
            (c"/dev/null", Ok(())),
            (c"/proc/self/missing", Err(libc::ENOENT)),
            (c"/proc/self", Err(libc::EISDIR)),
        ] {
            assert_eq!(Kernel.read_in_parts(path, &mut |_| unreachable!()), expected);
        }
    }

    #[test]
    fn a_file_is_read_as_far_as_it_fits() {
        let mut whole = [0; 4096];
        let length = Kernel.read_file(c"/proc/self/cmdline", &mut whole).expect("a file");
        assert_eq!(whole[..length], std::fs::read("/proc/self/cmdline").expect("a file"));
        let mut beginning = [7; 4];
        assert_eq!(Kernel.read_file(c"/proc/self/cmdline", &mut beginning[..3]), Some(3));
        assert_eq!(beginning, [whole[0], whole[1], whole[2], 7]);
        assert_eq!(Kernel.read_file(c"/dev/null", &mut whole), Some(0));
        assert_eq!(Kernel.read_file(c"/proc/self/missing", &mut whole), None);
        // A directory opens, but cannot be read.
        assert_eq!(Kernel.read_file(c"/proc/self", &mut whole), None);
    }
}
