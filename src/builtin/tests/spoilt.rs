//! Heaps with one wrong word.

use super::super::layout::*;
use super::super::{Progress, reclaim, survey};
use super::Before;
use super::model::{Chunk, Heap, Random, Shape, Word, get, set};
use crate::error::{Error, last_text};
use crate::os::Os;

/// Values that a word may have by accident, and pointers to here and there.
pub(super) fn wrong_values(heap: &Heap, random: &mut Random, old: usize) -> Vec<usize> {
    let any = |random: &mut Random, free: bool| {
        let chunks: Vec<usize> = heap
            .chunks
            .iter()
            .filter(|chunk| chunk.is_free == free)
            .map(|chunk| chunk.at)
            .collect();
        if chunks.is_empty() { 8 } else { chunks[random.below(chunks.len())] }
    };
    let mut values = vec![
        0,
        1,
        2,
        3,
        old ^ 1,
        old ^ 2,
        old ^ 4,
        old.wrapping_add(8),
        old.wrapping_sub(8),
        old.wrapping_add(GRANULARITY),
        old | 1 << 63,
        0x1000,
        1 << 47,
        usize::MAX,
        usize::MAX - 7,
        heap.area.end,
        heap.area.start - 8,
        heap.state,
        heap.state + NEWEST,
        heap.top.at,
        any(random, true),
        any(random, true) + 8,
        any(random, false),
        any(random, false) + CONTENTS,
    ];
    values.retain(|value| *value != old);
    values
}

/// Spoils a word with each wrong value. Words in use may be anything that leads to the same free
/// memory; all others are seen.
fn spoil(heap: &Heap, random: &mut Random, at: usize, word: Word) {
    let (old, fine) = (get(at), heap.survey());
    let mut known = Progress::default();
    let deadline = Some(heap.os.now_us());
    reclaim(&heap.os, heap.state(), &mut known, deadline).expect("a heap");
    let before = Before::new(heap);
    for value in wrong_values(heap, random, old) {
        set(at, value);
        let found = survey(&heap.os, heap.state());
        let same = found.as_ref().is_ok_and(|found| {
            (found.free, found.free_chunks, found.reserved)
                == (fine.free, fine.free_chunks, fine.reserved)
        });
        let told = last_text();
        let word = match word {
            Word::Half if (value ^ old) as u32 == 0 => Word::Idle,
            Word::Half => Word::Essential,
            word => word,
        };
        match word {
            Word::Half => unreachable!(),
            Word::Essential => assert_eq!(found, Err(Error::Unknown), "{at:#x}: {value:#x}"),
            Word::InUse => assert!(same || found == Err(Error::Unknown), "{at:#x}: {value:#x}"),
            Word::Idle => assert!(same, "{at:#x}: {value:#x}: {told}"),
        }
        // Neither a walk before nor none lets it do harm.
        for (was_known, mut progress) in [(false, Progress::default()), (true, known)] {
            let done = reclaim(&heap.os, heap.state(), &mut progress, None);
            assert!(was_known || done.is_ok() == found.is_ok(), "{at:#x}: {value:#x}");
            assert!(done.is_ok() || progress == Progress::default());
        }
        set(at, old);
    }
    before.check(heap);
}

#[test]
fn a_wrong_word_is_seen_or_does_no_harm() {
    for seed in 0..12 {
        let heap = Heap::new(seed, 4096, Shape::Usual(1 + seed as usize % 3));
        let mut random = Random(seed);
        let mut words = heap.words.clone();
        random.shuffle(&mut words);
        for (at, word) in words.into_iter().take(50) {
            spoil(&heap, &mut random, at, word);
        }
    }
}

#[test]
fn a_wrong_word_of_the_state_is_seen_or_does_no_harm() {
    for seed in 100..103 {
        let heap = Heap::new(seed, 4096, Shape::Usual(2));
        let state = heap.state - CONTENTS..heap.state + STATE_CHUNKS[1];
        for (at, word) in heap.words.clone().into_iter().filter(|(at, _)| state.contains(at)) {
            spoil(&heap, &mut Random(at as u64), at, word);
        }
    }
}

#[test]
fn a_wrong_word_at_the_end_of_a_segment_is_seen() {
    for seed in 200..203 {
        let heap = Heap::new(seed, 4096, Shape::Usual(3));
        for (base, size) in heap.segments.clone() {
            let end = base + size - END_BYTES - CHUNK_MIN..base + size;
            for (at, word) in heap.words.clone().into_iter().filter(|(at, _)| end.contains(at)) {
                spoil(&heap, &mut Random(at as u64), at, word);
            }
        }
    }
}

#[test]
fn free_neighbours_are_refused() {
    for seed in 0..20 {
        let heap = Heap::new(seed, 4096, Shape::Adjoining);
        assert_eq!(survey(&heap.os, heap.state()), Err(Error::Unknown));
        assert!(last_text().contains("does not agree with the one before"), "{}", last_text());
    }
}

#[test]
fn a_chunk_smaller_than_any_is_refused() {
    let heap = Heap::new(3, 4096, Shape::Usual(1));
    let wanted = |chunk: &&Chunk| !chunk.is_free && chunk.at + CONTENTS != heap.state;
    let Chunk { at, size, .. } = *heap.chunks.iter().find(wanted).expect("a block");
    // As two, of which the second is large enough.
    set(at + HEAD, 16 | get(at + HEAD) & FLAGS);
    set(at + 16 + HEAD, (size - 16) | PREVIOUS_IN_USE | IN_USE);
    assert_eq!(survey(&heap.os, heap.state()), Err(Error::Unknown));
}

/// A heap like this one, of those with these seeds.
fn heap_with(wanted: impl Fn(&Heap) -> bool) -> Heap {
    (0..).map(|seed| Heap::new(seed, 4096, Shape::Usual(2))).find(wanted).expect("a heap")
}

#[test]
fn a_victim_that_is_no_free_chunk_is_refused() {
    let heap = heap_with(|heap| heap.victim.is_none());
    for chunk in heap.chunks.iter().filter(|chunk| !chunk.is_free) {
        set(heap.state + VICTIM, chunk.at);
        set(heap.state + VICTIM_SIZE, chunk.size);
        assert_eq!(survey(&heap.os, heap.state()), Err(Error::Unknown));
    }
}

#[test]
fn a_state_in_a_chunk_with_others_is_refused() {
    let around = |heap: &Heap| {
        let own = heap.chunks.iter().position(|chunk| chunk.at + CONTENTS == heap.state);
        let own = own.expect("the state's chunk");
        [own.wrapping_sub(1), own, own + 1].map(|index| heap.chunks.get(index).copied())
    };
    let heap = heap_with(|heap| {
        let used = |chunk: &Option<Chunk>| chunk.is_some_and(|chunk| !chunk.is_free);
        around(heap).iter().all(used)
    });
    for pair in around(&heap).windows(2) {
        let [Some(first), Some(second)] = pair else { continue };
        let old = get(first.at + HEAD);
        set(first.at + HEAD, old + second.size);
        assert_eq!(survey(&heap.os, heap.state()), Err(Error::Unknown));
        set(first.at + HEAD, old);
    }
    assert!(survey(&heap.os, heap.state()).is_ok());
}

#[test]
fn a_tree_with_its_sides_swapped_is_refused() {
    let swap = |heap: &Heap, node: usize| {
        let (left, right) = (get(node + CHILDREN), get(node + CHILDREN + WORD));
        set(node + CHILDREN, right);
        set(node + CHILDREN + WORD, left);
        (left != right).then(|| survey(&heap.os, heap.state()))
    };
    let mut swapped = 0;
    for heap in (0..8).map(|seed| Heap::new(seed, 4096, Shape::Usual(4))) {
        for node in &heap.nodes {
            if let Some(found) = swap(&heap, *node) {
                assert_eq!(found, Err(Error::Unknown), "{node:#x}");
                swapped += 1;
            }
            swap(&heap, *node);
        }
    }
    assert!(swapped > 10, "only {swapped} have children");
}

#[test]
fn a_ring_of_several_sizes_is_refused() {
    for seed in 0..20 {
        let heap = Heap::new(seed, 4096, Shape::MixedRings);
        assert_eq!(survey(&heap.os, heap.state()), Err(Error::Unknown));
    }
}

#[test]
fn a_known_heap_is_looked_at_again_where_pages_go_back() {
    let heap = Heap::new(5, 4096, Shape::Usual(3));
    let mut known = Progress::default();
    reclaim(&heap.os, heap.state(), &mut known, None).expect("a heap");
    let mut looked_at = 0;
    for Chunk { at, size, .. } in heap.free_chunks() {
        if size < 4096 + HEADER || at == heap.top.at {
            continue;
        }
        let behind = at + size;
        for (at, flip) in [(at + HEAD, 8), (at + HEAD, IN_USE), (behind, 8), (behind + HEAD, 3)] {
            let old = get(at);
            set(at, old ^ flip);
            let done = reclaim(&heap.os, heap.state(), &mut known.clone(), None);
            assert_eq!(done, Err(Error::Unknown), "{at:#x}");
            set(at, old);
        }
        looked_at += 1;
    }
    assert!(looked_at > 3, "only {looked_at} large chunks");
}
