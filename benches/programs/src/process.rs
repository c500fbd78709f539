//! One run of a program in a process of its own.
//!
//! The child never outlives us: it is killed and reaped when the run is given up, for instance
//! after Ctrl-C, and the kernel kills it when we are killed ourselves. Its CPU time and peak memory
//! come from `wait4`, which is exact, so nothing is left to sampling but the curve.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Result;
use crate::event::Event;
use crate::memory::Sample;

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the host reported.
    pub events: Vec<Event>,
    /// The lines of output that are no events.
    pub text: Vec<String>,
    /// The memory over time, if sampled.
    pub samples: Vec<Sample>,
    /// User and system time.
    pub cpu: Duration,
    /// The most that was resident at once, in bytes.
    pub rss_peak: u64,
}

impl Outcome {
    /// The event of that label.
    pub fn event(&self, label: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.label == label)
    }
}

/// What is seen of a run while it lasts.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The host reported something.
    Event(&'a Event),
    /// A look at its memory.
    Sample(&'a Sample),
}

/// Runs `command` to its end. With `period` its memory is sampled that often.
pub fn run(
    mut command: Command,
    period: Option<Duration>,
    mut watch: impl FnMut(Notice),
) -> Result<Outcome> {
    let mut child = Child::spawn(&mut command)?;
    let mut outcome = Outcome {
        events: Vec::new(),
        text: Vec::new(),
        samples: Vec::new(),
        cpu: Duration::ZERO,
        rss_peak: 0,
    };
    let mut next_sample = Instant::now();
    loop {
        if interrupted() {
            return Err("interrupted".to_owned());
        }
        let now = Instant::now();
        if let Some(period) = period.filter(|_| now >= next_sample) {
            next_sample = now + period;
            if let Some(sample) = Sample::take(child.id, child.started.elapsed()) {
                watch(Notice::Sample(&sample));
                outcome.samples.push(sample);
            }
        }
        let wait = period.map_or(POLL, |_| next_sample.saturating_duration_since(now));
        match child.lines.recv_timeout(wait) {
            Ok(line) => take_line(line, child.started.elapsed(), &mut outcome, &mut watch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    match child.finish(&mut outcome) {
        Err(_) if interrupted() => Err("interrupted".to_owned()),
        result => result.map(|()| outcome),
    }
}

/// How often a run that is not sampled looks whether it was interrupted.
const POLL: Duration = Duration::from_millis(50);

fn take_line(line: String, at: Duration, outcome: &mut Outcome, watch: &mut impl FnMut(Notice)) {
    match Event::parse(&line, at) {
        Some(event) => {
            watch(Notice::Event(&event));
            outcome.events.push(event);
        }
        None => outcome.text.push(line),
    }
}

/// A process that was started and not waited for yet.
struct Child {
    id: u32,
    started: Instant,
    lines: Receiver<String>,
    complaint: Option<JoinHandle<String>>,
    reaped: bool,
}

impl Child {
    fn spawn(command: &mut Command) -> Result<Child> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: prctl is async-signal-safe, which is all that is asked between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let started = Instant::now();
        let spawned = command.spawn();
        let failed = |error| format!("cannot run {:?}: {error}", command.get_program());
        let mut child = spawned.map_err(failed)?;
        let output = child.stdout.take().expect("stdout was piped");
        let mut errors = child.stderr.take().expect("stderr was piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let read = BufReader::new(output).lines().map_while(std::io::Result::ok);
            read.take_while(|line| sender.send(line.clone()).is_ok()).count()
        });
        let complaint = thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Ok(Child { id: child.id(), started, lines, complaint: Some(complaint), reaped: false })
    }

    /// Waits for the end, and adds to `outcome` what the kernel says of the whole run.
    fn finish(&mut self, outcome: &mut Outcome) -> Result<()> {
        let (status, usage) = self.reap()?;
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok());
        if status != 0 {
            let complaint = complaint.unwrap_or_default();
            let last = complaint.trim_end().lines().last().unwrap_or("");
            return Err(format!("{}: {last}", describe(status)));
        }
        outcome.cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
        outcome.rss_peak = usage.ru_maxrss as u64 * 1024;
        Ok(())
    }

    fn reap(&mut self) -> Result<(libc::c_int, libc::rusage)> {
        // SAFETY: all zeroes is a valid rusage, which is plain integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let mut status = 0;
        loop {
            // SAFETY: both pointers are to live variables of the right type, and the process is a
            // child of ours that nobody else waits for.
            let id = unsafe { libc::wait4(self.id as libc::pid_t, &mut status, 0, &mut usage) };
            if id > 0 {
                self.reaped = true;
                return Ok((status, usage));
            }
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted || interrupted() {
                return Err(format!("cannot wait for process {}: {error}", self.id));
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let mut status = 0;
        // SAFETY: the process was not waited for yet, so the id is still its own.
        unsafe {
            libc::kill(self.id as libc::pid_t, libc::SIGKILL);
            libc::waitpid(self.id as libc::pid_t, &mut status, 0);
        }
    }
}

fn describe(status: libc::c_int) -> String {
    match libc::WIFSIGNALED(status) {
        true => format!("killed by signal {}", libc::WTERMSIG(status)),
        false => format!("exit status {}", libc::WEXITSTATUS(status)),
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and a request to terminate end a [`run`] in order instead of us on the spot.
pub fn catch_interrupts() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let note = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: all zeroes is a valid sigaction (no flags, an empty mask); the handler does
        // nothing but store to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as libc::sighandler_t;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether Ctrl-C was pressed since [`catch_interrupts`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_run_gives_events_text_and_usage() {
        let script = "printf 'event\\tlabel=a b\\tlive=7\\n'; echo 1.5; sleep 1";
        let mut seen = 0;
        let outcome = run(shell(script), Some(Duration::from_millis(10)), |_| seen += 1);
        let outcome = outcome.expect("the script succeeds");
        assert_eq!(outcome.event("a b").map(|event| event.get("live")), Some(7));
        assert_eq!(outcome.text, ["1.5"]);
        assert!(outcome.rss_peak > 0 && outcome.samples.len() > 1);
        assert_eq!(seen, outcome.samples.len() + 1);
    }

    #[test]
    fn a_failure_carries_the_last_line_of_complaint() {
        let failed = run(shell("echo one >&2; echo two >&2; exit 3"), None, |_| ());
        assert_eq!(failed.err().as_deref(), Some("exit status 3: two"));
        let killed = run(shell("kill -9 $$"), None, |_| ());
        assert_eq!(killed.err().as_deref(), Some("killed by signal 9: "));
    }

    #[test]
    fn a_run_that_is_dropped_leaves_no_process() {
        let child = Child::spawn(&mut shell("sleep 60")).expect("there is a shell");
        let id = child.id;
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }
}
