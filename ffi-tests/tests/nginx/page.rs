//! The page in a real browser: it loads, draws, follows the workers, and complains of nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::config::{Config, Modules};
use crate::load::Load;
use crate::server::{Nginx, alone, beside};
use crate::workers::kill;

/// A page reads its figures every two seconds, on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// That a worker is gone is shown for ten seconds.
const GONE: Duration = Duration::from_secs(20);

const NONE: [String; 0] = [];

fn opened(nginx: &Nginx, path: &str) -> Browser {
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}{path}", nginx.port));
    browser
}

/// Whether a text has each worker's process.
fn has_all(text: &str, nginx: &Nginx) -> bool {
    let workers = nginx.workers();
    !workers.is_empty() && workers.iter().all(|worker| text.contains(&pid(worker.pid)))
}

fn pid(pid: u32) -> String {
    format!("pid {pid}")
}

#[test]
fn complaints_on_the_console_would_be_seen() {
    let mut browser = Browser::start();
    for (page, part) in [
        ("<script>console.error('a complaint')</script>", "a complaint"),
        ("<script>missing.field = 1</script>", "missing is not defined"),
        ("<img src='http://127.0.0.1:1/none.png'>", "ERR_"),
    ] {
        browser.open(&format!("data:text/html,{page}"));
        let start = Instant::now();
        while !browser.complaints().iter().any(|said| said.contains(part)) {
            assert!(start.elapsed() < PATIENCE, "{part} was not seen");
        }
    }
}

#[test]
fn the_page_draws_each_worker_and_follows_load_and_restarts() {
    let _machine = alone();
    let nginx = Nginx::start(&Config::new(Modules::First));
    let mut browser = opened(&nginx, "/open");
    browser.wait_until("the workers are there", PATIENCE, |text| has_all(text, &nginx));
    assert!(browser.text().contains("Reclaim now"));

    // While load runs the curves grow and the figures change.
    let curves =
        "[...document.querySelectorAll('#cards path')].map(p => p.getAttribute('d')).join()";
    let load = Load::start(&nginx, "/heavy", 200, 600, false);
    let start = Instant::now();
    let (mut drawn, mut told) = (BTreeSet::new(), BTreeSet::new());
    while (drawn.len() < 3 || told.len() < 3) && start.elapsed() < GONE {
        drawn.insert(browser.value(curves).to_string());
        told.insert(browser.value("document.getElementById('sums').innerText").to_string());
        std::thread::sleep(Duration::from_millis(200));
    }
    load.end();
    assert!(drawn.len() >= 3 && told.len() >= 3, "{} curves, {told:?}", drawn.len());
    // An area for what is live, one for what is free, and lines, for each worker.
    let paths = browser.value("document.querySelectorAll('#cards path').length");
    assert!(paths.as_u64() >= Some(6), "{paths} paths");

    let killed = nginx.workers()[0].pid;
    kill("KILL", killed);
    nginx.wait_until("the worker is replaced", PATIENCE, |nginx| {
        let workers = nginx.workers();
        workers.len() == 2 && workers.iter().all(|worker| worker.pid != killed)
    });
    browser.wait_until("the new worker is there, and the old one marked", PATIENCE, |text| {
        has_all(text, &nginx) && text.contains(&pid(killed)) && text.contains("gone")
    });
    browser.wait_until("the old one is gone", GONE, |text| {
        has_all(text, &nginx) && !text.contains(&pid(killed))
    });
    assert_eq!(browser.complaints(), NONE);
}

#[test]
fn the_button_asks_all_workers() {
    let _machine = alone();
    let nginx = Nginx::start(&Config::new(Modules::First).http("ebbtide_idle 1h;"));
    nginx.get("/litter?megabytes=40&clean=1");
    let mut browser = opened(&nginx, "/open");
    browser.wait_until("the workers are there", PATIENCE, |text| has_all(text, &nginx));
    browser.value("document.getElementById('ask').click()");
    browser.wait_until("it is asked", PATIENCE, |text| text.contains("Asked 2 workers"));
    browser.wait_until("it tells what came of it", PATIENCE, |text| text.contains("MB went back"));
    assert_eq!(browser.complaints(), NONE);
}

#[test]
fn the_page_says_what_fails_keeps_what_it_has_and_goes_on() {
    let _machine = beside();
    let config = Config::new(Modules::First);
    let nginx = Nginx::start(&config);
    let mut browser = opened(&nginx, "/status");
    browser.wait_until("the workers are there", PATIENCE, |text| has_all(text, &nginx));
    assert_eq!(browser.complaints(), NONE);
    let before = nginx.workers()[0].pid;
    nginx.stop();
    browser.wait_until("it says that there is no server", PATIENCE, |text| {
        text.contains("the server cannot be reached") && text.contains(&pid(before))
    });
    nginx.start_again(&config);
    browser.wait_until("it goes on", PATIENCE, |text| {
        has_all(text, &nginx) && !text.contains("cannot be reached")
    });
    // An answer that is none.
    let mut other = config.clone();
    other.server = other.server.replace("location /status { ebbtide_status; }", "");
    other.server += "location /status { return 200 'so much for that'; }";
    nginx.write_config(&other);
    nginx.reload();
    browser.wait_until("it says so", PATIENCE, |text| text.contains("the answer is not JSON"));
}

#[test]
fn the_page_says_that_there_are_no_figures() {
    let _machine = beside();
    let config = Config::new(Modules::First);
    let nginx = Nginx::start(&config);
    let mut browser = opened(&nginx, "/status");
    browser.wait_until("the workers are there", PATIENCE, |text| has_all(text, &nginx));
    // A page that is open says why its figures do not change any more.
    nginx.write_config(&config.http("ebbtide_zone off;"));
    nginx.reload();
    browser.wait_until("it says why", PATIENCE, |text| {
        text.contains("the server answered 503") && text.contains("ebbtide_zone is off")
    });
    // And there is none to open.
    let mut browser = opened(&nginx, "/status");
    browser.wait_until("it says why", PATIENCE, |text| {
        text.trim() == "ebbtide: there are no figures: ebbtide_zone is off"
    });
}

#[test]
fn the_page_fits_a_phone_and_the_dark() {
    let _machine = beside();
    let nginx = Nginx::start(&Config::new(Modules::First));
    let mut browser = opened(&nginx, "/open");
    let mut grounds = BTreeSet::new();
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")] {
        browser.show_as(width, scheme);
        browser.wait_until("the workers are there", PATIENCE, |text| has_all(text, &nginx));
        let needed = browser.value("document.documentElement.scrollWidth").as_u64();
        assert!(needed <= Some(width.into()), "{needed:?} of {width}");
        let ground = browser.value("getComputedStyle(document.body).backgroundColor").to_string();
        grounds.insert((scheme, ground));
    }
    // The same for each width, and another in the dark.
    let colours: BTreeSet<&str> = grounds.iter().map(|(_, ground)| ground.as_str()).collect();
    assert!(grounds.len() == 2 && colours.len() == 2, "{grounds:?}");
    assert_eq!(browser.complaints(), NONE);
}
