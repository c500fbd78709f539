//! Several copies of the library in one nginx: the module's, one that is preloaded, one linked into
//! LuaJIT, one that Lua loads. In every order the VMs breathe and are on the page.

use std::path::Path;
use std::process::Command;

use ebbtide_ffi_tests::{finish, installed};

use crate::builds::{Build, WAYS, linked_luajit, stream_block};
use crate::clock::comes_down;
use crate::config::{Config, Folder, Modules, material};
use crate::load::Load;
use crate::ports::free_port;
use crate::server::{Nginx, alone, target, text};
use crate::status::{json, number, vms};

/// The VMs of the configuration are on the page, and their worker breathes.
fn breathes(nginx: &Nginx, count: u64, what: &str) {
    assert_eq!(vms(&json(nginx)[0], "main", "count"), count, "{what}\n{}", nginx.log());
    let full_kb = nginx.fill("/litter?megabytes=40&clean=1");
    comes_down(nginx, nginx.running()[0], full_kb / 3, what);
    assert!(number(&json(nginx)[0], "pid") > 0 && nginx.get("/light").starts_with("row 20"));
    assert!(!nginx.log().contains("[warn]"), "{what}\n{}", nginx.log());
    assert!(!nginx.log().contains("exited on signal"), "{what}\n{}", nginx.log());
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

const HEAP: &str = "local allocator = require('ebbtide')
    local stats = assert(allocator.stats())
    assert(allocator.reclaim().returned)
    assert(allocator.attach())
    ngx.say(stats.allocator, ' ', tostring(package.loaded['ebbtide.core'] ~= nil))";

#[test]
#[ignore = "a minute: make test-long"]
fn the_preload_library_and_the_module() {
    let _alone = alone();
    let library = target().join("release/libebbtide_preload.so");
    for (build, modules) in WAYS {
        let config = Config::new(modules).on(build).workers(1).lua("heap", HEAP);
        let nginx = Nginx::start(&config.environment("LD_PRELOAD", &library));
        assert_eq!(nginx.get("/heap"), "ebbtide false\n");
        breathes(&nginx, 1, &format!("{build:?} {modules:?}, preloaded"));
        nginx.reload();
        breathes(&nginx, 1, &format!("{build:?} {modules:?}, preloaded, after a reload"));
    }
}

#[test]
#[ignore = "a minute: make test-long"]
fn a_linked_luajit_and_the_module() {
    let _alone = alone();
    for (build, modules) in &WAYS[..3] {
        let config = Config::new(*modules).on(*build).workers(1).lua("heap", HEAP);
        let nginx = Nginx::start(&config.environment("LD_LIBRARY_PATH", linked_luajit()));
        assert_eq!(nginx.get("/heap"), "ebbtide false\n");
        breathes(&nginx, 1, &format!("{build:?} {modules:?}, linked"));
    }
}

/// A VM of the other copy's, for it is made before `http` says that the module is to make them.
#[test]
#[ignore = "a minute: make test-long"]
fn a_vm_that_another_copy_has_made_is_looked_after() {
    let _alone = alone();
    let preload = target().join("release/libebbtide_preload.so");
    let copies: [(&'static str, &Path); 2] =
        [("LD_PRELOAD", &preload), ("LD_LIBRARY_PATH", linked_luajit())];
    for (variable, path) in copies {
        let port = free_port();
        let count = "for i = 1, 400000 do kept = kept or {} kept[i % 100000] = { i } end
            kept = nil return [[done]]";
        let config = Config::new(Modules::Last).on(Build::CompiledIn).workers(1);
        let config = config.top(&stream_block(port, count)).http("ebbtide_limit_soft 64m;");
        let nginx = Nginx::start(&config.environment(variable, path));
        let before_kb = nginx.running()[0].pss_anon_kb();
        let full_kb = nginx.running()[0]
            .filled_kb(before_kb + 8_000, || assert_eq!(nginx.stream(port), "done\n"));
        let below_kb = before_kb + (full_kb - before_kb) / 3;
        comes_down(&nginx, nginx.running()[0], below_kb, "the VM of the stream breathes out");
        breathes(&nginx, 2, &format!("{variable}, made early"));
        nginx.reload();
        breathes(&nginx, 2, &format!("{variable}, made early, after a reload"));
    }
}

/// Two VMs on heaps of two copies, neither of which is the module's: each is looked after through
/// the functions of its own copy, which know no heaps but their own.
#[test]
#[ignore = "a minute: make test-long"]
fn vms_of_two_other_copies_are_looked_after_each_through_its_own() {
    let _alone = alone();
    let folder = Folder::new();
    let [first, second] = ["first.so", "second.so"].map(|name| folder.file(name));
    for copy in [&first, &second] {
        std::fs::copy(target().join("release/libebbtide.so"), copy).expect("it is built");
    }
    // A thread of Lua's is known by its address, and stands for its VM.
    let attach = |copy: &Path| {
        format!(
            "local ffi = require([[ffi]])
             ffi.cdef([[int ebb_attach(void *L, const void *options);]])
             local address = tostring(coroutine.create(print)):match([[0x%x+]])
             local state = ffi.cast([[void *]], tonumber(address))
             copy = ffi.load([[{}]])
             assert(copy.ebb_attach(state, nil) == 0)",
            copy.display()
        )
    };
    let port = free_port();
    let garbage = "for i = 1, 400000 do kept = kept or {} kept[i % 100000] = { i } end
        kept = nil return [[done]]";
    let stream = stream_block(port, garbage).replace(
        "stream {",
        &format!("stream {{ stream_standin_init_by_lua '{}';", attach(&second)),
    );
    let config = Config::new(Modules::Last).on(Build::LuaInside).workers(1);
    let config = config.http(&format!("init_by_lua_block {{ {} }}", attach(&first)));
    let nginx = Nginx::start(&config.bottom(&stream));
    for after in ["the start", "a reload", "another reload"] {
        let what = format!("the VM of the stream breathes out after {after}");
        let worker = nginx.running()[0];
        let before_kb = worker.pss_anon_kb();
        let full_kb =
            worker.filled_kb(before_kb + 8_000, || assert_eq!(nginx.stream(port), "done\n"));
        comes_down(&nginx, worker, before_kb + (full_kb - before_kb) / 3, &what);
        breathes(&nginx, 2, &format!("two copies, after {after}"));
        nginx.reload();
    }
    let told = "heaps of another copy of the library, in";
    for copy in [&first, &second] {
        let line = format!("{told} {}, are looked after", copy.display());
        assert_eq!(nginx.log().matches(&line).count(), 1, "{}", nginx.log());
    }
    assert_eq!(nginx.log().matches(told).count(), 2, "{}", nginx.log());
}

/// Where Lua finds the installed copy.
fn with_installed(config: Config) -> Config {
    let share = installed().lib().join("../share/lua/5.1/?.lua");
    let library = installed().lib().join("lua/5.1/?.so");
    let own = material().join("?.lua");
    let path = format!("{};{};/usr/share/lua/5.1/?.lua", own.display(), share.display());
    config.http(&format!("lua_package_path '{path}'; lua_package_cpath '{};;';", library.display()))
}

/// What `init_by_lua` asks the installed copy for, whichever one answers.
#[test]
#[ignore = "a minute: make test-long"]
fn an_installed_copy_that_attaches_first() {
    let _alone = alone();
    let forget = "package.preload['ebbtide'] = nil package.preload['resty.ebbtide'] = nil";
    for (build, modules) in WAYS {
        for before in ["", forget] {
            let init = format!(
                "init_by_lua_block {{ {before}
                     local allocator = require('resty.ebbtide')
                     assert(allocator.attach())
                     assert(allocator.stats().allocator == 'ebbtide') }}"
            );
            let config = with_installed(Config::new(modules).on(build).workers(1));
            let nginx = Nginx::start(&config.http(&init).lua("heap", HEAP));
            assert!(nginx.get("/heap").starts_with("ebbtide "), "{build:?} {modules:?}");
            breathes(&nginx, 1, &format!("{build:?} {modules:?}, attached by Lua"));
        }
    }
}

/// The module from a file, in a VM that another thread runs.
#[test]
#[ignore = "a minute: make test-long"]
fn threads_have_the_lua_module_from_a_file() {
    let _alone = alone();
    for (build, modules) in WAYS {
        let config = with_installed(Config::new(modules).on(build).workers(1))
            .top("thread_pool pool threads=4;")
            .lua(
                "thread",
                "local ok, allocator, returned, live =
                     ngx.run_worker_thread('pool', 'thread_work', 'look')
                 ngx.say(tostring(ok), ' ', allocator, ' ', returned > 0, ' ', live > 0)",
            );
        let nginx = Nginx::start(&config);
        for _ in 0..20 {
            assert_eq!(nginx.get("/thread"), "true ebbtide true true\n", "{build:?} {modules:?}");
        }
        assert_eq!(nginx.errors(), Vec::<String>::new());
    }
}

/// The command starts an nginx that loads the module, too.
#[test]
#[ignore = "a minute: make test-long"]
fn the_command_runs_an_nginx_with_the_module() {
    let _alone = alone();
    let config = Config::new(Modules::First);
    let folder = Folder::new();
    let nginx = folder.nginx(&config, free_port());
    let mut command = Command::new(target().join("release/ebbtide"));
    command.args(["run", "--verbose"]).arg(nginx.get_program()).args(nginx.get_args());
    let said = text(&finish(command.arg("-t")));
    assert!(said.contains("test is successful") && !said.contains("[warn]"), "{said}");
}

const FILL: &str = "local ok, total = ngx.run_worker_thread('pool', 'thread_work', 'fill', 20)
    ngx.say(tostring(ok), ' ', total)";

/// The command for real: the preload library and the module share the work in each process.
#[test]
#[ignore = "a minute: make test-long"]
fn an_nginx_that_the_command_started_serves_and_breathes() {
    let _alone = alone();
    let command = target().join("release/ebbtide");
    for (build, modules) in WAYS {
        let what = format!("{build:?} {modules:?}, started by the command");
        let mut config = Config::new(modules).on(build).workers(1).lua("heap", HEAP);
        config = config.top("thread_pool pool threads=2;").lua("fill", FILL);
        config.launcher = vec![command.clone().into(), "run".into()];
        let nginx = Nginx::start(&config);
        for _ in 0..2 {
            serves_and_breathes(&nginx, &what);
            nginx.reload();
        }
    }
}

/// What the only worker does under load and after it, with a heap for each VM.
fn serves_and_breathes(nginx: &Nginx, what: &str) {
    let worker = nginx.running()[0];
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", worker.pid)).expect("it runs");
    assert!(maps.contains("libebbtide_preload.so"), "{what}: nothing is preloaded");
    assert_eq!(nginx.get("/heap"), "ebbtide false\n", "{what}");
    let outcome = Load::start(nginx, "/heavy", 300, 3, false).finish();
    assert!(outcome.is_clean() && outcome.requests > 100, "{what}: {}", outcome.said);
    assert_eq!(nginx.get("/fill"), "true 240000\n", "{what}");
    let page = json(nginx)[0].clone();
    for kind in ["main", "other"] {
        assert_eq!(vms(&page, kind, "count"), 1, "{what}: {page}");
        assert!(vms(&page, kind, "live") > 50_000, "{what}: {page}");
    }
    breathes(nginx, 1, what);
    assert_eq!(nginx.running(), [worker], "{what}");
}
