//! What AddressSanitizer and valgrind learn of each block, so that they find what they find on
//! the C library's allocator.
//!
//! Memory that is hidden is nobody's: headers, zones, and blocks that were freed, until their
//! memory is used again. The tool reports code that uses such memory. This layer uses it all the
//! time, but AddressSanitizer sees no more of this layer than the C library's functions that are
//! called here, and valgrind reports nothing that a thread does while it is at work here.
//!
//! The sanitizer is called by its interface, looked up, since the library does not need it.
//! Valgrind is asked by instructions that do nothing elsewhere: see "The Client Request mechanism"
//! in its manual.

use core::arch::asm;
use core::ffi::{CStr, c_void};
use std::sync::OnceLock;

/// Requests of valgrind.h.
mod core_request {
    pub(super) const RUNNING_ON_VALGRIND: usize = 0x1001;
    pub(super) const MALLOCLIKE_BLOCK: usize = 0x1301;
    pub(super) const FREELIKE_BLOCK: usize = 0x1302;
    pub(super) const RESIZEINPLACE_BLOCK: usize = 0x130b;
    pub(super) const CHANGE_ERR_DISABLEMENT: usize = 0x1801;
}

/// Requests of memcheck.h.
mod memcheck_request {
    const FIRST: usize = (b'M' as usize) << 24 | (b'C' as usize) << 16;
    pub(super) const MAKE_MEM_NOACCESS: usize = FIRST;
    pub(super) const MAKE_MEM_DEFINED: usize = FIRST + 2;
}

/// A function that takes a range of memory.
type OfRange = unsafe extern "C" fn(*const c_void, usize);

/// The sanitizer's interface.
struct Sanitizer {
    poison: OfRange,
    unpoison: OfRange,
    /// A range that is looked through for pointers to what is not leaked. Not in every build of it.
    add_root: Option<OfRange>,
    remove_root: Option<OfRange>,
}

/// The tools that are in the process.
struct Tools {
    sanitizer: Option<Sanitizer>,
    valgrind: bool,
}

impl Tools {
    fn find() -> Tools {
        let poison = function(c"__asan_poison_memory_region");
        let unpoison = function(c"__asan_unpoison_memory_region");
        let sanitizer = poison.zip(unpoison).map(|(poison, unpoison)| Sanitizer {
            poison,
            unpoison,
            add_root: function(c"__lsan_register_root_region"),
            remove_root: function(c"__lsan_unregister_root_region"),
        });
        let valgrind = request(core_request::RUNNING_ON_VALGRIND, [0; 4]) != 0;
        Tools { sanitizer, valgrind }
    }

    fn request(&self, what: usize, arguments: [usize; 4]) {
        if self.valgrind {
            request(what, arguments);
        }
    }

    /// Gives a range to a function of the sanitizer, if that is there.
    fn give(&self, at: *mut u8, bytes: usize, to: impl Fn(&Sanitizer) -> Option<OfRange>) {
        if let Some(function) = self.sanitizer.as_ref().and_then(to) {
            // SAFETY: it takes any range of the process and changes nothing in it.
            unsafe { function(at.cast(), bytes) };
        }
    }
}

fn tools() -> &'static Tools {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    TOOLS.get_or_init(Tools::find)
}

/// The sanitizer's function of this name, if it is in the process.
fn function(name: &CStr) -> Option<OfRange> {
    // SAFETY: the name ends in a zero, and whoever has a name of the sanitizer's has its type.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        core::mem::transmute::<*mut c_void, Option<OfRange>>(found)
    }
}

/// What valgrind answers to a request; 0 where it is not.
fn request(what: usize, [a, b, c, d]: [usize; 4]) -> usize {
    let request = [what, a, b, c, d, 0];
    let mut answer = 0;
    // SAFETY: without valgrind a register is turned all the way round and another one exchanged
    // with itself. Valgrind reads the request, and writes to the one register that is declared.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdx") answer,
            in("rax") &raw const request,
            options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            inout("x3") answer,
            in("x4") &raw const request,
            options(nostack)
        );
    }
    answer
}

/// Whether a tool is in the process.
pub(super) fn is_there() -> bool {
    tools().valgrind || tools().sanitizer.is_some()
}

/// This thread begins to work on a heap.
pub(super) fn work_begins() {
    tools().request(core_request::CHANGE_ERR_DISABLEMENT, [1, 0, 0, 0]);
}

/// This thread ends its work.
pub(super) fn work_ends() {
    tools().request(core_request::CHANGE_ERR_DISABLEMENT, [usize::MAX, 0, 0, 0]);
}

/// The layer is about to write there.
pub(super) fn unpoison(at: *mut u8, bytes: usize) {
    tools().give(at, bytes, |sanitizer| Some(sanitizer.unpoison));
    tools().request(memcheck_request::MAKE_MEM_DEFINED, [at.addr(), bytes, 0, 0]);
}

/// Nobody may read or write there.
fn poison(at: *mut u8, bytes: usize) {
    tools().give(at, bytes, |sanitizer| Some(sanitizer.poison));
    tools().request(memcheck_request::MAKE_MEM_NOACCESS, [at.addr(), bytes, 0, 0]);
}

/// A block is handed out, with nothing of value in it. All else in the range is hidden.
pub(super) fn placed(at: *mut u8, size: usize, (start, bytes): (*mut u8, usize)) {
    poison(start, bytes);
    tools().give(at, size, |sanitizer| Some(sanitizer.unpoison));
    tools().request(core_request::MALLOCLIKE_BLOCK, [at.addr(), size, 0, 0]);
}

/// A block stays where it is and has become smaller.
pub(super) fn shrunk(at: *mut u8, old_size: usize, size: usize) {
    let end = at.wrapping_add(size);
    tools().give(end, old_size - size, |sanitizer| Some(sanitizer.poison));
    tools().request(core_request::RESIZEINPLACE_BLOCK, [at.addr(), old_size, size, 0]);
}

/// A block was freed. All of the range is hidden.
pub(super) fn freed(at: *mut u8, (start, bytes): (*mut u8, usize)) {
    tools().request(core_request::FREELIKE_BLOCK, [at.addr(), 0, 0, 0]);
    poison(start, bytes);
}

/// A heap has this range for blocks: pointers in these are pointers.
pub(super) fn heap_made(start: *mut u8, bytes: usize) {
    tools().give(start, bytes, |sanitizer| sanitizer.add_root);
}

/// A heap that had this range for blocks is deleted; it used the first `used` bytes. Whatever is
/// mapped there next is accessible.
pub(super) fn heap_gone(start: *mut u8, bytes: usize, used: usize) {
    tools().give(start, bytes, |sanitizer| sanitizer.remove_root);
    unpoison(start, used);
}
