//! The page: JSON, HTML and Prometheus text, and the request to reclaim.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::config::{Config, Modules};
use crate::server::{Nginx, alone, beside, text};

ebbtide_ffi_tests::long! {
    readers_of_the_page_leave_its_history_alone
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The workers in the JSON of the page.
pub fn json(nginx: &Nginx) -> Vec<Value> {
    page(nginx)["workers"].as_array().expect("a list").clone()
}

/// All of the JSON.
pub fn page(nginx: &Nginx) -> Value {
    parsed(&nginx.get("/status?format=json"))
}

pub fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

/// A figure of the VMs of a kind.
pub fn vms(worker: &Value, kind: &str, name: &str) -> u64 {
    number(&worker["vms"][kind], name)
}

pub fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {object}"))
}

/// The process ids on the page.
pub fn pids(nginx: &Nginx) -> BTreeSet<u32> {
    json(nginx).iter().map(|worker| number(worker, "pid") as u32).collect()
}

/// The process ids of the workers that do not shut down.
pub fn running_pids(nginx: &Nginx) -> BTreeSet<u32> {
    nginx.running().iter().map(|worker| worker.pid).collect()
}

/// Fills both workers with garbage, and tells what they hold.
pub fn litter(nginx: &Nginx) -> Vec<u64> {
    for _ in 0..40 {
        // While one worker is busy with a request the other one gets the next.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| nginx.get("/litter?megabytes=40&clean=1"));
            }
        });
        let held: Vec<u64> = nginx.running().iter().map(|worker| worker.pss_anon_kb()).collect();
        if held.iter().all(|kb| *kb > 30_000) {
            return held;
        }
    }
    panic!("one of the workers gets no request");
}

#[test]
fn json_has_each_worker_with_its_figures() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First));
    nginx.wait_until("both are there", PATIENCE, |nginx| pids(nginx) == running_pids(nginx));
    for _ in 0..10 {
        nginx.get("/light");
    }
    let page = page(&nginx);
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION_MAJOR").to_owned() + ".1.0");
    assert!(nginx.log().contains(&format!("nginx/{}", page["nginx"].as_str().expect("text"))));
    assert_eq!(page["can_reclaim"], false);
    let open = parsed(&nginx.get("/open?format=json"));
    assert_eq!(open["can_reclaim"], true);
    let now = number(&page, "time_ms");
    let workers = page["workers"].as_array().expect("a list");
    let numbers: BTreeSet<u64> = workers.iter().map(|worker| number(worker, "worker")).collect();
    assert_eq!(numbers, BTreeSet::from([0, 1]));
    for worker in workers {
        assert_eq!(worker["state"], "running");
        assert!(number(worker, "since_ms") <= number(worker, "updated_ms"), "{worker}");
        assert!(number(worker, "updated_ms") <= now, "{worker}");
        assert_eq!((vms(worker, "main", "count"), vms(worker, "other", "count")), (1, 0));
        assert!(vms(worker, "main", "live") > 100_000, "{worker}");
        assert!(vms(worker, "main", "resident") <= vms(worker, "main", "committed"), "{worker}");
        for name in ["waste", "free_resident", "returned", "metadata"] {
            assert!(vms(worker, "main", name) <= vms(worker, "main", "committed"), "{worker}");
            assert_eq!(vms(worker, "other", name), 0);
        }
        for name in ["limit_soft", "limit_hard", "pressure"] {
            assert_eq!(number(worker, name), 0);
        }
        assert!(
            ["steady", "growing", "shrinking"].contains(&worker["trend"].as_str().expect("it"))
        );
        let phases = ["busy", "collecting", "returning", "settled"];
        assert!(phases.contains(&worker["phase"].as_str().expect("it")));
        for name in ["count", "p50_us", "p99_us", "max_us"] {
            number(&worker["steps"], name);
        }
        for name in ["returned_total", "refaulted_total", "premature_refaults_total"] {
            number(worker, name);
        }
        let history = worker["history"].as_array().expect("a list");
        assert!(!history.is_empty());
        let samples: Vec<Vec<u64>> = history
            .iter()
            .map(|sample| serde_json::from_value(sample.clone()).expect("it"))
            .collect();
        assert!(samples.iter().all(|sample| sample.len() == 5), "{worker}");
        assert!(samples.windows(2).all(|two| two[0][0] >= two[1][0]), "the oldest first: {worker}");
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn the_figures_agree_with_those_of_the_kernel() {
    let _alone = alone();
    let config = Config::new(Modules::First).workers(1);
    let config = config.http("ebbtide_idle 1h; ebbtide_decay 1h;");
    let mut config = config.lua("count", "ngx.say(collectgarbage('count') * 1024)");
    config.server +=
        "location /variables { return 200 '$ebbtide_live $ebbtide_resident $ebbtide_free'; }\n";
    let nginx = Nginx::start(&config);
    for megabytes in [1, 20, 40] {
        nginx.get(&format!("/litter?megabytes={megabytes}"));
        let worker = json(&nginx)[0].clone();
        let kernel = nginx.running()[0].rss_kb() * 1024;
        let near = |a: u64, b: u64| a.abs_diff(b) < b / 10 + (1 << 20);
        assert!(near(number(&worker, "rss"), kernel), "kernel: {kernel}, {worker}");
        assert!(vms(&worker, "main", "resident") < kernel, "kernel: {kernel}, {worker}");
        let count: f64 = nginx.get("/count").trim().parse().expect("a number");
        assert!(near(vms(&worker, "main", "live"), count as u64), "Lua: {count}, {worker}");
        let parts = ["live", "waste", "free_resident", "metadata"];
        let sum: u64 = parts.iter().map(|part| vms(&worker, "main", part)).sum();
        assert!(near(sum, vms(&worker, "main", "resident")), "{sum}: {worker}");
        let variables = nginx.get("/variables");
        let variables: Vec<u64> =
            variables.split(' ').map(|word| word.parse().expect("a number")).collect();
        for (name, value) in ["live", "resident", "free_resident"].iter().zip(variables) {
            assert!(near(value, vms(&worker, "main", name)), "{name} {value}: {worker}");
        }
    }
}

#[test]
fn the_page_is_chosen_by_its_name_the_argument_or_accept() {
    let _beside = beside();
    let mut config = Config::new(Modules::First).workers(1);
    config.server += "location /folder/ { ebbtide_status; }
                      location ~ ^/pat { ebbtide_status; }\n";
    let nginx = Nginx::start(&config);
    let html = "text/html; charset=utf-8";
    let json = "application/json";
    let prometheus = "text/plain; version=0.0.4; charset=utf-8";
    for (path, accept, expected) in [
        ("/status", "", html),
        ("/status", "Accept: */*", html),
        ("/status", "Accept: text/html,application/xml;q=0.9,*/*;q=0.8", html),
        ("/status", "Accept: application/json", json),
        ("/status", "Accept: application/openmetrics-text;version=1.0.0", prometheus),
        ("/status", "Accept: text/plain", prometheus),
        ("/status?format=json", "Accept: text/html", json),
        ("/status?format=prometheus", "", prometheus),
        ("/status?format=html", "Accept: application/json", html),
        ("/status/metrics", "", prometheus),
        ("/status/", "", html),
        ("/status/?format=json", "", json),
        ("/folder/metrics", "", prometheus),
        ("/folder/", "Accept: application/json", json),
        ("/pattern/xyz", "", html),
        ("/pattern/metrics", "", prometheus),
    ] {
        let headers: Vec<&str> = [accept].into_iter().filter(|text| !text.is_empty()).collect();
        let got = nginx.ask("GET", path, &headers);
        assert_eq!(got.status, 200);
        assert_eq!(got.header("Content-Type"), Some(expected), "{path} {accept}");
        assert_eq!(got.header("Cache-Control"), Some("no-store"));
        let length = got.header("Content-Length").and_then(|text| text.parse().ok());
        assert_eq!(length, Some(got.body.len()), "{path}");
        let head = nginx.ask("HEAD", path, &headers);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
        assert_eq!(head.header("Content-Type"), Some(expected), "HEAD {path} {accept}");
    }
}

#[test]
fn what_is_not_there_is_refused_with_the_reason() {
    let _beside = beside();
    let mut config = Config::new(Modules::First).workers(1);
    config.server += "location /folder/ { ebbtide_status; }\n";
    let nginx = Nginx::start(&config);
    let formats = "ebbtide: the format must be html, json or prometheus\n";
    for path in ["/status?format=banana", "/status?format=", "/status/metrics?format=JSON"] {
        let reply = nginx.ask("GET", path, &["Accept: application/json"]);
        assert_eq!((reply.status, reply.body.as_str()), (400, formats), "{path}");
        assert_eq!(reply.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
    for path in [
        "/statusbar",
        "/status/metric",
        "/status/metrics/",
        "/status/x/metrics",
        "/status/json?format=json",
        "/folder/page",
        "/open/reclaim/now",
    ] {
        for method in ["GET", "HEAD", "POST", "PUT"] {
            assert_eq!(nginx.ask(method, path, &[]).status, 404, "{method} {path}");
        }
    }
    for (method, path, allowed) in [
        ("POST", "/status", "GET, HEAD"),
        ("PUT", "/status?format=json", "GET, HEAD"),
        ("DELETE", "/status/metrics", "GET, HEAD"),
        ("OPTIONS", "/folder/", "GET, HEAD"),
        ("GET", "/open/reclaim", "POST"),
        ("HEAD", "/status/reclaim", "POST"),
        ("PATCH", "/open/reclaim", "POST"),
    ] {
        let reply = nginx.ask(method, path, &[]);
        assert_eq!(reply.status, 405, "{method} {path}");
        assert_eq!(reply.header("Allow"), Some(allowed), "{method} {path}");
    }
    let reply = nginx.ask("POST", "/status/reclaim", &[]);
    assert_eq!((reply.status, reply.body.contains("ebbtide_status_reclaim is off")), (403, true));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn html_needs_nothing_from_outside() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1));
    let html = nginx.get("/status").replace("http://www.w3.org/2000/svg", "");
    assert!(html.trim_start().to_lowercase().starts_with("<!doctype html>"), "{html}");
    assert!(html.trim_end().ends_with("</html>"), "the end is missing");
    for outside in ["http://", "https://", "\"//", "'//", "@import", "url("] {
        assert!(!html.contains(outside), "{outside} is in the page");
    }
    for attribute in ["src=\"", "href=\""] {
        for rest in html.split(attribute).skip(1) {
            assert!(rest.starts_with("data:") || rest.starts_with(['#', '?']), "{}", &rest[..40]);
        }
    }
}

#[test]
fn prometheus_accepts_the_metrics() {
    let _beside = beside();
    let config = Config::new(Modules::First).http("ebbtide_limit_soft 300m;");
    let nginx = Nginx::start(&config.http("ebbtide_limit_hard 400m;"));
    nginx.get("/light");
    let metrics = nginx.get("/status/metrics");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("promtool can be run");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(input);
    let output = child.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}\n{metrics}", text(&output));
    assert_eq!(text(&output), "", "{metrics}");
    for pid in running_pids(&nginx) {
        for kind in ["main", "other"] {
            let label = format!("pid=\"{pid}\",vm=\"{kind}\"}}");
            assert!(metrics.contains(&label), "{label}: {metrics}");
        }
        let label = format!("pid=\"{pid}\"}} {}\n", 300 << 20);
        assert!(metrics.contains(&label), "{label}: {metrics}");
    }
}

#[test]
fn asked_to_reclaim_all_workers_do() {
    let _alone = alone();
    // So that nothing goes back unasked.
    let config = Config::new(Modules::First).http("ebbtide_idle 1h; ebbtide_decay 1h;");
    let nginx = Nginx::start(&config);
    let held = litter(&nginx);
    assert_eq!(nginx.ask("POST", "/status/reclaim", &[]).status, 403);
    for (path, status) in [("/status", 405), ("/open", 405), ("/open/reclaim/now", 404)] {
        assert_eq!(nginx.ask("POST", path, &[]).status, status, "{path}");
    }
    for site in ["cross-site", "same-site", "none", "same-originX", ""] {
        let header = format!("Sec-Fetch-Site: {site}");
        assert_eq!(nginx.ask("POST", "/open/reclaim", &[&header]).status, 403, "{site}");
    }
    for origin in ["http://elsewhere", "null", "", "http://"] {
        let header = format!("Origin: {origin}");
        assert_eq!(nginx.ask("POST", "/open/reclaim", &[&header]).status, 403, "{origin}");
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        assert_eq!(nginx.ask(method, "/open/reclaim", &[]).status, 405, "{method}");
    }
    thread::sleep(Duration::from_millis(1500));
    for (worker, before) in nginx.running().iter().zip(&held) {
        let now = worker.pss_anon_kb();
        assert!(now > before / 2, "{before}, now {now} KB: a refused request did it");
    }
    let reply = nginx.ask("POST", "/open/reclaim", &["Sec-Fetch-Site: same-origin"]);
    assert_eq!((reply.status, reply.body.trim()), (202, "{\"asked\":2}"));
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    nginx.wait_until("all reclaim", PATIENCE, |nginx| {
        nginx.running().iter().zip(&held).all(|(worker, before)| worker.pss_anon_kb() < before / 3)
    });
    nginx.wait_until("all settle", PATIENCE, |nginx| {
        json(nginx).iter().all(|worker| worker["phase"] == "settled" || worker["phase"] == "busy")
    });
    // A body is read and thrown away.
    let body = "x".repeat(3000);
    let request = format!(
        "POST /open/reclaim HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{}",
        body.len(),
        body
    );
    assert_eq!(nginx.send(request.as_bytes()).status, 202);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn nothing_of_a_request_is_in_an_answer() {
    let _beside = beside();
    let mark = "<script>xq7()</script>";
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1));
    let long = "xq7".repeat(1500);
    let paths = [
        format!("/status/{mark}"),
        format!("/status?format={mark}"),
        format!("/status?format=json&{mark}={mark}"),
        format!("/status/{mark}/metrics"),
        format!("/status?{long}"),
        format!("/open/{mark}/reclaim"),
        "/status/xq7%00%0d%0aX-Xq7:%20xq7".to_owned(),
        "/status/%22%3E%3Cscript%3Exq7()%3C/script%3E?format=prometheus".to_owned(),
        format!("/status/{long}/reclaim"),
    ];
    let headers = [
        format!("Host: xq7{mark}"),
        format!("Accept: application/json; {mark}"),
        format!("User-Agent: {mark}"),
        format!("Referer: {mark}"),
        format!("X-Forwarded-For: {mark}"),
        format!("Cookie: {mark}"),
        format!("X-Xq7: {long}"),
        "Accept: text/plain\u{1}xq7".to_owned(),
    ];
    for path in &paths {
        for method in ["GET", "POST", "HEAD", "XQ7"] {
            let bare = nginx.ask(method, path, &[]);
            for header in headers.iter().map(String::as_str).chain(["A: b"]) {
                let reply = nginx.ask(method, path, &[header]);
                for text in [&reply.headers, &reply.body, &bare.headers, &bare.body] {
                    assert!(
                        !text.to_lowercase().contains("xq7"),
                        "{method} {path} {header}: {text}"
                    );
                }
            }
        }
    }
    // It still serves, and its figures are sound.
    assert_eq!(json(&nginx).len(), 1);
}

#[test]
fn lua_reads_the_page_by_a_subrequest() {
    let _beside = beside();
    let config = Config::new(Modules::First).workers(1).lua(
        "capture",
        "local reply = ngx.location.capture('/status?format=json')
         ngx.status = reply.status
         ngx.print(reply.body)",
    );
    let nginx = Nginx::start(&config);
    let page = parsed(&nginx.get("/capture"));
    assert_eq!(page["workers"].as_array().map(Vec::len), Some(1));
}

/// A worker that sleeps and gets no connection hears of a request to reclaim all the same.
#[test]
fn a_sleeping_worker_is_woken_to_reclaim() {
    let _alone = alone();
    let config = Config::new(Modules::First).http("ebbtide_idle 1h; keepalive_timeout 60s;");
    let nginx = Nginx::start(&config);
    let held = litter(&nginx);
    // It is accepted now, and its request comes when both sleep.
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).expect("it listens");
    let sleeps = || nginx.running().iter().map(|worker| worker.sleeps()).collect::<Vec<u64>>();
    let rest = || {
        let before = sleeps();
        thread::sleep(Duration::from_secs(1));
        sleeps() == before
    };
    assert!((0..10).any(|_| rest()), "the workers do not sleep");
    let request = b"POST /open/reclaim HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request).expect("the server reads");
    nginx.wait_until("both reclaim", PATIENCE, |nginx| {
        nginx.running().iter().zip(&held).all(|(worker, before)| worker.pss_anon_kb() < before / 3)
    });
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

fn readers_of_the_page_leave_its_history_alone() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1));
    nginx.get("/light");
    thread::sleep(Duration::from_millis(2200));
    // Some in haste, and some in a measured pace.
    for pause in [0, 0, 0, 0, 600, 600, 600, 600, 600, 600] {
        for _ in 0..if pause == 0 { 100 } else { 1 } {
            nginx.get("/status?format=json");
        }
        thread::sleep(Duration::from_millis(pause));
    }
    let worker = &json(&nginx)[0];
    let history = worker["history"].as_array().expect("a list");
    let oldest = history[0][0].as_u64().expect("milliseconds ago");
    assert!(oldest >= 2200, "the oldest sample is {oldest} ms old");
    let most = oldest / 1000 + 2;
    assert!(history.len() as u64 <= most, "{} samples in {oldest} ms", history.len());
}
