//! Reports: where they are written, when the program ends, and while it runs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::*;

ebbtide_ffi_tests::long! {
    reports_at_any_time_do_no_harm
}

const SIGTERM: i32 = 15;

/// A program that was asked for reports, with its standard error in a file.
struct Reporter {
    child: Child,
    /// Standard output, of which lines are read as they come.
    output: BufReader<ChildStdout>,
    log: PathBuf,
    _input: Option<ChildStdin>,
}

impl Reporter {
    fn start(mut command: Command, name: &str) -> Reporter {
        let log = scratch("preload").join(format!("{name}.log"));
        command.stderr(File::create(&log).expect("a log"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let input = child.stdin.take();
        Reporter { child, output, log, _input: input }
    }

    fn waits_for_line(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the program prints");
        assert_eq!(line.trim_end(), expected, "{}", self.said());
    }

    fn send(&self, signal: &str) {
        finish(Command::new("kill").args(["-s", signal, &self.child.id().to_string()]));
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Waits until the log has `count` lines, and returns the log.
    fn says(&self, count: usize) -> String {
        let start = Instant::now();
        while self.said().lines().count() < count {
            assert!(start.elapsed() < Duration::from_secs(60), "said: {}", self.said());
            sleep(Duration::from_millis(10));
        }
        self.said()
    }

    fn ends(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            match self.child.try_wait().expect("a status") {
                Some(status) => return status,
                None => sleep(Duration::from_millis(10)),
            }
            assert!(start.elapsed() < Duration::from_secs(60), "said: {}", self.said());
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that a line tells of an open VM with as many MB live at least.
fn tells_of_open_vm(line: &str, program: &str, live_mb: f64) {
    let rest =
        line.strip_prefix(&format!("ebbtide: {program}[")).unwrap_or_else(|| panic!("{line}"));
    let (process, rest) =
        rest.split_once("]: VM 1 open: live ").unwrap_or_else(|| panic!("{line}"));
    assert!(process.parse::<u32>().is_ok(), "{line}");
    let live: f64 = rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    assert!(live >= live_mb, "{line}");
    assert!(line.contains("gave back "), "{line}");
}

/// What went wrong with a VM is in its line.
#[test]
fn a_report_tells_of_refused_allocations() {
    let fills = scratch("preload").join("fills.lua");
    let code = "jit.off() local ok = pcall(function() return ('x'):rep(64 * 2 ^ 20) end)
        assert(not ok)";
    fs::write(&fills, code).expect("the folder was just made");
    let mut command = run(&["--report", "--limit-hard", "16m"]);
    let said = complaints(command.arg(program("run")).arg(&fills));
    assert!(said.contains("; refused 1 allocations\n"), "{said}");
}

#[test]
fn the_report_tells_of_each_vm() {
    let closed = complaints(run(&["--report"]).arg(program("run")).arg(script("smoke.lua")));
    assert!(closed.starts_with("ebbtide: run[") && closed.contains("]: VM 1 closed: "), "{closed}");
    assert!(closed.contains("gave back"), "{closed}");
    assert_eq!(closed.lines().count(), 1, "{closed}");
    let exits = scratch("preload").join("exits.lua");
    fs::write(&exits, "local t = {} for i = 1, 1e5 do t[i] = { i } end os.exit(0)").expect("it");
    let open = complaints(run(&["--report"]).arg(program("run")).arg(&exits));
    tells_of_open_vm(open.trim_end(), "run", 1.0);
    let mut off = preloaded(program("run"), &installed().lib());
    for value in ["", "0"] {
        off.env("EBBTIDE_REPORT", value).env("EBBTIDE_REPORT_SIGNAL", "");
        assert_eq!(complaints(off.arg(script("smoke.lua"))), "", "{value:?} is no wish");
    }
}

/// The program's database has become descriptor 2.
#[test]
fn nothing_is_written_into_a_file_of_the_program() {
    let database = scratch("preload").join("database");
    let untouched = || assert_eq!(fs::read_to_string(&database).expect("it"), "");
    for (way, state) in [("close", "closed"), ("exit", "open")] {
        let mut command = run(&["--report", "--verbose"]);
        command.arg(program("descriptor")).arg(&database).arg(way);
        let said = complaints(&mut command);
        untouched();
        assert!(said.contains(&format!("VM 1 {state}: ")), "the first standard error: {said}");
        // Nobody had a descriptor kept for this line.
        let mut command = preloaded(program("descriptor"), &installed().lib());
        command.env("EBBTIDE_RETAIN", "banana").arg(&database).arg(way);
        assert_eq!(complaints(&mut command), "");
        untouched();
        // It began without a standard error.
        let mut command = preloaded("sh", &installed().lib());
        command.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(program("descriptor"));
        command.arg(&database).arg(way).env("EBBTIDE_REPORT", "1").env("EBBTIDE_VERBOSE", "1");
        assert_eq!(complaints(&mut command), "");
        untouched();
    }
}

/// The reader is gone: a report neither ends the program nor stops it.
#[test]
fn nobody_needs_to_read_a_report() {
    let mut command = run(&["--report"]);
    command.arg(program("run")).arg(script("smoke.lua")).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
    drop(child.stderr.take());
    assert!(child.wait().expect("a status").success());
}

/// Nobody drains a full pipe: all lines together hold up the program for a moment only, 300 VMs'
/// lines as one VM's.
#[test]
fn a_full_pipe_holds_up_a_program_once() {
    let mut command = run(&["--report"]);
    command.arg(program("signals")).arg("stuck").stderr(Stdio::piped()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("it prints");
    assert_eq!(line, "ready\n");
    send(&["-s", "TERM"], &child.id().to_string());
    assert_eq!(child.wait().expect("a status").signal(), Some(SIGTERM));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}; 30 s if each line waits 100 ms");
}

#[test]
fn a_program_sees_nothing_of_the_handlers_for_reports() {
    finish(clean(program("signals")).arg("plain"));
    finish(run(&[]).arg(program("signals")).arg("plain"));
    let said =
        complaints(run(&["--report-signal", "USR2"]).arg(program("signals")).arg("reported"));
    let reports = said.lines().filter(|line| line.contains("VM 1 open: ")).count();
    assert!(reports >= 10, "{said}");
    let ignored = "no report on USR2: the program ignores it; choose another --report-signal";
    assert_eq!(said.matches(ignored).count(), 1, "{said}");
}

/// A wait for ever may end for a request only: the program says so and ends, otherwise.
#[test]
fn a_daemon_reports_when_it_is_asked_and_at_its_end() {
    for way in ["epoll_wait", "epoll_pwait", "poll", "select"] {
        let mut command = run(&["--report-signal=USR2"]);
        command.arg(program("loop")).arg(way).arg(service());
        let mut daemon = Reporter::start(command, way);
        writeln!(daemon._input.as_mut().expect("a pipe"), "load").expect("it reads");
        daemon.waits_for_line("served 3000");
        for count in 1..=3 {
            daemon.send("USR2");
            let said = daemon.says(count);
            tells_of_open_vm(said.lines().last().expect("a line"), "loop", 2.0);
        }
        daemon.send("TERM");
        assert_eq!(daemon.ends().signal(), Some(SIGTERM), "{way}: {}", daemon.said());
        assert_eq!(daemon.said().lines().count(), 4, "{way}: {}", daemon.said());
        tells_of_open_vm(daemon.said().lines().last().expect("a line"), "loop", 2.0);
    }
}

#[test]
fn a_program_that_never_waits_reports_what_it_holds() {
    let mut command = run(&["--report-signal", "34"]);
    let mut busy = Reporter::start(
        {
            command.arg(program("signals")).arg("busy");
            command
        },
        "busy",
    );
    busy.waits_for_line("ready");
    finish(Command::new("kill").args(["-34", &busy.child.id().to_string()]));
    tells_of_open_vm(busy.says(1).trim_end(), "signals", 5.0);
    busy.send("TERM");
    assert_eq!(busy.ends().signal(), Some(SIGTERM));
    tells_of_open_vm(busy.said().lines().last().expect("a line"), "signals", 5.0);
}

#[test]
fn a_handler_of_the_programs_own_comes_after_the_report() {
    let mut command = run(&["--report"]);
    command.arg(program("signals")).arg("exits");
    let mut program = Reporter::start(command, "exits");
    program.waits_for_line("ready");
    program.send("TERM");
    let status = program.ends();
    assert_eq!((status.code(), status.signal()), (Some(3), None));
    tells_of_open_vm(program.said().trim_end(), "signals", 0.0);
}

/// Many daemons wait for SIGTERM on a thread and end by _exit.
#[test]
fn a_program_that_leaves_by_the_short_way_reports() {
    let mut command = run(&["--report"]);
    command.arg(program("signals")).arg("leaves");
    let mut program = Reporter::start(command, "leaves");
    program.waits_for_line("ready");
    assert_eq!(program.said(), "", "children have nothing to tell");
    program.send("TERM");
    assert_eq!(program.ends().code(), Some(4));
    tells_of_open_vm(program.said().trim_end(), "signals", 0.0);
}

/// The report at `_exit` is left out only where it would repeat the one that SIGTERM has just brought.
#[test]
fn a_program_that_survives_sigterm_reports_at_its_end() {
    let lines = |ms: &str| {
        let mut command = run(&["--report"]);
        let said = complaints(command.arg(program("signals")).args(["survives", ms]));
        said.lines().for_each(|line| tells_of_open_vm(line, "signals", 0.0));
        said.lines().count()
    };
    assert_eq!(lines("1500"), 2);
    // Of a few, for a busy machine may hold one up.
    assert!((0..5).any(|_| lines("0") == 1), "the same is told twice");
}

#[test]
fn a_report_of_no_vm_says_so() {
    let mut command = run(&["--report-signal", "USR1"]);
    command.args(["sh", "-c", "echo ready; read line"]);
    let mut shell = Reporter::start(command, "shell");
    shell.waits_for_line("ready");
    shell.send("USR1");
    let said = shell.says(1);
    let expected = "]: no VM that was taken over is open\n";
    assert!(said.starts_with("ebbtide: sh[") && said.ends_with(expected), "{said}");
    shell.send("TERM");
    assert_eq!(shell.ends().signal(), Some(SIGTERM));
}

/// Hundreds of reports in the middle of everything: allocation, waits, threads that come and go.
fn reports_at_any_time_do_no_harm() {
    // The fork server measures what its own waits return: nothing else returns memory there.
    for (name, others) in [("threads", "on"), ("fork", "off")] {
        let mut command = run(&["--report-signal", "USR2", "--decay-ms", "20"]);
        command.args(["--background", others, "--auto", others]);
        command.arg(program(name)).arg(service()).stdout(Stdio::null()).stdin(Stdio::null());
        let log = scratch("preload").join(format!("storm-{name}.log"));
        let mut child = command.stderr(File::create(&log).expect("a log")).spawn().expect("it");
        let said = || fs::read_to_string(&log).expect("a log");
        let process = child.id().to_string();
        // Until the first VM is made the signal may still end it.
        let is_ready = || {
            let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
            ["libebbtide_preload.so", "libebbtide.so"].iter().all(|name| maps.contains(name))
        };
        let mut sent = 0;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a status") {
                break status;
            }
            if is_ready() {
                send(&["-s", "USR2"], &process);
                sent += 1;
            }
            sleep(Duration::from_millis(2));
        };
        assert!(status.success(), "{name}: {status}\n{}", said());
        let reports = said().lines().filter(|line| line.contains(" open: ")).count();
        assert!(sent > 10 && reports > 5, "{name}: {sent} sent, {reports} lines");
    }
}

#[test]
fn a_python_with_lupa_reports() {
    let code = "import select, signal\nimport lupa.luajit21 as lupa\n\
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n\
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL\n\
        lua = lupa.LuaRuntime()\n\
        lua.execute('t = {} for i = 1, 1e5 do t[i] = { i } end')\n\
        print('ready', flush=True)\n\
        print(select.poll().poll())";
    let mut command = run(&["--report-signal", "USR2"]);
    command.arg(lupa()).args(["-c", code]);
    let mut daemon = Reporter::start(command, "lupa");
    daemon.waits_for_line("ready");
    daemon.send("USR2");
    tells_of_open_vm(daemon.says(1).trim_end(), "python3", 2.0);
    daemon.send("TERM");
    assert_eq!(daemon.ends().signal(), Some(SIGTERM), "{}", daemon.said());
    assert_eq!(daemon.said().lines().count(), 2, "{}", daemon.said());
}

/// An nginx with Lua, which listens on a socket of its own.
fn nginx_config(folder: &Path, is_daemon: bool) -> PathBuf {
    let modules = "/usr/lib/nginx/modules";
    let daemon = if is_daemon { "on" } else { "off" };
    let shown = folder.display();
    let config = folder.join("nginx.conf");
    let text = format!(
        "load_module {modules}/ndk_http_module.so;\n\
         load_module {modules}/ngx_http_lua_module.so;\n\
         daemon {daemon}; worker_processes 1; pid {shown}/pid; error_log {shown}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; server {{ listen unix:{}; location / {{\n\
         content_by_lua_block {{\n\
         kept = {{}} for i = 1, 1e5 do kept[i] = {{ i }} end\n\
         ngx.say(ngx.worker.pid())\n\
         }} }} }} }}\n",
        socket_path(is_daemon).display()
    );
    fs::write(&config, text).expect("a configuration");
    config
}

/// The path of a socket may have a hundred bytes only.
fn socket_path(is_daemon: bool) -> PathBuf {
    std::env::temp_dir().join(format!("ebbtide-{}-{is_daemon}.socket", std::process::id()))
}

/// The number of the worker that answers.
fn ask_nginx(socket: &Path) -> String {
    let start = Instant::now();
    let mut socket = loop {
        match UnixStream::connect(socket) {
            Ok(socket) => break socket,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "{error}"),
        }
        sleep(Duration::from_millis(20));
    };
    write!(socket, "GET / HTTP/1.0\r\n\r\n").expect("nginx listens");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("nginx answers");
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_else(|| panic!("{answer}"));
    body.trim().to_owned()
}

fn send(signal: &[&str], process: &str) {
    finish(Command::new("kill").args(signal).arg(process));
}

/// Its master and worker report on a signal that nginx does not know; as a daemon they do so to the
/// standard error of the beginning.
#[test]
fn nginx_reports_while_it_runs() {
    for is_daemon in [false, true] {
        let folder = scratch("preload-nginx").join(if is_daemon { "daemon" } else { "plain" });
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        // Started by root, its worker is another user.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its rights");
        let mut command = run(&["--report-signal", "40"]);
        command.args(["nginx", "-p"]).arg(&folder).arg("-c").arg(nginx_config(&folder, is_daemon));
        let mut nginx = Reporter::start(command, &format!("nginx-{is_daemon}"));
        let socket = socket_path(is_daemon);
        let worker = ask_nginx(&socket);
        let ended = Ended(folder.join("pid"));
        for count in 1..=2 {
            let reports =
                || nginx.said().matches(&format!("ebbtide: nginx[{worker}]: VM 1 open: ")).count();
            send(&["-40"], &worker);
            let start = Instant::now();
            while reports() < count {
                assert!(start.elapsed() < Duration::from_secs(60), "{}", nginx.said());
                sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(ask_nginx(&socket), worker, "the worker goes on");
        let last = nginx.said();
        let last = last.lines().rev().find(|line| line.contains(&worker)).expect("a report");
        tells_of_open_vm(last, "nginx", 2.0);
        drop(ended);
        if !is_daemon {
            assert_eq!(nginx.ends().code(), Some(0), "{}", nginx.said());
        }
    }
}

/// Ends the nginx whose number is in a file, and waits until it is gone.
struct Ended(PathBuf);

impl Drop for Ended {
    fn drop(&mut self) {
        let Ok(master) = fs::read_to_string(&self.0) else { return };
        send(&["-s", "TERM"], master.trim());
        let start = Instant::now();
        while self.0.exists() && start.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(20));
        }
    }
}
