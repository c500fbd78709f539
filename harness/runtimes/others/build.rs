//! Builds the Lua runtimes that only `make test-long` runs, each into a folder of its own below
//! `OUT_DIR`: `NAME/include` and `NAME/lib`.

use std::path::PathBuf;
use std::thread;

use lua_src::Version;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    thread::scope(|scope| {
        // With LuaJIT's own assertions and API checks; its Makefile optimises all the same.
        scope.spawn(|| {
            luajit_src::Build::new().out_dir(out.join("luajit-checked")).debug(true).build();
        });
        for (name, version) in [
            ("lua5.1", Version::Lua51),
            ("lua5.2", Version::Lua52),
            ("lua5.3", Version::Lua53),
            ("lua5.4", Version::Lua54),
        ] {
            let mut build = lua_src::Build::new();
            build.out_dir(out.join(name)).debug(false).opt_level("2").build(version);
        }
    });
}
