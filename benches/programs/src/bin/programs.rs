//! Measures whole Lua programs: each on every allocator in turn, round after round.
//!
//! Prints CPU times with their ratio to the first allocator's, peaks, memory by phase, and last the
//! figures that ebbtide must reach, each with whether it did.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use ebbtide_programs::Result;
use ebbtide_programs::figures::{Bound, Figure, figures};
use ebbtide_programs::host::{Allocator, BUILTIN, EBBTIDE, Host, allocator};
use ebbtide_programs::memory::{in_megabytes, megabytes};
use ebbtide_programs::numbers::Spread;
use ebbtide_programs::process::{self, Outcome};
use ebbtide_programs::suite::{Measured, PROGRAMS, Program, program};
use ebbtide_programs::table;

const USAGE: &str = "usage: programs [--rounds N | --quick] [--only NAME]... \
[--allocators A,B,...] [--library FILE] [--json FILE] [--check]";

struct Options {
    rounds: usize,
    programs: Vec<&'static Program>,
    allocators: Vec<&'static Allocator>,
    library: Option<PathBuf>,
    json: Option<PathBuf>,
    check: bool,
}

fn main() -> ExitCode {
    process::catch_interrupts();
    match parse(std::env::args().skip(1)).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if process::interrupted() => {
            eprintln!("programs: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("programs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        rounds: 5,
        programs: Vec::new(),
        allocators: vec![&BUILTIN, &EBBTIDE],
        library: None,
        json: None,
        check: false,
    };
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} wants a value; {USAGE}"));
        match option.as_str() {
            "--rounds" => options.rounds = rounds(&value()?)?,
            "--quick" => options.rounds = 2,
            "--only" => options.programs.push(program(&value()?)?),
            "--allocators" => options.allocators = allocators(&value()?)?,
            "--library" => options.library = Some(value()?.into()),
            "--json" => options.json = Some(value()?.into()),
            "--check" => options.check = true,
            _ => return Err(format!("no such option: {option}; {USAGE}")),
        }
    }
    if options.programs.is_empty() {
        options.programs = PROGRAMS.iter().collect();
    }
    Ok(options)
}

fn rounds(value: &str) -> Result<usize> {
    let rounds = value.parse().ok().filter(|rounds| (1..=100).contains(rounds));
    rounds.ok_or_else(|| format!("--rounds takes a number from 1 to 100, not {value}"))
}

fn allocators(value: &str) -> Result<Vec<&'static Allocator>> {
    let found = value.split(',').map(allocator).collect::<Result<Vec<_>>>()?;
    match found.len() {
        0 | 1 => Err("--allocators takes two or more, the one to compare with first".to_owned()),
        _ => Ok(found),
    }
}

fn measure(options: &Options) -> Result<()> {
    let host = Host::build(options.library.as_deref())?;
    let about = [("command", command()), ("machine", machine()), ("versions", host.versions()?)];
    for (what, text) in &about {
        println!("{what:<9} {text}");
    }
    let mut measured = Vec::new();
    for program in &options.programs {
        let runs = Measured::new(&host, program, &options.allocators, options.rounds, announce)?;
        measured.push(runs);
    }
    announce("");
    println!("\n{}", table::render(&time_rows(options, &measured)));
    print!("{}", phases(options, &measured));
    let figures = ebbtide_figures(options, &measured);
    if !figures.is_empty() {
        println!("{}", table::render(&figure_rows(&figures)));
    }
    if let Some(path) = &options.json {
        let text = json(&about, options, &measured, &figures);
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    judge(options, &figures)
}

/// Shows on a terminal what is going on, on a line that the next one overwrites.
fn announce(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what}\x1b[K");
    }
}

fn command() -> String {
    let args = std::env::args().skip(1).map(|arg| format!(" {arg}")).collect::<String>();
    let separator = if args.is_empty() { "" } else { " --" };
    format!("cargo run --release -p ebbtide-programs --bin programs{separator}{args}")
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// Each program: time and peak on every allocator, and the ratio to the first.
fn time_rows(options: &Options, measured: &[Measured]) -> Vec<Vec<String>> {
    let names = || options.allocators.iter().map(|allocator| allocator.name.to_owned());
    let mut heading = vec!["CPU time (median)".to_owned()];
    heading.extend(names());
    heading.extend(names().skip(1).map(|name| format!("{name} is faster by (min–max)")));
    heading.extend(names().map(|name| format!("{name} peak RSS")));
    let mut rows = vec![heading];
    for runs in measured {
        let mut row = vec![runs.program.name.to_owned()];
        let all = 0..options.allocators.len();
        row.extend(
            all.clone()
                .map(|index| show(runs.time(index), |time| runs.program.show_time(time.median))),
        );
        row.extend(all.clone().skip(1).map(|index| {
            show(runs.speed(index), |speed| {
                format!("{:.2}x ({:.2}–{:.2})", speed.median, speed.min, speed.max)
            })
        }));
        let peak = |outcome: &Outcome| Some(megabytes(outcome.rss_peak));
        row.extend(
            all.map(|index| show(runs.of(index, peak), |peak| format!("{:.1} MB", peak.median))),
        );
        rows.push(row);
    }
    rows
}

fn show(spread: Option<Spread>, text: impl Fn(Spread) -> String) -> String {
    spread.map_or_else(|| "–".to_owned(), text)
}

/// The last round of each program that reports phases: live, RSS and PSS at each.
fn phases(options: &Options, measured: &[Measured]) -> String {
    let mut text = String::new();
    for runs in measured {
        for (index, allocator) in options.allocators.iter().enumerate() {
            let Some(outcome) = runs.runs(index).last() else { continue };
            if outcome.events.is_empty() {
                continue;
            }
            let title = format!("{} on {}", runs.program.name, allocator.name);
            let heading = [&title, "live MB", "RSS MB", "PSS MB"].map(str::to_owned).to_vec();
            let rows: Vec<_> =
                std::iter::once(heading).chain(outcome.events.iter().map(phase_row)).collect();
            let _ = writeln!(text, "{}", table::render(&rows));
        }
    }
    text
}

fn phase_row(event: &ebbtide_programs::event::Event) -> Vec<String> {
    if event.label == "reclaim" {
        let milliseconds = event.get("elapsed_us") as f64 / 1e3;
        let returned = in_megabytes(event.get("returned"));
        return vec![format!("  reclaim: {returned} MB in {milliseconds:.1} ms")];
    }
    let mut row = vec![event.label.clone()];
    row.extend(["live", "rss", "pss"].map(|key| in_megabytes(event.get(key))));
    row
}

/// The figures are those of ebbtide against the built-in allocator, if that is what was measured.
fn ebbtide_figures(options: &Options, measured: &[Measured]) -> Vec<Figure> {
    let index = options.allocators.iter().position(|allocator| **allocator == EBBTIDE);
    match index {
        Some(index) if *options.allocators[0] == BUILTIN => figures(measured, index),
        _ => Vec::new(),
    }
}

fn figure_rows(figures: &[Figure]) -> Vec<Vec<String>> {
    let heading = ["figure", "built-in", "ebbtide", "must be", ""].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    for figure in figures {
        let value = |value: f64| format!("{value:.2} {}", figure.unit);
        let bound = match figure.bound {
            Bound::AtLeast(bound) => format!("at least {}", value(bound)),
            Bound::AtMost(bound) => format!("at most {}", value(bound)),
        };
        let mark = if figure.reached() { "reached" } else { "MISSED" };
        let base = figure.base.map_or_else(|| "–".to_owned(), value);
        rows.push(vec![figure.what.to_owned(), base, value(figure.seen), bound, mark.to_owned()]);
    }
    rows
}

fn judge(options: &Options, figures: &[Figure]) -> Result<()> {
    let missed: Vec<_> =
        figures.iter().filter(|figure| !figure.reached()).map(|figure| figure.what).collect();
    match (options.check, missed.is_empty(), figures.is_empty()) {
        (false, ..) | (true, true, false) => Ok(()),
        (true, _, true) => Err("--check: nothing was measured that has a figure".to_owned()),
        (true, false, _) => Err(format!("missed: {}", missed.join("; "))),
    }
}

/// Everything measured, for other programs to read: times in seconds or nanoseconds, as printed.
fn json(
    about: &[(&str, String)],
    options: &Options,
    measured: &[Measured],
    figures: &[Figure],
) -> String {
    let about = about.iter().map(|(key, text)| format!("  {key:?}: {},\n", quote(text)));
    let mut runs = Vec::new();
    for measured in measured {
        for (index, allocator) in options.allocators.iter().enumerate() {
            let each = |read: &dyn Fn(&Outcome) -> f64| {
                let values = measured.runs(index).iter().map(|outcome| read(outcome).to_string());
                values.collect::<Vec<_>>().join(", ")
            };
            runs.push(format!(
                "    {{\"program\": {:?}, \"allocator\": {:?}, \"time\": [{}], \
                 \"rss_peak_bytes\": [{}]}}",
                measured.program.name,
                allocator.name,
                each(&|outcome| measured.program.time(outcome).unwrap_or(-1.0)),
                each(&|outcome| outcome.rss_peak as f64),
            ));
        }
    }
    let figures = figures.iter().map(|figure| {
        format!(
            "    {{\"what\": {}, \"seen\": {}, \"unit\": {:?}, \"reached\": {}}}",
            quote(figure.what),
            figure.seen,
            figure.unit,
            figure.reached()
        )
    });
    format!(
        "{{\n{}  \"runs\": [\n{}\n  ],\n  \"figures\": [\n{}\n  ]\n}}\n",
        about.collect::<String>(),
        runs.join(",\n"),
        figures.collect::<Vec<_>>().join(",\n")
    )
}

/// A JSON string. Control characters, which nothing here contains, become blanks.
fn quote(text: &str) -> String {
    let plain = text.replace(char::is_control, " ");
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn without_options_everything_is_measured() {
        let options = parsed("").expect("no options are fine");
        assert_eq!((options.rounds, options.programs.len()), (5, PROGRAMS.len()));
        assert!(!options.check);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (line, part) in [
            ("--rounds 0", "from 1 to 100"),
            ("--rounds", "--rounds wants a value"),
            ("--only nothing", "no program is called nothing"),
            ("--allocators ebbtide", "two or more"),
            ("--fast", "no such option: --fast"),
        ] {
            let error = parsed(line).err().unwrap_or_default();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn quotes_are_quoted() {
        assert_eq!(quote("a\\b \"c\"\td"), "\"a\\\\b \\\"c\\\" d\"");
    }
}
