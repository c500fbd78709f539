//! A program that runs while its memory is read.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::course::{Course, Sample};

/// Time between two looks at the program's memory.
const EVERY: Duration = Duration::from_millis(20);

/// Runs a program to its end. It must succeed.
pub fn watch(command: &mut Command) -> Course {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let phases = thread::spawn(move || {
        let phase = |line: String| {
            let name = line.strip_prefix("phase ")?.to_owned();
            Some((began.elapsed().as_secs_f64(), name))
        };
        lines.map_while(Result::ok).filter_map(phase).collect()
    });
    let mut samples = Vec::new();
    while child.try_wait().expect("it is our child").is_none() {
        let at_s = began.elapsed().as_secs_f64();
        samples.extend(resident_mb(&child).map(|mb| Sample { at_s, mb }));
        thread::sleep(EVERY);
    }
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("it was asked for");
    let status = child.wait().expect("it is our child");
    errors.read_to_string(&mut said).expect("the errors are UTF-8");
    assert!(status.success(), "{command:?}: {status}\n{said}");
    Course { phases: phases.join().expect("the reader ends with the program"), samples }
}

/// Resident memory by `smaps_rollup`. `None` when the program is just ending.
fn resident_mb(child: &Child) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with("Rss:"))?;
    let kb: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kb / 1024.0)
}
