//! The policy's parts, one by one.

use super::sim::{MB, SECOND_US, SETTINGS, START_US};
use crate::reclaim::policy::decay::{Decay, decayed, epoch_us};
use crate::reclaim::policy::demand::DemandLevels;
use crate::reclaim::policy::{
    Decision, Observation, Policy, PrematurePurge, Reason, Settings, Trend,
};
use crate::units::Pages;

const MB_32: Pages = Pages(32 * MB);
const EPOCH_US: u64 = SECOND_US / 8;

#[test]
fn idle_memory_stays_then_goes_smoothly() {
    let shares: Vec<u32> = (0..16).map(|epochs| decayed(Pages(256), epochs).0).collect();
    assert_eq!(shares[..9], [256; 9]);
    assert_eq!(shares[9..], [216, 128, 40, 0, 0, 0, 0]);
    assert_eq!(decayed(Pages(u32::MAX), 0), Pages(u32::MAX));
}

#[test]
fn an_epoch_is_an_eighth_of_the_decay_but_never_nothing() {
    assert_eq!((epoch_us(SECOND_US), epoch_us(0), epoch_us(7999)), (EPOCH_US, 1000, 1000));
}

/// A ring that saw these numbers of dirty pages at these times.
fn decay_of(seen: &[(u64, u32)]) -> Decay {
    let mut decay = Decay::default();
    for (now_us, dirty) in seen {
        decay.note(EPOCH_US, *now_us, Pages(*dirty));
    }
    decay
}

#[test]
fn the_ring_remembers_when_memory_became_free() {
    let decay = decay_of(&[(0, 100), (EPOCH_US, 300), (2 * EPOCH_US, 300)]);
    let keep: Vec<u32> = (6..13).map(|epochs| decay.keep_after(epochs).0).collect();
    let parts = |first: u32, second: u32| 100 * first / 64 + 200 * second / 64;
    let kept = [(64, 64), (64, 64), (54, 64), (32, 54), (10, 32), (0, 10), (0, 0)];
    assert_eq!(keep, kept.map(|(first, second)| parts(first, second)));
}

#[test]
fn the_memory_that_became_free_last_is_used_first() {
    let old_and_new = [(0, 1000), (6 * EPOCH_US, 1500)];
    let mut decay = decay_of(&old_and_new);
    decay.note(EPOCH_US, 7 * EPOCH_US, Pages(900));
    assert_eq!(decay.keep_after(0), Pages(900));
    assert_eq!(decay.keep_after(4), Pages(900 * 32 / 64), "all of it is old");
}

#[test]
fn what_was_returned_makes_no_more_go() {
    let mut decay = decay_of(&[(0, 1000), (10 * EPOCH_US, 1000)]);
    let keep = decay.keep_after(0);
    assert!(keep < Pages(1000) && keep > Pages::ZERO);
    decay.note_returned(Pages(1000) - keep);
    assert_eq!((decay.older(), decay.keep_after(0)), (Pages::ZERO, keep));
    decay.note(EPOCH_US, 10 * EPOCH_US + 1, keep);
    assert_eq!(decay.keep_after(0), keep);
}

#[test]
fn a_ring_that_slept_for_long_is_empty() {
    for slept_us in [13 * EPOCH_US, 1000 * SECOND_US, 1 << 50] {
        let mut decay = decay_of(&[(1, 1000)]);
        decay.note(EPOCH_US, 1 + slept_us, Pages(1000));
        assert_eq!(decay.keep_after(0), Pages::ZERO);
    }
}

/// Demand in megabytes at times in seconds, seen every 10 ms in between.
fn levels_of(corners: &[(f64, f64)]) -> (DemandLevels, u64) {
    let mut levels = DemandLevels::default();
    let at_us = |seconds: f64| START_US + (seconds * 1e6) as u64;
    for pair in corners.windows(2) {
        let [(from_s, from), (to_s, to)] = pair else { unreachable!() };
        let steps = ((to_s - from_s) * 100.0).max(1.0) as u64;
        for step in 0..=steps {
            let part = step as f64 / steps as f64;
            let used = (from + (to - from) * part) * f64::from(MB);
            levels.note(at_us(from_s + (to_s - from_s) * part), Pages(used as u32), SECOND_US / 4);
        }
    }
    let last_s = corners.last().map_or(0.0, |corner| corner.0);
    (levels, at_us(last_s))
}

fn expected_mb(corners: &[(f64, f64)]) -> u32 {
    let (levels, now_us) = levels_of(corners);
    levels.expected(now_us).0 / MB
}

#[test]
fn demand_that_came_back_is_believed_to_do_so_again() {
    assert_eq!(expected_mb(&[(0.0, 500.0), (0.1, 100.0), (5.0, 100.0)]), 0);
    let back = [(0.0, 500.0), (0.1, 100.0), (5.0, 100.0), (5.1, 500.0), (5.2, 100.0)];
    assert_eq!(expected_mb(&back), 500);
}

#[test]
fn it_is_waited_for_twice_as_long_as_it_was_away() {
    let back = [(0.0, 500.0), (0.1, 100.0), (5.0, 100.0), (5.1, 500.0), (9.0, 500.0)];
    for (until_s, expected) in [(18.0, 500), (20.0, 0)] {
        let then = [(9.1, 100.0), (until_s, 100.0)];
        assert_eq!(expected_mb(&[&back[..], &then].concat()), expected, "{until_s} s");
    }
}

#[test]
fn a_swing_that_costs_little_is_not_waited_for() {
    // 32 MB cost 25 ms, a hundredth of 2.5 s.
    for (away_s, expected) in [(2.0, 132), (3.0, 0)] {
        let back_s = 0.1 + away_s;
        let back = [(0.0, 132.0), (0.1, 100.0), (back_s, 100.0), (back_s, 132.0)];
        assert_eq!(expected_mb(&back), expected, "{away_s} s");
    }
}

#[test]
fn a_swing_that_costs_little_is_expected_all_the_same() {
    let back = [(0.0, 132.0), (0.1, 100.0), (4.0, 100.0), (4.0, 132.0), (4.1, 100.0)];
    let (levels, now_us) = levels_of(&back);
    assert_eq!(levels.expected(now_us), Pages::ZERO);
    assert!(!levels.has_fallen(now_us, 10 * SECOND_US));
    let (levels, now_us) = levels_of(&[&back[..], &[(13.0, 100.0)]].concat());
    assert!(levels.has_fallen(now_us, 10 * SECOND_US), "waited for long enough");
}

#[test]
fn a_swing_that_costs_little_does_not_make_a_dear_one_forgotten() {
    let dear = [(0.0, 500.0), (0.1, 100.0), (5.0, 100.0), (5.1, 500.0)];
    let cheap = [(5.2, 420.0), (35.0, 420.0), (35.1, 500.0), (35.2, 100.0), (36.0, 100.0)];
    assert_eq!(expected_mb(&[&dear[..], &cheap].concat()), 500);
    assert_eq!(expected_mb(&[&cheap[..], &[(36.1, 500.0), (36.2, 100.0)]].concat()), 500);
}

#[test]
fn small_swings_on_top_do_not_hide_the_large_one() {
    let mut corners = vec![(0.0, 600.0), (0.1, 100.0)];
    for tenth in 2..50 {
        let slow = 100.0 + f64::from(tenth);
        let swing = if tenth % 2 == 0 { 60.0 } else { 0.0 };
        corners.push((f64::from(tenth) / 10.0, slow + swing));
    }
    corners.extend([(5.0, 590.0), (5.5, 590.0), (5.6, 100.0), (7.0, 100.0)]);
    assert_eq!(expected_mb(&corners), 600);
}

#[test]
fn what_was_learned_is_forgotten_after_a_minute() {
    let back = [(0.0, 500.0), (0.1, 100.0), (20.0, 100.0), (20.1, 500.0)];
    for (stays_s, expected) in [(70.0, 500), (90.0, 0)] {
        let then = [(stays_s, 500.0), (stays_s + 0.1, 100.0)];
        assert_eq!(expected_mb(&[&back[..], &then].concat()), expected, "{stays_s} s");
    }
    let away = [(0.0, 500.0), (0.1, 100.0), (70.0, 100.0), (70.1, 500.0), (70.2, 100.0)];
    assert_eq!(expected_mb(&away), 0, "away for more than a minute");
}

#[test]
fn what_was_learned_is_learned_anew_before_it_is_forgotten() {
    let mut corners = vec![(0.0, 500.0), (0.1, 100.0), (20.0, 100.0), (20.1, 500.0)];
    for turn in 1..6 {
        let start_s = 5.0 + 16.0 * f64::from(turn);
        let turn = [(0.0, 500.0), (0.1, 100.0), (15.0, 100.0), (15.1, 500.0)];
        corners.extend(turn.map(|(s, mb)| (start_s + s, mb)));
    }
    let low = corners.partition_point(|(seconds, _)| *seconds < 70.0);
    corners.truncate(low);
    corners.push((82.0, 100.0));
    assert_eq!(expected_mb(&corners), 500, "each return was a little sooner than the first");
}

#[test]
fn a_short_swing_is_learned_when_the_long_one_is_forgotten() {
    let long = [(0.0, 500.0), (0.1, 100.0), (20.0, 100.0), (20.1, 500.0), (85.0, 500.0)];
    let short = [(85.1, 100.0), (86.0, 100.0), (86.1, 500.0), (86.2, 100.0)];
    assert_eq!(expected_mb(&[&long[..], &short].concat()), 500);
}

#[test]
fn the_highest_levels_are_remembered_however_many_there_were() {
    let levels = (0..40).map(|i| (f64::from(i) / 10.0, 1000.0 * 0.8_f64.powi(i)));
    let mut corners: Vec<(f64, f64)> = levels.collect();
    corners.extend([(4.1, 1000.0), (4.2, 1.0)]);
    assert_eq!(expected_mb(&corners), 1000);
}

#[test]
fn demand_has_fallen_until_it_is_back_or_long_ago() {
    let fallen = |corners: &[(f64, f64)]| {
        let (levels, now_us) = levels_of(corners);
        levels.has_fallen(now_us, 10 * SECOND_US)
    };
    let fall = [(0.0, 500.0), (0.1, 100.0)];
    assert!(!fallen(&fall[..1]) && fallen(&fall));
    assert!(!fallen(&[(0.0, 500.0), (0.1, 480.0)]), "within the tolerance");
    assert!(fallen(&[&fall[..], &[(9.0, 100.0)]].concat()));
    assert!(!fallen(&[&fall[..], &[(11.0, 100.0)]].concat()), "long ago");
    let swing = [(2.0, 100.0), (2.1, 500.0), (2.2, 100.0)];
    assert!(!fallen(&[&fall[..], &swing].concat()), "expected back");
}

#[test]
fn premature_purges_last_as_long_as_it_may_cost() {
    let mut premature = PrematurePurge::default();
    premature.add(START_US, MB_32);
    let until_us = START_US + 2_457_600;
    assert_eq!((premature.at(until_us - 1), premature.at(until_us)), (MB_32, Pages::ZERO));
    premature.add(until_us - 1, MB_32);
    assert_eq!(premature.at(until_us + 2_000_000), Pages(64 * MB));
    for second in 0..100 {
        premature.add(START_US + second * SECOND_US, Pages(10));
    }
    assert_eq!(premature.at(START_US + 99 * SECOND_US), Pages(10), "few pages are no matter");
    let mut premature = PrematurePurge::default();
    premature.add(START_US, Pages(2000 * MB));
    assert_eq!(premature.at(START_US + 60 * SECOND_US), Pages::ZERO);
}

/// Shows the policy one observation after another.
fn decided(settings: &Settings, observations: &[Observation]) -> Decision {
    let mut policy = Policy::default();
    let decisions = observations.iter().map(|observation| policy.decide(settings, *observation));
    decisions.last().expect("an observation")
}

fn seen(seconds: f64, used_mb: u32, dirty_mb: u32) -> Observation {
    Observation {
        now_us: START_US + (seconds * 1e6) as u64,
        used: Pages(used_mb * MB),
        dirty: Pages(dirty_mb * MB),
        churned: Pages(20 * MB),
        ..Observation::default()
    }
}

#[test]
fn what_became_free_may_stay_for_a_second() {
    let mut observations = vec![seen(0.0, 500, 0), seen(0.1, 100, 4)];
    observations.push(seen(1.0, 100, 4));
    assert_eq!(decided(&SETTINGS, &observations).keep, Pages(4 * MB));
    observations[2] = Observation { churned: Pages::ZERO, ..seen(1.55, 100, 4) };
    let keep = decided(&SETTINGS, &observations).keep;
    assert!(keep > Pages::ZERO && keep < Pages(4 * MB), "{keep:?}");
    observations[2] = Observation { churned: Pages::ZERO, ..seen(1.8, 100, 4) };
    assert_eq!(decided(&SETTINGS, &observations).keep, Pages::ZERO);
}

#[test]
fn of_much_free_memory_that_nobody_needs_for_a_moment_4_mb_or_a_sixteenth_may_stay() {
    for (used_mb, keep_mb) in [(16, 4), (320, 20)] {
        let mut observations = vec![seen(0.0, used_mb + 400, 0), seen(0.1, used_mb, 400)];
        let keep = decided(&SETTINGS, &observations).keep;
        assert_eq!(keep, Pages(400 * MB + keep_mb * MB * 9 / 4));
        let next_us = decided(&SETTINGS, &observations).next_us.expect("it will have been idle");
        assert_eq!(next_us, observations[1].now_us + SECOND_US / 32);
        for moments in [1.0, 2.0] {
            observations.push(seen(0.1 + moments / 32.0, used_mb, 400));
        }
        assert_eq!(decided(&SETTINGS, &observations).keep, Pages(keep_mb * MB));
    }
}

#[test]
fn a_longer_decay_keeps_more_for_longer() {
    let settings = Settings { decay_us: 10 * SECOND_US, ..SETTINGS };
    let mut observations = vec![seen(0.0, 600, 0), seen(0.1, 200, 400)];
    for seconds in [0.3, 0.41, 0.73] {
        observations.push(seen(seconds, 200, 400));
    }
    assert_eq!(decided(&settings, &observations).keep, Pages(125 * MB));
}

#[test]
fn a_forecast_says_what_may_stay_when_what_is_free_has_been_so_for_a_moment() {
    let mut policy = Policy::default();
    policy.decide(&SETTINGS, seen(0.0, 500, 0));
    let forecast = policy.forecast(&SETTINGS, seen(0.1, 100, 400));
    let idle_us = forecast.made_us + SECOND_US / 32;
    assert_eq!(forecast.falls_below_us(Pages(400 * MB)), Some(idle_us));
    assert!(forecast.keep_at(idle_us - 1) >= Pages(400 * MB));
    assert_eq!(forecast.keep_at(idle_us), Pages(100 * MB / 16));
    assert_eq!(forecast.keep_at(forecast.ends_us()), Pages::ZERO);
}

#[test]
fn the_time_of_the_wake_up_does_not_depend_on_when_one_looks() {
    let mut policy = Policy::default();
    policy.decide(&SETTINGS, seen(0.0, 500, 0));
    policy.decide(&SETTINGS, seen(0.1, 100, 400));
    let mut observation = Observation { churned: Pages::ZERO, ..seen(0.4, 100, 400) };
    let next_us = policy.decide(&SETTINGS, observation).next_us.expect("memory will go");
    for before_us in [400_000, 100_000, 50_000, 1] {
        observation.now_us = next_us - before_us;
        assert_eq!(policy.decide(&SETTINGS, observation).next_us, Some(next_us));
    }
    observation.now_us = next_us;
    assert!(policy.decide(&SETTINGS, observation).keep < Pages(400 * MB));
}

#[test]
fn nothing_stays_above_a_memory_limit() {
    let over = Observation { over_limit: true, ..seen(0.1, 100, 400) };
    let decision = decided(&Settings { retain: MB_32, ..SETTINGS }, &[seen(0.0, 500, 0), over]);
    assert_eq!((decision.keep, decision.floor), (Pages::ZERO, Pages::ZERO));
    assert_eq!((decision.reason, decision.trend), (Reason::Limit, Trend::Shrinking));
}

#[test]
fn what_is_to_be_retained_stays_for_ever() {
    let settings = Settings { retain: MB_32, ..SETTINGS };
    let decision =
        decided(&settings, &[seen(0.0, 500, 0), seen(0.1, 100, 400), seen(9.0, 100, 32)]);
    assert_eq!((decision.keep, decision.floor, decision.reason), (MB_32, MB_32, Reason::Retain));
    let capped = Settings { retain: Pages(64 * MB), retain_max: MB_32, ..SETTINGS };
    assert_eq!(decided(&capped, &[seen(0.0, 100, 100)]).keep, MB_32);
}

#[test]
fn never_more_stays_than_the_cap() {
    let settings = Settings { retain_max: MB_32, ..SETTINGS };
    assert_eq!(decided(&settings, &[seen(0.0, 500, 40)]).keep, MB_32, "growing");
    assert_eq!(decided(&settings, &[seen(0.0, 500, 0), seen(0.3, 100, 400)]).keep, MB_32);
}

#[test]
fn a_swing_is_kept_up_to_twice_the_mean_demand() {
    let swing = |low_tenths: u32| {
        let back = 10 + low_tenths;
        let level = |tenth| if (10..back).contains(&tenth) { (20, 480) } else { (500, 0) };
        let at = |tenth: u32| seen(f64::from(tenth) / 10.0, level(tenth).0, level(tenth).1);
        let mut observations: Vec<Observation> = (0..back + 5).map(at).collect();
        observations.push(seen(f64::from(back + 6) / 10.0, 20, 480));
        decided(&SETTINGS, &observations)
    };
    let decision = swing(10);
    assert_eq!((decision.floor, decision.reason), (Pages(480 * MB), Reason::Swing));
    let capped = swing(190).floor.0 / MB;
    assert!((100..160).contains(&capped), "{capped} MB; demand was 55 MB on average");
}

#[test]
fn a_spike_after_a_long_silence_does_not_count_as_the_mean() {
    let spike = |at_s: f64| [seen(at_s, 500, 0), seen(at_s + 0.3, 20, 480)];
    let observations = [spike(0.0), spike(10.0), spike(20.0)].concat();
    let floor_mb = decided(&SETTINGS, &observations).floor.0 / MB;
    assert!((60..90).contains(&floor_mb), "{floor_mb} MB; demand was 34 MB on average");
}

#[test]
fn what_was_premature_stays_for_a_while() {
    let premature = |pages| Observation { premature: pages, ..seen(1.0, 100, 0) };
    let after =
        |pages| decided(&SETTINGS, &[seen(0.0, 100, 0), premature(pages), seen(3.0, 68, 32)]);
    let decision = after(MB_32);
    assert_eq!((decision.floor, decision.reason), (MB_32, Reason::PrematurePurge));
    assert_eq!(after(Pages(16 * MB)).reason, Reason::Nothing, "it is affordable by now");
}

#[test]
fn demand_that_is_higher_than_before_is_growing() {
    let mut observations: Vec<Observation> =
        (0..10).map(|i| seen(f64::from(i), 100 + 50 * i, 0)).collect();
    assert_eq!(decided(&SETTINGS, &observations).trend, Trend::Growing);
    // Nothing is free: so much may become free.
    assert_eq!(decided(&SETTINGS, &observations).keep, Pages(550 * MB / 16 * 9 / 4));
    observations.push(seen(9.3, 550, 0));
    assert_eq!(decided(&SETTINGS, &observations).trend, Trend::Steady);
    observations.push(seen(9.4, 300, 250));
    assert_eq!(decided(&SETTINGS, &observations).trend, Trend::Shrinking);
    let rest = Observation { churned: Pages::ZERO, ..seen(11.0, 300, 0) };
    for (observation, trend) in [
        (rest, Trend::Steady),
        (seen(19.0, 300, 0), Trend::Shrinking),
        (seen(20.0, 300, 0), Trend::Steady),
    ] {
        observations.push(observation);
        assert_eq!(decided(&SETTINGS, &observations).trend, trend);
    }
}

#[test]
fn demand_that_climbs_back_fast_keeps_twice_what_it_climbed() {
    let climbed_mb = |corners: &[(f64, f64)]| {
        let (levels, now_us) = levels_of(corners);
        levels.climbed(now_us, SECOND_US / 4).0 / MB
    };
    let fall = [(0.0, 500.0), (2.0, 100.0)];
    assert_eq!(climbed_mb(&fall), 0);
    assert_eq!(climbed_mb(&[&fall[..], &[(3.0, 120.0)]].concat()), 20, "20 MB in a second");
    assert_eq!(climbed_mb(&[&fall[..], &[(3.0, 105.0)]].concat()), 0, "5 MB in a second");
    let stays = [(3.0, 140.0), (3.2, 139.0)];
    assert_eq!(climbed_mb(&[&fall[..], &stays].concat()), 40);
    assert_eq!(climbed_mb(&[&fall[..], &stays, &[(3.4, 139.0)]].concat()), 0, "no longer");
    let away = [(6.0, 100.0), (7.0, 120.0)];
    assert_eq!(climbed_mb(&[&fall[..], &away].concat()), 20, "from when it was lowest last");
    let swing = [(3.0, 500.0), (3.1, 100.0), (3.5, 150.0)];
    assert_eq!(climbed_mb(&[&fall[..], &swing].concat()), 0, "that it comes back is expected");
    let passes = [(2.5, 200.0), (2.6, 100.0), (3.5, 260.0)];
    assert_eq!(climbed_mb(&[&fall[..], &passes].concat()), 160, "it goes on past what is expected");

    let observations =
        [seen(0.0, 500, 0), seen(0.1, 100, 400), seen(1.6, 100, 400), seen(1.7, 130, 370)];
    assert_eq!(decided(&SETTINGS, &observations[..3]).trend, Trend::Shrinking);
    let decision = decided(&SETTINGS, &observations);
    assert_eq!((decision.trend, decision.reason), (Trend::Steady, Reason::Climb));
    assert_eq!(decision.floor, Pages(60 * MB));
    assert!(decision.keep < Pages(80 * MB), "{decision:?}");
}

#[test]
fn pages_that_came_to_light_are_old() {
    let mut policy = Policy::default();
    policy.decide(&SETTINGS, seen(0.0, 100, 0));
    policy.decide(&SETTINGS, seen(5.0, 100, 0));
    policy.note_found(&SETTINGS, MB_32);
    assert_eq!(policy.decide(&SETTINGS, seen(5.1, 68, 32)).keep, Pages::ZERO);
}

#[test]
fn memory_of_different_age_is_as_old_as_its_mean() {
    let mut policy = Policy::default();
    policy.decide(&SETTINGS, seen(0.0, 400, 0));
    policy.decide(&SETTINGS, seen(1.0, 300, 100));
    policy.decide(&SETTINGS, seen(3.0, 100, 300));
    policy.decide(&SETTINGS, seen(4.0, 100, 300));
    let age_us = policy.idle_age_us(&SETTINGS, 0);
    let epoch_us = SECOND_US / 8;
    assert!(age_us.abs_diff(5 * SECOND_US / 3) < epoch_us, "a third 3 s, the rest 1 s: {age_us}");
}

#[test]
fn memory_that_comes_and_goes_does_not_make_what_stays_younger() {
    let mut policy = Policy::default();
    policy.decide(&SETTINGS, seen(0.0, 500, 0));
    for i in 0..1000 {
        let borrowed = 10 * (i % 2);
        policy.decide(&SETTINGS, seen(1.0 + f64::from(i) / 10.0, 100 + borrowed, 400 - borrowed));
    }
    let age_us = policy.idle_age_us(&SETTINGS, 0);
    assert!(age_us > 95 * SECOND_US, "{age_us}");
}

#[test]
fn sights_of_one_moment_count_together() {
    let parts =
        [10, 10].map(|churned| Observation { churned: Pages(churned), ..seen(1.0, 100, 0) });
    let idle = Observation { churned: Pages::ZERO, ..seen(3.0, 100, 0) };
    let mut policy = Policy::default();
    for observation in [seen(0.0, 100, 0), parts[0], parts[1], idle] {
        policy.decide(&SETTINGS, observation);
    }
    assert_eq!(policy.state.active.last_us, START_US + SECOND_US);
}
