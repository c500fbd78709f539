//! What is said of settings without effect.

use crate::config::{Config, Modules};
use crate::directives::{in_http, says, tested};
use crate::preloaded::under_run;
use crate::server::{Nginx, beside};

const UNKNOWN: &str = "unknown option EBBTIDE_CHEKED; did you mean EBBTIDE_CHECKED?";

fn alone_with(http: &str) -> Config {
    Config::new(Modules::Alone).http(http)
}

#[test]
fn a_switch_of_the_preload_library_that_is_off_asks_for_nothing() {
    let _beside = beside();
    for http in ["", "ebbtide off;"] {
        for value in ["off", "0", ""] {
            let config = in_http(http).environment("EBBTIDE_REPORT", value);
            let (taken, said) = tested(&config.environment("EBBTIDE_VERBOSE", value));
            assert!(taken && !said.contains("[warn]"), "{http} {value}: {said}");
        }
        let config = in_http(http).environment("EBBTIDE_REPORT", "off");
        let (taken, said) = tested(&config.environment("EBBTIDE_VERBOSE", "1"));
        let one = "these have an effect under \"ebbtide run\" only: EBBTIDE_VERBOSE";
        assert!(taken && said.lines().any(|line| line.ends_with(one)), "{said}");
    }
}

#[test]
fn a_misspelt_variable_is_reported_as_such_while_it_is_off() {
    let _beside = beside();
    let off = || in_http("ebbtide off;");
    let (own, env) =
        ("ebbtide: in the environment of nginx: ", "ebbtide: in an \"env\" directive: ");
    let reason = "\"ebbtide\" is off, so these have no effect unless Lua calls attach(): ";
    let misspelt = |config: Config| config.environment("EBBTIDE_CHEKED", "1");
    let (taken, said) = tested(&misspelt(off()));
    assert!(taken && says(&said, "[warn]", &format!("{own}{UNKNOWN}")), "{said}");
    assert_eq!(said.matches("[warn]").count(), 1, "{said}");
    let (taken, said) = tested(&off().top("env EBBTIDE_CHEKED=1;"));
    assert!(taken && says(&said, "[warn]", &format!("{env}{UNKNOWN}")), "{said}");
    assert_eq!(said.matches("[warn]").count(), 1, "{said}");
    // One beside it that is right is told of in the old words. A bad value stops nothing.
    let both = misspelt(off()).environment("EBBTIDE_RETAIN", "banana");
    let (taken, said) = tested(&both);
    assert!(taken && says(&said, "[warn]", &format!("{own}{UNKNOWN}")), "{said}");
    let line = format!("{own}{reason}EBBTIDE_RETAIN");
    assert!(said.lines().any(|said| said.ends_with(&line)), "{said}");
    assert_eq!(said.matches("[warn]").count(), 2, "{said}");
    // Once, whatever a reload switches.
    let both = misspelt(off()).environment("EBBTIDE_RETAIN", "1m");
    let nginx = Nginx::start(&both);
    nginx.write_config(&in_http(""));
    nginx.reload();
    nginx.write_config(&both);
    nginx.reload();
    for text in [UNKNOWN, reason] {
        assert_eq!(nginx.log().matches(text).count(), 1, "{}", nginx.log());
    }
}

#[test]
fn variables_of_heaps_without_effect_are_reported_where_no_lua_is() {
    let _beside = beside();
    let reason = "the Lua module is not loaded, so these have no effect: ";
    let (own, env) =
        ("ebbtide: in the environment of nginx: ", "ebbtide: in an \"env\" directive: ");
    let retain = |config: Config| config.environment("EBBTIDE_RETAIN", "1m");
    let set = retain(alone_with("ebbtide_idle 2s;")).top("env EBBTIDE_CHECKED=1;");
    let (taken, said) = tested(&set);
    for line in [
        format!("{reason}\"ebbtide_idle\""),
        format!("{own}{reason}EBBTIDE_RETAIN"),
        format!("{env}{reason}EBBTIDE_CHECKED"),
    ] {
        assert!(taken && said.lines().any(|said| said.ends_with(&line)), "{line}: {said}");
    }
    // What is misspelt, or is no heap's, is told once, and as what it is.
    let config =
        alone_with("").environment("EBBTIDE_CHEKED", "1").environment("EBBTIDE_REPORT", "1");
    let (taken, said) = tested(&config);
    assert!(taken && says(&said, "[warn]", UNKNOWN) && !said.contains(reason), "{said}");
    assert_eq!(said.matches("EBBTIDE_CHEKED").count(), 1, "{said}");
    // Where they have an effect, or have none for another reason, this is not said.
    for config in [
        retain(in_http("")),
        retain(alone_with("ebbtide off;")),
        under_run(retain(alone_with(""))),
        alone_with("").environment("EBBTIDE_RETAIN", ""),
    ] {
        let (taken, said) = tested(&config);
        assert!(taken && !said.contains(reason), "{said}");
    }
    // A reload does not tell again.
    let nginx = Nginx::start(&retain(alone_with("")));
    nginx.reload();
    assert_eq!(nginx.log().matches(reason).count(), 1, "{}", nginx.log());
}
