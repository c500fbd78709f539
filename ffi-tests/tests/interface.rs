//! What the library shows the outside: its header, its dynamic symbols, its soname.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, text_of};
use ebbtide_runtimes::{SONAME, repository};

/// Compiles `text`, of which nothing is kept.
fn compiles(language: Language, standard: &str, text: &str) {
    let mut child = compiler(language)
        .arg(standard)
        .args(["-fsyntax-only", "-I"])
        .arg(installed().include())
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .expect("the compiler runs");
    let mut input = child.stdin.take().expect("stdin is piped");
    input.write_all(text.as_bytes()).expect("the compiler reads its input");
    drop(input);
    assert!(child.wait().expect("the compiler ends").success(), "{language:?} {standard}: {text}");
}

#[test]
fn header_compiles_alone_and_twice() {
    let standards = [
        (Language::C, "-std=c99"),
        (Language::C, "-std=c11"),
        (Language::Cplusplus, "-std=c++11"),
        (Language::Cplusplus, "-std=c++17"),
    ];
    for (language, standard) in standards {
        compiles(language, standard, "#include <ebbtide.h>\n");
        compiles(language, standard, "#include <ebbtide.h>\n#include <ebbtide.h>\n");
    }
}

/// The functions that the header declares: `ebb_name(` outside of comments, and those whose names
/// Lua and the linker prescribe.
fn declared() -> BTreeSet<String> {
    let path = repository().join("include/ebbtide.h");
    let header = std::fs::read_to_string(path).expect("the header can be read");
    header
        .lines()
        .filter(|line| !line.starts_with("/*") && !line.starts_with(" *"))
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| ["ebb_", "luaopen_", "__wrap_"].iter().any(|start| name.starts_with(start)))
        .map(str::to_owned)
        .collect()
}

/// What a linker can bind to in the shared library.
fn exported() -> BTreeSet<String> {
    let table = text_of(&mut readelf("--dyn-syms"));
    let mut names = BTreeSet::new();
    for line in table.lines() {
        // Num: Value Size Type Bind Vis Ndx Name
        let columns: Vec<&str> = line.split_whitespace().collect();
        if let [_, _, _, _, "GLOBAL" | "WEAK" | "UNIQUE", _, section, name, ..] = columns[..]
            && section != "UND"
        {
            names.insert(name.to_owned());
        }
    }
    names
}

fn readelf(option: &str) -> Command {
    let mut command = Command::new("readelf");
    command.env("LC_ALL", "C").args(["--wide", option]).arg(installed().shared());
    command
}

#[test]
fn exports_what_the_header_declares_and_nothing_else() {
    let declared = declared();
    assert!(declared.contains("ebb_alloc"), "the header is not understood: {declared:?}");
    assert_eq!(exported(), declared);
}

#[test]
fn has_a_soname() {
    let dynamic = text_of(&mut readelf("--dynamic"));
    let soname = dynamic.lines().find(|line| line.contains("(SONAME)")).expect("a soname");
    assert!(soname.contains(&format!("[{SONAME}]")), "{soname}");
}

/// The background thread goes on, and what the heap had free goes back.
#[test]
fn a_library_that_is_closed_stays() {
    let script = repository().join("ffi-tests/dlclose.py");
    finish(clean("python3").arg(script).arg(installed().shared()));
}
