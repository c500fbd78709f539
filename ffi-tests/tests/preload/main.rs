//! The preload library and the command `ebbtide`, with programs that know nothing of either: on the
//! system's shared LuaJIT, on one that is linked in, and on none.

mod collecting;
mod obstacles;
mod programs;
mod reports;
mod settings;
mod sleepers;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, scratch, source, text_of};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository, workload};
use programs::*;

ebbtide_ffi_tests::long! {
    a_loop_on_epoll_pwait_exhales
    a_loop_on_select_exhales
    a_loop_on_poll_exhales
    vms_on_many_threads_and_from_hand_to_hand
}

/// How long after its last request a service holds less than a third of what it held then.
fn exhales_within(way: &str) -> Duration {
    let mut command = run(&[]);
    command.arg(program("loop")).arg(way).arg(service());
    let mut service = Service::start(command);
    for _ in 0..12 {
        service.ask("load");
    }
    let full_kb = service.pss_kb();
    assert_eq!(service.ask("rest"), "resting");
    let end_of_load = Instant::now();
    assert!(full_kb > 40_000, "{way}: {full_kb} KB are no load");
    while service.pss_kb() > full_kb / 3 {
        let waited = end_of_load.elapsed();
        assert!(waited < Duration::from_secs(30), "{way}: {full_kb}, now {}", service.pss_kb());
        sleep(Duration::from_millis(20));
    }
    let took = end_of_load.elapsed();
    assert!(service.comes_to_rest(), "{way}: a heap at rest wakes the loop up");
    assert_eq!(service.ask("check"), "checked 360");
    service.close();
    took
}

/// In three seconds. Other work on the machine may delay one of a few tries.
fn exhales(way: &str) {
    let soon = |_| exhales_within(way) <= Duration::from_secs(3);
    assert!((0..3).any(soon), "{way}: not within 3 s");
}

#[test]
fn a_loop_on_epoll_wait_exhales() {
    exhales("epoll_wait");
}

fn a_loop_on_epoll_pwait_exhales() {
    exhales("epoll_pwait");
}

fn a_loop_on_poll_exhales() {
    exhales("poll");
}

fn a_loop_on_select_exhales() {
    exhales("select");
}

/// The program itself says what is right: it must be content without the library, too.
#[test]
fn waits_return_what_they_would_have() {
    finish(clean(program("waits")).arg(service()));
    for decay_ms in ["0", "50"] {
        finish(run(&["--decay-ms", decay_ms]).arg(program("waits")).arg(service()));
    }
}

fn vms_on_many_threads_and_from_hand_to_hand() {
    for decay_ms in ["0", "20"] {
        finish(run(&["--decay-ms", decay_ms]).arg(program("threads")).arg(service()));
    }
}

#[test]
fn a_fork_server_goes_on() {
    for decay_ms in ["20", "1000"] {
        // What it sees is what its own waits return.
        let options = ["--decay-ms", decay_ms, "--background", "off", "--auto", "off"];
        finish(run(&options).arg(program("fork")).arg(service()));
    }
}

#[test]
fn scripts_run_on_the_shared_luajit() {
    for (path, scale) in [
        (script("smoke.lua"), "1"),
        (script("text.lua"), "2"),
        (script("coroutines.lua"), "2"),
        (script("big_tables.lua"), "2"),
        (script("cdata.lua"), "2"),
        (workload("tables.lua"), "300000"),
        (workload("closures.lua"), "500000"),
        (workload("service.lua"), "15000"),
        (workload("scatter.lua"), "300000"),
    ] {
        let said = complaints(run(&["--verbose"]).arg(program("run")).arg(path).arg(scale));
        assert!(said.contains("taken over: the VMs of "), "{said}");
    }
}

#[test]
fn c_modules_work_on_under_preload() {
    let paths = text_of(clean("luajit").args(["-e", "io.write(package.cpath)"]));
    // A copy of the library, as a Lua package brings it, has the preloaded one speak.
    let copy = scratch("preload").join("copy");
    fs::create_dir_all(&copy).expect("a folder");
    fs::copy(installed().shared(), copy.join("ebbtide.so")).expect("a copy");
    let here = format!("{}/lua/5.1/?.so;{paths}", installed().lib().display());
    let copied = format!("{}/?.so;{paths}", copy.display());
    let resting = &["--decay-ms", "0", "--limit-soft", "1m"][..];
    for (options, modules) in [(&[][..], &here), (resting, &here), (&[], &copied)] {
        let mut command = run(options);
        command.env("LUA_CPATH", modules).env("LUA_PATH", script("?.lua"));
        finish(command.arg(program("run")).arg(script("lua_module_modules.lua")).arg("preload"));
    }
}

/// Memory that never rests: everything goes back at once.
#[test]
fn scripts_run_while_memory_never_rests() {
    for name in ["text.lua", "coroutines.lua", "big_tables.lua", "cdata.lua"] {
        let mut command = run(&["--decay-ms", "0", "--limit-soft", "1m"]);
        finish(command.arg(program("run")).arg(script(name)).arg("2"));
    }
}

/// The lines of `EBBTIDE_VERBOSE`: one, which begins with the program's name.
fn verbose_line(command: &mut Command, name: &str) -> String {
    let said = complaints(command.env("EBBTIDE_VERBOSE", "1"));
    let line = said.strip_prefix(&format!("ebbtide: {name}: "));
    let line = line.unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    line.trim_end().to_owned()
}

#[test]
fn a_shared_luajit_is_taken_over_and_reported() {
    let line =
        verbose_line(run(&[]).arg(program("allocators")).args(["option", "auto"]), "allocators");
    assert!(line.starts_with("taken over: the VMs of /"), "{line}");
    assert!(line.ends_with(&format!("{LUAJIT_SONAME}, each on a heap of its own")), "{line}");
    let quiet = complaints(run(&[]).arg(program("allocators")).args(["option", "auto"]));
    assert_eq!(quiet, "");
}

#[test]
fn an_allocator_of_the_programs_own_passes_through() {
    let mut command = run(&[]);
    let line = verbose_line(command.arg(program("allocators")).arg("own"), "allocators");
    assert_eq!(line, "nothing taken over: VMs with an allocator of their own passed through");
}

#[test]
fn a_luajit_inside_the_program_is_left_alone() {
    for (name, why) in [
        ("run-exported", "LuaJIT is linked into the program itself: left alone"),
        ("run-inside", "no LuaJIT in this program (none shared, none exported)"),
    ] {
        let mut command = preloaded(program(name), &installed().lib());
        let line = verbose_line(command.arg(script("smoke.lua")), name);
        assert_eq!(line, format!("nothing taken over: {why}"));
        finish(run(&[]).arg(program(name)).arg(script("text.lua")).arg("1"));
        // A report of nothing would look like a program without VMs.
        let said = complaints(run(&["--report"]).arg(program(name)).arg(script("smoke.lua")));
        let line = format!("ebbtide: {name}: nothing taken over: {why}");
        assert_eq!(said.lines().last(), Some(line.as_str()));
    }
    let code = "import subprocess; subprocess.run('true')";
    let said = complaints(run(&["--report"]).args([&python(), "-c", code]));
    assert_eq!(said.lines().count(), 1, "programs that it starts are no news: {said}");
}

#[test]
fn a_luajit_that_only_some_see_is_taken_over_beside_another_lua() {
    let lib = installed().lib();
    let loaded = |mut command: Command| {
        text_of(command.arg(program("loaded")).arg(LUAJIT_SONAME).arg(program("other.so")))
    };
    assert_eq!(loaded(run(&[])), "on a heap\n");
    assert_eq!(loaded(clean("env")), "on its own\n");
    // By a path from a folder that the program leaves.
    let mut command = preloaded("env", Path::new("./lib"));
    command.current_dir(lib.parent().expect("a prefix"));
    assert_eq!(loaded(command), "on a heap\n");
}

#[test]
fn a_loaded_luajit_without_a_vm_is_reported() {
    let code = format!("import ctypes; ctypes.CDLL('{LUAJIT_SONAME}')");
    let mut command = preloaded(python(), &installed().lib());
    let (status, _, said) = outcome(command.env("EBBTIDE_VERBOSE", "1").args(["-c", &code]));
    assert_eq!(status, Some(0));
    assert!(said.contains("nothing taken over: /"), "{said}");
    assert!(said.contains(&format!("{LUAJIT_SONAME} was loaded, but asked for no VM")), "{said}");
}

#[test]
fn without_the_library_luajit_keeps_its_own_allocator() {
    let folder = scratch("preload-alone");
    let preload = installed().lib().join("libebbtide_preload.so");
    fs::copy(preload, folder.join("libebbtide_preload.so")).expect("a copy");
    let option = |command: &mut Command| text_of(command.args(["option", "retain"]));
    assert_eq!(option(&mut preloaded(program("allocators"), &folder)), "none\n");
    let mut command = preloaded(program("allocators"), &folder);
    let line = verbose_line(command.args(["option", "retain"]), "allocators");
    assert!(line.starts_with("LuaJIT keeps its own allocator: "), "{line}");
    assert!(line.contains("libebbtide.so: cannot open"), "{line}");
}

#[test]
fn a_refused_heap_is_reported_and_luajit_keeps_its_own_allocator() {
    let with_bad_option = || {
        let mut command = preloaded(program("allocators"), &installed().lib());
        command.env("EBBTIDE_RETAIN", "banana").args(["option", "retain"]);
        command
    };
    assert_eq!(text_of(&mut with_bad_option()), "none\n");
    let line = verbose_line(&mut with_bad_option(), "allocators");
    let expected =
        "LuaJIT keeps its own allocator: EBBTIDE_RETAIN=banana: takes a number from 0 to";
    assert!(line.starts_with(expected), "{line}");
}

/// A Python with lupa from PyPI, which brings LuaJIT 2.0 and 2.1 in modules: made once.
fn lupa() -> &'static Path {
    static LUPA: OnceLock<PathBuf> = OnceLock::new();
    LUPA.get_or_init(|| {
        let folder = scratch("lupa");
        let interpreter = folder.join("bin/python3");
        let has_lupa = || {
            let code = "import lupa.luajit20, lupa.luajit21";
            let output = clean(&interpreter).args(["-c", code]).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !has_lupa() {
            finish(clean(python()).args(["-m", "venv", "--clear"]).arg(&folder));
            let pip = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "lupa==2.8"];
            finish(clean(&interpreter).args(pip));
            assert!(has_lupa(), "lupa without its LuaJIT modules");
        }
        interpreter
    })
}

/// The interpreter itself, not a script that starts it.
fn python() -> String {
    let code = "import sys; print(sys.executable)";
    text_of(clean("python3").args(["-c", code])).trim_end().to_owned()
}

#[test]
fn programs_without_luajit_run_as_ever() {
    let waits = "import select, time\nstart = time.monotonic()\np = select.poll()\n\
        e = select.epoll()\nprint(p.poll(20), e.poll(0.02), select.select([], [], [], 0.02))\n\
        print(time.monotonic() - start >= 0.05)";
    let python = python();
    for words in [
        &["true"][..],
        &["false"],
        &["sh", "-c", "seq 1000 | sort -r | head -n 3; echo done >&2; exit 7"],
        &["sh", "-c", "kill -TERM $$"],
        &["ls", "-a", "/usr"],
        &["cat", "/no/such/file"],
        &[&python, "-c", waits],
    ] {
        let plain = outcome(clean(words[0]).args(&words[1..]));
        assert_eq!(outcome(run(&[]).args(words)), plain, "{words:?}");
        let (status, out, _) = outcome(run(&["--report-signal", "USR2"]).args(words));
        assert_eq!((status, out), (plain.0, plain.1), "{words:?}");
    }
}

#[test]
fn programs_without_luajit_load_the_preload_library_only() {
    let code = "print(open('/proc/self/maps').read())";
    let python = python();
    for words in [&["cat", "/proc/self/maps"][..], &[&python, "-c", code]] {
        let maps = text_of(run(&[]).args(words));
        assert!(maps.contains("libebbtide_preload.so"), "{maps}");
        assert!(!maps.contains("libebbtide.so"), "{maps}");
        assert!(!maps.contains("libluajit"), "{maps}");
    }
    // Standard error is closed when this program ends.
    let line = verbose_line(run(&[]).arg("true"), "true");
    assert_eq!(line, "nothing taken over: no LuaJIT in this program (none shared, none exported)");
}

/// It is in every program: a few functions, and nothing but the C library behind them.
#[test]
fn the_preload_library_is_small() {
    let library = installed().lib().join("libebbtide_preload.so");
    let symbols = text_of(Command::new("nm").args(["-D", "--defined-only"]).arg(&library));
    let symbols: BTreeSet<&str> =
        symbols.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let expected = [
        "__poll_chk",
        "__sigaction",
        "__sysv_signal",
        "_Exit",
        "_exit",
        "bsd_signal",
        "dlclose",
        "ebb_preload_is_here",
        "epoll_pwait",
        "epoll_wait",
        "lua_newstate",
        "poll",
        "select",
        "sigaction",
        "sigignore",
        "signal",
        "sigset",
        "ssignal",
        "sysv_signal",
    ];
    assert_eq!(symbols, BTreeSet::from(expected));
    let dynamic = text_of(Command::new("readelf").args(["-dW"]).arg(&library));
    let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
    for line in needed {
        let usual = ["[libc.so.6]", "[libdl.so.2]", "[ld-linux"];
        assert!(usual.iter().any(|name| line.contains(name)), "{line}");
    }
    let bytes = fs::metadata(&library).expect("it is there").len();
    assert!(bytes < 100_000, "{bytes} bytes");
}

/// The fastest start of many: what else the machine does only adds.
#[test]
fn a_program_without_luajit_starts_less_than_a_millisecond_later() {
    let time = |command: &mut Command| {
        let start = Instant::now();
        finish(command);
        start.elapsed()
    };
    let lib = installed().lib();
    let times = (0..300).map(|_| (time(&mut clean("true")), time(&mut preloaded("true", &lib))));
    let (plain, with): (Vec<Duration>, Vec<Duration>) = times.unzip();
    let (plain, with) = (plain.into_iter().min(), with.into_iter().min());
    let bound = plain.map(|plain| plain + Duration::from_millis(1));
    assert!(with < bound, "{plain:?}, with the library {with:?}");
}

#[test]
fn options_reach_the_heap() {
    for (options, name, value) in [
        (&["--retain", "8m"][..], "retain", "8388608"),
        (&["--decay-ms=500", "--step-us", "100"], "decay_ms", "500"),
        (&["--step-us", "100", "--step-us", "99"], "step_us", "99"),
        (&["--limit-soft", "cgroup"], "limit_soft", "-2"),
        (&["--auto", "off"], "auto", "0"),
        (&["--history=on"], "history", "1"),
        (&["--background", "off"], "background", "0"),
        (&["--collect"], "collect", "1"),
        (&["--collect", "off"], "collect", "0"),
        (&["--remap-min", "1m", "--"], "remap_min", "1048576"),
        (&["--reserve", "256m"], "reserve", "268435456"),
    ] {
        let mut command = run(options);
        command.env("EBBTIDE_RETAIN", "1m").env("EBBTIDE_DECAY_MS", "77");
        let got = text_of(command.arg(program("allocators")).args(["option", name]));
        assert_eq!(got.trim_end(), value, "{options:?}");
    }
    let mut command = run(&[]);
    command.env("EBBTIDE_DECAY_MS", "77").arg(program("allocators"));
    assert_eq!(text_of(command.args(["option", "decay_ms"])), "77\n");
}

#[test]
fn the_command_helps() {
    let version = env!("CARGO_PKG_VERSION_MAJOR");
    let said = text_of(ebbtide().arg("--version"));
    assert!(said.starts_with(&format!("ebbtide {version}.")), "{said}");
    let help = text_of(ebbtide().arg("--help"));
    for word in ["ebbtide run", "--report", "--verbose", "--limit-soft", "EBBTIDE_PRELOAD", "127"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    assert!(help.lines().all(|line| line.len() <= 92), "{help}");
    assert_eq!(text_of(ebbtide().args(["run", "--help"])), help);
}

#[test]
fn the_command_names_what_is_wrong() {
    let folder = scratch("preload-nothing");
    let nowhere = |command: &mut Command| {
        outcome(command.env("EBBTIDE_PRELOAD", folder.join("p.so")).args(["run", "true"]))
    };
    let failed = |command: &mut Command| outcome(command);
    for ((status, out, said), expected_status, expected) in [
        (failed(&mut ebbtide()), 125, "no command; say: ebbtide run"),
        (failed(ebbtide().arg("luajit")), 125, "luajit: no such task"),
        (failed(&mut run(&[])), 125, "run: no command"),
        (failed(&mut run(&["--retain"])), 125, "--retain: takes a value"),
        (failed(&mut run(&["--banana", "1", "true"])), 125, "--banana: no such option"),
        (failed(&mut run(&["--retain", "x", "true"])), 125, "--retain x: takes a number from 0 to"),
        (failed(&mut run(&["--limit-hard", "cgroup", "true"])), 125, "--limit-hard cgroup: takes"),
        (failed(run(&["true"]).env("EBBTIDE_THP", "7")), 125, "EBBTIDE_THP=7: takes"),
        (nowhere(&mut ebbtide()), 125, "EBBTIDE_PRELOAD="),
        (failed(&mut run(&["/no/such/program"])), 127, "/no/such/program: no such program"),
        (failed(&mut run(&["no-such-program"])), 127, "no-such-program: no such program"),
        (failed(&mut run(&["/etc/passwd"])), 126, "/etc/passwd: cannot be run"),
    ] {
        assert_eq!(status, Some(expected_status), "{said}");
        assert!(said.starts_with(&format!("ebbtide: {expected}")), "{said}");
        assert_eq!((out.as_str(), said.lines().count()), ("", 1), "{said}");
    }
}

#[test]
fn the_command_keeps_what_was_preloaded_and_the_exit_status() {
    let said =
        text_of(run(&[]).env("LD_PRELOAD", "libm.so.6").args(["sh", "-c", "echo $LD_PRELOAD"]));
    assert!(said.ends_with("/libebbtide_preload.so:libm.so.6\n"), "{said}");
    assert!(said.starts_with('/'), "{said}");
    let (status, ..) = outcome(run(&[]).args(["sh", "-c", "exit 7"]));
    assert_eq!(status, Some(7));
}
