//! What the command is to do.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::nearest::Meant;
use crate::options::{FLAGS, Flag};
use crate::report_signal;

/// What the arguments ask for.
pub enum Task {
    /// Say how the command is used.
    Help,
    /// Say which version it is.
    Version,
    /// Run a program.
    Run(Run),
}

/// A program to run, and how.
#[derive(Default)]
pub struct Run {
    /// Options of the library, in the order given: the last one wins.
    pub options: Vec<(&'static Flag, OsString)>,
    /// Each VM tells at its end what it held and gave back.
    pub report: bool,
    /// The signal on which VMs tell that while the program runs.
    pub report_signal: Option<OsString>,
    /// The program tells what was taken over.
    pub verbose: bool,
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// Reads the arguments. The error is one line that names what is wrong and what to do.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Task, String> {
    let mut arguments = arguments.into_iter();
    let first = arguments
        .next()
        .ok_or("no command; say: ebbtide run [OPTIONS] COMMAND, or ebbtide --help")?;
    match first.to_str() {
        Some("run") => read_run(arguments),
        Some("-h" | "--help" | "help") => Ok(Task::Help),
        Some("-V" | "--version" | "version") => Ok(Task::Version),
        _ => {
            let first = first.to_string_lossy();
            Err(format!("{first}: no such task; to run a program say: ebbtide run {first}"))
        }
    }
}

fn read_run(arguments: impl Iterator<Item = OsString>) -> Result<Task, String> {
    let mut arguments = arguments.peekable();
    let mut run = Run::default();
    // The last flag that took the argument behind it, and that argument.
    let mut taker: Option<(&Flag, OsString)> = None;
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let Some(name) = text.strip_prefix('-').filter(|name| !name.is_empty()) else {
            run.command.push(argument);
            break;
        };
        match name {
            "-" => break,
            "h" | "-help" => return Ok(Task::Help),
            "-report" => run.report = true,
            "-verbose" => run.verbose = true,
            // Alone, it is a switch.
            "-collect" if !arguments.peek().is_some_and(is_switch_or_auto) => {
                run.options.extend(Flag::named("collect").map(|flag| (flag, "on".into())));
            }
            _ if is_report_signal(name) => {
                run.report_signal = Some(read_signal(&text, &mut arguments)?);
            }
            _ => {
                let option = read_option(&text, &mut arguments, taker.as_ref())?;
                taker = (!text.contains('=')).then(|| option.clone());
                run.options.push(option);
            }
        }
    }
    run.command.extend(arguments);
    match run.command.is_empty() {
        true => Err(no_command(taker.as_ref())),
        false => Ok(Task::Run(run)),
    }
}

/// There is no command, perhaps because a flag took it for its value.
fn no_command(taker: Option<&(&Flag, OsString)>) -> String {
    let taken = taker.map_or(String::new(), |taker| format!(" is left: {}", took(taker)));
    format!("run: no command{taken}; say: ebbtide run [OPTIONS] COMMAND")
}

fn took((flag, word): &(&Flag, OsString)) -> String {
    format!("--{} took {} as its value", flag.argument(), word.to_string_lossy())
}

/// Whether some option may take this word: a number, or one of the words that are values.
fn is_a_value(word: &OsString) -> bool {
    let words = ["on", "off", "auto", "sample", "cgroup"];
    word.as_bytes().first().is_some_and(u8::is_ascii_digit) || words.iter().any(|one| word == one)
}

/// `--NAME=VALUE`, or `--NAME` with its value behind it. The option before it may have taken the
/// command.
fn read_option(
    argument: &str,
    rest: &mut impl Iterator<Item = OsString>,
    taker: Option<&(&Flag, OsString)>,
) -> Result<(&'static Flag, OsString), String> {
    let (name, value) = match argument.split_once('=') {
        Some((name, value)) => (name, Some(OsString::from(value))),
        None => (argument, None),
    };
    let flag = name.strip_prefix("--").and_then(Flag::named).ok_or_else(|| unknown(name, taker))?;
    Ok((flag, value_or_next(name, value, rest)?))
}

fn value_or_next(
    name: &str,
    value: Option<OsString>,
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<OsString, String> {
    value.or_else(|| rest.next()).ok_or(format!("{name}: takes a value; none given"))
}

fn is_switch_or_auto(word: &OsString) -> bool {
    word == "on" || word == "off" || word == "auto"
}

fn is_report_signal(name: &str) -> bool {
    name == "-report-signal" || name.starts_with("-report-signal=")
}

/// `--report-signal=SIGNAL`, or with the signal behind it.
fn read_signal(
    argument: &str,
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<OsString, String> {
    let value = argument.split_once('=').map(|(_, value)| OsString::from(value));
    let value = value_or_next("--report-signal", value, rest)?;
    match report_signal::number(value.as_bytes()) {
        Some(_) => Ok(value),
        None => {
            let value = value.to_string_lossy();
            Err(format!("--report-signal {value}: {}", report_signal::TAKES))
        }
    }
}

fn unknown(name: &str, taker: Option<&(&Flag, OsString)>) -> String {
    if matches!(name, "--report" | "--verbose") {
        return format!("{name}: takes no value");
    }
    let names: Vec<String> = FLAGS.iter().map(Flag::argument).collect();
    let own = ["report", "report-signal", "verbose", "help"];
    let bare = name.trim_start_matches('-').as_bytes();
    let meant = Meant::of(bare, names.iter().map(String::as_str).chain(own)).with_prefix("--");
    let advice = match taker.filter(|(_, word)| !is_a_value(word)) {
        Some(taker @ (flag, word)) => {
            let usage = format!("--{} {} {}", flag.argument(), flag.value, word.to_string_lossy());
            format!("{}; say {usage}", took(taker))
        }
        None => "--help lists them, and -- ends them".to_owned(),
    };
    format!("{name}: no such option{meant}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Run, String> {
        match read(arguments.iter().map(OsString::from))? {
            Task::Run(run) => Ok(run),
            _ => Err("not run".to_owned()),
        }
    }

    fn error(arguments: &[&str]) -> String {
        run(arguments).err().expect("an error")
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let parsed = run(&["run", "--retain", "8m", "--report", "luajit", "--verbose"]);
        let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
        let options: Vec<_> =
            parsed.options.iter().map(|(flag, v)| (flag.name, v.clone())).collect();
        assert_eq!(options, [("retain", OsString::from("8m"))]);
        assert!(parsed.report && !parsed.verbose);
        assert_eq!(parsed.command, ["luajit", "--verbose"]);
    }

    #[test]
    fn collect_is_a_switch_that_may_have_a_value() {
        for (words, value, command) in [
            (&["--collect", "x", "on"][..], "on", &["x", "on"][..]),
            (&["--collect", "--", "off"], "on", &["off"]),
            (&["--collect", "off", "x"], "off", &["x"]),
            (&["--collect=auto", "x"], "auto", &["x"]),
        ] {
            let parsed = run(&[&["run"], words].concat());
            let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
            let options: Vec<_> =
                parsed.options.iter().map(|(flag, v)| (flag.name, v.clone())).collect();
            assert_eq!(options, [("collect", OsString::from(value))]);
            assert_eq!(parsed.command, command);
        }
        assert!(error(&["run", "--collect"]).starts_with("run: no command; say"));
    }

    #[test]
    fn two_dashes_end_the_options() {
        let parsed = run(&["run", "--decay-ms=0", "--", "--odd", "--"]);
        let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.options.len(), 1);
        assert_eq!(parsed.command, ["--odd", "--"]);
        assert_eq!(run(&["run", "-", "x"]).map(|run| run.command.len()).ok(), Some(2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(error(&[]).starts_with("no command; say: ebbtide run"));
        assert!(error(&["luajit", "x"]).ends_with("ebbtide run luajit"));
        assert!(error(&["run"]).starts_with("run: no command"));
        assert_eq!(
            error(&["run", "--retain", "./service", "--verbose"]),
            "run: no command is left: --retain took ./service as its value; \
             say: ebbtide run [OPTIONS] COMMAND"
        );
        assert!(error(&["run", "--retain=1m"]).starts_with("run: no command; say"));
        assert_eq!(
            error(&["run", "--retain", "./service", "--collect"]),
            "run: no command is left: --retain took ./service as its value; \
             say: ebbtide run [OPTIONS] COMMAND"
        );
        assert_eq!(error(&["run", "--retain"]), "--retain: takes a value; none given");
        assert!(error(&["run", "--banana", "true"]).starts_with("--banana: no such option"));
        assert!(error(&["run", "-retain", "1", "true"]).starts_with("-retain: no such option"));
        assert_eq!(error(&["run", "--report=1", "true"]), "--report: takes no value");
        assert!(error(&["run", "--cheked", "1", "true"]).contains("did you mean --checked?"));
        assert!(error(&["run", "--reprot", "true"]).contains("did you mean --report?"));
        let expected = "--report-signal KILL: takes HUP, USR1";
        assert!(error(&["run", "--report-signal", "KILL", "true"]).starts_with(expected));
        assert!(error(&["run", "--report-signal"]).starts_with("--report-signal: takes a value"));
    }

    #[test]
    fn a_command_that_an_option_took_for_its_value_is_named() {
        for (words, expected) in [
            (
                &["--checked", "nginx", "-p", "/srv"][..],
                "-p: no such option; --checked took nginx as its value; \
                 say --checked off|on|sample nginx",
            ),
            (
                &["--retain", "./service", "--verbose", "--listen=80"],
                "--listen: no such option; --retain took ./service as its value; \
                 say --retain SIZE ./service",
            ),
        ] {
            assert_eq!(error(&[&["run"], words].concat()), expected);
        }
        // A value that is one is not in question, nor is one behind an equals sign.
        for words in [
            &["--checked", "sample", "-p"][..],
            &["--retain", "8m", "-p"],
            &["--limit-soft", "cgroup", "-p"],
            &["--checked=nginx", "-p"],
        ] {
            let said = error(&[&["run"], words].concat());
            assert_eq!(said, "-p: no such option; --help lists them, and -- ends them");
        }
    }

    #[test]
    fn a_signal_can_be_chosen_in_both_ways() {
        for words in
            [&["run", "--report-signal", "USR2", "x"][..], &["run", "--report-signal=34", "x"]]
        {
            let parsed = run(words).unwrap_or_else(|error| panic!("{error}"));
            assert!(parsed.report_signal.is_some());
            assert_eq!(parsed.command, ["x"]);
        }
    }

    #[test]
    fn help_and_version_are_found() {
        for words in [&["--help"][..], &["-h"], &["help"], &["run", "--help"], &["run", "-h"]] {
            let task = read(words.iter().map(OsString::from));
            assert!(matches!(task, Ok(Task::Help)), "{words:?}");
        }
        let task = read([OsString::from("--version")]);
        assert!(matches!(task, Ok(Task::Version)));
    }
}
