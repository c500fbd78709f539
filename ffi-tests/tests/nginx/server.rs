//! An nginx of a test's own: how to start it, talk to it, wait for it and stop it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::{finish, make, scratch};

use crate::config::{Config, Folder};
use crate::ports::free_port;
use crate::workers::{Worker, is_running, kill, workers_of};

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

/// All that a command said.
pub fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr];
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).concat()
}
