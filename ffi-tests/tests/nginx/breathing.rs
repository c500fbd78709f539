//! Load comes and goes: what each worker holds afterwards, with no further request.

use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::clock::{DOWN_WITHIN, OwnClock};
use crate::load::Load;
use crate::server::{Config, Modules, Nginx, alone, target};

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
    fs::write(target().join("nginx/breathing.svg"), drawn(&stock, &with)).expect("it is there");
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

const WIDE: f64 = 900.0;
const HIGH: f64 = 360.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 40.0;

/// Both curves over one axis: grey is stock nginx, blue the module, a line for each worker.
fn drawn(stock: &Curve, with: &Curve) -> String {
    let curves = [(stock, "#888888"), (with, "#1565c0")];
    let last = |curve: &Curve| curve.points.last().expect("there are points").0;
    let seconds = last(stock).max(last(with));
    let highest = |curve: &Curve| curve.peak_kb(0).max(curve.peak_kb(1));
    let top_mb = (highest(stock).max(highest(with)) / 1024 / 20 + 1) * 20;
    let x = |time: f64| LEFT + (WIDE - LEFT - 20.0) * time / seconds;
    let y = |mb: f64| HIGH - BOTTOM - (HIGH - BOTTOM - TOP) * mb / top_mb as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDE} {HIGH}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Memory of each nginx worker (anonymous PSS), \
         {CONNECTIONS} requests in flight for {LOAD_SECONDS} s, then none</text>\n\
         <text x=\"{LEFT}\" y=\"38\" fill=\"#888888\">stock</text>\n\
         <text x=\"{}\" y=\"38\" fill=\"#1565c0\">with the module</text>\n",
        LEFT + 50.0
    );
    let mut add = |line: String| writeln!(svg, "{line}").expect("a string takes it");
    for mb in (0..=top_mb).step_by(20) {
        let at = y(mb as f64);
        add(format!("<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#dddddd\"/>", WIDE - 20.0));
        let text_at = at + 4.0;
        add(format!("<text x=\"8\" y=\"{text_at:.1}\">{mb} MB</text>"));
    }
    for second in 0..=seconds as u32 {
        let at = x(f64::from(second));
        add(format!("<text x=\"{at:.1}\" y=\"{}\">{second} s</text>", HIGH - 15.0));
    }
    for (curve, colour) in curves {
        for worker in 0..2 {
            let point = |(time, kb): &(f64, Vec<u64>)| {
                format!("{:.1},{:.1}", x(*time), y(kb[worker] as f64 / 1024.0))
            };
            let points: Vec<String> = curve.points.iter().map(point).collect();
            let points = points.join(" ");
            add(format!(
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" \
                 stroke-width=\"2\"/>"
            ));
        }
        let at = x(curve.quiet_from);
        let to = HIGH - BOTTOM;
        add(format!(
            "<path d=\"M{at:.1} {TOP}V{to}\" stroke=\"{colour}\" stroke-dasharray=\"4 4\"/>"
        ));
    }
    svg + "</svg>\n"
}
