//! A LuaJIT with the library inside: built by `make luajit`, and one whose program is linked so.

use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, made_at_once, make};
use ebbtide_ffi_tests::{scratch, source, text_of, under_valgrind};
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

/// The host for Lua scripts, linked with the archive as docs/embedding.md says.
fn linked_host() -> PathBuf {
    link_host("host", LUAJIT.link_flags)
}

/// The same with these flags for LuaJIT.
fn link_host(name: &str, flags: &[&str]) -> PathBuf {
    let program = scratch("linked-host").join(name);
    made_at_once(&program, |new| {
        let mut command = compiler(Language::C);
        command
            .arg("-isystem")
            .arg(LUAJIT.include_dir)
            .arg("-o")
            .arg(new)
            .arg(source("lua/linked.c"))
            .args(["-x", "none", "-Wl,--wrap=lua_newstate"])
            .args([LUAJIT.library.as_ref(), installed().archive().as_path()])
            .args(flags)
            .args(EBBTIDE_LINK_FLAGS);
        command
    });
    program
}

/// A script that fails unless its VM has what OpenResty's has: the features that
/// `LUAJIT_ENABLE_LUA52COMPAT` adds, and modules below the prefix that it was built for.
const LIKE_OPENRESTY: &str = "
    assert(table.pack(1, nil).n == 2 and table.unpack and rawlen)
    local object = setmetatable({}, {
        __pairs = function() return next, { key = true }, nil end,
        __len = function() return 7 end,
    })
    local keys = {}
    for key in pairs(object) do keys[#keys + 1] = key end
    assert(#keys == 1 and keys[1] == 'key' and #object == 7)
    for _, path in ipairs { package.path, package.cpath } do
        assert(path:find(';' .. arg[1] .. '/', 1, true), path)
    end";

/// A program runs the script, as one that was built for this prefix.
fn is_like_openresty(luajit: &Path, prefix: &Path) {
    let script = scratch("linked").join("like_openresty.lua");
    std::fs::write(&script, LIKE_OPENRESTY).expect("the folder was just made");
    finish(clean(luajit).arg(&script).arg(prefix));
}

fn make_luajit_builds_one_whose_vms_have_heaps() {
    let folder = scratch("linked-luajit");
    let setting = format!("LUAJIT_BUILD={}", folder.display());
    installed();
    make(&["luajit", &setting], Path::new("/"), "/x");
    let luajit = folder.join("src/luajit");
    assert_eq!(allocator_in(&mut clean(&luajit), &[]), "ebbtide");
    is_like_openresty(&luajit, Path::new("/x"));
}

#[test]
fn a_program_linked_with_the_archive_has_heaps_and_closes_them() {
    let program = linked_host();
    assert_eq!(allocator_in(&mut clean(&program), &["200"]), "ebbtide");
    assert_eq!(allocator_in(under_valgrind().arg(&program), &[]), "ebbtide");
}

#[test]
fn options_that_make_no_sense_are_reported_and_the_vm_runs_all_the_same() {
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

mod long {
    use super::*;

    #[test]
    #[ignore = "builds LuaJIT again: make test-long"]
    fn make_luajit_builds_one_whose_vms_have_heaps() {
        super::make_luajit_builds_one_whose_vms_have_heaps();
    }

    /// The commands for OpenResty's LuaJIT as they stand in docs/embedding.md, on the source that cargo has:
    /// only the folders are other ones.
    #[test]
    #[ignore = "builds LuaJIT again: make test-long"]
    fn the_recipe_for_openresty_builds_and_installs_its_luajit() {
        let folder = scratch("linked-recipe");
        std::fs::remove_dir_all(&folder).expect("the folder was just made");
        let source = luajit_source();
        finish(Command::new("cp").arg("-r").arg(source.join("luajit2")).arg(&folder));
        std::fs::copy(source.join("luajit_relver.txt"), folder.join(".relver"))
            .expect("it is there");
        // What that source lacks of what is installed.
        std::fs::create_dir_all(folder.join("etc")).expect("it can be written");
        for name in ["luajit.1", "luajit.pc"] {
            std::fs::write(folder.join("etc").join(name), "prefix=\n").expect("it can be written");
        }
        let readme =
            std::fs::read_to_string(repository().join("docs/embedding.md")).expect("it is there");
        let recipe =
            readme.split("git clone https://github.com/openresty/luajit2 && cd luajit2\n").nth(1);
        let recipe = recipe.and_then(|rest| rest.split("cd ../openresty-VERSION").next());
        let recipe = recipe.expect("the page has the recipe");
        let prefix = folder.join("installed");
        let recipe = recipe
            .replace("/usr/local/lib", &installed().lib().display().to_string())
            .replace("/opt/luajit-ebbtide", &prefix.display().to_string());
        let mut shell = clean("sh");
        // With a job for each processor.
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        shell.env("MAKEFLAGS", format!("-j{jobs}"));
        shell.current_dir(&folder).args(["-e", "-c", &recipe]);
        finish(&mut shell);
        let library = prefix.join("lib/libluajit-5.1.so.2");
        let luajit = prefix.join("bin").join(installed_luajit(&prefix));
        assert!(library.exists());
        assert_eq!(allocator_in(&mut clean(&luajit), &[]), "ebbtide");
        is_like_openresty(&luajit, &prefix);
    }

    /// The name of the program, which has the version in it.
    fn installed_luajit(prefix: &Path) -> String {
        let names = text_of(Command::new("ls").arg(prefix.join("bin")));
        names.lines().find(|name| name.starts_with("luajit")).expect("it was installed").to_owned()
    }

    /// The folder of the crate with LuaJIT's source.
    fn luajit_source() -> PathBuf {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["metadata", "--format-version", "1"]).current_dir(repository());
        let metadata: serde_json::Value = serde_json::from_str(&text_of(&mut cargo)).expect("JSON");
        let mut packages = metadata["packages"].as_array().expect("packages").iter();
        let package = packages.find(|package| package["name"] == "luajit-src").expect("luajit-src");
        let manifest = package["manifest_path"].as_str().expect("a path");
        Path::new(manifest).parent().expect("it is in a folder").to_owned()
    }
}
