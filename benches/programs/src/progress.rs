//! The display while runs last: on a terminal two growing curves, redrawn in place; piped, one line
//! for each event.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::event::Event;
use crate::memory::{Sample, in_megabytes, megabytes};
use crate::traffic;

const COLUMNS: usize = 60;
const ROWS: usize = 4;
/// The label of the event after which a program does nothing more.
const LAST_PHASE: &str = traffic::END;
const EIGHTHS: [char; 8] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇'];

/// The display of some runs, one after another.
#[derive(Debug)]
pub struct ProgressDisplay {
    curves: Vec<Curve>,
    /// How long a run is expected to last.
    span: Duration,
    terminal: bool,
    colourful: bool,
    drawn_lines: usize,
}

#[derive(Debug)]
struct Curve {
    name: &'static str,
    /// Escape code of its colour.
    colour: &'static str,
    phase: String,
    points: Vec<(Duration, u64)>,
}

impl ProgressDisplay {
    /// A display of runs by these names and colours (as in `ESC[…m`), each of about `span`.
    pub fn new(runs: &[(&'static str, &'static str)], span: Duration) -> ProgressDisplay {
        let curve = |&(name, colour)| Curve {
            name,
            colour,
            phase: "waiting".to_owned(),
            points: Vec::new(),
        };
        let terminal = std::io::stdout().is_terminal();
        ProgressDisplay {
            curves: runs.iter().map(curve).collect(),
            span,
            terminal,
            colourful: terminal && std::env::var_os("NO_COLOR").is_none(),
            drawn_lines: 0,
        }
    }

    /// Shows an event of a run.
    pub fn event(&mut self, run: usize, event: &Event) {
        if !self.terminal {
            let name = self.curves[run].name;
            println!("{name:<9} {:5.1} s  {}", event.at.as_secs_f64(), describe(event));
        } else {
            self.curves[run].phase.clone_from(&event.label);
        }
    }

    /// Shows a look at the memory of a run, unless the run is over and only tidies up.
    pub fn sample(&mut self, run: usize, sample: &Sample) {
        let curve = &mut self.curves[run];
        if curve.phase == LAST_PHASE {
            return;
        }
        curve.points.push((sample.at, sample.pss));
        self.redraw();
    }

    /// Leaves the display as it is; what is printed next goes below it.
    pub fn finish(&mut self) {
        self.redraw();
        self.drawn_lines = 0;
    }

    fn redraw(&mut self) {
        if !self.terminal {
            return;
        }
        let lines = self.lines();
        let mut screen = String::new();
        if self.drawn_lines > 0 {
            screen.push_str(&format!("\x1b[{}A", self.drawn_lines));
        }
        for line in &lines {
            screen.push_str(&format!("\r{line}\x1b[K\n"));
        }
        self.drawn_lines = lines.len();
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(screen.as_bytes()).and_then(|()| out.flush());
    }

    fn lines(&self) -> Vec<String> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let end = axis_end(points().map(|point| megabytes(point.1)).fold(0.0, f64::max));
        let lasted = points().map(|point| point.0).fold(self.span, Duration::max);
        let mut lines = Vec::new();
        for curve in &self.curves {
            lines.extend(self.curve_lines(curve, lasted, end));
        }
        lines.push(self.progress());
        lines
    }

    fn curve_lines(&self, curve: &Curve, lasted: Duration, end: f64) -> Vec<String> {
        let (on, off) = if self.colourful { (curve.colour, "\x1b[0m") } else { ("", "") };
        let now = curve.points.last().map_or(String::new(), |point| in_megabytes(point.1) + " MB");
        let mut lines = vec![format!("{:8}{:<10}{:<18}{now:>32}", "", curve.name, curve.phase)];
        for (row, bar) in bars(&curve.points, lasted, end).into_iter().enumerate() {
            let label = if row == 0 { format!("{end:.0}") } else { String::new() };
            lines.push(format!("{label:>6} │{on}{bar}{off}"));
        }
        lines.push(format!("{:>6} └{}", 0, "─".repeat(COLUMNS)));
        lines
    }

    /// Runs follow one another, so time passed is the sum of theirs.
    fn progress(&self) -> String {
        let last = |curve: &Curve| curve.points.last().map_or(Duration::ZERO, |point| point.0);
        let passed: Duration = self.curves.iter().map(last).sum();
        let whole = self.span * self.curves.len() as u32;
        let share = (passed.as_secs_f64() / whole.as_secs_f64()).min(1.0);
        let full = (share * COLUMNS as f64) as usize;
        let bar = "━".repeat(full) + &"·".repeat(COLUMNS - full);
        format!("{:8}{bar} {:3.0} s", "", passed.as_secs_f64())
    }
}

/// Where the axis ends, in MB: at a multiple of 20, with a fifth of that or more above the greatest.
fn axis_end(greatest: f64) -> f64 {
    (greatest / 20.0 + 0.2).ceil() * 20.0
}

/// The curve as [`ROWS`] lines of [`COLUMNS`] characters: in each column its last value.
fn bars(points: &[(Duration, u64)], lasted: Duration, end_megabytes: f64) -> Vec<String> {
    let mut heights = [0usize; COLUMNS];
    let mut filled = 0;
    for &(at, bytes) in points {
        let share = at.as_secs_f64() / lasted.as_secs_f64();
        let column = ((share * COLUMNS as f64) as usize).min(COLUMNS - 1);
        let eighths = megabytes(bytes) / end_megabytes * (ROWS * 8) as f64;
        let height = (eighths.round() as usize).clamp(1, ROWS * 8);
        heights[filled.min(column)..=column].fill(height);
        filled = column;
    }
    let cell = |height: usize, floor: usize| match height.saturating_sub(floor) {
        eighths @ 0..8 => EIGHTHS[eighths],
        _ => '█',
    };
    let row = |row: usize| heights.iter().map(|&height| cell(height, row * 8)).collect();
    (0..ROWS).rev().map(row).collect()
}

fn describe(event: &Event) -> String {
    let size = |key| in_megabytes(event.get(key));
    format!(
        "{:<18} live {:>6}  RSS {:>6}  PSS {:>6} MB",
        event.label,
        size("live"),
        size("rss"),
        size("pss")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_the_time_that_passed() {
        let lasted = Duration::from_secs(60);
        let points = [(Duration::ZERO, 0), (Duration::from_secs(29), 10 << 20)];
        let rows = bars(&points, lasted, 10.0);
        assert_eq!(rows.len(), ROWS);
        for row in &rows {
            assert_eq!(row.chars().count(), COLUMNS);
            assert_eq!(row.trim_end().chars().count(), 30);
        }
    }

    #[test]
    fn the_axis_ends_above_the_greatest() {
        assert_eq!([0.0, 78.4, 99.0].map(axis_end), [20.0, 100.0, 120.0]);
    }

    #[test]
    fn something_is_always_seen_of_a_running_process() {
        let rows = bars(&[(Duration::ZERO, 1)], Duration::from_secs(1), 100.0);
        assert_eq!(rows.concat().trim(), "▁");
    }
}
