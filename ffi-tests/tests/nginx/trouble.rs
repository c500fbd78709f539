//! What an operator must see without looking for it: VMs that thrash at a limit, allocations that are
//! refused, and workers that died.

use std::time::Duration;

use crate::browser::Browser;
use crate::config::{Config, Modules};
use crate::limits::{GREEDY, new_script};
use crate::processes::with_early_vm_of;
use crate::server::{Nginx, alone, beside};
use crate::status::{json, number, pids, running_pids, vms};
use crate::workers::kill;

ebbtide_ffi_tests::long! {
    a_used_up_address_space_is_reported
    thrashing_at_a_limit_is_seen
    a_kernel_that_takes_nothing_back_is_reported
}

const PATIENCE: Duration = Duration::from_secs(20);
const DAY: u32 = 24 * 60 * 60;
const BEGINS: &str = "[warn]";
const ENDS: &str = "no Lua VM is thrashing any more";
const WORDS: &str = "is thrashing at its limit of 32m";

/// The value of a metric, of all that its lines say.
fn total(nginx: &Nginx, metric: &str) -> u64 {
    let metrics = nginx.get("/status/metrics");
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    let values = lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()));
    values.map(|value: Option<u64>| value.unwrap_or_else(|| panic!("{metrics}"))).sum()
}

fn lines(nginx: &Nginx, part: &str) -> usize {
    nginx.log().lines().filter(|line| line.contains(part)).count()
}

/// When a line of the log was written, in seconds of its day.
fn seconds(line: &str) -> u32 {
    let time = line.split(' ').nth(1).expect("a date, and a time");
    time.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u32>().expect("a number"))
}

/// Whether lines with this come at least a minute apart, by clocks that round to a second.
fn rare(nginx: &Nginx, part: &str) -> bool {
    let log = nginx.log();
    let times: Vec<u32> = log.lines().filter(|line| line.contains(part)).map(seconds).collect();
    times.windows(2).all(|two| (two[1] + DAY - two[0]) % DAY >= 59)
}

/// What Lua holds leaves no room for what comes and goes ten times a second.
const CHURN: &str = "init_worker_by_lua_block {
    local held = {}
    for i = 1, 24 do held[i] = ('x'):rep(2 ^ 20, tostring(i):sub(1, 0)) .. i end
    package.churn = false
    ngx.timer.every(0.1, function()
        if package.churn then
            local rows = {}
            for i = 1, 12 do rows[i] = ('y'):rep(2 ^ 20) .. i end
            rows = nil
            collectgarbage()
            collectgarbage()
        end
        package.held = held
    end)
}";

fn thrashing_at_a_limit_is_seen() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .http("ebbtide_limit_soft 32m;")
        .http(CHURN)
        .lua("begin", "package.churn = true ngx.say('begun')")
        .lua("end", "package.churn = false ngx.say('ended')")
        .lua(
            "seen",
            "local worker = require('resty.ebbtide').stats('all')[1]
             ngx.say(worker.thrashing_vms)",
        );
    let nginx = Nginx::start(&config);
    let thrashes = |nginx: &Nginx| number(&json(nginx)[0], "thrashing_vms") == 1;
    let all_say = |nginx: &Nginx, count: u64| {
        thrashes(nginx) == (count == 1)
            && nginx.get("/seen").trim() == count.to_string()
            && total(nginx, "ebbtide_thrashing_vms") == count
    };
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    let told = "Thrashing: what Lua needs does not fit below the limit.";
    browser.wait_until("the worker is there", PATIENCE, |text| text.contains("worker 0 pid"));
    assert!(!browser.text().contains(told) && all_say(&nginx, 0));

    nginx.get("/begin");
    nginx.wait_until("it thrashes", PATIENCE, |nginx| all_say(nginx, 1));
    nginx.wait_until("the log says so", PATIENCE, |nginx| lines(nginx, WORDS) >= 1);
    let log = nginx.log();
    let line = log.lines().find(|line| line.contains(WORDS)).expect("it was there");
    assert!(line.contains(BEGINS) && line.contains("raise the limit"), "{line}");
    browser.wait_until("the page says so", PATIENCE, |text| text.contains(told));

    nginx.get("/end");
    nginx.wait_until("it ends, and the log says so", PATIENCE, |nginx| lines(nginx, ENDS) >= 1);
    nginx.wait_until("all say so", PATIENCE, |nginx| all_say(nginx, 0));
    browser.wait_until("the page says so", PATIENCE, |text| !text.contains(told));

    // Within a minute the log says nothing more of it.
    nginx.get("/begin");
    nginx.wait_until("it thrashes", PATIENCE, thrashes);
    std::thread::sleep(Duration::from_secs(2));
    assert!(rare(&nginx, WORDS), "{}", nginx.log());
    assert_eq!(browser.complaints(), [""; 0]);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn refused_allocations_are_counted() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .http("ebbtide_limit_hard 64m;")
        .lua("greedy", &format!("ngx.say(pcall(function() {GREEDY} end))"))
        .lua("seen", "ngx.say(require('resty.ebbtide').stats('all')[1].refused_allocations)");
    let nginx = Nginx::start(&config);
    let counted = |nginx: &Nginx| number(&json(nginx)[0], "refused_allocations");
    assert_eq!(counted(&nginx), 0);
    let mut before = 0;
    for _ in 0..3 {
        assert_eq!(nginx.get("/greedy"), "falsenot enough memory\n");
        // What collects near the limit may be refused something too.
        nginx.wait_until("its garbage is collected", PATIENCE, |nginx| {
            vms(&json(nginx)[0], "main", "live") < 16 << 20
        });
        let now = counted(&nginx);
        assert!(now > before, "{before}, then {now}");
        assert_eq!(nginx.get("/seen").trim(), now.to_string());
        assert_eq!(total(&nginx, "ebbtide_refused_allocations_total"), now);
        before = now;
    }
}

/// A worker in 1 GiB of address space lives, as it does without ebbtide, and says what it lacks.
fn a_used_up_address_space_is_reported() {
    let _alone = alone();
    let rows = "local rows, count = {}, 0
        local ok, why = pcall(function()
            for i = 1, 1e9 do rows[i] = { i } count = i end
        end)
        rows = nil
        ngx.say(count, ' ', why)";
    let counted = |modules| {
        let mut config = Config::new(modules).workers(1).lua("rows", rows);
        let limit = "ulimit -v 1048576 && exec \"$0\" \"$@\"";
        config.launcher = ["sh", "-c", limit].map(Into::into).into();
        let nginx = Nginx::start(&config);
        let said = nginx.get("/rows");
        let (count, why) = said.trim().split_once(' ').expect("a number and a reason");
        assert_eq!(why, "not enough memory");
        (nginx, count.parse::<u64>().expect("a number"))
    };
    let (stock, without) = counted(Modules::Stock);
    drop(stock);
    let (nginx, with) = counted(Modules::First);
    assert!(with >= without, "{with} rows, {without} without ebbtide");
    let told = "a Lua VM was refused memory, for the address space that RLIMIT_AS allows";
    nginx.wait_until("the log says so", PATIENCE, |nginx| lines(nginx, told) == 1);
    assert!(nginx.log().lines().any(|line| line.contains("[warn]") && line.contains(told)));
    // The idle worker collects, and its address space goes back with its memory.
    let pid = nginx.workers()[0].pid;
    let mapped = |_: &Nginx| {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
        let pages = statm.split(' ').next().and_then(|pages| pages.parse().ok());
        pages.unwrap_or(u64::MAX) * 4096
    };
    nginx.wait_until("it is back", PATIENCE, |nginx| mapped(nginx) < 512 << 20);
    let worker = &json(&nginx)[0];
    assert!(number(worker, "refused_address_space") > 0);
    assert!(total(&nginx, "ebbtide_refused_address_space_total") > 0);
    let reserved = vms(worker, "main", "reserved");
    assert!((100 << 10..512 << 20).contains(&reserved), "{reserved}");
    assert!(total(&nginx, "ebbtide_reserved_bytes") < 512 << 20);
    nginx.get("/rows");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(lines(&nginx, told), 1, "{}", nginx.log());
}

/// Locked memory is what the kernel takes nothing of.
fn a_kernel_that_takes_nothing_back_is_reported() {
    let _alone = alone();
    let lock = "local ffi = require('ffi')
        ffi.cdef('int mlockall(int flags);')
        ngx.say(ffi.C.mlockall(1))";
    let config = Config::new(Modules::First).workers(1).lua("lock", lock);
    let nginx = Nginx::start(&config);
    assert_eq!(number(&json(&nginx)[0], "purge_errno"), 0);
    if nginx.get("/lock").trim() != "0" {
        println!("not tried: this process may not lock memory");
        return;
    }
    nginx.get("/litter?megabytes=20&clean=1");
    let told = "the kernel takes no memory back from a Lua VM";
    nginx.wait_until("the log says so", PATIENCE, |nginx| lines(nginx, told) == 1);
    assert!(nginx.log().lines().any(|line| line.contains("[warn]") && line.contains(told)));
    assert!(number(&json(&nginx)[0], "purge_errno") > 0);
    assert!(total(&nginx, "ebbtide_purge_errno") > 0);
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    browser.wait_until("the page says so", PATIENCE, |text| {
        text.contains("The kernel takes no memory back")
    });
    nginx.get("/litter?megabytes=20&clean=1");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lines(&nginx, told), 1, "{}", nginx.log());
}

/// Damages the records of the allocator that a VM had before `attach()`, where LuaJIT never reads
/// them: at the end of the newest segment. The allocator's state is at the start of the oldest one,
/// 16 bytes behind a page, and what the VM began with lies in it.
const DAMAGE: &str = "require('resty.ebbtide').attach()
    local ffi = require('ffi')
    local page = tonumber(string.format('%p', package.loaded):sub(3), 16)
    page = page - page % 4096
    local words
    for _ = 1, 1000 do
        words = ffi.cast('size_t *', page + 16)
        local base, size, top = tonumber(words[105]), tonumber(words[106]), tonumber(words[4])
        if base > 0 and base % 4096 == 0 and size > 0 and size % 65536 == 0
           and top > base and top < base + size then
            ffi.cast('size_t *', base + size - 64 + 8)[0] = 0
            return
        end
        page = page - 4096
    end
    error('no state')";

/// Everywhere: the page, JSON, metrics, Lua, and the log of each worker once.
#[test]
fn damage_of_the_previous_allocator_is_reported() {
    let _alone = alone();
    let script = new_script();
    std::fs::write(&script, DAMAGE).expect("it can be written");
    let seen = "ngx.say(require('resty.ebbtide').stats('all')[1].previous_damaged_vms)";
    let told = "records of LuaJIT's own allocator, which a Lua VM had before its heap, are overw";
    for (config, count) in [
        (Config::new(Modules::First).workers(1).lua("seen", seen), 0),
        (with_early_vm_of(&script).workers(1).lua("seen", seen), 1),
    ] {
        let nginx = Nginx::start(&config);
        let metric = "ebbtide_previous_damaged_vms";
        nginx.wait_until("all say so", PATIENCE, |nginx| {
            number(&json(nginx)[0], "previous_damaged_vms") == count
                && nginx.get("/seen").trim() == count.to_string()
                && total(nginx, metric) == count
        });
        nginx.wait_until("the log says so", PATIENCE, |nginx| lines(nginx, told) as u64 == count);
        let log = nginx.log();
        assert!(log.lines().all(|line| line.contains("[warn]") || !line.contains(told)), "{log}");
        let note = "Records of LuaJIT's own allocator, which a VM had before its heap";
        let mut browser = Browser::start();
        browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
        browser.wait_until("the page says so", PATIENCE, |text| {
            text.contains("worker 0 pid") && text.contains(note) == (count == 1)
        });
        // More of it, and no more lines.
        assert_eq!(nginx.ask("POST", "/open/reclaim", &[]).status, 202);
        nginx.get("/litter?megabytes=20&clean=1");
        nginx.wait_until("garbage is returned", PATIENCE, |nginx| {
            json(nginx)[0]["phase"] == "settled"
        });
        assert_eq!(lines(&nginx, told) as u64, count, "{}", nginx.log());
        assert_eq!(nginx.errors(), Vec::<String>::new());
    }
}

#[test]
fn workers_that_died_are_counted() {
    let _beside = beside();
    let config =
        Config::new(Modules::First).http("ebbtide_limit_hard 64m;").lua("greedy", GREEDY).lua(
            "seen",
            "local sum = 0
             for _, worker in ipairs(require('resty.ebbtide').stats('all')) do
                 sum = sum + worker.restarts
             end
             ngx.say(sum)",
        );
    let nginx = Nginx::start(&config);
    let restarts = |nginx: &Nginx| -> u64 {
        json(nginx).iter().map(|worker| number(worker, "restarts")).sum()
    };
    let expect = |deaths: u64| {
        nginx.wait_until("the page is right", PATIENCE, |nginx| {
            pids(nginx) == running_pids(nginx)
                && nginx.running().len() == 2
                && restarts(nginx) == deaths
        });
        assert_eq!(nginx.get("/seen").trim(), deaths.to_string());
        assert_eq!(total(&nginx, "ebbtide_worker_restarts_total"), deaths);
    };
    expect(0);
    for deaths in 1..=3 {
        let before = nginx.running();
        if deaths == 2 {
            // Nobody catches the error of memory, and the worker ends as if it was told to.
            nginx.ask("GET", "/greedy", &[]);
        } else {
            kill("KILL", before[0].pid);
        }
        nginx.wait_until("another takes its place", PATIENCE, |nginx| {
            nginx.running().len() == 2 && nginx.running() != before
        });
        expect(deaths);
    }
    // The workers of another configuration are no restarts, and take over the counts.
    nginx.reload();
    nginx.wait_until("the old ones are gone", PATIENCE, |nginx| nginx.workers().len() == 2);
    expect(3);
    let metrics = nginx.get("/status/metrics");
    for number in ["0", "1"] {
        let line = format!("ebbtide_worker_restarts_total{{worker=\"{number}\"}} ");
        assert_eq!(metrics.matches(&line).count(), 1, "{metrics}");
    }
    let mut browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/status", nginx.port));
    browser.wait_until("the page says so", PATIENCE, |text| text.contains("Restarts\n"));
}
