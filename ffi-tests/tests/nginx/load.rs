//! Load from `wrk`.

use std::process::{Child, Command, Stdio};

use crate::server::Nginx;
use crate::workers::kill;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub requests: u64,
    pub said: String,
}

impl Outcome {
    /// Whether each request got an answer 200, as far as wrk knows.
    pub fn is_clean(&self) -> bool {
        !self.said.contains("Socket errors") && !self.said.contains("Non-2xx")
    }

    /// Requests that got no answer.
    pub fn lost(&self) -> u64 {
        let errors = self.said.lines().find_map(|line| line.split_once("Socket errors: "));
        let counts = errors.map_or("", |(_, counts)| counts).split(", ");
        counts.filter_map(|count| count.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    fn parse(said: String) -> Outcome {
        let words: Vec<&str> = said.split_whitespace().collect();
        let found = words.windows(3).find(|three| three[1..] == ["requests", "in"]);
        let requests = found.and_then(|three| three[0].parse().ok());
        let requests = requests.unwrap_or_else(|| panic!("wrk says no number: {said}"));
        Outcome { requests, said }
    }
}

/// A running `wrk`.
pub struct Load(Option<Child>);

impl Load {
    /// Keeps `connections` requests for `path` in flight. `close`: each has a connection of its own.
    pub fn start(nginx: &Nginx, path: &str, connections: u32, seconds: u32, close: bool) -> Load {
        let mut command = Command::new("wrk");
        command.args(["-t", "2", "-c", &connections.to_string(), "-d", &format!("{seconds}s")]);
        command.args(["--timeout", "60s"]);
        if close {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://127.0.0.1:{}{path}", nginx.port));
        let child = command.stdout(Stdio::piped()).spawn().expect("wrk can be run");
        Load(Some(child))
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.0.as_mut().expect("not finished yet");
        child.try_wait().expect("its status").is_none()
    }

    /// Ends it before its time.
    pub fn end(self) -> Outcome {
        kill("INT", self.0.as_ref().expect("not finished yet").id());
        self.finish()
    }

    pub fn finish(mut self) -> Outcome {
        let child = self.0.take().expect("not finished yet");
        let output = child.wait_with_output().expect("it was started");
        Outcome::parse(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
