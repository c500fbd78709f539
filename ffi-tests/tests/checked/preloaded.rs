//! Checked heaps under `ebbtide run`: the same bugs are reported, in programs that know nothing of
//! the library.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{Language, compiler, finish, installed, scratch, source};
use ebbtide_runtimes::LUAJIT;

use crate::bugs::{BY_FAULT, Bug, CALL, IN_FFI, IN_MODULE, READ_FREED, TWO_THREADS};
use crate::{ABORTED, is_quiet, output, reports, said, without_core};

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
pub fn preloaded(options: Option<&[&str]>, script: &str, case: &str) -> Command {
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
    command.arg(program).arg(crate::script(script)).arg(case).env("LUA_CPATH", modules);
    command
}

/// Those that a script can have without the address of its heap.
fn of_any_script(bug: &&Bug) -> bool {
    !matches!(bug.name, "double_free" | "wrong_size" | "foreign" | "middle")
}

#[test]
fn bugs_are_reported_under_the_preload_library() {
    let on = Some(&["--checked", "on"][..]);
    let of_module = IN_MODULE.iter().map(|bug| ("checked_module.lua", bug, &CALL[..]));
    let of_ffi = IN_FFI.iter().filter(of_any_script).map(|bug| ("checked_ffi.lua", bug, &CALL[..]));
    let by_fault = BY_FAULT.iter().map(|(script, bug)| (*script, bug, &["access: at 0x"][..]));
    for (script, bug, common) in of_module.chain(of_ffi).chain(by_fault) {
        reports(&output(&mut preloaded(on, script, bug.name)), script, bug, common);
    }
    let two_threads = &mut preloaded(on, "checked_module.lua", TWO_THREADS.name);
    reports(&output(two_threads), "preloaded", &TWO_THREADS, &[]);
    let sampled = &mut preloaded(Some(&["--checked=sample"]), "checked_module.lua", "read_freed");
    reports(&output(sampled), "sample", &READ_FREED, &["found: by the fault of thread 0x"]);
    let mut alone = preloaded(None, "checked_module.lua", IN_MODULE[0].name);
    reports(&output(alone.env("EBBTIDE_CHECKED", "on")), "LD_PRELOAD", &IN_MODULE[0], &CALL);
}

#[test]
fn nothing_is_reported_of_preloaded_programs_without_a_bug() {
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
