//! Builds LuaJIT below `OUT_DIR`: `luajit/include` and `luajit/lib`. Nothing is linked into Rust, so
//! no link metadata is printed.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // Always optimised by its Makefile.
    luajit_src::Build::new().out_dir(out.join("luajit")).debug(false).build();
}
