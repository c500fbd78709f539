//! Where blocks begin: large ones on their pages, small ones in their spans.

use std::collections::{BTreeMap, BTreeSet};

use super::breathing::tested;
use super::*;
use crate::units::PAGE;

fn color(tested: &Tested, index: usize) -> usize {
    tested.live[index].at.addr() % PAGE
}

#[test]
fn large_blocks_begin_all_over_their_first_pages() {
    let mut tested = tested(&[]);
    // 2288 bytes are left over on three pages: room for 36 colors.
    (0..144).for_each(|_| assert!(tested.allocate(10_000)));
    let colors: BTreeSet<usize> = (0..144).map(|index| color(&tested, index)).collect();
    assert!(colors.iter().all(|color| color % 64 == 0 && *color <= 2288), "{colors:?}");
    assert_eq!(colors.len(), 36, "{colors:?}");
    tested.heap().check();
    tested.check_contents();
}

#[test]
fn where_nothing_is_left_over_a_large_block_begins_with_its_page() {
    let mut tested = tested(&[]);
    for size in [3 * PAGE, 3 * PAGE - 63, 64 * PAGE] {
        assert!(tested.allocate(size));
        assert_eq!(color(&tested, tested.live.len() - 1), 0, "{size}");
    }
    tested.heap().check();
}

#[test]
fn a_large_block_keeps_its_color_wherever_it_goes() {
    for remap_min in [4096, 1 << 30] {
        let mut tested = tested(&[(Key::RemapMin, remap_min)]);
        (0..5).for_each(|_| assert!(tested.allocate(9000)));
        let before = color(&tested, 4);
        assert!(before > 0);
        let mut at = 4;
        for size in [30_000, 100_000, 300_001, 1_000_000, 70_000, 8_193, 2_000_000] {
            tested.act(&Step::Resize(at, size, OldSize::Right));
            // What was resized is the last, and the next one is in its way.
            at = tested.live.len() - 1;
            assert_eq!(color(&tested, at), before, "{size}");
            assert!(tested.allocate(9000));
            tested.heap().check();
            tested.check_contents();
        }
    }
}

/// For each of `pages` pages, where in the page its first block lies.
fn first_places(word_seed: u32, size: usize, pages: usize) -> Vec<usize> {
    let mut tested = tested(&[]);
    tested.heap().word_seed = word_seed;
    (0..pages * PAGE / size).for_each(|_| assert!(tested.allocate(size)));
    tested.heap().check();
    let mut first = BTreeMap::new();
    for block in &tested.live {
        let at = block.at.addr();
        first.entry(at / PAGE).or_insert(at % PAGE);
    }
    first.into_values().collect()
}

#[test]
fn spans_are_filled_from_another_word_on_each() {
    let all: Vec<Vec<usize>> =
        (0..8).map(|heap| first_places(heap * 0x1234_5677, 16, 64)).collect();
    for first in &all {
        let quarters: BTreeSet<usize> = first.iter().copied().collect();
        assert_eq!(quarters, [0, 1024, 2048, 3072].into(), "each word has 64 slots");
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "as heaps differ");
    // One word: its lowest slot.
    assert_eq!(first_places(7, 256, 8).into_iter().collect::<BTreeSet<_>>().len(), 1);
}
