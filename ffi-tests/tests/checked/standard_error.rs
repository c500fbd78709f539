//! Where a report goes when standard error is a log, a database or a full pipe.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::scratch;

use crate::bugs::{Bug, CALL, IN_MODULE};
use crate::preloaded::preloaded;
use crate::{ABORTED, output, said};

/// A program under the preload library that does something to its standard error, and then has a
/// bug that a checked heap finds, or any heap.
fn with_fate(checked: bool, fate: &str) -> (Command, &'static Bug) {
    let (how, name) = if checked { ("on", "overflow") } else { ("off", "foreign") };
    let bug = IN_MODULE.iter().find(|bug| bug.name == name).expect("a bug");
    let options = ["--report", "--checked", how];
    // A descriptor is kept for reports. It is not the one for the last lines.
    let options = if checked { &options[..] } else { &options[1..] };
    let mut command = preloaded(Some(options), "checked_stderr.lua", bug.name);
    command.arg(fate);
    (command, bug)
}

/// Whether the whole report of this bug is there, or its one line.
fn is_whole(text: &str, bug: &Bug, checked: bool) -> bool {
    let has = |words: &&str| text.contains(words);
    match checked {
        true => text.contains(bug.what) && bug.words.iter().chain(&CALL).all(has),
        false => text.lines().count() == 1 && text.contains("is not of this heap"),
    }
}

/// As nginx's error log does when its configuration is read, or a log that was rotated.
#[test]
fn under_the_preload_library_a_log_that_became_standard_error_has_the_report() {
    for checked in [true, false] {
        let log = scratch("checked-strangers").join(format!("log-{checked}"));
        let _ = fs::remove_file(&log);
        let (mut command, bug) = with_fate(checked, "log");
        let output = output(command.arg(&log));
        assert_eq!(output.status.signal(), Some(ABORTED), "{}", said(&output));
        let text = fs::read_to_string(&log).expect("a log");
        assert!(is_whole(&text, bug, checked), "{text}, and elsewhere: {}", said(&output));
        assert!(text.lines().all(|line| line.starts_with("ebbtide: run[")), "{text}");
    }
}

#[test]
fn under_the_preload_library_a_database_that_became_standard_error_has_no_report() {
    let database = scratch("checked-strangers").join("database");
    let _ = fs::remove_file(&database);
    for checked in [true, false] {
        let (mut command, bug) = with_fate(checked, "database");
        let output = output(command.arg(&database));
        assert_eq!(output.status.signal(), Some(ABORTED), "{}", said(&output));
        assert_eq!(fs::read_to_string(&database).expect("a database"), "");
        // The descriptor that was kept.
        assert_eq!(is_whole(&said(&output), bug, true), checked, "{}", said(&output));
    }
}

fn with_full_pipe(checked: bool) -> (Child, &'static Bug) {
    let (mut command, bug) = with_fate(checked, "full");
    (command.stderr(Stdio::piped()).spawn().expect("it runs"), bug)
}

#[test]
fn under_the_preload_library_a_report_waits_for_the_reader_of_a_full_pipe() {
    for checked in [true, false] {
        let (mut child, bug) = with_full_pipe(checked);
        sleep(Duration::from_secs(2));
        let mut text = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
        assert_eq!(child.wait().expect("a status").signal(), Some(ABORTED), "{text}");
        let report = text.trim_start_matches('x');
        assert!(is_whole(report, bug, checked), "{report}");
    }
}

#[test]
fn under_the_preload_library_a_pipe_that_stays_full_lets_the_process_end() {
    let (mut child, _) = with_full_pipe(true);
    let start = Instant::now();
    while child.try_wait().expect("a status").is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().expect("it was there");
            panic!("it waits for ever");
        }
        sleep(Duration::from_millis(100));
    }
    assert_eq!(child.wait().expect("a status").signal(), Some(ABORTED));
}
