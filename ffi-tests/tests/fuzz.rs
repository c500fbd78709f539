//! The random programs of `fuzz/`, for a moment, the programs that are kept, and the defects that
//! both must find.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ebbtide_ffi_tests::{PREFIX, clean, finish, make, release, with_address_space};
use ebbtide_runtimes::repository;

ebbtide_ffi_tests::long! {
    random_programs_agree_with_the_model
    kept_programs_agree_with_the_model
    programs_agree_with_the_model_under_a_limit_on_address_space
    defects_on_purpose_are_found
}

/// The driver, built at its first use.
fn driver() -> Command {
    clean(driver_path())
}

fn driver_path() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        make(&["fuzz-build"], Path::new("/"), PREFIX);
        release().with_file_name("fuzz").join("release/random")
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn random_programs_agree_with_the_model() {
    let output = finish(driver().args(["--seconds", "6"]));
    let told = said(&output);
    let operations = told.split(", ").nth(1).and_then(|part| part.split(' ').next());
    let operations: u64 = operations.and_then(|n| n.parse().ok()).expect("a count of operations");
    assert!(operations > 100_000, "{told}");
}

/// How often the background thread has returned memory.
fn background_returns(told: &str) -> u64 {
    let times = told.split("returned memory ").nth(1).and_then(|part| part.split(' ').next());
    times.and_then(|times| times.parse().ok()).expect("how often")
}

fn kept_programs_agree_with_the_model() {
    let told = said(&finish(driver().arg(repository().join("fuzz/corpus"))));
    let programs = told.lines().filter(|line| line.contains("/corpus/")).count();
    assert!(programs >= 50, "{told}");
    assert!(background_returns(&told) > 50, "{told}");
}

/// Heaps that reserve nothing agree, too.
fn programs_agree_with_the_model_under_a_limit_on_address_space() {
    let limited = || with_address_space(4 << 20, driver_path());
    finish(limited().args(["--seconds", "6"]));
    finish(limited().arg(repository().join("fuzz/corpus")));
}

/// Each with what must be said of it: one of these words. What checked heaps find they tell
/// themselves. A descriptor that is lost, or stays, is found by the heap.
const DEFECTS: [(&str, &str); 11] = [
    ("purge-next", "contents|underflow|use after free"),
    ("purge-not", "truth|overflow"),
    ("move-nothing", "contents"),
    ("purge-again", "contents|pointer|descriptor"),
    ("lose-byte", "contents"),
    ("leak", "stats"),
    ("overlap", "contents"),
    ("miscount", "stats|reclaim"),
    ("refuse-shrink", "shrink"),
    ("wrong-size", "wrong size: osize"),
    ("write-freed", "use after free"),
];

fn defects_on_purpose_are_found() {
    for (defect, expected) in DEFECTS {
        let output = driver().args(["--seconds", "60", "--defect", defect]).output();
        let output = output.expect("the driver runs");
        assert!(!output.status.success(), "{defect} was not found");
        let told = said(&output);
        let is_reported = expected.split('|').any(|words| told.contains(words));
        assert!(is_reported && told.contains("of seed 1"), "{defect}: {told}");
    }
}
