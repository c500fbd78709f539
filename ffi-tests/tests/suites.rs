//! Test suites of Lua libraries that others wrote, as Debian's sources carry them: on a heap, in
//! each way to come by one, they say what they say on LuaJIT's own allocator; and on a checked one,
//! which finds no memory bug in them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, release, scratch, source};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, build_host, repository};

ebbtide_ffi_tests::long! {
    lpeg_passes_its_own_tests
    cjson_passes_its_own_tests
    lfs_passes_its_own_tests
    zlib_passes_its_own_tests
    iconv_passes_its_own_tests
    luasocket_passes_its_own_tests
    penlight_passes_its_own_tests
}

/// The sources of the suites, fetched if they are not there.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let fetch = || {
        let folder = release().parent().expect("the target folder").join("suites");
        let script = repository().join("ffi-tests/suites.sh");
        let output = finish(Command::new("sh").arg(script).arg(&folder));
        print!("{}", String::from_utf8_lossy(&output.stdout));
        folder
    };
    FOLDER.get_or_init(fetch).clone()
}

struct Programs {
    /// `harness/host/host.c` with LuaJIT inside: chooses its allocator.
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
        compile("lua/linked.c", &linked, &mut |command| {
            command.arg("-Wl,--wrap=lua_newstate").arg(LUAJIT.library).arg(installed().archive());
            command.args(LUAJIT.link_flags).args(EBBTIDE_LINK_FLAGS);
        });
        compile("preload/preload_run.c", &shared, &mut |command| {
            command.arg("-l:libluajit-5.1.so.2");
        });
        Programs { host, linked, shared }
    })
}

/// A suite of tests.
struct Suite {
    /// Debian's source package.
    package: &'static str,
    /// Where they are run, in the sources.
    inside: &'static str,
    /// Each in a process of its own, without arguments.
    scripts: &'static [&'static str],
    /// How each ends when it passes: with this status, and these words among those that it says.
    passed: (i32, &'static str),
}

const LPEG: Suite =
    Suite { package: "lua-lpeg", inside: "", scripts: &["test.lua"], passed: (0, "OK") };

/// Three of its tests fail on every LuaJIT.
const CJSON: Suite = Suite {
    package: "lua-cjson",
    inside: "tests",
    scripts: &["test.lua"],
    passed: (1, "/104 tests failed"),
};

const LFS: Suite = Suite {
    package: "lua-filesystem",
    inside: "tests",
    scripts: &["test.lua"],
    passed: (0, "Ok!"),
};

const ZLIB: Suite = Suite {
    package: "lua-zlib",
    inside: "",
    scripts: &["test.lua"],
    passed: (0, "- Tom MacWright Test"),
};

const ICONV: Suite = Suite {
    package: "lua-iconv",
    inside: "",
    scripts: &["test_iconv.lua"],
    passed: (0, "-- Fernando Pessoa"),
};

/// But those that need a port of their own, another host, or half a minute of waiting.
const SOCKET: &[Suite] = &[
    Suite {
        package: "luasocket",
        inside: "test",
        scripts: &["ltn12test.lua", "stufftest.lua"],
        passed: (0, "ok"),
    },
    Suite { package: "luasocket", inside: "test", scripts: &["excepttest.lua"], passed: (0, "OK") },
    Suite {
        package: "luasocket",
        inside: "test",
        scripts: &["test_getaddrinfo.lua", "mimetest.lua"],
        passed: (0, "done"),
    },
    Suite {
        package: "luasocket",
        inside: "test",
        scripts: &["urltest.lua", concat!(env!("CARGO_MANIFEST_DIR"), "/lua/socket_pair.lua")],
        passed: (0, "passed"),
    },
];

/// They fail by an error, and most say nothing. Which there are, its sources say.
const PENLIGHT: Suite =
    Suite { package: "lua-penlight", inside: "", scripts: &[], passed: (0, "") };

/// Three start the Lua that they run in as a command; one has a global `set`, as the host has.
const PENLIGHT_WITHOUT: [&str; 4] = [
    "tests/test-app.lua",
    "tests/test-utils.lua",
    "tests/test-utils3.lua",
    "tests/test-tablex.lua",
];

/// Exit status and what was said, without what differs from run to run: addresses, times, and the
/// order of tables. A suite that prints these has a headline for each test.
fn outcome(mut command: Command, folder: &Path, script: &str) -> (Option<i32>, String) {
    command
        .current_dir(folder)
        .arg(script)
        .env("LUA_CPATH", "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/lua/5.1/?.so;;")
        .env("LUA_PATH", "./?.lua;./lua/?.lua;./lua/?/init.lua;/usr/share/lua/5.1/?.lua;;");
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let has_headlines = said.lines().any(|line| line.starts_with("==> "));
    let lines = said.lines().filter(|line| !has_headlines || line.starts_with("==> "));
    let is_number = |word: &str| word.trim_end_matches('s').parse::<f64>().is_ok();
    let is_steady = |word: &&str| !word.contains("0x") && !is_number(word);
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).filter(is_steady).collect();
    (output.status.code(), words.join(" "))
}

/// The ways to a heap, each in a fresh process, and last LuaJIT's own allocator.
fn ways() -> [(&'static str, Command); 5] {
    let on = |allocator: &str| {
        let mut host = clean(&programs().host);
        host.args(["--allocator", allocator]);
        host
    };
    let mut checked = on("ebbtide");
    checked.env("EBBTIDE_CHECKED", "on");
    [
        ("ebbtide", on("ebbtide")),
        ("checked", checked),
        ("attached", on("attached")),
        ("linked", clean(&programs().linked)),
        ("LuaJIT's own allocator", on("builtin")),
    ]
}

/// The same on the system's LuaJIT.
fn ways_of_the_system() -> [(&'static str, Command); 3] {
    let preloaded = || {
        let mut preloaded = clean(&programs().shared);
        preloaded.env("LD_PRELOAD", installed().lib().join("libebbtide_preload.so"));
        preloaded
    };
    let mut checked = preloaded();
    checked.env("EBBTIDE_CHECKED", "on");
    [
        ("preloaded", preloaded()),
        ("preloaded and checked", checked),
        ("the system's LuaJIT", clean(&programs().shared)),
    ]
}

/// Runs a script in each way: it says the same in all of them, and that it passed.
fn says_the_same<const N: usize>(suite: &Suite, script: &str, mut ways: [(&str, Command); N]) {
    let folder = folder().join(suite.package).join(suite.inside);
    let mut own = None;
    for (way, command) in ways.iter_mut().rev() {
        let command = std::mem::replace(command, Command::new("true"));
        let outcome = outcome(command, &folder, script);
        let Suite { package, passed: (status, words), .. } = suite;
        let own = own.get_or_insert_with(|| outcome.clone());
        let has_passed = own.0 == Some(*status) && own.1.contains(words);
        assert!(has_passed, "{package}, {script}, {way}: {own:?}");
        assert_eq!(&outcome, own, "{package}, {script}, {way}");
    }
}

/// All that penlight's own `run.lua tests` runs, but for a few.
fn scripts_of_penlight() -> Vec<String> {
    let folder = sources("lua-penlight").join("tests");
    let entries = std::fs::read_dir(folder).expect("penlight has tests").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let scripts = names.filter(|name| name.ends_with(".lua")).map(|name| format!("tests/{name}"));
    let (without, mut with): (Vec<_>, Vec<_>) =
        scripts.partition(|script| PENLIGHT_WITHOUT.contains(&script.as_str()));
    assert_eq!(without.len(), PENLIGHT_WITHOUT.len(), "one left out is no more: {without:?}");
    assert!(with.len() > 30, "{with:?}");
    with.sort();
    with
}

/// The sources of a suite.
fn sources(package: &str) -> PathBuf {
    let sources = folder().join(package);
    let is_there = sources.is_dir();
    assert!(is_there, "the suite of {package} is missing, and ffi-tests/suites.sh says why");
    sources
}

fn passes(suite: &Suite) {
    pass(suite, suite.scripts);
}

fn pass(suite: &Suite, scripts: &[impl AsRef<str>]) {
    sources(suite.package);
    for script in scripts.iter().map(AsRef::as_ref) {
        says_the_same(suite, script, ways());
        says_the_same(suite, script, ways_of_the_system());
    }
}

fn lpeg_passes_its_own_tests() {
    passes(&LPEG);
}

fn cjson_passes_its_own_tests() {
    let inside = folder().join("lua-cjson/tests");
    if !inside.join("utf8.dat").exists() {
        finish(Command::new("perl").arg("genutf8.pl").current_dir(&inside));
    }
    passes(&CJSON);
}

fn lfs_passes_its_own_tests() {
    passes(&LFS);
}

fn zlib_passes_its_own_tests() {
    passes(&ZLIB);
}

fn iconv_passes_its_own_tests() {
    passes(&ICONV);
}

fn luasocket_passes_its_own_tests() {
    SOCKET.iter().for_each(passes);
}

fn penlight_passes_its_own_tests() {
    pass(&PENLIGHT, &scripts_of_penlight());
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
