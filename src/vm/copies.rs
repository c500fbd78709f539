//! Other copies of this library in the process.
//!
//! A process may have several: one in nginx's module, one linked into LuaJIT, one preloaded, one
//! that `require` loads. Each knows its own heaps only, so a call for a VM goes to the copy that
//! the VM's allocation function is part of. An object with the symbol `ebb_version` has a copy.

use core::ffi::{CStr, c_char, c_void};
use core::mem::MaybeUninit;
use core::ptr;

/// A loaded object: the program or a library.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Object {
    /// Where it was loaded to.
    base: *mut c_void,
    /// Its path, as the loader knows it.
    path: *const c_char,
}

impl Object {
    /// The object that an address lies in.
    fn of(address: *const c_void) -> Option<Object> {
        let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: there is room for the answer, whose fields may all be zero.
        let info =
            unsafe { (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init()) }?;
        Some(Object { base: info.dli_fbase, path: info.dli_fname })
    }

    /// Where this copy of the library lies.
    fn own() -> Option<Object> {
        // Of an exported function the linker may give the address in another copy.
        Object::of(Object::own as *const () as *const c_void)
    }

    fn holds(&self, address: *const c_void) -> bool {
        !address.is_null() && Object::of(address).is_some_and(|object| object.base == self.base)
    }

    /// A symbol that the object itself defines; null for none.
    fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: a path from the loader is a C string that lives as long as the object; NOLOAD
        // loads nothing, and the count that it adds is taken back.
        unsafe {
            let handle = libc::dlopen(self.path, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                // The program itself has a name by which it cannot be opened.
                let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
                return if self.holds(found) { found } else { ptr::null_mut() };
            }
            let found = libc::dlsym(handle, name.as_ptr());
            libc::dlclose(handle);
            if self.holds(found) { found } else { ptr::null_mut() }
        }
    }
}

/// Whether the copy that the process sees first is this one.
pub(crate) fn is_visible() -> bool {
    let seen = visible(c"luaopen_ebbtide");
    Object::own().is_some_and(|own| own.holds(seen))
}

fn visible(name: &CStr) -> *mut c_void {
    // SAFETY: `name` is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The function of this name in the copy that an allocation function is part of; null when that is
/// this copy, or no copy.
pub(crate) fn of_allocator(function: *const c_void, name: &CStr) -> *mut c_void {
    match (Object::of(function), Object::own()) {
        (Some(object), Some(own))
            if object.base != own.base && !object.symbol(c"ebb_version").is_null() =>
        {
            object.symbol(name)
        }
        _ => ptr::null_mut(),
    }
}

/// The function of this name in the copy that the process sees first; null when that is this one.
pub(crate) fn of_process(name: &CStr) -> *mut c_void {
    let seen = visible(name);
    let is_other = !seen.is_null() && Object::own().is_some_and(|own| !own.holds(seen));
    if is_other { seen } else { ptr::null_mut() }
}

/// Whether an allocation function is part of this copy.
pub(crate) fn is_own(function: *const c_void) -> bool {
    Object::own().is_some_and(|own| own.holds(function))
}
