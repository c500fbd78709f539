//! The collector of an idle worker: what it finds, and in which slices.

use std::time::Duration;

use crate::server::{Config, Modules, Nginx, alone, beside};
use crate::status::{json, number, vms};

const PATIENCE: Duration = Duration::from_secs(10);

fn slices(nginx: &Nginx) -> u64 {
    number(&json(nginx)[0]["steps"], "count")
}

fn live(nginx: &Nginx) -> u64 {
    vms(&json(nginx)[0], "main", "live")
}

fn settles(nginx: &Nginx, live_max: u64) {
    nginx.wait_until("all is collected and returned", PATIENCE, |nginx| {
        json(nginx)[0]["breath"] == "settled" && live(nginx) < live_max
    });
}

/// Holds so many thousand tables.
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

/// LuaJIT owes its collector's steps for each byte that was allocated. A large string owes more
/// than a whole collection takes, and still no slice makes more than its share of them.
#[test]
fn after_a_large_string_garbage_is_collected_in_slices_all_the_same() {
    let _alone = alone();
    let code = format!("{} ngx.say(#string.rep('x', 6e7))", hold(600));
    let config = Config::new(Modules::First).workers(1).http("ebbtide_idle 200ms;");
    let nginx = Nginx::start(&config.lua("drop", &code));
    let before = slices(&nginx);
    assert_eq!(nginx.get("/drop"), "60000000\n");
    settles(&nginx, 100_000_000);
    let made = slices(&nginx) - before;
    assert!(made >= 60, "{made} slices for six hundred thousand tables");
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// The same when the string comes in the midst of the collection, behind the end of its second
/// marking: a weak value of the handler's own shows that too.
#[test]
fn a_large_string_while_garbage_is_collected_makes_no_long_slice() {
    let _alone = alone();
    let code = "require('resty.ebbtide').reclaim('all')
        for marking = 1, 2 do
            local weak = setmetatable({ {} }, { __mode = 'v' })
            for wait = 1, 5000 do
                if not weak[1] then break end
                ngx.sleep(0.001)
            end
            assert(not weak[1], 'nobody collects')
        end
        local status = ngx.location.capture('/status?format=json').body
        ngx.say(status:match '\"steps\":{\"count\":(%d+)', ' ', #string.rep('x', 1e8))";
    let nginx = Nginx::start(
        &Config::new(Modules::First)
            .workers(1)
            .http("ebbtide_idle 1h;")
            .lua("hold", &format!("{} ngx.say('held')", hold(1000)))
            .lua("drop", code),
    );
    nginx.get("/hold");
    let said = nginx.get("/drop");
    let (before, string) = said.trim().split_once(' ').expect("two numbers");
    assert_eq!(string, "100000000");
    nginx.wait_until("all is collected and returned", PATIENCE, |nginx| {
        json(nginx)[0]["breath"] == "settled" || json(nginx)[0]["breath"] == "busy"
    });
    let made = slices(&nginx) - before.parse::<u64>().expect("a number");
    // What is swept after a marking takes dozens.
    assert!(made >= 20, "{made} slices after the string");
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// A cache that is let go is garbage, and nothing was allocated.
#[test]
fn what_is_let_go_by_a_settled_worker_is_found() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .http("ebbtide_idle 100ms;")
        .lua("hold", &format!("{} ngx.say('held')", hold(300)))
        .lua("drop", "package.kept = nil ngx.say('dropped')");
    let nginx = Nginx::start(&config);
    nginx.get("/hold");
    settles(&nginx, u64::MAX);
    assert!(live(&nginx) > 20_000_000, "{}", live(&nginx));
    nginx.get("/drop");
    settles(&nginx, 5_000_000);
    assert!(nginx.running()[0].pss_kb() < 20_000);
}

#[test]
fn a_finalizer_that_throws_is_told_once_and_the_rest_is_collected() {
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
