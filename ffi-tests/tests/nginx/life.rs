//! Reloads, kills, upgrades and shutdowns: no request fails that need not, and the page is right.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::clock::comes_down;
use crate::config::{Config, Modules};
use crate::load::Load;
use crate::server::{Nginx, alone, beside};
use crate::status::{json, number, pids, running_pids};
use crate::workers::{is_running, kill, workers_of};

ebbtide_ffi_tests::long! {
    no_request_fails_and_no_slot_is_lost_while_nginx_reloads
}

const PATIENCE: Duration = Duration::from_secs(20);
/// Seconds of a load that is ended when the test has done its part.
const LONG: u32 = 600;
/// More than a zone of 128k has room for.
const SLOTS_MOST: u32 = 60;

/// The page shows the workers that there are, each once, and in the end no other.
fn page_is_right(nginx: &Nginx) {
    nginx.wait_until("the page shows the workers alone", PATIENCE, |nginx| {
        let workers = json(nginx);
        let numbers: BTreeSet<u64> =
            workers.iter().map(|worker| number(worker, "worker")).collect();
        pids(nginx) == running_pids(nginx)
            && workers.len() == 2
            && numbers == BTreeSet::from([0, 1])
            && workers.iter().all(|worker| worker["state"] == "running")
    });
    assert!(!nginx.log().contains("no room for the figures"), "{}", nginx.log());
}

/// Requests with a connection each: a worker that shuts down finishes them.
fn reloads_under_load(nginx: &Nginx, reloads: u32) {
    let mut load = Load::start(nginx, "/light", 40, LONG, true);
    for _ in 0..reloads {
        nginx.reload();
        thread::sleep(Duration::from_millis(100));
    }
    assert!(load.is_running(), "the load ended before the reloads");
    let outcome = load.end();
    assert!(outcome.is_clean() && outcome.requests > 100, "{}", outcome.said);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

fn no_request_fails_and_no_slot_is_lost_while_nginx_reloads() {
    let _alone = alone();
    for (modules, reloads) in [(Modules::First, 50), (Modules::Last, 10)] {
        let nginx = Nginx::start(&Config::new(modules).http("ebbtide_zone 128k;"));
        reloads_under_load(&nginx, reloads);
        page_is_right(&nginx);
    }
}

#[test]
fn a_worker_without_a_slot_gets_one_when_one_is_left() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First).http("ebbtide_zone 128k;"));
    thread::scope(|scope| {
        // An old worker stays for its requests, until there is no room for new ones.
        for _ in 0..SLOTS_MOST {
            let running = running_pids(&nginx);
            for _ in 0..6 {
                scope.spawn(|| nginx.get("/wait"));
            }
            nginx.wait_until("one has a request", PATIENCE, |nginx| {
                nginx.holders().iter().any(|pid| running.contains(pid))
            });
            nginx.reload();
            if nginx.log().contains("no room for the figures") {
                break;
            }
        }
        nginx.release();
    });
    assert!(nginx.log().contains("no room for the figures"), "{}", nginx.log());
    nginx.wait_until("the old workers end", PATIENCE, |nginx| nginx.workers().len() == 2);
    nginx.wait_until("both workers are on the page", PATIENCE, |nginx| {
        nginx.get("/light");
        pids(nginx) == running_pids(nginx)
    });
}

#[test]
fn killed_workers_come_back_and_take_over_their_slots() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First).http("ebbtide_zone 128k;"));
    let load = Load::start(&nginx, "/light", 40, LONG, true);
    let kills = 12;
    for _ in 0..kills {
        let victim = nginx.running()[0];
        kill("KILL", victim.pid);
        nginx.wait_until("another worker takes its place", PATIENCE, |nginx| {
            let running = nginx.running();
            running.len() == 2 && !running.contains(&victim)
        });
        thread::sleep(Duration::from_millis(100));
    }
    let outcome = load.end();
    // Those in flight are lost with their worker, as in stock nginx; the others are answered.
    assert!(outcome.requests > 100, "{}", outcome.said);
    assert!(!outcome.said.contains("Non-2xx"), "{}", outcome.said);
    assert!(outcome.lost() <= 40 * kills, "{}", outcome.said);
    page_is_right(&nginx);
}

#[test]
fn a_graceful_shutdown_answers_the_requests_in_flight() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First));
    let master = nginx.pid().expect("it runs");
    thread::scope(|scope| {
        let requests: Vec<_> = (0..20).map(|_| scope.spawn(|| nginx.get("/wait"))).collect();
        nginx.wait_until("all are in flight", PATIENCE, |nginx| nginx.holders().len() == 20);
        kill("QUIT", master);
        nginx.wait_until("the workers shut down", PATIENCE, |nginx| nginx.running().is_empty());
        nginx.release();
        for request in requests {
            assert_eq!(request.join().expect("it is answered"), "row 1.360\n");
        }
    });
    nginx.wait_until("it ends", PATIENCE, |_| !is_running(master));
    assert_eq!(nginx.errors(), Vec::<String>::new());
    assert!(!nginx.log().contains("exited on signal"), "{}", nginx.log());
}

/// An old worker that waits for its last request breathes too, and is told of on the page.
#[test]
fn a_worker_that_shuts_down_breathes() {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1));
    let old = nginx.running()[0];
    thread::scope(|scope| {
        let last = scope.spawn(|| nginx.get("/wait"));
        nginx.wait_until("it is in flight", PATIENCE, |nginx| nginx.holders() == [old.pid]);
        let full_kb = nginx.fill("/litter?megabytes=40");
        nginx.reload();
        comes_down(&nginx, old, full_kb / 3, "the old worker breathes out");
        let workers = json(&nginx);
        let exiting = workers.iter().find(|worker| number(worker, "pid") == u64::from(old.pid));
        assert_eq!(exiting.expect("it is on the page")["state"], "exiting");
        nginx.release();
        assert_eq!(last.join().expect("it is answered"), "row 1.360\n");
    });
    nginx.wait_until("it ends", PATIENCE, |nginx| nginx.workers().len() == 1);
    assert_eq!(json(&nginx).len(), 1);
}

#[test]
fn a_binary_upgrade_serves_on() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First));
    let old = nginx.pid().expect("it runs");
    let load = Load::start(&nginx, "/light", 40, LONG, true);
    thread::sleep(Duration::from_millis(300));
    kill("USR2", old);
    nginx.wait_until("the new master runs", PATIENCE, |nginx| {
        nginx.pid().is_some_and(|pid| pid != old) && nginx.running().len() == 2
    });
    let new = nginx.pid().expect("it runs");
    assert_eq!(workers_of(old).len(), 2);
    kill("QUIT", old);
    nginx.wait_until("the old master ends", PATIENCE, |_| !is_running(old));
    thread::sleep(Duration::from_millis(300));
    let outcome = load.end();
    assert!(outcome.is_clean() && outcome.requests > 100, "{}", outcome.said);
    assert_eq!(nginx.pid(), Some(new));
    page_is_right(&nginx);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn a_reload_with_a_bad_configuration_changes_nothing() {
    let _beside = beside();
    let config = Config::new(Modules::First)
        .lua("heap", "ngx.say(require('resty.ebbtide').stats().allocator)");
    let nginx = Nginx::start(&config);
    let before = nginx.running();
    nginx.write_config(&config.clone().http("ebbtide off; ebbtide_step 1us;"));
    nginx.signal("HUP");
    nginx.wait_until("it refuses", PATIENCE, |nginx| nginx.log().contains("[emerg]"));
    assert_eq!(nginx.running(), before);
    page_is_right(&nginx);
    // A worker that is made now is as the others are.
    kill("KILL", before[0].pid);
    nginx.wait_until("another takes its place", PATIENCE, |nginx| {
        let running = nginx.running();
        running.len() == 2 && !running.contains(&before[0])
    });
    page_is_right(&nginx);
    assert_eq!(nginx.get("/heap"), "ebbtide\n");
    nginx.write_config(&config);
    nginx.reload();
    page_is_right(&nginx);
}

/// Refused when everything of it has been read, by an error of its Lua code: what it would have
/// changed is as before.
#[test]
fn a_reload_that_is_refused_late_changes_nothing() {
    let _beside = beside();
    let refused = "init_by_lua_block { error('refused') }";
    let code = "local found, ebbtide = pcall(require, 'resty.ebbtide')
        local rows = {}
        for i = 1, 200000 do rows[i] = { i } end
        ngx.say(found and ebbtide.get('limit_hard') or 'none')";
    for (http, other, expected) in [
        ("ebbtide off;", "ebbtide_limit_hard 8m;", "none\n"),
        ("ebbtide_limit_hard 64m;", "ebbtide_limit_hard 8m;", "67108864\n"),
        ("ebbtide_limit_hard 64m;", "ebbtide off;", "67108864\n"),
    ] {
        let config = Config::new(Modules::First).workers(1).lua("limit", code);
        let nginx = Nginx::start(&config.clone().http(http));
        assert_eq!(nginx.get("/limit"), expected);
        nginx.write_config(&config.clone().http(other).http(refused));
        nginx.signal("HUP");
        nginx.wait_until("it is refused", PATIENCE, |nginx| nginx.log().contains("refused"));
        let before = nginx.running();
        kill("KILL", before[0].pid);
        nginx.wait_until("another takes its place", PATIENCE, |nginx| {
            nginx.running().len() == 1 && nginx.running() != before
        });
        assert_eq!(nginx.get("/limit"), expected, "{http} {other}");
        assert!(!nginx.log().contains("exited on signal 6"), "{}", nginx.log());
    }
}

/// The Lua module of the configuration before stays loaded for a while, and is none of the new one.
#[test]
fn a_reload_without_the_lua_module_and_one_with_it_again() {
    let _beside = beside();
    let with = Config::new(Modules::First).workers(1);
    let mut without = Config::new(Modules::Alone).workers(1);
    without.server += "location / { return 200 'here'; }\n";
    let nginx = Nginx::start(&with);
    let master = nginx.pid();
    for _ in 0..2 {
        nginx.write_config(&without);
        nginx.reload();
        assert_eq!(nginx.get("/"), "here");
        nginx.write_config(&with);
        nginx.reload();
        assert!(nginx.get("/light").starts_with("row 20"));
    }
    assert_eq!(nginx.pid(), master);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
