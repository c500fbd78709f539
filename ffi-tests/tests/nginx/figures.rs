//! The figures: JSON and metrics say the same, and nginx/README.md has all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use ebbtide_runtimes::repository;
use serde_json::Value;

use crate::config::{Config, Modules};
use crate::server::{Nginx, beside};
use crate::status::{json, number, page, parsed, vms};

const PATIENCE: Duration = Duration::from_secs(20);

/// A section of nginx/README.md.
fn manual(section: &str) -> String {
    let manual = std::fs::read_to_string(repository().join("nginx/README.md")).expect("a manual");
    let (_, text) = manual.split_once(&format!("### {section}\n")).expect("a section");
    let (text, _) = text.split_once("\n##").expect("the section's end");
    text.to_owned()
}

/// The names in the first column of each table of a section.
fn fields(section: &str) -> Vec<BTreeSet<String>> {
    let names = |row: &str| -> Vec<String> {
        let column = row.split('|').nth(1).unwrap_or_default();
        column.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let tables = manual(section);
    let tables = tables.split("| field |").skip(1);
    let table =
        |text: &str| text.lines().take_while(|row| row.contains('|')).flat_map(names).collect();
    tables.map(table).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

/// The tables of nginx/README.md have every field of JSON, and no other.
#[test]
fn the_manual_has_every_field_of_json() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1));
    let [of_page, of_worker, of_vms, of_others] = &fields("JSON")[..] else {
        panic!("the section has other tables: {:?}", fields("JSON"))
    };
    let page = page(&nginx);
    assert_eq!(*of_page, keys(&page));
    let worker = &page["workers"][0];
    let kinds = keys(&worker["vms"]);
    let mut expected = keys(worker);
    assert!(expected.remove("vms"));
    expected.extend(kinds.iter().map(|kind| format!("vms.{kind}")));
    assert_eq!(*of_worker, expected);
    for kind in kinds {
        assert_eq!(*of_vms, keys(&worker["vms"][kind]));
    }
    for step in keys(&worker["steps"]) {
        assert!(manual("JSON").contains(&format!("`{step}`")), "{step}");
    }
    let asked = keys(&parsed(&nginx.ask("POST", "/open/reclaim", &[]).body));
    let refused = keys(&parsed(&nginx.ask("POST", "/status/reclaim", &[]).body));
    assert_eq!(*of_others, &asked | &refused);
}

/// What each metric is in the JSON of a worker, in units of the metric; `None`: it is of no worker.
fn in_json(worker: &Value, metric: &str) -> Option<f64> {
    let both = |name: &str| vms(worker, "main", name) + vms(worker, "other", name);
    let name = metric.strip_prefix("ebbtide_").expect("ours");
    let step = |name: &str| number(&worker["steps"], name) as f64 / 1e6;
    let whole = match name {
        "pressure_ratio" => return Some(number(worker, "pressure") as f64 / 100.0),
        "step_median_seconds" => return Some(step("p50_us")),
        "step_p99_seconds" => return Some(step("p99_us")),
        "step_longest_seconds" => return Some(step("max_us")),
        "build_info" => return None,
        "steps_total" => number(&worker["steps"], "count"),
        "vms" => both("count"),
        "process_resident_bytes" => number(worker, "rss"),
        "given_back_bytes_total" => number(worker, "returned_total"),
        "refused_allocations_total" => number(worker, "refused_allocations"),
        "refused_address_space_total" => number(worker, "refused_address_space"),
        "worker_restarts_total" => number(worker, "restarts"),
        "thrashing_vms" | "previous_damaged_vms" | "purge_errno" => number(worker, name),
        _ => {
            let field = &name.replace("_bytes", "");
            worker["vms"]["main"].get(field).map_or_else(|| number(worker, field), |_| both(field))
        }
    };
    Some(whole as f64)
}

/// JSON, from which the page is drawn, has the figure of every metric.
#[test]
fn json_and_prometheus_agree() {
    let _beside = beside();
    let config = Config::new(Modules::First).workers(1).http("ebbtide_idle 100ms;");
    let config = config.http("ebbtide_limit_soft 300m; ebbtide_limit_hard 400m;");
    let nginx = Nginx::start(&config);
    nginx.get("/litter?megabytes=20&clean=1");
    nginx.wait_until("garbage is returned", PATIENCE, |nginx| {
        number(&json(nginx)[0], "returned_total") > 0 && json(nginx)[0]["phase"] == "settled"
    });
    let disagree = |nginx: &Nginx| -> Vec<String> {
        let worker = json(nginx)[0].clone();
        let metrics = nginx.get("/status/metrics");
        let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = names.filter_map(|line| line.split(' ').next());
        let differs = |name: &&str| {
            let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
            let values = lines.map(|line| line.rsplit(' ').next().and_then(|it| it.parse().ok()));
            let sum: f64 = values.map(|value: Option<f64>| value.expect("a number")).sum();
            in_json(&worker, name).is_some_and(|expected| (expected - sum).abs() > 1e-6)
        };
        names.filter(differs).map(str::to_owned).collect()
    };
    // What the process holds may change between the two answers.
    nginx.wait_until("they agree", PATIENCE, |nginx| disagree(nginx).is_empty());
}

/// The table of nginx/README.md has every metric with its type, and no other.
#[test]
fn the_manual_has_every_metric() {
    let _beside = beside();
    let nginx = Nginx::start(&Config::new(Modules::First));
    let table = manual("Metrics");
    let rows = table.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some(format!("{name} {}", rest.split_once(" |")?.0))
    });
    let metrics = nginx.get("/status/metrics");
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    assert_eq!(rows.collect::<Vec<_>>(), types.collect::<Vec<_>>());
}
