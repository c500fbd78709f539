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
    /// Whether it is one of the five reference workloads.
    pub reference: bool,
    script: &'static str,
    args: &'static [&'static str],
    /// More rounds than this are not worth the wait.
    rounds_max: usize,
    unit: Unit,
}

/// What the time of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// CPU seconds of the whole process.
    Seconds,
    /// Nanoseconds for each operation, which the program prints itself.
    Nanoseconds,
}

const fn reference(name: &'static str, script: &'static str) -> Program {
    Program { name, reference: true, script, args: &[], rounds_max: 100, unit: Unit::Seconds }
}

const fn special(name: &'static str, script: &'static str, rounds_max: usize) -> Program {
    Program { name, reference: false, script, args: &[], rounds_max, unit: Unit::Seconds }
}

const fn replacing(
    name: &'static str,
    script: &'static str,
    args: &'static [&'static str],
    rounds_max: usize,
) -> Program {
    Program { name, reference: false, script, args, rounds_max, unit: Unit::Nanoseconds }
}

/// Every program.
pub const PROGRAMS: &[Program] = &[
    reference("tables", "tables.lua"),
    reference("strings", "strings.lua"),
    reference("closures", "closures.lua"),
    reference("json", "json.lua"),
    reference("growth", "growth.lua"),
    special("grow8m", "grow8m.lua", 100),
    special("scatter", "scatter.lua", 3),
    special("service", "service.lua", 3),
    replacing("blocks-10k", "blocks.lua", &["1e4"], 100),
    replacing("blocks-100k", "blocks.lua", &["1e5"], 100),
    replacing("blocks-1m", "blocks.lua", &["1e6"], 5),
    replacing("blocks-10m", "blocks.lua", &["1e7"], 5),
    replacing("replace-10k", "replace.lua", &["1e4"], 100),
    replacing("replace-1m", "replace.lua", &["1e6"], 3),
    replacing("replace-10m", "replace.lua", &["1e7"], 2),
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
            Unit::Seconds => Some(outcome.cpu.as_secs_f64()),
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
                let command = host.command(allocator, program.script, program.args);
                let outcome = process::run(command, None, |_| ());
                let failed = |error| format!("{} on {}: {error}", program.name, allocator.name);
                runs.push(outcome.map_err(failed)?);
            }
        }
        Ok(Measured { program, runs })
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
        let pairs = self.runs[0].iter().zip(&self.runs[allocator]);
        let ratio = |(base, other)| Some(self.program.time(base)? / self.program.time(other)?);
        Spread::of(&pairs.map(ratio).collect::<Option<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_program_may_print_its_time_itself() {
        let program = program("replace-10k").expect("it is listed");
        assert_eq!(program.time(&outcome(9.0, "85.5")), Some(85.5));
        assert_eq!(program.time(&outcome(9.0, "oops")), None);
    }

    #[test]
    fn five_programs_are_the_reference() {
        assert_eq!(PROGRAMS.iter().filter(|program| program.reference).count(), 5);
    }
}
