//! Measures whole Lua programs: each on every allocator in turn, round after round.
//!
//! Prints CPU times with their ratio to the first allocator's, peaks, what memory stays, and last
//! the figures that ebbtide must reach, each with whether it did.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use ebbtide_programs::Result;
use ebbtide_programs::figures::{Figure, checked_figures, figures};
use ebbtide_programs::host::{Allocator, BUILTIN, EBBTIDE, Host, PEERS, allocator};
use ebbtide_programs::machine::{command, machine};
use ebbtide_programs::picture::{publish, write};
use ebbtide_programs::process;
use ebbtide_programs::report::{Report, figure_table};
use ebbtide_programs::suite::{Measured, PROGRAMS, Program, When, program};

const USAGE: &str = "usage: programs [--rounds N | --quick] [--only NAME]... \
[--allocators A,B,... | --peers] [--library FILE] [--json FILE] [--markdown FILE] \
[--check]";

struct Options {
    rounds: usize,
    programs: Vec<&'static Program>,
    allocators: Vec<&'static Allocator>,
    library: Option<PathBuf>,
    json: Option<PathBuf>,
    markdown: Option<PathBuf>,
    quick: bool,
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
        markdown: None,
        quick: false,
        check: false,
    };
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} wants a value; {USAGE}"));
        match option.as_str() {
            "--rounds" => options.rounds = rounds(&value()?)?,
            "--quick" => (options.rounds, options.quick) = (1, true),
            "--only" => options.programs.push(program(&value()?)?),
            "--allocators" => options.allocators = allocators(&value()?)?,
            "--peers" => options.allocators = with_peers(),
            "--library" => options.library = Some(value()?.into()),
            "--json" => options.json = Some(value()?.into()),
            "--markdown" => options.markdown = Some(value()?.into()),
            "--check" => options.check = true,
            _ => return Err(format!("no such option: {option}; {USAGE}")),
        }
    }
    if options.programs.is_empty() {
        let last = if options.quick { When::Quick } else { When::Full };
        let wanted = |program: &&Program| program.when <= last;
        options.programs = PROGRAMS.iter().filter(wanted).collect();
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

/// LuaJIT's own, ours, and every peer that this machine has.
fn with_peers() -> Vec<&'static Allocator> {
    let peers = PEERS.iter().copied().filter(|allocator| allocator.is_present());
    [&BUILTIN, &EBBTIDE].into_iter().chain(peers).collect()
}

fn measure(options: &Options) -> Result<()> {
    let host = Host::build(options.library.as_deref())?;
    announce("building the allocators to compare with");
    host.build_peers(&options.allocators)?;
    let about =
        [("command", command("programs")), ("machine", machine()), ("versions", host.versions()?)];
    for (what, text) in &about {
        println!("{what:<9} {text}");
    }
    let mut measured = Vec::new();
    for program in &options.programs {
        let runs = Measured::new(&host, program, &options.allocators, options.rounds, announce)?;
        measured.push(runs);
    }
    announce("");
    let report = Report { allocators: &options.allocators, measured: &measured };
    let ours = options.allocators.iter().position(|allocator| **allocator == EBBTIDE);
    print!("\n{}{}", report.tables(ours), report.phases());
    // The figures are those of ebbtide against the built-in allocator, if that was measured, or
    // those of checked heaps against it.
    let figures = match ours {
        Some(ours) if *options.allocators[0] == BUILTIN => {
            figures(&measured, ours, &report.peers())
        }
        Some(0) => checked_figures(&measured, &options.allocators),
        _ => Vec::new(),
    };
    if !figures.is_empty() {
        println!("{}", figure_table(&figures));
    }
    if let Some(path) = &options.json {
        publish(path, &report.json(&about, &figures))?;
    }
    if let (Some(path), Some(ours)) = (&options.markdown, ours) {
        write(path, &report.markdown(ours))?;
    }
    judge(options, &figures)
}

/// Shows on a terminal what is going on, on a line that the next one overwrites.
fn announce(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what}\x1b[K");
    }
}

fn judge(options: &Options, figures: &[Figure]) -> Result<()> {
    let missed: Vec<_> =
        figures.iter().filter(|it| !it.reached()).map(|it| it.what.as_str()).collect();
    match (options.check, missed.is_empty(), figures.is_empty()) {
        (false, ..) | (true, true, false) => Ok(()),
        (true, _, true) => Err("--check: nothing was measured that has a figure".to_owned()),
        (true, false, _) => Err(format!("missed: {}", missed.join("; "))),
    }
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
        let asked = PROGRAMS.iter().filter(|program| program.when == When::Asked).count();
        assert_eq!((options.rounds, options.programs.len()), (5, PROGRAMS.len() - asked));
        assert!(parsed("--only replace-10m").is_ok_and(|options| options.programs.len() == 1));
        assert!(!options.check);
    }

    #[test]
    fn a_quick_look_leaves_out_what_takes_long() {
        let options = parsed("--quick --peers").expect("both are options");
        assert_eq!(options.rounds, 1);
        assert!(options.programs.len() < PROGRAMS.len());
        assert!(options.allocators.len() >= 7);
        assert_eq!((options.allocators[0], options.allocators[1]), (&BUILTIN, &EBBTIDE));
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
}
