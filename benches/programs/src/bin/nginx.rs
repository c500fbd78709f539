//! nginx with ebbtide's module against stock nginx, in turn: requests served, memory after a load,
//! and what a worker that exhales costs the next request.
//!
//! `cargo run --release -p ebbtide-programs --bin nginx -- --module FILE` prints the figures;
//! `--check` fails when one is missed, `--json FILE` takes the memory over time and draws it,
//! `--rounds N` sets how often the two take turns, `--soak MINUTES` changes the load for so long and
//! looks for a drift.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use ebbtide_programs::Result;
use ebbtide_programs::memory::{in_megabytes, megabytes};
use ebbtide_programs::nginx::{Load, Nginx};
use ebbtide_programs::numbers::Spread;
use ebbtide_programs::picture::{Picture, publish};

const USAGE: &str =
    "usage: nginx --module FILE [--check] [--json FILE] [--rounds N] [--soak MINUTES]";
/// Requests in flight.
const HEAVY: u32 = 1500;
const LIGHT: u32 = 20;
/// How long memory is watched after the last response.
const AFTER: Duration = Duration::from_secs(6);
const NAMES: [&str; 2] = ["stock nginx", "with ebbtide"];

struct Options {
    module: PathBuf,
    json: Option<PathBuf>,
    rounds: usize,
    soak: u64,
    check: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let (mut module, mut json, mut rounds, mut soak, mut check) = (None, None, 5, 0, false);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| format!("{argument} wants a value; {USAGE}"));
        let number =
            |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number; {USAGE}"));
        match argument.as_str() {
            "--module" => module = Some(PathBuf::from(value()?)),
            "--json" => json = Some(PathBuf::from(value()?)),
            "--rounds" => rounds = number(value()?)?.max(1) as usize,
            "--soak" => soak = number(value()?)?,
            "--check" => check = true,
            _ => return Err(format!("no such option: {argument}; {USAGE}")),
        }
    }
    let module = module.ok_or_else(|| format!("which module? {USAGE}"))?;
    let module = module.canonicalize().map_err(|error| format!("{}: {error}", module.display()))?;
    Ok(Options { module, json, rounds, soak, check })
}

/// How many figures are not what they must be.
#[derive(Default)]
struct Report {
    missed: usize,
}

impl Report {
    fn judge(&mut self, reached: bool, text: String) {
        println!("{text}: {}", if reached { "reached" } else { "MISSED" });
        self.missed += usize::from(!reached);
    }
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nginx: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let folder = std::env::temp_dir().join(format!("ebbtide-nginx-{}", std::process::id()));
    let servers = [
        Nginx::start(&folder.join("stock"), None)?,
        Nginx::start(&folder.join("ebbtide"), Some(&options.module))?,
    ];
    let mut report = Report::default();
    if options.soak > 0 {
        soak(&servers[1], options.soak, &mut report)?;
    } else {
        breathe(&servers, options.json.as_deref(), &mut report)?;
        throughput(&servers, "1,500 requests in flight", HEAVY, 1.10, options.rounds, &mut report)?;
        throughput(&servers, "20 requests in flight", LIGHT, 1.0, options.rounds, &mut report)?;
    }
    drop(servers);
    // What is left is small, and in the system's folder for that.
    let _ = std::fs::remove_dir_all(&folder);
    println!("{} missed", report.missed);
    Ok(report.missed == 0 || !options.check)
}

/// Requests served and how long they took, the two servers in turn.
fn throughput(
    servers: &[Nginx; 2],
    name: &str,
    connections: u32,
    least: f64,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let (mut rates, mut slowest, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let loads: Vec<Load> =
            servers.iter().map(|server| server.load(connections, 5)).collect::<Result<_>>()?;
        rates.push(loads[1].rate / loads[0].rate);
        slowest.push(loads[1].p99 / loads[0].p99);
        failed += loads[1].failed;
    }
    let (rate, p99) = (Spread::of(&rates), Spread::of(&slowest));
    let (rate, p99) = rate.zip(p99).ok_or("no rounds")?;
    let of = |spread: Spread| {
        format!("{:.3} of stock ({:.3} to {:.3})", spread.median, spread.min, spread.max)
    };
    report.judge(
        rate.median >= least,
        format!("{name}: throughput {}, at least {least:.2}", of(rate)),
    );
    report.judge(p99.median <= 1.0, format!("{name}: p99 {}, no worse", of(p99)));
    report.judge(failed == 0, format!("{name}: {failed} requests failed, none"));
    Ok(())
}

/// What was seen of a server over a load and the rest after it.
struct Seen {
    /// Seconds, and MB of all workers.
    curve: Vec<(f64, f64)>,
    peaks: Vec<u64>,
    ends: Vec<u64>,
    loaded_s: f64,
}

fn watch(server: &Nginx) -> Result<Seen> {
    let start = Instant::now();
    let mut seen = Seen {
        curve: Vec::new(),
        peaks: vec![0; server.workers().len()],
        ends: Vec::new(),
        loaded_s: 0.0,
    };
    scope(|scope| {
        let load = scope.spawn(|| server.load(HEAVY, 6));
        let sample = |seen: &mut Seen| {
            let held = server.memory();
            let all: u64 = held.iter().sum();
            seen.curve.push((start.elapsed().as_secs_f64(), megabytes(all)));
            for (peak, held) in seen.peaks.iter_mut().zip(&held) {
                *peak = (*peak).max(*held);
            }
            seen.ends = held;
        };
        while !load.is_finished() {
            sample(&mut seen);
            sleep(Duration::from_millis(100));
        }
        load.join().map_err(|_| "the load's thread is gone")??;
        let ended = Instant::now();
        seen.loaded_s = start.elapsed().as_secs_f64();
        while ended.elapsed() < AFTER {
            sample(&mut seen);
            sleep(Duration::from_millis(100));
        }
        Ok::<(), String>(())
    })?;
    Ok(seen)
}

/// The longest of the quick requests that come while a worker exhales: they run no Lua, so it goes
/// on with its steps in between.
fn trickle(server: &Nginx) -> Result<Duration> {
    server.load(HEAVY, 3)?;
    let ended = Instant::now();
    let mut longest = Duration::ZERO;
    while ended.elapsed() < Duration::from_secs(3) {
        longest = longest.max(server.answer("/quick")?);
        sleep(Duration::from_millis(1));
    }
    Ok(longest)
}

fn breathe(servers: &[Nginx; 2], json: Option<&Path>, report: &mut Report) -> Result<()> {
    let seen = [watch(&servers[0])?, watch(&servers[1])?];
    for (name, seen) in NAMES.iter().zip(&seen) {
        let in_mb = |all: &[u64]| all.iter().map(|one| in_megabytes(*one)).collect::<Vec<_>>();
        println!(
            "{name}: PSS of the workers at most {} MB, {} s after the last response {} MB",
            in_mb(&seen.peaks).join(" and "),
            AFTER.as_secs(),
            in_mb(&seen.ends).join(" and ")
        );
    }
    let shares = seen[1].ends.iter().zip(&seen[1].peaks);
    let worst = shares.map(|(end, peak)| *end as f64 / *peak as f64).fold(0.0, f64::max);
    report.judge(
        worst <= 0.16,
        format!("a worker is down to {:.0} % of its peak, at most 16 %", worst * 100.0),
    );
    let longest = [trickle(&servers[0])?, trickle(&servers[1])?];
    let text = format!(
        "the longest quick request after a load took {:.1} ms, {:.1} ms with stock nginx",
        longest[1].as_secs_f64() * 1e3,
        longest[0].as_secs_f64() * 1e3
    );
    report.judge(longest[1] < Duration::from_millis(20), format!("{text}, under 20 ms"));
    match json {
        Some(path) => publish(path, &picture(&seen).json()),
        None => Ok(()),
    }
}

fn picture(seen: &[Seen; 2]) -> Picture {
    let curves =
        NAMES.iter().zip(seen).map(|(name, seen)| ((*name).to_owned(), seen.curve.clone()));
    let highest = seen[1].curve.iter().map(|point| point.1).fold(0.0, f64::max);
    Picture {
        title: "Two nginx workers, 1,500 requests in flight for six seconds, then none".to_owned(),
        subtitle: "PSS of the workers in MB, over seconds".to_owned(),
        footnotes: vec!["Debian's nginx and libnginx-mod-http-lua; a run each.".to_owned()],
        curves: curves.collect(),
        bands: Vec::new(),
        notes: vec![((seen[1].loaded_s, highest), vec!["last response".to_owned()])],
    }
}

/// Loads of changing height with rests between them; memory after a rest must not drift upwards.
fn soak(server: &Nginx, minutes: u64, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let mut rests: Vec<f64> = Vec::new();
    for connections in [1500, 200, 800, 50, 1200, 400].into_iter().cycle() {
        if start.elapsed() >= Duration::from_secs(minutes * 60) {
            break;
        }
        server.load(connections, 6)?;
        sleep(Duration::from_secs(4));
        let held = megabytes(server.memory().iter().sum());
        println!(
            "{:4.0} s: {connections} in flight, at rest {held:.1} MB",
            start.elapsed().as_secs_f64()
        );
        rests.push(held);
    }
    // The sessions are complete after the first third; from there on nothing should be added.
    let third = rests.len() / 3;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let (middle, last) = (mean(&rests[third..2 * third]), mean(&rests[2 * third..]));
    report.judge(
        last <= middle * 1.05 + 1.0,
        format!("at rest {middle:.1} MB in the middle third, {last:.1} MB in the last, no drift"),
    );
    Ok(())
}
