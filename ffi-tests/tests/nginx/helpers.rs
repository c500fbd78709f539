//! Processes that are no workers and hold Lua VMs: each has a name of its own wherever figures are.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::browser::Browser;
use crate::processes::{c_module, with_early_vm};
use crate::server::{Config, Modules, Nginx, Reply, beside, children_of, title};
use crate::status::{json, number, running_pids};

const PATIENCE: Duration = Duration::from_secs(10);

fn reclaim(nginx: &Nginx) -> Reply {
    nginx.ask("POST", "/open/reclaim", &[])
}

/// The names of the processes on the page, with the numbers of workers.
fn names(workers: &[Value]) -> BTreeSet<(String, Option<u64>)> {
    let name = |worker: &Value| worker["process"].as_str().expect("a name").to_owned();
    workers.iter().map(|worker| (name(worker), worker["worker"].as_u64())).collect()
}

fn labels(metrics: &str, metric: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(&format!("{metric}{{worker=")));
    lines.filter_map(|rest| rest.split('"').nth(1)).map(str::to_owned).collect()
}

/// OpenResty's agent runs Lua, like a worker, and nginx counts it as none.
#[test]
fn the_privileged_agent_has_a_name_of_its_own() {
    let _beside = beside();
    let agent = c_module("helper");
    let config = Config::new(Modules::First)
        .workers(3)
        .top(&format!("load_module {}; agent_worker 1;", agent.display()))
        .http(
            "init_worker_by_lua_block {
                 ngx.timer.every(0.1, function()
                     local rows = {}
                     for i = 1, 5000 do rows[i] = { i } end
                 end)
             }",
        )
        .lua(
            "all",
            "for _, worker in ipairs(require('resty.ebbtide').stats('all')) do
                 ngx.say(worker.process, ' ', tostring(worker.worker))
             end",
        );
    let nginx = Nginx::start(&config);
    let of = |name: &str, worker: Option<u64>| (name.to_owned(), worker);
    let expected = BTreeSet::from([
        of("privileged agent", None),
        of("worker", Some(0)),
        of("worker", Some(2)),
    ]);
    nginx.wait_until("all three are there", PATIENCE, |nginx| names(&json(nginx)) == expected);
    assert!(json(&nginx).iter().any(|worker| worker["worker"].is_null()));
    let metrics = nginx.get("/status/metrics");
    for metric in ["ebbtide_process_resident_bytes", "ebbtide_live_bytes", "ebbtide_steps_total"] {
        let found: Vec<String> = labels(&metrics, metric).into_iter().collect();
        assert_eq!(found, ["0", "2", "privileged agent"], "{metrics}");
    }
    let said = nginx.get("/all");
    let said: BTreeSet<&str> = said.lines().collect();
    assert_eq!(said, BTreeSet::from(["privileged agent nil", "worker 0", "worker 2"]));
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    browser.wait_until("the page has its name", PATIENCE, |text| {
        text.contains("privileged agent pid") && text.contains("2 workers, 1 other process")
    });
    let text = browser.text();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
    assert!(place("worker 0 pid") < place("worker 2 pid"), "{text}");
    assert!(place("worker 2 pid") < place("privileged agent pid"), "{text}");
    assert!(!text.contains("worker 1"), "{text}");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Those of a cache keep VMs that are not the HTTP module's, and publish when they are asked.
#[test]
fn processes_of_a_cache_are_no_workers() {
    let _beside = beside();
    let config = with_early_vm().http("proxy_cache_path cache keys_zone=cache:1m;");
    let nginx = Nginx::start(&config);
    let helpers = |nginx: &Nginx| -> BTreeSet<u32> {
        let all = children_of(nginx.pid().expect("it runs"));
        all.filter(|pid| title(*pid).contains("nginx: cache ")).collect()
    };
    nginx.wait_until("they run", PATIENCE, |nginx| helpers(nginx).len() == 2);
    assert_eq!(reclaim(&nginx).status, 202);
    // Every process of nginx wakes up at that.
    nginx.signal("USR1");
    nginx.wait_until("they are on the page", PATIENCE, |nginx| json(nginx).len() == 4);
    let workers = json(&nginx);
    let of = |name: &str, worker: Option<u64>| (name.to_owned(), worker);
    let expected = BTreeSet::from([
        of("cache loader", None),
        of("cache manager", None),
        of("worker", Some(0)),
        of("worker", Some(1)),
    ]);
    assert_eq!(names(&workers), expected);
    for worker in &workers {
        let pid = number(worker, "pid") as u32;
        let plain = worker["process"] == "worker";
        assert_eq!(running_pids(&nginx).contains(&pid), plain, "{worker}");
        assert_eq!(helpers(&nginx).contains(&pid), !plain, "{worker}");
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
