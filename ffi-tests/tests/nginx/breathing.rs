//! Load comes and goes: what each worker holds afterwards, with no further request.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clock::{DOWN_WITHIN, OwnClock};
use crate::config::{Config, Modules};
use crate::load::Load;
use crate::server::{Nginx, alone, target};

ebbtide_ffi_tests::long! {
    workers_breathe_out_after_load_and_those_of_stock_nginx_do_not
}

const CONNECTIONS: u32 = 1500;
const LOAD_SECONDS: u32 = 4;

/// What the workers held, from the start of the load on.
struct Curve {
    /// Seconds, and KB of each worker.
    points: Vec<(f64, Vec<u64>)>,
    /// When the last answer had come.
    quiet_from: f64,
    requests: u64,
}

impl Curve {
    fn peak_kb(&self, worker: usize) -> u64 {
        self.points.iter().map(|(_, kb)| kb[worker]).max().expect("there are points")
    }

    /// When a worker held no more than this share of its peak for the first time after the load,
    /// in seconds from its end on.
    fn falls_to(&self, worker: usize, percent: u64) -> Option<f64> {
        let bound = self.peak_kb(worker) * percent / 100;
        let quiet = self.points.iter().filter(|(time, _)| *time >= self.quiet_from);
        let mut low = quiet.filter(|(_, kb)| kb[worker] <= bound);
        low.next().map(|(time, _)| time - self.quiet_from)
    }

    fn last_percent(&self, worker: usize) -> u64 {
        let (_, last) = self.points.last().expect("there are points");
        last[worker] * 100 / self.peak_kb(worker)
    }

    fn describe(&self, worker: usize) -> String {
        format!(
            "peak {} KB, {} % of it at the end, {} requests",
            self.peak_kb(worker),
            self.last_percent(worker),
            self.requests
        )
    }
}

/// Puts the load on a server, and samples its workers until they have been quiet for as long as they
/// may take to come down to this share of their peaks, and each of them has come down or was late by
/// its own clock.
fn breathe(nginx: &Nginx, percent: u64) -> Curve {
    let workers = nginx.running();
    let start = Instant::now();
    let mut load = Load::start(nginx, "/heavy", CONNECTIONS, LOAD_SECONDS, false);
    let mut curve = Curve { points: Vec::new(), quiet_from: 0.0, requests: 0 };
    let sample = |curve: &mut Curve| {
        let time = start.elapsed().as_secs_f64();
        curve.points.push((time, workers.iter().map(|worker| worker.pss_anon_kb()).collect()));
        sleep(Duration::from_millis(100));
    };
    while load.is_running() {
        sample(&mut curve);
    }
    let outcome = load.finish();
    let end = Instant::now();
    let clocks: Vec<OwnClock> = workers.iter().map(|worker| OwnClock::start(*worker)).collect();
    loop {
        // First the clocks: what is sampled after that may be lower, never higher.
        let times: Vec<Duration> = clocks.iter().map(OwnClock::elapsed).collect();
        sample(&mut curve);
        let high: Vec<Duration> = (0..workers.len())
            .filter(|worker| curve.last_percent(*worker) > percent)
            .map(|worker| times[worker])
            .collect();
        let is_late = high.iter().any(|time| *time > DOWN_WITHIN);
        if is_late || (high.is_empty() && end.elapsed() > DOWN_WITHIN) {
            break;
        }
    }
    assert!(outcome.is_clean(), "{}", outcome.said);
    curve.quiet_from = (end - start).as_secs_f64();
    curve.requests = outcome.requests;
    assert_eq!(nginx.running(), workers, "{}", nginx.log());
    for worker in 0..workers.len() {
        assert!(curve.peak_kb(worker) > 30_000, "no load: {}", curve.describe(worker));
    }
    curve
}

fn workers_breathe_out_after_load_and_those_of_stock_nginx_do_not() {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(Modules::Stock));
    let stock = breathe(&nginx, 100);
    drop(nginx);
    let nginx = Nginx::start(&Config::new(Modules::First));
    let with = breathe(&nginx, 16);
    write_curves([("stock", &stock), ("with the module", &with)]);
    for worker in 0..2 {
        let (stock_is, with_is) = (stock.describe(worker), with.describe(worker));
        assert!(stock.last_percent(worker) > 50, "stock: {stock_is}");
        let within = with.falls_to(worker, 16);
        assert!(with.last_percent(worker) <= 16, "{within:?} s: {with_is}\n{stock_is}");
        println!("worker {worker}: at 16 % after {within:?} s; {with_is}; stock: {stock_is}");
    }
    idle_workers_sleep(&nginx);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// Nothing wakes them up once they have settled.
fn idle_workers_sleep(nginx: &Nginx) {
    let sleeps = || nginx.running().iter().map(|worker| worker.sleeps()).collect::<Vec<u64>>();
    let mut rests = (0..8).map(|_| {
        let before = sleeps();
        sleep(Duration::from_secs(4));
        (before, sleeps())
    });
    assert!(rests.any(|(before, after)| before == after), "idle workers wake up");
}

/// Writes the memory of all workers over time, in MB, as JSON that `plot.py` of the benches draws.
fn write_curves(curves: [(&str, &Curve); 2]) {
    let curves = curves.map(|(name, curve)| {
        let point = |(time, kb): &(f64, Vec<u64>)| (*time, kb.iter().sum::<u64>() as f64 / 1024.0);
        let points: Vec<(f64, f64)> = curve.points.iter().map(point).collect();
        json!({ "name": name, "points": points })
    });
    let picture = json!({
        "title": "Memory of two nginx workers",
        "subtitle": format!("{CONNECTIONS} requests in flight for {LOAD_SECONDS} s, then none"),
        "footnotes": ["Anonymous PSS of both workers."],
        "curves": curves,
        "bands": [],
        "notes": [],
    });
    let file = target().join("nginx/after_load.json");
    fs::write(file, picture.to_string()).expect("the target directory can be written");
}
