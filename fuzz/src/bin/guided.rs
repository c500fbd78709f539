//! Programs that are changed bit by bit towards code that was not reached yet: libFuzzer. Options
//! and folders of programs are its own: `guided -max_total_time=60 corpus`.

#![no_main]

use ebbtide_fuzz::{Given, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|program: &[u8]| {
    run(&mut Given(program));
});
