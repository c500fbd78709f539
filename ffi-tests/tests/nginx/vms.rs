//! The VMs beside the main one: of threads, of single requests; and workers that run timers alone.

use std::thread;
use std::time::Duration;

use crate::config::{Config, Modules};
use crate::server::{Nginx, alone, beside};
use crate::status::{json, vms};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn vms_of_worker_threads_have_heaps_and_compute_what_is_right() {
    let _beside = beside();
    let config = Config::new(Modules::First)
        .top("thread_pool pool threads=4;")
        .http("ebbtide_decay 0; ebbtide_idle 10ms;")
        .lua(
            "sum",
            "local seed = tonumber(ngx.var.arg_seed)
         local ok, total, text = ngx.run_worker_thread('pool', 'thread_work', 'sum', seed)
         ngx.say(tostring(ok), ' ', total, ' ', text)",
        );
    let nginx = Nginx::start(&config);
    thread::scope(|scope| {
        for thread in 0..6_u64 {
            let nginx = &nginx;
            scope.spawn(move || {
                for i in 0..60 {
                    let seed = thread * 1000 + i;
                    let total = 3000 * seed + 3000 * 3001 / 2;
                    let answer = nginx.get(&format!("/sum?seed={seed}"));
                    assert_eq!(answer, format!("true {total} {seed}.3000\n"));
                }
            });
        }
    });
    let others: Vec<u64> =
        json(&nginx).iter().map(|worker| vms(worker, "other", "count")).collect();
    assert!(others.iter().sum::<u64>() >= 1, "VMs of threads: {others:?}");
    for worker in json(&nginx) {
        assert_eq!(vms(&worker, "main", "count"), 1);
        assert_eq!(vms(&worker, "other", "live") > 0, vms(&worker, "other", "count") > 0);
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// The event loop returns their memory and reads their figures while threads work in their VMs.
#[test]
fn vms_of_worker_threads_and_the_event_loop_do_not_meet_in_a_heap() {
    let _alone = alone();
    let config = Config::new(Modules::First)
        .workers(1)
        .top("thread_pool pool threads=4;")
        .http("ebbtide_decay 0; ebbtide_idle 10ms;")
        .lua(
            "churn",
            "local ok, total = ngx.run_worker_thread('pool', 'thread_work', 'churn', 6)
             ngx.say(tostring(ok), ' ', total)",
        );
    let nginx = Nginx::start(&config);
    let worker = nginx.running()[0];
    let expected = format!("true {}\n", 6_u64 * 20_000 * 20_001 / 2);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..4).for_each(|_| assert_eq!(nginx.get("/churn"), expected))))
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            assert_eq!(json(&nginx).len(), 1);
        }
    });
    assert_eq!((nginx.running(), nginx.errors()), (vec![worker], Vec::new()));
}

#[test]
fn a_vm_for_each_request_leaves_nothing_behind() {
    let _beside = beside();
    let config = Config::new(Modules::First).workers(1).http("lua_code_cache off;").lua(
        "stats",
        "local ebbtide = require('resty.ebbtide')
         local rows = {}
         for i = 1, 1000 do rows[i] = { i } end
         local stats = ebbtide.stats()
         assert(ebbtide.reclaim().live > 0)
         ngx.say(stats.allocator, ' ', stats.live > 100000, ' ', #ebbtide.stats('all'))",
    );
    let nginx = Nginx::start(&config);
    let worker = nginx.running()[0];
    let ask = |times: u32| {
        for _ in 0..times {
            assert_eq!(nginx.get("/stats"), "ebbtide true 1\n");
            assert!(nginx.get("/light").starts_with("row 20"));
        }
    };
    ask(60);
    let (mappings, held_kb) = (worker.mappings(), worker.pss_anon_kb());
    ask(60);
    assert_eq!(vms(&json(&nginx)[0], "other", "count"), 0);
    let (mappings_now, now_kb) = (worker.mappings(), worker.pss_anon_kb());
    assert!(mappings_now <= mappings + 4, "{mappings} mappings, then {mappings_now}");
    assert!(now_kb <= held_kb + 1024, "{held_kb}, then {now_kb} KB");
    // While they run they are counted.
    thread::scope(|scope| {
        let held = scope.spawn(|| nginx.get("/wait"));
        nginx.wait_until("the VM is counted", PATIENCE, |nginx| {
            vms(&json(nginx)[0], "other", "count") == 1
        });
        nginx.release();
        assert!(held.join().expect("it is answered").starts_with("row 1.360"));
    });
    assert_eq!(nginx.running(), [worker]);
    // That the cache is off is told as an alert, once for each reading of the configuration.
    let errors = nginx.errors();
    assert!(errors.iter().all(|line| line.contains("lua_code_cache is off")), "{errors:?}");
}

/// A worker with no request, whose timers fill memory once, and then go on with `then` at times.
fn breathes_with_timers(every_seconds: f64, then: &str) {
    let timers = format!(
        "init_worker_by_lua_block {{
             local full, kept = false, {{}}
             ngx.timer.every({every_seconds}, function()
                 if not full then
                     full = true
                     for i = 1, 400000 do kept[i % 100000] = {{ i, tostring(i) }} end
                     kept = {{}}
                 end
                 {then}
             end)
         }}"
    );
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1).http(&timers));
    let worker = nginx.running()[0];
    nginx.wait_until("timers fill memory", PATIENCE, |_| worker.pss_anon_kb() > 25_000);
    nginx.wait_until("the worker breathes out", PATIENCE, |_| worker.pss_anon_kb() < 12_000);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn a_worker_that_only_runs_a_timer_now_and_then_breathes() {
    let _alone = alone();
    breathes_with_timers(2.0, "local rows = {} for i = 1, 100 do rows[i] = { i } end");
}

#[test]
fn a_worker_that_runs_small_timers_all_the_time_breathes() {
    let _alone = alone();
    breathes_with_timers(0.1, "local rows = {} for i = 1, 20 do rows[i] = { i } end");
}
