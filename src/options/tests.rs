//! Values from each source, their order, and what is wrong with them.

use super::*;
use crate::error::last_text;

fn none(_: &CStr) -> Option<&'static CStr> {
    None
}

#[test]
fn a_field_wins_over_the_environment_and_that_over_the_default() {
    let variable = |name: &CStr| (name == c"EBBTIDE_RESERVE").then_some(c"4g");
    let options = Options::resolve_with(&[], variable).expect("good values");
    assert_eq!(options.get(Key::Reserve), 4 << 30);
    assert_eq!(options.get(Key::RemapMin), 128 << 10);
    let options = Options::resolve_with(&[2 << 30, 1, 0], variable).expect("good values");
    assert_eq!((options.get(Key::Reserve), options.get(Key::Thp)), (2 << 30, 1));
}

#[test]
fn what_makes_no_sense_is_refused_by_name_with_the_range() {
    let variable = |_: &CStr| Some(c"banana");
    assert_eq!(Options::resolve_with(&[], variable), Err(Error::Range));
    assert!(last_text().starts_with("EBBTIDE_RESERVE=banana: takes a number from 1m to 8t;"));
    assert_eq!(Options::resolve_with(&[3], none), Err(Error::Range));
    assert_eq!(last_text(), "reserve: 3 is not from 1m to 8t");
    assert_eq!(Options::resolve_with(&[0, -3], none), Err(Error::Range));
    assert_eq!(Options::resolve_with(&[ZERO], none), Err(Error::Range));
    assert_eq!(last_text(), "reserve: 0 is not from 1m to 8t");
    let unknown = [[0; TABLE.len()].as_slice(), &[7]].concat();
    assert_eq!(Options::resolve_with(&unknown, none), Err(Error::Argument));
    assert!(Options::resolve_with(&[0; TABLE.len() + 5], none).is_ok());
}

#[test]
fn zero_can_be_asked_for_where_an_unset_field_means_something_else() {
    let mut given = [0; TABLE.len()];
    let auto = Key::Auto as usize;
    let value = |given: &[i64]| Options::resolve_with(given, none).map(|o| o.get(Key::Auto));
    assert_eq!(value(&given), Ok(1));
    given[auto] = ZERO;
    assert_eq!(value(&given), Ok(0));
}

#[test]
fn words_stand_for_values() {
    let from = |variable: &'static CStr, text: &'static CStr| {
        Options::resolve_with(&[], move |name| (name == variable).then_some(text))
    };
    let auto = from(c"EBBTIDE_AUTO", c"off").expect("a switch");
    assert_eq!(auto.get(Key::Auto), 0);
    assert_eq!(from(c"EBBTIDE_AUTO", c"yes"), Err(Error::Range));
    assert_eq!(last_text(), "EBBTIDE_AUTO=yes: takes off or on; say on");
    let soft = from(c"EBBTIDE_LIMIT_SOFT", c"cgroup").expect("a limit");
    assert_eq!(soft.get(Key::LimitSoft), CGROUP);
    assert_eq!(Options::DEFAULT.check_change(Key::LimitSoft, CGROUP), Ok(()));
    assert_eq!(from(c"EBBTIDE_LIMIT_HARD", c"cgroup"), Err(Error::Range));
    assert_eq!(Options::DEFAULT.check_change(Key::LimitSoft, -5), Err(Error::Range));
    assert!(last_text().ends_with("-5 is not 0, or from 512k to 8t or cgroup"), "{}", last_text());
    assert_eq!(from(c"EBBTIDE_RETAIN", c"on"), Err(Error::Range));
}

#[test]
fn names_are_found_and_changes_checked() {
    assert_eq!(Options::key(c"remap_min"), Ok(Key::RemapMin));
    assert_eq!(Options::key(c"remap"), Err(Error::Option));
    assert_eq!(last_text(), "remap: there is no such option; did you mean remap_min?");
    assert_eq!(Options::DEFAULT.check_change(Key::Reserve, 1 << 30), Err(Error::Fixed));
    assert_eq!(Options::DEFAULT.check_change(Key::Thp, 2), Err(Error::Range));
    assert_eq!(Options::DEFAULT.check_change(Key::Thp, 1), Ok(()));
}

#[test]
fn a_soft_limit_above_the_hard_one_is_refused_with_both() {
    const M: i64 = 1 << 20;
    let given = |soft, hard| {
        let mut given = Given::default();
        given.put(Key::LimitSoft, soft).expect("a limit");
        given.put(Key::LimitHard, hard).expect("a limit");
        Options::resolve_with(given.values(), none)
    };
    assert_eq!(given(200 << 20, 100 << 20), Err(Error::Range));
    assert!(last_text().starts_with("limit_soft=200m: is above limit_hard=100m"));
    for (soft, hard) in [(M, M), (0, M), (M, 0), (CGROUP, M), (CGROUP, 0)] {
        assert!(given(soft, hard).is_ok(), "{soft} {hard}");
    }
    let options = given(100 << 20, 100 << 20).expect("equal limits");
    assert_eq!(options.check_change(Key::LimitHard, 99 << 20), Err(Error::Range));
    assert!(last_text().starts_with("limit_soft=100m: is above limit_hard=99m"));
    assert_eq!(options.check_change(Key::LimitSoft, 101 << 20), Err(Error::Range));
    assert_eq!(options.check_change(Key::LimitHard, 101 << 20), Ok(()));
    assert_eq!(options.check_change(Key::LimitHard, 0), Ok(()));
    let variable = |name: &CStr| (name == c"EBBTIDE_LIMIT_SOFT").then_some(c"2g");
    let mut hard = Given::default();
    hard.put(Key::LimitHard, 1 << 30).expect("a limit");
    assert_eq!(Options::resolve_with(hard.values(), variable), Err(Error::Range));
    assert!(last_text().starts_with("EBBTIDE_LIMIT_SOFT=2g: is above limit_hard=1g"));
}

#[test]
fn what_is_always_kept_is_below_the_hard_limit() {
    let mut given = Given::default();
    given.put(Key::Retain, 30 << 20).expect("a size");
    given.put(Key::LimitHard, 20 << 20).expect("a limit");
    assert_eq!(Options::resolve_with(given.values(), none), Err(Error::Range));
    let expected = "retain=30m: is above limit_hard=20m, which the heap does not exceed; \
                    lower the first or raise the second";
    assert_eq!(last_text(), expected);
    given.put(Key::LimitHard, 30 << 20).expect("a limit");
    let options = Options::resolve_with(given.values(), none).expect("equal sizes");
    assert_eq!(options.check_change(Key::LimitHard, 20 << 20), Err(Error::Range));
    assert_eq!(last_text(), expected);
    assert_eq!(options.check_change(Key::Retain, 31 << 20), Err(Error::Range));
    assert!(last_text().starts_with("retain=31m: is above limit_hard=30m, which"));
    for (key, value) in [(Key::Retain, 30 << 20), (Key::LimitHard, 0), (Key::DecayMs, 5)] {
        assert_eq!(options.check_change(key, value), Ok(()));
    }
    given.put(Key::LimitHard, 0).expect("a limit");
    assert!(Options::resolve_with(given.values(), none).is_ok());
}

#[test]
fn what_is_always_kept_is_below_the_soft_limit() {
    let mut given = Given::default();
    given.put(Key::Retain, 30 << 20).expect("a size");
    given.put(Key::LimitSoft, 20 << 20).expect("a limit");
    assert_eq!(Options::resolve_with(given.values(), none), Err(Error::Range));
    let expected = "retain=30m: is above limit_soft=20m, above which no free memory stays; \
                    lower the first or raise the second";
    assert_eq!(last_text(), expected);
    given.put(Key::LimitSoft, 30 << 20).expect("a limit");
    let options = Options::resolve_with(given.values(), none).expect("equal sizes");
    assert_eq!(options.check_change(Key::LimitSoft, 20 << 20), Err(Error::Range));
    assert_eq!(last_text(), expected);
    assert_eq!(options.check_change(Key::Retain, 31 << 20), Err(Error::Range));
    assert!(last_text().starts_with("retain=31m: is above limit_soft=30m, above"));
    for soft in [0, CGROUP, 31 << 20] {
        assert_eq!(options.check_change(Key::LimitSoft, soft), Ok(()));
    }
}

#[test]
fn every_variable_is_the_name_in_capitals() {
    for spec in &TABLE {
        let variable = spec.variable.to_str().expect("ASCII");
        assert_eq!(variable, format!("EBBTIDE_{}", spec.name.to_uppercase()));
    }
}
