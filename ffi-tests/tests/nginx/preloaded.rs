//! `ebbtide run nginx`, without the module: idle workers give back the garbage of a peak.

use std::time::Duration;

use ebbtide_ffi_tests::installed;

use crate::config::{Config, Modules};
use crate::server::{Nginx, alone, beside, target};
use crate::workers::Worker;

ebbtide_ffi_tests::long! {
    idle_workers_collect_their_garbage_also_after_a_reload
    switched_off_the_garbage_stays
}

const PATIENCE: Duration = Duration::from_secs(40);

/// Garbage of 40 MB, from one request. Nothing of it survives, for a worker may have any number of
/// requests before each has had one.
const LITTER: &str = "/litter?megabytes=40&clean=1";

/// nginx, started by the command with these options.
pub fn started_by(options: &[&str], modules: Modules) -> Config {
    let mut config = under_run(Config::new(modules));
    config.launcher.extend(options.iter().map(Into::into));
    config
}

/// The same server, started by `ebbtide run`.
pub fn under_run(mut config: Config) -> Config {
    target();
    config.launcher.push(installed().lib().join("../bin/ebbtide").into());
    config.launcher.push("run".into());
    config
}

/// Has each worker hold garbage; returns what the one with the least holds, in KB.
fn litter(nginx: &Nginx) -> u64 {
    let least = || nginx.running().iter().map(|worker| worker.pss_anon_kb()).min();
    (0..400)
        .find_map(|_| {
            nginx.get(LITTER);
            least().filter(|kb| *kb > 30_000)
        })
        .expect("each worker has a request")
}

fn comes_down(nginx: &Nginx) {
    nginx.wait_until("the workers' garbage is returned", PATIENCE, |nginx| {
        nginx.running().iter().all(|worker| worker.pss_anon_kb() < 12_000)
    });
    assert!(nginx.get("/light").starts_with("row 20"));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

fn idle_workers_collect_their_garbage_also_after_a_reload() {
    let _alone = alone();
    let nginx = Nginx::start(&started_by(&[], Modules::Stock));
    for _ in 0..2 {
        litter(&nginx);
        comes_down(&nginx);
        nginx.reload();
    }
    litter(&nginx);
    comes_down(&nginx);
}

#[test]
fn nginx_in_a_single_process_collects_too() {
    let _alone = alone();
    let config = started_by(&[], Modules::Stock).workers(0).top("master_process off;");
    let nginx = Nginx::start(&config);
    let process = Worker { pid: nginx.pid().expect("it runs"), exiting: false };
    process.filled_kb(30_000, || drop(nginx.get(LITTER)));
    nginx.wait_until("it comes down", PATIENCE, |_| process.pss_anon_kb() < 12_000);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

fn switched_off_the_garbage_stays() {
    let _alone = alone();
    let nginx = Nginx::start(&started_by(&["--collect", "off"], Modules::Stock).workers(1));
    let full_kb = nginx.fill(LITTER);
    std::thread::sleep(Duration::from_secs(4));
    let later_kb = nginx.running()[0].pss_anon_kb();
    assert!(later_kb > full_kb * 8 / 10, "{full_kb}, then {later_kb} KB");
}

#[test]
fn it_is_said_that_it_is_on_and_how_to_turn_it_off() {
    let _beside = beside();
    let notice = "nginx: the garbage of idle workers is collected; EBBTIDE_COLLECT=off";
    let count = |options: &[&str], modules: Modules| {
        let (_nginx, said) = Nginx::start_and_hear(&started_by(options, modules));
        said.matches(notice).count()
    };
    assert_eq!(count(&[], Modules::Stock), 1);
    assert_eq!(count(&["--collect", "off"], Modules::Stock), 0);
    assert_eq!(count(&["--collect"], Modules::Stock), 0);
    // The module collects by rules of its own.
    assert_eq!(count(&[], Modules::First), 0);
}
