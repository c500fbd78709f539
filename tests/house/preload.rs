//! The modules of the preload library: each uses only those above its row in the table of
//! `preload/src/lib.rs`.

use std::fs;

use super::{compact, first_name, names_of, root, table};

fn text_of(name: &str) -> String {
    let path = root().join("preload/src").join(name).with_extension("rs");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The modules in the order of the table, lowest first. Another table there is of functions.
fn modules() -> Vec<String> {
    let lib = text_of("lib");
    let is_module = |name: &String| lib.contains(&format!("\nmod {name};\n"));
    let modules: Vec<String> = table("preload/src/lib.rs").into_iter().filter(is_module).collect();
    assert_eq!(modules.len(), lib.matches("\nmod ").count(), "a module has no row");
    modules
}

/// The modules that code uses.
fn uses(code: &str) -> Vec<String> {
    let shipped = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = shipped.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = compact(lines);
    code.split("crate::").skip(1).flat_map(|path| names_of(path, first_name)).collect()
}

/// What the code of a module uses that is not above its row, as messages.
fn upward(module: &str, code: &str, modules: &[String]) -> Vec<String> {
    let height = |name: &str| modules.iter().position(|other| other == name);
    let own = height(module);
    let wrong = |name: &String| height(name).is_none_or(|used| Some(used) >= own);
    let message = |name| format!("{module} uses {name}, which is below its row");
    uses(code).into_iter().filter(wrong).map(message).collect()
}

#[test]
fn every_module_of_the_preload_library_uses_only_those_above_its_row() {
    let modules = modules();
    // These are shared with the library.
    let own = modules.iter().filter(|name| !["fd", "sigpipe"].contains(&name.as_str()));
    let wrong: Vec<String> = own.flat_map(|name| upward(name, &text_of(name), &modules)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_use_of_a_module_below_would_be_seen() {
    let modules = modules();
    let wrong = |module: &str, code: &str| !upward(module, code, &modules).is_empty();
    assert!(wrong("log", "use crate::real::POLL;\n"));
    assert!(wrong("settings", "use crate::{\n    switch,\n    log,\n};\n"));
    assert!(wrong("init", "use crate::cellar;\n"));
    assert!(!wrong("real", "use crate::{elf_objects, log};\n// crate::init comes later\n"));
}
