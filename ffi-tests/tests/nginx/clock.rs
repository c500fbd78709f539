//! How long a worker takes to come down, by a clock of the worker's own.
//!
//! After load a worker is down within 5 s of a quiet machine. Where other programs have the
//! processors, seconds of the wall clock say nothing of the worker. So the time in which the worker
//! was ready to run and had no processor, which the kernel counts, is taken off. How late a test
//! looks makes no difference: what counts is a look that finds the memory still there.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::finish;

use crate::config::{Config, Modules};
use crate::server::{Nginx, alone};
use crate::workers::Worker;

/// From the end of the load on.
pub const DOWN_WITHIN: Duration = Duration::from_secs(5);
/// By the wall clock, after which a worker does not run at all.
const PATIENCE: Duration = Duration::from_secs(120);

/// A clock that stands still while a worker waits for a processor.
pub struct OwnClock {
    worker: Worker,
    start: Instant,
    waited: Duration,
}

impl OwnClock {
    pub fn start(worker: Worker) -> OwnClock {
        OwnClock { worker, waited: waited(worker), start: Instant::now() }
    }

    pub fn elapsed(&self) -> Duration {
        let waited = waited(self.worker).saturating_sub(self.waited);
        self.start.elapsed().saturating_sub(waited)
    }
}

/// How long a worker has waited for a processor, ever: the second number of its `schedstat`.
fn waited(worker: Worker) -> Duration {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", worker.pid)).expect("it runs");
    let ns = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(ns.unwrap_or_else(|| panic!("no time in {text}")))
}

/// Waits until a worker, whose load has just ended, holds less than so much.
pub fn comes_down(nginx: &Nginx, worker: Worker, below_kb: u64, what: &str) {
    let clock = OwnClock::start(worker);
    loop {
        let time = clock.elapsed();
        let kb = worker.pss_anon_kb();
        if kb < below_kb {
            return;
        }
        let is_late = time > DOWN_WITHIN || clock.start.elapsed() > PATIENCE;
        assert!(!is_late, "{what}: {kb} KB after {time:?} of its own\n{}", nginx.log());
        sleep(Duration::from_millis(20));
    }
}

/// The code of a request that uses a processor for a second.
const SPIN: &str = "local clock, sum = os.clock, 0
    local stop = clock() + 1
    while clock() < stop do for i = 1, 1e5 do sum = sum + i end end
    ngx.say(sum)";

#[test]
fn a_workers_own_clock_stands_still_without_a_processor() {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1).lua("spin", SPIN));
    let worker = nginx.running()[0];
    // Both of them on one processor, so that each waits for some half of the time.
    let mut other = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh");
    for pid in [worker.pid, other.id()] {
        finish(Command::new("taskset").args(["-pc", "0", &pid.to_string()]));
    }
    let mut times = (0..10).map(|_| {
        let clock = OwnClock::start(worker);
        nginx.get("/spin");
        (clock.elapsed(), clock.start.elapsed())
    });
    let own_is_less = times.any(|(own, wall)| {
        assert!(own > Duration::from_millis(900), "{own:?} of {wall:?}");
        own < wall * 9 / 10
    });
    other.kill().and_then(|()| other.wait()).expect("it runs");
    assert!(own_is_less, "the clock does not stand still");
}
