//! Many VMs for a long time: for some seconds here, for as long as `MINUTES` says with `make soak`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{clean, finish, linked_with_lua};
use ebbtide_runtimes::LUAJIT;

ebbtide_ffi_tests::long! {
    a_process_ends_with_what_it_began_with
    what_is_left_behind_is_found
}

fn soak(arguments: &[&str]) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| linked_with_lua("lua/soak.c", &LUAJIT, &[]));
    let mut command = clean(program);
    command.args(arguments);
    command
}

fn a_process_ends_with_what_it_began_with() {
    let minutes = std::env::var("MINUTES").ok().and_then(|minutes| minutes.parse::<u64>().ok());
    let seconds = minutes.map_or(4, |minutes| minutes * 60).to_string();
    let output = finish(&mut soak(&[&seconds]));
    println!("{}", String::from_utf8_lossy(&output.stdout).trim_end());
}

fn what_is_left_behind_is_found() {
    for leak in ["heap", "file", "memory"] {
        let output = soak(&["2", leak]).output().expect("it runs");
        assert!(!output.status.success(), "{leak}: {output:?}");
    }
}
