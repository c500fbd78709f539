//! A LuaJIT with the library inside: built by `make luajit`, and one whose program is linked so.

use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, make, scratch, source};
use ebbtide_ffi_tests::{text_of, under_valgrind};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

/// A script that says which allocator its VM runs on, after some work.
const SCRIPT: &str = "
    local allocator = require 'ebbtide'
    local kept = {}
    for i = 1, 50000 do kept[i % 1000] = { tostring(i) } end
    assert(allocator.reclaim().live > 0)
    assert(allocator.stats().attached == false)
    io.write(allocator.heap().allocator)";

/// Runs the script with the module of this checkout. The host takes a number of other VMs besides.
fn allocator_in(program: &mut Command, vms: &[&str]) -> String {
    let name = format!("{program:?}").replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let script = scratch("linked").join(&name[name.len().saturating_sub(80)..]);
    std::fs::write(&script, SCRIPT).expect("the folder was just made");
    program
        .env("LUA_PATH", repository().join("lua/?.lua"))
        .env("LUA_CPATH", installed().lib().join("lua/5.1/?.so"));
    text_of(program.arg(&script).args(vms))
}

/// The host for Lua scripts, linked with the archive as the README tells.
fn linked_host() -> PathBuf {
    link_host("host", LUAJIT.link_flags)
}

/// The same with these flags for LuaJIT.
fn link_host(name: &str, flags: &[&str]) -> PathBuf {
    let program = scratch("linked-host").join(name);
    let mut command = compiler(Language::C);
    command
        .arg("-isystem")
        .arg(LUAJIT.include_dir)
        .arg("-o")
        .arg(&program)
        .arg(source("linked.c"))
        .args(["-x", "none", "-Wl,--wrap=lua_newstate"])
        .args([LUAJIT.library.as_ref(), installed().archive().as_path()])
        .args(flags)
        .args(EBBTIDE_LINK_FLAGS);
    finish(&mut command);
    program
}

#[test]
fn make_luajit_builds_one_whose_vms_have_heaps() {
    let folder = scratch("linked-luajit");
    let setting = format!("LUAJIT_BUILD={}", folder.display());
    installed();
    make(&["luajit", &setting], Path::new("/"), "/x");
    assert_eq!(allocator_in(&mut clean(folder.join("src/luajit")), &[]), "ebbtide");
}

#[test]
fn a_program_linked_with_the_archive_has_heaps_and_closes_them() {
    let program = linked_host();
    assert_eq!(allocator_in(&mut clean(&program), &["200"]), "ebbtide");
    assert_eq!(allocator_in(under_valgrind().arg(&program), &[]), "ebbtide");
}

#[test]
fn options_that_make_no_sense_are_told_and_the_vm_runs_all_the_same() {
    let program = linked_host();
    let script = scratch("linked-options").join("nothing.lua");
    std::fs::write(&script, "").expect("the folder was just made");
    let output = finish(clean(&program).env("EBBTIDE_RETAIN", "banana").arg(&script));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("EBBTIDE_RETAIN=banana: takes a number from"), "{said}");
}

#[test]
fn a_program_that_hides_lua_has_no_vm_and_says_why() {
    let hidden: Vec<&str> =
        LUAJIT.link_flags.iter().copied().filter(|flag| *flag != "-Wl,-E").collect();
    assert!(hidden.len() < LUAJIT.link_flags.len());
    let output = clean(link_host("hidden", &hidden)).arg("nothing.lua").output().expect("it runs");
    // What the host does without a VM.
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("ebbtide: no VM: ") && said.contains("-rdynamic"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
