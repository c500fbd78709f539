//! The C and C++ programs of `ffi-tests/c`, each in the ways in which it says something new.

/// One test for each program and way of running it.
macro_rules! programs {
    ($($program:ident.$extension:ident: $($way:ident)+;)+) => {
        $(mod $program {
            $(#[test]
            fn $way() {
                let source = concat!(stringify!($program), ".", stringify!($extension));
                ebbtide_ffi_tests::$way(source);
            })+
        })+
    };
}

/// One test for each program that waits most of the time: all ways of running it at once.
macro_rules! waiting_programs {
    ($($program:ident.$extension:ident: $($way:ident)+;)+) => {
        $(#[test]
        fn $program() {
            let source = concat!(stringify!($program), ".", stringify!($extension));
            let ways = [$((stringify!($way), ebbtide_ffi_tests::$way as fn(&str))),+];
            std::thread::scope(|scope| {
                for (name, way) in ways {
                    let thread = std::thread::Builder::new().name(format!("{source}, {name}"));
                    thread.spawn_scoped(scope, move || way(source)).expect("a thread");
                }
            });
        })+
    };
}

programs! {
    header.c: shared archive cplusplus sanitized;
    calls.c: shared limited archive sanitized valgrind;
    model.c: shared limited archive sanitized valgrind;
    hostile.c: shared limited archive sanitized;
    reclaim.c: shared limited archive sanitized;
    breathing.c: shared;
    steps.c: shared;
    policy_stats.c: shared;
    pressure.c: shared limited;
    hard_limit.c: shared limited;
    history.c: shared limited sanitized;
    stats.c: shared limited archive sanitized valgrind;
    options.c: shared limited archive sanitized;
    environment.c: shared archive sanitized;
    standard_error.c: shared archive sanitized;
    limits.c: shared;
    many.c: shared limited;
    handover.c: shared limited archive sanitized valgrind;
    signals.c: shared limited archive sanitized;
    fork.c: shared limited sanitized;
    throttled.c: wrapped with_quota;
    descriptors.c: shared;
    allocator.cpp: cplusplus;
}

waiting_programs! {
    background.c: shared limited archive sanitized;
    background_storm.c: shared limited;
    wakeups.c: shared;
    refusal.c: shared limited;
}
