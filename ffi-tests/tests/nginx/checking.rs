//! Checked heaps in nginx: a worker with a memory bug ends with a report in the error log, and the
//! others go on; one without is left in peace.

use std::time::Duration;

use crate::config::{Config, Modules};
use crate::server::{Nginx, beside, target};

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes past the end of a block, or does not. The small one is of 57 bytes with its header, and
/// has room for a byte more where nothing is checked. It is none that the heap has put into a
/// guarded slot, at one end of a page: a bug there is told in other words.
const CODE: &str = "local ffi = require 'ffi'
    ffi.cdef 'int getpagesize(void);'
    local page = ffi.C.getpagesize()
    local bytes, long = ffi.typeof 'uint8_t[41]', ffi.typeof 'uint8_t[100000]'
    local function small()
        local block, start
        repeat
            block = bytes()
            start = tonumber(ffi.cast('uintptr_t', ffi.cast('void *', block)) % page) - 16
        until start ~= 0 and start + 64 ~= page
        return block
    end
    local bugs = {
        none = function() bytes()[40] = 1 end,
        overflow = function() small()[41] = 1 end,
        large = function() long()[100016] = 1 end,
    }
    bugs[ngx.var.arg_bug]()
    collectgarbage()
    ngx.say('no bug')";

/// What reports say.
const OVERFLOW: [&str; 3] = [
    "overflow: something was written past the end of a block",
    ", 57 bytes, in a slot",
    "found in: ",
];
const LARGE: [&str; 3] = [
    "overflow: memory past the end of a block was written",
    ", 100016 bytes, on pages of its own",
    "found: by the fault of thread 0x",
];

fn config(modules: Modules) -> Config {
    let config = Config::new(modules).workers(1).top("worker_rlimit_core 0;");
    let config = config.http("ebbtide_idle 50ms;");
    config.environment("EBBTIDE_CHECKED", "on").lua("code", CODE)
}

/// The worker ends with these words in the log, and another one serves.
fn is_reported(nginx: &Nginx, bug: &str, words: &[&str]) {
    let worker = nginx.running();
    assert_eq!(nginx.ask("GET", &format!("/code?bug={bug}"), &[]).status, 0);
    nginx.wait_until("another worker runs", PATIENCE, |nginx| {
        nginx.running().len() == 1 && nginx.running() != worker
    });
    let log = nginx.log();
    let missing: Vec<_> = words.iter().filter(|words| !log.contains(**words)).collect();
    assert!(missing.is_empty(), "{bug}: without {missing:?}: {log}");
    assert!(log.contains("exited on signal 6"), "{bug}: {log}");
    assert_eq!(nginx.get("/code?bug=none"), "no bug\n");
}

/// Requests, rest, and a reload.
fn is_quiet(nginx: &Nginx) {
    for _ in 0..2 {
        for _ in 0..20 {
            assert_eq!(nginx.get("/code?bug=none"), "no bug\n");
            assert!(nginx.get("/light").starts_with("row 20"));
        }
        nginx.get("/litter?megabytes=4");
        std::thread::sleep(Duration::from_millis(500));
        nginx.reload();
    }
    let mut errors = nginx.errors();
    errors.retain(|line| !line.contains("lua_code_cache is off"));
    assert_eq!(errors, Vec::<String>::new());
    assert!(!nginx.log().contains("ebbtide: heap"), "{}", nginx.log());
}

#[test]
fn bugs_in_a_vm_that_was_made_on_a_heap_are_reported() {
    let _beside = beside();
    let nginx = Nginx::start(&config(Modules::First));
    is_quiet(&nginx);
    is_reported(&nginx, "overflow", &OVERFLOW);
    is_reported(&nginx, "large", &LARGE);
}

#[test]
fn bugs_in_a_vm_that_was_changed_over_are_reported() {
    let _beside = beside();
    let nginx = Nginx::start(&config(Modules::Last));
    is_quiet(&nginx);
    is_reported(&nginx, "overflow", &OVERFLOW);
}

/// The command's own library makes the VM, with the module and without. nginx's error log has become
/// its standard error by the time that the report is written.
#[test]
fn bugs_in_an_nginx_that_the_command_started_are_reported() {
    let _beside = beside();
    for modules in [Modules::Stock, Modules::First] {
        let mut config = config(modules);
        if modules == Modules::Stock {
            config.http.clear();
        }
        config.environment.clear();
        let command = target().join("release/ebbtide");
        config.launcher =
            [command.as_os_str(), "run".as_ref(), "--checked=on".as_ref()].map(Into::into).into();
        let nginx = Nginx::start(&config);
        is_quiet(&nginx);
        is_reported(&nginx, "overflow", &OVERFLOW);
        is_reported(&nginx, "large", &LARGE);
        let log = nginx.log();
        assert_eq!(log.matches(OVERFLOW[0]).count(), 1, "{modules:?}: {log}");
    }
}

/// Workers make these VMs, and know of the variable what the configuration hands on.
#[test]
fn bugs_in_vms_that_workers_make_are_reported() {
    let _beside = beside();
    let each = config(Modules::First).http("lua_code_cache off;");
    let nginx = Nginx::start(&each);
    assert_eq!(nginx.get("/code?bug=overflow"), "no bug\n");
    let nginx = Nginx::start(&each.top("env EBBTIDE_CHECKED;"));
    is_quiet(&nginx);
    is_reported(&nginx, "overflow", &OVERFLOW);
}

#[test]
fn a_worker_that_is_not_checked_tells_nothing() {
    let _beside = beside();
    let unchecked = config(Modules::First).environment("EBBTIDE_CHECKED", "off");
    let nginx = Nginx::start(&unchecked);
    is_quiet(&nginx);
    assert_eq!(nginx.get("/code?bug=overflow"), "no bug\n");
    assert_eq!(nginx.errors(), Vec::<String>::new());
}
