//! `include/ebbtide.h` is what cbindgen makes of `src/capi`, and of `src/binding.rs`, today.

use std::path::Path;

/// With `EBBTIDE_BLESS=1` (`make header`) writes the header; otherwise compares it.
#[test]
fn header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut fresh = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_after_include(format!(
            "\n/** The version of this header; ebb_version() tells that of the library. */\n\
             #define EBB_VERSION \"{}\"\n\
             \n/** A Lua VM, as lua.h declares it. */\n\
             struct lua_State;",
            env!("CARGO_PKG_VERSION")
        ))
        .with_src(root.join("src/capi/types.rs"))
        .with_src(root.join("src/capi.rs"))
        .with_src(root.join("src/capi/vm.rs"))
        .with_src(root.join("src/binding.rs"))
        .generate()
        .expect("cbindgen reads src/capi")
        .write(&mut fresh);
    let fresh = without_safety_sections(&String::from_utf8(fresh).expect("the header is UTF-8"));
    let path = root.join("include/ebbtide.h");
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("include/ebbtide.h can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == fresh, "include/ebbtide.h is stale: run `make header` and commit it");
}

/// `#define NAME -1` with its value in parentheses, so that it is safe in any expression.
fn in_parentheses(line: &str) -> String {
    match line.split_once(" -") {
        Some((define, value)) if define.starts_with("#define ") => format!("{define} (-{value})"),
        _ => line.to_owned(),
    }
}

/// Rust's `# Safety` sections say in Rust's terms what the C comment has said already.
fn without_safety_sections(header: &str) -> String {
    let mut kept = String::new();
    let mut skipping = false;
    for line in header.lines() {
        skipping |= line == " * # Safety";
        skipping &= line != " */";
        if !skipping {
            kept.push_str(&in_parentheses(line));
            kept.push('\n');
        }
    }
    kept.replace(" *\n */", " */")
}
