//! Each way by which the VM of nginx comes to a heap, and what the log says of it.

use std::time::Duration;

use ebbtide_ffi_tests::{PREFIX, installed, make, scratch};

use crate::clock::comes_down;
use crate::config::{Config, Modules, modules_path};
use crate::server::{Nginx, alone, beside, module, target};

const LITTER: &str = "/litter?megabytes=40";

/// A worker full of garbage comes down by itself, and serves on.
fn exhales(nginx: &Nginx) {
    let full_kb = nginx.fill(LITTER);
    breathes_out(nginx, full_kb);
}

fn breathes_out(nginx: &Nginx, full_kb: u64) {
    comes_down(nginx, nginx.running()[0], full_kb / 3, "the worker breathes out");
    assert!(nginx.get("/light").starts_with("row 20"));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

fn lines_with(nginx: &Nginx, part: &str) -> Vec<String> {
    nginx.log().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

/// How the log tells of the way, once, at the level notice.
fn is_reported_once(nginx: &Nginx, way: &str) {
    let told = lines_with(nginx, "ebbtide");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("[notice]") && told[0].contains(way), "{told:?}");
}

#[test]
fn it_is_installed_where_nginx_loads_modules_from() {
    let _beside = beside();
    // Built before this, or it would be built twice at once.
    let built = std::fs::read(module()).expect("it is built");
    let root = scratch("installed-nginx");
    make(&["install-nginx"], &root, PREFIX);
    let folder = modules_path().strip_prefix("/").expect("nginx knows the whole path");
    let installed = std::fs::read(root.join(folder).join("ngx_http_ebbtide_module.so"));
    assert!(installed.expect("it is there") == built, "it is another");
}

const COLLECT: &str = "collectgarbage() collectgarbage() ngx.say('collected')";

const STATS: &str = "local s = require('resty.ebbtide').stats()
    ngx.say(s.allocator, ' ', tostring(s.attached))";

#[test]
fn loaded_before_the_lua_module_it_makes_the_vm_on_a_heap() {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(Modules::First).workers(1).lua("stats", STATS));
    is_reported_once(&nginx, "the Lua VM was made on a heap");
    assert_eq!(nginx.get("/stats"), "ebbtide false\n");
    exhales(&nginx);
}

#[test]
fn loaded_after_the_lua_module_it_makes_the_vm_on_a_heap_too() {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(Modules::Last).workers(1).lua("stats", STATS));
    is_reported_once(&nginx, "the Lua VM was made on a heap");
    assert_eq!(nginx.get("/stats"), "ebbtide false\n");
    exhales(&nginx);
    for _ in 0..3 {
        nginx.reload();
        assert_eq!(nginx.get("/stats"), "ebbtide false\n");
    }
    exhales(&nginx);
}

#[test]
fn without_a_lua_module_it_warns_and_nginx_serves() {
    let _beside = beside();
    let mut config = Config::new(Modules::Alone);
    config.server += "location / { return 200 'here'; }\n";
    let nginx = Nginx::start(&config);
    let told = lines_with(&nginx, "ebbtide");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("[warn]") && told[0].contains("there is no Lua VM"), "{told:?}");
    assert_eq!(nginx.get("/"), "here");
    assert!(nginx.get("/status?format=json").contains("\"workers\":["));
    assert!(nginx.get("/status/metrics").contains("ebbtide_vms{"));
    assert_eq!(nginx.ask("POST", "/open/reclaim", &[]).status, 202);
    nginx.reload();
    assert_eq!(nginx.get("/"), "here");
}

#[test]
fn a_lua_module_that_nothing_uses_is_reported_too() {
    let _beside = beside();
    let mut config = Config::new(Modules::First).http("lua_package_path ';;';");
    config.server = "location / { return 200 'here'; }\n".into();
    let nginx = Nginx::start(&config);
    assert_eq!(nginx.get("/"), "here");
    let log = nginx.log();
    assert!(log.contains("there is no Lua VM") || log.contains("was made on a heap"), "{log}");
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

#[test]
fn switched_off_it_leaves_the_vm_alone() {
    let _alone = alone();
    let config = Config::new(Modules::First).workers(1).http("ebbtide off;");
    let nginx = Nginx::start(&config.lua("has", "ngx.say((pcall(require, 'resty.ebbtide')))"));
    assert_eq!(lines_with(&nginx, "ebbtide"), Vec::<String>::new());
    assert_eq!(nginx.get("/has"), "false\n");
    let reply = nginx.ask("GET", "/status?format=json", &[]);
    let reason = "{\"error\":\"there are no figures: ebbtide is off\"}\n";
    assert_eq!((reply.status, reply.body.as_str()), (503, reason));
    let full_kb = nginx.fill(LITTER);
    std::thread::sleep(Duration::from_secs(3));
    let later_kb = nginx.running()[0].pss_anon_kb();
    assert!(later_kb > full_kb * 9 / 10, "{full_kb}, then {later_kb} KB");
}

#[test]
fn the_preload_library_does_it_in_stock_nginx() {
    let _alone = alone();
    let library = target().join("release/libebbtide_preload.so");
    let config = Config::new(Modules::Stock).workers(1).environment("LD_PRELOAD", library);
    let nginx = Nginx::start(&config.lua("collect", COLLECT));
    for _ in 0..2 {
        let full_kb = nginx.fill(LITTER);
        // It returns what is free. Garbage is Lua's to find.
        nginx.get("/collect");
        breathes_out(&nginx, full_kb);
        nginx.reload();
    }
}

#[test]
fn plain_require_reclaims_in_place_in_stock_nginx() {
    let _alone = alone();
    let lua = installed().lib().join("../share/lua/5.1/?.lua");
    let c = installed().lib().join("lua/5.1/?.so");
    let ours = crate::config::material().join("?.lua");
    let path = format!("{};{};/usr/share/lua/5.1/?.lua", ours.display(), lua.display());
    let config = Config::new(Modules::Stock)
        .workers(1)
        .http(&format!("lua_package_path '{path}'; lua_package_cpath '{};;';", c.display()))
        .lua("collect", COLLECT)
        .lua("reclaim", "ngx.say(require('resty.ebbtide').reclaim().returned > 0)")
        .lua("allocator", "ngx.say(require('ebbtide').stats().allocator)");
    let nginx = Nginx::start(&config);
    let full_kb = nginx.fill(LITTER);
    assert_eq!(nginx.get("/allocator"), "builtin\n");
    nginx.get("/collect");
    let held_kb = nginx.running()[0].pss_anon_kb();
    assert!(held_kb > full_kb * 2 / 3, "it came down from {full_kb} to {held_kb} KB without");
    assert_eq!(nginx.get("/reclaim"), "true\n");
    let now_kb = nginx.running()[0].pss_anon_kb();
    assert!(now_kb < full_kb / 3, "{full_kb}, then {now_kb} KB");
    assert!(nginx.get("/light").starts_with("row 20"));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
