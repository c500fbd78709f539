//! One traffic on LuaJIT's own allocator and on ebbtide: what there is to see of it, and whether the
//! memory went back.
#![forbid(unsafe_code)]

use crate::Result;
use crate::curve::Curve;
use crate::host::{Allocator, BUILTIN, EBBTIDE};
use crate::memory::{in_megabytes, megabytes};
use crate::numbers::Spread;
use crate::picture::{Band, Picture};
use crate::process::Outcome;
use crate::traffic::{END, START, Stretch, StretchKind, Traffic, collected, end_of};

/// How long after a peak and its collection memory is looked at.
const LATER_S: f64 = 2.0;
/// ebbtide's memory then may be this share of the built-in allocator's.
const SHARE_MAX: f64 = 0.5;
/// And this much more than at the start when everything was dropped.
const OVER_START_MAX_MB: f64 = 4.0;

/// A run, and how it is shown.
#[derive(Debug)]
pub struct Subject {
    /// What it runs on.
    pub allocator: &'static Allocator,
    /// Its colour on a terminal.
    pub terminal_colour: &'static str,
    label: &'static str,
}

/// The two runs, in the order in which they are made.
pub const SUBJECTS: [Subject; 2] = [
    Subject { allocator: &BUILTIN, terminal_colour: "\x1b[33m", label: "LuaJIT's allocator" },
    Subject { allocator: &EBBTIDE, terminal_colour: "\x1b[36m", label: "ebbtide" },
];

/// Both runs, to their end.
#[derive(Debug)]
pub struct Breathing {
    traffic: Traffic,
    outcomes: [Outcome; 2],
    curves: [Curve; 2],
}

impl Breathing {
    /// Takes runs of `traffic` in the order of [`SUBJECTS`]. Everything must be there that will be
    /// looked at.
    pub fn new(traffic: Traffic, outcomes: [Outcome; 2]) -> Result<Breathing> {
        let curves = outcomes.each_ref().map(Curve::of);
        for (outcome, subject) in outcomes.iter().zip(&SUBJECTS) {
            let missing = traffic.events().into_iter().find(|label| outcome.event(label).is_none());
            if let Some(label) = missing {
                let name = subject.allocator.name;
                return Err(format!("traffic.lua on {name} did not report \"{label}\""));
            }
            if outcome.samples.len() < outcome.events.len() {
                return Err("/proc gave too few samples".to_owned());
            }
        }
        Ok(Breathing { traffic, outcomes, curves })
    }

    /// Whether ebbtide did what it is for, by itself: down after each peak, and back to the start
    /// when all was dropped.
    pub fn judge(&self) -> Result<()> {
        for peak in self.traffic.peaks() {
            let [builtin, ebbtide] = self.later(&peak);
            if ebbtide >= SHARE_MAX * builtin {
                return Err(format!(
                    "memory did not go back: {LATER_S} s after {peak} ebbtide holds \
                     {ebbtide:.1} MB, built-in {builtin:.1} MB"
                ));
            }
        }
        let [start, end] = [START, END].map(|label| megabytes(self.of_ebbtide(label, "pss")));
        if end - start > OVER_START_MAX_MB {
            let over = end - start;
            return Err(format!(
                "after all was dropped, ebbtide holds {over:.1} MB more than at the start"
            ));
        }
        match ["heap_returned_idle", "heap_returned_asked"].map(|key| self.of_ebbtide(END, key)) {
            [0, _] => Err("the heap returned nothing by itself".to_owned()),
            [_, 0] => Ok(()),
            [_, asked] => Err(format!("{} MB went back on request", in_megabytes(asked))),
        }
    }

    /// In a sentence what [`Breathing::judge`] has found to be so.
    pub fn verdict(&self) -> String {
        let [builtin, ebbtide] =
            [0, 1].map(|run| self.outcomes[run].event(END).map_or(0, |event| event.get("pss")));
        format!(
            "At the end, with {} MB live in Lua, the service holds {} MB on LuaJIT's allocator and \
             {} MB on ebbtide.",
            in_megabytes(self.of_ebbtide(END, "live")),
            in_megabytes(builtin),
            in_megabytes(ebbtide)
        )
    }

    /// Both memories some time after a peak, in MB.
    fn later(&self, peak: &str) -> [f64; 2] {
        [0, 1].map(|run| {
            let end_s = self.at_s(run, &collected(peak));
            self.curves[run].at(end_s + LATER_S).unwrap_or(0.0)
        })
    }

    /// Where ebbtide's memory was half way down after a peak, and how many seconds that took.
    fn half_way(&self, peak: &str) -> Option<((f64, f64), f64)> {
        let end_s = self.at_s(1, &collected(peak));
        let point = self.curves[1].half_way(end_s, end_s + LATER_S)?;
        Some((point, point.0 - end_s))
    }

    fn at_s(&self, run: usize, label: &str) -> f64 {
        self.outcomes[run].event(label).map_or(0.0, |event| event.at.as_secs_f64())
    }

    fn of_ebbtide(&self, label: &str, key: &str) -> u64 {
        self.outcomes[1].event(label).map_or(0, |event| event.get(key))
    }

    /// The table: memory at the ends of traffic, and some time after.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let names = SUBJECTS.each_ref().map(|subject| subject.allocator.name);
        let mut rows = vec![words(&["PSS in MB", "live in Lua", names[0], names[1]])];
        rows.push(self.event_row(START, START));
        for (name, stretch) in self.traffic.stretches() {
            match stretch.kind {
                StretchKind::Peak { .. } => {
                    rows.push(self.event_row(&name, &end_of(&name)));
                    rows.push(self.later_row(&name));
                }
                StretchKind::Low => rows.push(self.event_row(&end_of(&name), &end_of(&name))),
                StretchKind::Pause | StretchKind::Drop => {}
            }
        }
        rows.push(self.event_row("all dropped", END));
        let seconds = |outcome: &Outcome| format!("{:.2} s", outcome.cpu.as_secs_f64());
        let [builtin, ebbtide] = self.outcomes.each_ref().map(seconds);
        rows.push(words(&["CPU time", "", &builtin, &ebbtide]));
        rows
    }

    fn event_row(&self, title: &str, label: &str) -> Vec<String> {
        let mut row = vec![title.to_owned(), in_megabytes(self.of_ebbtide(label, "live"))];
        row.extend(self.outcomes.iter().map(|outcome| {
            outcome.event(label).map_or(String::new(), |event| in_megabytes(event.get("pss")))
        }));
        row
    }

    fn later_row(&self, peak: &str) -> Vec<String> {
        let live = in_megabytes(self.of_ebbtide(&collected(peak), "live"));
        let mut row = vec![format!("  collected, {LATER_S} s later"), live];
        row.extend(self.later(peak).map(|megabytes| format!("{megabytes:.1}")));
        let half_way = self.half_way(peak);
        row.extend(half_way.map(|(_, took_s)| format!("half of the fall took {}", tenths(took_s))));
        row
    }

    /// The heap's own account at the end: what went back and why, and what it took.
    pub fn heap_rows(&self) -> Vec<Vec<String>> {
        let of = |key: &str| self.of_ebbtide(END, &format!("heap_{key}"));
        let by_cause = |title: &str, key: &str| {
            let of_cause = |cause| in_megabytes(of(&format!("{key}_{cause}")));
            let mut row = vec![title.to_owned()];
            row.extend(["idle", "asked", "limit"].map(of_cause));
            row
        };
        let row = |title: &str, value: String| vec![title.to_owned(), value];
        let steps = ["step_p50_us", "step_p99_us", "step_max_us"].map(of);
        vec![
            words(&["ebbtide, MB", "idle", "asked for", "over a limit"]),
            by_cause("returned", "returned"),
            by_cause("of that, used again", "refaulted"),
            by_cause("of that, within a second", "premature_refaults"),
            row("steps", of("steps").to_string()),
            row("p50, p99, longest, µs", steps.map(|us| us.to_string()).join(", ")),
            row("calls to give back", of("purge_calls").to_string()),
            row("calls that failed", of("failed_calls").to_string()),
            row("trend at the end", trend(of("trend")).to_owned()),
        ]
    }

    /// The picture. Notes at the curve only where there is room for them.
    pub fn picture(&self, period_ms: u128, versions: &str, with_notes: bool) -> Picture {
        let curve =
            |run: usize| (SUBJECTS[run].label.to_owned(), self.curves[run].points().to_vec());
        let halves = if with_notes { String::new() } else { self.about_halves() };
        let about_memory = self.about_memory() + &halves;
        Picture {
            title: "After each peak of traffic, ebbtide gives the memory back by itself".to_owned(),
            subtitle: format!(
                "PSS of the process, read every {period_ms} ms. The same program, once on each \
                 allocator."
            ),
            footnotes: vec![about_memory, self.about_runs(versions)],
            curves: [0, 1].map(curve).into(),
            bands: self.bands(),
            notes: if with_notes { self.notes() } else { Vec::new() },
        }
    }

    fn about_memory(&self) -> String {
        let live = |peak: &String| megabytes(self.of_ebbtide(&collected(peak), "live"));
        let live = self.traffic.peaks().iter().map(live).fold(0.0, f64::max);
        format!(
            "Nothing asks for memory to go back. Live in Lua after a peak: {live:.1} MB at most."
        )
    }

    /// For the whole run what notes say of each peak.
    fn about_halves(&self) -> String {
        let took_s = |peak: &String| Some(self.half_way(peak)?.1);
        let took_s = self.traffic.peaks().iter().map(took_s).collect::<Option<Vec<_>>>();
        let Some(Spread { min, max, .. }) = took_s.and_then(|took_s| Spread::of(&took_s)) else {
            return String::new();
        };
        format!(" On ebbtide half of each fall took {min:.1} to {max:.1} s.")
    }

    fn about_runs(&self, versions: &str) -> String {
        let [builtin, ebbtide] = self.outcomes.each_ref().map(|outcome| outcome.cpu.as_secs_f64());
        format!(
            "CPU time: {builtin:.1} s on LuaJIT's allocator, {ebbtide:.1} s on ebbtide. {versions}."
        )
    }

    fn notes(&self) -> Vec<((f64, f64), Vec<String>)> {
        let note = |peak: &String| {
            let (at, took_s) = self.half_way(peak)?;
            Some((at, vec!["half of the".to_owned(), format!("fall: {}", tenths(took_s))]))
        };
        self.traffic.peaks().iter().filter_map(note).collect()
    }

    /// Each stretch lasts until the next one begins.
    fn bands(&self) -> Vec<Band> {
        let stretches = self.traffic.stretches();
        let names = stretches.iter().map(|(name, _)| name.as_str());
        let bounds: Vec<_> = names.chain([END]).map(|label| self.at_s(1, label)).collect();
        let band = |((name, stretch), bounds): (&(String, Stretch), &[f64])| {
            let (name, shade) = match stretch.kind {
                StretchKind::Peak { .. } => (name.as_str(), 1.0),
                StretchKind::Low => ("low traffic", 0.5),
                StretchKind::Pause => ("pause", 0.0),
                StretchKind::Drop => ("all dropped", 0.0),
            };
            Band { name: name.to_owned(), from: bounds[0], to: bounds[1], shade }
        };
        stretches.iter().zip(bounds.windows(2)).map(band).collect()
    }
}

/// A time to a tenth of a second. Memory is read too rarely to tell shorter ones apart.
fn tenths(seconds: f64) -> String {
    match seconds {
        ..0.05 => "under 0.1 s".to_owned(),
        _ => format!("{seconds:.1} s"),
    }
}

/// In words what `ebb_stats` tells as a number.
fn trend(number: u64) -> &'static str {
    match number {
        1 => "growing",
        2 => "steady",
        3 => "shrinking",
        _ => "unknown",
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::memory::Sample;
    use crate::traffic::SHORT;
    use std::time::Duration;

    /// What one run held: PSS in MB at its highest, some time after each peak, and in the end.
    #[derive(Clone, Copy)]
    struct Held {
        peak: u64,
        later: u64,
        end: u64,
    }

    const KEPT: Held = Held { peak: 80, later: 78, end: 78 };
    const BREATHED: Held = Held { peak: 80, later: 10, end: 3 };

    /// A run of [`SHORT`] with its events 3 seconds apart, and samples half a second after each.
    fn outcome(held: Held, fields: &str) -> Outcome {
        let mut outcome = Outcome {
            events: Vec::new(),
            text: Vec::new(),
            samples: Vec::new(),
            cpu: Duration::from_millis(4210),
            rss_peak: 0,
        };
        for (count, label) in SHORT.events().into_iter().enumerate() {
            let at = Duration::from_secs(3 * count as u64);
            let pss = match label.as_str() {
                START => 2,
                END => held.end,
                label if label.starts_with("end of peak") => held.peak,
                label if label.ends_with("collected") => held.peak,
                _ => held.later,
            } << 20;
            let line = format!("event\tlabel={label}\tlive={}\tpss={pss}{fields}", 1 << 20);
            outcome.events.extend(Event::parse(&line, at));
            let pss = held.later << 20;
            outcome.samples.push(Sample { at: at + Duration::from_millis(500), rss: pss, pss });
        }
        outcome
    }

    fn breathing(held: Held, fields: &str) -> Breathing {
        let outcomes = [outcome(KEPT, ""), outcome(held, fields)];
        Breathing::new(SHORT, outcomes).expect("both are whole")
    }

    const BY_ITSELF: &str = "\theap_returned_idle=9\theap_trend=3";

    #[test]
    fn memory_that_went_back_by_itself_is_judged_well() {
        assert_eq!(breathing(BREATHED, BY_ITSELF).judge(), Ok(()));
    }

    #[test]
    fn each_failure_is_named() {
        for (held, fields, part) in [
            (KEPT, BY_ITSELF, "2 s after peak 1 ebbtide holds 78.0 MB"),
            (Held { later: 39, ..BREATHED }, BY_ITSELF, "holds 39.0 MB, built-in 78.0 MB"),
            (BREATHED, "", "returned nothing by itself"),
            (Held { end: 7, ..BREATHED }, BY_ITSELF, "5.0 MB more"),
            (
                BREATHED,
                "\theap_returned_idle=9\theap_returned_asked=1048576",
                "1.0 MB went back on request",
            ),
        ] {
            let error = breathing(held, fields).judge().expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn half_a_run_is_refused() {
        let mut cut = outcome(KEPT, "");
        cut.events.pop();
        let error = Breathing::new(SHORT, [outcome(KEPT, ""), cut]).err().unwrap_or_default();
        assert_eq!(error, "traffic.lua on ebbtide did not report \"end\"");
    }

    #[test]
    fn tables_have_a_line_for_each_thing() {
        let breathing = breathing(BREATHED, BY_ITSELF);
        let rows = breathing.rows();
        let row =
            |title: &str| rows.iter().find(|row| row[0] == title).expect(title)[1..].join(" ");
        assert_eq!(row("peak 2"), "1.0 80.0 80.0");
        assert_eq!(row("  collected, 2 s later"), "1.0 78.0 10.0 half of the fall took 0.5 s");
        assert_eq!(row("all dropped"), "1.0 78.0 3.0");
        assert_eq!(row("CPU time"), " 4.21 s 4.21 s");
        let heap = breathing.heap_rows();
        assert_eq!(heap.last(), Some(&words(&["trend at the end", "shrinking"])));
    }

    #[test]
    fn a_time_of_zero_is_not_printed() {
        assert_eq!(
            [0.0, 0.049, 0.05, 0.24].map(tenths),
            ["under 0.1 s", "under 0.1 s", "0.1 s", "0.2 s"]
        );
    }

    #[test]
    fn bands_lie_side_by_side_from_the_first_stretch_to_the_end() {
        let picture = breathing(BREATHED, BY_ITSELF).picture(50, "", true);
        assert_eq!(picture.bands.len(), SHORT.stretches().len());
        for pair in picture.bands.windows(2) {
            assert_eq!(pair[0].to, pair[1].from);
        }
        assert_eq!(picture.notes.len(), SHORT.peaks().len());
    }
}
