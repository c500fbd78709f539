//! Settings that have no effect, and such as make no sense.

use super::*;

fn refusal(command: &mut Command) -> String {
    let (status, out, said) = outcome(command);
    assert_eq!((status, out.as_str(), said.lines().count()), (Some(125), "", 1), "{said}");
    said
}

#[test]
fn the_command_refuses_settings_that_do_not_exist() {
    for (name, nearest) in [
        ("EBBTIDE_CHEKED", "; did you mean EBBTIDE_CHECKED?"),
        ("EBBTIDE_DECAY", "; did you mean EBBTIDE_DECAY_MS?"),
        ("EBBTIDE_REPORTS", "; did you mean EBBTIDE_REPORT?"),
        ("ebbtide_retain", "; did you mean EBBTIDE_RETAIN?"),
        ("EBBTIDE_BANANA_SPLIT", "; unset it"),
    ] {
        let said = refusal(run(&["true"]).env(name, "1"));
        let expected = format!("ebbtide: {name}: there is no such setting{nearest}");
        assert!(said.starts_with(&expected), "{said}");
    }
    let said = refusal(&mut run(&["--cheked", "on", "true"]));
    assert!(said.contains("--cheked: no such option; did you mean --checked?"), "{said}");
    let said = refusal(&mut run(&["--report-signal", "KILL", "true"]));
    assert!(said.starts_with("ebbtide: --report-signal KILL: takes HUP, USR1, USR2"), "{said}");
    let said = refusal(run(&["true"]).env("EBBTIDE_REPORT_SIGNAL", "TERM"));
    assert!(said.starts_with("ebbtide: EBBTIDE_REPORT_SIGNAL=TERM: takes HUP"), "{said}");
}

#[test]
fn the_librarys_own_switches_take_on_and_off() {
    let said_with = |name: &str, value: &str| {
        let mut command = preloaded(program("run"), &installed().lib());
        complaints(command.env(name, value).arg(script("smoke.lua")))
    };
    for (name, tells) in [("EBBTIDE_REPORT", "VM 1 closed: "), ("EBBTIDE_VERBOSE", "taken over: ")]
    {
        for value in ["on", "1"] {
            let said = said_with(name, value);
            assert!(said.contains(tells) && said.lines().count() == 1, "{name}={value}: {said}");
        }
        for value in ["off", "0"] {
            assert_eq!(said_with(name, value), "", "{name}={value}");
        }
        for value in ["no", "maybe"] {
            let said = said_with(name, value);
            let expected =
                format!("ebbtide: run: {name}={value}: takes off or on; counts as off\n");
            assert_eq!(said, expected);
            let said = refusal(run(&["true"]).env(name, value));
            assert_eq!(said, format!("ebbtide: {name}={value}: takes off or on\n"));
        }
    }
}

#[test]
fn a_value_is_refused_by_the_name_that_gave_it() {
    let takes = "too small for a VM: takes 0 for no limit, or 512k and more; a number \
                 alone counts bytes, and k, m, g and t behind it are powers of 1024\n";
    let said = refusal(&mut run(&["--limit-hard", "100k", "true"]));
    assert_eq!(said, format!("ebbtide: --limit-hard 100k: {takes}"));
    let said = refusal(run(&["true"]).env("EBBTIDE_LIMIT_HARD", "100k"));
    assert_eq!(said, format!("ebbtide: EBBTIDE_LIMIT_HARD=100k: {takes}"));
    let said = refusal(&mut run(&["--retain", "30m", "--limit-hard", "20m", "true"]));
    let expected = "ebbtide: --retain 30m: is above --limit-hard 20m, which the heap does not \
                    exceed; lower the first or raise the second\n";
    assert_eq!(said, expected);
}

#[test]
fn an_empty_setting_is_none() {
    let mut command = run(&["--report"]);
    for name in ["RETAIN", "CHECKED", "CHEKED", "REPORT_SIGNAL", "PRELOAD", "VERBOSE"] {
        command.env(format!("EBBTIDE_{name}"), "");
    }
    let said = complaints(command.arg(program("run")).arg(script("smoke.lua")));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("VM 1 closed: "), "{said}");
}

#[test]
fn a_bad_value_is_said_when_the_first_vm_is_made() {
    let bad = || {
        let mut command = preloaded(program("allocators"), &installed().lib());
        command.args(["option", "retain"]);
        command
    };
    let said = complaints(bad().env("EBBTIDE_RETAIN", "banana"));
    let expected =
        "ebbtide: allocators: LuaJIT keeps its own allocator: EBBTIDE_RETAIN=banana: takes a";
    assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
    let said = complaints(bad().env("EBBTIDE_LIMIT_HARD", "100k"));
    let expected = "LuaJIT keeps its own allocator: EBBTIDE_LIMIT_HARD=100k: too small for a VM: ";
    assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
    let said = complaints(bad().env("EBBTIDE_REPORT_SIGNAL", "banana"));
    let expected = "ebbtide: allocators: EBBTIDE_REPORT_SIGNAL=banana: takes HUP, USR1";
    assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
}

#[test]
fn options_without_a_vm_to_act_on_are_said_once() {
    let said = complaints(run(&["--checked", "on"]).arg("true"));
    let expected = "ebbtide: true: EBBTIDE_CHECKED=on has no effect, nothing was taken over: \
        no LuaJIT in this program (none shared, none exported)\n";
    assert_eq!(said, expected);
    // Programs that it starts have the variable, too.
    let code = "import subprocess; subprocess.run('true')";
    let said = complaints(run(&["--checked", "on"]).args([&python(), "-c", code]));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(": EBBTIDE_CHECKED=on has no effect"), "{said}");
    // Without the command nobody knows which program was meant: one with a LuaJIT.
    let bare = |program: &Path| {
        let mut command = preloaded(program, &installed().lib());
        command.env("EBBTIDE_CHECKED", "1").env("EBBTIDE_RETAIN", "1m");
        command
    };
    let said = complaints(bare(&program("run-exported")).arg(script("smoke.lua")));
    for option in ["EBBTIDE_CHECKED=1", "EBBTIDE_RETAIN=1m"] {
        assert!(said.contains(option), "{said}");
    }
    assert!(said.contains(" has no effect, nothing was taken over: LuaJIT is linked"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(complaints(&mut bare(Path::new("true"))), "");
    // Where a VM was taken over there is nothing to say.
    let said = complaints(run(&["--checked", "on"]).arg(program("run")).arg(script("smoke.lua")));
    assert_eq!(said, "");
}
