//! What takes too long for `make test-long`. `make test-full` runs these tests besides.

use crate::builds::WAYS;
use crate::long::tides;

#[test]
#[ignore = "several minutes: make test-full"]
fn workers_exhale_after_many_loads_and_reloads() {
    for (build, modules) in WAYS {
        tides(build, modules, 30);
    }
}
