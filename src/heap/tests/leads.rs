//! Where large blocks begin on their pages.

use std::collections::BTreeSet;

use super::breathing::tested;
use super::*;
use crate::units::PAGE;

fn lead(tested: &Tested, index: usize) -> usize {
    tested.live[index].at.addr() % PAGE
}

#[test]
fn large_blocks_begin_all_over_their_first_pages() {
    let mut tested = tested(&[]);
    // 2288 bytes are left over on three pages: room for 36 leads.
    (0..144).for_each(|_| assert!(tested.allocate(10_000)));
    let leads: BTreeSet<usize> = (0..144).map(|index| lead(&tested, index)).collect();
    assert!(leads.iter().all(|lead| lead % 64 == 0 && *lead <= 2288), "{leads:?}");
    assert_eq!(leads.len(), 36, "{leads:?}");
    tested.heap().check();
    tested.check_contents();
}

#[test]
fn where_nothing_is_left_over_a_large_block_begins_with_its_page() {
    let mut tested = tested(&[]);
    for size in [3 * PAGE, 3 * PAGE - 63, 64 * PAGE] {
        assert!(tested.allocate(size));
        assert_eq!(lead(&tested, tested.live.len() - 1), 0, "{size}");
    }
    tested.heap().check();
}

#[test]
fn a_large_block_keeps_its_lead_wherever_it_goes() {
    for remap_min in [4096, 1 << 30] {
        let mut tested = tested(&[(Key::RemapMin, remap_min)]);
        (0..5).for_each(|_| assert!(tested.allocate(9000)));
        let before = lead(&tested, 4);
        assert!(before > 0);
        let mut at = 4;
        for size in [30_000, 100_000, 300_001, 1_000_000, 70_000, 8_193, 2_000_000] {
            tested.act(&Step::Resize(at, size, OldSize::Right));
            // What was resized is the last, and the next one is in its way.
            at = tested.live.len() - 1;
            assert_eq!(lead(&tested, at), before, "{size}");
            assert!(tested.allocate(9000));
            tested.heap().check();
            tested.check_contents();
        }
    }
}
