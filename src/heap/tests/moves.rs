//! Large blocks that move, or that the kernel refuses to move.

use super::breathing::tested;
use super::*;
use crate::heap::recall;
use crate::units::PAGE;

impl Tested {
    /// Which block of a size or more is the lowest.
    fn lowest(&self, size: usize) -> usize {
        let long = self.live.iter().enumerate().filter(|(_, block)| block.size >= size);
        long.min_by_key(|(_, block)| block.at).expect("it lives").0
    }
}

#[test]
fn what_was_moved_away_is_no_return_and_its_use_no_mistake() {
    let mut tested = tested(&[(Key::RemapMin, 1 << 17)]);
    for round in 0..20 {
        assert!(tested.allocate(1 << 19));
        assert!(tested.allocate(1 << 19));
        // Half of what it leaves is used again at once.
        let index = tested.lowest(1 << 19);
        tested.resize(index, 1 << 20, OldSize::Right);
        assert!(tested.allocate(1 << 18));
        if round % 3 == 0 {
            let index = tested.lowest(1 << 20);
            tested.free(index, OldSize::Right);
            tested.act(&Step::ReclaimAll);
            (0..40).for_each(|_| assert!(tested.allocate(3 * PAGE)));
            (0..30).for_each(|_| tested.free(tested.lowest(3 * PAGE), OldSize::Right));
        }
        let recall = &tested.heap().runs.recall;
        for cause in 0..3 {
            assert!(recall.refaulted[cause] <= recall.returned[cause], "{recall:?}");
        }
        tested.heap().check();
    }
    assert!(tested.os.world().moves > 10 && tested.os.world().renewals > 0);
    let recall = &tested.heap().runs.recall;
    assert!(recall::total(&recall.returned) > 100, "{recall:?}");
    tested.free_all();
}
