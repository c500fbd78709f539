//! Memory limits: what a greedy handler meets, and how the collector hurries near them.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use ebbtide_ffi_tests::scratch;

use crate::config::{Config, Modules};
use crate::processes::with_early_vm_of;
use crate::server::{Nginx, alone, beside};
use crate::status::{json, number, pids, running_pids, vms};

const PATIENCE: Duration = Duration::from_secs(20);

pub const GREEDY: &str = "local all = {}
    while true do all[#all + 1] = { tostring(#all), #all } end";

#[test]
fn a_greedy_handler_gets_no_more_and_the_worker_goes_on() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .http("ebbtide_limit_hard 64m;")
        .lua("greedy", &format!("ngx.say(pcall(function() {GREEDY} end))"));
    let nginx = Nginx::start(&config);
    let worker = nginx.running()[0];
    for _ in 0..3 {
        assert_eq!(nginx.get("/greedy"), "falsenot enough memory\n");
        nginx.wait_until("its garbage is collected", PATIENCE, |_| worker.pss_anon_kb() < 30_000);
        for _ in 0..20 {
            assert!(nginx.get("/light").starts_with("row 20"));
        }
    }
    let now = json(&nginx)[0].clone();
    assert_eq!(number(&now, "limit_hard"), 64 << 20);
    assert_eq!(nginx.running(), [worker]);
    assert_eq!(nginx.errors(), Vec::<String>::new());
    assert!(worker.rss_kb() < 100 * 1024, "{} KB", worker.rss_kb());
    nginx.wait_until("it breathes out", PATIENCE, |_| worker.pss_anon_kb() < 16_000);
}

/// The VM of a thread has no event loop to collect its garbage, and it works again in the next task.
#[test]
fn a_thread_that_met_its_limit_goes_on_with_the_next_task() {
    let _alone = alone();
    let task = |name: &str, arguments: &str| {
        format!(
            "local ok, result = ngx.run_worker_thread('pool', 'thread_work', '{name}'{arguments})
             ngx.say(tostring(ok), ' ', tostring(result))"
        )
    };
    let config = Config::new(Modules::First)
        .workers(1)
        .top("thread_pool pool threads=1;")
        .http("ebbtide_limit_hard 32m;")
        .lua("greedy", &task("greedy", ""))
        .lua("sum", &task("sum", ", tonumber(ngx.var.arg_seed)"));
    let nginx = Nginx::start(&config);
    let worker = nginx.running()[0];
    for seed in 1..=5 {
        let answer = nginx.get("/greedy");
        assert!(answer.starts_with("false ") && answer.contains("not enough memory"), "{answer}");
        let total = 3000 * seed + 3000 * 3001 / 2;
        for _ in 0..3 {
            assert_eq!(nginx.get(&format!("/sum?seed={seed}")), format!("true {total}\n"));
        }
    }
    // It was one VM all the time.
    assert_eq!(vms(&json(&nginx)[0], "other", "count"), 1);
    assert_eq!((nginx.running(), nginx.errors()), (vec![worker], Vec::new()));
}

/// A handler that does not catch the error loses its worker: the Lua module ends it then.
#[test]
fn an_error_of_memory_that_nobody_catches_is_the_end_of_one_worker() {
    let _beside = beside();
    let config = Config::new(Modules::First).http("ebbtide_limit_hard 64m;").lua("greedy", GREEDY);
    let nginx = Nginx::start(&config);
    let before = nginx.running();
    nginx.ask("GET", "/greedy", &[]);
    nginx.wait_until("another takes its place", PATIENCE, |nginx| {
        nginx.running().len() == 2 && nginx.running() != before
    });
    assert!(nginx.log().contains("[lua] memory allocation error"), "{}", nginx.log());
    assert_eq!(nginx.running().iter().filter(|worker| before.contains(worker)).count(), 1);
    assert!(nginx.get("/light").starts_with("row 20"));
    nginx.wait_until("the page is right", PATIENCE, |nginx| pids(nginx) == running_pids(nginx));
}

/// The values of the collector that Lua sees.
fn collector(nginx: &Nginx) -> (u32, u32) {
    let answer = nginx.get("/collector");
    let values: Vec<u32> =
        answer.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    (values[0], values[1])
}

#[test]
fn near_the_soft_limit_the_collector_hurries_and_is_as_before_after_it() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .http("ebbtide_limit_soft 64m;")
        .lua(
            "collector",
            "local pause = collectgarbage('setpause', 200)
             local stepmul = collectgarbage('setstepmul', 200)
             collectgarbage('setpause', pause)
             collectgarbage('setstepmul', stepmul)
             ngx.say(pause, ' ', stepmul)",
        )
        .lua("set", "collectgarbage('setpause', tonumber(ngx.var.arg_pause)) ngx.say('set')")
        .lua(
            "hold",
            "package.held = {}
             for i = 1, 700000 do package.held[i] = { i } end
              ngx.say('held')",
        )
        .lua("drop", "package.held = nil collectgarbage() collectgarbage() ngx.say('dropped')");
    let nginx = Nginx::start(&config);
    let pressure = |nginx: &Nginx| number(&json(nginx)[0], "pressure");
    assert_eq!(collector(&nginx), (200, 200));
    for (own, set_meanwhile) in [(200, None), (150, None), (150, Some(170))] {
        nginx.get(&format!("/set?pause={own}"));
        nginx.get("/hold");
        nginx.wait_until("the collector hurries", PATIENCE, |nginx| {
            let (pause, stepmul) = collector(nginx);
            pause < own && stepmul > 200
        });
        assert!(pressure(&nginx) > 50, "pressure {}", pressure(&nginx));
        if let Some(pause) = set_meanwhile {
            nginx.get(&format!("/set?pause={pause}"));
        }
        nginx.get("/drop");
        let expected = (set_meanwhile.unwrap_or(own), 200);
        nginx.wait_until("the collector is as it was", PATIENCE, |nginx| {
            collector(nginx) == expected
        });
        assert!(pressure(&nginx) < 50, "pressure {}", pressure(&nginx));
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

pub fn new_script() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("limits-{}.lua", NEXT.fetch_add(1, Relaxed));
    scratch("nginx").join(name)
}

/// The limits of a VM that attaches itself with these options before `http` is read, and the log.
/// It holds more than half of its limit, and the other VM does not, so the page shows its limits.
pub fn early_limits(options: &str, megabytes: u32, config: impl Fn(Config) -> Config) -> Early {
    let script = new_script();
    let code = format!(
        "assert(require('resty.ebbtide').attach{{ {options} }})
         kept = {{}}
         for i = 1, {megabytes} do kept[i] = string.rep(string.char(i), 2^20) end"
    );
    fs::write(&script, code).expect("it can be written");
    let nginx = Nginx::start(&config(with_early_vm_of(&script).workers(1)));
    let worker = json(&nginx)[0].clone();
    assert_eq!(vms(&worker, "main", "count"), 2);
    let megabytes = |name: &str| number(&worker, name) >> 20;
    assert!(number(&worker, "pressure") > 0, "it may be the other VM: {worker}");
    Early { limits: (megabytes("limit_soft"), megabytes("limit_hard")), log: nginx.log() }
}

pub struct Early {
    /// In MiB: the soft one, and the hard one.
    pub limits: (u64, u64),
    pub log: String,
}

#[test]
fn a_value_that_no_directive_names_stays_in_a_heap_made_before() {
    let _beside = beside();
    let hard = |config: Config| config.http("ebbtide_limit_hard 64m;");
    let variable = |config: Config| hard(config).environment("EBBTIDE_LIMIT_SOFT", "32m");
    for (early, expected) in [
        (early_limits("", 40, variable), (32, 64)),
        (early_limits("limit_soft = 2^24", 40, hard), (16, 64)),
    ] {
        assert_eq!(early.limits, expected, "{}", early.log);
        assert!(!early.log.contains("[warn]"), "{}", early.log);
    }
}

pub const PROGRAM: &str = "set by Lua or a C module";

#[test]
fn a_value_from_lua_that_contradicts_a_directive_is_lowered_with_one_true_warning() {
    let _beside = beside();
    let hard = "which is what \"ebbtide_limit_hard\" comes to";
    for (options, megabytes, http, limits, warning) in [
        (
            "retain = 100 * 2^20",
            40,
            "ebbtide_limit_hard 64m;",
            (0, 64),
            format!("the VM's \"retain\", {PROGRAM}, of 100m is lowered to 64m, {hard}"),
        ),
        (
            "limit_soft = 100 * 2^20, retain = 16 * 2^20",
            40,
            "ebbtide_limit_hard 64m;",
            (64, 64),
            format!("the VM's \"limit_soft\", {PROGRAM}, of 100m is lowered to 64m, {hard}"),
        ),
        (
            "limit_hard = 32 * 2^20",
            20,
            "ebbtide_limit_soft 48m;",
            (32, 32),
            format!(
                "\"ebbtide_limit_soft\" of 48m is lowered to 32m, which is what the VM's \
                 \"limit_hard\", {PROGRAM}, comes to"
            ),
        ),
        (
            "limit_hard = 128 * 2^20, retain = 48 * 2^20",
            40,
            "ebbtide_limit_soft 24m;",
            (24, 128),
            format!(
                "the VM's \"retain\", {PROGRAM}, of 48m is lowered to 24m, which is what \
                 \"ebbtide_limit_soft\" comes to"
            ),
        ),
    ] {
        let early = early_limits(options, megabytes, |config| config.http(http));
        assert_eq!(early.limits, limits, "{}", early.log);
        assert_eq!(early.log.matches("[warn]").count(), 1, "{}", early.log);
        assert!(early.log.contains(&warning), "{}", early.log);
    }
}
