//! Heaps under a limit on address space: they plan a range, and map of it what they use.

use super::breathing::SECOND_US;
use super::*;
use crate::heap::blocks::diagnose::{Wrong, what_is_wrong};
use crate::heap::growth::reserve;
use crate::heap::pages::refaults::{PurgeReason, PurgeStamp};
use crate::reclaim::Reclaim;
use crate::units::{PAGE, Pages};

const MIB: usize = 1 << 20;

/// A heap in a process that may map `space` bytes.
pub(super) fn planned(os: &FakeOs, space: usize) -> Tested {
    os.state().address_space = Some(space);
    let mut tested = Tested::new(os.clone(), 0);
    assert!(tested.heap().layout.is_planned);
    tested
}

/// Fills the heap until it is refused a block.
fn fill(tested: &mut Tested, size: usize) {
    while tested.allocate(size) {}
    tested.heap().check();
}

/// Pretends that the process has mapped a number of `pages`.
fn show_mapped(os: &FakeOs, pages: usize) {
    let text = format!("{pages} 10 10 1 0 10 0\n").into_bytes();
    os.state().files.insert(c"/proc/self/statm".into(), text);
}

impl Tested {
    /// The kernel holds no more than the heap's account says. (Where the kernel has pages of 4 KiB)
    fn check_resident(&mut self) {
        let kernel = self.heap().kernel_resident().expect("mincore") as usize;
        let snapshot = self.heap().snapshot();
        assert!(
            kernel <= snapshot.resident() || self.heap().kernel_page > PAGE,
            "{kernel} of {snapshot:?}"
        );
    }

    /// Whether the end was cut off, and nothing has taken the place of all of that.
    fn is_cut(&mut self) -> bool {
        let runs = &self.heap().runs;
        runs.top < runs.reached()
    }

    /// Makes a heap longer by 200 blocks, and frees these. (After the first block)
    fn swell(&mut self) {
        (0..200).for_each(|_| assert!(self.allocate(60_000)));
        (0..200).for_each(|_| self.free(1, OldSize::Right));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_programs_keep_every_invariant(
        program in program(),
        page in 0usize..3,
        space in 1usize..8,
    ) {
        let os = FakeOs::new(KERNEL_PAGES[page]);
        let mut tested = planned(&os, space * MIB);
        os.state().tick_us = 1000;
        for step in &program {
            tested.run(step);
            prop_assert_eq!(tested.heap().reserved(), os.state().address_bytes());
            tested.check_resident();
        }
        tested.check_contents();
        tested.free_all();
        tested.run(&Step::Set(Key::LimitHard, 0));
        tested.run(&Step::ReclaimAll);
        tested.check_resident();
    }

    #[test]
    fn refused_extensions_lose_nothing(
        program in program(),
        failures in prop::collection::vec(any::<bool>(), 1..60),
        page in 0usize..3,
    ) {
        let os = FakeOs::new(KERNEL_PAGES[page]);
        let mut tested = planned(&os, 16 * MIB);
        os.state().failures = failures.into();
        for step in &program {
            tested.run(step);
        }
        tested.check_contents();
        os.state().failures.clear();
        tested.free_all();
        tested.run(&Step::Set(Key::LimitHard, 0));
        prop_assert!(tested.allocate(100_000), "the heap goes on");
        prop_assert_eq!(tested.heap().reserved(), os.state().address_bytes());
    }
}

#[test]
fn a_heap_takes_what_it_uses_and_gives_all_of_it_back() {
    for page in KERNEL_PAGES {
        let os = FakeOs::new(page);
        let mut tested = planned(&os, 1 << 30);
        let first = tested.heap().reserved();
        assert!(first <= (116 << 10) + 4 * page, "{first} bytes for nothing");
        for _ in 0..800 {
            assert!(tested.allocate(50_000));
            let heap = tested.heap();
            let used = (heap.runs.top - Pages(heap.layout.first.0)).offset();
            let ahead = heap.committed() - heap.runs.top.offset();
            let most = if used < 100 << 10 { 100 << 10 } else { (used / 8).max(16 << 10) };
            assert!(ahead <= most.min(2 * MIB) + page, "{ahead} for {used}");
        }
        tested.heap().check();
        assert_eq!(tested.heap().reserved(), os.state().address_bytes());
        assert_eq!(tested.heap().committed_bytes(), tested.heap().snapshot().committed);
        drop(tested);
        assert!(!os.state().has_reservations(), "all that was mapped is unmapped");
    }
}

#[test]
fn each_call_is_refused_once() {
    for call in 0.. {
        let os = FakeOs::new(4096);
        os.state().failures = (0..=call).map(|at| at == call).collect();
        // The first places are but two of many.
        let mut tested = planned(&os, 64 * MIB);
        (0..20).for_each(|_| tested.act(&Step::Allocate(60_000)));
        assert!(tested.live.len() >= 19, "call {call}: {} blocks", tested.live.len());
        // So long that the tables grow.
        let long = tested.call(ptr::null_mut(), 0, 40 * MIB);
        tested.call(long, 40 * MIB, 0);
        tested.run(&Step::Resize(7, 300_000, OldSize::Right));
        tested.run(&Step::Set(Key::History, 1));
        tested.run(&Step::ReclaimAll);
        tested.check_contents();
        assert_eq!(tested.heap().reserved(), os.state().address_bytes(), "call {call}");
        tested.free_all();
        let is_last = !os.state().failures.is_empty();
        drop(tested);
        assert!(!os.state().has_reservations(), "call {call}");
        if is_last {
            assert!(call > 20, "{call} calls were made to fail");
            break;
        }
    }
}

/// What lies at one end of what a heap has mapped.
type Beside = fn(&mut Heap<FakeOs, Reclaim>) -> *mut u8;

#[test]
fn occupied_addresses_refuse_growth_at_every_end() {
    let below: Beside = |heap| heap.committed_parts()[0].start.wrapping_sub(PAGE);
    let tables: Beside = |heap| heap.base.wrapping_add(heap.extent.tables_end);
    let pages: Beside = |heap| heap.base.wrapping_add(heap.extent.end);
    for (end, fits) in [(below, MIB), (tables, 48 * MIB), (pages, MIB)] {
        let os = FakeOs::new(4096);
        let mut tested = planned(&os, 256 * MIB);
        let at = end(tested.heap()).addr();
        os.state().occupied = at..at + PAGE;
        fill(&mut tested, 60_000);
        let filled = tested.live.len() * 60_000;
        assert!(filled < fits, "{filled} bytes");
        assert!(os.state().collisions > 0);
        assert_eq!(tested.heap().reserved(), os.state().address_bytes());
        tested.check_contents();
        // Somebody else has gone.
        os.state().occupied = 0..0;
        (0..20).for_each(|_| assert!(tested.allocate(60_000)));
        tested.heap().check();
        tested.check_contents();
        tested.free_all();
    }
}

#[test]
fn the_limit_itself_ends_growth_and_is_reported() {
    let os = FakeOs::new(4096);
    show_mapped(&os, 32 * MIB / PAGE);
    let mut tested = planned(&os, 32 * MIB);
    fill(&mut tested, 60_000);
    let filled = tested.live.len() * 60_000;
    assert!(filled > 30 * MIB, "{filled} of 32 MiB are used");
    assert!(os.state().address_bytes() <= 32 * MIB);
    assert_eq!(tested.heap().counts.refused_address_space, 1);
    let told = crate::error::last_text();
    let limit = "RLIMIT_AS (ulimit -v) is 33554432 bytes, and the process uses 33554432";
    assert!(told.starts_with("ebb_alloc: no room for 60000 bytes: ") && told.contains(limit));
    // More than the whole range has.
    assert!(!tested.allocate(64 * MIB));
    assert_eq!(tested.heap().counts.refused_address_space, 2);
    // A hard limit refuses for its own sake.
    let held = tested.heap().resident() as i64;
    tested.act(&Step::Set(Key::LimitHard, held));
    assert!(!tested.allocate(60_000));
    assert_eq!(tested.heap().counts.refused_address_space, 2);
    assert!(crate::error::last_text().contains("limit_hard is"));
    tested.act(&Step::Set(Key::LimitHard, 0));
    // There would be room, so that something else has refused.
    show_mapped(&os, 5);
    assert!(!tested.allocate(60_000));
    assert_eq!(tested.heap().counts.refused_address_space, 2);
    assert!(crate::error::last_text().contains("the kernel gives no more"));
    assert_eq!(tested.heap().counts.refused_allocations, 4);
    tested.free_all();
}

#[test]
fn a_shrink_that_was_refused_a_smaller_block_counts_as_no_refusal() {
    let os = FakeOs::new(4096);
    show_mapped(&os, 4 * MIB / PAGE);
    let mut tested = planned(&os, 4 * MIB);
    fill(&mut tested, 3000);
    fill(&mut tested, 100);
    let counts = &tested.heap().counts;
    let before = (counts.refused_allocations, counts.refused_address_space);
    assert_eq!(before.0, before.1);
    tested.resize(0, 700, OldSize::Right);
    let counts = &tested.heap().counts;
    assert_eq!((counts.refused_allocations, counts.refused_address_space), before);
    tested.free_all();
}

/// How many ranges were planned, and how many of these plans were ended.
fn plans_of(os: &FakeOs) -> (u64, u64) {
    let state = os.state();
    (state.plans, state.ended_plans)
}

#[test]
fn a_place_that_is_taken_is_left_for_another() {
    // The first part of the first place, then the second part of the second.
    for (failures, plans) in [(vec![true], 2), (vec![false, true], 2), (vec![true, false, true], 3)]
    {
        let os = FakeOs::new(4096);
        os.state().failures = failures.into();
        let mut tested = planned(&os, 64 * MIB);
        assert_eq!(plans_of(&os), (plans, plans - 1));
        assert_eq!(tested.heap().reserved(), os.state().address_bytes());
        assert!(tested.allocate(5000));
        tested.free_all();
        drop(tested);
        assert_eq!(plans_of(&os), (plans, plans));
    }
}

#[test]
fn where_no_place_can_be_mapped_the_heap_reserves() {
    let os = FakeOs::new(4096);
    os.state().address_space = Some(256 * MIB);
    os.state().failures = vec![true; 16].into();
    let mut tested = Tested::new(os.clone(), 0);
    assert!(!tested.heap().layout.is_planned);
    assert_eq!(plans_of(&os), (16, 16));
    let reserved = tested.heap().reserved();
    assert!((MIB..=64 * MIB).contains(&reserved), "{reserved}");
    assert_eq!(tested.heap().options.get(Key::Reserve), reserved as i64);
    assert!(tested.allocate(100_000));
    tested.free_all();
}

#[test]
fn a_process_without_room_for_a_heap_gets_the_reason() {
    let os = FakeOs::new(4096);
    os.state().address_space = Some(MIB);
    show_mapped(&os, 200);
    assert!(os.reserve(MIB - 20 * PAGE, false).is_some());
    let refused = Heap::<_, Reclaim>::create(os, Options::DEFAULT).map(drop);
    assert_eq!(refused, Err(Error::Memory));
    let told = "reserve: no heap: RLIMIT_AS (ulimit -v) is 1048576 bytes, and the process uses \
                819200 of its address space";
    assert_eq!(crate::error::last_text(), told);
}

#[test]
fn an_explicit_reserve_is_reserved_under_a_limit_too() {
    let os = FakeOs::new(4096);
    os.state().address_space = Some(256 * MIB);
    let mut tested = Tested::new(os.clone(), 8 << 20);
    assert!(!tested.heap().layout.is_planned);
    assert_eq!(os.state().plans, 0);
    assert_eq!(os.state().address_bytes(), 8 << 20);
    assert_eq!(tested.heap().reserved(), 8 << 20);
}

#[test]
fn the_history_is_mapped_when_it_is_asked_for() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 64 * MIB);
    let before = os.state().address_bytes();
    assert_eq!(tested.heap().history_buffer().len(), 0);
    os.state().failures = vec![true, true].into();
    assert_eq!(tested.heap().set_option(Key::History, 1), Err(Error::Memory));
    assert_eq!(tested.heap().history_buffer().len(), 0);
    assert_eq!(os.state().address_bytes(), before);
    os.state().failures.clear();
    tested.act(&Step::Set(Key::History, 1));
    let bytes = size_of_val(tested.heap().history_buffer());
    assert!(bytes > 0);
    assert_eq!(os.state().address_bytes(), before + bytes);
    assert!(tested.heap().history_buffer().iter().all(|word| *word == 0));
    for _ in 0..3 {
        tested.act(&Step::Tick(SECOND_US, 0));
    }
    assert!(tested.heap().history(10).len() > 0);
    tested.free_all();
}

#[test]
fn a_heap_that_was_reset_serves_as_a_new_one() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 64 * MIB);
    for _ in 0..2 {
        (0..10).for_each(|_| tested.act(&Step::Allocate(40_000)));
        tested.free_all();
        let before = tested.heap().reserved();
        assert!(tested.heap().reset_state());
        assert_eq!(tested.heap().reserved(), before);
        let options = Options::DEFAULT;
        reserve::note_deleted(&tested.heap().layout);
        tested.heap().reuse(options);
        assert_eq!(tested.heap().options.get(Key::Reserve), 0);
        tested.heap().check();
    }
    // Too much to keep from others.
    (0..40).for_each(|_| tested.act(&Step::Allocate(40_000)));
    tested.free_all();
    assert!(!tested.heap().reset_state());
}

#[test]
fn addresses_of_the_plan_that_are_not_mapped_are_not_the_heaps() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 64 * MIB);
    assert!(tested.allocate(5000));
    let block = tested.live[0].at;
    let heap = tested.heap();
    let parts = heap.committed_parts();
    for part in parts.iter().filter(|part| part.bytes > 0) {
        let end = part.start.wrapping_add(part.bytes);
        assert!(heap.is_inside(part.start) && heap.is_inside(end.wrapping_sub(1)));
        assert!(!heap.is_inside(part.start.wrapping_sub(1)) && !heap.is_inside(end));
    }
    assert!(heap.is_inside(block));
}

#[test]
fn a_large_block_moves_to_pages_that_are_mapped() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 256 * MIB);
    assert!(tested.allocate(4 * MIB) && tested.allocate(5000));
    tested.run(&Step::Resize(0, 9 * MIB, OldSize::Right));
    assert!(os.state().moves > 0);
    tested.check_contents();
    // The target cannot be mapped: nothing moves.
    let at = tested.heap().base.wrapping_add(tested.heap().extent.end).addr();
    os.state().occupied = at..at + PAGE;
    let (moves, block) = (os.state().moves, tested.live[1].at);
    tested.run(&Step::Resize(1, 20 * MIB, OldSize::Right));
    assert!(tested.live.iter().any(|it| it.at == block && it.size == 9 * MIB));
    assert_eq!(os.state().moves, moves);
    tested.check_contents();
    tested.free_all();
}

#[test]
fn address_space_at_the_end_goes_back_with_its_memory() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 256 * MIB);
    assert!(tested.allocate(100));
    let before = os.state().address_bytes();
    for _ in 0..2 {
        (0..200).for_each(|_| tested.act(&Step::Allocate(60_000)));
        assert!(os.state().address_bytes() > 12 * MIB);
        (0..200).for_each(|_| tested.free(1, OldSize::Right));
        tested.run(&Step::ReclaimAll);
        let left = os.state().address_bytes();
        // The descriptors of the pages stay.
        assert!(left < before + MIB, "{left} bytes are mapped");
        assert_eq!(tested.heap().reserved(), left);
        tested.check_contents();
    }
    // By itself, two seconds later, also after the background thread has returned the memory.
    for by_itself in [false, true] {
        (0..200).for_each(|_| tested.act(&Step::Allocate(60_000)));
        (0..200).for_each(|_| tested.free(1, OldSize::Right));
        // Not before its time.
        tested.run(&Step::Tick(1000, 0));
        assert!(os.state().address_bytes() > 12 * MIB);
        if by_itself {
            tested.heap().visit_in_background();
            tested.run(&Step::Visit(3 * SECOND_US));
        }
        for _ in 0..8 {
            tested.run(&Step::Tick(SECOND_US / 2, 0));
        }
        assert!(os.state().address_bytes() < before + MIB);
    }
    // What is refused stays mapped, and is used again.
    (0..200).for_each(|_| tested.act(&Step::Allocate(60_000)));
    (0..200).for_each(|_| tested.free(1, OldSize::Right));
    for call in 0..8 {
        os.state().failures = (0..=call).map(|at| at == call).collect();
        tested.run(&Step::ReclaimAll);
        os.state().failures.clear();
        (0..100).for_each(|_| assert!(tested.allocate(60_000)));
        tested.heap().check();
        (0..100).for_each(|_| tested.free(1, OldSize::Right));
    }
    tested.check_contents();
    tested.free_all();
}

/// A heap with one block, whose end was cut off.
fn cut(os: &FakeOs) -> Tested {
    let mut tested = planned(os, 256 * MIB);
    assert!(tested.allocate(100));
    tested.swell();
    let before = tested.heap().extent.below;
    tested.run(&Step::ReclaimAll);
    assert!(tested.is_cut());
    assert!(tested.heap().extent.below < before, "descriptors go with their pages");
    tested
}

#[test]
fn pointers_to_what_was_cut_off_are_known() {
    let os = FakeOs::new(4096);
    let mut tested = cut(&os);
    let heap = tested.heap();
    let (end, reached) = (heap.committed(), heap.runs.reached().offset());
    for offset in [end, end + 24, end + MIB, reached - 1] {
        let pointer = heap.base.wrapping_add(offset);
        assert!(heap.is_inside(pointer), "{offset}");
        assert!(matches!(what_is_wrong(heap, pointer, offset), Wrong::OnFreePage), "{offset}");
    }
    let between_tables = heap.extent.tables_end + 64;
    assert!(between_tables < heap.layout.first.offset());
    for offset in [reached, reached + 24, between_tables, usize::MAX - (1 << 30), 1 << 45] {
        let pointer = heap.base.wrapping_add(offset);
        assert!(!heap.is_inside(pointer), "{offset}");
        assert!(matches!(what_is_wrong(heap, pointer, offset), Wrong::Elsewhere), "{offset}");
    }
    tested.check_resident();
    tested.free_all();
}

#[test]
fn what_cannot_be_cut_off_stays_in_the_account() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 256 * MIB);
    assert!(tested.allocate(100));
    tested.swell();
    tested.os.state().tick_us = 1;
    tested.run(&Step::Tick(1000, 0));
    // All goes back to the kernel, and nothing is cut off.
    tested.heap().visit_in_background();
    tested.os.state().now_us += 10 * SECOND_US;
    while let Some(again_us) = tested.heap().visit_in_background() {
        tested.os.state().now_us = again_us;
    }
    tested.heap().note_background();
    let (top, failed, churned) = (
        tested.heap().runs.top,
        tested.heap().counts.failed_calls,
        tested.heap().runs.pages_churned,
    );
    assert!(top.offset() > 11 * MIB);
    // The pages; then the descriptors, which are purged then.
    os.state().failures = vec![true].into();
    tested.heap().cut_end();
    assert!(os.state().failures.is_empty());
    tested.heap().check();
    let heap = tested.heap();
    assert_eq!((heap.runs.top, heap.runs.pages_churned), (top, churned));
    assert_eq!(heap.counts.failed_calls, failed + 1);
    tested.check_resident();
    let below = tested.heap().extent.below;
    os.state().failures = vec![false, true].into();
    tested.heap().cut_end();
    assert!(os.state().failures.is_empty());
    tested.heap().check();
    assert!(tested.heap().runs.top < top);
    assert_eq!(tested.heap().extent.below, below);
    tested.check_resident();
    tested.swell();
    tested.run(&Step::ReclaimAll);
    assert!(tested.heap().extent.below < below);
    tested.check_contents();
    tested.free_all();
}

#[test]
fn a_heap_that_was_cut_off_can_be_reset() {
    for page in KERNEL_PAGES {
        let os = FakeOs::new(page);
        let mut tested = cut(&os);
        tested.free(0, OldSize::Right);
        for _ in 0..2 {
            assert!(tested.heap().reset_state());
            reserve::note_deleted(&tested.heap().layout);
            tested.heap().reuse(Options::DEFAULT);
            tested.check_resident();
            (0..10).for_each(|_| assert!(tested.allocate(40_000)));
            tested.check_resident();
            // To check the heap is to look at its returned tables, which maps them again.
            (0..10).for_each(|_| tested.free(0, OldSize::Right));
        }
        tested.heap().check();
    }
}

/// The end of a plan in a child of a fork, where the parent's thread has claims on it.
#[test]
fn a_child_cuts_off_what_its_parents_thread_had() {
    let os = FakeOs::new(4096);
    let mut tested = planned(&os, 256 * MIB);
    assert!(tested.allocate(100));
    tested.swell();
    let heap = tested.heap();
    heap.watch().pretend();
    let dirty = heap.runs.dirty;
    let purge = |_: &[crate::os::MemoryRange]| std::panic::resume_unwind(Box::new("it is gone"));
    let visited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let stamp = PurgeStamp::new(0, PurgeReason::Idle);
        // SAFETY: the heap lives, and this is the only thread that does so.
        unsafe { heap.watch().return_dirty(Pages(u32::MAX), &purge, &|| true, stamp) }
    }));
    assert!(visited.is_err());
    assert!(heap.watch().dirty() < dirty, "some are claimed");
    heap.watch().pretend_fork();
    heap.cut_end();
    heap.check();
    assert_eq!(heap.watch().dirty(), dirty, "they hold memory, and stay");
    tested.run(&Step::ReclaimAll);
    assert!(tested.is_cut());
    tested.check_contents();
    tested.free_all();
}

#[test]
fn what_was_cut_off_and_is_needed_again_is_known_to_the_policy() {
    let os = FakeOs::new(4096);
    os.state().now_us = SECOND_US;
    let mut tested = cut(&os);
    let before = tested.heap().runs.refaults.clone();
    let runs = &tested.heap().runs;
    let pages = runs.reached().since(runs.top);
    tested.swell();
    let after = tested.heap().runs.refaults.clone();
    let again = after.refaulted.iter().sum::<u64>() - before.refaulted.iter().sum::<u64>();
    assert!(again.abs_diff(pages.0.into()) < 64, "{again} of {pages:?}");
    let premature = after.premature.iter().sum::<u64>() - before.premature.iter().sum::<u64>();
    assert_eq!(premature, again, "within a second");
    // Pages that were never used are not needed again.
    tested.swell();
    (0..400).for_each(|_| assert!(tested.allocate(60_000)));
    let refaulted = tested.heap().runs.refaults.refaulted.iter().sum::<u64>();
    assert!(refaulted - after.refaulted.iter().sum::<u64>() < 64);
    tested.free_all();
}
