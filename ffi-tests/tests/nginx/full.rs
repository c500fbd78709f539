//! What takes too long for `make test-long`. `make test-full` runs these tests besides.

use std::thread::sleep;
use std::time::Duration;

use crate::builds::WAYS;
use crate::clock::OwnClock;
use crate::config::Modules;
use crate::load::Load;
use crate::long::tides;
use crate::preloaded::started_by;
use crate::server::{Nginx, alone};
use crate::workers::Worker;

#[test]
#[ignore = "several minutes: make test-full"]
fn workers_exhale_after_many_loads_and_reloads() {
    for (build, modules) in WAYS {
        tides(build, modules, 30);
    }
}

/// What a worker under `ebbtide run` holds at most, six seconds after the load.
const MOST_KB: u64 = 30_000;
const REST: Duration = Duration::from_secs(6);

/// The most that each worker holds until the load ends.
fn full_kb(workers: &[Worker], load: &mut Load) -> Vec<u64> {
    let mut most_kb = vec![0; workers.len()];
    while load.is_running() {
        for (most_kb, worker) in most_kb.iter_mut().zip(workers) {
            *most_kb = worker.resident_kb().max(*most_kb);
        }
        sleep(Duration::from_millis(50));
    }
    most_kb
}

/// 1,500 requests in flight for six seconds, and then none, without the module.
#[test]
#[ignore = "make test-full"]
fn workers_under_ebbtide_run_hold_what_is_promised_at_most() {
    let _alone = alone();
    let nginx = Nginx::start(&started_by(&["--collect"], Modules::Stock));
    let workers = nginx.running();
    let mut load = Load::start(&nginx, "/heavy", 1500, 6, false);
    let most_kb = full_kb(&workers, &mut load);
    let clocks: Vec<OwnClock> = workers.iter().map(|worker| OwnClock::start(*worker)).collect();
    let outcome = load.finish();
    assert!(outcome.is_clean(), "{}", outcome.said);
    assert!(most_kb.iter().all(|kb| *kb > 2 * MOST_KB), "no load: {most_kb:?} KB");
    while clocks.iter().any(|clock| clock.elapsed() < REST) {
        sleep(Duration::from_millis(20));
    }
    let held_kb: Vec<u64> = workers.iter().map(Worker::resident_kb).collect();
    println!("{most_kb:?} KB, {held_kb:?} KB six seconds after the load");
    assert!(held_kb.iter().all(|kb| *kb <= MOST_KB), "{most_kb:?} KB, then {held_kb:?} KB");
    assert_eq!(nginx.running(), workers, "{}", nginx.log());
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
