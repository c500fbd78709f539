//! The page in a real browser: it loads, draws, follows the workers, and complains of nothing.

use std::process::Command;
use std::time::Duration;

use super::load::Load;
use super::server::{Config, Folder, Modules, Nginx, alone, kill, text};

const BROWSER: &str = "chromium";
/// No question of the browser's own leaves the machine.
#[rustfmt::skip]
const FLAGS: [&str; 10] = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=6000",
];

/// What became of a page after some seconds, as HTML, and what it said on the console.
struct Seen {
    page: String,
    console: Vec<String>,
}

fn look(address: &str) -> Seen {
    let folder = Folder::new();
    let profile = folder.file("profile");
    let mut browser = Command::new(BROWSER);
    browser.args(FLAGS).arg(format!("--user-data-dir={}", profile.display()));
    let output = browser.args(["--dump-dom", address]).output();
    let output = output.expect("chromium is missing: install it (ffi-tests/setup.sh does)");
    let said = text(&output);
    let console = said.lines().filter(|line| line.contains(":CONSOLE"));
    Seen {
        page: String::from_utf8_lossy(&output.stdout).into_owned(),
        console: console.map(str::to_owned).collect(),
    }
}

#[test]
fn complaints_on_the_console_would_be_seen() {
    let seen = look("data:text/html,<script>console.error('a complaint')</script>");
    assert!(seen.console.iter().any(|line| line.contains("a complaint")), "{:?}", seen.console);
}

#[test]
fn the_page_draws_each_worker_under_load_and_after_a_restart() {
    let _machine = alone();
    let nginx = Nginx::start(&Config::new(Modules::First));
    let address = format!("http://127.0.0.1:{}/open", nginx.port);
    let load = Load::start(&nginx, "/heavy", 200, 5, false);
    let seen = look(&address);
    assert_eq!(seen.console, Vec::<String>::new());
    for worker in nginx.workers() {
        assert!(seen.page.contains(&format!("pid {}", worker.pid)), "{}", seen.page);
    }
    // A curve for each: an area for what is live, one for what is free, and lines.
    assert!(seen.page.matches("<path").count() >= 3 * nginx.workers().len(), "{}", seen.page);
    assert!(seen.page.contains("Reclaim now"));
    load.finish();

    let killed = nginx.workers()[0].pid;
    kill("KILL", killed);
    let is_back = |nginx: &Nginx| {
        let workers = nginx.workers();
        workers.len() == 2 && workers.iter().all(|worker| worker.pid != killed)
    };
    nginx.wait_until("the worker is replaced", Duration::from_secs(5), is_back);
    let seen = look(&address);
    assert_eq!(seen.console, Vec::<String>::new());
    for worker in nginx.workers() {
        assert!(seen.page.contains(&format!("pid {}", worker.pid)), "{}", seen.page);
    }
    assert!(!seen.page.contains(&format!("pid {killed}")), "{}", seen.page);
}

#[test]
fn the_page_says_that_there_is_nothing_to_show() {
    let nginx = Nginx::start(&Config::new(Modules::First).http("ebbtide_zone off;"));
    let seen = look(&format!("http://127.0.0.1:{}/status", nginx.port));
    assert_eq!(seen.console, Vec::<String>::new());
    assert!(seen.page.contains("ebbtide_zone"), "{}", seen.page);
    let button = seen.page.split("<button").nth(1).and_then(|rest| rest.split('>').next());
    assert!(button.is_some_and(|tag| tag.contains("hidden")), "{button:?}");
}
