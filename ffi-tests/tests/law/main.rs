//! The law of memory: a program never holds noticeably more with ebbtide than without, and soon
//! after its load has ended no more than a full reclaim leaves.
//!
//! Every program runs on stock LuaJIT and at each door, in phases that it names. Resident memory, as
//! the kernel counts it, is compared over any three seconds with what stock LuaJIT held over the
//! same part of the same phase.

mod course;
mod driven;
mod figures;
mod nginx;
#[path = "../nginx/ports.rs"]
mod ports;
mod processes;
mod programs;
mod real;
mod scripts;
mod side_by_side;
mod watched;

use std::sync::{Mutex, MutexGuard, PoisonError};

use course::Course;
use programs::{DOORS, Door, LUAJITS, LuaJit, run, run_stock};
use side_by_side::side_by_side;

/// Two seconds after the load has ended.
const AFTER_S: f64 = 2.0;
/// What may then be held beyond what a full reclaim leaves: the larger of this share and these MB.
const LEFT_SHARE: f64 = 0.10;
const LEFT_MB: f64 = 2.0;
/// Programs mostly wait, so some of them run at once.
const AT_ONCE: usize = 4;
/// A machine that is busy makes figures worse, never better, so the best of some tries counts. The
/// first is beside other programs of this suite, these are alone in it.
const TRIES_ALONE: usize = 3;

/// What a run held too much, in words. `None`: it kept the law.
fn breach(ours: &Course, stock: &Course) -> Option<String> {
    let worst = ours.worst_beside(stock);
    if worst.beyond_mb() > 0.0 {
        return Some(format!(
            "from {:.2} s on {:.1} MB on average, stock {:.1} MB",
            worst.from_s, worst.ours_mb, worst.stock_mb
        ));
    }
    holds_on(ours)
}

/// What a run still held two seconds after its load, in words. `None`: it kept the law.
fn holds_on(ours: &Course) -> Option<String> {
    let after = ours.mb_at(ours.start_of("rest") + AFTER_S);
    let least = ours.mb_at(ours.start_of("end"));
    (after > least + LEFT_MB.max(LEFT_SHARE * least)).then(|| {
        format!("{after:.1} MB two seconds after the load, {least:.1} MB after a full reclaim")
    })
}

/// A program on one LuaJIT, stock and at some of the doors.
struct Program<'a> {
    kind: &'a str,
    wait: &'a str,
    luajit: LuaJit,
    doors: Vec<Door>,
}

impl Program<'_> {
    /// The doors at which the program breaks the law, and what it holds too much there.
    fn breaches(&self) -> Vec<(Door, String)> {
        let Program { kind, wait, luajit, .. } = *self;
        let stock = run_stock(kind, wait, luajit);
        let breach = |door: &Door| {
            let ours = run(kind, wait, *door);
            let worst = ours.worst_beside(&stock);
            println!(
                "{kind}, {wait}, {door:?}: at worst {:.1} MB, stock {:.1} MB",
                worst.ours_mb, worst.stock_mb
            );
            let breach = breach(&ours, &stock)?;
            println!("BREACH: {breach}\nstock {}ours  {}", stock.summary(), ours.summary());
            Some((*door, breach))
        };
        self.doors.iter().filter_map(breach).collect()
    }

    /// What it holds too much at a door where it has broken the law, if it does so each time.
    fn breaks_it_again(&self, door: Door, breach: String) -> Option<String> {
        let alone = Program { doors: vec![door], ..*self };
        let mut said = vec![breach];
        for _ in 0..TRIES_ALONE {
            let (_, breach) = alone.breaches().pop()?;
            said.push(breach);
        }
        Some(format!("{}, {}, {door:?}: {}", self.kind, self.wait, said.join("; ")))
    }
}

/// The machine for one test: two at once would disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds programs to the law at these doors.
fn all_keep<'a>(programs: impl IntoIterator<Item = (&'a str, &'a str)>, doors: &[Door]) {
    let _alone = alone();
    let programs = programs.into_iter().flat_map(|(kind, wait)| {
        LUAJITS.map(|luajit| {
            let doors = doors.iter().copied().filter(|door| door.luajit() == luajit).collect();
            Program { kind, wait, luajit, doors }
        })
    });
    let programs: Vec<Program> = programs.filter(|program| !program.doors.is_empty()).collect();
    let first = side_by_side(&programs, AT_ONCE, Program::breaches);
    let breaches = programs.iter().zip(first).flat_map(|(program, breaches)| {
        let again = |(door, breach)| program.breaks_it_again(door, breach);
        breaches.into_iter().filter_map(again).collect::<Vec<String>>()
    });
    let breaches: Vec<String> = breaches.collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// What programs make and drop, and what they wait in afterwards.
const KINDS: [(&str, &str); 8] = [
    ("tables", "nanosleep"),
    ("strings", "nanosleep"),
    ("survivors", "nanosleep"),
    ("peaks", "lightly"),
    ("block", "nanosleep"),
    ("array", "nanosleep"),
    ("pool", "queue"),
    ("steady", "nanosleep"),
];
/// What they wait in besides.
const WAYS: [&str; 7] = ["poll", "epoll", "read", "condition", "busy", "rarely", "lightly"];

mod long {
    use super::*;

    #[test]
    #[ignore = "takes minutes"]
    fn what_is_dropped_goes_back_at_every_door() {
        all_keep(KINDS, &DOORS);
    }

    #[test]
    #[ignore = "takes minutes"]
    fn whatever_the_program_waits_in() {
        all_keep(WAYS.map(|way| ("tables", way)), &DOORS);
    }
}

mod full {
    use super::*;

    /// What is left of a load goes back though the program goes on to work, as far as that does not
    /// need it.
    #[test]
    #[ignore = "takes longer"]
    fn whatever_the_program_did_before_it_works_lightly() {
        let kinds = ["survivors", "peaks"].map(|kind| (kind, "work"));
        all_keep(kinds.into_iter().chain([("peaks", "nanosleep")]), &DOORS);
    }

    /// A large block that comes and goes, of which stock LuaJIT keeps nothing.
    #[test]
    #[ignore = "takes longer"]
    fn what_swings_have_taught_is_soon_forgotten() {
        all_keep([("swings", "work")], &DOORS);
    }

    /// Small blocks that the program had once allow large ones no more memory.
    #[test]
    #[ignore = "takes longer"]
    fn what_small_blocks_needed_once_is_forgotten() {
        all_keep([("strings_then_swings", "work")], &DOORS);
    }

    /// Nor do its pages count against what the machine has promised.
    #[test]
    #[ignore = "changes the machine's overcommit for seconds"]
    fn what_goes_back_is_not_charged() {
        ebbtide_ffi_tests::strict("limits/strict.c");
    }
}
