//! What the tests across the C line share: the library as its users get it, the programs of
//! `ffi-tests/c` compiled against it, and how to run them.
//!
//! - [`installed`]: `make install` into a folder of the tests' own; everything is compiled
//!   against that, never against the source tree.
//! - [`compile`]: one C or C++ source into a program.
//! - [`made_at_once`]: a program that several tests make and run at a time.
//! - [`pages`]: the documents, and the code that they show.
//! - [`long`]: which tests of a file are for `make test-long`.
//! - [`finish`]: a command that must succeed, with everything it said if it did not.
//! - [`shared`], [`archive`], [`limited`], [`sanitized`], [`valgrind`], [`cplusplus`], [`wrapped`],
//!   [`with_quota`], [`strict`]: one source, compiled and run in one of the ways that matter.
#![forbid(unsafe_code)]

mod overcommit;
pub mod pages;
mod quota;
mod tiers;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ebbtide_runtimes::{C_FLAGS, EBBTIDE_LINK_FLAGS, LUAJIT, New, Runtime, repository};

use overcommit::StrictOvercommit;
use quota::Quota;

/// The prefix that the tests install under.
pub const PREFIX: &str = "/usr";

/// How a program gets at the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// `libebbtide.so`, found at run time by its soname.
    Shared,
    /// `libebbtide.a`.
    Archive,
}

/// The library, installed in a folder of its own.
pub struct Installed {
    root: PathBuf,
}

impl Installed {
    /// Where the headers are.
    pub fn include(&self) -> PathBuf {
        self.under_prefix("include")
    }

    /// Where the libraries are.
    pub fn lib(&self) -> PathBuf {
        self.under_prefix("lib")
    }

    /// `libebbtide.so`.
    pub fn shared(&self) -> PathBuf {
        self.lib().join("libebbtide.so")
    }

    /// `libebbtide.a`.
    pub fn archive(&self) -> PathBuf {
        self.lib().join("libebbtide.a")
    }

    fn under_prefix(&self, folder: &str) -> PathBuf {
        self.root.join(PREFIX.trim_start_matches('/')).join(folder)
    }
}

/// The library, built and installed once per test program.
pub fn installed() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let root = scratch("installed");
        make(&["all"], &root, PREFIX);
        make(&["install"], &root, PREFIX);
        Installed { root }
    })
}

/// Runs `make` with these targets, for files below `destination`. Other test programs that call
/// this wait until it has ended, since they make the same files.
pub fn make(targets: &[&str], destination: &Path, prefix: &str) {
    let mut command = Command::new("flock");
    // A surrounding make's job server is not ours to use.
    command
        .env_remove("MAKEFLAGS")
        .arg(scratch("make").join("lock"))
        .args(["make", "--no-print-directory", "-C"])
        .arg(repository())
        .args(targets)
        .arg(assignment("DESTDIR", destination))
        .arg(format!("PREFIX={prefix}"));
    finish(&mut command);
}

fn assignment(variable: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut text = OsString::from(format!("{variable}="));
    text.push(value);
    text
}

/// A folder for what the tests make, in the target directory, present.
pub fn scratch(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its own path");
    let profile = program.parent().and_then(Path::parent).expect("PROFILE/deps/TEST");
    let folder = profile.join("ffi-tests").join(name);
    std::fs::create_dir_all(&folder).expect("the target directory can be written");
    folder
}

/// Where `make` puts what it builds for release.
pub fn release() -> PathBuf {
    let folder = scratch("");
    let target = folder.ancestors().nth(2).expect("TARGET/PROFILE/ffi-tests");
    target.join("release")
}

/// The path of one of the C and C++ sources, which are in folders by subject.
pub fn source(name: &str) -> PathBuf {
    repository().join("ffi-tests/c").join(name)
}

/// The name of a source without its folder. No two sources have the same.
pub fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A source language, with the standard that the header promises to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// C99.
    C,
    /// C++11.
    Cplusplus,
}

/// The compiler for `language` (`$CC`, `$CXX`), set to accept no warning and to find the headers
/// that the sources share, also those of `harness/include`.
pub fn compiler(language: Language) -> Command {
    let (variable, default, name, standard) = match language {
        Language::C => ("CC", "cc", "c", "-std=c99"),
        Language::Cplusplus => ("CXX", "c++", "c++", "-std=c++11"),
    };
    let mut command = Command::new(std::env::var_os(variable).unwrap_or_else(|| default.into()));
    command.args(C_FLAGS.iter().filter(|flag| !flag.starts_with("-std="))).args([
        standard,
        "-D_GNU_SOURCE",
        "-x",
        name,
    ]);
    for folder in ["ffi-tests/c/include", "harness/include"] {
        command.arg("-I").arg(repository().join(folder));
    }
    command
}

/// Has `command` make the file that its argument names, and puts the whole file there at once.
pub fn made_at_once(place: &Path, command: impl FnOnce(&Path) -> Command) {
    let new = New::of(place);
    finish(&mut command(&new.path));
    new.take_place().unwrap_or_else(|error| panic!("{}: {error}", place.display()));
}

/// Compiles one of the sources into a program named after both and `kind`.
pub fn compile(
    name: &str,
    language: Language,
    linkage: Linkage,
    kind: &str,
    flags: &[&str],
) -> PathBuf {
    let installed = installed();
    let program = scratch("programs").join(format!("{}-{kind}", base_name(name)));
    made_at_once(&program, |new| {
        let mut command = compiler(language);
        command.args(flags).arg("-I").arg(installed.include()).arg("-o").arg(new);
        command.arg(source(name)).args(["-x", "none"]);
        match linkage {
            Linkage::Shared => {
                command.arg(installed.shared()).arg(assignment("-Wl,-rpath", installed.lib()))
            }
            Linkage::Archive => command.arg(installed.archive()),
        };
        command.args(EBBTIDE_LINK_FLAGS);
        command
    });
    program
}

/// The functions that the linker hands to `syscall_faults.h`, with `--wrap` for each, one a line.
const WRAPPED_CALLS: &str = include_str!("../../harness/include/wrapped_calls.txt");

/// Compiles one of the sources into a program with a Lua runtime and `libebbtide.a` inside.
pub fn linked_with_lua(name: &str, runtime: &Runtime, flags: &[&str]) -> PathBuf {
    let installed = installed();
    let program = scratch("programs").join(format!("{}-{}", base_name(name), runtime.name));
    made_at_once(&program, |new| {
        let mut command = compiler(Language::C);
        command
            .arg("-I")
            .arg(installed.include())
            .arg("-isystem")
            .arg(runtime.include_dir)
            .arg("-o")
            .arg(new)
            .arg(source(name))
            .args(["-x", "none"])
            .arg(installed.archive())
            .arg(runtime.library)
            .args(runtime.link_flags)
            .args(flags)
            .args(EBBTIDE_LINK_FLAGS);
        command
    });
    program
}

/// The same with LuaJIT, and with `syscall_faults.h` between the library and the kernel.
pub fn linked_with_faults(name: &str) -> PathBuf {
    let flags = WRAPPED_CALLS.lines().map(|function| format!("-Wl,--wrap={function}"));
    let flags: Vec<String> = flags.collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    linked_with_lua(name, &LUAJIT, &flags)
}

/// A command that runs without what this test run put into the environment.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EBBTIDE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end. Panics, with what it said, unless it succeeded.
pub fn finish(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// What a command that must succeed prints.
pub fn text_of(command: &mut Command) -> String {
    String::from_utf8(finish(command).stdout).expect("the output is UTF-8")
}

/// Runs a C test program.
pub fn run(program: &Path) {
    finish(&mut clean(program));
}

/// Runs `name` with `libebbtide.so`.
pub fn shared(name: &str) {
    run(&compile(name, Language::C, Linkage::Shared, "shared", &[]));
}

/// Runs `name` with `libebbtide.so` in 8 GiB of address space.
pub fn limited(name: &str) {
    let program = compile(name, Language::C, Linkage::Shared, "limited", &[]);
    finish(&mut with_address_space(8 << 20, program));
}

/// A command that runs a program in an address space of `kib` KiB, without what this test run put
/// into the environment.
pub fn with_address_space(kib: u64, program: impl AsRef<OsStr>) -> Command {
    let mut command = clean("sh");
    command.args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\"")]).arg(program);
    command
}

/// Runs `name` with `libebbtide.a`.
pub fn archive(name: &str) {
    run(&compile(name, Language::C, Linkage::Archive, "archive", &[]));
}

/// Runs `name`, compiled as C++, with `libebbtide.so`.
pub fn cplusplus(name: &str) {
    run(&compile(name, Language::Cplusplus, Linkage::Shared, "cplusplus", &[]));
}

/// Runs `name` with `libebbtide.so` under the address and undefined behaviour sanitizers.
pub fn sanitized(name: &str) {
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let program = compile(name, Language::C, Linkage::Shared, "sanitized", &flags);
    // Leaks are counted by the heap itself; the sanitizer's own count needs ptrace.
    finish(clean(program).env("ASAN_OPTIONS", "detect_leaks=0"));
}

/// Runs `name` with `libebbtide.so` under valgrind, with fewer steps.
pub fn valgrind(name: &str) {
    let program = compile(name, Language::C, Linkage::Shared, "valgrind", &[]);
    finish(under_valgrind().arg(program).env("CHECK_LIGHT", "1"));
}

/// Runs `name` with `libebbtide.a`, whose calls for the background thread it sees before the kernel.
pub fn wrapped(name: &str) {
    run(&wrapping(name, "wrapped"));
}

/// The same in a fifth of a processor, where the machine allows a test to say so.
pub fn with_quota(name: &str) {
    match Quota::new(base_name(name)).filter(Quota::lets_in) {
        Some(quota) => {
            finish(&mut quota.command(&wrapping(name, "quota")));
            let stops = quota.stops();
            assert!(stops > 0, "{name}: its quota has never stopped it");
            println!("{name}: stopped {stops} times");
        }
        None => println!("{name}: not run, for this machine has no quota to give"),
    }
}

/// Runs `name` with `libebbtide.so` under strict overcommit, where the machine allows a test to say
/// so.
pub fn strict(name: &str) {
    let program = compile(name, Language::C, Linkage::Shared, "strict", &[]);
    match StrictOvercommit::new() {
        Some(_strict) => print!("{}", text_of(&mut clean(program))),
        None => println!("{name}: not run, for this machine's overcommit cannot be set"),
    }
}

fn wrapping(name: &str, kind: &str) -> PathBuf {
    let flags = ["madvise", "syscall", "nanosleep"].map(|call| format!("-Wl,--wrap={call}"));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    compile(name, Language::C, Linkage::Archive, kind, &flags)
}

/// Valgrind, which must be there, set to fail on the first error that it finds.
pub fn under_valgrind() -> Command {
    let version = Command::new("valgrind").arg("--version").output();
    assert!(
        version.is_ok_and(|output| output.status.success()),
        "valgrind is missing: install it (ffi-tests/setup.sh does, where it may)"
    );
    let mut command = clean("valgrind");
    command.args(["--quiet", "--error-exitcode=99"]);
    command
}
