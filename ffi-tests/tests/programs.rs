//! The C and C++ programs of `ffi-tests/c`, each in the ways in which it says something new: those
//! before the bar in `make test`, those behind it in `make test-long`.

use std::thread;

/// One test for each program and way of running it.
macro_rules! programs {
    ($($program:ident $source:literal: $($way:ident)* $(| $($late:ident)+)?;)+) => {
        $(mod $program {
            $(#[test]
            fn $way() {
                ebbtide_ffi_tests::$way($source);
            })*

            $(mod long {
                $(#[test]
                #[ignore = "make test-long"]
                fn $late() {
                    ebbtide_ffi_tests::$late($source);
                })+
            })?
        })+
    };
}

/// One test for each program that waits most of the time: all ways of running it at once.
macro_rules! waiting_programs {
    ($($program:ident $source:literal: $($way:ident)+ $(| $($late:ident)+)?;)+) => {
        $(#[test]
        fn $program() {
            at_once($source, &[$((stringify!($way), ebbtide_ffi_tests::$way)),+]);
        })+

        mod long {
            $($(#[test]
            #[ignore = "make test-long"]
            fn $program() {
                super::at_once($source, &[$((stringify!($late), ebbtide_ffi_tests::$late)),+]);
            })?)+
        }
    };
}

/// A way of running a program, by its name.
type Way = (&'static str, fn(&str));

/// Runs a program in each of the ways.
fn at_once(source: &str, ways: &[Way]) {
    thread::scope(|scope| {
        for (name, way) in ways {
            let thread = thread::Builder::new().name(format!("{source}, {name}"));
            thread.spawn_scoped(scope, || way(source)).expect("a thread");
        }
    });
}

programs! {
    header "interface/header.c": shared cplusplus | archive sanitized;
    calls "heap/calls.c": shared limited | archive sanitized valgrind;
    model "heap/model.c": shared | limited archive sanitized valgrind;
    invalid_pointers "heap/invalid_pointers.c": shared | limited archive sanitized;
    reclaim "reclaim/reclaim.c": shared | limited archive sanitized;
    breathing "reclaim/breathing.c": shared;
    step_budget "reclaim/step_budget.c": shared;
    policy_stats "reclaim/policy_stats.c": shared;
    pressure "limits/pressure.c": shared | limited;
    hard_limit "limits/hard_limit.c": shared limited;
    history "reclaim/history.c": shared | limited sanitized;
    stats "heap/stats.c": shared | limited archive sanitized valgrind;
    options "interface/options.c": shared | limited archive sanitized;
    environment "interface/environment.c": shared | archive sanitized;
    standard_error "interface/standard_error.c": shared | archive sanitized;
    limits "limits/limits.c": shared;
    many "heap/many.c": shared | limited;
    handover "heap/handover.c": shared | limited archive sanitized valgrind;
    signals "heap/signals.c": shared | limited archive sanitized;
    fork "heap/fork.c": shared | limited sanitized;
    throttled "reclaim/throttled.c": wrapped | with_quota;
    descriptors "reclaim/descriptors.c": shared;
    allocator "interface/allocator.cpp": cplusplus;
}

waiting_programs! {
    background "reclaim/background.c": shared | limited archive sanitized;
    background_process "reclaim/background_process.c": shared | limited archive sanitized;
    background_storm "reclaim/background_storm.c": shared | limited;
    wakeups "reclaim/wakeups.c": wrapped;
    purge_refused "faults/purge_refused.c": shared | limited;
}
