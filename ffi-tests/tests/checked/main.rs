//! Memory bugs of C modules and of code that uses the FFI, in Lua programs: a checked heap reports
//! each of them, with what it takes to find it, and says nothing of programs without one.

mod bugs;
mod clean_runs;
mod preloaded;
mod standard_error;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use ebbtide_ffi_tests::{Language, Linkage, clean, compile, finish, installed, linked_with_lua};
use ebbtide_runtimes::{LUAJIT, repository};

use bugs::{BY_FAULT, Bug, CALL, IN_FFI, IN_MODULE, READ_FREED, TWO_THREADS, bug};

const ABORTED: i32 = 6;

fn run(script: &str, case: &str, how: &str) -> Output {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| linked_with_lua("checked/checked_bugs.c", &LUAJIT, &[]));
    let mut command = clean(program);
    command.arg(self::script(script)).arg(case);
    command.env("EBBTIDE_CHECKED", how).output().expect("it runs")
}

/// A command without a core file when it is stopped.
fn without_core(program: impl AsRef<OsStr>) -> Command {
    let mut command = clean("sh");
    command.args(["-c", "ulimit -c 0 && exec \"$@\"", "sh"]).arg(program);
    command
}

fn script(name: &str) -> PathBuf {
    repository().join("ffi-tests/lua").join(name)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The words that must be in a report and are not.
fn missing(output: &Output, bug: &Bug, common: &[&'static str]) -> Vec<&'static str> {
    let report = said(output);
    let first = report.lines().next().unwrap_or_default();
    // Under the preload library the program's name and number stand before.
    let begins = first.starts_with("ebbtide: ") && first.contains("heap 0x");
    let begins = begins && first.contains(bug.what);
    let expected = bug.words.iter().chain(common).copied();
    let missing = expected.filter(|words| !report.contains(words));
    missing.chain((!begins).then_some(bug.what)).collect()
}

fn is_reported(script: &str, how: &str, bug: &Bug, common: &[&'static str]) {
    reports(&run(script, bug.name, how), script, bug, common);
}

/// It stopped with the report of this bug.
fn reports(output: &Output, what: &str, bug: &Bug, common: &[&'static str]) {
    let (missing, report) = (missing(output, bug, common), said(output));
    assert!(missing.is_empty(), "{what} {}: without {missing:?}:\n{report}", bug.name);
    assert_eq!(output.status.signal(), Some(ABORTED), "{what} {}:\n{report}", bug.name);
}

/// It ended well and said nothing.
fn is_quiet(output: &Output, what: &str) {
    let (status, report) = (output.status, said(output));
    assert!(status.success() && report.is_empty(), "{what}: {status}: {report}");
}

#[test]
fn bugs_of_a_c_module_are_reported() {
    IN_MODULE.iter().for_each(|bug| is_reported("checked_module.lua", "on", bug, &CALL));
}

#[test]
fn bugs_of_code_that_uses_the_ffi_are_reported() {
    IN_FFI.iter().for_each(|bug| is_reported("checked_ffi.lua", "on", bug, &CALL));
}

#[test]
fn forbidden_accesses_are_reported_when_they_are_made() {
    for (script, bug) in BY_FAULT {
        is_reported(script, "on", bug, &["access: at 0x", "found: by the fault of thread 0x"]);
    }
}

#[test]
fn two_threads_in_one_heap_are_reported() {
    is_reported("checked_module.lua", "on", &TWO_THREADS, &[]);
    let thread_ticks = Bug { name: "thread_ticks", ..TWO_THREADS };
    let output = run("checked_module.lua", thread_ticks.name, "on");
    reports(&output, "a thread that ticks", &thread_ticks, &[]);
    assert!(said(&output).contains("ebb_tick"), "{}", said(&output));
}

/// The first bug of this kind, or a later one.
#[test]
fn a_heap_that_samples_finds_a_bug_that_comes_again_and_again() {
    is_reported("checked_module.lua", "sample", &READ_FREED, &["found: by the fault of thread 0x"]);
}

/// Nothing is said of a program without a bug; and a heap that is not checked says none of this.
#[test]
fn nothing_is_reported_of_programs_without_a_bug() {
    for script in ["checked_module.lua", "checked_ffi.lua"] {
        for how in ["on", "sample", "off"] {
            is_quiet(&run(script, "none", how), &format!("{script} {how}"));
        }
    }
    for bug in IN_MODULE {
        let report = said(&run("checked_module.lua", bug.name, "off"));
        assert!(!report.contains("found"), "{}, not checked: {report}", bug.name);
    }
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// A stock `luajit`, with the module as it is installed.
fn attached(case: &str, how: Option<&str>) -> Command {
    let lib = installed().lib();
    let mut command = without_core("luajit");
    command.arg(script("checked_attach.lua")).arg(case).args(how);
    command.env("LUA_CPATH", format!("{}/lua/5.1/?.so", lib.display()));
    command.env("LUA_PATH", format!("{}/../share/lua/5.1/?.lua", lib.display()));
    command
}

#[test]
fn bugs_in_blocks_that_a_vm_has_since_it_was_attached_are_reported() {
    let since = bug(
        "since",
        "overflow: something was written past the end of a block",
        &[", 57 bytes, in a slot", "from offset 57, 1 byte past its end", "bytes there: 01 eb"],
    );
    reports(&output(&mut attached("since", Some("on"))), "by option", &since, &CALL);
    let mut by_environment = attached("since", None);
    reports(&output(by_environment.env("EBBTIDE_CHECKED", "on")), "by variable", &since, &CALL);
    for case in ["none", "before"] {
        is_quiet(&output(&mut attached(case, Some("on"))), case);
    }
    is_quiet(&output(&mut attached("none", Some("sample"))), "sampled");
}

#[test]
fn signals_of_faults_come_to_whom_they_are_meant_for() {
    let program = compile("checked/faults.c", Language::C, Linkage::Shared, "checked", &[]);
    for how in ["on", "sample"] {
        finish(without_core(&program).env("EBBTIDE_CHECKED", how));
    }
}
