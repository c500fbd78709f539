//! Limits that are a share of the memory that the cgroup of nginx allows.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::config::{Config, Folder, Modules};
use crate::limits::{PROGRAM, early_limits, new_script};
use crate::ports::free_port;
use crate::processes::with_early_vm_of;
use crate::server::{Nginx, beside, text};
use crate::status::{json, number};

const PATIENCE: Duration = Duration::from_secs(20);

/// A cgroup below that of this process; removed in the end.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None`: this process may not make one.
    fn new(limit: u64) -> Option<Cgroup> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let of = |part: &str| {
            let line = own.lines().find(|line| line.contains(part))?;
            Some(line.rsplit(':').next()?.trim_start_matches('/').to_owned())
        };
        let (root, file, path) = match of(":memory:") {
            Some(path) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path),
            None => ("/sys/fs/cgroup", "memory.max", of("0::")?),
        };
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("ebbtide-test-{}-{number}", std::process::id());
        let folder = Path::new(root).join(path).join(name);
        fs::create_dir(&folder).ok()?;
        let cgroup = Cgroup(folder);
        fs::write(cgroup.0.join(file), limit.to_string()).ok()?;
        Some(cgroup)
    }

    /// What starts a command in it.
    fn launcher(&self) -> Vec<OsString> {
        let enter = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
        vec!["sh".into(), "-c".into(), enter.into(), self.0.clone().into()]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Says the values that a VM has in force.
const GET: &str = "local get = require('resty.ebbtide').get
    ngx.say(get('retain'), ' ', get('limit_soft'), ' ', get('limit_hard'))";

const SHARES: &str = "ebbtide_limit_soft 40%; ebbtide_limit_hard 80%;";

#[test]
fn a_share_of_the_cgroup_is_divided_among_the_workers() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(1 << 30) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    let mut config = Config::new(Modules::First).http(SHARES);
    config.launcher = cgroup.launcher();
    let nginx = Nginx::start(&config);
    let one_percent = (1 << 30) / 100;
    nginx.wait_until("both are there", PATIENCE, |nginx| json(nginx).len() == 2);
    for worker in json(&nginx) {
        let (soft, hard) = (number(&worker, "limit_soft"), number(&worker, "limit_hard"));
        assert_eq!((soft, hard), (one_percent * 40 / 2, one_percent * 80 / 2));
    }
    assert!(!nginx.log().contains("[warn]"), "{}", nginx.log());

    // A size beside a share that comes to less is lowered to that.
    let mut config =
        Config::new(Modules::First).http("ebbtide_limit_soft 300m; ebbtide_limit_hard 10%;");
    config.launcher = cgroup.launcher();
    nginx.write_config(&config);
    nginx.reload();
    nginx.wait_until("both are there", PATIENCE, |nginx| json(nginx).len() == 2);
    for worker in json(&nginx) {
        let (soft, hard) = (number(&worker, "limit_soft"), number(&worker, "limit_hard"));
        assert_eq!((soft, hard), (one_percent * 10 / 2, one_percent * 10 / 2));
    }
    let lowered = "\"ebbtide_limit_soft\" of 300m is lowered to 51.2m, which is what \
                   \"ebbtide_limit_hard\" comes to";
    assert!(nginx.log().contains(lowered), "{}", nginx.log());
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// A worker's share is known before the VM is made, if the number of workers stands before `http`.
#[test]
fn a_variable_that_contradicts_a_share_of_the_cgroup_stops_nginx() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(640 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    // For each of two workers.
    let share = (640 << 20) / 100 * 50 / 2;
    for directive in ["ebbtide_limit_hard 50%;", "ebbtide_limit_soft 50%;"] {
        let limit = directive.split(' ').next().and_then(|word| word.strip_prefix("ebbtide_"));
        let tested = |retain: u64| {
            let mut config = Config::new(Modules::First).http(directive);
            config = config.environment("EBBTIDE_RETAIN", retain.to_string());
            config.launcher = cgroup.launcher();
            let output = Folder::new().nginx(&config, free_port()).arg("-t").output();
            let output = output.expect("nginx can be run");
            (output.status.success(), text(&output))
        };
        let (taken, said) = tested(share);
        assert!(taken, "{said}");
        let (taken, said) = tested(share + (1 << 20));
        let reason = format!("is above {}=", limit.expect("a limit"));
        assert!(!taken && said.contains("EBBTIDE_RETAIN=") && said.contains(&reason), "{said}");
    }
}

/// Where the number of workers stands behind `http`, a share comes to less than what was checked.
#[test]
fn variables_are_lowered_to_a_share_that_is_known_later() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(768 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    let mut config = Config::new(Modules::First).workers(2).lua("get", GET);
    config = config.http("ebbtide_limit_hard 50%;");
    config.launcher = cgroup.launcher();
    let share = (768 << 20) / 100 * 50 / 2;
    // Less than a worker's share stays as it is.
    let small = config.clone().environment("EBBTIDE_RETAIN", "1m");
    let nginx = Nginx::start(&small.environment("EBBTIDE_LIMIT_SOFT", "20m"));
    assert_eq!(nginx.get("/get"), format!("{} {} {share}\n", 1 << 20, 20 << 20));
    assert!(!nginx.log().contains("[warn]"), "{}", nginx.log());
    drop(nginx);

    config.workers_last = true;
    let late = config.environment("EBBTIDE_RETAIN", "300m");
    let nginx = Nginx::start(&late.environment("EBBTIDE_LIMIT_SOFT", "320m"));
    assert_eq!(nginx.get("/get"), format!("{share} {share} {share}\n"));
    for text in ["\"EBBTIDE_RETAIN\" of 300m is lowered", "\"EBBTIDE_LIMIT_SOFT\" of 320m is"] {
        assert!(nginx.log().contains(text), "{}", nginx.log());
    }
}

#[test]
fn where_the_share_of_the_cgroup_is_too_small_there_is_no_limit_and_a_warning() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(300 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    // Fifty workers would have 2.4 MB each as the soft limit, and 4.8 MB as the hard one.
    let mut config = Config::new(Modules::First).workers(50).http(SHARES);
    config.launcher = cgroup.launcher();
    let nginx = Nginx::start(&config);
    let worker = json(&nginx)[0].clone();
    assert_eq!((number(&worker, "limit_soft"), number(&worker, "limit_hard")), (0, 0));
    for text in [
        "\"ebbtide_limit_soft\" has no effect: \"40%\" comes to 2.4m for each worker",
        "\"ebbtide_limit_hard\" has no effect: \"80%\" comes to 4.8m for each worker",
    ] {
        assert!(nginx.log().contains(text), "{}", nginx.log());
    }
}

/// A share is set after the configuration is read, and then what Lua has set is still there.
#[test]
fn a_value_from_lua_stays_beside_a_share_of_the_cgroup_or_is_lowered_to_it() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(800 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    let shared = |mut config: Config| {
        config.launcher = cgroup.launcher();
        config.http("ebbtide_limit_hard 8%;")
    };
    let early = early_limits("limit_soft = 2^24, retain = 2^20", 40, shared);
    assert_eq!(early.limits, (16, 64), "{}", early.log);
    assert!(!early.log.contains("[warn]"), "{}", early.log);
    let early = early_limits("retain = 100 * 2^20", 40, shared);
    let warning = format!(
        "the VM's \"retain\", {PROGRAM}, of 100m is lowered to 64m, which is what \
         \"ebbtide_limit_hard\" comes to"
    );
    assert_eq!(early.limits, (0, 64), "{}", early.log);
    assert_eq!(early.log.matches("[warn]").count(), 1, "{}", early.log);
    assert!(early.log.contains(&warning), "{}", early.log);
}

#[test]
fn a_value_from_elsewhere_stays_beside_a_share_that_comes_to_no_limit() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(700 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    // 1 % is less than any limit may be.
    let hard = "ebbtide_limit_hard 1%;";
    let soft = "ebbtide_limit_soft 1%;";
    let both = "ebbtide_limit_soft 1%; ebbtide_limit_hard 9%;";
    let none: &[(&str, &str)] = &[];
    for (options, environment, http, limits) in [
        ("limit_hard = 2^26", none, hard, (0, 64)),
        ("limit_soft = 2^25", none, soft, (32, 0)),
        ("limit_soft = 2^25", none, both, (32, 63)),
        ("limit_soft = 2^25, limit_hard = 2^26", none, "ebbtide_limit_hard off;", (32, 0)),
        ("limit_soft = 2^25, limit_hard = 2^26", none, "ebbtide_limit_soft off;", (0, 64)),
        ("", &[("EBBTIDE_LIMIT_HARD", "64m")], hard, (0, 64)),
        ("", &[("EBBTIDE_LIMIT_SOFT", "32m")], soft, (32, 0)),
        ("", &[("EBBTIDE_LIMIT_SOFT", "32m")], both, (32, 63)),
    ] {
        let early = early_limits(options, 40, |mut config| {
            config.launcher = cgroup.launcher();
            for &(name, value) in environment {
                config = config.environment(name, value);
            }
            config.http(http)
        });
        assert_eq!(early.limits, limits, "{options} {environment:?} {http}: {}", early.log);
        let told = early.log.matches("has no effect: \"1%\" comes to 7m for each worker").count();
        assert_eq!(told, http.matches(" 1%").count(), "{}", early.log);
        assert_eq!(early.log.matches("[warn]").count(), told, "{}", early.log);
    }
    // Where the machine sets no limit; if it does, the share comes to one.
    let early = early_limits("limit_soft = 2^25, limit_hard = 2^26", 40, |config| {
        config.http("ebbtide_limit_hard 80%;")
    });
    if early.log.contains("the cgroup of nginx has none") {
        assert_eq!(early.limits, (32, 64), "{}", early.log);
    }
}

/// The VM of a request is made by the worker, with the directives as they came out.
#[test]
fn a_share_that_comes_to_no_limit_leaves_the_environment_s_to_all_vms() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(710 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    for (http, limits) in [
        ("ebbtide_limit_soft 1%; ebbtide_limit_hard 1%;", (32 << 20, 64 << 20)),
        ("ebbtide_limit_soft off; ebbtide_limit_hard off;", (0, 0)),
    ] {
        let mut config = Config::new(Modules::First).workers(1).http(http).lua("get", GET);
        config = config.top("env EBBTIDE_LIMIT_SOFT; env EBBTIDE_LIMIT_HARD;");
        config.server +=
            &format!("location /own {{ lua_code_cache off; content_by_lua_block {{ {GET} }} }}\n");
        config.launcher = cgroup.launcher();
        let config = config.environment("EBBTIDE_LIMIT_SOFT", "32m");
        let nginx = Nginx::start(&config.environment("EBBTIDE_LIMIT_HARD", "64m"));
        for path in ["/get", "/own"] {
            assert_eq!(nginx.get(path), format!("0 {} {}\n", limits.0, limits.1), "{path} {http}");
        }
    }
}

#[test]
fn a_directive_is_held_to_a_variable_beside_a_share_that_comes_to_no_limit() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(720 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    let http = "ebbtide_retain 65m; ebbtide_limit_hard 1%;";
    for (value, expected) in [("64m", false), ("65m", true)] {
        let config = Config::new(Modules::First).workers(1).http(http);
        let mut config = config.environment("EBBTIDE_LIMIT_HARD", value);
        config.launcher = cgroup.launcher();
        let output = Folder::new().nginx(&config, free_port()).arg("-t").output();
        let output = output.expect("nginx can be run");
        let said = text(&output);
        assert_eq!(output.status.success(), expected, "{said}");
        let refused = said.contains("retain=65m: is above EBBTIDE_LIMIT_HARD=64m");
        assert_eq!(refused, !expected, "{said}");
    }
}

/// What `GET` says of these, in MiB.
fn said(retain: u64, soft: u64, hard: u64) -> String {
    format!("{} {} {}\n", retain << 20, soft << 20, hard << 20)
}

/// A script for a VM that is there before `http`. A finalizer writes the values that the VM has in
/// force into the second file, in each collection; the master makes one before it starts workers.
fn with_values_of_early_vm() -> (PathBuf, PathBuf) {
    let script = new_script();
    let values = script.with_extension("values");
    let code = format!(
        "local function arm()
             getmetatable(newproxy(true)).__gc = function()
                 arm()
                 local get = require('resty.ebbtide').get
                 local file = io.open('{}', 'a')
                 if file then
                     file:write(tostring(get('retain')), ' ', tostring(get('limit_soft')), ' ',
                         tostring(get('limit_hard')), '\\n')
                     file:close()
                 end
             end
         end
         arm()",
        values.display()
    );
    fs::write(&script, code).expect("it can be written");
    let _ = fs::remove_file(&values);
    (script, values)
}

/// The VM of the Lua module, and one that is there before `http`.
#[test]
fn a_share_of_the_cgroup_replaces_a_variable_before_a_vm_is_made() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(800 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    let (soft, hard) = ("EBBTIDE_LIMIT_SOFT", "EBBTIDE_LIMIT_HARD");
    for (http, variable, value, expected) in [
        ("ebbtide_limit_soft 5%; ebbtide_limit_hard 64m;", soft, "1g", said(0, 40, 64)),
        ("ebbtide_retain 100m; ebbtide_limit_hard 20%;", hard, "64m", said(100, 0, 160)),
        ("ebbtide_retain 100m; ebbtide_limit_soft 20%;", soft, "64m", said(100, 160, 0)),
    ] {
        let (script, values) = with_values_of_early_vm();
        let mut config = with_early_vm_of(&script).workers(1).http(http).lua("get", GET);
        config.launcher = cgroup.launcher();
        let nginx = Nginx::start(&config.environment(variable, value));
        assert_eq!(nginx.get("/get"), expected, "{http} {variable}={value}: {}", nginx.log());
        let early = fs::read_to_string(&values).expect("its garbage was collected");
        let last = early.split_inclusive('\n').next_back();
        assert_eq!(last, Some(&*expected), "{http} {variable}={value}: {early}");
        assert!(!nginx.log().contains("[warn]"), "{}", nginx.log());
    }
}

/// VMs are made with the share of one worker, and then there are four.
#[test]
fn a_share_that_is_known_later_leaves_what_no_limit_lowers() {
    let _beside = beside();
    let Some(cgroup) = Cgroup::new(800 << 20) else {
        println!("not tried: this process may not make cgroups");
        return;
    };
    let none =
        |name: &str| format!("\"ebbtide_{name}\" has no effect: \"2%\" comes to 4m for each");
    let lowered = "\"ebbtide_limit_soft\" of 300m is lowered to 60m, which is what \
                   \"ebbtide_limit_hard\" comes to";
    let soft_of_lua = "ebbtide_limit_soft 2%;
        init_by_lua_block { require('resty.ebbtide').set('limit_soft', 12 * 2^20) }";
    for (http, variables, expected, warning) in [
        (
            "ebbtide_retain 100m; ebbtide_limit_hard 2%;",
            &[("EBBTIDE_LIMIT_HARD", "128m")][..],
            said(100, 0, 128),
            none("limit_hard"),
        ),
        (
            "ebbtide_limit_soft 2%;",
            &[("EBBTIDE_LIMIT_SOFT", "32m")],
            said(0, 32, 0),
            none("limit_soft"),
        ),
        (soft_of_lua, &[], said(0, 12, 0), none("limit_soft")),
        ("ebbtide_limit_soft 300m; ebbtide_limit_hard 30%;", &[], said(0, 60, 60), lowered.into()),
    ] {
        let mut config = Config::new(Modules::First).workers(4).http(http).lua("get", GET);
        config.workers_last = true;
        config.launcher = cgroup.launcher();
        for &(name, value) in variables {
            config = config.environment(name, value);
        }
        let nginx = Nginx::start(&config);
        assert_eq!(nginx.get("/get"), expected, "{http} {variables:?}: {}", nginx.log());
        assert!(nginx.log().contains(&warning), "{}", nginx.log());
        assert_eq!(nginx.log().matches("[warn]").count(), 1, "{}", nginx.log());
    }
    // A heap that Lua has made keeps its limit.
    let early = early_limits("limit_hard = 2^26", 40, |mut config| {
        config.workers_last = true;
        config.launcher = cgroup.launcher();
        config.workers(4).http("ebbtide_limit_hard 2%;")
    });
    assert_eq!(early.limits, (0, 64), "{}", early.log);
}
