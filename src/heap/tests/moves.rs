//! Large blocks that move, or that the kernel refuses to move.

use super::breathing::tested;
use super::*;
use crate::heap::SplitMappings;
use crate::heap::pages::refaults;
use crate::reclaim::Reclaim;
use crate::units::PAGE;

#[test]
fn a_long_block_is_moved_by_the_kernel_and_leaves_no_split_mapping() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    for size in [1 << 16, 1 << 17, 1 << 18, 1 << 19] {
        assert!(tested.allocate(1 << 15));
        let last = tested.live.len() - 1;
        tested.resize(last, size, OldSize::Right);
        // A neighbour behind, so that the next growth must move.
        assert!(tested.allocate(1 << 15));
        tested.resize(last, size * 2, OldSize::Right);
        tested.heap().check();
    }
    assert!(os.state().moves >= 4, "{} moves", os.state().moves);
    tested.check_contents();
    tested.free_all();
    let moves = os.state().moves;
    assert_eq!(os.state().renewals, moves, "each split mapping was renewed");
    assert_eq!(tested.heap().split_mappings.room(), SplitMappings::CAPACITY);
}

/// Where there is memory, pages that move in its place would throw it away.
#[test]
fn a_block_is_copied_to_pages_that_have_memory_and_moved_to_others() {
    for (reclaimed, moves) in [(false, 0), (true, 1)] {
        let os = FakeOs::new(4096);
        let mut tested = Tested::new(os.clone(), 64 << 20);
        for size in [4 << 20, 1 << 20, 1 << 16] {
            assert!(tested.allocate(size));
        }
        tested.free(0, OldSize::Right);
        if reclaimed {
            tested.heap().reclaim(Budget::Unlimited);
        }
        // The block behind it is in its way; `free` has put the last one first.
        tested.resize(1, 2 << 20, OldSize::Right);
        assert_eq!(os.state().moves, moves);
        tested.free_all();
    }
}

#[test]
fn a_block_that_moved_and_grew_moves_again_in_pieces() {
    let os = FakeOs::new(4096);
    let mut tested = Tested::new(os.clone(), 64 << 20);
    assert!(tested.allocate(1 << 16) && tested.allocate(1 << 15));
    // `resize` puts the block last.
    tested.resize(0, 1 << 17, OldSize::Right);
    assert_eq!(os.state().moves, 1);
    tested.resize(1, 1 << 18, OldSize::Right);
    assert_eq!(os.state().moves, 1, "it grew in place behind its split mapping");
    // Too long for the place that the block left.
    assert!(tested.allocate(1 << 17));
    tested.resize(1, 1 << 19, OldSize::Right);
    assert_eq!(os.state().moves, 3, "the split mapping and what is behind it moved apart");
    tested.heap().check();
    tested.check_contents();
    tested.free_all();
    assert_eq!(tested.heap().split_mappings.room(), SplitMappings::CAPACITY);
}

/// Blocks of a mebibyte that lie in two pieces each, and what is in the way of their growth, on a
/// heap at a limit with so much room.
fn at_a_limit(limit: Key, room: usize) -> Tested {
    let mut tested = tested(&[(Key::Auto, 0), (Key::RemapMin, 1 << 17)]);
    for _ in 0..3 {
        assert!(tested.allocate(1 << 20));
        assert!(tested.allocate(PAGE));
    }
    for _ in 0..3 {
        let index = tested.lowest(1 << 20);
        tested.resize(index, 3 << 19, OldSize::Right);
    }
    assert_eq!(tested.os.state().moves, 3);
    tested.act(&Step::ReclaimAll);
    let bytes = tested.heap().resident() + room;
    tested.act(&Step::Set(limit, bytes as i64));
    tested
}

impl Tested {
    /// Which block of a size or more is the lowest.
    fn lowest(&self, size: usize) -> usize {
        let long = self.live.iter().enumerate().filter(|(_, block)| block.size >= size);
        long.min_by_key(|(_, block)| block.at).expect("it lives").0
    }
}

/// Grows the lowest block that is long by half a mebibyte; true if it grew.
fn grow(tested: &mut Tested) -> bool {
    let index = tested.lowest(3 << 19);
    let size = tested.live[index].size + (1 << 19);
    tested.resize(index, size, OldSize::Right);
    tested.live.iter().any(|block| block.size == size)
}

#[test]
fn a_refused_move_does_not_lead_past_the_hard_limit() {
    // The first refusal comes before anything was moved, the second when half of a block was.
    for refused in [vec![true], vec![false, true]] {
        let mut tested = at_a_limit(Key::LimitHard, 3 << 18);
        let limit = tested.heap().options.bytes(Key::LimitHard);
        let moved = refused.iter().filter(|refused| !**refused).count();
        tested.os.state().refused_moves = refused.into();
        assert_eq!(grow(&mut tested), moved > 0);
        grow(&mut tested);
        assert!(tested.os.state().refused_moves.is_empty(), "it was refused");
        let heap = tested.heap();
        let (resident, kernel) = (heap.resident(), heap.kernel_resident().expect("mincore"));
        assert!(resident <= limit, "{} bytes above the limit", resident - limit);
        assert!(kernel as usize <= resident, "{kernel} of {resident}");
        tested.heap().check();
        tested.check_contents();
        tested.free_all();
    }
}

#[test]
fn a_copy_that_a_limit_has_no_room_for_is_not_begun() {
    // More room than what the block grows by, and less than the copy takes.
    let mut tested = at_a_limit(Key::LimitHard, 3 << 18);
    tested.act(&Step::Set(Key::RemapMin, 1 << 30));
    let state = |heap: &mut Heap<FakeOs, Reclaim>| {
        (heap.resident(), heap.runs.top, heap.counts.purge_calls)
    };
    let before = state(tested.heap());
    assert!(!grow(&mut tested));
    assert_eq!(state(tested.heap()), before);
    assert_eq!(tested.os.state().moves, 3);
    tested.check_contents();
    tested.free_all();
}

#[test]
fn a_refused_move_is_a_copy_where_a_limit_has_room_for_it() {
    for (limit, room) in [(Key::LimitHard, 4 << 20), (Key::LimitSoft, 0)] {
        let mut tested = at_a_limit(limit, room);
        tested.os.state().refused_moves = vec![true].into();
        assert!(grow(&mut tested), "{limit:?}");
        tested.check_contents();
        tested.free_all();
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
        let refaults = &tested.heap().runs.refaults;
        for cause in 0..3 {
            assert!(refaults.refaulted[cause] <= refaults.returned[cause], "{refaults:?}");
        }
        tested.heap().check();
    }
    assert!(tested.os.state().moves > 10 && tested.os.state().renewals > 0);
    let refaults = &tested.heap().runs.refaults;
    assert!(refaults::total(&refaults.returned) > 100, "{refaults:?}");
    tested.free_all();
}
