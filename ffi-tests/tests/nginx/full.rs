//! What takes too long for `make test-long`. `make test-full` runs these tests besides.

use crate::long::{ORDERS, tides};

#[test]
#[ignore = "ten minutes: make test-full"]
fn workers_exhale_after_many_loads_and_reloads() {
    for (build, modules) in ORDERS {
        tides(build, modules, 30);
    }
}
