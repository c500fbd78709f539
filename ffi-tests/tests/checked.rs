//! Memory bugs of C modules and of code that uses the FFI, in Lua programs: a checked heap tells
//! each of them, with what it takes to find it, and says nothing of programs without one.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::{
    Language, Linkage, clean, compile, compiler, finish, installed, linked_with_lua, scratch,
    source, with_address_space,
};
use ebbtide_runtimes::others::{lua51, lua53, lua54, luajit_checked};
use ebbtide_runtimes::{LUAJIT, Runtime, build_host, repository};

ebbtide_ffi_tests::long! {
    lua_programs_run_clean
    puc_lua_runs_clean
    they_do_within_8_gib_of_address_space
    programs_with_many_heaps_and_threads_run_as_on_any
}

const ABORTED: i32 = 6;

/// A bug, the first words of its report, and what else must stand there.
struct Bug {
    name: &'static str,
    what: &'static str,
    told: &'static [&'static str],
}

const fn bug(name: &'static str, what: &'static str, told: &'static [&'static str]) -> Bug {
    Bug { name, what, told }
}

/// What every report of a call says.
const CALL: [&str; 3] = ["found: by thread 0x", "found in: ebb_alloc(heap, 0x", "from:"];

const IN_MODULE: &[Bug] = &[
    bug(
        "overflow",
        "overflow: something was written past the end of a block",
        &[
            ", 40 bytes, in a slot of 64",
            "allocated: number ",
            "damage: from offset 40, 1 byte past its end; 1 byte not the eb put there",
            "bytes there: 01 eb eb eb",
            "(lua_pcall",
        ],
    ),
    bug(
        "overflow_userdata",
        "overflow: something was written past the end of a block",
        &["1 byte past its end", "bytes there: 01 eb"],
    ),
    bug(
        "underflow",
        "underflow: something was written before a block",
        &["in the 16 bytes before it", "bytes there: "],
    ),
    bug("double_free", "double free: ", &[", 40 bytes", "freed: number ", "(lua_pcall"]),
    bug(
        "write_freed",
        "use after free: something was written into a block that was freed",
        &[", 40 bytes", "freed: number ", "from offset 3, inside", "bytes there: 01 df df"],
    ),
    bug("wrong_size", "wrong size: osize is 39 for a block of 40 bytes", &["(lua_pcall"]),
    bug("foreign", "wrong pointer: ", &["is not of this heap", "(lua_pcall"]),
    bug("other_heap", "wrong pointer: ", &["is not of this heap", "it lies in heap 0x"]),
    bug("other_heap_guarded", "wrong pointer: ", &["is not of this heap", "it lies in heap 0x"]),
    bug("middle", "wrong pointer: ", &["points into a block", "to offset 8, inside of the block"]),
];

const IN_FFI: &[Bug] = &[
    bug(
        "overflow",
        "overflow: something was written past the end of a block",
        &[", 56 bytes, in a slot", "from offset 56, 1 byte past its end", "bytes there: 01 eb"],
    ),
    bug(
        "underflow",
        "underflow: something was written before a block",
        &["in the 16 bytes before it"],
    ),
    bug(
        "write_freed",
        "use after free: something was written into a block that was freed",
        &[", 56 bytes", "freed: number ", "from offset 19, inside", "bytes there: 01 df df"],
    ),
    bug("double_free", "double free: ", &[", 40 bytes", "freed: number "]),
    bug("wrong_size", "wrong size: osize is 41 for a block of 40 bytes", &[]),
    bug("foreign", "wrong pointer: ", &["is not of this heap"]),
    bug("middle", "wrong pointer: ", &["to offset 16, inside of the block"]),
];

/// Those that the processor finds, with the words of the access.
const BY_FAULT: &[(&str, Bug)] = &[
    (
        "checked_module.lua",
        bug(
            "large_overflow",
            "overflow: memory past the end of a block was ",
            &["offset 100000, 1 byte past its end", ", 100000 bytes, on pages of its own"],
        ),
    ),
    (
        "checked_module.lua",
        bug(
            "large_read_freed",
            "use after free: a freed block was ",
            &["offset 7, inside of the block", ", 100000 bytes", "freed: number "],
        ),
    ),
    ("checked_module.lua", READ_FREED),
    (
        "checked_ffi.lua",
        bug(
            "large_overflow",
            "overflow: memory past the end of a block was ",
            &[", 100016 bytes, on pages of its own", "offset 100032, 17 bytes past its end"],
        ),
    ),
    (
        "checked_ffi.lua",
        bug("large_read_freed", "use after free: a freed block was ", &["offset 23, inside"]),
    ),
    (
        "checked_ffi.lua",
        bug(
            "read_freed",
            "use after free: a freed block was ",
            &["offset 19, inside", ", 56 bytes, in a guarded slot", "allocated: number"],
        ),
    ),
];

/// Who allocated it and who freed it is known, by name.
const READ_FREED: Bug = bug(
    "read_freed",
    "use after free: a freed block was ",
    &[
        "offset 3, inside of the block",
        ", 40 bytes, in a guarded slot",
        "allocated: number",
        "freed: number",
        "(lua_pcall",
    ],
);

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
    let expected = bug.told.iter().chain(common).copied();
    let missing = expected.filter(|words| !report.contains(words));
    missing.chain((!begins).then_some(bug.what)).collect()
}

fn is_told(script: &str, how: &str, bug: &Bug, common: &[&'static str]) {
    tells(&run(script, bug.name, how), script, bug, common);
}

/// It stopped with the report of this bug.
fn tells(output: &Output, what: &str, bug: &Bug, common: &[&'static str]) {
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
fn bugs_of_a_c_module_are_told() {
    IN_MODULE.iter().for_each(|bug| is_told("checked_module.lua", "on", bug, &CALL));
}

#[test]
fn bugs_of_code_that_uses_the_ffi_are_told() {
    IN_FFI.iter().for_each(|bug| is_told("checked_ffi.lua", "on", bug, &CALL));
}

#[test]
fn forbidden_accesses_are_told_when_they_are_made() {
    for (script, bug) in BY_FAULT {
        is_told(script, "on", bug, &["access: at 0x", "found: by the fault of thread 0x"]);
    }
}

const TWO_THREADS: Bug =
    bug("two_threads", "two threads use it at once", &["inside: thread 0x", "came in: thread"]);

#[test]
fn two_threads_in_one_heap_are_told() {
    is_told("checked_module.lua", "on", &TWO_THREADS, &[]);
    let thread_ticks = Bug { name: "thread_ticks", ..TWO_THREADS };
    let output = run("checked_module.lua", thread_ticks.name, "on");
    tells(&output, "a thread that ticks", &thread_ticks, &[]);
    assert!(said(&output).contains("ebb_tick"), "{}", said(&output));
}

/// The first bug of this kind, or a later one.
#[test]
fn a_heap_that_samples_finds_a_bug_that_comes_again_and_again() {
    is_told("checked_module.lua", "sample", &READ_FREED, &["found: by the fault of thread 0x"]);
}

/// Nothing is said of a program without a bug; and a heap that is not checked says none of this.
#[test]
fn where_there_is_nothing_to_tell_nothing_is_told() {
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

/// The programs of the tests above, for a LuaJIT that is not ours: a plain one, on the system's
/// shared library, and the C module, in a folder of its own.
fn strangers() -> &'static (PathBuf, PathBuf) {
    static STRANGERS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    STRANGERS.get_or_init(|| {
        let folder = scratch("checked-strangers");
        let (program, module) = (folder.join("run"), folder.join("native.so"));
        let build = |name: &str, to: &PathBuf, with: &mut dyn FnMut(&mut Command)| {
            let mut command = compiler(Language::C);
            command.arg("-isystem").arg(LUAJIT.include_dir).arg("-I").arg(installed().include());
            command.arg("-o").arg(to).arg(source(name)).args(["-x", "none"]);
            with(&mut command);
            finish(command.arg("-lpthread"));
        };
        build("preload/preload_run.c", &program, &mut |command| {
            command.arg("-l:libluajit-5.1.so.2");
        });
        build("checked/checked_bugs.c", &module, &mut |command| {
            let lib = format!("-Wl,-rpath,{}", installed().lib().display());
            command.args(["-shared", "-fPIC", &lib]).arg(installed().shared());
        });
        (program, folder.join("?.so"))
    })
}

/// `ebbtide run` with these options, or the preload library alone, for the plain program.
fn preloaded(options: Option<&[&str]>, script: &str, case: &str) -> Command {
    let (program, modules) = strangers();
    let lib = installed().lib();
    let mut command = match options {
        Some(_) => without_core(lib.join("../bin/ebbtide")),
        None => without_core("env"),
    };
    match options {
        Some(options) => command.arg("run").args(options),
        None => command.arg(format!("LD_PRELOAD={}/libebbtide_preload.so", lib.display())),
    };
    command.arg(program).arg(self::script(script)).arg(case).env("LUA_CPATH", modules);
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Those that a script can have without the address of its heap.
fn of_any_script(bug: &&Bug) -> bool {
    !matches!(bug.name, "double_free" | "wrong_size" | "foreign" | "middle")
}

#[test]
fn bugs_are_told_under_the_preload_library() {
    let on = Some(&["--checked", "on"][..]);
    let of_module = IN_MODULE.iter().map(|bug| ("checked_module.lua", bug, &CALL[..]));
    let of_ffi = IN_FFI.iter().filter(of_any_script).map(|bug| ("checked_ffi.lua", bug, &CALL[..]));
    let by_fault = BY_FAULT.iter().map(|(script, bug)| (*script, bug, &["access: at 0x"][..]));
    for (script, bug, common) in of_module.chain(of_ffi).chain(by_fault) {
        tells(&output(&mut preloaded(on, script, bug.name)), script, bug, common);
    }
    let two_threads = &mut preloaded(on, "checked_module.lua", TWO_THREADS.name);
    tells(&output(two_threads), "preloaded", &TWO_THREADS, &[]);
    let sampled = &mut preloaded(Some(&["--checked=sample"]), "checked_module.lua", "read_freed");
    tells(&output(sampled), "sample", &READ_FREED, &["found: by the fault of thread 0x"]);
    let mut alone = preloaded(None, "checked_module.lua", IN_MODULE[0].name);
    tells(&output(alone.env("EBBTIDE_CHECKED", "on")), "LD_PRELOAD", &IN_MODULE[0], &CALL);
}

#[test]
fn under_the_preload_library_nothing_is_told_where_there_is_nothing() {
    for script in ["checked_module.lua", "checked_ffi.lua"] {
        for how in ["on", "sample", "off"] {
            let what = format!("{script} {how}");
            is_quiet(&output(&mut preloaded(Some(&["--checked", how]), script, "none")), &what);
        }
    }
}

/// Its own heap is the only one that a VM has there, checked or not.
#[test]
fn a_pointer_from_elsewhere_ends_a_program_under_the_preload_library() {
    let output = output(&mut preloaded(None, "checked_module.lua", "foreign"));
    let report = said(&output);
    assert!(report.contains(" is not of this heap\n"), "{report}");
    assert_eq!((output.status.signal(), report.lines().count()), (Some(ABORTED), 1), "{report}");
}

/// A program under the preload library that does something to its standard error, and then has a
/// bug that a checked heap finds, or any heap.
fn with_fate(checked: bool, fate: &str) -> (Command, &'static Bug) {
    let (how, name) = if checked { ("on", "overflow") } else { ("off", "foreign") };
    let bug = IN_MODULE.iter().find(|bug| bug.name == name).expect("a bug");
    let options = ["--report", "--checked", how];
    // A descriptor is kept for reports. It is not the one for the last lines.
    let options = if checked { &options[..] } else { &options[1..] };
    let mut command = preloaded(Some(options), "checked_stderr.lua", bug.name);
    command.arg(fate);
    (command, bug)
}

/// Whether the whole report of this bug is there, or its one line.
fn is_whole(text: &str, bug: &Bug, checked: bool) -> bool {
    let told = |words: &&str| text.contains(words);
    match checked {
        true => text.contains(bug.what) && bug.told.iter().chain(&CALL).all(told),
        false => text.lines().count() == 1 && text.contains("is not of this heap"),
    }
}

/// As nginx's error log does when its configuration is read, or a log that was rotated.
#[test]
fn under_the_preload_library_a_log_that_became_standard_error_has_the_report() {
    for checked in [true, false] {
        let log = scratch("checked-strangers").join(format!("log-{checked}"));
        let _ = fs::remove_file(&log);
        let (mut command, bug) = with_fate(checked, "log");
        let output = output(command.arg(&log));
        assert_eq!(output.status.signal(), Some(ABORTED), "{}", said(&output));
        let text = fs::read_to_string(&log).expect("a log");
        assert!(is_whole(&text, bug, checked), "{text}, and elsewhere: {}", said(&output));
        assert!(text.lines().all(|line| line.starts_with("ebbtide: run[")), "{text}");
    }
}

#[test]
fn under_the_preload_library_a_database_that_became_standard_error_has_no_report() {
    let database = scratch("checked-strangers").join("database");
    let _ = fs::remove_file(&database);
    for checked in [true, false] {
        let (mut command, bug) = with_fate(checked, "database");
        let output = output(command.arg(&database));
        assert_eq!(output.status.signal(), Some(ABORTED), "{}", said(&output));
        assert_eq!(fs::read_to_string(&database).expect("a database"), "");
        // The descriptor that was kept.
        assert_eq!(is_whole(&said(&output), bug, true), checked, "{}", said(&output));
    }
}

fn with_full_pipe(checked: bool) -> (Child, &'static Bug) {
    let (mut command, bug) = with_fate(checked, "full");
    (command.stderr(Stdio::piped()).spawn().expect("it runs"), bug)
}

#[test]
fn under_the_preload_library_a_report_waits_for_the_reader_of_a_full_pipe() {
    for checked in [true, false] {
        let (mut child, bug) = with_full_pipe(checked);
        sleep(Duration::from_secs(2));
        let mut text = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
        assert_eq!(child.wait().expect("a status").signal(), Some(ABORTED), "{text}");
        let report = text.trim_start_matches('x');
        assert!(is_whole(report, bug, checked), "{report}");
    }
}

#[test]
fn under_the_preload_library_a_pipe_that_stays_full_lets_the_process_end() {
    let (mut child, _) = with_full_pipe(true);
    let start = Instant::now();
    while child.try_wait().expect("a status").is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().expect("it was there");
            panic!("it waits for ever");
        }
        sleep(Duration::from_millis(100));
    }
    assert_eq!(child.wait().expect("a status").signal(), Some(ABORTED));
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
fn bugs_in_blocks_that_a_vm_has_since_it_was_attached_are_told() {
    let since = bug(
        "since",
        "overflow: something was written past the end of a block",
        &[", 57 bytes, in a slot", "from offset 57, 1 byte past its end", "bytes there: 01 eb"],
    );
    tells(&output(&mut attached("since", Some("on"))), "by option", &since, &CALL);
    let mut by_environment = attached("since", None);
    tells(&output(by_environment.env("EBBTIDE_CHECKED", "on")), "by variable", &since, &CALL);
    for case in ["none", "before"] {
        is_quiet(&output(&mut attached(case, Some("on"))), case);
    }
    is_quiet(&output(&mut attached("none", Some("sample"))), "sampled");
}

#[test]
fn programs_that_use_a_heap_well_run_as_on_any() {
    let programs =
        |how: Linkage, kind| compile("checked/checked_calls.c", Language::C, how, kind, &[]);
    finish(&mut clean(programs(Linkage::Shared, "shared")));
    finish(&mut clean(programs(Linkage::Archive, "archive")));
    run_as_on_any(&["heap/fork.c", "heap/alloc_free_loop.c"]);
}

fn programs_with_many_heaps_and_threads_run_as_on_any() {
    run_as_on_any(&["heap/handover.c", "heap/many.c"]);
}

fn run_as_on_any(names: &[&str]) {
    for name in names {
        let program = compile(name, Language::C, Linkage::Shared, "checked", &[]);
        for how in ["on", "sample"] {
            finish(clean(&program).env("EBBTIDE_CHECKED", how).args(arguments(name)));
        }
    }
}

/// There a heap maps its pages piece by piece.
fn they_do_within_8_gib_of_address_space() {
    let calls = compile("checked/checked_calls.c", Language::C, Linkage::Shared, "limited", &[]);
    finish(&mut with_address_space(8 << 20, calls));
    for name in ["heap/fork.c", "heap/handover.c", "heap/many.c", "heap/alloc_free_loop.c"] {
        let program = compile(name, Language::C, Linkage::Shared, "checked-limited", &[]);
        for how in ["on", "sample"] {
            let mut command = with_address_space(8 << 20, &program);
            finish(command.env("EBBTIDE_CHECKED", how).args(arguments(name)));
        }
    }
}

#[test]
fn signals_of_faults_come_to_whom_they_are_meant_for() {
    let program = compile("checked/faults.c", Language::C, Linkage::Shared, "checked", &[]);
    for how in ["on", "sample"] {
        finish(without_core(&program).env("EBBTIDE_CHECKED", how));
    }
}

fn arguments(name: &str) -> &'static [&'static str] {
    if name == "heap/alloc_free_loop.c" { &["100", "100000"] } else { &[] }
}

fn host(runtime: &Runtime) -> PathBuf {
    let program = scratch("checked-hosts").join(runtime.name);
    build_host(runtime, &installed().shared(), &program).unwrap_or_else(|error| panic!("{error}"));
    program
}

/// The reference workloads and others, scaled down.
const WORKLOADS: &[(&str, &str)] = &[
    ("harness/workloads/tables.lua", "300000"),
    ("harness/workloads/strings.lua", "300000"),
    ("harness/workloads/closures.lua", "300000"),
    ("harness/workloads/json.lua", "60"),
    ("harness/workloads/growth.lua", "10"),
    ("harness/workloads/coroutine_storm.lua", "1"),
    ("harness/workloads/string_builders.lua", "1"),
    ("ffi-tests/lua/trace_exits.lua", "200"),
    ("ffi-tests/lua/cdata.lua", "2"),
    ("ffi-tests/lua/text.lua", "2"),
    ("ffi-tests/lua/coroutines.lua", "2"),
    ("ffi-tests/lua/big_tables.lua", "2"),
];

fn runs_clean(host: &Path, allocator: &str, workloads: &[(&str, &str)]) {
    for (script, scale) in workloads {
        for how in ["on", "sample"] {
            let mut command = clean(host);
            command.args(["--allocator", allocator]).arg(repository().join(script)).arg(scale);
            finish(command.env("EBBTIDE_CHECKED", how));
        }
    }
}

fn lua_programs_run_clean() {
    for runtime in [&luajit_checked(), &LUAJIT] {
        runs_clean(&host(runtime), "ebbtide", WORKLOADS);
    }
    runs_clean(&host(&LUAJIT), "attached", WORKLOADS);
}

/// Where faults do not come to the library, it does nothing that may fault.
#[test]
fn a_program_that_handles_faults_itself_runs_clean() {
    let host = host(&LUAJIT);
    for how in ["on", "sample"] {
        let mut command = clean(&host);
        command.args(["--allocator", "ebbtide"]).arg(script("trace_exits.lua"));
        finish(command.args(["200", "alone"]).env("EBBTIDE_CHECKED", how));
    }
}

fn puc_lua_runs_clean() {
    for runtime in [lua51(), lua53(), lua54()] {
        runs_clean(&host(&runtime), "ebbtide", &WORKLOADS[9..]);
    }
}

#[test]
fn lua_programs_that_run_out_of_memory_run_clean() {
    let host = host(&LUAJIT);
    for (variable, bytes) in [("EBBTIDE_RESERVE", "32m"), ("EBBTIDE_LIMIT_HARD", "16m")] {
        let mut command = clean(&host);
        command.args(["--allocator", "ebbtide"]);
        command.arg(repository().join("ffi-tests/lua/exhaustion.lua"));
        finish(command.env(variable, bytes).env("EBBTIDE_CHECKED", "on"));
    }
}
