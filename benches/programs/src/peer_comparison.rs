//! One allocator against LuaJIT's own and against the best of the others, over all programs.
//!
//! The best is another one for each program, and for time another than for memory: an allocator
//! that nobody has, which is best at everything. It is chosen by its median, and the ratio to it is
//! formed round by round like every other, for the best of each round would be chosen by noise.
#![forbid(unsafe_code)]

use crate::figures::{Bound, Figure};
use crate::numbers::{Spread, geometric_mean};
use crate::process::Outcome;
use crate::suite::{Measured, PROGRAMS, ProgramKind};

/// Something to be less of: time, or memory.
pub type Cost = fn(&Measured, &Outcome) -> Option<f64>;

/// The time of a run.
pub const TIME: Cost = |measured, outcome| measured.program.time(outcome);
/// The most that was resident at once.
pub const PEAK: Cost = |_, outcome| Some(outcome.rss_peak as f64);

/// Which of `peers` costs least in a program, and how many times as much as `allocator`.
pub fn best(
    measured: &Measured,
    cost: Cost,
    allocator: usize,
    peers: &[usize],
) -> Option<(usize, Spread)> {
    let read = |outcome: &Outcome| cost(measured, outcome);
    let peer = measured.least(peers, read)?;
    Some((peer, measured.ratio(peer, allocator, read)?))
}

/// A ratio in one program.
struct Entry {
    program: &'static str,
    ratio: f64,
}

/// The figures over all programs; none unless all of those that people recognise were measured.
pub fn figures(measured: &[Measured], allocator: usize, peers: &[usize]) -> Vec<Figure> {
    let whole: Vec<_> =
        measured.iter().filter(|it| it.program.kind != ProgramKind::Blocks).collect();
    let known = |kind| usize::from(kind == ProgramKind::Known);
    let all: usize = PROGRAMS.iter().map(|program| known(program.kind)).sum();
    if whole.iter().map(|it| known(it.program.kind)).sum::<usize>() < all {
        return Vec::new();
    }
    let entries = |cost: Cost, others: &[usize]| -> Vec<Entry> {
        let entry = |it: &&Measured| {
            let ratio = best(it, cost, allocator, others)?.1.median;
            Some(Entry { program: it.program.name, ratio })
        };
        whole.iter().filter_map(entry).collect()
    };
    let mut figures = Vec::new();
    figures.extend(speed("built-in", &entries(TIME, &[0]), 1.25, 1.00));
    figures.extend(memory("built-in", &entries(PEAK, &[0]), 0.95));
    if !peers.is_empty() {
        figures.extend(speed("the best peer", &entries(TIME, peers), 1.03, 0.98));
        figures.extend(memory("the best peer", &entries(PEAK, peers), 1.00));
    }
    figures
}

fn figure(what: String, seen: f64, bound: Bound) -> Figure {
    Figure { what, base: Some(1.0), seen, bound, unit: "x" }
}

/// The geometric mean, and the worst program by name.
fn speed(against: &str, entries: &[Entry], mean_min: f64, worst_min: f64) -> Vec<Figure> {
    let ratios: Vec<f64> = entries.iter().map(|entry| entry.ratio).collect();
    let worst = entries.iter().min_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let (Some(mean), Some(worst)) = (geometric_mean(&ratios), worst) else {
        return Vec::new();
    };
    let count = entries.len();
    vec![
        figure(
            format!("speed against {against}, {count} programs, geometric mean"),
            mean,
            Bound::AtLeast(mean_min),
        ),
        figure(
            format!("speed against {against}, worst program ({})", worst.program),
            worst.ratio,
            Bound::AtLeast(worst_min),
        ),
    ]
}

fn memory(against: &str, entries: &[Entry], mean_max: f64) -> Option<Figure> {
    let ratios: Vec<f64> = entries.iter().map(|entry| 1.0 / entry.ratio).collect();
    let what = format!("peak RSS against {against}, {} programs, geometric mean", entries.len());
    Some(figure(what, geometric_mean(&ratios)?, Bound::AtMost(mean_max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn outcome(cpu_s: f64, rss_peak: u64) -> Outcome {
        Outcome {
            events: Vec::new(),
            text: Vec::new(),
            samples: Vec::new(),
            cpu: Duration::from_secs_f64(cpu_s),
            rss_peak,
        }
    }

    /// All known programs: the first allocator takes 2 s and 300 bytes, the second, which is ours,
    /// 1 s and 200, the third 1.1 s and 100, and the fourth 0.9 s and 400.
    fn measured() -> Vec<Measured> {
        let known = PROGRAMS.iter().filter(|program| program.kind == ProgramKind::Known);
        let run = |cpu_s, peak| vec![outcome(cpu_s, peak); 2];
        let runs = || vec![run(2.0, 300), run(1.0, 200), run(1.1, 100), run(0.9, 400)];
        known.map(|program| Measured::from_runs(program, runs())).collect()
    }

    #[test]
    fn the_best_is_another_for_time_than_for_memory() {
        let measured = &measured()[0];
        let (peer, ratio) = best(measured, TIME, 1, &[2, 3]).expect("there are peers");
        assert_eq!((peer, ratio.median), (3, 0.9));
        let (peer, ratio) = best(measured, PEAK, 1, &[2, 3]).expect("there are peers");
        assert_eq!((peer, ratio.median), (2, 0.5));
        assert_eq!(best(measured, TIME, 1, &[]), None);
    }

    #[test]
    fn figures_are_means_and_the_worst() {
        let figures = figures(&measured(), 1, &[2, 3]);
        let seen: Vec<f64> =
            figures.iter().map(|figure| (figure.seen * 100.0).round() / 100.0).collect();
        assert_eq!(seen, [2.0, 2.0, 0.67, 0.9, 0.9, 2.0]);
        let reached: Vec<bool> = figures.iter().map(Figure::reached).collect();
        assert_eq!(reached, [true, true, true, false, false, false]);
    }

    #[test]
    fn a_part_of_the_programs_gives_no_figure() {
        assert_eq!(figures(&measured()[1..], 1, &[2, 3]), []);
        assert_eq!(figures(&measured(), 1, &[]).len(), 3);
    }
}
