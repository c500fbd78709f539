//! Processes that are no workers and hold Lua VMs: each has a name of its own wherever figures are.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::browser::Browser;
use crate::builds::Build;
use crate::config::{Config, Modules};
use crate::processes::with_early_vm;
use crate::server::{Nginx, Reply, beside};
use crate::status::{json, number, running_pids};
use crate::workers::{children_of, kill, title};

ebbtide_ffi_tests::long! {
    the_privileged_agent_has_a_name_of_its_own
}

const PATIENCE: Duration = Duration::from_secs(60);

fn reclaim(nginx: &Nginx) -> Reply {
    nginx.ask("POST", "/open/reclaim", &[])
}

/// The names of the processes on the page, with the numbers of workers.
fn names(workers: &[Value]) -> BTreeSet<(String, Option<u64>)> {
    let name = |worker: &Value| worker["process"].as_str().expect("a name").to_owned();
    workers.iter().map(|worker| (name(worker), worker["worker"].as_u64())).collect()
}

/// The process that nginx calls the privileged agent.
fn agent(nginx: &Nginx) -> Option<u32> {
    let mut all = children_of(nginx.pid().expect("it runs"));
    all.find(|pid| title(*pid).starts_with("nginx: privileged agent"))
}

fn labels(metrics: &str, metric: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(&format!("{metric}{{worker=")));
    lines.filter_map(|rest| rest.split('"').nth(1)).map(str::to_owned).collect()
}

/// OpenResty's agent runs Lua, like a worker, and nginx counts it as none.
fn the_privileged_agent_has_a_name_of_its_own() {
    let _beside = beside();
    let config = Config::new(Modules::Last)
        .on(Build::CompiledIn)
        .http(
            "init_by_lua_block {
                 assert(require('ngx.process').enable_privileged_agent(64))
             }
             init_worker_by_lua_block {
                 if require('ngx.process').type() == 'privileged agent' then
                     ngx.timer.every(0.1, function()
                         local rows = {}
                         for i = 1, 5000 do rows[i] = { i } end
                     end)
                 end
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
        of("worker", Some(1)),
    ]);
    nginx.wait_until("all three are there", PATIENCE, |nginx| names(&json(nginx)) == expected);
    let metrics = nginx.get("/status/metrics");
    for metric in ["ebbtide_process_resident_bytes", "ebbtide_live_bytes", "ebbtide_steps_total"] {
        let found: Vec<String> = labels(&metrics, metric).into_iter().collect();
        assert_eq!(found, ["0", "1", "privileged agent"], "{metrics}");
    }
    let said = nginx.get("/all");
    let said: BTreeSet<&str> = said.lines().collect();
    assert_eq!(said, BTreeSet::from(["privileged agent nil", "worker 0", "worker 1"]));
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    browser.wait_until("the page has its name", PATIENCE, |text| {
        text.contains("privileged agent pid") && text.contains("2 workers, 1 other process")
    });
    let text = browser.text();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
    assert!(place("worker 0 pid") < place("worker 1 pid"), "{text}");
    assert!(place("worker 1 pid") < place("privileged agent pid"), "{text}");
    assert_eq!(browser.complaints(), [""; 0]);

    // It is the process that nginx calls so, and another one takes over its name.
    for _ in 0..2 {
        let agent = agent(&nginx).expect("it runs");
        nginx.wait_until("the agent is there", PATIENCE, |nginx| {
            let workers = json(nginx);
            names(&workers) == expected
                && workers.iter().any(|worker| {
                    number(worker, "pid") == u64::from(agent) && worker["worker"].is_null()
                })
        });
        kill("KILL", agent);
        nginx.wait_until("another takes its place", PATIENCE, |nginx| {
            self::agent(nginx).is_some_and(|pid| pid != agent)
        });
    }
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
