//! The programs of these tests, how they are started, and a service to talk to.

use super::*;

pub(crate) const LUAJIT_SONAME: &str = "libluajit-5.1.so.2";

/// Runs a script.
pub(crate) const RUN: &str = "preload/preload_run.c";

/// The programs on the shared LuaJIT, and what else is made of C sources here.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub(crate) fn get() -> &'static Programs {
        static PROGRAMS: OnceLock<Programs> = OnceLock::new();
        PROGRAMS.get_or_init(|| {
            let folder = scratch("preload");
            // By its soname: the headers come from the one that is vendored.
            let include = format!("-isystem{}", LUAJIT.include_dir);
            let by_soname = format!("-l:{LUAJIT_SONAME}");
            let shared = [include.as_str(), &by_soname];
            for (name, source) in [
                ("loop", "preload/preload_loop.c"),
                ("run", RUN),
                ("waits", "preload/preload_waits.c"),
                ("threads", "preload/preload_threads.c"),
                ("fork", "preload/preload_fork.c"),
                ("allocators", "preload/preload_allocators.c"),
                ("signals", "preload/preload_signals.c"),
                ("descriptor", "preload/preload_descriptor.c"),
            ] {
                build(source, &folder.join(name), &shared);
            }
            let exported = [&shared[..], &["-Wl,-E"]].concat();
            build("preload/preload_collect.c", &folder.join("collect"), &exported);
            build("preload/preload_loaded.c", &folder.join("loaded"), &[]);
            build("preload/preload_other.c", &folder.join("other.so"), &["-shared", "-fPIC"]);
            let inside = [include.as_str(), LUAJIT.library, "-lm"];
            build(RUN, &folder.join("run-inside"), &inside);
            build(RUN, &folder.join("run-exported"), &[&inside[..], &["-Wl,-E"]].concat());
            Programs { folder }
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Compiles a source. The library's header is there for `check.h`; nothing links it.
pub(crate) fn build(name: &str, program: &Path, flags: &[&str]) {
    let mut command = compiler(Language::C);
    command.arg("-I").arg(installed().include()).arg("-o").arg(program);
    command.arg(source(name)).args(["-x", "none"]);
    finish(command.args(flags).args(["-lpthread", "-ldl"]));
}

pub(crate) fn program(name: &str) -> PathBuf {
    Programs::get().path(name)
}

pub(crate) fn script(name: &str) -> PathBuf {
    repository().join("ffi-tests/lua").join(name)
}

pub(crate) fn service() -> PathBuf {
    script("preload_service.lua")
}

/// The installed command.
pub(crate) fn ebbtide() -> Command {
    clean(installed().lib().join("../bin/ebbtide"))
}

/// `ebbtide run` with these options, for a program to follow.
pub(crate) fn run(options: &[&str]) -> Command {
    let mut command = ebbtide();
    command.arg("run").args(options);
    command
}

/// A program with the preload library in this folder, without the command.
pub(crate) fn preloaded(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = clean(program);
    command.env("LD_PRELOAD", folder.join("libebbtide_preload.so"));
    command
}

/// What a program that must succeed says on standard error.
pub(crate) fn complaints(command: &mut Command) -> String {
    String::from_utf8(finish(command).stderr).expect("the output is UTF-8")
}

/// Exit status, if it ended by itself, and everything that was said.
pub(crate) fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// A service with an event loop that waits for requests.
pub(crate) struct Service {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Service {
    pub(crate) fn start(mut command: Command) -> Service {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the service starts");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Service { child, requests, answers }
    }

    pub(crate) fn ask(&mut self, request: &str) -> String {
        let requests = self.requests.as_mut().expect("not closed yet");
        writeln!(requests, "{request}").expect("the service reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the service answers");
        answer.trim_end().to_owned()
    }

    pub(crate) fn close(mut self) {
        drop(self.requests.take());
        let mut last = String::new();
        self.answers.read_line(&mut last).expect("the service answers");
        assert_eq!(last, "closed\n");
        assert!(self.child.wait().expect("its status").success());
    }

    pub(crate) fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("it runs")
    }

    /// A number behind a name in a file of the kernel's.
    pub(crate) fn number(&self, file: &str, name: &str) -> u64 {
        let text = self.proc_file(file);
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    }

    pub(crate) fn pss_kb(&self) -> u64 {
        self.number("smaps_rollup", "Pss:")
    }

    /// Waits until the loop sleeps for a second on end.
    pub(crate) fn comes_to_rest(&self) -> bool {
        let sleeps = || self.number("status", "voluntary_ctxt_switches:");
        (0..20).any(|_| {
            let before = sleeps();
            sleep(Duration::from_secs(1));
            sleeps() == before
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
