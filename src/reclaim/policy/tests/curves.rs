//! Curves of demand.

use core::f64::consts::TAU;

use super::recorded::{SERVICE_SPARSE, SERVICE_USED, STRINGS_USED};
use super::sim::{Demand, MB, Shape};

/// A demand that is named in the table.
pub(super) struct Curve {
    pub(super) name: &'static str,
    pub(super) length_s: u64,
    /// The most that the policy may hold of what need not be, in percent.
    pub(super) held_max: f64,
    /// The most of the time that its refaults may take, in percent.
    pub(super) cost_max: f64,
    /// What is needed at a time in seconds since the start.
    pub(super) at: Shape,
}

const fn curve(
    name: &'static str,
    length_s: u64,
    held_max: f64,
    cost_max: f64,
    at: Shape,
) -> Curve {
    Curve { name, length_s, held_max, cost_max, at }
}

pub(super) const CURVES: [Curve; 34] = [
    curve("step", 30, 10.0, 0.01, |s| busy(if s < 10.0 { 500.0 } else { 100.0 })),
    curve("sawtooth 10 ms", 10, 100.0, 0.1, |s| sawtooth(s, 0.01, 16.0)),
    curve("sawtooth 100 ms", 20, 100.0, 0.01, |s| sawtooth(s, 0.1, 256.0)),
    curve("sawtooth 1 s", 60, 100.0, 0.4, |s| sawtooth(s, 1.0, 256.0)),
    curve("sawtooth 2 s", 60, 100.0, 0.5, |s| sawtooth(s, 2.0, 256.0)),
    curve("small sawtooth 2 s", 60, 95.0, 0.5, |s| sawtooth(s, 2.0, 16.0)),
    curve("sawtooth 10 s", 120, 100.0, 1.0, |s| sawtooth(s, 10.0, 512.0)),
    curve("steep triangle 10 s", 120, 100.0, 0.2, steep_triangle),
    curve("low sawtooth 10 s", 120, 35.0, 1.0, |s| sawtooth(s, 10.0, 64.0)),
    curve("noisy sawtooth 10 s", 120, 100.0, 1.0, noisy_sawtooth),
    curve("sawtooth 100 s", 600, 5.0, 1.0, |s| sawtooth(s, 100.0, 512.0)),
    curve("triangle 1 s", 60, 100.0, 0.4, triangle),
    curve("square 1 s", 60, 100.0, 0.4, |s| square(s, 1.0)),
    curve("square 4 s", 120, 75.0, 5.0, |s| square(s, 4.0)),
    curve("busy square 10 s", 120, 100.0, 1.0, |s| busy_square(s, 10.0)),
    curve("busy square 40 s", 600, 10.0, 1.0, |s| busy_square(s, 40.0)),
    curve("high square 40 s", 400, 100.0, 1.0, high_square),
    curve("square 60 s", 600, 8.0, 1.0, |s| square(s, 60.0)),
    curve("oscillating part", 60, 20.0, 0.1, oscillating_part),
    curve("creeping crests", 120, 20.0, 0.1, creeping_crests),
    curve("swing that ends", 120, 60.0, 1.0, swing_that_ends),
    curve("swing, then timer", 120, 35.0, 1.0, swing_then_timer),
    curve("spikes every 20 s", 600, 40.0, 1.0, |s| spikes(s, 20.0)),
    curve("spikes every 120 s", 1200, 5.0, 0.5, |s| spikes(s, 120.0)),
    curve("leak", 600, 100.0, 0.1, |s| collected(s, 1.5, 20.0 + 0.2 * s)),
    curve("wave of an hour", 3600, 50.0, 0.08, wave),
    curve("idle for an hour", 3605, 0.0, 0.01, idle),
    curve("timer for an hour", 3605, 0.0, 0.01, timer),
    curve("requests of 2 ms", 60, 100.0, 1.0, requests),
    curve("bursts every 3 s", 240, 0.0, 1.2, bursts),
    curve("holes, busy", 300, 100.0, 0.2, holes),
    curve("holes, light work", 300, 100.0, 0.5, |s| Demand { churn: 5, ..left_with_holes(s) }),
    curve("service, recorded", 30, 30.0, 0.6, service),
    curve("strings, recorded", 30, 100.0, 0.01, strings),
];

/// Megabytes in use by a program that is at work.
pub(super) fn busy(used_mb: f64) -> Demand {
    Demand { churn: 40, ..quiet(used_mb) }
}

pub(super) fn quiet(used_mb: f64) -> Demand {
    Demand::of((used_mb * f64::from(MB)) as u32)
}

/// From 0 to 1 and at once to 0 again.
fn tooth(seconds: f64, period_s: f64) -> f64 {
    (seconds / period_s).fract()
}

/// A number from 0 to 1 that another one follows every `step_s`.
fn noise(seconds: f64, step_s: f64) -> f64 {
    let step = (seconds / step_s) as u64 + 1;
    (step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24)
}

pub(super) fn sawtooth(seconds: f64, period_s: f64, swing_mb: f64) -> Demand {
    busy(20.0 + swing_mb * tooth(seconds, period_s))
}

pub(super) fn triangle(seconds: f64) -> Demand {
    busy(20.0 + 256.0 * (1.0 - (2.0 * tooth(seconds, 1.0) - 1.0).abs()))
}

/// Rises for 8 s and falls for 2.
fn steep_triangle(seconds: f64) -> Demand {
    let part = tooth(seconds, 10.0);
    busy(20.0 + 200.0 * if part < 0.8 { part / 0.8 } else { (1.0 - part) / 0.2 })
}

/// Half of the time 276 MB and at work, half of it idle with 20 MB.
pub(super) fn square(seconds: f64, period_s: f64) -> Demand {
    if tooth(seconds, period_s) < 0.5 { busy(276.0) } else { quiet(20.0) }
}

/// The same, but at work all the time.
fn busy_square(seconds: f64, period_s: f64) -> Demand {
    Demand { churn: 40, ..square(seconds, period_s) }
}

/// 1 GB every 40 s.
fn high_square(s: f64) -> Demand {
    if tooth(s, 40.0) < 0.5 { busy(1044.0) } else { busy(20.0) }
}

/// A sawtooth of 10 s with requests and the collector on top.
pub(super) fn noisy_sawtooth(s: f64) -> Demand {
    let base = 20.0 + 512.0 * tooth(s, 10.0);
    busy(base + 16.0 * noise(s, 0.02) + 40.0 * tooth(s, 0.15))
}

/// 600 MB, then 100 MB of which come and go five times a second.
pub(super) fn oscillating_part(s: f64) -> Demand {
    busy(if s < 5.0 { 600.0 } else { 100.0 + 100.0 * tooth(s, 0.2) })
}

/// 400 MB, then bursts of 10 MB five times a second, each a little higher than the one before.
pub(super) fn creeping_crests(s: f64) -> Demand {
    let burst = if tooth(s, 0.2) < 0.1 { 10.0 + 0.5 * s } else { 0.0 };
    busy(if s < 5.0 { 400.0 } else { 20.0 + burst })
}

/// A swing of 512 MB until half of the time, then one of 20 MB.
pub(super) fn swing_that_ends(s: f64) -> Demand {
    if s < 60.0 { sawtooth(s, 10.0, 512.0) } else { sawtooth(s, 0.2, 20.0) }
}

/// The same swing, then hardly anything.
fn swing_then_timer(s: f64) -> Demand {
    let churn = if tooth(s, 0.1) < 0.01 { 2 } else { 0 };
    if s < 60.0 { sawtooth(s, 10.0, 512.0) } else { Demand { churn, ..quiet(20.0) } }
}

/// 300 MB for 0.3 s, now and then.
fn spikes(s: f64, every_s: f64) -> Demand {
    let spike = if s % every_s > every_s - 0.3 { 300.0 } else { 0.0 };
    busy(30.0 + spike + 10.0 * tooth(s, 0.7))
}

/// Live data with an incremental collector that begins at twice as much.
fn collected(s: f64, period_s: f64, live_mb: f64) -> Demand {
    let rises = (tooth(s, period_s) / 0.8).min(1.0);
    let falls = (tooth(s, period_s) - 0.8).max(0.0) / 0.2;
    Demand { sparse: (live_mb * 0.1) as u32 * MB, ..busy(live_mb * (1.0 + rises - falls)) }
}

/// A day that takes an hour: the rest is as fast as ever.
fn wave(s: f64) -> Demand {
    let load = (1.0 - (s / 3600.0 * TAU).cos()) / 2.0;
    let requests = 30.0 * load * noise(s, 0.03);
    let mut demand = collected(s, 3.0 - 2.5 * load, 20.0 + 150.0 * load);
    demand.used += (requests * f64::from(MB)) as u32;
    demand.churn = (load * 40.0) as u32;
    demand
}

/// Five seconds of load, then nothing.
fn idle(s: f64) -> Demand {
    let left = Demand { sparse: 5 * MB, ..quiet(20.0) };
    if s < 5.0 { sawtooth(s, 1.0, 256.0) } else { left }
}

/// The same, but once a second a timer runs that needs 4 pages.
fn timer(s: f64) -> Demand {
    let churn = if tooth(s, 1.0) < 0.001 { 4 } else { 0 };
    if s < 5.0 { idle(s) } else { Demand { churn, ..idle(s) } }
}

/// Twenty times a second 8 MB for so short a time that hardly a judgement falls into it.
fn requests(s: f64) -> Demand {
    quiet(if tooth(s, 0.05) < 0.96 { 20.0 } else { 28.0 })
}

/// Requests for 0.3 s in every 3 s, which fill most of the holes between blocks that stay.
fn bursts(s: f64) -> Demand {
    let left = Demand { sparse: 200 * MB, ..quiet(300.0) };
    let burst = Demand { used: left.used + 4 * MB, churn: 150, ..left };
    if tooth(s, 3.0) > 0.1 { left } else { burst }
}

/// A steady heap of which a large part is free slots.
fn left_with_holes(_: f64) -> Demand {
    Demand { sparse: 40 * MB, ..quiet(140.0) }
}

/// Forty of 140 MB are free slots that are soon filled again.
fn holes(s: f64) -> Demand {
    Demand { sparse: 40 * MB, ..collected(s, 2.0, 100.0) }
}

fn service(s: f64) -> Demand {
    let now = (s * 10.0) as usize;
    let at = |values: &[u32]| values[now.min(values.len() - 1)];
    let works = now > 0 && now < SERVICE_USED.len() && at(&SERVICE_USED) != SERVICE_USED[now - 1];
    let churn = if works { 40 } else { 0 };
    Demand { used: at(&SERVICE_USED), sparse: at(&SERVICE_SPARSE), churn }
}

fn strings(s: f64) -> Demand {
    let now = (s * 50.0) as usize;
    Demand { churn: 40, ..Demand::of(STRINGS_USED[now % STRINGS_USED.len()]) }
}
