//! Programs without a bug run on checked heaps as on any.

use std::path::{Path, PathBuf};

use ebbtide_ffi_tests::{
    Language, Linkage, clean, compile, finish, installed, scratch, with_address_space,
};
use ebbtide_runtimes::others::{lua51, lua53, lua54, luajit_checked};
use ebbtide_runtimes::{LUAJIT, Runtime, build_host, repository};

use crate::script;

ebbtide_ffi_tests::long! {
    lua_programs_run_clean
    puc_lua_runs_clean
    they_do_within_8_gib_of_address_space
    programs_with_many_heaps_and_threads_run_as_on_any
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
