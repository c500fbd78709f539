//! The collector of an idle worker: what it finds, and in which slices.

use std::time::Duration;

use crate::config::{Config, Modules};
use crate::server::{Nginx, alone, beside};
use crate::status::{json, number, vms};

ebbtide_ffi_tests::long! {
    a_worker_at_rest_near_a_limit_rests
}

const PATIENCE: Duration = Duration::from_secs(60);

fn slices(nginx: &Nginx) -> u64 {
    number(&json(nginx)[0]["steps"], "count")
}

fn live(nginx: &Nginx) -> u64 {
    vms(&json(nginx)[0], "main", "live")
}

fn settles(nginx: &Nginx, live_max: u64) {
    nginx.wait_until("all is collected and returned", PATIENCE, |nginx| {
        json(nginx)[0]["phase"] == "settled" && live(nginx) < live_max
    });
}

/// Holds `thousands` thousand tables.
fn hold(thousands: u32) -> String {
    format!(
        "package.kept = {{}}
         for i = 1, {thousands} do
             local rows = {{}}
             for j = 1, 1000 do rows[j] = {{ j }} end
             package.kept[i] = rows
         end"
    )
}

/// What a request may wait for, in microseconds.
const LONGEST_US: u64 = 20_000;

/// The longest slice of the best of some tries, for a busy machine lengthens any.
fn longest_slice(config: &Config, request: &str) -> u64 {
    let mut best = u64::MAX;
    for _ in 0..20 {
        let nginx = Nginx::start(config);
        nginx.get(request);
        nginx.wait_until("all is collected and returned", PATIENCE, |nginx| {
            let worker = &json(nginx)[0];
            worker["phase"] == "settled" && number(&worker["steps"], "count") > 100
        });
        assert_eq!(nginx.errors(), Vec::<String>::new());
        best = best.min(number(&json(&nginx)[0]["steps"], "max_us"));
        if best < LONGEST_US {
            break;
        }
    }
    best
}

/// LuaJIT owes its collector's steps for each byte that was allocated. A large string owes more
/// than a whole collection takes, and still no slice makes more than its share of them.
#[test]
fn after_a_large_string_garbage_is_collected_in_slices_all_the_same() {
    let _alone = alone();
    let code = format!("{} ngx.say(#string.rep('x', 3e8))", hold(1500));
    let config = Config::new(Modules::First).workers(1).http("ebbtide_idle 200ms;");
    let longest = longest_slice(&config.lua("drop", &code), "/drop");
    assert!(longest < LONGEST_US, "a slice of {longest} us");
}

/// A cache that is let go is garbage, and nothing was allocated.
#[test]
fn what_is_let_go_by_a_settled_worker_is_found() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .top("error_log error.log debug_core;")
        .http("ebbtide_idle 100ms;")
        .lua("hold", &format!("{} ngx.say('held')", hold(300)))
        .lua("drop", "package.kept = nil ngx.say('dropped')");
    let nginx = Nginx::start(&config);
    nginx.get("/hold");
    settles(&nginx, u64::MAX);
    assert!(live(&nginx) > 20_000_000, "{}", live(&nginx));
    nginx.get("/drop");
    settles(&nginx, 5_000_000);
    assert!(nginx.running()[0].pss_anon_kb() < 20_000);
    phases_are_logged(&nginx);
}

/// Every phase of the worker is in the log of an nginx that was built to debug.
fn phases_are_logged(nginx: &Nginx) {
    let log = nginx.log();
    let lines = [
        " begins settled, ",
        ": busy, was settled",
        ": collecting, was busy",
        ": collection begins, ",
        ": collection ends, ",
        ": returning, was collecting",
        ": settled, was returning",
        ": collecting, was settled",
    ];
    let missing: Vec<&str> = lines.into_iter().filter(|line| !log.contains(line)).collect();
    assert!(!log.contains("[debug]") || missing.is_empty(), "{missing:?}");
}

#[test]
fn a_finalizer_that_throws_is_reported_once_and_the_rest_is_collected() {
    let _beside = beside();
    let code = "for i = 1, 50 do
            local proxy = newproxy(true)
            getmetatable(proxy).__gc = function() error('a finalizer of number ' .. i) end
        end
        ngx.say(#string.rep('x', 1e6))";
    let config = Config::new(Modules::First).workers(1).http("ebbtide_idle 100ms;");
    let nginx = Nginx::start(&config.lua("throw", code));
    for _ in 0..2 {
        nginx.get("/throw");
        settles(&nginx, 900_000);
    }
    let log = nginx.log();
    let told = log.lines().filter(|line| line.contains("a finalizer of number"));
    let told: Vec<&str> = told.collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("[warn]"), "{told:?}");
}

/// A worker that has done next to nothing shares what it inherited with the master and the others.
#[test]
fn what_was_inherited_stays_shared() {
    let _alone = alone();
    let http = format!("ebbtide_idle 100ms; init_by_lua_block {{ {} }}", hold(300));
    let config = Config::new(Modules::First).http(&http).lua("hi", "ngx.say('hi')");
    let nginx = Nginx::start(&config);
    let shares = |nginx: &Nginx| {
        let held: Vec<u64> = nginx.running().iter().map(|worker| worker.pss_anon_kb()).collect();
        held.into_iter().max().expect("there are workers")
    };
    for _ in 0..6 {
        nginx.get("/hi");
    }
    std::thread::sleep(Duration::from_millis(2500));
    // A third each of some 38 MB, with the master.
    let most = shares(&nginx);
    assert!(most < 16_000, "{most} KB");
}

/// Near a limit too, a timer that does nothing much makes nobody collect all the time.
fn a_worker_at_rest_near_a_limit_rests() {
    let _alone = alone();
    let http = "ebbtide_idle 100ms; ebbtide_limit_soft 32m;
        init_worker_by_lua_block {
            ngx.timer.every(0.1, function() package.row = { ngx.now() .. '' } end)
        }";
    let config = Config::new(Modules::First).workers(1).http(http);
    let nginx = Nginx::start(&config.lua("hold", &format!("{} ngx.say('held')", hold(270))));
    nginx.get("/hold");
    settles(&nginx, u64::MAX);
    assert!(number(&json(&nginx)[0], "pressure") > 50, "{}", json(&nginx)[0]);
    // A whole collection takes some eighty; they come after 1, 2, 4, 8 seconds, and so on.
    let made = || {
        let before = slices(&nginx);
        std::thread::sleep(Duration::from_secs(3));
        slices(&nginx) - before
    };
    let mut made = (0..6).map(|_| made());
    assert!(made.any(|slices| slices < 60), "each three seconds have a collection");
}

/// Holds tables until the heap has the collector in a hurry, and leaves garbage whose finalizers
/// note the step multiplier in force when they run in a slice.
const UP_TO_THE_EMERGENCY: &str = "local function step_multiplier()
        local now = collectgarbage('setstepmul', 200)
        collectgarbage('setstepmul', now)
        return now
    end
    package.at_work, package.seen, package.held = true, {}, {}
    local held = package.held
    repeat
        for i = 1, 100 do held[#held + 1] = { i } end
    until step_multiplier() > 100000
    for i = 1, 20 do
        getmetatable(newproxy(true)).__gc = function()
            if not package.at_work then
                package.seen[#package.seen + 1] = step_multiplier()
            end
        end
    end
    package.at_work = false
    ngx.say(step_multiplier())";

/// Near the hard limit the heap has the collector make long steps, or whole collections, each time
/// that the VM allocates. The slices of the event loop end that first: a request would wait for it.
#[test]
fn slices_are_short_while_the_heap_hurries_the_collector() {
    let _beside = beside();
    let config = Config::new(Modules::First)
        .workers(1)
        .http("ebbtide_limit_hard 64m;")
        .lua("fill", UP_TO_THE_EMERGENCY)
        .lua("seen", "ngx.say(table.concat(package.seen, ' '))");
    let nginx = Nginx::start(&config);
    let in_force: u64 = nginx.get("/fill").trim().parse().expect("a number");
    assert!(in_force > 100_000, "the request had ended the hurry itself: {in_force}");
    // No request comes meanwhile, for the VM would allocate in it.
    settles(&nginx, u64::MAX);
    let seen = nginx.get("/seen");
    let seen: Vec<u64> = seen.split_whitespace().map(|word| word.parse().expect("it")).collect();
    assert!(!seen.is_empty() && seen.iter().all(|now| *now < 100_000), "{seen:?}");
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
