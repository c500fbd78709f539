//! Programs that run while their memory is read.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::course::{Course, Sample};
use crate::processes::{held_mb, processes};

/// Time between two looks at the program's memory.
const EVERY: Duration = Duration::from_millis(20);

/// Runs a program to its end. It must succeed, and come to its last phase.
pub fn watch(command: &mut Command) -> Course {
    watch_this(command, Some)
}

/// Runs a server to its end as well, and reads the memory of its only worker.
pub fn watch_worker(command: &mut Command) -> Course {
    watch_this(command, |server| processes(server).get(1).copied())
}

/// `which` is the process to look at, if it is there already.
fn watch_this(command: &mut Command, which: fn(u32) -> Option<u32>) -> Course {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let phases: JoinHandle<Vec<(f64, String)>> = thread::spawn(move || {
        let phase = |line: String| {
            let name = line.strip_prefix("phase ")?.to_owned();
            Some((began.elapsed().as_secs_f64(), name))
        };
        lines.map_while(Result::ok).filter_map(phase).collect()
    });
    let mut samples = Vec::new();
    while child.try_wait().expect("it is our child").is_none() {
        let at_s = began.elapsed().as_secs_f64();
        let held = which(child.id()).and_then(held_mb);
        samples.extend(held.map(|held| Sample { at_s, mb: held.rss_mb }));
        thread::sleep(EVERY);
    }
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("it was asked for");
    let status = child.wait().expect("it is our child");
    errors.read_to_string(&mut said).expect("the errors are UTF-8");
    let phases = phases.join().expect("the reader ends with the program");
    let is_through = phases.last().is_some_and(|(_, name)| name == "end");
    assert!(status.success() && is_through, "{command:?}: {status}\n{said}");
    Course { phases, samples }
}
