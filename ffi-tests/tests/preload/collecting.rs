//! The garbage of idle VMs: it is collected where no Lua function is active, and nowhere else.

use super::*;

ebbtide_ffi_tests::long! {
    it_works_on_the_newest_luajit
    it_works_on_beta3
}

/// What the program saw, and what was said on standard error.
#[derive(Debug)]
struct Seen {
    pss_mb: [i64; 2],
    lua_mb: [i64; 2],
    finalized: i64,
    returns: i64,
    most_bytes: i64,
    said: String,
}

/// Finalizers that wait for the collector.
const FINALIZERS: i64 = 100;
/// What is left of 40 MB.
const LITTLE_MB: i64 = 12;

/// The program, with the command line that runs it, waits in one way.
fn waits(mut command: Command, way: &str, what: &str, times: &[&str]) -> Seen {
    command.arg(program("collect")).args([way, what]).args(times);
    let output = finish(&mut command);
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    let numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    let numbers: [i64; 7] = numbers.collect::<Vec<_>>().try_into().expect("seven numbers");
    let [pss, pss_after, lua, lua_after, finalized, returns, most_bytes] = numbers;
    let said = String::from_utf8(output.stderr).expect("the output is UTF-8");
    assert!(pss > 35 && lua > 35, "{way}, {what}: {pss} and {lua} MB are no load");
    let (pss_mb, lua_mb) = ([pss, pss_after], [lua, lua_after]);
    Seen { pss_mb, lua_mb, finalized, returns, most_bytes, said }
}

/// Waits for three seconds on end until hardly anything is left.
fn is_collected_on(command: Command, way: &str, what: &str) -> Seen {
    let seen = waits(command, way, what, &["3000", "12"]);
    assert!(seen.pss_mb[1] <= LITTLE_MB && seen.lua_mb[1] <= 3, "{way}, {what}: {seen:?}");
    assert_eq!(seen.finalized, FINALIZERS, "{way}, {what}: {seen:?}");
    seen
}

fn is_collected(way: &str, what: &str) -> Seen {
    is_collected_on(run(&["--collect"]), way, what)
}

/// Nothing happens in three and a half seconds.
fn is_left_alone(command: Command, way: &str, what: &str) -> Seen {
    let seen = waits(command, way, what, &["3500"]);
    assert_eq!((seen.lua_mb[0], seen.finalized), (seen.lua_mb[1], 0), "{way}, {what}: {seen:?}");
    seen
}

#[test]
fn garbage_goes_while_the_program_waits() {
    for way in ["epoll_wait", "epoll_pwait", "poll", "select"] {
        assert_eq!(is_collected(way, "rest").said, "", "{way}");
    }
}

#[test]
fn coroutines_that_have_yielded_and_compiled_loops_are_not_active() {
    for what in ["yielded", "jit"] {
        assert_eq!(is_collected("epoll_wait", what).said, "", "{what}");
    }
}

#[test]
fn a_wait_that_lua_has_called_is_left_alone() {
    for (way, what) in [
        ("epoll_wait", "called"),
        ("poll", "nested"),
        ("select", "ffi"),
        ("epoll_wait", "compiled"),
    ] {
        assert_eq!(is_left_alone(run(&["--collect"]), way, what).said, "", "{what}");
    }
}

#[test]
fn a_vm_that_a_second_thread_has_used_is_left_alone() {
    is_left_alone(run(&["--collect"]), "epoll_wait", "thread");
}

#[test]
fn a_vm_that_its_host_looks_after_is_left_alone() {
    is_left_alone(run(&["--collect"]), "epoll_wait", "watched");
}

#[test]
fn a_collector_that_the_program_has_stopped_stays_stopped() {
    is_left_alone(run(&["--collect"]), "epoll_wait", "stopped");
}

#[test]
fn nothing_is_collected_unless_that_is_asked_for() {
    for options in [&[][..], &["--collect", "off"], &["--collect", "auto"]] {
        assert_eq!(is_left_alone(run(options), "epoll_wait", "rest").said, "", "{options:?}");
    }
}

/// What throws in a finalizer is told once; newer LuaJITs tell each by themselves.
#[test]
fn finalizers_may_throw_allocate_wait_and_try_to_yield() {
    let seen = is_collected("epoll_wait", "errors");
    let told = "a finalizer threw while garbage was collected: ";
    assert!(seen.said.matches(told).count() <= 1, "{}", seen.said);
    assert!(seen.said.contains("attempt to yield"), "{}", seen.said);
    is_collected("poll", "waits");
}

/// Each finalizer takes longer than a step may, and makes an event. One step of LuaJIT's calls 20
/// finalizers at most, so no more events are there when the wait returns.
#[test]
fn an_event_waits_for_one_step_at_most() {
    let seen = is_collected("epoll_wait", "prompt");
    assert!(seen.most_bytes <= 20 && seen.returns >= 5, "{seen:?}");
}

#[test]
fn a_collection_goes_on_between_events() {
    let seen = is_collected("poll", "events");
    assert!(seen.returns > 100, "{seen:?}");
}

/// The LuaJIT in this folder, which has a soname of its own, in place of the system's.
fn on_luajit_of(folder: &Path) -> Command {
    let mut command = run(&["--collect"]);
    command.env("LD_LIBRARY_PATH", folder);
    command
}

fn works_on_luajit_of(folder: &Path) {
    assert!(folder.join(LUAJIT_SONAME).exists(), "{}", folder.display());
    is_collected_on(on_luajit_of(folder), "epoll_wait", "rest");
    is_collected_on(on_luajit_of(folder), "poll", "yielded");
    is_collected_on(on_luajit_of(folder), "select", "errors");
    for what in ["called", "nested", "compiled"] {
        is_left_alone(on_luajit_of(folder), "epoll_wait", what);
    }
}

/// What a VM's state says is found out from each LuaJIT.
fn it_works_on_the_newest_luajit() {
    let folder = scratch("preload-luajit-newest");
    let flags = ["-shared", "-Wl,--whole-archive", LUAJIT.library, "-Wl,--no-whole-archive"];
    let mut command = compiler(Language::C);
    command.args(["-x", "none"]).args(flags).arg(format!("-Wl,-soname,{LUAJIT_SONAME}"));
    finish(command.arg("-o").arg(folder.join(LUAJIT_SONAME)).args(["-lm", "-ldl"]));
    works_on_luajit_of(&folder);
}

/// Debian's package of upstream's LuaJIT, 2.1.0-beta3, unpacked beside whatever is installed.
fn it_works_on_beta3() {
    let folder = scratch("preload-luajit-beta3");
    let mut get = clean("apt-get");
    get.args(["-q", "-o", "APT::Sandbox::User=root", "download", "libluajit-5.1-2"]);
    let is_had = get.current_dir(&folder).output().is_ok_and(|output| output.status.success());
    let files = fs::read_dir(&folder).expect("it is there").flatten().map(|entry| entry.path());
    let package = files.filter(|path| path.extension() == Some(OsStr::new("deb"))).last();
    let Some(package) = package else {
        assert!(!is_had);
        eprintln!("not tested on beta3: its package cannot be had");
        return;
    };
    finish(clean("dpkg").arg("-x").arg(package).arg(&folder));
    let libraries = fs::read_dir(folder.join("usr/lib")).expect("it has libraries").flatten();
    let found = libraries.map(|entry| entry.path()).find(|it| it.join(LUAJIT_SONAME).exists());
    works_on_luajit_of(&found.expect("the library"));
}

/// Without unwind tables nobody knows whether a wait is one that Lua has called.
#[test]
fn where_it_cannot_be_known_that_is_said_once() {
    let without = scratch("preload").join("collect-without-tables");
    let include = format!("-isystem{}", LUAJIT.include_dir);
    let flags: [&str; 3] =
        ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"];
    let by_soname = format!("-l:{LUAJIT_SONAME}");
    let flags = [&[include.as_str(), &by_soname][..], &flags].concat();
    build("preload/preload_collect.c", &without, &flags);
    let output = finish(run(&["--collect"]).arg(&without).args(["epoll_wait", "rest", "2500"]));
    let said = String::from_utf8(output.stderr).expect("the output is UTF-8");
    assert_eq!(said.matches("collect stays off: the callers of a wait").count(), 1, "{said}");
    let numbers = String::from_utf8(output.stdout).expect("the output is UTF-8");
    assert_eq!(numbers.split_whitespace().nth(4), Some("0"), "{numbers}");
}

#[test]
fn without_the_preload_library_the_option_has_no_effect_and_says_so() {
    let mut command = clean("luajit");
    let modules = format!("{}/lib?.so", installed().lib().display());
    command.env("LUA_CPATH", modules).env("LUA_PATH", repository().join("lua/?.lua"));
    command.env("EBBTIDE_COLLECT", "on");
    let code = "local a = require 'ebbtide' assert(a.attach()) \
                print(a.configure{ collect = true })";
    let (status, out, said) = outcome(command.args(["-e", code]));
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("ebbtide: collect=on has no effect here").count(), 1, "{said}");
    assert!(out.starts_with("nil\tcollect=on has no effect here"), "{out}");
}
