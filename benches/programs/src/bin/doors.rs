//! Measures the doors: memory given back in place and by a VM that was attached, what that costs,
//! and what the preload library costs a program that has no Lua.
//!
//! Prints the figures that they must reach, each with whether it did.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ebbtide_programs::Result;
use ebbtide_programs::figures::{Bound, Figure};
use ebbtide_programs::host::{ATTACHED, Allocator, EBBTIDE, Host, IN_PLACE, build_preload};
use ebbtide_programs::memory::megabytes;
use ebbtide_programs::numbers::{Spread, geometric_mean};
use ebbtide_programs::process::{self, Outcome};
use ebbtide_programs::suite::{Measured, PROGRAMS, ProgramKind};
use ebbtide_programs::table;

const USAGE: &str = "usage: doors [--rounds N] [--check]";

/// How often a program is started, with the preload library and without.
const STARTS: usize = 300;

fn main() -> ExitCode {
    process::catch_interrupts();
    match parse(std::env::args().skip(1)).and_then(|(rounds, check)| measure(rounds, check)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("doors: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many rounds, and whether a missed figure is a failure.
fn parse(mut args: impl Iterator<Item = String>) -> Result<(usize, bool)> {
    let (mut rounds, mut check) = (5, false);
    while let Some(option) = args.next() {
        match option.as_str() {
            "--check" => check = true,
            "--rounds" => {
                let number = args.next().and_then(|value| value.parse().ok());
                let number = number.filter(|number| (1..=100).contains(number));
                rounds = number.ok_or("--rounds takes a number from 1 to 100")?;
            }
            _ => return Err(format!("no such option: {option}; {USAGE}")),
        }
    }
    Ok((rounds, check))
}

fn measure(rounds: usize, check: bool) -> Result<()> {
    let host = Host::build(None)?;
    println!("versions  {}\n", host.versions()?);
    let mut figures = service(&host, rounds)?;
    figures.extend(stats(&host)?);
    figures.push(starts()?);
    figures.push(speed(&host, rounds)?);
    announce("");
    let mut rows = vec![["figure", "seen", "must be", ""].map(str::to_owned).to_vec()];
    rows.extend(figures.iter().map(row));
    println!("{}", table::render(&rows));
    let missed: Vec<_> =
        figures.iter().filter(|it| !it.reached()).map(|it| it.what.as_str()).collect();
    match missed.is_empty() || !check {
        true => Ok(()),
        false => Err(format!("missed: {}", missed.join("; "))),
    }
}

fn row(figure: &Figure) -> Vec<String> {
    let (word, bound) = match figure.bound {
        Bound::AtLeast(bound) => ("at least", bound),
        Bound::AtMost(bound) => ("at most", bound),
    };
    vec![
        figure.what.clone(),
        format!("{:.2} {}", figure.seen, figure.unit),
        format!("{word} {bound} {}", figure.unit),
        if figure.reached() { "reached" } else { "missed" }.to_owned(),
    ]
}

fn figure(what: &str, seen: f64, bound: Bound, unit: &'static str) -> Figure {
    Figure { what: what.to_owned(), base: None, seen, bound, unit }
}

/// Shows on a terminal what is going on, on a line that the next one overwrites.
fn announce(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what}\x1b[K");
    }
}

/// Runs a script to its end.
fn run(host: &Host, allocator: &Allocator, script: &str, args: &[&str]) -> Result<Outcome> {
    announce(&format!("{script} on {}", allocator.name));
    let outcome = process::run(host.command(allocator, script, args), None, |_| ());
    outcome.map_err(|error| format!("{script} on {}: {error}", allocator.name))
}

/// What a service holds after its third peak, and how long it took to give the rest back.
fn service(host: &Host, rounds: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (allocator, pss, bound) in [
        (&IN_PLACE, "service, PSS after reclaim() in place", 33.0),
        (&ATTACHED, "service, PSS after reclaim(), attached at the start", 25.0),
    ] {
        let (mut held, mut took) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let outcome = run(host, allocator, "service.lua", &[])?;
            let idle = outcome.event("idle 3").ok_or("service.lua: no third peak")?;
            let reclaims = outcome.events.iter().filter(|event| event.label == "reclaim");
            let third = reclaims.take(3).last().ok_or("service.lua: no reclaim")?;
            held.push(megabytes(idle.get("pss")));
            took.push(third.get("elapsed_us") as f64 / 1000.0);
        }
        figures.push(figure(pss, median(&held), Bound::AtMost(bound), "MB"));
        if *allocator == IN_PLACE {
            let what = "service, time of that reclaim() in place";
            figures.push(figure(what, median(&took), Bound::AtMost(20.0), "ms"));
        }
    }
    Ok(figures)
}

fn median(values: &[f64]) -> f64 {
    Spread::of(values).map_or(f64::NAN, |spread| spread.median)
}

/// How long stats() takes on a large heap.
fn stats(host: &Host) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (allocator, calls, what, bound, unit, unit_us) in [
        (&IN_PLACE, "1", "stats() on LuaJIT's own heap of 400 MB", 100.0, "ms", 1000.0),
        (&ATTACHED, "1000", "stats() on an attached heap of 400 MB", 10.0, "µs", 1.0),
    ] {
        let outcome = run(host, allocator, "stats.lua", &[calls])?;
        let us = outcome.text.last().and_then(|line| line.trim().parse::<f64>().ok());
        let us = us.ok_or("stats.lua: no time")?;
        figures.push(figure(what, us / unit_us, Bound::AtMost(bound), unit));
    }
    Ok(figures)
}

/// What the preload library adds to the start of a program without Lua: the fastest of many with it
/// less the fastest without.
fn starts() -> Result<Figure> {
    let library = build_preload()?;
    announce("starts of a program without Lua");
    let (mut plain, mut preloaded) = (Duration::MAX, Duration::MAX);
    for _ in 0..STARTS {
        plain = plain.min(start(&mut Command::new("true"))?);
        preloaded = preloaded.min(start(Command::new("true").env("LD_PRELOAD", &library))?);
    }
    let more_ms = preloaded.saturating_sub(plain).as_secs_f64() * 1e3;
    let what = "preload library, start of a program without Lua";
    Ok(figure(what, more_ms, Bound::AtMost(1.0), "ms"))
}

fn start(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let took = start.elapsed();
    match status {
        Ok(status) if status.success() => Ok(took),
        other => Err(format!("{command:?}: {other:?}")),
    }
}

/// CPU time of a VM that was attached at the start against one that was made on a heap.
fn speed(host: &Host, rounds: usize) -> Result<Figure> {
    let mut speeds = Vec::new();
    for program in PROGRAMS.iter().filter(|program| program.kind == ProgramKind::Reference) {
        let measured = Measured::new(host, program, &[&EBBTIDE, &ATTACHED], rounds, announce)?;
        speeds.extend(measured.speed(1).map(|spread| spread.median));
    }
    let mean = geometric_mean(&speeds).unwrap_or(f64::NAN);
    let what = "speed, attached at the start against lua_newstate, geometric mean";
    Ok(figure(what, mean, Bound::AtLeast(0.99), "x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_refused_by_name() {
        let parsed = |line: &str| parse(line.split_whitespace().map(str::to_owned));
        assert_eq!(parsed(""), Ok((5, false)));
        assert_eq!(parsed("--check --rounds 3"), Ok((3, true)));
        assert!(parsed("--rounds 0").is_err_and(|error| error.contains("from 1 to 100")));
        assert!(parsed("--fast").is_err_and(|error| error.contains("no such option: --fast")));
    }
}
