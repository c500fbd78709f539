//! The figures that ebbtide must reach against LuaJIT's own allocator in whole programs.
//!
//! A figure whose programs were not run is left out, so that a part of the suite can be checked.
#![forbid(unsafe_code)]

use crate::host::{Allocator, CHECKED, SAMPLED};
use crate::memory::megabytes;
use crate::numbers::geometric_mean;
use crate::peer_comparison;
use crate::process::Outcome;
use crate::suite::{Measured, ProgramKind};

/// The first allocator measured is what the others are compared with.
const BASE: usize = 0;

/// One figure, as it came out.
#[derive(Debug, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The same on the allocator it is compared with, where that says something.
    pub base: Option<f64>,
    /// What came out.
    pub seen: f64,
    /// What it must be.
    pub bound: Bound,
    /// Its unit.
    pub unit: &'static str,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Figure {
    /// Whether it is what it must be.
    pub fn reached(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.seen >= bound,
            Bound::AtMost(bound) => self.seen <= bound,
        }
    }
}

/// Every figure that `measured` yields for one allocator against LuaJIT's own and against `peers`,
/// all by their places in the order.
pub fn figures(measured: &[Measured], allocator: usize, peers: &[usize]) -> Vec<Figure> {
    let mut figures = peer_comparison::figures(measured, allocator, peers);
    figures.extend(reference_figures(measured, allocator));
    figures.extend(MEMORY.iter().filter_map(|row| row.figure(measured, allocator)));
    figures.extend(SPEED.iter().filter_map(|row| row.figure(measured, allocator)));
    figures
}

/// What each program takes on checked heaps, as often as it takes on the first allocator, which is
/// ours without checks.
pub fn checked_figures(measured: &[Measured], allocators: &[&Allocator]) -> Vec<Figure> {
    let figure = |it: &Measured, at: usize, bound| {
        let times = it.ratio(at, BASE, |outcome| it.program.time(outcome))?.median;
        let what = format!("{}, {}, time against ebbtide", it.program.name, allocators[at].name);
        let bound = Bound::AtMost(bound);
        Some(Figure { what, base: Some(1.0), seen: times, bound, unit: "x" })
    };
    let mut figures = Vec::new();
    for (allocator, bound) in [(&CHECKED, 2.5), (&SAMPLED, 1.03)] {
        if let Some(at) = allocators.iter().position(|it| *it == allocator) {
            figures.extend(measured.iter().filter_map(|it| figure(it, at, bound)));
        }
    }
    figures
}

/// The geometric mean over the five reference workloads, and the worst of them.
fn reference_figures(measured: &[Measured], allocator: usize) -> Vec<Figure> {
    let reference =
        measured.iter().filter(|measured| measured.program.kind == ProgramKind::Reference);
    let speeds: Vec<f64> = reference
        .filter_map(|measured| measured.speed(allocator))
        .map(|spread| spread.median)
        .collect();
    let (Some(mean), 5) = (geometric_mean(&speeds), speeds.len()) else {
        return Vec::new();
    };
    let slowest = speeds.into_iter().fold(f64::INFINITY, f64::min);
    let figure = |what: &str, seen, bound| Figure {
        what: what.to_owned(),
        base: Some(1.0),
        seen,
        bound: Bound::AtLeast(bound),
        unit: "x",
    };
    vec![
        figure("speed, five workloads, geometric mean", mean, 1.20),
        figure("speed, slowest of the five", slowest, 0.97),
    ]
}

/// A figure that is the median of something that each run shows.
struct MemoryRow {
    what: &'static str,
    program: &'static str,
    read: fn(&Outcome) -> Option<f64>,
    bound: Bound,
    unit: &'static str,
}

const MEMORY: &[MemoryRow] = &[
    MemoryRow {
        what: "scatter, RSS at the peak",
        program: "scatter",
        read: |outcome| size(outcome, "peak", "rss"),
        bound: Bound::AtMost(385.0),
        unit: "MB",
    },
    MemoryRow {
        what: "service, PSS idle after peak 3, reclaimed",
        program: "service",
        read: |outcome| size(outcome, "idle 3", "pss"),
        bound: Bound::AtMost(24.0),
        unit: "MB",
    },
    MemoryRow {
        what: "service, PSS over the start, all dropped",
        program: "service",
        read: |outcome| Some(size(outcome, "idle empty", "pss")? - size(outcome, "start", "pss")?),
        bound: Bound::AtMost(2.0),
        unit: "MB",
    },
    MemoryRow {
        what: "service, speed of the first reclaim",
        program: "service",
        read: reclaim_speed,
        bound: Bound::AtLeast(4.0),
        unit: "GB/s",
    },
    MemoryRow {
        what: "scatter, bytes of metadata in a hundred of heap",
        program: "scatter",
        read: metadata_share,
        bound: Bound::AtMost(1.7),
        unit: "%",
    },
];

impl MemoryRow {
    fn figure(&self, measured: &[Measured], allocator: usize) -> Option<Figure> {
        let measured = find(measured, self.program)?;
        Some(Figure {
            what: self.what.to_owned(),
            base: measured.of(BASE, self.read).map(|spread| spread.median),
            seen: measured.of(allocator, self.read)?.median,
            bound: self.bound,
            unit: self.unit,
        })
    }
}

/// A figure that is a ratio of times.
struct SpeedRow {
    what: &'static str,
    program: &'static str,
    bound: Bound,
}

const SPEED: &[SpeedRow] = &[
    SpeedRow {
        what: "speed, growing a table to 8 million slots",
        program: "grow8m",
        bound: Bound::AtLeast(1.3),
    },
    SpeedRow {
        what: "time, replacing one of 10 thousand blocks",
        program: "blocks-10k",
        bound: Bound::AtMost(1.0),
    },
    SpeedRow {
        what: "time, replacing one of 10 million blocks",
        program: "blocks-10m",
        bound: Bound::AtMost(0.6),
    },
];

impl SpeedRow {
    fn figure(&self, measured: &[Measured], allocator: usize) -> Option<Figure> {
        let speed = find(measured, self.program)?.speed(allocator)?.median;
        let seen = match self.bound {
            Bound::AtLeast(_) => speed,
            Bound::AtMost(_) => 1.0 / speed,
        };
        let what = self.what.to_owned();
        Some(Figure { what, base: Some(1.0), seen, bound: self.bound, unit: "x" })
    }
}

fn find<'a>(measured: &'a [Measured], name: &str) -> Option<&'a Measured> {
    measured.iter().find(|measured| measured.program.name == name)
}

fn size(outcome: &Outcome, label: &str, key: &str) -> Option<f64> {
    outcome.event(label).map(|event| megabytes(event.get(key)))
}

/// Of what the heap holds at the peak, in percent. Nothing where the host does not know.
fn metadata_share(outcome: &Outcome) -> Option<f64> {
    let peak = outcome.event("peak")?;
    let resident = peak.get("heap_resident");
    (resident > 0).then(|| 100.0 * peak.get("heap_metadata") as f64 / resident as f64)
}

/// GB (2^30 bytes) returned in a second. Nothing where there is no reclaim.
fn reclaim_speed(outcome: &Outcome) -> Option<f64> {
    let reclaim = outcome.event("reclaim")?;
    let seconds = reclaim.get("elapsed_us").max(1) as f64 / 1e6;
    Some(megabytes(reclaim.get("returned")) / 1024.0 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_reached_when_met_exactly() {
        let figure =
            |seen, bound| Figure { what: String::new(), base: None, seen, bound, unit: "" };
        assert!(figure(1.2, Bound::AtLeast(1.2)).reached());
        assert!(!figure(1.19, Bound::AtLeast(1.2)).reached());
        assert!(figure(24.0, Bound::AtMost(24.0)).reached());
        assert!(!figure(24.1, Bound::AtMost(24.0)).reached());
    }

    #[test]
    fn what_was_not_run_gives_no_figure() {
        assert_eq!(figures(&[], 1, &[2]), []);
    }
}
