//! What an operator must see without looking for it: VMs that thrash at a limit, allocations that are
//! refused, and workers that died.

use std::time::Duration;

use crate::browser::Browser;
use crate::limits::GREEDY;
use crate::server::{Config, Modules, Nginx, alone, beside, kill};
use crate::status::{json, number, pids, running_pids};

const PATIENCE: Duration = Duration::from_secs(20);

/// The value of a metric, of all that its lines say.
fn total(nginx: &Nginx, metric: &str) -> u64 {
    let metrics = nginx.get("/status/metrics");
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    let values = lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()));
    values.map(|value: Option<u64>| value.unwrap_or_else(|| panic!("{metrics}"))).sum()
}

fn lines(nginx: &Nginx, part: &str) -> usize {
    nginx.log().lines().filter(|line| line.contains(part)).count()
}

/// Locked memory is what the kernel takes nothing of.
#[test]
fn that_the_kernel_takes_nothing_back_is_told() {
    let _alone = alone();
    let lock = "local ffi = require('ffi')
        ffi.cdef('int mlockall(int flags);')
        ngx.say(ffi.C.mlockall(1))";
    let config = Config::new(Modules::First).workers(1).lua("lock", lock);
    let nginx = Nginx::start(&config);
    assert_eq!(number(&json(&nginx)[0], "purge_errno"), 0);
    if nginx.get("/lock").trim() != "0" {
        println!("not tried: this process may not lock memory");
        return;
    }
    nginx.get("/litter?megabytes=20&clean=1");
    let told = "the kernel takes no memory back from a Lua VM";
    nginx.wait_until("the log says so", PATIENCE, |nginx| lines(nginx, told) == 1);
    assert!(nginx.log().lines().any(|line| line.contains("[warn]") && line.contains(told)));
    assert!(number(&json(&nginx)[0], "purge_errno") > 0);
    assert!(total(&nginx, "ebbtide_purge_errno") > 0);
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    browser.wait_until("the page says so", PATIENCE, |text| {
        text.contains("The kernel takes no memory back")
    });
    nginx.get("/litter?megabytes=20&clean=1");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lines(&nginx, told), 1, "{}", nginx.log());
}

#[test]
fn workers_that_died_are_counted() {
    let _beside = beside();
    let config =
        Config::new(Modules::First).http("ebbtide_limit_hard 64m;").lua("greedy", GREEDY).lua(
            "seen",
            "local sum = 0
             for _, worker in ipairs(require('resty.ebbtide').stats('all')) do
                 sum = sum + worker.restarts
             end
             ngx.say(sum)",
        );
    let nginx = Nginx::start(&config);
    let restarts = |nginx: &Nginx| -> u64 {
        json(nginx).iter().map(|worker| number(worker, "restarts")).sum()
    };
    let expect = |deaths: u64| {
        nginx.wait_until("the page is right", PATIENCE, |nginx| {
            pids(nginx) == running_pids(nginx) && nginx.running().len() == 2
        });
        assert_eq!(restarts(&nginx), deaths);
        assert_eq!(nginx.get("/seen").trim(), deaths.to_string());
        assert_eq!(total(&nginx, "ebbtide_worker_restarts_total"), deaths);
    };
    expect(0);
    for deaths in 1..=3 {
        let before = nginx.running();
        if deaths == 2 {
            // Nobody catches the error of memory, and the worker ends as if it was told to.
            nginx.ask("GET", "/greedy", &[]);
        } else {
            kill("KILL", before[0].pid);
        }
        nginx.wait_until("another takes its place", PATIENCE, |nginx| {
            nginx.running().len() == 2 && nginx.running() != before
        });
        expect(deaths);
    }
    // The workers of another configuration are no restarts, and take over the counts.
    nginx.reload();
    nginx.wait_until("the old ones are gone", PATIENCE, |nginx| nginx.workers().len() == 2);
    expect(3);
    let metrics = nginx.get("/status/metrics");
    for number in ["0", "1"] {
        let line = format!("ebbtide_worker_restarts_total{{worker=\"{number}\"}} ");
        assert_eq!(metrics.matches(&line).count(), 1, "{metrics}");
    }
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    browser.wait_until("the page says so", PATIENCE, |text| text.contains("Restarts\n"));
}
