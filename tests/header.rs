//! What is generated and committed is current: `include/ebbtide.h`, which cbindgen makes of `src/capi`
//! and `src/lua_module.rs`, and the nginx module's page as C.

use std::path::Path;

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
        .with_src(root.join("src/capi/checked.rs"))
        .with_src(root.join("src/capi/environment.rs"))
        .with_src(root.join("src/capi/vm.rs"))
        .with_src(root.join("src/capi/builtin.rs"))
        .with_src(root.join("src/capi/preload.rs"))
        .with_src(root.join("src/lua_module.rs"))
        .generate()
        .expect("cbindgen reads src/capi")
        .write(&mut fresh);
    let fresh = without_safety_sections(&String::from_utf8(fresh).expect("the header is UTF-8"));
    compare(&root.join("include/ebbtide.h"), &fresh);
}

#[test]
fn page_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    let page = std::fs::read_to_string(folder.join("page.html")).expect("the page");
    let quoted =
        |line: &str| format!("    \"{}\\n\"\n", line.replace('\\', "\\\\").replace('"', "\\\""));
    let lines: String = page.lines().map(quoted).collect();
    let fresh = format!(
        "\n/* Made of page.html by `make header`. */\n\n\n\
         static const char  ngx_http_ebbtide_page[] =\n{lines}    ;\n"
    );
    compare(&folder.join("src/ngx_http_ebbtide_page.h"), &fresh);
}

/// With `EBBTIDE_BLESS=1` (`make header`) writes the file; otherwise compares it.
fn compare(path: &Path, fresh: &str) {
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(path, fresh).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == fresh, "{} is stale: run `make header` and commit it", path.display());
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
