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
    "nanosleep",
    "pthread_create",
];

fn main() {
    for file in [
        "src/kernel.c",
        "src/background.h",
        "../ffi-tests/c/include/syscall_faults.h",
        "../ffi-tests/c/include/wrapped.h",
    ] {
        println!("cargo:rerun-if-changed={file}");
    }
    cc::Build::new()
        .file("src/kernel.c")
        .std("c99")
        .define("_GNU_SOURCE", None)
        .warnings(true)
        .extra_warnings(true)
        .flag("-Wpedantic")
        .warnings_into_errors(true)
        .compile("syscall_faults");
    for name in WRAPPED {
        println!("cargo:rustc-link-arg-bins=-Wl,--wrap={name}");
    }
}
