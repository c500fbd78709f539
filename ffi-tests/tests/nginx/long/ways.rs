//! Each way to bring the module into an nginx: in each every kind of process lives, and every VM
//! has a heap, is on the page and breathes.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::builds::{Build, WAYS, stream_block};
use crate::clock::comes_down;
use crate::config::{Config, Modules};
use crate::load::Load;
use crate::ports::free_port;
use crate::server::{Nginx, alone, beside};
use crate::status::{json, vms};
use crate::workers::{children_of, kill, title};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(way: (Build, Modules)) -> Config {
    Config::new(way.1).on(way.0)
}

/// The processes of a master that have this in their titles.
fn processes(nginx: &Nginx, kind: &str) -> BTreeSet<u32> {
    let all = nginx.pid().into_iter().flat_map(children_of);
    all.filter(|pid| title(*pid).contains(kind)).collect()
}

fn nobody_died(nginx: &Nginx) {
    assert!(!nginx.log().contains("exited on signal"), "{}", nginx.log());
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// Each way in a thread: for servers that are not measured, and may share the machine.
fn at_once(test: impl Fn((Build, Modules)) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for way in WAYS {
            scope.spawn(move || test(way));
        }
    });
}

/// The Lua module closes its VM in the processes that look after a cache, whether it was made on a
/// heap or changed over to one.
fn helpers_and_workers_live(way: (Build, Modules)) {
    let cache = "proxy_cache_path cache keys_zone=cache:1m loader_sleep=200ms;";
    let agent = "init_by_lua_block { assert(require('ngx.process').enable_privileged_agent(64)) }";
    // Debian's nginx has no such process.
    let agents = usize::from(way.0 != Build::Debian);
    let nginx = Nginx::start(&config(way).http(cache).http(["", agent][agents]));
    nginx.wait_until("the helpers run", PATIENCE, |nginx| {
        processes(nginx, "cache manager").len() == 1
            && processes(nginx, "privileged agent").len() == agents
    });
    let all = |nginx: &Nginx| {
        let helpers = ["cache manager", "privileged agent"].map(|kind| processes(nginx, kind));
        (helpers, nginx.running())
    };
    let before = all(&nginx);
    let outcome = Load::start(&nginx, "/light", 20, 3, true).finish();
    assert!(outcome.is_clean(), "{way:?}: {}", outcome.said);
    assert_eq!(all(&nginx), before, "{way:?}");

    let load = Load::start(&nginx, "/light", 20, 3, true);
    for _ in 0..3 {
        nginx.reload();
    }
    assert!(load.finish().is_clean());
    // A new program takes over while the old one serves on.
    let old = nginx.pid().expect("it runs");
    let load = Load::start(&nginx, "/light", 20, 3, true);
    kill("USR2", old);
    nginx.wait_until("the new program runs", PATIENCE, |nginx| {
        nginx.pid().is_some_and(|pid| pid != old) && nginx.running().len() == 2
    });
    kill("QUIT", old);
    assert!(load.finish().is_clean());
    nginx.wait_until("its helper runs", PATIENCE, |nginx| {
        processes(nginx, "cache manager").len() == 1
    });
    nobody_died(&nginx);
}

#[test]
#[ignore = "a minute: make test-long"]
fn every_kind_of_process_lives_under_load() {
    let _beside = beside();
    at_once(helpers_and_workers_live);
}

#[test]
#[ignore = "a minute: make test-long"]
fn a_single_process_lives_under_load() {
    let _beside = beside();
    at_once(|way| {
        let nginx = Nginx::start(&config(way).workers(0).top("master_process off;"));
        let outcome = Load::start(&nginx, "/light", 20, 2, true).finish();
        assert!(outcome.is_clean(), "{way:?}: {}", outcome.said);
        assert_eq!(json(&nginx).len(), 1, "{way:?}");
        nobody_died(&nginx);
    });
}

const LITTER: &str = "/litter?megabytes=40&clean=1";

/// The only worker comes down after it has held this much.
fn breathes_out(nginx: &Nginx, full_kb: u64, what: &str) {
    let worker = nginx.running()[0];
    comes_down(nginx, worker, full_kb / 3, what);
    nobody_died(nginx);
}

#[test]
#[ignore = "a minute: make test-long"]
fn the_vms_of_threads_are_on_the_page_and_breathe() {
    let _alone = alone();
    for way in WAYS {
        let config = config(way).workers(1).top("thread_pool pool threads=4;").lua(
            "fill",
            "local ok, total = ngx.run_worker_thread('pool', 'thread_work', 'fill', 40)
             ngx.say(tostring(ok), ' ', total)",
        );
        let nginx = Nginx::start(&config);
        let fill = || assert!(nginx.get("/fill").starts_with("true "), "{way:?}");
        let full_kb = nginx.running()[0].filled_kb(30_000, || {
            thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(fill))));
        });
        assert!(vms(&json(&nginx)[0], "other", "count") >= 1, "{way:?}");
        breathes_out(&nginx, full_kb, &format!("{way:?}: VMs of threads breathe out"));
    }
}

#[test]
#[ignore = "a minute: make test-long"]
fn the_vms_of_requests_are_on_the_page_and_go() {
    let _alone = alone();
    for way in WAYS {
        let nginx = Nginx::start(&config(way).workers(1).http("lua_code_cache off;"));
        let worker = nginx.running()[0];
        let full_kb = thread::scope(|scope| {
            let requests: Vec<_> = (0..40).map(|_| scope.spawn(|| nginx.get("/wait"))).collect();
            nginx.wait_until("the VMs are counted", PATIENCE, |nginx| {
                vms(&json(nginx)[0], "other", "count") == 40
            });
            let full_kb = worker.pss_anon_kb();
            nginx.release();
            for request in requests {
                assert!(request.join().expect("it is answered").starts_with("row 1.360"));
            }
            full_kb
        });
        assert!(full_kb > 12_000, "{way:?}: {full_kb} KB are no load");
        nginx.wait_until("they are gone", PATIENCE, |nginx| {
            worker.pss_anon_kb() < full_kb / 2 && vms(&json(nginx)[0], "other", "count") == 0
        });
        assert!(!nginx.log().contains("exited on signal"), "{}", nginx.log());
    }
}

const GARBAGE: &str =
    "for i = 1, 400000 do kept = kept or {} kept[i % 100000] = { i, tostring(i) } end
    kept = nil return collectgarbage([[count]])";

/// Where the `stream` block stands makes no difference.
#[test]
#[ignore = "a minute: make test-long"]
fn the_vm_of_a_stream_is_on_the_page_and_breathes() {
    let _alone = alone();
    for build in [Build::CompiledIn, Build::Static] {
        for before_http in [true, false] {
            let port = free_port();
            let config = config((build, Modules::Last)).workers(1);
            let config = match before_http {
                true => config.top(&stream_block(port, GARBAGE)),
                false => config.bottom(&stream_block(port, GARBAGE)),
            };
            let nginx = Nginx::start(&config);
            assert_eq!(vms(&json(&nginx)[0], "main", "count"), 2, "{build:?}");
            let before_kb = nginx.running()[0].pss_anon_kb();
            let full_kb =
                nginx.running()[0].filled_kb(before_kb + 10_000, || drop(nginx.stream(port)));
            let below_kb = before_kb + (full_kb - before_kb) / 3;
            comes_down(&nginx, nginx.running()[0], below_kb, "the VM of the stream breathes out");
            nobody_died(&nginx);
        }
    }
}

/// Where no call can be hooked the log says what keeps LuaJIT's allocator; the others breathe.
#[test]
#[ignore = "a minute: make test-long"]
fn a_program_with_luajit_inside_reports_which_vms_have_heaps() {
    let _alone = alone();
    let port = free_port();
    let config = config((Build::LuaInside, Modules::Last)).workers(1);
    let nginx = Nginx::start(&config.bottom(&stream_block(port, GARBAGE)));
    let log = nginx.log();
    assert!(log.contains("was changed over to a heap; VMs of worker threads"), "{log}");
    assert!(log.contains("for LuaJIT is part of the program"), "{log}");
    let worker = &json(&nginx)[0];
    assert_eq!(vms(worker, "main", "count"), 2);
    // What they had before lies on LuaJIT's allocator still, and is resident as well as live.
    let held = |name: &str| vms(worker, "main", name);
    assert!(held("live") > 100_000, "{worker}");
    assert!(held("live") + held("waste") <= held("resident"), "{worker}");
    assert!(held("resident") <= held("committed"), "{worker}");
    nginx.stream(port);
    breathes_out(&nginx, nginx.fill(LITTER), "both VMs breathe out");
}

/// The VM is there with its heap before the module sees it. What no directive names stays.
#[test]
#[ignore = "builds nginx: make test-long"]
fn a_program_with_luajit_inside_keeps_limits_that_no_directive_names() {
    let _beside = beside();
    let get = "local get = require('resty.ebbtide').get
        local mb = 2^20
        ngx.say(get('retain') / mb, ' ', get('limit_soft') / mb, ' ', get('limit_hard') / mb)";
    for (attach, variable, warnings, expected) in [
        ("", Some("32m"), 0, "0 32 64\n"),
        ("limit_soft = 2^24", None, 0, "0 16 64\n"),
        ("retain = 100 * 2^20", None, 1, "64 0 64\n"),
        ("retain = 100 * 2^20, limit_soft = 100 * 2^20", None, 2, "64 64 64\n"),
        ("limit_hard = 128 * 2^20, retain = 2^20", None, 0, "1 0 64\n"),
    ] {
        let mut config = config((Build::LuaInside, Modules::Last)).workers(1).lua("get", get);
        config = config.http("ebbtide_limit_hard 64m;");
        if let Some(value) = variable {
            config = config.environment("EBBTIDE_LIMIT_SOFT", value);
        }
        if !attach.is_empty() {
            config = config.http(&format!(
                "init_by_lua_block {{ assert(require('resty.ebbtide').attach{{ {attach} }}) }}"
            ));
        }
        let nginx = Nginx::start(&config);
        assert_eq!(nginx.get("/get"), expected, "{attach}: {}", nginx.log());
        assert_eq!(nginx.log().matches("[warn]").count(), warnings, "{}", nginx.log());
    }
}

/// A reload without the module: VMs are LuaJIT's own again; and with it once more.
#[test]
#[ignore = "a minute: make test-long"]
fn a_reload_without_the_module_ends_it_and_one_with_it_begins_anew() {
    let _alone = alone();
    let is_on_a_heap = "local ok, allocator = pcall(require, 'resty.ebbtide')
        ngx.say(tostring(ok and allocator.stats().allocator))";
    for (build, modules) in &WAYS[..3] {
        let with = Config::new(*modules).on(*build).workers(1).lua("heap", is_on_a_heap);
        let without = Config::new(Modules::Stock).on(*build).workers(1).lua("heap", is_on_a_heap);
        let nginx = Nginx::start(&with);
        assert_eq!(nginx.get("/heap"), "ebbtide\n");
        for _ in 0..2 {
            nginx.write_config(&without);
            nginx.reload();
            assert_eq!(nginx.get("/heap"), "false\n");
            nginx.get("/litter?megabytes=20");
            nginx.write_config(&with);
            nginx.reload();
            assert_eq!(nginx.get("/heap"), "ebbtide\n");
            breathes_out(&nginx, nginx.fill(LITTER), "the worker breathes out");
        }
    }
}
