//! Blocks from outside: who takes care of them, and where nobody does.

use super::*;
use crate::heap::ForeignBlocks;

/// Counts the call, and leaves the block where it is.
unsafe fn count(context: *mut u8, block: *mut u8, _size: usize) -> *mut u8 {
    // SAFETY: the count of the test that set this up.
    unsafe { *context.cast::<u32>() += 1 };
    block
}

#[test]
fn where_one_block_can_come_from_outside_any_other_is_a_wrong_pointer() {
    let (mut blocks, mut calls) = ([0u64; 2], 0u32);
    let [one, other] = blocks.each_mut().map(|block| (&raw mut *block).cast::<u8>());
    for only in [Some(one), None] {
        let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
        let context = (&raw mut calls).cast();
        tested.heap().foreign = Some(ForeignBlocks { context, only, resize: count, pages: None });
        assert_eq!(tested.call(one, 8, 16), one);
        if only.is_none() {
            assert_eq!(tested.call(other, 8, 16), other);
        } else {
            let words = last_words(|| tested.call(other, 8, 16));
            assert!(words.contains(&format!("pointer {other:p} is not of this heap")), "{words}");
        }
        assert!(tested.allocate(100));
        tested.free_all();
    }
    assert_eq!(calls, 3);
}
