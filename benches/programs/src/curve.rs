//! The memory of one run over time, in seconds and MB.
#![forbid(unsafe_code)]

use crate::memory::megabytes;
use crate::process::Outcome;

/// PSS in order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Samples, and between them the exact values at events, from the first event to the last: what
    /// comes before and after is the process starting and ending.
    pub fn of(outcome: &Outcome) -> Curve {
        let events = outcome.events.iter().filter(|event| event.get("pss") > 0);
        let reported: Vec<_> = events.map(|event| (event.at, event.get("pss"))).collect();
        let (Some(first), Some(last)) = (reported.first(), reported.last()) else {
            return Curve::default();
        };
        let sampled = outcome.samples.iter().map(|sample| (sample.at, sample.pss));
        let sampled = sampled.filter(|(at, _)| (first.0..last.0).contains(at));
        let mut points: Vec<_> = sampled.chain(reported.iter().copied()).collect();
        points.sort();
        let point = |(at, bytes): (std::time::Duration, u64)| (at.as_secs_f64(), megabytes(bytes));
        Curve { points: points.into_iter().map(point).collect() }
    }

    /// Every point.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The memory at a time: that of the last point before.
    pub fn at(&self, seconds: f64) -> Option<f64> {
        let next = self.points.partition_point(|point| point.0 <= seconds);
        Some(self.points.get(next.checked_sub(1)?)?.1)
    }

    /// The first point at which memory is half way from what it was at one time to what it is at a
    /// later one.
    pub fn half_way(&self, from_s: f64, to_s: f64) -> Option<(f64, f64)> {
        let half = (self.at(from_s)? + self.at(to_s)?) / 2.0;
        self.points.iter().find(|point| point.0 > from_s && point.1 <= half).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::memory::Sample;
    use std::time::Duration;

    fn curve(samples: &[(u64, u64)], events: &[(u64, u64)]) -> Curve {
        let sample = |&(at, mb): &(u64, u64)| {
            let (at, bytes) = (Duration::from_secs(at), mb << 20);
            Sample { at, rss: bytes, pss: bytes }
        };
        let event = |&(at, mb): &(u64, u64)| {
            let line = format!("event\tlabel=x\tpss={}", mb << 20);
            Event::parse(&line, Duration::from_secs(at)).expect("well formed")
        };
        Curve::of(&Outcome {
            events: events.iter().map(event).collect(),
            text: Vec::new(),
            samples: samples.iter().map(sample).collect(),
            cpu: Duration::ZERO,
            rss_peak: 0,
        })
    }

    #[test]
    fn it_lasts_from_the_first_event_to_the_last() {
        let curve = curve(&[(0, 9), (2, 80), (4, 30), (9, 1)], &[(1, 5), (3, 70), (8, 6)]);
        assert_eq!(curve.points(), [(1.0, 5.0), (2.0, 80.0), (3.0, 70.0), (4.0, 30.0), (8.0, 6.0)]);
        assert_eq!((curve.at(0.5), curve.at(3.5), curve.at(9.0)), (None, Some(70.0), Some(6.0)));
    }

    #[test]
    fn half_of_the_way_is_at_the_first_point_that_is_low_enough() {
        let curve = curve(&[(2, 51), (3, 45), (4, 10)], &[(1, 80), (5, 50)]);
        assert_eq!(curve.half_way(1.0, 4.0), Some((3.0, 45.0)));
        assert_eq!(curve.half_way(0.0, 4.0), None);
    }
}
