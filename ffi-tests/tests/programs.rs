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

programs! {
    header.c: shared archive cplusplus sanitized;
    calls.c: shared archive sanitized valgrind;
    model.c: shared archive sanitized valgrind;
    hostile.c: shared archive sanitized;
    reclaim.c: shared archive sanitized;
    breathing.c: shared;
    steps.c: shared;
    mood.c: shared;
    pressure.c: shared;
    hard_limit.c: shared;
    history.c: shared sanitized;
    refusal.c: shared;
    stats.c: shared archive sanitized valgrind;
    options.c: shared archive sanitized;
    environment.c: shared archive sanitized;
    standard_error.c: shared archive sanitized;
    limits.c: shared;
    many.c: shared;
    handover.c: shared archive sanitized valgrind;
    signals.c: shared archive sanitized;
    fork.c: shared sanitized;
    background.c: shared archive sanitized;
    background_storm.c: shared;
    descriptors.c: shared;
    allocator.cpp: cplusplus;
}
