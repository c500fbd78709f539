//! VMs at their hard limit: what they have dropped goes before an allocation is refused, or before
//! the next one, though nobody collects it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use ebbtide_ffi_tests::{Language, base_name, clean, compiler, finish, installed, scratch, source};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

ebbtide_ffi_tests::long! {
    a_vm_that_was_made_on_a_heap_works_again_after_its_limit
    a_vm_that_was_attached_works_again_after_its_limit
}

/// A LuaJIT that is linked in, and Debian's, by its soname.
const LUAJITS: [&str; 2] = ["vendored", "shared"];

const MODES: [&str; 2] = ["-jon", "-joff"];

/// Compiles a source for a LuaJIT; linked with the library, or not. Each test has its own.
fn build(name: &str, test: &str, luajit: &str, with_ebbtide: bool) -> PathBuf {
    let program = scratch("recovery").join(format!("{}-{test}-{luajit}", base_name(name)));
    let mut command = compiler(Language::C);
    command.arg("-I").arg(installed().include()).arg("-isystem").arg(LUAJIT.include_dir);
    command.arg("-o").arg(&program).arg(source(name)).args(["-x", "none", "-rdynamic"]);
    if with_ebbtide {
        command.arg(installed().archive()).args(EBBTIDE_LINK_FLAGS);
    }
    match luajit {
        "vendored" => command.arg(LUAJIT.library).args(LUAJIT.link_flags),
        _ => command.arg("-l:libluajit-5.1.so.2"),
    };
    finish(command.args(["-lgcc_s", "-lpthread", "-ldl", "-lm"]));
    program
}

fn script() -> PathBuf {
    script_of("recovery.lua")
}

fn script_of(name: &str) -> PathBuf {
    repository().join("ffi-tests/lua").join(name)
}

fn run(program: impl AsRef<OsStr>, arguments: &[&str], script: &Path, mode: &str) {
    let mut command: Command = clean(program.as_ref());
    finish(command.args(arguments).arg(script).arg(mode));
}

/// A VM of the door `new` or `attach`, in all modes at once.
fn recovers(door: &str) {
    for luajit in LUAJITS {
        let program = build("limits/recovery.c", door, luajit, true);
        thread::scope(|scope| {
            for mode in MODES {
                let program = &program;
                scope.spawn(move || run(program, &[door], &script(), mode));
            }
        });
    }
}

fn a_vm_that_was_made_on_a_heap_works_again_after_its_limit() {
    recovers("new");
}

fn a_vm_that_was_attached_works_again_after_its_limit() {
    recovers("attach");
}

/// Runs a script under the preload library, in each mode.
fn run_preloaded(test: &str, script: &Path) {
    let ebbtide = installed().lib().join("../bin/ebbtide");
    let host = build("lua/lua_module_host.c", test, "shared", false);
    let host = host.to_str().expect("UTF-8");
    for mode in MODES {
        run(&ebbtide, &["run", "--limit-hard", "32m", host], script, mode);
    }
}

#[test]
fn a_vm_under_the_preload_library_works_again_after_its_limit() {
    run_preloaded("preload", &script());
}

#[test]
fn a_thread_that_waits_leaves_the_collector_alone() {
    run_preloaded("waits", &script_of("gc_pace.lua"));
}
