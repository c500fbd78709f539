//! Puts the kernel of `ffi-tests/c/include/syscall_faults.h` between the library and the real one.

/// The functions between which it stands.
const WRAPPED: &[&str] = &[
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "mremap",
    "mincore",
    "syscall",
    "open",
    "read",
    "getrlimit",
    "clock_gettime",
    "getrandom",
];

fn main() {
    println!("cargo:rerun-if-changed=src/kernel.c");
    println!("cargo:rerun-if-changed=../ffi-tests/c/include/syscall_faults.h");
    cc::Build::new().file("src/kernel.c").std("c99").define("_GNU_SOURCE", None).compile("unkind");
    for name in WRAPPED {
        println!("cargo:rustc-link-arg-bins=-Wl,--wrap={name}");
    }
}
