//! A library with the feature `sanitizers`: under AddressSanitizer and valgrind a bug in a block of
//! a heap is found as it is in one of the C library's allocator, and without the feature it is not.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ebbtide_ffi_tests::{
    Language, base_name, clean, compiler, finish, installed, release, scratch, source,
    under_valgrind,
};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

ebbtide_ffi_tests::long! {
    valgrind_finds_what_it_finds_on_the_c_library
    valgrind_finds_leaks
    the_sanitizer_finds_what_it_finds_on_the_c_library
    without_the_feature_neither_finds_them
    nothing_is_found_in_programs_that_use_a_heap_well
    lua_programs_are_looked_at_with_their_modules_and_ffi_code
}

const ADDRESS: &[&str] = &["-fsanitize=address"];

/// A case of `tool_bugs.c`, and what valgrind says of it.
type Bug = (&'static str, &'static [&'static str]);

const BUGS: &[Bug] = &[
    ("overflow", &["Invalid write of size 1", "is 0 bytes after a block of size 24 alloc'd"]),
    ("underflow", &["Invalid read of size 1", "is 1 bytes before a block of size 24 alloc'd"]),
    ("shrunk", &["Invalid read of size 1", "is 0 bytes after a block of size 13 alloc'd"]),
    ("read_freed", &["Invalid read of size 1", "is 3 bytes inside a block of size 24 free'd"]),
    ("write_freed", &["Invalid write of size 1", "is 3 bytes inside a block of size 24 free'd"]),
    ("read_moved", &["Invalid read of size 1", "is 3 bytes inside a block of size 24 free'd"]),
    (
        "large_overflow",
        &["Invalid write of size 1", "is 0 bytes after a block of size 100,000 alloc'd"],
    ),
    (
        "large_read_freed",
        &["Invalid read of size 1", "is 50,000 bytes inside a block of size 100,000 free'd"],
    ),
];

/// Those that only valgrind finds.
const UNSET: &[Bug] = &[
    ("unset", &["depends on uninitialised value(s)"]),
    ("moved_unset", &["depends on uninitialised value(s)"]),
];

/// The library with the feature, built at its first use, in a folder of its own.
fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let folder = release().with_file_name("sanitizers");
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--package", "ebbtide", "--features", "sanitizers"]);
        finish(command.arg("--target-dir").arg(&folder).current_dir(repository()));
        folder.join("debug/libebbtide.a")
    })
}

/// Compiles a source against a library, with LuaJIT inside.
fn program(name: &str, library: &Path, kind: &str, flags: &[&str]) -> PathBuf {
    let program = scratch("sanitizers").join(format!("{}-{kind}", base_name(name)));
    let mut command = compiler(Language::C);
    command.args(flags).arg("-I").arg(installed().include()).arg("-isystem");
    command.arg(LUAJIT.include_dir).arg("-o").arg(&program).arg(source(name));
    command.args(["-x", "none"]).arg(library).arg(LUAJIT.library).args(LUAJIT.link_flags);
    finish(command.args(EBBTIDE_LINK_FLAGS));
    program
}

fn valgrind(program: &Path, arguments: &[&str]) -> Output {
    let mut command = under_valgrind();
    command.arg("--leak-check=full").arg(program).args(arguments).current_dir(repository());
    command.output().expect("valgrind runs")
}

fn sanitizer(program: &Path, arguments: &[&str]) -> Output {
    let mut command = clean(program);
    // Leaks are looked for with ptrace, which is not allowed everywhere.
    command.env("ASAN_OPTIONS", "detect_leaks=0").args(arguments).current_dir(repository());
    command.output().expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_found(output: &Output, told: &[&str], what: &str) {
    let report = said(output);
    let missing: Vec<&&str> = told.iter().filter(|words| !report.contains(**words)).collect();
    assert!(missing.is_empty(), "{what}: without {missing:?}:\n{report}");
    assert!(!output.status.success(), "{what}: {}", output.status);
}

fn is_clean(output: &Output, what: &str) {
    let report = said(output);
    let is_silent = !report.contains("==") && !report.contains("ebbtide:");
    assert!(output.status.success() && is_silent, "{what}: {}\n{report}", output.status);
}

fn valgrind_finds_what_it_finds_on_the_c_library() {
    let told = program("checked/tool_bugs.c", archive(), "told", &[]);
    for (case, words) in BUGS.iter().chain(UNSET) {
        for allocator in ["libc", "ebbtide"] {
            let output = valgrind(&told, &[allocator, case]);
            is_found(&output, words, case);
            // From where the access was made, and where the block is from.
            assert!(said(&output).contains("tool_bugs.c:"), "{case}: {}", said(&output));
        }
    }
}

fn valgrind_finds_leaks() {
    let told = program("checked/tool_bugs.c", archive(), "leaks", &[]);
    for allocator in ["libc", "ebbtide"] {
        let lost = ["25 bytes in 1 blocks are definitely lost"];
        is_found(&valgrind(&told, &[allocator, "leak"]), &lost, allocator);
    }
}

fn the_sanitizer_finds_what_it_finds_on_the_c_library() {
    let told = program("checked/tool_bugs.c", archive(), "sanitized", ADDRESS);
    for (case, _) in BUGS {
        let words = ["ERROR: AddressSanitizer: heap-", "tool_bugs.c:"];
        is_found(&sanitizer(&told, &["libc", case]), &words, case);
        let words = ["ERROR: AddressSanitizer: use-after-poison", "tool_bugs.c:"];
        is_found(&sanitizer(&told, &["ebbtide", case]), &words, case);
    }
}

fn without_the_feature_neither_finds_them() {
    let library = installed().archive();
    let plain = program("checked/tool_bugs.c", &library, "plain", &[]);
    let sanitized = program("checked/tool_bugs.c", &library, "plain-sanitized", ADDRESS);
    for (case, _) in BUGS {
        is_clean(&sanitizer(&sanitized, &["ebbtide", case]), case);
    }
    for (case, _) in &BUGS[..3] {
        is_clean(&valgrind(&plain, &["ebbtide", case]), case);
    }
}

fn nothing_is_found_in_programs_that_use_a_heap_well() {
    let told = program("checked/tool_bugs.c", archive(), "well", &[]);
    let sanitized = program("checked/tool_bugs.c", archive(), "well-sanitized", ADDRESS);
    is_clean(&valgrind(&told, &["ebbtide", "none"]), "valgrind");
    is_clean(&sanitizer(&sanitized, &["ebbtide", "none"]), "sanitizer");
    // Without a tool the heap is as any other, or checked as it is asked to be.
    for how in ["off", "on"] {
        finish(clean(&told).args(["ebbtide", "none"]).env("EBBTIDE_CHECKED", how));
    }
    let pairs = program("heap/alloc_free_loop.c", archive(), "well-sanitized", ADDRESS);
    is_clean(&sanitizer(&pairs, &["100", "100000"]), "pairs");
}

fn lua_programs_are_looked_at_with_their_modules_and_ffi_code() {
    let (module, ffi) = ("ffi-tests/lua/checked_module.lua", "ffi-tests/lua/checked_ffi.lua");
    let told = program("checked/checked_bugs.c", archive(), "told", &[]);
    let sanitized = program("checked/checked_bugs.c", archive(), "sanitized", ADDRESS);
    is_clean(&valgrind(&told, &[module, "none"]), "valgrind");
    is_clean(&sanitizer(&sanitized, &[module, "none"]), "sanitizer");
    is_clean(&sanitizer(&sanitized, &[ffi, "none"]), "sanitizer");
    let words =
        ["Invalid write of size 1", "block of size 40 alloc'd", "overflow (checked_bugs.c:"];
    is_found(&valgrind(&told, &[module, "overflow"]), &words, "a module");
    let words = ["Invalid write of size 1", "block of size 56 alloc'd"];
    is_found(&valgrind(&told, &[ffi, "overflow"]), &words, "code that uses the FFI");
    let words = ["use-after-poison", "in overflow ", "checked_bugs.c:"];
    is_found(&sanitizer(&sanitized, &[module, "overflow"]), &words, "a module");
    let double = ["ebbtide: heap 0x", "double free: "];
    is_found(&valgrind(&told, &[module, "double_free"]), &double, "valgrind");
    is_found(&sanitizer(&sanitized, &[module, "double_free"]), &double, "sanitizer");
}
