//! `require "resty.ebbtide"` in nginx, with nothing of ebbtide's in `package.path`.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{Config, Modules};
use crate::server::{Nginx, alone, beside};
use crate::status::{litter, running_pids};

const NOT_INSTALLED: &str = "assert(not package.searchpath('ebbtide', package.path))
    assert(not package.searchpath('resty.ebbtide', package.path))
    assert(not package.searchpath('ebbtide', package.cpath))
    local ebbtide = require 'resty.ebbtide'\n";

/// Two workers, and locations that run these.
fn server(http: &str, codes: &[(&str, &str)]) -> Nginx {
    let mut config = Config::new(Modules::First).http(http);
    for (name, code) in codes {
        config = config.lua(name, &format!("{NOT_INSTALLED}{code}"));
    }
    Nginx::start(&config)
}

#[test]
fn it_is_the_module_of_the_same_library() {
    let _beside = beside();
    let code = "local plain = require 'ebbtide'
        assert(ebbtide._VERSION == plain._VERSION)
        for name, value in pairs(plain) do assert(type(ebbtide[name]) == type(value), name) end
        local kept = {}
        for i = 1, 20000 do kept[i] = { i } end
        local stats = ebbtide.stats()
        assert(stats.allocator == 'ebbtide' and stats.attached == false)
        assert(stats.live > 20000 * 40 and stats.live <= collectgarbage('count') * 1024 * 1.2)
        assert(plain.stats().live >= stats.live)
        local report = ebbtide.reclaim { collect = true }
        assert(report.collected and report.live > 0 and type(report.returned) == 'number')
        assert(type(ebbtide.report()) == 'string')
        ngx.say('fine')";
    let wrong = "for _, call in ipairs {
            function() ebbtide.reclaim('some') end,
            function() ebbtide.reclaim { banana = 1 } end,
            function() ebbtide.reclaim(7) end,
        } do
            local fine, reason = pcall(call)
            assert(not fine and reason:find 'bad argument', reason)
        end
        ngx.say('fine')";
    let nginx = server("", &[("code", code), ("wrong", wrong)]);
    for _ in 0..5 {
        assert_eq!(nginx.get("/code"), "fine\n");
        assert_eq!(nginx.get("/wrong"), "fine\n");
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn it_knows_all_workers() {
    let _alone = alone();
    let stats = "for _, worker in ipairs(ebbtide.stats 'all') do
            assert(worker.live > 0 and worker.resident > 0 and worker.process_resident > 0)
            assert(worker.worker == 0 or worker.worker == 1)
            for _, name in ipairs { 'age_ms', 'free_resident', 'returned', 'pressure',
                                    'limit_soft', 'limit_hard' } do
                assert(worker[name] >= 0, name)
            end
            ngx.say(worker.pid)
        end";
    let reclaim = "ngx.say(ebbtide.reclaim 'all')";
    let nginx = server("ebbtide_idle 1h;", &[("stats", stats), ("reclaim", reclaim)]);
    let said = nginx.get("/stats");
    let pids: BTreeSet<u32> = said.lines().map(|pid| pid.parse().expect("a number")).collect();
    assert_eq!(pids, running_pids(&nginx));
    litter(&nginx);
    assert_eq!(nginx.get("/reclaim"), "2\n");
    nginx.wait_until("all reclaim", Duration::from_secs(20), |nginx| {
        nginx.running().iter().all(|worker| worker.pss_anon_kb() < 15_000)
    });
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn without_a_zone_it_knows_of_this_worker_alone() {
    let _beside = beside();
    let code = "assert(ebbtide.stats().live > 0 and ebbtide.reclaim().live > 0)
        for _, name in ipairs { 'stats', 'reclaim' } do
            local none, reason = ebbtide[name] 'all'
            assert(none == nil and reason:find 'ebbtide_zone is off', reason)
        end
        ngx.say('fine')";
    let nginx = server("ebbtide_zone off;", &[("code", code)]);
    assert_eq!(nginx.get("/code"), "fine\n");
    let reason = "there are no figures: ebbtide_zone is off";
    for (method, path) in [("GET", "/status?format=json"), ("POST", "/open/reclaim")] {
        let reply = nginx.ask(method, path, &[]);
        let expected = format!("{{\"error\":\"{reason}\"}}\n");
        assert_eq!((reply.status, reply.body), (503, expected), "{method} {path}");
    }
    for path in ["/status", "/status/metrics"] {
        let reply = nginx.ask("GET", path, &[]);
        assert_eq!((reply.status, reply.body), (503, format!("ebbtide: {reason}\n")), "{path}");
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
