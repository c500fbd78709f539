//! When spans are searched for holes.

use super::sim::{MB, SECOND_US, SETTINGS, START_US};
use crate::reclaim::policy::holes::Holes;
use crate::reclaim::policy::{Observation, Policy};
use crate::units::Pages;

const MB_32: Pages = Pages(32 * MB);

const LOAD: Observation = Observation {
    now_us: START_US,
    used: Pages(100 * MB),
    dirty: Pages::ZERO,
    sparse: Pages(40 * MB),
    churned: Pages(50 * MB),
    premature: Pages::ZERO,
    large: Pages::ZERO,
    over_limit: false,
};

/// Searches as often as there are results, each as soon as it is due. A result is what a search
/// returned and what of it was premature. Tells in seconds how long each had to be waited for.
fn searched(busy: bool, results: &[(Pages, Pages)]) -> Vec<f64> {
    let mut holes = Holes::default();
    let mut observation = if busy { LOAD } else { Observation { sparse: Pages(10 * MB), ..LOAD } };
    let mut waits = Vec::new();
    for (returned, premature) in results {
        holes.note(&observation);
        let active_us = if busy { u64::MAX / 2 } else { observation.now_us };
        let due_us = holes.next(SECOND_US, &observation, active_us).expect("a search is due");
        waits.push(due_us.saturating_sub(observation.now_us) as f64 / 1e6);
        observation.now_us = observation.now_us.max(due_us);
        holes.note_search_begins();
        holes.note_search(&observation, !busy, *returned);
        observation.premature = *premature;
    }
    waits
}

#[test]
fn a_busy_heap_is_searched_more_rarely_when_that_yields_little() {
    let (little, much) = (Pages(MB), Pages(10 * MB));
    let fruitless = [(little, Pages::ZERO); 7];
    assert_eq!(searched(true, &fruitless)[1..], [10.0, 20.0, 40.0, 80.0, 80.0, 80.0]);
    let fruitful = [little, little, much, much, little].map(|pages| (pages, Pages::ZERO));
    assert_eq!(searched(true, &fruitful)[1..], [10.0, 20.0, 5.0, 5.0]);
}

#[test]
fn a_busy_heap_is_searched_more_rarely_when_that_is_premature() {
    let much = Pages(16 * MB);
    let results = [(much, Pages(3 * MB)), (much, Pages(MB)), (much, Pages::ZERO)];
    assert_eq!(searched(true, &results)[1..], [5.0, 10.0]);
}

/// What was needed again too early was returned by an earlier search. The heap is so small that no
/// search is fruitless.
#[test]
fn a_search_that_returned_nothing_was_not_premature() {
    let small = Observation { used: Pages(60), sparse: Pages(50), premature: Pages(1), ..LOAD };
    let again_us = |returned| {
        let mut holes = Holes::default();
        for _ in 0..3 {
            holes.note_search_begins();
            holes.note_search(&small, false, returned);
            holes.note(&small);
        }
        holes.next(SECOND_US, &small, u64::MAX / 2).map(|at_us| at_us - small.now_us)
    };
    assert_eq!([Pages::ZERO, Pages(1)].map(again_us), [5, 20].map(|s| Some(s * SECOND_US)));
}

#[test]
fn an_idle_heap_is_searched_at_once_but_no_more_often_than_is_affordable() {
    let at_once = 1.0;
    let small = [(Pages(MB), Pages::ZERO); 3];
    assert_eq!(searched(false, &small), [at_once; 3]);
    let large = [(MB_32, Pages::ZERO); 3];
    assert_eq!(searched(false, &large), [at_once, 2.4576, 2.4576]);
    let huge = [(Pages(1000 * MB), Pages::ZERO); 2];
    assert_eq!(searched(false, &huge), [at_once, 60.0]);
}

#[test]
fn what_searches_cost_adds_up() {
    let observation = Observation { sparse: Pages(10 * MB), ..LOAD };
    let mut holes = Holes::default();
    holes.note_search(&observation, false, MB_32);
    holes.note_search(&observation, true, MB_32);
    holes.note(&observation);
    assert_eq!(holes.next(SECOND_US, &observation, LOAD.now_us), Some(LOAD.now_us + 2 * 2_457_600));
}

#[test]
fn the_end_of_a_load_is_searched_at_once_whatever_was_searched_before() {
    let mut holes = Holes::default();
    holes.note(&LOAD);
    holes.note_search_begins();
    holes.note_search(&LOAD, false, Pages(100 * MB));
    holes.note(&LOAD);
    let due_us = holes.next(SECOND_US, &LOAD, LOAD.now_us);
    assert_eq!(due_us, Some(LOAD.now_us + SECOND_US));
}

#[test]
fn an_idle_heap_in_which_much_was_done_is_searched_at_once() {
    let due_s = |churned| {
        let mut holes = Holes::default();
        holes.note(&LOAD);
        holes.note_search_begins();
        holes.note_search(&LOAD, true, MB_32);
        let observation = Observation { sparse: Pages(10 * MB), churned, ..LOAD };
        holes.note(&observation);
        holes
            .next(SECOND_US, &observation, LOAD.now_us)
            .map(|at_us| (at_us - LOAD.now_us) as f64 / 1e6)
    };
    assert_eq!((due_s(Pages(100 * MB)), due_s(Pages(128 * MB))), (Some(2.4576), Some(1.0)));
}

#[test]
fn a_busy_heap_with_few_free_slots_is_searched_above_a_memory_limit_only() {
    let due_s = |over_limit| {
        let few = Observation { sparse: Pages(5 * MB), over_limit, ..LOAD };
        let mut holes = Holes::default();
        holes.note_search_begins();
        holes.note_search(&few, false, Pages(2 * MB));
        holes.note(&few);
        let active_us = LOAD.now_us + 100 * SECOND_US;
        holes.next(SECOND_US, &few, active_us).map(|at_us| (at_us - LOAD.now_us) as f64 / 1e6)
    };
    assert_eq!((due_s(true), due_s(false)), (Some(5.0), Some(101.0)));
}

#[test]
fn nothing_is_searched_where_nothing_new_can_be_found() {
    let due = |observation: Observation| {
        let mut holes = Holes::default();
        holes.note(&LOAD);
        holes.note_search_begins();
        holes.note_search(&LOAD, true, Pages(MB));
        holes.note(&observation);
        holes.next(SECOND_US, &observation, START_US).is_some()
    };
    let still = Observation { churned: Pages::ZERO, ..LOAD };
    assert!(due(LOAD), "pages changed hands");
    assert!(!due(Observation { churned: Pages(MB), ..LOAD }), "few of them");
    assert!(!due(Observation { sparse: Pages(MB), ..LOAD }), "hardly a slot is free");
    assert!(!due(still), "nothing changed");
    assert!(due(Observation { sparse: Pages(60 * MB), ..still }), "slots became free");
}

#[test]
fn holes_are_searched_for_a_second_after_a_load_though_light_work_goes_on() {
    let searches = |churned| {
        let mut policy = Policy::default();
        let mut decide = |seconds: f64, churned| {
            let now_us = START_US + (seconds * SECOND_US as f64) as u64;
            policy.decide(&SETTINGS, Observation { now_us, churned, ..LOAD }).holes
        };
        decide(0.0, LOAD.churned);
        (1..20).find(|tenth| decide(f64::from(*tenth) / 10.0, churned))
    };
    // In 125 ms: none, more than make a heap busy, and an eighth of the free slots.
    let few = Pages(40);
    assert_eq!([Pages::ZERO, few].map(searches), [Some(10), Some(10)]);
    assert_eq!(searches(Pages(5 * MB)), None);
}

#[test]
fn what_changes_during_a_search_is_searched_again() {
    let mut holes = Holes::default();
    holes.note(&LOAD);
    holes.note_search_begins();
    holes.note(&Observation { sparse: LOAD.sparse.saturating_add(Pages(10 * MB)), ..LOAD });
    holes.note_search(&LOAD, false, Pages(MB));
    assert!(holes.next(SECOND_US, &LOAD, LOAD.now_us).is_some());
}

#[test]
fn light_work_is_searched_rarely_when_nothing_is_found() {
    let mut policy = Policy::default();
    let mut searches = 0;
    for hundredth in 0..6000 {
        let now_us = START_US + hundredth * SECOND_US / 100;
        // 100 MB in use, and 20 MB a second that come and go.
        let churned = if hundredth == 0 { LOAD.churned } else { Pages(MB / 5) };
        if policy.decide(&SETTINGS, Observation { now_us, churned, ..LOAD }).holes {
            policy.note_search_begins(&SETTINGS);
            policy.note_holes(&SETTINGS, Pages::ZERO);
            searches += 1;
        }
    }
    assert!((2..10).contains(&searches), "{searches} searches in a minute");
}
