//! nginx's cache loader: a process that waits for a minute, walks through the files of a cache, and
//! ends. The module is in it as in any other process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::builds::{Build, WAYS};
use crate::config::{Config, Folder, Modules};
use crate::server::Nginx;
use crate::status::{pids, running_pids};
use crate::workers::{children_of, title};

/// The loader sleeps for 50 ms after each.
const FILES: usize = 300;
const STRAYS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(300);

/// Files as a cache of `levels=1:2` has them, as far as the loader looks: those that belong there,
/// and one in each folder that does not, which the loader removes.
fn fill(cache: &Path) {
    for number in 0..FILES as u128 {
        let name =
            format!("{:032x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let folder = cache.join(&name[31..]).join(&name[29..31]);
        fs::create_dir_all(&folder).expect("it can be written");
        fs::write(folder.join(name), "garbage ".repeat(200)).expect("it can be written");
    }
    for digit in 0..STRAYS {
        fs::write(stray(cache, digit), "garbage ".repeat(200)).expect("it can be written");
    }
}

fn stray(cache: &Path, digit: usize) -> PathBuf {
    cache.join(format!("{digit:x}")).join("z".repeat(32))
}

fn strays(cache: &Path) -> usize {
    (0..STRAYS).filter(|digit| stray(cache, *digit).exists()).count()
}

fn files(cache: &Path) -> usize {
    let all = fs::read_dir(cache).expect("it is there").flatten();
    all.map(|file| if file.path().is_dir() { files(&file.path()) } else { 1 }).sum()
}

/// The process of a master with this in its title.
fn process(nginx: &Nginx, kind: &str) -> Option<u32> {
    nginx.pid().and_then(|master| children_of(master).find(|pid| title(*pid).contains(kind)))
}

/// Looks now and then, for these servers are not alone on the machine.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(100));
    }
}

fn loader_lives_and_ends((build, modules): (Build, Modules)) {
    let folder = Folder::new();
    let cache = folder.file("cache");
    fill(&cache);
    let way = format!("{build:?}, {modules:?}");
    let mut config = Config::new(modules).on(build).http(&format!(
        "proxy_cache_path {} levels=1:2 keys_zone=cache:1m loader_files=1 loader_sleep=50ms;",
        cache.display()
    ));
    config.server += "location /cached {
         proxy_cache cache;
         proxy_cache_key $request_uri;
         proxy_cache_valid any 1m;
         proxy_pass http://127.0.0.1:$server_port/light;
     }\n";
    let nginx = Nginx::start(&config);
    let helpers = ["cache loader", "cache manager"];
    wait_until("the helpers run", || helpers.iter().all(|kind| process(&nginx, kind).is_some()));
    let [loader, manager] = helpers.map(|kind| process(&nginx, kind));
    let loader = loader.expect("it was there");
    let workers = nginx.running();

    // For a minute the loader waits, in an event loop that the module is in.
    wait_until("the loader begins", || {
        let lives = process(&nginx, "cache loader") == Some(loader);
        let begun = strays(&cache) < STRAYS;
        assert!(begun || lives, "{way}\n{}", nginx.log());
        begun
    });
    let requests = AtomicU32::new(0);
    wait_until("the loader ends", || {
        let number = requests.fetch_add(1, Ordering::Relaxed);
        assert!(nginx.get(&format!("/cached?{number}")).starts_with("row 20"), "{way}");
        process(&nginx, "cache loader").is_none()
    });
    let told = format!("cache loader process {loader} exited");
    wait_until("the master has seen that", || nginx.log().contains(&told));
    let log = nginx.log();
    let ended = format!("cache loader process {loader} exited with code 0");
    assert!(log.contains(&ended), "{way}: not {ended}\n{log}");
    let mut own = log.lines().filter(|line| line.contains(&format!(" {loader}#")));
    assert!(own.any(|line| line.contains("http file cache: ")), "{way}: it did not end\n{log}");
    // Each request left a file beside the first ones.
    let cached = requests.into_inner() as usize;
    assert_eq!((strays(&cache), files(&cache)), (0, FILES + cached), "{way}");

    assert_eq!((process(&nginx, "cache manager"), nginx.running()), (manager, workers), "{way}");
    assert_eq!(pids(&nginx), running_pids(&nginx), "{way}");
    assert!(!log.contains("exited on signal"), "{way}\n{log}");
    assert_eq!(nginx.errors(), Vec::<String>::new(), "{way}");
}

/// It measures nothing, and takes no turns with tests that do: it waits nearly all the time.
#[test]
#[ignore = "75 seconds beside other tests: make test-long"]
fn the_cache_loader_lives_and_ends_by_itself() {
    let ways = [&WAYS[..], &[(Build::LuaInside, Modules::Last)]].concat();
    thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || loader_lives_and_ends(way));
        }
    });
}
