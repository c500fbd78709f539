//! The allocators that the benches of the heap compare, each behind the signature of `lua_Alloc`.
//!
//! Ours, the C library's, and every library in the folder that `BENCH_PEERS` names, which
//! `benches/peers/build.sh` fills; `make bench` does both. A library is used on the heap of the
//! calling thread, as its own `malloc` would be.

use std::ffi::{CString, OsString, c_int, c_void};
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use ebbtide::capi::ebb_alloc;

use super::Heap;

type Alloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize) -> *mut c_void;
type Purge = unsafe extern "C" fn() -> c_int;

/// An allocator to measure.
pub struct Candidate {
    /// Its name in results.
    pub name: String,
    /// Its functions; none for ours, which gets a new heap each time.
    functions: Option<(Alloc, Purge)>,
}

/// An allocator at work. All are called through a pointer, as LuaJIT does.
pub struct Subject {
    alloc: Alloc,
    ud: *mut c_void,
    by: By,
}

/// How an allocator gives memory back.
enum By {
    Heap(Heap),
    Purge(Purge),
}

/// Every allocator that there is, ours first.
pub fn candidates() -> Vec<Candidate> {
    let mut candidates = vec![
        Candidate { name: "ebbtide".to_owned(), functions: None },
        Candidate { name: "libc".to_owned(), functions: Some((libc_alloc, libc_purge)) },
    ];
    if let Some(folder) = std::env::var_os("BENCH_PEERS") {
        candidates.extend(libraries(folder).iter().map(|path| load(path)));
    }
    candidates
}

fn libraries(folder: OsString) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(&folder).expect("BENCH_PEERS names a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension() == Some("so".as_ref())).collect();
    paths.sort();
    paths
}

fn load(path: &Path) -> Candidate {
    let text = CString::new(path.as_os_str().as_bytes()).expect("a path has no zero in it");
    // SAFETY: the path ends with a zero; the libraries have no constructors that do harm.
    let library = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(
        !library.is_null(),
        "cannot load {}: set GLIBC_TUNABLES as `make bench` does",
        path.display()
    );
    let find = |name: &std::ffi::CStr| {
        // SAFETY: the library is loaded and stays so, and the name ends with a zero.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!address.is_null(), "{} has no function {name:?}", path.display());
        address
    };
    let (alloc, purge) = (find(c"peer_alloc"), find(c"peer_purge"));
    // SAFETY: these are the signatures that benches/peers gives the two.
    let functions = unsafe {
        (
            std::mem::transmute::<*mut c_void, Alloc>(alloc),
            std::mem::transmute::<*mut c_void, Purge>(purge),
        )
    };
    let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
    Candidate { name, functions: Some(functions) }
}

/// # Safety
///
/// As for `realloc` and `free`.
unsafe extern "C" fn libc_alloc(
    _ud: *mut c_void,
    block: *mut c_void,
    _old: usize,
    new: usize,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe {
        if new == 0 {
            libc::free(block);
            return ptr::null_mut();
        }
        libc::realloc(block, new)
    }
}

/// # Safety
///
/// None is needed.
unsafe extern "C" fn libc_purge() -> c_int {
    // SAFETY: it may be called at any time.
    unsafe { libc::malloc_trim(0) };
    1
}

impl Candidate {
    /// Sets it to work, with nothing allocated.
    pub fn start(&self) -> Subject {
        let (alloc, ud, by) = match self.functions {
            Some((alloc, purge)) => (alloc, ptr::null_mut(), By::Purge(purge)),
            None => {
                let heap = Heap::new();
                (ebb_alloc as Alloc, heap.ud(), By::Heap(heap))
            }
        };
        // The compiler must not see which function it is.
        Subject { alloc: black_box(alloc), ud, by }
    }
}

impl Subject {
    /// What LuaJIT would call.
    #[inline]
    pub fn call(&self, block: *mut c_void, old: usize, new: usize) -> *mut c_void {
        // SAFETY: the benches pass live blocks of this allocator with their sizes.
        unsafe { (self.alloc)(self.ud, block, old, new) }
    }

    /// A new block.
    #[inline]
    pub fn allocate(&self, size: usize) -> *mut c_void {
        self.call(ptr::null_mut(), 0, size)
    }

    /// Frees a block.
    #[inline]
    pub fn free(&self, block: *mut c_void, size: usize) {
        self.call(block, size, 0);
    }

    /// Gives back all that can be.
    pub fn purge(&self) {
        match &self.by {
            By::Heap(heap) => {
                heap.reclaim(0);
            }
            // SAFETY: a purge may be called at any time.
            By::Purge(purge) => unsafe {
                purge();
            },
        }
    }
}
