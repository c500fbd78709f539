//! What takes minutes, on each build of nginx and in each order of its modules. `make test` ignores
//! these tests, `make test-long` runs them.

mod cache;
mod copies;
mod ways;

use std::time::Duration;

use ebbtide_ffi_tests::installed;

use crate::builds::{Build, WAYS, linked_luajit, stream_block};
use crate::clock::comes_down;
use crate::config::{Config, Folder, Modules, material};
use crate::load::Load;
use crate::ports::free_port;
use crate::server::{Nginx, alone, beside, text};

const PATIENCE: Duration = Duration::from_secs(20);

/// Load that comes and goes: under each the worker fills with garbage, after each it exhales, and
/// before every other one nginx reloads. No request fails, and no process dies.
pub fn tides(build: Build, modules: Modules, tides: u32) {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(modules).on(build).workers(1));
    for tide in 0..tides {
        let load = Load::start(&nginx, "/light", 20, 2, true);
        if tide % 2 == 1 {
            nginx.reload();
        }
        let full_kb = nginx.fill("/litter?megabytes=40&clean=1");
        let outcome = load.finish();
        assert!(outcome.is_clean() && outcome.requests > 100, "{}", outcome.said);
        nginx.wait_until("one worker is left", PATIENCE, |nginx| nginx.workers().len() == 1);
        comes_down(&nginx, nginx.workers()[0], full_kb / 3, "the worker breathes out");
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
    assert!(!nginx.log().contains("exited on signal"), "{build:?}, {modules:?}: {}", nginx.log());
}

#[test]
#[ignore = "a minute: make test-long"]
fn workers_exhale_after_each_load_and_through_reloads() {
    for (build, modules) in WAYS {
        tides(build, modules, 4);
    }
}

/// The linking recipe, in an nginx that is built as OpenResty is and has no module of ours.
#[test]
#[ignore = "builds LuaJIT: make test-long"]
fn a_luajit_with_the_library_inside_gives_every_vm_of_nginx_a_heap() {
    let lua = installed().lib().join("../share/lua/5.1/?.lua");
    let c = installed().lib().join("lua/5.1/?.so");
    let ours = material().join("?.lua");
    let path = format!("{};{};/usr/share/lua/5.1/?.lua", ours.display(), lua.display());
    let cpath = format!("{};;", c.display());
    let script = "return require([[ebbtide]]).stats().allocator";
    let in_stream = format!("package.path = [[{path}]]; package.cpath = [[{cpath}]]; {script}");
    let port = free_port();
    let config = Config::new(Modules::Stock)
        .on(Build::CompiledIn)
        .workers(1)
        .environment("LD_LIBRARY_PATH", linked_luajit())
        .http(&format!("lua_package_path '{path}'; lua_package_cpath '{cpath}';"))
        .bottom(&stream_block(port, &in_stream))
        .lua("allocator", "ngx.say(require('ebbtide').stats().allocator)")
        .lua("reclaim", "ngx.say(require('ebbtide').reclaim().returned > 0)");
    let _alone = alone();
    let nginx = Nginx::start(&config);
    assert_eq!(nginx.get("/allocator"), "ebbtide\n");
    assert_eq!(nginx.stream(port), "ebbtide\n");
    let full_kb = nginx.fill("/litter?megabytes=40&clean=1");
    assert_eq!(nginx.get("/reclaim"), "true\n");
    let now_kb = nginx.running()[0].pss_anon_kb();
    assert!(now_kb < full_kb / 2, "{full_kb}, then {now_kb} KB");
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// Such a LuaJIT makes heaps by itself, so variables of heaps have an effect without the module.
#[test]
#[ignore = "builds LuaJIT: make test-long"]
fn beside_a_luajit_with_the_library_inside_no_variable_is_called_useless() {
    let _beside = beside();
    for (linked, warnings) in [(true, 0), (false, 1)] {
        let mut config = Config::new(Modules::Last).on(Build::CompiledIn).http("ebbtide off;");
        config = config.environment("EBBTIDE_LIMIT_HARD", "64m");
        if linked {
            config = config.environment("LD_LIBRARY_PATH", linked_luajit());
        }
        let output = Folder::new().nginx(&config, free_port()).arg("-t").output();
        let said = text(&output.expect("nginx can be run"));
        assert!(said.contains("test is successful"), "{said}");
        assert_eq!(said.matches("these have no effect").count(), warnings, "{said}");
    }
}
