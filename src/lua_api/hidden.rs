//! A LuaJIT that the process has loaded with `RTLD_LOCAL`: its symbols are visible only to the code
//! that opened it.

use core::ffi::{CStr, c_int, c_void};
use core::mem::MaybeUninit;
use std::ffi::CString;

/// The path of the first one.
pub(super) fn path() -> Option<CString> {
    let mut paths: Vec<CString> = Vec::new();
    // SAFETY: the callback gets the list that it was made for, and only before this returns.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut paths).cast()) };
    paths.into_iter().find(|path| has_luajit(path))
}

/// # Safety
///
/// The loader calls it with the list of [`path`].
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    paths: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise; a name is null or a C string.
    unsafe {
        let name = (*info).dlpi_name;
        if !name.is_null() && *name != 0 {
            (*paths.cast::<Vec<CString>>()).push(CStr::from_ptr(name).to_owned());
        }
    }
    0
}

/// Whether a loaded object has a LuaJIT in itself.
fn has_luajit(path: &CStr) -> bool {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: C strings, of which NOLOAD loads nothing; there is room for the answer, whose fields
    // may all be zero, and a name in it is null or a C string.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return false;
        }
        // The object itself comes first, then what it was linked with.
        let found = libc::dlsym(handle, c"luaJIT_setmode".as_ptr());
        libc::dlclose(handle);
        !found.is_null()
            && libc::dladdr(found, info.as_mut_ptr()) != 0
            && !info.assume_init().dli_fname.is_null()
            && CStr::from_ptr(info.assume_init().dli_fname) == path
    }
}
