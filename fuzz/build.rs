//! Puts the kernel of `harness/include/syscall_faults.h` between the library and the real one.

/// The functions between which it stands, one a line.
const WRAPPED_CALLS: &str = include_str!("../harness/include/wrapped_calls.txt");

/// And those of `background.h`.
const WRAPPED_WAITS: [&str; 2] = ["nanosleep", "pthread_create"];

fn main() {
    for file in [
        "src/kernel.c",
        "src/background.h",
        "../harness/include/syscall_faults.h",
        "../harness/include/wrapped.h",
    ] {
        println!("cargo:rerun-if-changed={file}");
    }
    cc::Build::new()
        .file("src/kernel.c")
        .include("../harness/include")
        .std("c99")
        .define("_GNU_SOURCE", None)
        .warnings(true)
        .extra_warnings(true)
        .flag("-Wpedantic")
        .warnings_into_errors(true)
        .compile("syscall_faults");
    for name in WRAPPED_CALLS.lines().chain(WRAPPED_WAITS) {
        println!("cargo:rustc-link-arg-bins=-Wl,--wrap={name}");
    }
}
