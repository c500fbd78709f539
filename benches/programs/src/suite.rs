//! The programs that are measured, and what measuring them gave.
//!
//! Allocators take turns within a round, so that whatever slows the machine for a while slows them
//! all, and ratios are formed within a round, never across.
#![forbid(unsafe_code)]

use crate::Result;
use crate::host::{Allocator, Host};
use crate::numbers::Spread;
use crate::process::{self, Outcome};

/// A Lua program with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name in tables and on command lines.
    pub name: &'static str,
    /// What it stands for.
    pub kind: ProgramKind,
    script: &'static str,
    args: &'static [&'static str],
    /// More rounds than this are not worth the wait.
    rounds_max: usize,
    /// When it is measured.
    pub when: When,
    unit: Unit,
}

/// What a program stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// One of the five reference workloads.
    Reference,
    /// Work that people recognise, which checks its own result.
    Known,
    /// A question of its own: memory, or one kind of block.
    Special,
    /// Blocks without Lua around them: no whole program.
    Blocks,
}

/// When a program is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Even in a quick look.
    Quick,
    /// Whenever all programs are.
    Full,
    /// By its name alone, for it takes minutes.
    Asked,
}

/// What the time of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// CPU seconds of the whole process.
    Seconds,
    /// Nanoseconds for each operation, which the program prints itself.
    Nanoseconds,
}

const fn seconds(name: &'static str, script: &'static str, kind: ProgramKind) -> Program {
    let unit = Unit::Seconds;
    Program { name, kind, script, args: &[], rounds_max: 100, when: When::Quick, unit }
}

const fn reference(
    name: &'static str,
    script: &'static str,
    args: &'static [&'static str],
) -> Program {
    Program { args, ..seconds(name, script, ProgramKind::Reference) }
}

/// Runs about half a second on LuaJIT's own allocator.
const fn known(name: &'static str, script: &'static str) -> Program {
    seconds(name, script, ProgramKind::Known)
}

const fn special(name: &'static str, script: &'static str, rounds_max: usize) -> Program {
    Program { rounds_max, ..seconds(name, script, ProgramKind::Special) }
}

const fn replacing(
    name: &'static str,
    script: &'static str,
    args: &'static [&'static str],
    rounds_max: usize,
) -> Program {
    let unit = Unit::Nanoseconds;
    let when = if rounds_max >= QUICK_ROUNDS_MAX { When::Quick } else { When::Full };
    Program { args, unit, when, ..special(name, script, rounds_max) }
}

const fn blocks(name: &'static str, args: &'static [&'static str], rounds_max: usize) -> Program {
    Program { kind: ProgramKind::Blocks, ..replacing(name, "blocks.lua", args, rounds_max) }
}

/// Programs with fewer rounds than this, since each round replaces much, are not in a quick look.
const QUICK_ROUNDS_MAX: usize = 3;

/// Every program.
pub const PROGRAMS: &[Program] = &[
    reference("tables", "tables.lua", &["8e6"]),
    reference("strings", "strings.lua", &["2.5e6"]),
    reference("closures", "closures.lua", &["4e6"]),
    reference("json", "json.lua", &["4000"]),
    reference("growth", "growth.lua", &["150"]),
    known("binary-trees", "binary_trees.lua"),
    known("k-nucleotide", "k_nucleotide.lua"),
    known("richards", "richards.lua"),
    known("deltablue", "deltablue.lua"),
    known("havlak", "havlak.lua"),
    known("cd", "cd.lua"),
    known("json-objects", "json_objects.lua"),
    known("bounce", "bounce.lua"),
    known("lru-cache", "lru_cache.lua"),
    known("coroutines", "coroutine_storm.lua"),
    known("string-builders", "string_builders.lua"),
    known("lpeg", "lpeg_grammar.lua"),
    known("cjson", "cjson_documents.lua"),
    known("router", "router.lua"),
    known("templates", "templates.lua"),
    special("grow8m", "grow8m.lua", 3),
    special("scatter", "scatter.lua", 2),
    Program { when: When::Full, ..special("service", "service.lua", 2) },
    blocks("blocks-10k", &["1e4"], 3),
    blocks("blocks-100k", &["1e5"], 3),
    blocks("blocks-1m", &["1e6"], 1),
    blocks("blocks-10m", &["1e7"], 2),
    replacing("replace-10k", "replace.lua", &["1e4"], 3),
    replacing("replace-1m", "replace.lua", &["1e6"], 1),
    Program { when: When::Asked, ..replacing("replace-10m", "replace.lua", &["1e7"], 1) },
];

/// Finds a program by name.
pub fn program(name: &str) -> Result<&'static Program> {
    let known = || PROGRAMS.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
    let found = PROGRAMS.iter().find(|program| program.name == name);
    found.ok_or_else(|| format!("no program is called {name}; there are {}", known()))
}

impl Program {
    /// The time that a run took, in this program's unit.
    pub fn time(&self, outcome: &Outcome) -> Option<f64> {
        match self.unit {
            Unit::Seconds => Some(outcome.cpu.as_secs_f64() - aside_s(outcome)),
            Unit::Nanoseconds => outcome.text.last()?.trim().parse().ok(),
        }
    }

    /// A time with its unit.
    pub fn show_time(&self, time: f64) -> String {
        match self.unit {
            Unit::Seconds => format!("{time:.3} s"),
            Unit::Nanoseconds => format!("{time:.1} ns"),
        }
    }
}

/// What the host took of a run's time for itself.
fn aside_s(outcome: &Outcome) -> f64 {
    outcome.event("all purged").map_or(0.0, |event| event.get("aside_us") as f64 / 1e6)
}

/// All runs of one program: for each allocator, in the order asked for, its rounds.
#[derive(Debug)]
pub struct Measured {
    /// Which program.
    pub program: &'static Program,
    runs: Vec<Vec<Outcome>>,
}

impl Measured {
    /// Runs `program` for `rounds` rounds, or fewer if it is a long one, on each allocator in turn.
    pub fn new(
        host: &Host,
        program: &'static Program,
        allocators: &[&'static Allocator],
        rounds: usize,
        mut announce: impl FnMut(&str),
    ) -> Result<Measured> {
        let rounds = rounds.min(program.rounds_max);
        let mut runs = vec![Vec::with_capacity(rounds); allocators.len()];
        for round in 1..=rounds {
            for (runs, allocator) in runs.iter_mut().zip(allocators) {
                announce(&format!("{} on {}, {round} of {rounds}", program.name, allocator.name));
                let options = ["--events", "--drop"];
                let command = host.command_with(allocator, &options, program.script, program.args);
                let outcome = process::run(command, None, |_| ());
                let failed = |error| format!("{} on {}: {error}", program.name, allocator.name);
                runs.push(outcome.map_err(failed)?);
            }
        }
        Ok(Measured { program, runs })
    }

    /// Runs that were made elsewhere.
    #[cfg(test)]
    pub fn from_runs(program: &'static Program, runs: Vec<Vec<Outcome>>) -> Measured {
        Measured { program, runs }
    }

    /// The rounds on one allocator, by its place in the order.
    pub fn runs(&self, allocator: usize) -> &[Outcome] {
        &self.runs[allocator]
    }

    /// Something of each round on one allocator; nothing when not every round has it.
    pub fn of(&self, allocator: usize, read: impl Fn(&Outcome) -> Option<f64>) -> Option<Spread> {
        let values = self.runs[allocator].iter().map(read).collect::<Option<Vec<_>>>()?;
        Spread::of(&values)
    }

    /// The time on one allocator.
    pub fn time(&self, allocator: usize) -> Option<Spread> {
        self.of(allocator, |outcome| self.program.time(outcome))
    }

    /// How many times as fast as the first allocator another one was, round by round.
    pub fn speed(&self, allocator: usize) -> Option<Spread> {
        self.ratio(0, allocator, |outcome| self.program.time(outcome))
    }

    /// Something on one allocator, divided by the same on another, round by round.
    pub fn ratio(
        &self,
        over: usize,
        under: usize,
        read: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Spread> {
        let pairs = self.runs[over].iter().zip(&self.runs[under]);
        let ratio = |(over, under)| Some(read(over)? / read(under)?);
        Spread::of(&pairs.map(ratio).collect::<Option<Vec<_>>>()?)
    }

    /// Which of some allocators has the least median of something.
    pub fn least(
        &self,
        allocators: &[usize],
        read: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<usize> {
        let medians = allocators.iter().filter_map(|&at| Some((self.of(at, &read)?.median, at)));
        medians.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use std::time::Duration;

    fn outcome(cpu_s: f64, text: &str) -> Outcome {
        Outcome {
            events: Vec::new(),
            text: vec![text.to_owned()],
            samples: Vec::new(),
            cpu: Duration::from_secs_f64(cpu_s),
            rss_peak: 0,
        }
    }

    #[test]
    fn speed_is_formed_round_by_round() {
        let runs = vec![
            vec![outcome(2.0, ""), outcome(4.0, ""), outcome(3.0, "")],
            vec![outcome(1.0, ""), outcome(4.0, ""), outcome(2.0, "")],
        ];
        let measured = Measured { program: &PROGRAMS[0], runs };
        assert_eq!(measured.speed(1), Some(Spread { median: 1.5, min: 1.0, max: 2.0 }));
    }

    #[test]
    fn the_best_of_several_has_the_least_median() {
        let run = |times: [f64; 3]| times.map(|time| outcome(time, "")).to_vec();
        let runs = vec![run([1.0, 1.0, 1.0]), run([3.0, 2.0, 9.0]), run([4.0, 2.5, 2.5])];
        let measured = Measured { program: &PROGRAMS[0], runs };
        let time = |outcome: &Outcome| measured.program.time(outcome);
        assert_eq!(measured.least(&[1, 2], time), Some(2));
        assert_eq!(measured.least(&[1], time), Some(1));
        assert_eq!(measured.least(&[], time), None);
    }

    #[test]
    fn what_the_host_does_for_itself_is_not_counted() {
        let mut run = outcome(2.0, "");
        run.events.extend(Event::parse("event\tlabel=all purged\taside_us=500000", Duration::ZERO));
        assert_eq!(PROGRAMS[0].time(&run), Some(1.5));
    }

    #[test]
    fn a_program_may_print_its_time_itself() {
        let program = program("replace-10k").expect("it is listed");
        assert_eq!(program.time(&outcome(9.0, "85.5")), Some(85.5));
        assert_eq!(program.time(&outcome(9.0, "oops")), None);
    }

    #[test]
    fn five_programs_are_the_reference() {
        assert_eq!(
            PROGRAMS.iter().filter(|program| program.kind == ProgramKind::Reference).count(),
            5
        );
    }
}
