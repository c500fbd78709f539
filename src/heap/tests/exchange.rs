//! Large blocks that make the heap longer, and the dirty pages that go back for them.

use super::breathing::tested;
use super::*;
use crate::units::Pages;

/// Doubles two blocks in turn from 64 KiB to 16 MiB, so that each is in the other's way. Returns
/// the most bytes that were dirty, but for the place just left.
fn double(tested: &mut Tested) -> usize {
    let mut most = 0;
    (0..2).for_each(|_| assert!(tested.allocate(1 << 16)));
    for size in (17..=24).map(|power| 1 << power) {
        for _ in 0..2 {
            // `resize` puts the block last.
            tested.resize(0, size, OldSize::Right);
            most = most.max(tested.heap().runs.dirty.bytes().saturating_sub(size / 2));
            tested.heap().check();
        }
    }
    tested.check_contents();
    tested.free_all();
    most
}

const NO_MOVES: (Key, i64) = (Key::RemapMin, 1 << 40);

#[test]
fn blocks_that_double_leave_little_dirty_behind_them() {
    let most = |settings: &[_]| double(&mut tested(settings));
    let left = most(&[NO_MOVES]);
    assert!(left < 4 << 20, "{left} is left");
    assert!(most(&[NO_MOVES, (Key::Auto, 0)]) > 8 << 20, "nothing goes by itself");
    let retained = most(&[NO_MOVES, (Key::Retain, 8 << 20)]);
    assert!((3 << 20..8 << 20).contains(&retained), "{retained} stays");
}

#[test]
fn a_block_that_fits_takes_nothing_from_others() {
    let mut tested = tested(&[NO_MOVES, (Key::Retain, 64 << 20)]);
    for size in [8 << 20, 1 << 15, 4 << 20, 1 << 15] {
        assert!(tested.allocate(size));
    }
    tested.free(2, OldSize::Right);
    tested.free(0, OldSize::Right);
    let dirty = tested.heap().runs.dirty;
    assert!(tested.allocate(6 << 20));
    assert_eq!(tested.heap().runs.dirty, dirty - Pages((6 << 20) / 4096));
    tested.free_all();
}
