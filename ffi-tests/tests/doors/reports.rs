//! What `report()` says, and the lines on standard error.

use std::fs;

use ebbtide_ffi_tests::{finish, scratch};

use crate::luajits::{command, everywhere, luajits};

ebbtide_ffi_tests::long! {
    reports_of_what_may_go_back_come_true
}

/// What `report()` promises comes true, as the kernel counts it.
#[test]
fn reports_of_large_blocks_come_true() {
    everywhere("lua_module_report.lua", &["large"]);
    everywhere("lua_module_report.lua", &["large", "attach"]);
}

fn reports_of_what_may_go_back_come_true() {
    for mode in ["reclaim", "attach", "rest"] {
        everywhere("lua_module_report.lua", &[mode]);
    }
}

/// Settings that do nothing, or nothing yet, are in the report, and on standard error once.
#[test]
fn settings_without_effect_are_reported() {
    let unknown = "unknown option EBBTIDE_DECAY; did you mean EBBTIDE_DECAY_MS?";
    let unused =
        "ebbtide: EBBTIDE_CHECKED=1 had no effect: no VM had a heap; attach() gives it one\n";
    let waits = "In the environment, without effect before attach(): EBBTIDE_CHECKED=1";
    for program in luajits() {
        let said = |arguments: &[&str]| {
            let mut command = command(program, &[], "lua_module_report.lua", arguments);
            let output = finish(command.env("EBBTIDE_CHECKED", "1").env("EBBTIDE_DECAY", "500"));
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
            (text(output.stdout), text(output.stderr))
        };
        let (report, errors) = said(&["environment"]);
        assert!(report.contains(unknown) && report.contains(waits), "{report}");
        assert_eq!(errors, format!("ebbtide: {unknown}\n{unused}"));
        let (report, errors) = said(&["environment", "attach"]);
        assert!(report.contains(unknown) && !report.contains("without effect"), "{report}");
        assert_eq!(errors, format!("ebbtide: {unknown}\n"));
        // Also where the end of the process is all that comes, but for a child of a fork.
        for way in ["exit", "fork"] {
            let errors = said(&["environment", way]).1;
            assert_eq!(errors, format!("ebbtide: {unknown}\n{unused}"), "{way}");
        }
        // Not in another file that has become descriptor 2.
        let errors = said(&["environment", "other"]).1;
        assert_eq!(errors, format!("ebbtide: {unknown}\n"));
    }
}

/// Where attach() was tried in vain, nobody is told to call it.
#[test]
fn a_refused_attach_is_the_reason_at_the_end() {
    let expected = "ebbtide: EBBTIDE_RETAIN=9t had no effect: a heap was refused: \
                    EBBTIDE_RETAIN=9t: takes a number from 0 to 8t";
    for program in luajits() {
        let mut command =
            command(program, &[], "lua_module_report.lua", &["environment", "refused"]);
        let output = finish(command.env("EBBTIDE_RETAIN", "9t"));
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(errors.starts_with(expected) && errors.lines().count() == 1, "{errors}");
    }
}

#[test]
fn variables_of_the_preload_library_are_reported_without_it() {
    for program in luajits() {
        let arguments = ["environment", "attach"];
        let mut command = command(program, &[], "lua_module_report.lua", &arguments);
        let output = finish(command.env("EBBTIDE_REPORT", "on").env("EBBTIDE_VERBOSE", "off"));
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(errors, "ebbtide: EBBTIDE_REPORT has an effect under ebbtide run only\n");
    }
}

/// A file that is opened after descriptor 2 was closed, and before the library is loaded.
#[test]
fn a_database_that_became_descriptor_2_stays_as_it_is() {
    let database = scratch("doors-database").join("database");
    for program in luajits() {
        let arguments = [database.to_str().expect("UTF-8")];
        let mut command = command(program, &[], "lua_module_database.lua", &arguments);
        finish(command.env("EBBTIDE_CHEKED", "1").env("EBBTIDE_CHECKED", "1"));
        assert_eq!(fs::read_to_string(&database).expect("a database"), "HEADER\nEND\n");
    }
}
