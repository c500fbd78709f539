//! Where a test runs: its path says so. Ignored tests in modules named `long` are for
//! `make test-long`, those in modules named `full` for `make test-full`, and all others for
//! `make test`.

/// `long! { first second }` makes functions of the module, which stand there without `#[test]`,
/// the tests `long::first` and `long::second`.
#[macro_export]
macro_rules! long {
    ($($name:ident)+) => {
        mod long {
            $(#[test]
            #[ignore = "make test-long"]
            fn $name() {
                super::$name();
            })+
        }
    };
}
