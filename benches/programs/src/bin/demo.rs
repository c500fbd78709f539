//! Shows the breathing curve: one service, once on LuaJIT's own allocator and once on ebbtide.
//!
//! Each run is a process of its own, measured from outside. The service never asks for memory to
//! go back; its event loop lets the heap tick. The program shows a live display, a table, and the
//! curve in `target/demo/`, as JSON and as a picture. The exit status says whether the memory went
//! back. With `--soak` the same traffic lasts longer, and the heap's statistics are printed too.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ebbtide_programs::Result;
use ebbtide_programs::breathing::{Breathing, SUBJECTS};
use ebbtide_programs::host::Host;
use ebbtide_programs::picture::publish;
use ebbtide_programs::process::{self, Notice, Outcome};
use ebbtide_programs::progress::ProgressDisplay;
use ebbtide_programs::table;
use ebbtide_programs::traffic::{LONG, SHORT, Traffic};

const USAGE: &str = "usage: demo [--soak] [--library FILE]";

/// What is run, and what is made of it.
struct Form {
    traffic: Traffic,
    /// How often the memory is looked at.
    period: Duration,
    /// The name of the file that holds the curve.
    file: &'static str,
    /// Whether this is the soak: too long for notes in the picture, and long enough for an account.
    soak: bool,
}

const DEMO: Form =
    Form { traffic: SHORT, period: Duration::from_millis(50), file: "breathing.json", soak: false };
const SOAK: Form =
    Form { traffic: LONG, period: Duration::from_millis(100), file: "soak.json", soak: true };

struct Options {
    form: &'static Form,
    /// A `libebbtide.a` or `.so` other than the one cargo builds.
    library: Option<PathBuf>,
}

fn main() -> ExitCode {
    process::catch_interrupts();
    match parse(std::env::args().skip(1)).and_then(|options| demo(&options)) {
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

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { form: &DEMO, library: None };
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} wants a value; {USAGE}"));
        match option.as_str() {
            "--soak" => options.form = &SOAK,
            "--library" => options.library = Some(value()?.into()),
            _ => return Err(format!("no such option: {option}; {USAGE}")),
        }
    }
    Ok(options)
}

fn demo(options: &Options) -> Result<()> {
    let form = options.form;
    let host = Host::build(options.library.as_deref())?;
    let versions = host.versions()?;
    println!("One Lua service: {}", contents(form.traffic));
    println!("It runs on LuaJIT's own allocator (built-in) and then on ebbtide. {versions}");
    println!("All sizes are in MB; PSS and RSS are those of the whole process.\n");
    let breathing = Breathing::new(form.traffic, run_both(&host, form)?)?;
    println!("\n{}", table::render(&breathing.rows()));
    if form.soak {
        println!("{}", table::render(&breathing.heap_rows()));
    }
    let path = host.output_dir().join("demo").join(form.file);
    let picture = breathing.picture(form.period.as_millis(), &versions, !form.soak);
    publish(&path, &picture.json())?;
    breathing.judge()?;
    println!("{}", breathing.verdict());
    Ok(())
}

fn contents(traffic: Traffic) -> String {
    let (peaks, seconds) = (traffic.peaks().len(), traffic.length().as_secs());
    format!(
        "{peaks} peaks of traffic with pauses and low traffic between them, then all data is \
         dropped: {seconds} s."
    )
}

fn run_both(host: &Host, form: &Form) -> Result<[Outcome; 2]> {
    let names =
        SUBJECTS.each_ref().map(|subject| (subject.allocator.name, subject.terminal_colour));
    let mut progress = ProgressDisplay::new(&names, form.traffic.length());
    let arguments = form.traffic.arguments();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut run = |index: usize| {
        let allocator = SUBJECTS[index].allocator;
        let command = host.command(allocator, "traffic.lua", &arguments);
        let show = |notice: Notice| match notice {
            Notice::Event(event) => progress.event(index, event),
            Notice::Sample(sample) => progress.sample(index, sample),
        };
        let outcome = process::run(command, Some(form.period), show);
        outcome.map_err(|error| format!("traffic.lua on {}: {error}", allocator.name))
    };
    let outcomes = [run(0)?, run(1)?];
    progress.finish();
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_taken() {
        assert!(!parsed("").expect("no options are fine").form.soak);
        let options = parsed("--library x.a --soak").expect("both are known");
        assert!(options.form.soak);
        assert_eq!(options.library, Some(PathBuf::from("x.a")));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (line, part) in [
            ("--library", "--library wants a value; usage: demo"),
            ("--fast", "no such option: --fast; usage: demo"),
        ] {
            let error = parsed(line).err().unwrap_or_default();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
