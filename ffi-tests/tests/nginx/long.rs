//! What takes minutes, on each build of nginx and in each order of its modules. `make test` ignores
//! these tests, `make test-long` runs them.

mod copies;
mod ways;

use std::time::Duration;

use crate::builds::{Build, WAYS};
use crate::load::Load;
use crate::server::{Config, Modules, Nginx, alone};

const PATIENCE: Duration = Duration::from_secs(20);

/// Load that comes and goes: under each the worker fills with garbage, after each it exhales, and
/// before every other one nginx reloads. No request fails, and no process dies.
pub fn tides(build: Build, modules: Modules, tides: u32) {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(modules).on(build).workers(1));
    for tide in 0..tides {
        let load = Load::start(&nginx, "/light", 20, 4, true);
        if tide % 2 == 1 {
            nginx.reload();
        }
        nginx.get("/litter?megabytes=40&clean=1");
        let full_kb = nginx.running()[0].pss_kb();
        assert!(full_kb > 30_000, "{full_kb} KB are no load");
        let outcome = load.finish();
        assert!(outcome.is_clean() && outcome.requests > 100, "{}", outcome.said);
        nginx.wait_until("the worker breathes out", PATIENCE, |nginx| {
            let workers = nginx.workers();
            workers.len() == 1 && workers[0].pss_kb() < full_kb / 3
        });
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
    assert!(!nginx.log().contains("exited on signal"), "{build:?}, {modules:?}: {}", nginx.log());
}

#[test]
#[ignore = "two minutes: make test-long"]
fn workers_exhale_after_each_load_and_through_reloads() {
    for (build, modules) in WAYS {
        tides(build, modules, 4);
    }
}
