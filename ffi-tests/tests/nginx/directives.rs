//! `nginx -t`: what configurations it takes, and what it says of those that it does not.

use std::fs;

use ebbtide_ffi_tests::pages::blocks;
use ebbtide_ffi_tests::{clean, scratch};

use crate::config::{Config, Folder, Modules};
use crate::ports::free_port;
use crate::preloaded::under_run;
use crate::server::{Nginx, beside, find, module, text};

/// What `nginx -t` says of a configuration, and whether it takes it.
pub fn tested(config: &Config) -> (bool, String) {
    let folder = Folder::new();
    let output = folder.nginx(config, free_port()).arg("-t").output().expect("nginx can be run");
    let said = text(&output).replace(&folder.file("").display().to_string(), "");
    (output.status.success(), said)
}

/// A configuration with this in the block `http`.
pub fn in_http(directive: &str) -> Config {
    Config::new(Modules::First).http(directive)
}

/// The line of the configuration file with this text.
fn line_of(config: &Config, part: &str) -> usize {
    let text = config.text(1);
    1 + text.lines().position(|line| line.contains(part)).expect("it is in there")
}

#[test]
fn good_directives_are_taken() {
    let _beside = beside();
    for directive in [
        "ebbtide on;",
        "ebbtide off;",
        "ebbtide_idle 10ms;",
        "ebbtide_idle 1h;",
        "ebbtide_step 50us;",
        "ebbtide_step 1ms;",
        "ebbtide_step 100ms;",
        "ebbtide_step 100000us;",
        "ebbtide_decay 0;",
        "ebbtide_decay 500ms;",
        "ebbtide_decay 30s;",
        "ebbtide_decay 1h;",
        "ebbtide_retain 0;",
        "ebbtide_retain 8m;",
        "ebbtide_retain 8192g;",
        "ebbtide_limit_soft off;",
        "ebbtide_limit_soft 100m;",
        "ebbtide_limit_soft cgroup;",
        "ebbtide_limit_soft 1%;",
        "ebbtide_limit_hard off;",
        "ebbtide_limit_hard 2g;",
        "ebbtide_limit_hard 8192g;",
        "ebbtide_limit_soft 8m; ebbtide_limit_hard 8m;",
        "ebbtide_limit_hard 100%;",
        "ebbtide_limit_soft 80m; ebbtide_limit_hard 100m;",
        "ebbtide_zone off;",
        "ebbtide_zone 128k;",
        "ebbtide_zone 4m;",
        "ebbtide_status_reclaim on;",
        "server { ebbtide_status_reclaim off; location / { ebbtide_status; } }",
        "log_format e '$ebbtide_live $ebbtide_resident $ebbtide_free $ebbtide_returned';",
    ] {
        for modules in [Modules::First, Modules::Last] {
            let (taken, said) = tested(&Config::new(modules).http(directive));
            assert!(taken && said.contains("test is successful"), "{directive}: {said}");
            let bad = ["[emerg]", "[alert]", "[crit]", "[error]"];
            assert!(!bad.iter().any(|level| said.contains(level)), "{directive}: {said}");
        }
    }
}

/// Each block on a page, as the configuration of a server that finds its modules.
#[test]
fn the_configurations_of_the_pages_are_taken() {
    let _beside = beside();
    let folder = scratch("nginx-pages");
    let modules = folder.join("modules");
    let _ = fs::remove_file(&modules);
    let built = module();
    std::os::unix::fs::symlink(built.parent().expect("a folder"), modules).expect("a link");
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.language == "nginx").collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        let load = "load_module modules/ngx_http_ebbtide_module.so;\n";
        let load = if block.text.contains("load_module") { "" } else { load };
        // Only where the server writes to is the test's.
        let shown = block.text.replace("http {", "http { access_log off;");
        let text = format!("{load}error_log stderr;\npid nginx.pid;\n{shown}\nevents {{}}\n");
        fs::write(folder.join("nginx.conf"), text).expect("the target directory can be written");
        let mut nginx = clean(find("nginx").expect("nginx is there"));
        nginx.arg("-t").arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "stderr"]);
        let output = nginx.output().expect("nginx can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", block.place());
    }
}

#[test]
fn bad_values_stop_it_with_the_line_and_the_range() {
    let _beside = beside();
    let idle = "\"ebbtide_idle\" must be from 10ms to 1h";
    let decay = "\"ebbtide_decay\" must be a time from 0 to 1h";
    let step = "\"ebbtide_step\" must be from 50us to 100ms";
    let zone = "\"ebbtide_zone\" must be off or a size from 128k";
    let retain = "\"ebbtide_retain\" must be a size from 0 to 8192g";
    let share = "\"ebbtide_limit_soft\" as a share of the cgroup's memory must be from 1% to 100%";
    let share_hard =
        "\"ebbtide_limit_hard\" as a share of the cgroup's memory must be from 1% to 100%";
    let soft = "\"ebbtide_limit_soft\" must be off, cgroup, a size from 8m to 8192g, or a share such as 80%";
    let hard =
        "\"ebbtide_limit_hard\" must be off, a size from 8m to 8192g, or a share such as 80%";
    for (directive, expected) in [
        ("ebbtide maybe;", "it must be \"on\" or \"off\""),
        ("ebbtide on; ebbtide off;", "\"ebbtide\" directive is duplicate"),
        ("ebbtide on off;", "invalid number of arguments in \"ebbtide\" directive"),
        ("ebbtide_idle 9ms;", "invalid value \"9ms\": \"ebbtide_idle\" must be from 10ms to 1h"),
        ("ebbtide_idle 0;", idle),
        ("ebbtide_idle 3601s;", idle),
        ("ebbtide_idle soon;", "\"ebbtide_idle\" directive invalid value"),
        ("ebbtide_idle 1s; ebbtide_idle 1s;", "\"ebbtide_idle\" directive is duplicate"),
        ("ebbtide_step 49us;", step),
        ("ebbtide_step 0;", step),
        ("ebbtide_step 101ms;", step),
        ("ebbtide_step 100001us;", step),
        ("ebbtide_step 1d;", step),
        ("ebbtide_step 4294967297ms;", step),
        ("ebbtide_step us;", step),
        ("ebbtide_step -1us;", step),
        ("ebbtide_step 1ms; ebbtide_step 1ms;", "\"ebbtide_step\" directive is duplicate"),
        ("ebbtide_decay soon;", decay),
        ("ebbtide_decay 3601s;", decay),
        ("ebbtide_decay 1s; ebbtide_decay 1s;", "\"ebbtide_decay\" directive is duplicate"),
        ("ebbtide_decay 0; ebbtide_decay 0;", "\"ebbtide_decay\" directive is duplicate"),
        ("ebbtide_retain much;", retain),
        ("ebbtide_retain -1;", retain),
        ("ebbtide_retain 8193g;", retain),
        ("ebbtide_retain 9000000000g;", retain),
        ("ebbtide_retain 1m; ebbtide_retain 1m;", "\"ebbtide_retain\" directive is duplicate"),
        ("ebbtide_limit_soft 0;", soft),
        ("ebbtide_limit_soft 7m;", soft),
        ("ebbtide_limit_soft 8193g;", soft),
        ("ebbtide_limit_soft banana;", soft),
        ("ebbtide_limit_soft 0%;", share),
        ("ebbtide_limit_soft 101%;", share),
        ("ebbtide_limit_soft %;", share),
        ("ebbtide_limit_soft 10m; ebbtide_limit_soft 20m;", "directive is duplicate"),
        ("ebbtide_limit_soft off; ebbtide_limit_soft 20m;", "directive is duplicate"),
        ("ebbtide_limit_hard cgroup;", hard),
        ("ebbtide_limit_hard 0;", hard),
        ("ebbtide_limit_hard 100k;", hard),
        ("ebbtide_limit_hard 8193g;", hard),
        ("ebbtide_limit_hard 200%;", share_hard),
        ("ebbtide_limit_hard 5% 6%;", "invalid number of arguments in \"ebbtide_limit_hard\""),
        ("ebbtide_zone 127k;", zone),
        ("ebbtide_zone small;", zone),
        ("ebbtide_zone 0;", zone),
        ("ebbtide_zone 1m; ebbtide_zone 1m;", "\"ebbtide_zone\" directive is duplicate"),
        ("ebbtide_status_reclaim 1;", "it must be \"on\" or \"off\""),
        ("server { location / { ebbtide_status on; } }", "invalid number of arguments"),
    ] {
        // The line is that of the last directive.
        let config = in_http("# here").http(directive);
        let line = format!("nginx.conf:{}", line_of(&config, "# here") + 1);
        let (taken, said) = tested(&config);
        assert!(!taken && said.contains("[emerg]"), "{directive} is taken: {said}");
        assert!(said.contains(expected), "{directive}: {said}, not {expected}");
        assert!(said.contains(&line), "{directive}: {said}, not {line}");
    }
}

#[test]
fn limits_that_contradict_each_other_stop_it() {
    let _beside = beside();
    let hard_soft = "\"ebbtide_limit_hard\" must not be less than \"ebbtide_limit_soft\"";
    let hard_retain = "\"ebbtide_limit_hard\" must not be less than \"ebbtide_retain\"";
    let soft_retain = "\"ebbtide_limit_soft\" must not be less than \"ebbtide_retain\"";
    for (directives, expected) in [
        ("ebbtide_limit_soft 200m; ebbtide_limit_hard 100m;", hard_soft),
        ("ebbtide_retain 200m; ebbtide_limit_hard 100m;", hard_retain),
        ("ebbtide_limit_soft 80%; ebbtide_limit_hard 40%;", hard_soft),
        ("ebbtide_retain 200m; ebbtide_limit_soft 100m;", soft_retain),
    ] {
        let config = in_http(directives);
        // The end of the block, for the directives may stand anywhere in it.
        let line = format!("nginx.conf:{}", config.text(1).trim_end().lines().count());
        let (taken, said) = tested(&config);
        assert!(!taken && said.contains(expected), "{directives}: {said}");
        assert!(said.contains(&line), "{directives}: {said}, not {line}");
    }
}

#[test]
fn directives_have_their_places() {
    let _beside = beside();
    let http_only = [
        "ebbtide on;",
        "ebbtide_idle 1s;",
        "ebbtide_step 1ms;",
        "ebbtide_decay 1s;",
        "ebbtide_retain 1m;",
        "ebbtide_limit_soft 1g;",
        "ebbtide_limit_hard 1g;",
        "ebbtide_zone 1m;",
    ];
    let refused = |config: &Config, directive: &str| {
        let name = directive.split([' ', ';']).next().expect("a word");
        let (taken, said) = tested(config);
        let expected = format!("\"{name}\" directive is not allowed here");
        assert!(!taken && said.contains(&expected), "{directive}: {said}");
    };
    for directive in http_only {
        let text = format!("location /here {{ {directive} }}\n");
        let mut config = Config::new(Modules::First);
        config.server += &text;
        refused(&config, directive);
        refused(&in_http(&format!("server {{ {directive} }}")), directive);
    }
    for directive in ["ebbtide_status;", "ebbtide on;", "ebbtide_status_reclaim on;"] {
        refused(&Config::new(Modules::First).top(directive), directive);
    }
    refused(&in_http("ebbtide_status;"), "ebbtide_status;");
    refused(&in_http("server { ebbtide_status; }"), "ebbtide_status;");
}

/// A line of what was said with this text at this level.
pub fn says(said: &str, level: &str, text: &str) -> bool {
    said.lines().any(|line| line.contains(level) && line.contains(text))
}

#[test]
fn settings_without_effect_are_reported() {
    let _beside = beside();
    let given = "\"ebbtide_idle\", \"ebbtide_limit_soft\", \"ebbtide_zone\"";
    let directives = "ebbtide_zone 2m; ebbtide_limit_soft 100m; ebbtide_idle 2s;";
    let off = in_http(&format!("ebbtide off; {directives}"));
    let all = "ebbtide_step 1ms; ebbtide_decay 0; ebbtide_retain 0; ebbtide_limit_hard off;";
    let none =
        "\"ebbtide_status_reclaim\" has no effect: there is no \"ebbtide_status\" where it stands";
    let mut misplaced = in_http("");
    misplaced.server += "location /other { ebbtide_status_reclaim on; return 204; }\n";
    let mut inherited = Config::new(Modules::Alone).http("ebbtide_status_reclaim on;");
    inherited.server = String::from("location / { return 204; }\n");
    for (config, expected) in [
        (off, format!("\"ebbtide\" is off, so these have no effect: {given}")),
        (
            in_http(&format!("ebbtide off; {all}")),
            "\"ebbtide_step\", \"ebbtide_decay\", \"ebbtide_retain\", \"ebbtide_limit_hard\""
                .into(),
        ),
        (
            Config::new(Modules::Alone).http(directives),
            format!("the Lua module is not loaded, so these have no effect: {given}"),
        ),
        (misplaced.clone(), format!("{none}, in nginx.conf:{}", line_of(&misplaced, "/other"))),
        (inherited.clone(), format!("{none}, in nginx.conf:{}", line_of(&inherited, "reclaim on"))),
    ] {
        let (taken, said) = tested(&config);
        assert!(taken && says(&said, "[warn]", &expected), "{expected}: {said}");
        assert_eq!(said.matches(&expected).count(), 1, "{said}");
    }
    // What has an effect is not told of: the directive of a server is that of its locations.
    let mut nested = in_http("ebbtide_status_reclaim off;");
    nested.server += "location /above { ebbtide_status_reclaim on;
        location /above/page { ebbtide_status; } }\n";
    for config in [nested, in_http(directives), in_http("ebbtide_status_reclaim on;")] {
        let (taken, said) = tested(&config);
        assert!(taken && !said.contains("[warn]"), "{said}");
    }
}

/// Whether the machine has a limit for this test's cgroup is not this test's to say.
#[test]
fn without_a_limit_of_the_cgroup_what_depends_on_it_is_off_and_reported() {
    let _beside = beside();
    let none = "is a share of the memory limit of the cgroup, and the cgroup of nginx has none";
    let until = "\"ebbtide_limit_soft\" is off until the cgroup of nginx has a memory limit";
    for (directive, expected) in [
        (
            "ebbtide_limit_soft 80%;",
            format!("\"ebbtide_limit_soft\" has no effect: \"80%\" {none}"),
        ),
        (
            "ebbtide_limit_hard 90%;",
            format!("\"ebbtide_limit_hard\" has no effect: \"90%\" {none}"),
        ),
        ("ebbtide_limit_soft cgroup;", until.to_owned()),
    ] {
        let (taken, said) = tested(&in_http(directive));
        let there_is_a_limit = !said.contains("[warn]");
        assert!(taken && (there_is_a_limit || says(&said, "[warn]", &expected)), "{said}");
    }
}

#[test]
fn a_bad_value_in_the_environment_stops_it_with_the_true_reason() {
    let _beside = beside();
    let own = "ebbtide: in the environment of nginx";
    let env = "ebbtide: in an \"env\" directive";
    let retain = "EBBTIDE_RETAIN=banana: takes a number from 0 to 8t";
    let checked = "EBBTIDE_CHECKED=7: takes off, on or sample";
    // A directive beside it says the same option, or another one.
    for http in ["", "ebbtide_retain 1m;", "ebbtide_decay 2s;"] {
        for modules in [Modules::First, Modules::Last, Modules::Alone] {
            let config = Config::new(modules).http(http);
            let config = config.environment("EBBTIDE_RETAIN", "banana");
            let (taken, said) = tested(&config);
            assert!(!taken && says(&said, "[emerg]", &format!("{own}: {retain}")), "{said}");
        }
    }
    let in_front = in_http("").top("env EBBTIDE_CHECKED=7;");
    let (taken, said) = tested(&in_front);
    assert!(!taken && says(&said, "[emerg]", &format!("{env}: {checked}")), "{said}");
    let crossing = in_http("ebbtide_limit_hard 64m;").environment("EBBTIDE_LIMIT_SOFT", "1g");
    let (taken, said) = tested(&crossing);
    let reason = "no heap can be made with these directives and the environment of nginx: \
                  EBBTIDE_LIMIT_SOFT=1g: is above limit_hard=64m";
    assert!(!taken && says(&said, "[emerg]", reason), "{said}");
    // Behind `http` the VM is there already.
    let base = in_http("").text(1) + "env EBBTIDE_CHECKED=7;\n";
    let folder = Folder::new();
    let mut command = folder.nginx(&in_http(""), 1);
    std::fs::write(folder.file("nginx.conf"), base).expect("it can be written");
    let said = text(&command.arg("-t").output().expect("nginx can be run"));
    assert!(says(&said, "[warn]", &format!("{env}: {checked}")), "{said}");
    // Nobody reads them.
    let off = in_http("ebbtide off;").environment("EBBTIDE_RETAIN", "banana");
    assert!(tested(&off).0);

    // As it starts, too, and its log says so.
    let folder = Folder::new();
    let config = in_http("").environment("EBBTIDE_RETAIN", "banana");
    let output = folder.nginx(&config, free_port()).output().expect("nginx can be run");
    let log = std::fs::read_to_string(folder.file("error.log")).expect("it has a log");
    assert!(
        !output.status.success() && says(&log, "[emerg]", &format!("{own}: {retain}")),
        "{log}"
    );
}

/// What the library refuses with these directives is refused before any VM is made.
#[test]
fn a_variable_that_contradicts_a_directive_stops_it_with_the_true_reason() {
    let _beside = beside();
    let own = "no heap can be made with these directives and the environment of nginx:";
    let env = "no heap can be made with these directives and the \"env\" directives:";
    let hard = "which the heap does not exceed";
    for (directive, variable, value, expected) in [
        (
            "ebbtide_limit_hard 64m;",
            "EBBTIDE_RETAIN",
            "65m",
            format!("EBBTIDE_RETAIN=65m: is above limit_hard=64m, {hard}"),
        ),
        (
            "ebbtide_limit_soft 64m;",
            "EBBTIDE_RETAIN",
            "65m",
            "EBBTIDE_RETAIN=65m: is above limit_soft=64m".into(),
        ),
        (
            "ebbtide_retain 64m;",
            "EBBTIDE_LIMIT_SOFT",
            "63m",
            "retain=64m: is above EBBTIDE_LIMIT_SOFT=63m".into(),
        ),
        (
            "ebbtide_retain 64m;",
            "EBBTIDE_LIMIT_HARD",
            "63m",
            format!("retain=64m: is above EBBTIDE_LIMIT_HARD=63m, {hard}"),
        ),
    ] {
        let handed_on = in_http(directive).top(&format!("env {variable}={value};"));
        let started_with = in_http(directive).environment(variable, value);
        for (config, where_) in [(started_with, own), (handed_on, env)] {
            let (taken, said) = tested(&config);
            let reason = format!("{where_} {expected}");
            assert!(!taken && says(&said, "[emerg]", &reason), "{reason}: {said}");
        }
    }
    for directive in ["ebbtide_limit_hard 64m;", "ebbtide_limit_soft 64m;"] {
        let (taken, said) = tested(&in_http(directive).environment("EBBTIDE_RETAIN", "64m"));
        assert!(taken && !said.contains("ebbtide:"), "{said}");
    }
    // A directive wins over a variable, and there is no limit without one.
    for directive in ["ebbtide_retain 1m; ebbtide_limit_hard 64m;", "ebbtide_decay 1s;"] {
        let (taken, said) = tested(&in_http(directive).environment("EBBTIDE_RETAIN", "1g"));
        assert!(taken && !said.contains("ebbtide:"), "{directive}: {said}");
    }
}

#[test]
fn a_variable_without_effect_is_reported_once() {
    let _beside = beside();
    let config = in_http("").environment("EBBTIDE_CHEKED", "1").environment("EBBTIDE_AUTO", "");
    let config = config.workers(2).environment("EBBTIDE_RETAIN", "1m");
    let nginx = Nginx::start(&config.clone());
    nginx.get("/light");
    nginx.reload();
    let text = "in the environment of nginx: unknown option EBBTIDE_CHEKED; \
                did you mean EBBTIDE_CHECKED?";
    let log = nginx.log();
    assert!(says(&log, "[warn]", text), "{log}");
    assert_eq!(log.matches("EBBTIDE_").count(), 2, "{log}");
    let (taken, said) = tested(&in_http("").top("env EBBTIDE_DECAY=500;"));
    let text =
        "in an \"env\" directive: unknown option EBBTIDE_DECAY; did you mean EBBTIDE_DECAY_MS?";
    assert!(taken && says(&said, "[warn]", text), "{said}");
    // Those that are known, and those of others, are not told of.
    let known = in_http("").top("env EBBTIDE_CHECKED; env EBBTIDE_DECAY_MS=500; env PATH=/bin;");
    let known = known.environment("EBBTIDE_STEP_US", "300").environment("EBBTIDER", "1");
    let (taken, said) = tested(&known);
    assert!(taken && !said.contains("[warn]"), "{said}");
}

#[test]
fn variables_of_heaps_without_effect_are_reported_while_it_is_off() {
    let _beside = beside();
    let off = || in_http("ebbtide off;");
    let config = off().environment("EBBTIDE_CHECKED", "1").environment("EBBTIDE_LIMIT_HARD", "64m");
    let reason = "\"ebbtide\" is off, so these have no effect unless Lua calls attach():";
    let (taken, said) = tested(&config);
    let line = said.lines().find(|line| line.contains("[warn]") && line.contains(reason));
    let names = line.and_then(|line| line.split(&format!("{reason} ")).nth(1)).expect("a warning");
    let mut names: Vec<&str> = names.split(", ").collect();
    names.sort_unstable();
    assert!(
        taken && line.is_some_and(|line| line.contains("in the environment of nginx")),
        "{said}"
    );
    assert_eq!(names, ["EBBTIDE_CHECKED", "EBBTIDE_LIMIT_HARD"]);
    let (taken, said) = tested(&off().top("env EBBTIDE_RETAIN=1m;"));
    let text = format!("in an \"env\" directive: {reason} EBBTIDE_RETAIN");
    assert!(taken && says(&said, "[warn]", &text), "{said}");
    // Where they have an effect, or have no value, nothing is told.
    for config in [
        in_http("").environment("EBBTIDE_CHECKED", "1"),
        off().environment("EBBTIDE_CHECKED", "").environment("EBBTIDER", "1"),
        off().environment("EBBTIDE_PRELOAD", "/x"),
        under_run(off()).environment("EBBTIDE_CHECKED", "1"),
    ] {
        let (taken, said) = tested(&config);
        assert!(taken && !said.contains("[warn]"), "{said}");
    }
    // A reload does not tell again.
    let nginx = Nginx::start(&config);
    nginx.reload();
    assert_eq!(nginx.log().matches(reason).count(), 1, "{}", nginx.log());
}

#[test]
fn variables_of_the_preload_library_are_reported_without_it() {
    let _beside = beside();
    let set = |config: Config| {
        let config = config.environment("EBBTIDE_VERBOSE", "1");
        config.environment("EBBTIDE_REPORT", "on").environment("EBBTIDE_REPORT_SIGNAL", "USR2")
    };
    let reason =
        "in the environment of nginx: these have an effect under \"ebbtide run\" only: EBBTIDE_";
    for http in ["", "ebbtide off;"] {
        let (taken, said) = tested(&set(in_http(http)));
        assert!(taken && says(&said, "[warn]", reason), "{said}");
        for name in ["EBBTIDE_VERBOSE", "EBBTIDE_REPORT", "EBBTIDE_REPORT_SIGNAL"] {
            assert!(says(&said, reason, name), "{said}");
        }
        assert_eq!(said.matches("[warn]").count(), 1, "{said}");
        let (taken, said) = tested(&under_run(set(in_http(http))));
        assert!(taken && !said.contains("[warn]"), "{said}");
    }
    let nginx = Nginx::start(&set(in_http("")));
    nginx.reload();
    assert_eq!(nginx.log().matches(reason).count(), 1, "{}", nginx.log());
}
