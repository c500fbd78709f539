//! Everything that can fail fails once: each allocation of a Lua program, and each system call of a
//! heap. On an allocator or a kernel with a defect the same programs must fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use ebbtide_ffi_tests::{
    clean, finish, linked_with_faults, linked_with_lua, text_of, with_address_space,
};
use ebbtide_runtimes::LUAJIT;

ebbtide_ffi_tests::long! {
    an_allocator_that_fails_badly_is_found_out
    heaps_survive_every_refusal_under_a_limit_on_address_space
    a_checked_heap_finds_no_bug_in_luajit_when_memory_runs_out
}

/// What `oom_injection` counts for one Lua program.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    refusals: u64,
    /// The refusals after which blocks were left when the VM was closed.
    left: u64,
    crashes: u64,
}

fn oom_injection(arguments: &[&str]) -> BTreeMap<String, Counts> {
    oom_injection_on("off", arguments)
}

fn oom_injection_on(checked: &str, arguments: &[&str]) -> BTreeMap<String, Counts> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| linked_with_lua("faults/oom_injection.c", &LUAJIT, &[]));
    let mut command = clean(program);
    let output = finish(command.args(arguments).env("EBBTIDE_CHECKED", checked));
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    let count = |line: &str, name: &str| -> u64 {
        let figure = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("{name}: {line}"))
    };
    let counts = |line: &str| {
        let [refusals, left, crashes] = ["refusals", "left", "crashes"].map(|n| count(line, n));
        let name = line.split(' ').next().expect("a name").to_owned();
        (name, Counts { refusals, left, crashes })
    };
    text.lines().map(counts).collect()
}

/// What LuaJIT does with a refusal is its own matter: it must do the same on every allocator.
#[test]
fn luajit_survives_the_refusal_of_every_allocation() {
    let [ours, malloc, builtin] = thread::scope(|scope| {
        let run = |allocator| scope.spawn(move || oom_injection(&[allocator]));
        ["ebbtide", "malloc", "builtin"].map(run).map(|thread| thread.join().expect("it ran"))
    });
    let refusals: u64 = ours.values().map(|counts| counts.refusals).sum();
    assert!(refusals > 8000, "{ours:?}");
    for (name, counts) in &ours {
        for (other, counts_there) in [("malloc", &malloc[name]), ("builtin", &builtin[name])] {
            let outcome = |counts: &Counts| (counts.left, counts.crashes);
            assert_eq!(outcome(counts), outcome(counts_there), "{name}, there on {other}");
        }
    }
    // LuaJIT loses its own tables when there is no memory for the FFI's; nothing else.
    for (name, counts) in &ours {
        assert_eq!(counts.crashes, 0, "{name}");
        assert!(counts.left == 0 || name == "cdata", "{name}: {counts:?}");
    }
}

/// A closure whose upvalue is refused is freed with a size that is not its own: no bug of the
/// program's.
fn a_checked_heap_finds_no_bug_in_luajit_when_memory_runs_out() {
    let counts = oom_injection_on("on", &["ebbtide", "sound", "1", "closures"]);
    let Counts { refusals, left, crashes } = counts["closures"];
    assert!(refusals > 100 && left == 0 && crashes == 0, "{counts:?}");
}

fn an_allocator_that_fails_badly_is_found_out() {
    let leaks = oom_injection(&["ebbtide", "leak", "17"]);
    assert!(leaks.values().all(|counts| counts.left > 0), "{leaks:?}");
    let losses = oom_injection(&["ebbtide", "lose", "1", "coroutines"]);
    assert!(losses.values().all(|counts| counts.crashes > 0), "{losses:?}");
}

/// Calls of one kind: how many were made, how many refused, how many of these ended badly.
fn syscall_faults(arguments: &[&str], checked: &str) -> BTreeMap<String, [u64; 3]> {
    calls_of(clean(syscall_faults_program()).args(arguments).env("EBBTIDE_CHECKED", checked))
}

fn syscall_faults_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| linked_with_faults("faults/syscall_faults.c"))
}

fn calls_of(command: &mut Command) -> BTreeMap<String, [u64; 3]> {
    let output = finish(command);
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    let figures = text.lines().filter(|line| !line.starts_with("ok ")).map(|line| {
        let (name, figures) = line.split_once(' ').expect("a name and figures");
        let figure = |word: &str| word.split_once('=').and_then(|(_, n)| n.parse().ok());
        let figures: Vec<u64> = figures.split(' ').filter_map(figure).collect();
        (name.to_owned(), figures.try_into().unwrap_or_else(|_| panic!("{line}")))
    });
    figures.collect()
}

#[test]
fn heaps_survive_the_refusal_of_every_system_call() {
    for checked in ["off", "sample"] {
        let kinds = syscall_faults(&[], checked);
        for (kind, [calls, refused, bad]) in &kinds {
            assert_eq!(*bad, 0, "{kind}, checked: {checked}");
            // What the kernel takes back whole it cannot refuse.
            let is_tried = *calls > 3 && (*refused > 20 || kind == "munmap");
            assert!(is_tried, "{kind}, checked: {checked}: {calls}, {refused}");
        }
        assert_eq!(kinds.len(), 10, "{kinds:?}");
    }
}

/// The same under a limit on address space, where heaps map what they use piece by piece.
fn heaps_survive_every_refusal_under_a_limit_on_address_space() {
    let kinds = calls_of(&mut with_address_space(8 << 20, syscall_faults_program()));
    for (kind, [calls, refused, bad]) in &kinds {
        assert_eq!(*bad, 0, "{kind}: {calls}, {refused}");
    }
    let [mapped, refused, _] = kinds["mmap"];
    assert!(mapped > 20 && refused > 100, "{kinds:?}");
}

/// The same when nobody looks whether a call was refused.
#[test]
fn a_refusal_that_is_overlooked_is_found_out() {
    let kinds = syscall_faults(&["silent"], "off");
    for kind in ["mprotect", "madvise", "process_madvise", "mremap"] {
        assert!(kinds[kind][2] > 0, "{kind}: {kinds:?}");
    }
}

#[test]
fn around_heaps_and_their_tables_lie_pages_that_nobody_can_access() {
    finish(&mut clean(linked_with_faults("faults/guards.c")));
}

#[test]
fn each_process_has_its_heap_elsewhere() {
    let program = linked_with_faults("faults/guards.c");
    let address = || text_of(clean(&program).arg("address"));
    let addresses: BTreeSet<String> = (0..8).map(|_| address()).collect();
    assert_eq!(addresses.len(), 8, "{addresses:?}");
    let address = || text_of(clean("setarch").arg("-R").arg(&program).arg("address"));
    assert_eq!(address(), address(), "where randomness is off");
}

#[test]
fn memory_that_was_moved_away_is_not_lost_in_silence() {
    finish(&mut clean(linked_with_faults("faults/displaced.c")));
}

#[test]
fn heaps_that_come_and_go_hold_what_they_count() {
    finish(&mut clean(linked_with_faults("faults/heap_cache.c")));
}

#[test]
fn what_a_heap_says_it_holds_is_what_the_kernel_holds() {
    let program = linked_with_faults("faults/accounting.c");
    finish(&mut clean(&program));
    for defect in ["purge-next", "purge-not", "move-nothing"] {
        let output = clean(&program).arg(defect).output().expect("it runs");
        assert!(!output.status.success(), "{defect} was not found");
    }
}
