//! An nginx of one's own, on loopback, with a service in Lua and a load on it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::memory::Sample;

/// Requests hold some 80 KB of tables while they wait; one in fifty leaves a session behind, of
/// which each worker keeps the newest 400.
/// `/quick` answers at once, without Lua.
const SERVICE: &str = r#"
init_by_lua_block {
    local count, kept, sessions = 0, 0, {}
    function serve()
        local rows = {}
        for i = 1, 500 do
            rows[i] = { id = i, name = "item" .. i, tags = { i, i + 1 } }
        end
        ngx.sleep(0.2 + math.random() * 0.1)
        count = count + 1
        if count % 50 == 0 then
            kept = kept % 400 + 1
            sessions[kept] = { rows[1], rows[250], ngx.now() }
        end
        ngx.say(#rows)
    end
}
"#;

/// How many ports are tried, and what nginx says of one that it cannot have.
const PORTS: usize = 5;
const PORT_IS_TAKEN: &str = "failed (98: Address already in use)";

/// A running nginx. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Nginx {
    folder: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

/// What a load showed.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Answered in a second.
    pub rate: f64,
    /// Seconds that 99 of 100 did not exceed.
    pub p99: f64,
    /// Not answered, or not with 200.
    pub failed: u64,
}

impl Nginx {
    /// Starts one with two workers in a new folder, with ebbtide's module or without.
    pub fn start(folder: &Path, module: Option<&Path>) -> Result<Nginx> {
        Nginx::start_on_one_of(std::iter::repeat_with(free_port).take(PORTS), folder, module)
    }

    /// The same, on the first of these ports that no other program listens on. A port that was free
    /// may be another program's by the time that nginx binds it.
    fn start_on_one_of(
        ports: impl Iterator<Item = Result<u16>>,
        folder: &Path,
        module: Option<&Path>,
    ) -> Result<Nginx> {
        let mut taken = String::from("there is no port to try");
        for port in ports {
            match Nginx::start_on(port?, folder, module) {
                Err(error) if error.contains(PORT_IS_TAKEN) => taken = error,
                other => return other,
            }
        }
        Err(taken)
    }

    fn start_on(port: u16, folder: &Path, module: Option<&Path>) -> Result<Nginx> {
        let server = Nginx { folder: folder.to_owned(), port };
        let write = || {
            fs::create_dir_all(folder.join("logs"))?;
            fs::write(folder.join("nginx.conf"), configuration(folder, module, port))
        };
        write().map_err(|error| format!("{}: {error}", folder.display()))?;
        server.run(&[])?;
        let started = Instant::now();
        while server.answer("/quick").is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(format!("nginx does not answer; see {}/logs", folder.display()));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&self.folder).args(["-c", "nginx.conf", "-e", "logs/error.log"]);
        let output = command.args(arguments).output().map_err(|error| format!("nginx: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        output.status.success().then_some(()).ok_or_else(|| format!("nginx: {said}"))
    }

    /// The workers.
    pub fn workers(&self) -> Vec<u32> {
        let master = fs::read_to_string(self.folder.join("nginx.pid")).unwrap_or_default();
        let path = format!("/proc/{0}/task/{0}/children", master.trim());
        let children = fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// What each worker holds, in bytes of PSS.
    pub fn memory(&self) -> Vec<u64> {
        let samples = self.workers().into_iter();
        samples.filter_map(|pid| Some(Sample::take(pid, Duration::ZERO)?.pss)).collect()
    }

    /// Asks for a path and takes the answer; says how long that took.
    pub fn answer(&self, path: &str) -> Result<Duration> {
        let start = Instant::now();
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|error| format!("{path}: {error}"))?;
        let took = start.elapsed();
        answer
            .starts_with("HTTP/1.1 200")
            .then_some(took)
            .ok_or_else(|| format!("{path}: {answer}"))
    }

    /// Keeps a number of requests to the service in flight, for a number of seconds.
    pub fn load(&self, connections: u32, seconds: u32) -> Result<Load> {
        let mut command = Command::new("wrk");
        command.args(["--latency", "--timeout", "10", "-t", "1"]);
        command.args(["-c", &connections.to_string(), "-d", &seconds.to_string()]);
        let output = command.arg(format!("http://127.0.0.1:{}/", self.port)).output();
        let output =
            output.map_err(|error| format!("wrk: {error}; it is a package of Debian's"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        parsed(&text).ok_or_else(|| format!("wrk says: {text}"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // There is nobody to tell, and what is stopped already is stopped.
        let _ = self.run(&["-s", "stop"]);
    }
}

/// A port of the loopback interface that nobody listens on now.
fn free_port() -> Result<u16> {
    let place = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(place.map_err(|error| format!("no free port: {error}"))?.port())
}

fn configuration(folder: &Path, module: Option<&Path>, port: u16) -> String {
    let modules = modules_path();
    let ours = module.map_or(String::new(), |path| format!("load_module {};\n", path.display()));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path logs/{name};\n"))
        .collect();
    let pid = folder.join("nginx.pid");
    format!(
        "{ours}load_module {modules}/ndk_http_module.so;\n\
         load_module {modules}/ngx_http_lua_module.so;\n\
         worker_processes 2; worker_rlimit_nofile 8192;\n\
         pid {}; error_log logs/error.log notice;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\naccess_log off; keepalive_requests 1000000;\n{temporary}{SERVICE}\n\
         server {{ listen 127.0.0.1:{port} backlog=4096;\n\
         location / {{ content_by_lua_block {{ serve() }} }}\n\
         location /quick {{ return 200 ok; }} }} }}\n",
        pid.display()
    )
}

/// Where the installed nginx has its modules.
fn modules_path() -> String {
    let output = Command::new("nginx").arg("-V").output();
    let text =
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stderr).into_owned());
    let path = text.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
    path.unwrap_or("/usr/lib/nginx/modules").to_owned()
}

/// What wrk prints.
fn parsed(text: &str) -> Option<Load> {
    let after = |label: &str| {
        let rest = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
        Some(rest.trim().to_owned())
    };
    let errors = after("Socket errors:").unwrap_or_default();
    let failed = errors.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
    let refused = after("Non-2xx or 3xx responses:").and_then(|n| n.parse().ok()).unwrap_or(0);
    Some(Load {
        rate: after("Requests/sec:")?.parse().ok()?,
        p99: seconds(&after("99%")?)?,
        failed: failed.sum::<u64>() + refused,
    })
}

/// `1.5s`, `20.1ms` or `300us`.
fn seconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    units.iter().find_map(|(unit, worth)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * worth)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 4s test @ http://127.0.0.1:8801/\n  1 threads and 1500 connections\n\
        \x20 Latency Distribution\n     50%  348.86ms\n     99%    1.71s \n\
        \x20 15133 requests in 4.02s, 2.83MB read\n\
        \x20 Socket errors: connect 0, read 2, write 0, timeout 1\n\
        \x20 Non-2xx or 3xx responses: 4\nRequests/sec:   3768.55\n";

    #[test]
    fn what_wrk_says_is_understood() {
        let load = parsed(WRK).expect("all is there");
        assert_eq!((load.rate, load.p99, load.failed), (3768.55, 1.71, 7));
        assert!(parsed("unable to connect").is_none());
        assert_eq!(seconds("350us"), Some(350e-6));
    }

    #[test]
    fn a_port_that_another_program_has_taken_is_passed_over() {
        let folder = std::env::temp_dir().join(format!("ebbtide-port-{}", std::process::id()));
        let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = holder.local_addr().expect("an address").port();
        let ports = std::iter::once(Ok(taken)).chain(std::iter::repeat_with(free_port).take(PORTS));
        let server = Nginx::start_on_one_of(ports, &folder, None).expect("there are other ports");
        assert_ne!(server.port, taken);
        assert!(server.answer("/quick").is_ok());
        let none = Nginx::start_on_one_of(std::iter::once(Ok(taken)), &folder.join("none"), None);
        assert!(none.is_err_and(|error| error.contains(PORT_IS_TAKEN)));
        drop(server);
        // It may be removing files of its own there.
        let _ = fs::remove_dir_all(&folder);
    }
}
