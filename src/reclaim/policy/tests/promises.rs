//! What the policy promises to those who use it, in simulated time.

use super::curves::{
    busy, noisy_sawtooth, oscillating_part, quiet, sawtooth, square, swing_that_ends, triangle,
};
use super::sim::{Demand, MB, Manner, SETTINGS, Shape, Simulation};
use crate::reclaim::policy::{Settings, Trend};
use crate::units::Pages;

/// What is left when a load has ended: a part of it free slots.
fn left(used_mb: f64) -> Demand {
    Demand { sparse: 5 * MB, ..quiet(used_mb) }
}

fn simulated(demand: &dyn Fn(f64) -> Demand) -> Simulation<'_> {
    Simulation::new(Manner::Policy(SETTINGS), demand)
}

/// Loads of ten seconds that end in very different ways.
fn loads() -> [(&'static str, Shape); 6] {
    [
        ("sawtooth of 1 s", |s| sawtooth(s, 1.0, 256.0)),
        ("sawtooth of 3 s", |s| sawtooth(s, 3.0, 256.0)),
        ("sawtooth of 40 ms", |s| sawtooth(s, 0.04, 64.0)),
        ("only growing", |s| busy(50.0 * s)),
        ("steady", |_| busy(300.0)),
        ("small", |s| busy(1.0 + 3.0 * (s / 0.3).fract())),
    ]
}

#[test]
fn two_seconds_after_the_load_all_free_memory_is_returned_and_nothing_wakes_the_host() {
    for (name, load) in loads() {
        for used_mb in [0.0, 1.0, 20.0] {
            let demand = |s| if s < 10.0 { load(s) } else { left(used_mb) };
            let mut simulation = simulated(&demand);
            simulation.run(10.0);
            let before = simulation.tally.clone();
            simulation.run(12.0);
            assert_eq!(simulation.dirty, 0, "{name}");
            assert_eq!(simulation.decision.next_us, None, "{name}");
            assert_eq!(simulation.decision.trend, Trend::Steady, "{name}");
            let searches = simulation.tally.searches - before.searches;
            assert_eq!(searches, u64::from(used_mb > 0.0), "{name}");
            assert!(simulation.tally.wakes - before.wakes < 10, "{name}");
        }
    }
}

/// A large table is filled every 0.4 s, then small tables come and go.
#[test]
fn what_a_swing_needed_is_returned_though_light_work_goes_on() {
    for churn_every_ms in [3, 5, 10] {
        let light = |s: f64| Demand {
            churn: u32::from(((s * 1000.0).round() as u64).is_multiple_of(churn_every_ms)),
            ..quiet(1.0)
        };
        let demand = |s: f64| {
            if s < 8.0 && (s / 0.4).fract() < 0.1 { busy(33.0) } else { light(s) }
        };
        let mut simulation = simulated(&demand);
        simulation.run(8.0);
        assert!(simulation.decision.floor > Pages::ZERO);
        simulation.run(9.9);
        assert!(simulation.dirty_mb() < 2.0, "{} MB", simulation.dirty_mb());
    }
}

#[test]
fn what_is_to_be_retained_is_all_that_stays_after_the_load() {
    let settings = Settings { retain: Pages(50 * MB), ..SETTINGS };
    let demand = |s| if s < 5.0 { sawtooth(s, 1.0, 256.0) } else { left(20.0) };
    let mut simulation = Simulation::new(Manner::Policy(settings), &demand);
    simulation.run(7.0);
    assert_eq!((simulation.dirty, simulation.decision.next_us), (50 * MB, None));
}

#[test]
fn memory_that_comes_and_goes_within_a_second_is_returned_once_at_most() {
    let shapes: [(&str, Shape, f64); 4] = [
        ("sawtooth of 1 s", |s| sawtooth(s, 1.0, 256.0), 256.0),
        ("sawtooth of 100 ms", |s| sawtooth(s, 0.1, 256.0), 0.0),
        ("triangle of 1 s", triangle, 256.0),
        ("square of 1 s", |s| square(s, 1.0), 256.0),
    ];
    for (name, shape, most_mb) in shapes {
        let mut simulation = simulated(&shape);
        simulation.run(30.0);
        let returned_mb = simulation.tally.returned_mb();
        assert!(returned_mb <= most_mb, "{name}: {returned_mb} MB");
        assert!(simulation.tally.trends < 6, "{name}: {} trends", simulation.tally.trends);
    }
}

/// The share of the time from one second to another in which new blocks are packed.
fn packed(demand: &dyn Fn(f64) -> Demand, from_s: u32, to_s: u32) -> f64 {
    let mut simulation = simulated(demand);
    simulation.run(f64::from(from_s));
    let mut shrinking = 0;
    for hundredth in from_s * 100..to_s * 100 {
        simulation.run(f64::from(hundredth + 1) / 100.0);
        shrinking += u32::from(simulation.decision.trend == Trend::Shrinking);
    }
    f64::from(shrinking) / f64::from((to_s - from_s) * 100)
}

#[test]
fn new_blocks_are_packed_after_a_fall_although_the_collector_makes_demand_swing() {
    let swings: [(&str, Shape); 4] = [
        ("a third, often", |s| busy(100.0 + 100.0 * (s / 0.2).fract())),
        ("half, slower", |s| busy(40.0 + 40.0 * (s / 0.5).fract())),
        ("up and down", |s| busy(50.0 + 40.0 * (1.0 - (2.0 * (s / 0.4).fract() - 1.0).abs()))),
        ("very often", |s| busy(40.0 + 20.0 * (s / 0.05).fract())),
    ];
    for (name, swing) in swings {
        let share = packed(&|s| if s < 5.0 { busy(600.0) } else { swing(s) }, 6, 14);
        assert!(share > 0.8, "{name}: {share}");
    }
}

#[test]
fn nothing_is_packed_while_demand_climbs_back() {
    let sawtooth = |s: f64| {
        let part = (s / 10.0).fract();
        let share = if part < 0.8 { part / 0.8 } else { (1.0 - part) / 0.2 };
        busy((200.0 * share).max(1.0))
    };
    assert_eq!(packed(&sawtooth, 11, 18), 0.0);
    assert_eq!(packed(&sawtooth, 21, 28), 0.0);
}

#[test]
fn a_swing_of_ten_seconds_costs_less_than_a_hundredth_of_the_time() {
    let shapes: [(&str, Shape); 4] = [
        ("small", |s| sawtooth(s, 10.0, 64.0)),
        ("large", |s| sawtooth(s, 10.0, 512.0)),
        ("noisy", noisy_sawtooth),
        ("square", |s| busy(if s % 10.0 < 7.0 { 600.0 } else { 200.0 })),
    ];
    for (name, shape) in shapes {
        let mut simulation = simulated(&shape);
        simulation.run(100.0);
        assert!(simulation.tally.cost() < 1.0, "{name}: {:.2} %", simulation.tally.cost());
    }
}

#[test]
fn memory_that_stays_free_is_returned_although_other_memory_churns() {
    let mut simulation = simulated(&oscillating_part);
    simulation.run(5.1);
    assert!(simulation.dirty_mb() < 110.0, "{} MB", simulation.dirty_mb());
    simulation.run(7.0);
    assert!(simulation.dirty_mb() < 110.0, "{} MB", simulation.dirty_mb());
    let refaulted_mb = simulation.tally.refaulted_mb();
    assert!(refaulted_mb < 100.0, "it is learned in one turn: {refaulted_mb} MB");
}

#[test]
fn a_timer_does_not_keep_what_a_swing_needed() {
    for churn in [1, 4] {
        let timer = Demand { churn, ..left(20.0) };
        let rest = |s: f64| if (s * 50.0).fract() < 0.05 { timer } else { left(20.0) };
        let demand = |s| if s < 40.0 { sawtooth(s, 10.0, 512.0) } else { rest(s) };
        let mut simulation = simulated(&demand);
        simulation.run(35.0);
        assert!(simulation.decision.floor > Pages::ZERO);
        simulation.run(42.0);
        assert!(simulation.dirty_mb() < 2.0, "{} MB", simulation.dirty_mb());
    }
}

#[test]
fn a_swing_that_ended_is_soon_no_longer_waited_for() {
    let mut simulation = simulated(&swing_that_ends);
    simulation.run(61.0);
    assert!(simulation.dirty_mb() > 400.0, "{} MB", simulation.dirty_mb());
    simulation.run(80.0);
    assert!(simulation.dirty_mb() < 30.0, "{} MB", simulation.dirty_mb());
}

#[test]
fn the_trend_does_not_follow_a_regular_swing() {
    let shapes: [(&str, Shape); 4] = [
        ("small sawtooth of 2 s", |s| sawtooth(s, 2.0, 16.0)),
        ("low sawtooth of 10 s", |s| sawtooth(s, 10.0, 64.0)),
        ("sawtooth of 10 s", |s| sawtooth(s, 10.0, 512.0)),
        ("square of 40 s", |s| square(s, 40.0)),
    ];
    for (name, shape) in shapes {
        let mut simulation = simulated(&shape);
        simulation.run(200.0);
        assert!(simulation.tally.trends < 8, "{name}: {} trends", simulation.tally.trends);
    }
}
