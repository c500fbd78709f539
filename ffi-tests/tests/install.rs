//! `make install` and `make uninstall`, as a packager and a user meet them.

use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_ffi_tests::{Language, Linkage};
use ebbtide_ffi_tests::{clean, compiler, finish, installed, make, scratch, source, text_of};
use ebbtide_runtimes::SONAME;

/// A prefix that exists nowhere, so that nothing is found by chance.
const PREFIX: &str = "/x";

/// Installs below an empty folder of this name.
fn install(name: &str) -> PathBuf {
    installed();
    let destination = scratch(name);
    std::fs::remove_dir_all(&destination).expect("the folder was just made");
    make(&["install"], &destination, PREFIX);
    destination
}

/// The files and links below `folder`, relative to it, sorted.
fn listing(folder: &Path) -> Vec<String> {
    let listing =
        text_of(Command::new("find").arg(folder).args(["!", "-type", "d", "-printf", "%P\n"]));
    let mut names: Vec<String> = listing.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// What pkg-config says of the library installed below `destination`.
fn pkg_config(destination: &Path, options: &[&str]) -> Vec<String> {
    let flags = text_of(
        Command::new("pkg-config")
            .env("PKG_CONFIG_PATH", destination.join("x/lib/pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", destination)
            .args(options)
            .arg("ebbtide"),
    );
    flags.split_whitespace().map(str::to_owned).collect()
}

/// Builds the consumer with nothing but what pkg-config says.
fn consumer(destination: &Path, linkage: Linkage) -> PathBuf {
    let program = destination.join("consumer");
    let mut command = compiler(Language::C);
    command.arg("-o").arg(&program).arg(source("consumer.c")).args(["-x", "none"]);
    match linkage {
        Linkage::Shared => command.args(pkg_config(destination, &["--cflags", "--libs"])),
        Linkage::Archive => command
            .arg("-static")
            .args(pkg_config(destination, &["--static", "--cflags", "--libs"])),
    };
    finish(&mut command);
    program
}

#[test]
fn installs_library_header_and_pkg_config_file() {
    let destination = install("install-listing");
    let real = format!("x/lib/libebbtide.so.{}", pkg_config(&destination, &["--modversion"])[0]);
    let soname = format!("x/lib/{SONAME}");
    let mut expected = [
        "x/include/ebbtide.h",
        "x/lib/libebbtide.a",
        "x/lib/libebbtide.so",
        &soname,
        &real,
        "x/lib/pkgconfig/ebbtide.pc",
    ];
    expected.sort();
    assert_eq!(listing(&destination), expected);
    for link in ["x/lib/libebbtide.so", &soname] {
        let link = destination.join(link);
        assert!(link.is_symlink(), "{}", link.display());
        assert_eq!(link.canonicalize().ok(), destination.join(&real).canonicalize().ok());
    }
}

#[test]
fn a_shared_program_needs_pkg_config_only() {
    let destination = install("install-shared");
    let program = consumer(&destination, Linkage::Shared);
    let said = text_of(clean(program).env("LD_LIBRARY_PATH", destination.join("x/lib")));
    assert_eq!(said, format!("ebbtide {}\n", pkg_config(&destination, &["--modversion"])[0]));
}

#[test]
fn a_static_program_needs_pkg_config_only() {
    let destination = install("install-static");
    let program = consumer(&destination, Linkage::Archive);
    assert!(text_of(&mut clean(program)).starts_with("ebbtide "));
}

#[test]
fn uninstall_leaves_nothing() {
    let destination = install("install-uninstall");
    make(&["uninstall"], &destination, PREFIX);
    assert_eq!(listing(&destination), Vec::<String>::new());
}
