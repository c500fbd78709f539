//! Processes other than plain workers: those that look after a cache, and nginx in a single one; and
//! VMs that are there before `http` is read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use ebbtide_ffi_tests::{finish, scratch};

use crate::clock::comes_down;
use crate::config::{Config, Modules, material};
use crate::load::Load;
use crate::server::{Nginx, alone, beside, target};
use crate::status::{json, number, pids, running_pids, vms};
use crate::workers::{Worker, children_of, title};

const PATIENCE: Duration = Duration::from_secs(20);

/// The Lua module closes the VM in the processes that look after a cache.
#[test]
fn processes_that_run_no_lua_are_not_on_the_page() {
    let _beside = beside();
    for modules in [Modules::First, Modules::Last] {
        look_after_a_cache(modules);
    }
}

fn look_after_a_cache(modules: Modules) {
    let config = Config::new(modules).http("proxy_cache_path cache keys_zone=cache:1m;");
    let nginx = Nginx::start(&config);
    for _ in 0..3 {
        let manager = |nginx: &Nginx| {
            children_of(nginx.pid().expect("it runs"))
                .any(|pid| title(pid).contains("cache manager"))
        };
        nginx.wait_until("the manager of the cache runs", PATIENCE, manager);
        nginx.wait_until("the workers are on the page", PATIENCE, |nginx| {
            pids(nginx) == running_pids(nginx)
        });
        nginx.reload();
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
    assert!(!nginx.log().contains("exited on signal"), "{}", nginx.log());
}

#[test]
fn nginx_in_a_single_process_breathes() {
    let _alone = alone();
    let config = Config::new(Modules::First).workers(0).top("master_process off;");
    let nginx = Nginx::start(&config);
    let process = Worker { pid: nginx.pid().expect("it runs"), exiting: false };
    let full_kb = process.filled_kb(30_000, || drop(nginx.get("/litter?megabytes=40")));
    comes_down(&nginx, process, full_kb / 3, "it breathes out");
    assert_eq!(pids(&nginx).into_iter().collect::<Vec<_>>(), [process.pid]);
    assert!(nginx.get("/light").starts_with("row 20"));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// A configuration that is refused leaves the VMs of threads what they are, not the event loop's.
#[test]
fn threads_of_a_single_process_outlive_a_reload_that_is_refused() {
    let _beside = beside();
    let config = Config::new(Modules::First)
        .workers(0)
        .top("master_process off; thread_pool pool threads=4;")
        .lua(
            "sum",
            "local ok, total = ngx.run_worker_thread('pool', 'thread_work', 'sum', 1)
             ngx.say(total)",
        );
    let nginx = Nginx::start(&config);
    nginx.write_config(&config.clone().http("init_by_lua_block { error('refused') }"));
    nginx.signal("HUP");
    nginx.wait_until("it is refused", PATIENCE, |nginx| nginx.log().contains("refused"));
    let load = Load::start(&nginx, "/sum", 16, 3, false);
    let outcome = load.finish();
    assert!(outcome.is_clean() && outcome.requests > 20, "{}", outcome.said);
    assert_eq!(vms(&json(&nginx)[0], "main", "count"), 1);
}

/// A configuration in which another module makes a VM before `http` is read, as a `stream` block
/// with Lua does that stands there.
pub fn with_early_vm() -> Config {
    with_early_vm_of(&material().join("early.lua"))
}

/// The same, with another script in that VM.
pub fn with_early_vm_of(script: &Path) -> Config {
    // Once, for servers that load it while another test begins would find half a file.
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    let module = MODULE.get_or_init(|| c_module("early"));
    let top = format!("load_module {}; early_vm {};", module.display(), script.display());
    Config::new(Modules::First).top(&top)
}

/// A module of these tests, compiled against the nginx that the module under test was built for.
fn c_module(name: &str) -> PathBuf {
    let source = target().join("nginx/source");
    let module = scratch("nginx").join(format!("{name}.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]);
    for folder in ["src/core", "src/event", "src/event/modules", "src/os/unix", "objs"] {
        compiler.arg("-I").arg(source.join(folder));
    }
    compiler.arg(material().join(format!("{name}.c"))).arg("-o").arg(&module);
    finish(compiler.arg("-l:libluajit-5.1.so.2"));
    module
}

#[test]
fn a_vm_that_is_there_before_http_gets_a_heap_too() {
    let _beside = beside();
    let config = with_early_vm();
    let nginx = Nginx::start(&config);
    for _ in 0..3 {
        assert!(!nginx.log().contains("[warn]"), "{}", nginx.log());
        nginx.wait_until("both workers are there", PATIENCE, |nginx| json(nginx).len() == 2);
        for worker in json(&nginx) {
            assert_eq!(vms(&worker, "main", "count"), 2, "{worker}");
            // 30,000 tables with a string each.
            assert!(vms(&worker, "main", "live") > 3_000_000, "{worker}");
            assert_eq!(number(&worker, "pressure"), 0);
        }
        nginx.reload();
    }
    // In the next configuration it has none, and in the one after that one again.
    nginx.write_config(&config.clone().http("ebbtide off;"));
    nginx.reload();
    let reply = nginx.ask("GET", "/status?format=json", &[]);
    let reason = "{\"error\":\"there are no figures: ebbtide is off\"}\n";
    assert_eq!((reply.status, reply.body.as_str()), (503, reason));
    nginx.write_config(&config);
    nginx.reload();
    nginx.wait_until("both workers are there", PATIENCE, |nginx| json(nginx).len() == 2);
    assert!(json(&nginx).iter().all(|worker| vms(worker, "main", "count") == 2));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
