//! All that the runs of whole programs showed: as tables, and as JSON.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::figures::{Bound, Figure};
use crate::host::Allocator;
use crate::memory::{in_megabytes, megabytes};
use crate::numbers::Spread;
use crate::peer_comparison::{PEAK, TIME, best};
use crate::process::Outcome;
use crate::suite::Measured;
use crate::table;

/// What was measured: the programs, each on the same allocators, LuaJIT's own or another to compare
/// with first.
#[derive(Debug)]
pub struct Report<'a> {
    /// In the order in which they took turns.
    pub allocators: &'a [&'static Allocator],
    /// In the order in which they ran.
    pub measured: &'a [Measured],
}

/// How many events every program has: all dropped, all purged.
const EVENTS_OF_ALL: usize = 2;

/// A column of a table for each allocator: what one cell says.
type Cell<'a> = &'a dyn Fn(&Measured, usize) -> Option<String>;

impl Report<'_> {
    /// The places of the allocators that are peers.
    pub fn peers(&self) -> Vec<usize> {
        let places = self.allocators.iter().enumerate();
        places.filter(|(_, allocator)| allocator.is_peer()).map(|(place, _)| place).collect()
    }

    /// Every table, one below the other.
    pub fn tables(&self, ours: Option<usize>) -> String {
        let mut text = String::new();
        let base = self.allocators[0].name;
        let mut put = |rows: Vec<Vec<String>>| {
            let _ = writeln!(text, "{}", table::render(&rows));
        };
        put(self.table("CPU time, median", &|it, at| {
            let time = it.time(at)?;
            Some(format!("{} ±{:.0} %", it.program.show_time(time.median), time.percent()))
        }));
        put(self.table(&format!("times as fast as {base} (range)"), &|it, at| {
            (at > 0).then_some(show_spread(it.speed(at)?))
        }));
        if let (Some(ours), false) = (ours, self.peers().is_empty()) {
            put(self.peer_comparison(ours));
        }
        put(self.table("peak RSS, MB", &|it, at| {
            let peak = it.of(at, |outcome| Some(megabytes(outcome.rss_peak)))?;
            Some(format!("{:.1}", peak.median))
        }));
        for key in ["rss", "pss"] {
            let heading = format!("{} when all was dropped, then purged, MB", key.to_uppercase());
            put(self.table(&heading, &|it, at| {
                let dropped = it.of(at, |outcome| size(outcome, "all dropped", key))?.median;
                let purged = it.of(at, |outcome| size(outcome, "all purged", key))?.median;
                Some(format!("{dropped:.1} > {purged:.1}"))
            }));
        }
        text
    }

    /// The programs as a table in Markdown: ours beside LuaJIT's own and the best peer of each.
    pub fn markdown(&self, ours: usize) -> String {
        let peers = self.peers();
        let mut text = "| program | built-in | ebbtide | times as fast (range) | best peer | \
                        against it (range) | peak RSS, built-in | ebbtide |\n\
                        |---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for it in self.measured {
            let time = |at| show(it.time(at), |time| it.program.show_time(time.median));
            let peak = |at| {
                let peak = it.of(at, |outcome| Some(megabytes(outcome.rss_peak)));
                show(peak, |peak| format!("{:.1} MB", peak.median))
            };
            let closest = best(it, TIME, ours, &peers);
            let (peer, ratio) = match closest {
                Some((peer, ratio)) => (self.allocators[peer].name, show_spread(ratio)),
                None => ("–", "–".to_owned()),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {peer} | {ratio} | {} | {} |",
                it.program.name,
                time(0),
                time(ours),
                show(it.speed(ours), show_spread),
                peak(0),
                peak(ours)
            );
        }
        text
    }

    fn table(&self, heading: &str, cell: Cell) -> Vec<Vec<String>> {
        let mut first = vec![heading.to_owned()];
        first.extend(self.allocators.iter().map(|allocator| allocator.name.to_owned()));
        let row = |it: &Measured| {
            let cells = (0..self.allocators.len()).map(|at| cell(it, at));
            let name = std::iter::once(it.program.name.to_owned());
            name.chain(cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()))).collect()
        };
        std::iter::once(first).chain(self.measured.iter().map(row)).collect()
    }

    /// Ours against the best of the peers, program by program.
    fn peer_comparison(&self, ours: usize) -> Vec<Vec<String>> {
        let heading =
            ["against the best peer", "fastest", "ours is faster by", "least RSS", "our peak"]
                .map(str::to_owned)
                .to_vec();
        let peers = self.peers();
        let row = |it: &Measured| {
            let (fastest, speed) = best(it, TIME, ours, &peers)?;
            let (least, peak) = best(it, PEAK, ours, &peers)?;
            Some(vec![
                it.program.name.to_owned(),
                self.allocators[fastest].name.to_owned(),
                show_spread(speed),
                self.allocators[least].name.to_owned(),
                format!("{:.2}", 1.0 / peak.median),
            ])
        };
        std::iter::once(heading).chain(self.measured.iter().filter_map(row)).collect()
    }

    /// The last round of each program that reports phases of its own, on LuaJIT's allocator and on
    /// ours: live, RSS and PSS at each.
    pub fn phases(&self) -> String {
        let mut text = String::new();
        for runs in self.measured {
            for (index, allocator) in self.allocators.iter().enumerate() {
                let Some(outcome) = runs.runs(index).last() else { continue };
                if outcome.events.len() <= EVENTS_OF_ALL || allocator.is_peer() {
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

    /// Everything measured, for other programs to read. Times are in seconds or nanoseconds, as
    /// printed; what was not measured is null.
    pub fn json(&self, about: &[(&str, String)], figures: &[Figure]) -> String {
        let about = about.iter().map(|(key, text)| format!("  {key:?}: {},\n", quote(text)));
        let mut runs = Vec::new();
        for measured in self.measured {
            for (index, allocator) in self.allocators.iter().enumerate() {
                runs.push(json_run(measured, index, allocator.name));
            }
        }
        let figures: Vec<_> = figures.iter().map(json_figure).collect();
        format!(
            "{{\n{}  \"runs\": [\n{}\n  ],\n  \"figures\": [\n{}\n  ]\n}}\n",
            about.collect::<String>(),
            runs.join(",\n"),
            figures.join(",\n")
        )
    }
}

fn show(spread: Option<Spread>, text: impl Fn(Spread) -> String) -> String {
    spread.map_or_else(|| "–".to_owned(), text)
}

fn show_spread(spread: Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max)
}

fn size(outcome: &Outcome, label: &str, key: &str) -> Option<f64> {
    outcome.event(label).map(|event| megabytes(event.get(key)))
}

fn phase_row(event: &crate::event::Event) -> Vec<String> {
    if event.label == "reclaim" {
        let milliseconds = event.get("elapsed_us") as f64 / 1e3;
        let returned = in_megabytes(event.get("returned"));
        return vec![format!("  reclaim: {returned} MB in {milliseconds:.1} ms")];
    }
    let mut row = vec![event.label.clone()];
    row.extend(["live", "rss", "pss"].map(|key| in_megabytes(event.get(key))));
    row
}

/// The figures, each with whether it was reached.
pub fn figure_table(figures: &[Figure]) -> String {
    let heading = ["figure", "base", "seen", "must be", ""].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    for figure in figures {
        let value = |value: f64| format!("{value:.2} {}", figure.unit);
        let bound = match figure.bound {
            Bound::AtLeast(bound) => format!("at least {}", value(bound)),
            Bound::AtMost(bound) => format!("at most {}", value(bound)),
        };
        let mark = if figure.reached() { "reached" } else { "MISSED" };
        let base = figure.base.map_or_else(|| "–".to_owned(), value);
        rows.push(vec![figure.what.clone(), base, value(figure.seen), bound, mark.to_owned()]);
    }
    table::render(&rows)
}

fn json_run(measured: &Measured, index: usize, allocator: &str) -> String {
    let each = |read: &dyn Fn(&Outcome) -> Option<f64>| {
        let number = |value: Option<f64>| value.map_or("null".to_owned(), |it| it.to_string());
        let values = measured.runs(index).iter().map(|outcome| number(read(outcome)));
        format!("[{}]", values.collect::<Vec<_>>().join(", "))
    };
    let event = |label: &'static str, key: &'static str| {
        each(&move |outcome| Some(outcome.event(label)?.get(key) as f64))
    };
    let fields = [
        ("time", each(&|outcome| measured.program.time(outcome))),
        ("rss_peak_bytes", each(&|outcome| Some(outcome.rss_peak as f64))),
        ("rss_dropped_bytes", event("all dropped", "rss")),
        ("pss_dropped_bytes", event("all dropped", "pss")),
        ("rss_purged_bytes", event("all purged", "rss")),
        ("pss_purged_bytes", event("all purged", "pss")),
    ];
    let fields = fields.map(|(key, values)| format!("{key:?}: {values}")).join(", ");
    let program = measured.program.name;
    format!("    {{\"program\": {program:?}, \"allocator\": {allocator:?}, {fields}}}")
}

/// A figure as a JSON object.
pub fn json_figure(figure: &Figure) -> String {
    let (bound, side) = match figure.bound {
        Bound::AtLeast(bound) => (bound, "at least"),
        Bound::AtMost(bound) => (bound, "at most"),
    };
    let base = figure.base.map_or_else(|| "null".to_owned(), |base| base.to_string());
    format!(
        "    {{\"what\": {}, \"base\": {base}, \"seen\": {}, \"unit\": {:?}, \
         \"bound\": {bound}, \"side\": {side:?}, \"reached\": {}}}",
        quote(&figure.what),
        figure.seen,
        figure.unit,
        figure.reached()
    )
}

/// A JSON string. Control characters, which nothing here contains, become blanks.
pub fn quote(text: &str) -> String {
    let plain = text.replace(char::is_control, " ");
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::host::{BUILTIN, EBBTIDE, LIBC};
    use crate::picture::drawn;
    use crate::suite::PROGRAMS;
    use std::time::Duration;

    fn outcome(cpu_s: f64) -> Outcome {
        let event = |line| Event::parse(line, Duration::ZERO);
        let dropped = event("event\tlabel=all dropped\trss=4194304\tpss=2097152");
        let purged = event("event\tlabel=all purged\trss=1048576\tpss=1048576");
        Outcome {
            events: dropped.into_iter().chain(purged).collect(),
            text: Vec::new(),
            samples: Vec::new(),
            cpu: Duration::from_secs_f64(cpu_s),
            rss_peak: 8 << 20,
        }
    }

    /// Three, two and four seconds on LuaJIT's allocator, ebbtide and the C library's.
    fn runs() -> Vec<Vec<Outcome>> {
        [3.0, 2.0, 4.0].map(|cpu_s| vec![outcome(cpu_s)]).to_vec()
    }

    fn check(test: impl Fn(Report)) {
        let measured = [Measured::from_runs(&PROGRAMS[0], runs())];
        test(Report { allocators: &[&BUILTIN, &EBBTIDE, &LIBC], measured: &measured });
    }

    #[test]
    fn tables_name_what_was_compared() {
        check(|report| {
            let text = report.tables(Some(1));
            for part in ["1.50 (1.50–1.50)", "libc", "2.00 (2.00–2.00)", "4.0 > 1.0", "2.0 > 1.0"]
            {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
            assert_eq!(report.peers(), [2]);
        });
    }

    #[test]
    fn the_table_for_a_readme_has_a_row_for_each_program() {
        check(|report| {
            let text = report.markdown(1);
            let row = "| tables | 3.000 s | 2.000 s | 1.50 (1.50–1.50) | libc | 2.00 (2.00–2.00) \
                       | 8.0 MB | 8.0 MB |";
            assert_eq!(text.lines().nth(2), Some(row));
        });
    }

    #[test]
    fn json_has_every_run() {
        check(|report| {
            let json = report.json(&[("machine", "a \"b\"".to_owned())], &[]);
            assert!(json.contains("\"machine\": \"a \\\"b\\\"\""), "{json}");
            assert_eq!(json.matches("\"rss_purged_bytes\": [1048576]").count(), 3);
        });
    }

    #[test]
    fn there_is_a_picture_for_each_question() {
        let mut runs = runs();
        runs[1][0].rss_peak = 4 << 20;
        let measured = [Measured::from_runs(&PROGRAMS[0], runs)];
        let report = Report { allocators: &[&BUILTIN, &EBBTIDE, &LIBC], measured: &measured };
        let about = [("machine", "here".to_owned()), ("command", "a < b".to_owned())];
        let pictures = drawn("programs", &report.json(&about, &[]));
        let names: Vec<_> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["speed", "peak", "left"]);
        for (name, svg) in &pictures {
            let parts = [">ebbtide<", ">libc<", ">tables<", ">here. a &lt; b<"];
            assert!(parts.iter().all(|part| svg.contains(part)), "{svg}");
            // A dot for each allocator in the legend, and one for its ratio.
            assert_eq!(svg.matches("<circle").count(), 4, "{name}");
        }
        // From 168 to 920 pixels: 1.5 times as fast on an axis to 1.6, and half the peak on one to 1.2.
        assert!(
            pictures[0].1.contains("<circle class=\"data0\" cx=\"873.0\""),
            "{}",
            pictures[0].1
        );
        assert!(
            pictures[1].1.contains("<circle class=\"data0\" cx=\"481.3\""),
            "{}",
            pictures[1].1
        );
    }

    #[test]
    fn quotes_are_quoted() {
        assert_eq!(quote("a\\b \"c\"\td"), "\"a\\\\b \\\"c\\\" d\"");
    }
}
