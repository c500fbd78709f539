//! Shows the breathing curve: one service, once on LuaJIT's own allocator and once on ebbtide.
//!
//! Each run is a process of its own, looked at from outside every 50 ms. On ebbtide the service
//! calls `reclaim()` when it is idle. What comes out is a live display, a table, and a picture in
//! `target/demo/breathing.svg`; the exit status tells whether the memory went back.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ebbtide_programs::Result;
use ebbtide_programs::chart::{Band, Chart, Note, Series};
use ebbtide_programs::event::Event;
use ebbtide_programs::host::{Allocator, BUILTIN, EBBTIDE, Host};
use ebbtide_programs::live::Live;
use ebbtide_programs::memory::{in_megabytes, megabytes};
use ebbtide_programs::process::{self, Notice, Outcome};
use ebbtide_programs::table;

const PERIOD: Duration = Duration::from_millis(50);
const PEAKS: [&str; 3] = ["1", "2", "3"];
/// Requests in a peak, its length and that of an idle time in seconds.
const LOAD: [&str; 3] = ["100000", "2.6", "1.6"];
/// What that comes to: half an idle time, three peaks and idle times, one idle time at the end.
const RUN_LENGTH: Duration = Duration::from_millis(800 + 3 * 4200 + 1600);
/// ebbtide's memory after the last peak may be this share of the built-in allocator's.
const SHARE_MAX: f64 = 0.5;
/// And this much more than at the start when everything was dropped.
const OVER_START_MAX_MB: f64 = 4.0;

/// A run, and how it is shown.
struct Subject {
    allocator: &'static Allocator,
    label: &'static str,
    colour: &'static str,
    tint: &'static str,
    terminal_colour: &'static str,
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        allocator: &BUILTIN,
        label: "LuaJIT's allocator",
        colour: "#c2571a",
        tint: "#faeee6",
        terminal_colour: "\x1b[33m",
    },
    Subject {
        allocator: &EBBTIDE,
        label: "ebbtide",
        colour: "#0b7a8a",
        tint: "#d9edef",
        terminal_colour: "\x1b[36m",
    },
];

fn main() -> ExitCode {
    process::catch_interrupts();
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if process::interrupted() => {
            eprintln!("demo: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let host = Host::build(library()?.as_deref())?;
    let versions = host.versions()?;
    println!(
        "One Lua service: three peaks of traffic, idle after each, and at last all is dropped."
    );
    println!("Its memory (PSS), once on each allocator. {versions}\n");
    let outcomes = run_both(&host)?;
    println!("\n{}", table::render(&rows(&outcomes)));
    let picture = host.output_dir().join("demo/breathing.svg");
    write(&picture, &chart(&outcomes, &versions).to_svg())?;
    println!("The breathing curve: {}", picture.display());
    judge(&outcomes)
}

/// `demo [--library FILE]`: a `libebbtide.a` or `.so` other than the one cargo builds.
fn library() -> Result<Option<PathBuf>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        ["--library", path] => Ok(Some(PathBuf::from(path))),
        _ => Err("usage: demo [--library FILE]".to_owned()),
    }
}

fn run_both(host: &Host) -> Result<[Outcome; 2]> {
    let names =
        SUBJECTS.each_ref().map(|subject| (subject.allocator.name, subject.terminal_colour));
    let mut live = Live::new(&names, RUN_LENGTH);
    let mut run = |index: usize| {
        let allocator = SUBJECTS[index].allocator;
        let command = host.command(allocator, "service.lua", &LOAD);
        let show = |notice: Notice| match notice {
            Notice::Event(event) => live.event(index, event),
            Notice::Sample(sample) => live.sample(index, sample),
        };
        let outcome = process::run(command, Some(PERIOD), show);
        outcome.map_err(|error| format!("service.lua on {}: {error}", allocator.name))
    };
    let outcomes = [run(0)?, run(1)?];
    live.finish();
    outcomes.iter().try_for_each(is_whole)?;
    Ok(outcomes)
}

/// Every phase that the table and the picture look at must be there.
fn is_whole(outcome: &Outcome) -> Result<()> {
    let missing = phases().into_iter().find(|phase| outcome.event(phase).is_none());
    match missing {
        Some(phase) => Err(format!("service.lua did not report \"{phase}\"")),
        None if outcome.samples.len() < PEAKS.len() => Err("/proc gave no samples".to_owned()),
        None => Ok(()),
    }
}

fn phases() -> Vec<String> {
    let of_peak = |peak| ["peak", "collected", "idle"].map(|phase| format!("{phase} {peak}"));
    let mut phases = vec!["start".to_owned()];
    phases.extend(PEAKS.into_iter().flat_map(of_peak));
    phases.extend(["collected empty", "idle empty", "end"].map(str::to_owned));
    phases
}

fn rows(outcomes: &[Outcome; 2]) -> Vec<Vec<String>> {
    let names = SUBJECTS.each_ref().map(|subject| subject.allocator.name);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let mut rows: Vec<Vec<String>> = vec![
        words(&["", names[0], "", "", "  ", names[1]]),
        words(&["MB", "live", "RSS", "PSS", "  ", "live", "RSS", "PSS", "reclaim returned"]),
    ];
    for phase in phases() {
        let mut row = vec![phase.clone()];
        for outcome in outcomes {
            if row.len() > 1 {
                row.push(String::new());
            }
            let event = outcome.event(&phase);
            let cell = |key| event.map_or(String::new(), |event| in_megabytes(event.get(key)));
            row.extend(["live", "rss", "pss"].map(cell));
        }
        row.extend(reclaim_before(&outcomes[1], &phase).map(returned));
        rows.push(row);
    }
    rows
}

/// The reclaim that led to this phase, if one did.
fn reclaim_before<'a>(outcome: &'a Outcome, phase: &str) -> Option<&'a Event> {
    let at = outcome.events.iter().position(|event| event.label == phase)?;
    let before = outcome.events.get(at.checked_sub(1)?)?;
    (before.label == "reclaim").then_some(before)
}

fn returned(reclaim: &Event) -> String {
    let milliseconds = reclaim.get("elapsed_us") as f64 / 1e3;
    format!("{} in {milliseconds:.1} ms", in_megabytes(reclaim.get("returned")))
}

fn chart(outcomes: &[Outcome; 2], versions: &str) -> Chart {
    let series = SUBJECTS.iter().zip(outcomes).map(|(subject, outcome)| Series {
        label: subject.label.to_owned(),
        colour: subject.colour,
        tint: subject.tint,
        points: points(outcome),
        notes: notes(outcome),
    });
    let live = |outcome: &Outcome, phase: &str| {
        outcome.event(phase).map_or(String::new(), |event| in_megabytes(event.get("live")))
    };
    let live = PEAKS.map(|peak| live(&outcomes[1], &format!("idle {peak}"))).join(", ");
    Chart {
        title: "After each peak of traffic, ebbtide gives the memory back".to_owned(),
        subtitle: "PSS of the process, read every 50 ms. The same program, once on each allocator."
            .to_owned(),
        footnote: format!(
            "Live in Lua when idle: {live} MB. On ebbtide the service calls reclaim() when idle. \
             {versions}."
        ),
        series: series.collect(),
        bands: bands(&outcomes[1]),
    }
}

/// Samples, and between them the exact values at events, in seconds and MB, from the first event to
/// the last: what comes before and after is the process starting and ending.
fn points(outcome: &Outcome) -> Vec<(f64, f64)> {
    let events = outcome.events.iter().filter(|event| event.get("pss") > 0);
    let reported: Vec<_> = events.map(|event| (event.at, event.get("pss"))).collect();
    let (Some(first), Some(last)) = (reported.first(), reported.last()) else {
        return Vec::new();
    };
    let sampled = outcome.samples.iter().map(|sample| (sample.at, sample.pss));
    let sampled = sampled.filter(|(at, _)| (first.0..last.0).contains(at));
    let mut points: Vec<_> = sampled.chain(reported.iter().copied()).collect();
    points.sort();
    points.into_iter().map(|(at, bytes)| (at.as_secs_f64(), megabytes(bytes))).collect()
}

/// At each reclaim after a peak: how much it gave back, and how fast.
fn notes(outcome: &Outcome) -> Vec<Note> {
    let note = |peak| {
        let idle = outcome.event(&format!("idle {peak}"))?;
        let reclaim = reclaim_before(outcome, &idle.label)?;
        let returned = megabytes(reclaim.get("returned"));
        let milliseconds = reclaim.get("elapsed_us") as f64 / 1e3;
        let lines = vec![format!("−{returned:.0} MB"), format!("in {milliseconds:.0} ms")];
        Some(Note { at: (idle.at.as_secs_f64(), megabytes(idle.get("pss"))), lines })
    };
    PEAKS.into_iter().filter_map(note).collect()
}

fn bands(outcome: &Outcome) -> Vec<Band> {
    let at = |label: &str| outcome.event(label).map(|event| event.at.as_secs_f64());
    let mut bands = Vec::new();
    let mut idle_since = None;
    for peak in PEAKS {
        let Some(end) = at(&format!("peak {peak}")) else { continue };
        let from = end - LOAD[1].parse().unwrap_or(0.0);
        if let Some(since) = idle_since {
            bands.push(Band { label: "idle".to_owned(), from: since, to: from, shaded: false });
        }
        bands.push(Band { label: format!("traffic {peak}"), from, to: end, shaded: true });
        idle_since = Some(end);
    }
    if let (Some(since), Some(dropped), Some(end)) = (idle_since, at("collected empty"), at("end"))
    {
        bands.push(Band { label: "idle".to_owned(), from: since, to: dropped, shaded: false });
        bands.push(Band { label: "all dropped".to_owned(), from: dropped, to: end, shaded: true });
    }
    bands
}

fn write(path: &Path, content: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Whether ebbtide did what it is for: down after the last peak, back to the start when all was
/// dropped, and something returned each time.
fn judge(outcomes: &[Outcome; 2]) -> Result<()> {
    let pss = |outcome: &Outcome, phase: &str| {
        outcome.event(phase).map_or(0.0, |event| megabytes(event.get("pss")))
    };
    let [builtin, ebbtide] = outcomes.each_ref().map(|outcome| pss(outcome, "idle 3"));
    if ebbtide >= SHARE_MAX * builtin {
        return Err(format!(
            "memory did not go back: after the last peak ebbtide holds {ebbtide:.1} MB, \
             built-in {builtin:.1} MB"
        ));
    }
    let over = pss(&outcomes[1], "idle empty") - pss(&outcomes[1], "start");
    if over > OVER_START_MAX_MB {
        return Err(format!("all was dropped, and ebbtide holds {over:.1} MB more than at first"));
    }
    let reclaims = outcomes[1].events.iter().filter(|event| event.label == "reclaim");
    match reclaims.filter(|reclaim| reclaim.get("returned") > 0).count() {
        count if count > PEAKS.len() => Ok(()),
        count => Err(format!("only {count} calls of reclaim() returned anything")),
    }
}
