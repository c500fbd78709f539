//! Test suites of Lua libraries that others wrote, as Debian's sources carry them: on a heap, in
//! each way to come by one, they say what they say on LuaJIT's own allocator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, release, scratch, source};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, build_host, repository};

/// The sources of the suites, fetched if they are not there.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let fetch = || {
        let folder = release().parent().expect("the target folder").join("suites");
        finish(Command::new("sh").arg(repository().join("ffi-tests/suites.sh")).arg(&folder));
        folder
    };
    FOLDER.get_or_init(fetch).clone()
}

struct Programs {
    /// `ffi-tests/host.c` with LuaJIT inside: chooses its allocator.
    host: PathBuf,
    /// `linked.c`, whose every VM has a heap.
    linked: PathBuf,
    /// `preload_run.c`, on the system's shared libluajit.
    shared: PathBuf,
}

fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let folder = scratch("suites");
        let [host, linked, shared] = ["host", "linked", "shared"].map(|name| folder.join(name));
        build_host(&LUAJIT, &installed().shared(), &host).unwrap_or_else(|error| panic!("{error}"));
        let compile = |name: &str, to: &Path, with: &mut dyn FnMut(&mut Command)| {
            let mut command = compiler(Language::C);
            command.arg("-isystem").arg(LUAJIT.include_dir).arg("-I").arg(installed().include());
            command.arg("-o").arg(to).arg(source(name)).args(["-x", "none"]);
            with(&mut command);
            finish(&mut command);
        };
        compile("linked.c", &linked, &mut |command| {
            command.arg("-Wl,--wrap=lua_newstate").arg(LUAJIT.library).arg(installed().archive());
            command.args(LUAJIT.link_flags).args(EBBTIDE_LINK_FLAGS);
        });
        compile("preload_run.c", &shared, &mut |command| {
            command.arg("-l:libluajit-5.1.so.2");
        });
        Programs { host, linked, shared }
    })
}

/// Exit status and what was said, without what differs from run to run: addresses, times, and the
/// order of tables. A suite that prints these has a headline for each test.
fn outcome(mut command: Command, suite: &Path, script: &str) -> (Option<i32>, String) {
    command
        .current_dir(suite)
        .arg(script)
        .env("LUA_CPATH", "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/lua/5.1/?.so;;")
        .env("LUA_PATH", "./?.lua;/usr/share/lua/5.1/?.lua;;");
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let has_headlines = said.lines().any(|line| line.starts_with("==> "));
    let lines = said.lines().filter(|line| !has_headlines || line.starts_with("==> "));
    let is_steady = |word: &&str| !word.contains("0x") && word.parse::<f64>().is_err();
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).filter(is_steady).collect();
    (output.status.code(), words.join(" "))
}

/// Runs a suite on LuaJIT's own allocator and then in each of our ways. `passed` is what it says
/// when it passes.
fn suite(package: &str, inside: &str, script: &str, passed: &str) {
    let suite = folder().join(package).join(inside);
    assert!(suite.is_dir(), "the suite of {package} is missing, and ffi-tests/suites.sh says why");
    let programs = programs();
    let on = |allocator: &str| {
        let mut host = clean(&programs.host);
        host.args(["--allocator", allocator]);
        host
    };
    let preload = installed().lib().join("libebbtide_preload.so");
    let mut preloaded = clean(&programs.shared);
    preloaded.env("LD_PRELOAD", preload);
    let own = outcome(on("builtin"), &suite, script);
    assert!(own.1.contains(passed), "{package}, on LuaJIT's own allocator: {own:?}");
    for (way, command) in [
        ("ebbtide", on("ebbtide")),
        ("attached", on("attached")),
        ("linked", clean(&programs.linked)),
    ] {
        assert_eq!(outcome(command, &suite, script), own, "{package}, {way}");
    }
    // Another LuaJIT, the system's.
    let own = outcome(clean(&programs.shared), &suite, script);
    assert!(own.1.contains(passed), "{package}, on the system's LuaJIT: {own:?}");
    assert_eq!(outcome(preloaded, &suite, script), own, "{package}, preloaded");
}

#[test]
fn lpeg_passes_its_own_tests() {
    suite("lua-lpeg", "", "test.lua", "OK");
}

/// Three of its tests fail on every LuaJIT.
#[test]
fn cjson_passes_its_own_tests() {
    let inside = folder().join("lua-cjson/tests");
    if !inside.join("utf8.dat").exists() {
        finish(Command::new("perl").arg("genutf8.pl").current_dir(&inside));
    }
    suite("lua-cjson", "tests", "test.lua", "/104 tests failed");
}

#[test]
fn lfs_passes_its_own_tests() {
    suite("lua-filesystem", "tests", "test.lua", "Ok!");
}

/// A suite that said something else on a heap would be seen.
#[test]
fn another_outcome_is_noticed() {
    let script = scratch("suites").join("where.lua");
    std::fs::write(&script, "io.write(require('ebbtide').heap().allocator)").expect("a folder");
    let module = repository().join("lua");
    let told = |allocator: &str| {
        let mut host = clean(&programs().host);
        host.args(["--allocator", allocator]);
        outcome(host, &module, script.to_str().expect("a path"))
    };
    assert_ne!(told("builtin"), told("ebbtide"));
}
