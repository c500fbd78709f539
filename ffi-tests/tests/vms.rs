//! Lua VMs on ebbtide, from `lua_newstate` to `lua_close`, after which the heap must hold nothing:
//! the host program checks that, and these tests that it ends well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ebbtide_ffi_tests::{clean, finish, installed, scratch, under_valgrind};
use ebbtide_runtimes as runtimes;
use ebbtide_runtimes::others::{lua51, lua52, lua53, lua54, luajit_checked};
use ebbtide_runtimes::{Runtime, build_host, repository, workload};

ebbtide_ffi_tests::long! {
    luajit_with_assertions_runs_the_workloads
    luajit_runs_the_workloads_through_other_doors
    luajit_with_assertions_runs_the_stress_scripts
    luajit_with_assertions_survives_exhaustion
    luajit_with_assertions_runs_while_memory_never_rests
    luajit_runs_everything_interpreted
    luajit_runs_under_valgrind
    plain_lua_runs_the_stress_scripts
}

/// The host program for `runtime`, built at its first use.
fn host(runtime: &Runtime) -> PathBuf {
    static BUILT: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let program = scratch("hosts").join(runtime.name);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(runtime.name) {
        let library = installed().shared();
        build_host(runtime, &library, &program).unwrap_or_else(|error| panic!("{error}"));
        built.insert(runtime.name);
    }
    program
}

/// One of the scripts of `ffi-tests/lua`.
fn stress(name: &str) -> PathBuf {
    repository().join("ffi-tests/lua").join(name)
}

/// `program` on ebbtide with these host options.
fn on_ebbtide(mut program: Command, options: &[&str], script: &Path, scale: &[&str]) -> Command {
    program.args(["--allocator", "ebbtide"]).args(options).arg(script).args(scale);
    program
}

fn run(runtime: &Runtime, options: &[&str], script: &Path, scale: &[&str]) {
    finish(&mut on_ebbtide(clean(host(runtime)), options, script, scale));
}

/// The workloads, each scaled down to a second or so with LuaJIT's assertions on.
const WORKLOADS: &[(&str, &[&str])] = &[
    ("tables.lua", &["300000"]),
    ("strings.lua", &["500000"]),
    ("closures.lua", &["500000"]),
    ("json.lua", &["60"]),
    ("growth.lua", &["10"]),
    ("service.lua", &["15000"]),
    ("scatter.lua", &["300000"]),
    ("binary_trees.lua", &["8"]),
    ("k_nucleotide.lua", &["2000"]),
    ("richards.lua", &["2"]),
    ("deltablue.lua", &["1"]),
    ("havlak.lua", &["1"]),
    ("cd.lua", &["10"]),
    ("json_objects.lua", &["3"]),
    ("bounce.lua", &["5"]),
    ("lru_cache.lua", &["30000"]),
    ("coroutine_storm.lua", &["1"]),
    ("string_builders.lua", &["2"]),
    ("lpeg_grammar.lua", &["4"]),
    ("cjson_documents.lua", &["600"]),
    ("router.lua", &["3000"]),
    ("templates.lua", &["200"]),
];

/// Every Lua runtime can run these.
const STRESS: &[&str] = &["text.lua", "coroutines.lua", "big_tables.lua"];

fn run_workloads(runtime: &Runtime, options: &[&str]) {
    for (name, scale) in WORKLOADS {
        run(runtime, options, &workload(name), scale);
    }
}

fn run_stress(runtime: &Runtime, options: &[&str]) {
    for name in STRESS {
        run(runtime, options, &stress(name), &["2"]);
    }
}

/// In a heap so small that memory runs out, and in one that may not hold more than its limit.
fn run_exhaustion(runtime: &Runtime, options: &[&str]) {
    for (variable, bytes) in [("EBBTIDE_RESERVE", "32m"), ("EBBTIDE_LIMIT_HARD", "16m")] {
        let program = clean(host(runtime));
        let mut command = on_ebbtide(program, options, &stress("exhaustion.lua"), &[]);
        finish(command.env(variable, bytes));
    }
}

fn luajit_with_assertions_runs_the_workloads() {
    run_workloads(&luajit_checked(), &[]);
}

/// With memory given back in place, and on a heap that was attached before the script began.
fn luajit_runs_the_workloads_through_other_doors() {
    for allocator in ["inplace", "attached"] {
        for (name, scale) in WORKLOADS {
            let mut program = clean(host(&runtimes::LUAJIT));
            program.args(["--allocator", allocator]).arg(workload(name)).args(*scale);
            finish(&mut program);
        }
    }
}

/// What `--drop` says is what benches compare allocators by.
#[test]
fn the_host_drops_and_purges_on_every_allocator() {
    for allocator in ["builtin", "malloc", "ebbtide", "attached", "inplace"] {
        let mut program = clean(host(&runtimes::LUAJIT));
        program.args(["--allocator", allocator, "--events", "--drop"]);
        let output = finish(program.arg(workload("binary_trees.lua")).arg("8"));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2, "{allocator}: {text}");
        assert!(lines[0].starts_with("event\tlabel=all dropped\t"), "{allocator}: {text}");
        assert!(lines[1].starts_with("event\tlabel=all purged\t"), "{allocator}: {text}");
        assert!(lines[1].contains("\taside_us="), "{allocator}: {text}");
    }
}

#[test]
fn a_library_that_is_no_allocator_is_refused() {
    let mut program = clean(host(&runtimes::LUAJIT));
    let library = installed().shared();
    program.arg("--allocator").arg(&library).arg(workload("bounce.lua"));
    let output = program.output().expect("the host runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no functions peer_alloc"), "{said}");
}

fn luajit_with_assertions_runs_the_stress_scripts() {
    run_stress(&luajit_checked(), &[]);
    run(&luajit_checked(), &[], &stress("cdata.lua"), &["2"]);
}

fn luajit_with_assertions_survives_exhaustion() {
    run_exhaustion(&luajit_checked(), &[]);
}

/// Free memory goes back at once, and the heap stands above its soft limit all the time.
fn luajit_with_assertions_runs_while_memory_never_rests() {
    for script in STRESS.iter().chain(&["cdata.lua"]) {
        let program = clean(host(&luajit_checked()));
        let mut command = on_ebbtide(program, &[], &stress(script), &["2"]);
        finish(command.env("EBBTIDE_DECAY_MS", "0").env("EBBTIDE_LIMIT_SOFT", "1m"));
    }
}

#[test]
fn luajit_runs_everything_compiled() {
    run_workloads(&runtimes::LUAJIT, &["--jit", "on"]);
    run_stress(&runtimes::LUAJIT, &["--jit", "on"]);
    run(&runtimes::LUAJIT, &["--jit", "on"], &stress("cdata.lua"), &["5"]);
    run_exhaustion(&runtimes::LUAJIT, &["--jit", "on"]);
}

fn luajit_runs_everything_interpreted() {
    run_workloads(&runtimes::LUAJIT, &["--jit", "off"]);
    run_stress(&runtimes::LUAJIT, &["--jit", "off"]);
    run(&runtimes::LUAJIT, &["--jit", "off"], &stress("cdata.lua"), &["2"]);
    run_exhaustion(&runtimes::LUAJIT, &["--jit", "off"]);
}

fn luajit_runs_under_valgrind() {
    let mut program = under_valgrind();
    // LuaJIT reads strings a word at a time, past their ends but never past their blocks.
    program.arg(host(&runtimes::LUAJIT));
    finish(&mut on_ebbtide(program, &["--jit", "off"], &stress("smoke.lua"), &["reclaim"]));
}

fn plain_lua_runs_the_stress_scripts() {
    for runtime in [lua51(), lua52(), lua53(), lua54()] {
        run(&runtime, &[], &stress("smoke.lua"), &["reclaim"]);
        run_stress(&runtime, &[]);
        run_exhaustion(&runtime, &[]);
    }
}
