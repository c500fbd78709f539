//! Short spans: where address space is limited, the first one of each class.

use super::plans::planned;
use super::*;
use crate::heap::slots::class::{CLASSES, class_of};
use crate::units::Pages;

const MIB: usize = 1 << 20;

#[test]
fn the_first_span_of_a_class_is_short_in_a_plan_alone() {
    let class = class_of(100);
    for (space, pages) in [(Some(64 * MIB), [1, 5]), (None, [4, 4])] {
        let os = FakeOs::new(4096);
        os.state().address_space = space;
        let mut tested = Tested::new(os.clone(), 0);
        let short = u32::from(space.is_some());
        for pages in pages {
            while tested.heap().counts.span_pages < Pages(pages) {
                assert!(tested.allocate(100));
            }
            assert_eq!(tested.heap().counts.span_pages, Pages(pages));
            assert_eq!(tested.heap().bins[class].short, short);
            tested.heap().check();
        }
        // Spans come and go; one of all that are there is short at most.
        for _ in 0..3 {
            (0..2000).for_each(|_| assert!(tested.allocate(100)));
            tested.heap().check();
            tested.check_contents();
            assert!(tested.heap().bins[class].short <= short);
            (0..1990).for_each(|_| tested.free(1, OldSize::Right));
            tested.run(&Step::ReclaimAll);
            tested.heap().check();
        }
        tested.free_all();
        tested.heap().retire_all();
        assert_eq!(tested.heap().bins[class].spans, 0);
        tested.heap().check();
        assert!(tested.allocate(100));
        assert_eq!(tested.heap().bins[class].short, short);
    }
}

/// A block of each class, and of most classes no more: what a bare VM is like.
#[test]
fn blocks_of_many_classes_take_few_pages_in_a_plan() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 64 * MIB);
    let classes = &CLASSES[..=class_of(512)];
    for class in classes {
        assert!(tested.allocate(class.slot_size as usize));
    }
    let (pages, most) = (tested.heap().counts.span_pages, classes.len() as u32 * 4 / 3);
    assert!(pages <= Pages(most), "{pages:?}, more than {most}");
    tested.check_contents();
    tested.free_all();
}
