//! `nginx -t`: what configurations it takes, and what it says of those that it does not.

use crate::server::{Config, Folder, Modules, beside, free_port, text};

/// What `nginx -t` says of a configuration, and whether it takes it.
fn tested(config: &Config) -> (bool, String) {
    let folder = Folder::new();
    let output = folder.nginx(config, free_port()).arg("-t").output().expect("nginx can be run");
    let said = text(&output).replace(&folder.file("").display().to_string(), "");
    (output.status.success(), said)
}

fn in_http(directive: &str) -> Config {
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
        "ebbtide_retain 0;",
        "ebbtide_retain 8m;",
        "ebbtide_limit_soft off;",
        "ebbtide_limit_soft 100m;",
        "ebbtide_limit_soft cgroup;",
        "ebbtide_limit_soft 1%;",
        "ebbtide_limit_hard off;",
        "ebbtide_limit_hard 2g;",
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

#[test]
fn bad_values_stop_it_with_the_line_and_the_range() {
    let _beside = beside();
    let idle = "\"ebbtide_idle\" must be from 10ms to 1h";
    let decay = "\"ebbtide_decay\" must be a time from 0 to 1h";
    let step = "\"ebbtide_step\" must be from 50us to 100ms";
    let zone = "\"ebbtide_zone\" must be off or a size from 128k";
    let retain = "\"ebbtide_retain\" must be a size such as 8m";
    let share = "a share of the cgroup's memory must be from 1% to 100%";
    let limit = "must be off, a size from 8m, or a share such as 80%";
    for (directive, expected) in [
        ("ebbtide maybe;", "it must be \"on\" or \"off\""),
        ("ebbtide on; ebbtide off;", "\"ebbtide\" directive is duplicate"),
        ("ebbtide on off;", "invalid number of arguments in \"ebbtide\" directive"),
        ("ebbtide_idle 9ms;", idle),
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
        ("ebbtide_decay 3601s;", "decay_ms: 3601000 is not from 0 to 3600000"),
        ("ebbtide_decay 1s; ebbtide_decay 1s;", "\"ebbtide_decay\" directive is duplicate"),
        ("ebbtide_decay 0; ebbtide_decay 0;", "\"ebbtide_decay\" directive is duplicate"),
        ("ebbtide_retain much;", retain),
        ("ebbtide_retain -1;", retain),
        ("ebbtide_retain 9000000000g;", retain),
        ("ebbtide_retain 1m; ebbtide_retain 1m;", "\"ebbtide_retain\" directive is duplicate"),
        ("ebbtide_limit_soft 0;", limit),
        ("ebbtide_limit_soft banana;", limit),
        ("ebbtide_limit_soft 0%;", share),
        ("ebbtide_limit_soft 101%;", share),
        ("ebbtide_limit_soft %;", share),
        ("ebbtide_limit_soft 10m; ebbtide_limit_soft 20m;", "directive is duplicate"),
        ("ebbtide_limit_soft off; ebbtide_limit_soft 20m;", "directive is duplicate"),
        ("ebbtide_limit_hard cgroup;", limit),
        ("ebbtide_limit_hard 0;", limit),
        ("ebbtide_limit_hard 100k;", limit),
        ("ebbtide_limit_hard 200%;", share),
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
    for directives in [
        "ebbtide_limit_soft 200m; ebbtide_limit_hard 100m;",
        "ebbtide_retain 200m; ebbtide_limit_hard 100m;",
        "ebbtide_limit_soft 80%; ebbtide_limit_hard 40%;",
        "ebbtide_retain 200m; ebbtide_limit_soft 100m;",
    ] {
        let config = in_http(directives);
        // The end of the block, for the directives may stand anywhere in it.
        let line = format!("nginx.conf:{}", config.text(1).lines().count());
        let (taken, said) = tested(&config);
        assert!(!taken && said.contains("must not be less than"), "{directives}: {said}");
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
