//! The doors into a program that knows nothing of ebbtide: `require "ebbtide"` in a VM on LuaJIT's
//! own allocator, memory given back in place, `attach()`, and the C functions that do the same.
//!
//! Each with Debian's `luajit`, a static program, as installed and as upstream has it; with a plain
//! host on Debian's shared library; and with such a host on the LuaJIT that mlua vendors. The library
//! is the one that was built with these tests, with its assertions, but where the installed one is
//! meant.

mod attach;
mod c_functions;
mod luajits;
mod other_luas;
mod reports;

use std::fs;

use ebbtide_ffi_tests::{clean, finish, installed, scratch, text_of};
use ebbtide_runtimes::repository;

use luajits::{Lua, build, command, everywhere, find_modules, library_folder, luajits, script};

#[test]
fn an_untouched_vm_gives_memory_back_in_place() {
    everywhere("lua_module_untouched.lua", &[]);
}

#[test]
fn misuse_names_the_argument() {
    everywhere("lua_module_misuse.lua", &[]);
}

#[test]
fn memory_may_run_out_inside_of_the_module() {
    everywhere("lua_module_memory.lua", &[]);
}

/// The module speaks for the library that the program is linked with, whichever it was loaded from.
#[test]
fn a_vm_on_a_heap_has_a_module_that_knows_it() {
    for lua in [Lua::Vendored, Lua::Shared] {
        let program = build("lua/lua_module_host.c", lua, true);
        for kind in ["heap", "newstate"] {
            for folder in [library_folder(), installed().lib()] {
                let mut command = command(&program, &["--alloc", kind], "lua_module_heap.lua", &[]);
                finish(find_modules(&mut command, &folder));
            }
        }
    }
}

#[test]
fn options_are_taken_refused_and_changed() {
    everywhere("lua_module_options.lua", &[]);
}

/// By each name, from a checkout and from the library alone; the library as it is installed.
#[test]
fn the_module_is_found() {
    let sources =
        format!("{};{}", script("?.lua").display(), repository().join("lua/?.lua").display());
    let file = repository().join("lua/ebbtide.lua");
    let file = file.to_str().expect("UTF-8");
    for program in luajits() {
        for folder in [library_folder(), installed().lib()] {
            for (name, from, paths) in [
                ("ebbtide", "=ebbtide.lua", None),
                ("ebbtide", file, Some(&sources)),
                ("resty.ebbtide", file, Some(&sources)),
            ] {
                let mut command = command(program, &[], "lua_module_require.lua", &[name, from]);
                find_modules(&mut command, &folder);
                if let Some(paths) = paths {
                    command.env("LUA_PATH", paths);
                }
                finish(&mut command);
            }
        }
    }
}

/// What users run is built without assertions, and differently compiled.
#[test]
fn the_installed_library_does_the_same() {
    for (name, arguments) in [
        ("lua_module_untouched.lua", &[][..]),
        ("lua_module_attach.lua", &["middle"]),
        ("lua_module_random.lua", &["77", "6000"]),
    ] {
        for program in luajits() {
            let mut command = command(program, &[], name, arguments);
            finish(find_modules(&mut command, &installed().lib()));
        }
    }
}

#[test]
fn the_synopsis_of_the_manual_runs() {
    let manual = fs::read_to_string(repository().join("lua/README.md")).expect("the manual");
    let synopsis = manual.split("```lua\n").nth(1).and_then(|rest| rest.split("```").next());
    let file = scratch("doors").join("synopsis.lua");
    fs::write(&file, synopsis.expect("a block of Lua")).expect("the target directory");
    for program in luajits() {
        let mut command = clean(program);
        find_modules(&mut command, &library_folder());
        let said = text_of(command.arg(&file));
        assert!(said.contains("LuaJIT's own allocator"), "{said}");
        assert!(said.contains("An ebbtide heap"), "{said}");
    }
}
