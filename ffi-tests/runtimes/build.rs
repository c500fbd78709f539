//! Builds every Lua runtime into a folder of its own below `OUT_DIR`: `NAME/include` and `NAME/lib`.
//! Nothing is linked into Rust, so no link metadata is printed.

use std::path::{Path, PathBuf};
use std::thread;

use lua_src::Version;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    thread::scope(|scope| {
        scope.spawn(|| luajit(&out.join("luajit"), false));
        scope.spawn(|| luajit(&out.join("luajit-checked"), true));
        lua(&out.join("lua5.1"), Version::Lua51);
        lua(&out.join("lua5.2"), Version::Lua52);
        lua(&out.join("lua5.3"), Version::Lua53);
        lua(&out.join("lua5.4"), Version::Lua54);
    });
}

/// `checked` turns on LuaJIT's own assertions and API checks. Always optimised by its Makefile.
fn luajit(out: &Path, checked: bool) {
    luajit_src::Build::new().out_dir(out).debug(checked).build();
}

fn lua(out: &Path, version: Version) {
    lua_src::Build::new().out_dir(out).debug(false).opt_level("2").build(version);
}
