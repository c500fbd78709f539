//! Where there is no LuaJIT on its own allocator, the module says why it cannot help.

use std::fs;
use std::path::Path;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, linked_with_lua, source};
use ebbtide_runtimes::others::{lua52, lua53, lua54};
use ebbtide_runtimes::{LUAJIT, repository};

use crate::luajits::{Lua, command, find_modules, host, library_folder, loader_folder, script};

ebbtide_ffi_tests::long! {
    other_allocators_are_refused_with_a_reason
    a_later_lua_is_reported_by_its_name
}

fn other_allocators_are_refused_with_a_reason() {
    let own = "does not run on LuaJIT's own";
    for lua in [Lua::Vendored, Lua::Shared] {
        finish(&mut command(host(lua), &["--alloc", "own"], "lua_module_unknown.lua", &[own]));
    }
    finish(&mut command(host(Lua::Plain), &[], "lua_module_unknown.lua", &["GC64"]));
    finish(&mut command(
        host(Lua::Plain),
        &["--alloc", "own"],
        "lua_module_unknown.lua",
        &["GC64"],
    ));
}

/// The functions of a Lua inside such a program are not to be found, not even to throw an error.
#[test]
fn a_program_that_hides_lua_is_reported() {
    let program = loader_folder().join("lua_module_host.c-hidden");
    let mut command = compiler(Language::C);
    command.arg("-isystem").arg(LUAJIT.include_dir).arg("-o").arg(&program);
    command.arg(source("lua/lua_module_host.c")).args([
        "-x",
        "none",
        LUAJIT.library,
        "-lm",
        "-ldl",
    ]);
    finish(&mut command);
    let file = loader_folder().join("hidden.lua");
    for (text, path) in [
        ("assert(require 'ebbtide' == true)", script("?.lua")),
        (
            "local done, why = pcall(require, 'ebbtide') \
             assert(not done and why:find('^ebbtide: .*rdynamic'), why)",
            repository().join("lua/?.lua"),
        ),
    ] {
        fs::write(&file, text).expect("the target directory can be written");
        let mut command = clean(&program);
        find_modules(&mut command, &library_folder()).env("LUA_PATH", path).arg(&file);
        let said = String::from_utf8_lossy(&finish(&mut command).stderr).into_owned();
        assert!(said.starts_with("ebbtide: no module: there is no LuaJIT"), "{said}");
        assert!(said.contains("-rdynamic") && said.lines().count() == 1, "{said}");
    }
}

fn a_later_lua_is_reported_by_its_name() {
    let file = loader_folder().join("later.lua");
    let files = repository().join("lua/?.lua");
    let (nowhere, throws) = (script("?.lua"), "^ebbtide: this is Lua 5.%d %(PUC%); .*LuaJIT$");
    for runtime in [lua52(), lua53(), lua54()] {
        let program = loader_folder().join(format!("lua_module_host.c-{}", runtime.name));
        let mut command = compiler(Language::C);
        command.arg("-isystem").arg(runtime.include_dir).arg("-o").arg(&program);
        command.arg(source("lua/lua_module_host.c")).args(["-x", "none", runtime.library]);
        finish(command.args(runtime.link_flags));
        let run = |text: &str, path: &Path| {
            fs::write(&file, text).expect("the target directory can be written");
            let mut command = clean(&program);
            find_modules(&mut command, &library_folder()).env("LUA_PATH", path).arg(&file);
            String::from_utf8_lossy(&finish(&mut command).stderr).into_owned()
        };
        let code = format!(
            "local done, why = pcall(require, 'ebbtide') assert(not done and why:find'{throws}', why)"
        );
        assert_eq!(run(&code, &files), "");
        let said = run("assert(require 'ebbtide' == true)", &nowhere);
        let expected = "ebbtide: no module: this is Lua 5.2 or later (PUC); ebbtide's Lua module";
        assert!(said.starts_with(expected), "{}: {said}", runtime.name);
        assert_eq!(said.lines().count(), 1, "{said}");
        finish(&mut clean(linked_with_lua("lua/later.c", &runtime, &["-rdynamic"])));
    }
}
