//! What large blocks leave, as the policy as a whole treats it.

use super::sim::{MB, SECOND_US, SETTINGS, START_US};
use crate::reclaim::policy::{Observation, Policy};
use crate::units::Pages;

fn seen(used_mb: u32, dirty_mb: u32) -> Observation {
    Observation {
        used: Pages(used_mb * MB),
        dirty: Pages(dirty_mb * MB),
        churned: Pages(20 * MB),
        ..Observation::default()
    }
}

/// A swing keeps what a large block of 32 MB left, but not for long: the credit is 4 MB s.
#[test]
fn a_forecast_says_when_the_credit_for_what_large_blocks_left_is_spent() {
    let mut policy = Policy::default();
    let large = Observation { large: Pages(33 * MB), ..seen(43, 0) };
    let at = |ms: u32, observation| Observation {
        now_us: START_US + u64::from(ms) * 1000,
        ..observation
    };
    for turn in 0..3 {
        policy.decide(&SETTINGS, at(20 * turn, large));
        policy.decide(&SETTINGS, at(20 * turn + 1, seen(10, 33)));
    }
    // All of the credit is back.
    policy.decide(&SETTINGS, at(60, large));
    policy.decide(&SETTINGS, at(2000, large));
    let left = at(2001, seen(10, 33));
    let forecast = policy.forecast(&SETTINGS, left);
    // Beyond the allowance of 3 MB.
    let spent_us = left.now_us + SECOND_US * 4 / 30;
    assert!(forecast.keep_at(spent_us - 1) >= Pages(33 * MB), "{forecast:?}");
    assert_eq!(forecast.keep_at(spent_us + 1), Pages(3 * MB / 2), "{forecast:?}");
    let decision = policy.decide(&SETTINGS, left);
    assert!(decision.next_us.is_some_and(|at_us| at_us <= spent_us + 1), "{decision:?}");
}

/// Where the background thread returns it, between two looks.
#[test]
fn what_was_returned_before_the_next_look_spends_no_credit() {
    let mut policy = Policy::default();
    let large = Observation { large: Pages(33 * MB), ..seen(43, 0) };
    let at = |ms: u64, observation| Observation { now_us: START_US + ms * 1000, ..observation };
    policy.decide(&SETTINGS, at(0, large));
    policy.note_large(&SETTINGS, &at(1, seen(10, 33)));
    policy.note_returned(&SETTINGS, Pages(33 * MB));
    policy.decide(&SETTINGS, at(3000, seen(10, 0)));
    let decision = policy.decide(&SETTINGS, at(3001, seen(10, 33)));
    assert_eq!(decision.most, SETTINGS.retain_max, "{decision:?}");
}
