//! Programs that wait where the preload library sees nothing: free memory goes back all the same.

use std::thread;

use crate::{program, run, script};
use ebbtide_ffi_tests::text_of;

/// A program on the shared LuaJIT that drops all it has, and then waits.
fn drops(kind: &str, way: &str, most_mb: &str) -> String {
    let mut command = run(&[]);
    command.arg(program("run")).arg(script("sleeper.lua")).args([kind, way, most_mb]);
    text_of(&mut command)
}

#[test]
fn free_memory_goes_back_whatever_a_program_waits_in() {
    thread::scope(|scope| {
        for way in ["nanosleep", "ppoll", "read", "work"] {
            for (kind, most_mb) in [("strings", "24"), ("tables", "20"), ("scattered", "30")] {
                scope.spawn(move || println!("{way}, {kind}: {}", drops(kind, way, most_mb)));
            }
        }
    });
}
