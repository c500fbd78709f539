//! A heap's end: every segment of it is unmapped, and nothing else, whatever the kernel refuses.

use std::ops::Range;

use super::super::KnownHeap;
use super::super::layout::{GRANULARITY, NEWEST, TOP, TOP_SIZE};
use super::PAGES;
use super::model::{Heap, Shape, get, set};
use crate::error::{Error, last_text};
use crate::os::Os;
use proptest::prelude::*;

/// What the kernel does not give.
#[derive(Clone, Copy, Debug, Default)]
struct Lacking {
    list_of_mappings: bool,
    memory: bool,
    /// With which mincore is refused; 0: it answers.
    errno: i32,
}

const REFUSALS: [i32; 4] = [0, libc::EAGAIN, libc::EPERM, libc::ENOSYS];

/// A heap of four segments, and what was noted of it.
fn heap_of_four() -> (Heap, KnownHeap) {
    let heaps = (0..).map(|seed| Heap::new(seed, 4096, Shape::Usual(4)));
    let heap = heaps.into_iter().find(|heap| heap.segments.len() == 4).expect("a heap of four");
    let known = noted(&heap);
    (heap, known)
}

fn noted(heap: &Heap) -> KnownHeap {
    KnownHeap::recognise(&heap.os, heap.state()).expect("a heap").0
}

/// Ends a heap in such a process. Returns what it says, and what was unmapped, by address.
fn release(
    heap: &Heap,
    known: &KnownHeap,
    lacking: Lacking,
) -> (Result<u64, Error>, Vec<Range<usize>>) {
    let files = heap.os.state().files.clone();
    if lacking.list_of_mappings {
        heap.os.state().files.clear();
    }
    heap.os.state().reserve_limit = lacking.memory.then_some(0);
    heap.os.state().residency_errno = lacking.errno;
    // SAFETY: the fake unmaps nothing.
    let released = unsafe { known.release(&heap.os) };
    let mut state = heap.os.state();
    state.files = files;
    state.reserve_limit = None;
    state.residency_errno = 0;
    let mut unmapped = std::mem::take(&mut state.unmapped);
    unmapped.sort_unstable_by_key(|range| range.start);
    (released, unmapped)
}

fn segments(heap: &Heap) -> Vec<Range<usize>> {
    let mut segments: Vec<_> =
        heap.segments.iter().map(|(base, size)| *base..base + size).collect();
    segments.sort_unstable_by_key(|range| range.start);
    segments
}

fn all_lacking() -> impl Iterator<Item = Lacking> {
    let pairs = [(false, false), (false, true), (true, false), (true, true)];
    pairs.into_iter().flat_map(|(list_of_mappings, memory)| {
        REFUSALS.map(|errno| Lacking { list_of_mappings, memory, errno })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn all_segments_are_unmapped(seed: u64, page in 0usize..2) {
        let heap = Heap::new(seed, PAGES[page], Shape::Usual(4));
        let known = noted(&heap);
        for lacking in all_lacking() {
            let (released, unmapped) = release(&heap, &known, lacking);
            prop_assert_eq!(released, Ok(heap.survey().reserved), "{:?}", lacking);
            prop_assert_eq!(unmapped, segments(&heap), "{:?}", lacking);
        }
    }
}

/// What a C module has had mapped since is in no note: the kernel must say what it is.
#[test]
fn what_was_not_noted_is_unmapped_only_if_the_kernel_knows_it() {
    for index in 0..4 {
        for lacking in all_lacking() {
            let (heap, mut known) = heap_of_four();
            known.forget(index);
            let (released, unmapped) = release(&heap, &known, lacking);
            if lacking.errno == 0 {
                assert_eq!(released, Ok(heap.survey().reserved), "{lacking:?}");
                assert_eq!(unmapped, segments(&heap), "{lacking:?}");
            } else {
                assert_eq!(released, Err(Error::System), "{lacking:?}");
                assert!(last_text().contains("refused mincore"), "{}", last_text());
                assert!(unmapped.is_empty(), "{lacking:?}");
            }
        }
    }
}

/// Memory may be mapped and inaccessible: to read a record there would end the process.
#[test]
fn a_record_in_inaccessible_memory_is_not_read() {
    let (heap, known) = heap_of_four();
    let page = heap.os.reserve(4096, false).expect("address space");
    let newest = heap.state + NEWEST;
    for at in [newest + 16, get(newest + 16) + 16] {
        let old = get(at);
        set(at, page.addr());
        for lacking in all_lacking() {
            let (released, unmapped) = release(&heap, &known, lacking);
            assert_eq!((released, unmapped), (Err(Error::Unknown), Vec::new()), "{lacking:?}");
        }
        set(at, old);
    }
    // SAFETY: reserved above, and not used again.
    unsafe { heap.os.release(page, 4096) };
}

#[test]
fn a_refusal_to_unmap_is_told_and_the_rest_unmapped() {
    let (heap, known) = heap_of_four();
    let fail_call = |call: usize| {
        heap.os.state().failures.extend((0..=call).map(|index| index == call));
        let done = release(&heap, &known, Lacking::default());
        heap.os.state().failures.clear();
        done
    };
    let (released, unmapped) = (0..100).map(fail_call).find(|done| done.1.len() < 4).expect("one");
    assert_eq!((released, unmapped.len()), (Err(Error::System), 3));
    assert!(last_text().contains("refused to unmap"), "{}", last_text());
}

/// The area of the heap goes on behind each segment, and is mapped: a damaged size leads there.
#[test]
fn a_list_of_segments_that_cannot_be_is_left_alone() {
    let (heap, known) = heap_of_four();
    let newest = heap.state + NEWEST;
    let older = get(newest + 16);
    for (at, value) in [
        (newest, 0),
        (newest, get(newest) + 8),
        (newest, 1 << 46),
        (newest + 8, 0),
        (newest + 8, 4096),
        (newest + 8, 1 << 40),
        (newest, get(newest) - GRANULARITY),
        (newest + 8, get(newest + 8) + GRANULARITY),
        (newest + 8, get(newest + 8) + 2 * GRANULARITY),
        (newest + 8, 64 * GRANULARITY),
        (heap.state + TOP, get(heap.state + TOP) + GRANULARITY),
        (heap.state + TOP_SIZE, get(heap.state + TOP_SIZE) + GRANULARITY),
        (newest + 16, 0),
        (newest + 16, 8),
        (newest + 16, older + 4),
        (newest + 16, 1 << 46),
        (newest + 16, usize::MAX - 7),
        (older, get(newest)),
        (older, get(older) - GRANULARITY),
        (older + 8, get(older + 8) + GRANULARITY),
        (older + 24, 0),
        (older + 16, 0),
        (older + 16, older),
        (older + 16, newest),
    ] {
        let old = get(at);
        set(at, value);
        for lacking in all_lacking() {
            let (released, unmapped) = release(&heap, &known, lacking);
            // Where the kernel answers nothing, memory elsewhere may be anything.
            let is_blind = lacking.errno != 0;
            assert!(
                released == Err(Error::Unknown) || is_blind && released == Err(Error::System),
                "{at:#x}: {value:#x}, {lacking:?}: {released:?}"
            );
            assert!(unmapped.is_empty(), "{at:#x}: {value:#x}, {lacking:?}");
        }
        set(at, old);
    }
    assert!(release(&heap, &known, Lacking::default()).0.is_ok());
}
