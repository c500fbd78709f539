//! The processes of an nginx: what the kernel says of them, and signals to them.

use std::fs;
use std::process::Command;

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
