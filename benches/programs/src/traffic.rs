//! The schedules of `traffic.lua`: stretches of traffic with pauses between, and the events by
//! which the program tells where it is.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Requests that arrive in a second of a peak, and of low traffic. A peak takes about half of a
/// processor's time, so that the program keeps to its schedule on a busy machine too.
const RATE: u32 = 20_000;
const RATE_LOW: u32 = 4_000;
/// Requests in flight at low traffic.
const IN_FLIGHT_LOW: u32 = 200;

/// What happens in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StretchKind {
    /// Many requests, up to `in_flight` at once. In the end all are done.
    Peak {
        /// How many.
        in_flight: u32,
    },
    /// Few requests.
    Low,
    /// Nothing.
    Pause,
    /// Nothing, after all that was live in Lua was dropped.
    Drop,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// What happens.
    pub kind: StretchKind,
    milliseconds: u64,
}

const fn peak(milliseconds: u64, in_flight: u32) -> Stretch {
    Stretch { kind: StretchKind::Peak { in_flight }, milliseconds }
}

const fn low(milliseconds: u64) -> Stretch {
    Stretch { kind: StretchKind::Low, milliseconds }
}

const fn pause(milliseconds: u64) -> Stretch {
    Stretch { kind: StretchKind::Pause, milliseconds }
}

const fn all_dropped(milliseconds: u64) -> Stretch {
    Stretch { kind: StretchKind::Drop, milliseconds }
}

/// For a demonstration: 26 seconds.
pub const SHORT: Traffic = Traffic(&[
    pause(700),
    peak(3600, 52_000),
    pause(4000),
    peak(3000, 20_000),
    low(5000),
    peak(3400, 34_000),
    pause(3600),
    all_dropped(2700),
]);

/// For a soak: three minutes.
pub const LONG: Traffic = Traffic(&[
    pause(3000),
    peak(10_000, 30_000),
    pause(12_000),
    peak(10_000, 16_000),
    low(22_000),
    peak(10_000, 24_000),
    pause(14_000),
    peak(10_000, 10_000),
    low(18_000),
    peak(12_000, 30_000),
    pause(12_000),
    peak(10_000, 20_000),
    low(22_000),
    all_dropped(18_000),
]);

/// A schedule.
#[derive(Clone, Copy, Debug)]
pub struct Traffic(&'static [Stretch]);

impl Traffic {
    /// How long it lasts, if the machine keeps up.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.0.iter().map(|stretch| stretch.milliseconds).sum())
    }

    /// What `traffic.lua` wants for arguments.
    pub fn arguments(&self) -> Vec<String> {
        self.0.iter().map(Stretch::argument).collect()
    }

    /// The stretches by name, as the program counts them: each is an event where it begins.
    pub fn stretches(&self) -> Vec<(String, Stretch)> {
        let named = |(at, stretch): (usize, &Stretch)| {
            let kind = stretch.kind_name();
            let same = self.0[..=at].iter().filter(|other| other.kind_name() == kind).count();
            (format!("{kind} {same}"), *stretch)
        };
        self.0.iter().enumerate().map(named).collect()
    }

    /// The names of the peaks.
    pub fn peaks(&self) -> Vec<String> {
        let is_peak = |stretch: &Stretch| matches!(stretch.kind, StretchKind::Peak { .. });
        let peaks = self.stretches().into_iter().filter(|(_, stretch)| is_peak(stretch));
        peaks.map(|(name, _)| name).collect()
    }

    /// Every event that a whole run reports.
    pub fn events(&self) -> Vec<String> {
        let mut events = vec![START.to_owned()];
        for (name, stretch) in self.stretches() {
            let more = match stretch.kind {
                StretchKind::Peak { .. } => vec![end_of(&name), collected(&name)],
                StretchKind::Low => vec![end_of(&name)],
                StretchKind::Pause | StretchKind::Drop => Vec::new(),
            };
            events.push(name);
            events.extend(more);
        }
        events.push(END.to_owned());
        events
    }
}

/// The event before anything happens.
pub const START: &str = "start";
/// The event after which nothing happens.
pub const END: &str = "end";

/// The event at the end of a peak or of low traffic.
pub fn end_of(name: &str) -> String {
    format!("end of {name}")
}

/// The event after the collection that follows a peak.
pub fn collected(name: &str) -> String {
    format!("{name} collected")
}

impl Stretch {
    fn kind_name(&self) -> &'static str {
        match self.kind {
            StretchKind::Peak { .. } => "peak",
            StretchKind::Low => "low",
            StretchKind::Pause => "pause",
            StretchKind::Drop => "drop",
        }
    }

    fn argument(&self) -> String {
        let kind = self.kind_name();
        let seconds = self.milliseconds as f64 / 1e3;
        match self.kind {
            StretchKind::Peak { in_flight } => format!("{kind}:{seconds}:{in_flight}:{RATE}"),
            StretchKind::Low => format!("{kind}:{seconds}:{IN_FLIGHT_LOW}:{RATE_LOW}"),
            StretchKind::Pause | StretchKind::Drop => format!("{kind}:{seconds}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAFFIC: Traffic = Traffic(&[peak(2500, 9), pause(1000), peak(1000, 8), low(500)]);

    #[test]
    fn stretches_are_counted_by_kind() {
        let names: Vec<_> = TRAFFIC.stretches().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["peak 1", "pause 1", "peak 2", "low 1"]);
        assert_eq!(TRAFFIC.peaks(), ["peak 1", "peak 2"]);
        assert_eq!(TRAFFIC.length(), Duration::from_secs(5));
    }

    #[test]
    fn arguments_say_what_happens() {
        let arguments = ["peak:2.5:9:20000", "pause:1", "peak:1:8:20000", "low:0.5:200:4000"];
        assert_eq!(TRAFFIC.arguments(), arguments);
    }

    #[test]
    fn events_come_in_the_order_of_the_run() {
        let events = TRAFFIC.events();
        assert_eq!(events[..4], ["start", "peak 1", "end of peak 1", "peak 1 collected"]);
        assert_eq!(events[4..6], ["pause 1", "peak 2"]);
        assert_eq!(events[8..], ["low 1", "end of low 1", "end"]);
    }

    #[test]
    fn there_is_time_to_look_after_each_peak_and_at_the_end() {
        for traffic in [SHORT, LONG] {
            let is_rest = |stretch: &Stretch| !matches!(stretch.kind, StretchKind::Peak { .. });
            for pair in traffic.0.windows(2) {
                assert!(is_rest(&pair[0]) || is_rest(&pair[1]) && pair[1].milliseconds > 3000);
            }
            let last = traffic.0.last().expect("there are stretches");
            assert!(last.kind == StretchKind::Drop && last.milliseconds > 2000);
        }
    }
}
