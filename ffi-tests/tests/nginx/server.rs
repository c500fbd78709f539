//! An nginx of a test's own: its configuration, its processes, and how to talk to it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::{clean, finish, make, scratch};
use ebbtide_runtimes::repository;

use crate::builds::Build;
use crate::ports::free_port;

/// For processes to start, and for an answer, on a machine that is busy with other things.
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(120);

/// Tests that measure run without the other tests of nginx. Other suites may run beside them.
static MACHINE: RwLock<()> = RwLock::new(());

/// For a test that measures memory or time.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// For a test that does neither.
pub fn beside() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The target folder, with what `make nginx` built.
pub fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        for tool in ["nginx", "wrk", "promtool"] {
            assert!(
                find(tool).is_some(),
                "{tool} is missing: install it (ffi-tests/setup.sh does, where it may)"
            );
        }
        make(&["nginx"], Path::new("/"), "/x");
        let folder = scratch("nginx");
        folder.ancestors().nth(3).expect("TARGET/PROFILE/ffi-tests/nginx").to_owned()
    })
}

pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    folders.into_iter().map(|folder| folder.join(tool)).find(|file| file.exists())
}

/// The module under test.
pub fn module() -> PathBuf {
    target().join("nginx/ngx_http_ebbtide_module.so")
}

/// A folder of the repository's, with Lua code for the servers.
pub fn material() -> PathBuf {
    repository().join("ffi-tests/nginx")
}

/// Where Debian's own modules are, as nginx was configured.
pub fn modules_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let said = Command::new("nginx").arg("-V").output().expect("nginx is there").stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        let path = said.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
        path.expect("nginx has dynamic modules").into()
    })
}

/// In which order nginx loads its modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// The Lua module alone.
    Stock,
    /// The module of this repository, then the Lua module.
    First,
    /// The Lua module, then that of this repository.
    Last,
    /// The module of this repository alone.
    Alone,
    /// What the files load that the configuration includes at the top.
    Included,
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    pub build: Build,
    pub modules: Modules,
    pub workers: u32,
    /// Whether the number of workers stands behind `http`.
    pub workers_last: bool,
    /// At the top level.
    pub top: String,
    /// At the top level, after `http`.
    pub bottom: String,
    /// In the block `http`.
    pub http: String,
    /// In the block `server`.
    pub server: String,
    /// In the environment of the processes.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// A command and its arguments, which starts nginx; none if nginx is started as it is.
    pub launcher: Vec<OsString>,
}

impl Config {
    /// Two workers of the service, with the status page where the module is loaded.
    pub fn new(modules: Modules) -> Config {
        let mut server = String::new();
        if modules != Modules::Alone {
            for name in ["heavy", "light", "slow", "wait", "litter"] {
                server += &location(name, &format!("require('service').{name}()"));
            }
        }
        if modules != Modules::Stock {
            server += "location /status { ebbtide_status; }\n";
            server += "location /open { ebbtide_status; ebbtide_status_reclaim on; }\n";
        }
        Config {
            build: Build::Debian,
            modules,
            workers: 2,
            workers_last: false,
            top: String::new(),
            bottom: String::new(),
            http: String::new(),
            server,
            environment: Vec::new(),
            launcher: Vec::new(),
        }
    }

    /// None: the only process does everything (with `master_process off`).
    pub fn workers(mut self, workers: u32) -> Config {
        self.workers = workers;
        self
    }

    pub fn on(mut self, build: Build) -> Config {
        self.build = build;
        self
    }

    pub fn bottom(mut self, text: &str) -> Config {
        self.bottom += &format!("{text}\n");
        self
    }

    pub fn top(mut self, text: &str) -> Config {
        self.top += &format!("{text}\n");
        self
    }

    pub fn http(mut self, text: &str) -> Config {
        self.http += &format!("{text}\n");
        self
    }

    /// A location that runs this Lua code.
    pub fn lua(mut self, name: &str, code: &str) -> Config {
        self.server += &location(name, code);
        self
    }

    pub fn environment(mut self, name: &'static str, value: impl Into<PathBuf>) -> Config {
        self.environment.push((name, value.into()));
        self
    }

    /// The text of the configuration file.
    pub fn text(&self, port: u16) -> String {
        let ours = self.build.module();
        let debian = |name: &str| modules_path().join(name);
        let lua = [debian("ndk_http_module.so"), debian("ngx_http_lua_module.so")];
        let mut modules: Vec<PathBuf> = Vec::new();
        modules.extend(ours.clone().filter(|_| self.modules == Modules::First));
        let without = matches!(self.modules, Modules::Alone | Modules::Included);
        let loads_lua = !without && self.build.loads_lua();
        modules.extend(loads_lua.then_some(lua).into_iter().flatten());
        let last = matches!(self.modules, Modules::Last | Modules::Alone);
        modules.extend(ours.filter(|_| last));
        let mut top = String::new();
        for module in modules {
            writeln!(top, "load_module {};", module.display()).expect("a string takes it");
        }
        let mut http = self.http.clone();
        if self.modules != Modules::Alone && !http.contains("lua_package_path") {
            let folder = material();
            let path = format!("{}/?.lua;/usr/share/lua/5.1/?.lua", folder.display());
            http += &format!("lua_package_path '{path}';\n");
        }
        let base = fs::read_to_string(material().join("base.conf")).expect("base.conf");
        let number = "worker_processes @WORKERS@;\n";
        let (first, last) = if self.workers_last { ("", number) } else { (number, "") };
        base.replace(number, first)
            .replace("@BOTTOM@", &format!("@BOTTOM@\n{last}"))
            .replace("@TOP@", &(top + &self.top))
            .replace("@WORKERS@", &self.workers.max(1).to_string())
            .replace("@HTTP@", &http)
            .replace("@PORT@", &port.to_string())
            .replace("@SERVER@", &self.server)
            .replace("@BOTTOM@", &self.bottom)
    }
}

fn location(name: &str, code: &str) -> String {
    format!("location /{name} {{ content_by_lua_block {{ {code} }} }}\n")
}

/// A folder of the temporary ones, for nginx to run in, removed in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ebbtide-nginx-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("temporary files can be written");
        Folder(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `nginx` with its configuration in this folder.
    pub fn nginx(&self, config: &Config, port: u16) -> Command {
        fs::write(self.file("nginx.conf"), config.text(port)).expect("it can be written");
        // By its path, for it starts that anew in a binary upgrade.
        let program = config.build.program();
        let mut words = config.launcher.iter().cloned().chain([program.into()]);
        let mut command = clean(words.next().expect("the program at least"));
        command.args(words);
        command.arg("-p").arg(&self.0).arg("-c").arg(self.file("nginx.conf"));
        command.arg("-e").arg(self.file("error.log"));
        for (name, value) in &config.environment {
            command.env(name, value);
        }
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worker {
    pub pid: u32,
    pub exiting: bool,
}

impl Worker {
    fn field(&self, file: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Its share of memory without files, in KB: its share of those grows when other servers end.
    pub fn pss_anon_kb(&self) -> u64 {
        self.field("smaps_rollup", "Pss_Anon:").expect("it runs")
    }

    /// What it holds once `fill` has filled its memory. On a busy machine it may have breathed out
    /// again before it is looked at, so that it has to be filled once more.
    pub fn filled_kb(&self, least_kb: u64, fill: impl Fn()) -> u64 {
        let filled = || {
            fill();
            self.pss_anon_kb()
        };
        let mut tries = (0..10).map(|_| filled());
        tries.find(|kb| *kb > least_kb).expect("that is no load")
    }

    /// All that it holds, in KB, by the same account.
    pub fn resident_kb(&self) -> u64 {
        self.field("smaps_rollup", "Rss:").expect("it runs")
    }

    pub fn rss_kb(&self) -> u64 {
        self.field("status", "VmRSS:").expect("it runs")
    }

    /// How many times it has gone to sleep.
    pub fn sleeps(&self) -> u64 {
        self.field("status", "voluntary_ctxt_switches:").expect("it runs")
    }

    pub fn mappings(&self) -> usize {
        fs::read_to_string(format!("/proc/{}/maps", self.pid)).expect("it runs").lines().count()
    }
}

/// A running nginx. It is stopped when this goes out of scope.
pub struct Nginx {
    folder: Folder,
    pub port: u16,
}

impl Nginx {
    pub fn start(config: &Config) -> Nginx {
        Nginx::start_and_hear(config).0
    }

    /// The same, with what is said on standard error meanwhile.
    pub fn start_and_hear(config: &Config) -> (Nginx, String) {
        let nginx = Nginx { folder: Folder::new(), port: free_port() };
        let said = nginx.launch(config);
        (nginx, said)
    }

    fn launch(&self, config: &Config) -> String {
        let output = finish(&mut self.folder.nginx(config, self.port));
        self.wait_until("the workers run", START, |nginx| {
            nginx.pid().is_some()
                && nginx.running().len() == config.workers as usize
                && TcpStream::connect(("127.0.0.1", nginx.port)).is_ok()
        });
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Writes another configuration, for the next reload or binary upgrade.
    pub fn write_config(&self, config: &Config) {
        drop(self.folder.nginx(config, self.port));
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("error.log")).unwrap_or_default()
    }

    /// Lines of the log at these levels and above: `emerg`, `alert`, `crit`, `error`.
    pub fn errors(&self) -> Vec<String> {
        let levels = ["[emerg]", "[alert]", "[crit]", "[error]"];
        let log = self.log();
        let bad = log.lines().filter(|line| levels.iter().any(|level| line.contains(level)));
        bad.map(str::to_owned).collect()
    }

    /// Of the master.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.file("nginx.pid")).ok()?.trim().parse().ok()
    }

    /// The workers of the master, those that shut down included.
    pub fn workers(&self) -> Vec<Worker> {
        self.pid().map(workers_of).unwrap_or_default()
    }

    /// The workers that do not shut down.
    pub fn running(&self) -> Vec<Worker> {
        self.workers().into_iter().filter(|worker| !worker.exiting).collect()
    }

    /// The workers that hold a request for `/wait`, each once for each request.
    pub fn holders(&self) -> Vec<u32> {
        let files = fs::read_dir(self.file("")).expect("it can be read").flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let pid = |name: String| name.strip_prefix("waiting.")?.split('.').next()?.parse().ok();
        names.filter_map(pid).collect()
    }

    /// Has the requests for `/wait` answered.
    pub fn release(&self) {
        fs::write(self.file("released"), "").expect("it can be written");
    }

    pub fn signal(&self, signal: &str) {
        kill(signal, self.pid().expect("it runs"));
    }

    /// Has the master read its configuration again, and waits for the new workers.
    pub fn reload(&self) {
        let old = self.running();
        self.signal("HUP");
        self.wait_until("the new workers run", START, |nginx| {
            let now = nginx.running();
            now.len() == old.len() && now.iter().all(|worker| !old.contains(worker))
        });
    }

    pub fn wait_until(&self, what: &str, patience: Duration, done: impl Fn(&Nginx) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let log = self.log();
            let end = &log[log.len().saturating_sub(2000)..];
            assert!(start.elapsed() < patience, "{what}: not within {patience:?}\n{end}");
            sleep(Duration::from_millis(20));
        }
    }

    /// The body of an answer 200.
    pub fn get(&self, path: &str) -> String {
        let reply = self.ask("GET", path, &[]);
        assert_eq!(reply.status, 200, "{path}: {}\n{}", reply.body, self.log());
        reply.body
    }

    /// What the only worker holds, in KB, once a request has filled its memory.
    pub fn fill(&self, path: &str) -> u64 {
        self.running()[0].filled_kb(30_000, || drop(self.get(path)))
    }

    /// Sends a request of HTTP/1.0, so that the answer comes in one piece.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.0\r\n");
        for header in headers {
            request += &format!("{header}\r\n");
        }
        self.send(format!("{request}\r\n").as_bytes())
    }

    /// All that the server says to a connection to another port of its, which sends nothing.
    pub fn stream(&self, port: u16) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers in time");
        answer
    }

    /// Sends this, and reads until the server closes the connection.
    pub fn send(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
        stream.write_all(request).expect("the server reads");
        let mut answer = Vec::new();
        // A server that refuses a request may reset the connection behind its answer.
        let _ = stream.read_to_end(&mut answer);
        Reply::parse(&String::from_utf8_lossy(&answer))
    }

    /// Ends it, and waits until it has ended.
    pub fn stop(&self) {
        let Some(master) = self.pid() else { return };
        let mut pids: Vec<u32> = self.workers().iter().map(|worker| worker.pid).collect();
        pids.push(master);
        kill("TERM", master);
        let start = Instant::now();
        while pids.iter().any(|pid| is_running(*pid)) && start.elapsed() < START {
            sleep(Duration::from_millis(10));
        }
        for pid in pids.into_iter().filter(|pid| is_running(*pid)) {
            kill("KILL", pid);
        }
    }

    /// After it was stopped, on the same port.
    pub fn start_again(&self, config: &Config) {
        self.launch(config);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("the end of the log:\n{}", &log[log.len().saturating_sub(3000)..]);
        }
        self.stop();
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u32,
    pub headers: String,
    pub body: String,
}

impl Reply {
    fn parse(answer: &str) -> Reply {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Reply { status, headers: headers.to_owned(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }
}

/// The workers of a master.
pub fn workers_of(master: u32) -> Vec<Worker> {
    let mut workers: Vec<Worker> = children_of(master).filter_map(worker).collect();
    workers.sort();
    workers
}

/// The processes that a master has started.
pub fn children_of(master: u32) -> impl Iterator<Item = u32> {
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
    let children = children.unwrap_or_default();
    let pids: Vec<u32> = children.split(' ').filter_map(|pid| pid.parse().ok()).collect();
    pids.into_iter()
}

/// What a process calls itself; nothing when it has ended.
pub fn title(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn worker(pid: u32) -> Option<Worker> {
    let title = title(pid);
    title.starts_with("nginx: worker process").then_some(())?;
    Some(Worker { pid, exiting: title.contains("shutting down") })
}

/// Whether there is such a process that has not ended.
pub fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Sends a signal to a process that this program has started.
pub fn kill(signal: &str, pid: u32) {
    let command = format!("kill -{signal} {pid}");
    let _ = Command::new("sh").args(["-c", &command]).output();
}

/// All that a command said.
pub fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr];
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).concat()
}
