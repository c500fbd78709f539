//! Heaps that were recognised: read without the kernel's list of mappings, whatever their records
//! say.

use super::super::layout::*;
use super::super::{KnownHeap, Progress, Survey};
use super::model::{Heap, Random, Shape, Word, get, set};
use super::spoilt::wrong_values;
use super::{Before, Reclaimed};
use crate::error::{Error, last_text};
use crate::os::{Kernel, Os};
use proptest::prelude::*;

/// A heap, what was noted of it, and what is known of it.
struct Attached {
    heap: Heap,
    known: KnownHeap,
    survey: Survey,
    progress: Progress,
    /// Of the last pass.
    may_have_grown: bool,
}

impl Attached {
    fn new(heap: Heap) -> Attached {
        let found = KnownHeap::recognise(&heap.os, heap.state());
        let (known, survey) = found.unwrap_or_else(|error| panic!("{error:?}: {}", last_text()));
        let progress = Progress::of_surveyed(heap.state());
        Attached { heap, known, survey, progress, may_have_grown: false }
    }

    /// With that many segments.
    fn of_segments(count: usize) -> Attached {
        let heaps = (0..).map(|seed| Heap::new(seed, 4096, Shape::Usual(count)));
        let mut fitting = heaps.filter(|heap| heap.segments.len() == count);
        Attached::new(fitting.next().expect("a heap"))
    }

    fn lose_list_of_mappings(&self) {
        self.heap.os.state().files.clear();
    }

    /// As the host asks for.
    fn reclaim(&mut self, deadline_us: Option<u64>) -> Result<Reclaimed, Error> {
        self.pass(deadline_us, true)
    }

    /// As by itself.
    fn reclaim_without_list(&mut self) -> Result<Reclaimed, Error> {
        self.pass(None, false)
    }

    fn pass(&mut self, deadline_us: Option<u64>, may_read: bool) -> Result<Reclaimed, Error> {
        let Attached { heap, progress, .. } = self;
        // SAFETY: nobody unmaps or protects anything of the heap but as LuaJIT does.
        let pass = unsafe { self.known.reclaim(&heap.os, progress, deadline_us, may_read) };
        self.may_have_grown = pass.may_have_grown;
        pass.done
    }

    fn reserved(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.known.reserved(&self.heap.os) }
    }

    fn resident(&self) -> Option<u64> {
        // SAFETY: as above.
        unsafe { self.known.resident(&self.heap.os) }
    }

    /// Where the records of the segments are, the newest one's first.
    fn records(&self) -> Vec<usize> {
        let next = |record: &usize| Some(get(record + 2 * WORD)).filter(|next| *next != 0);
        std::iter::successors(Some(self.heap.state + NEWEST), next).collect()
    }

    /// Calls everything that reads the heap, with these words in it. Nothing is lost but idle pages
    /// and the heap goes on when the words are as before. Returns what a pass said.
    fn with_words(&mut self, words: &[(usize, usize)]) -> Result<Reclaimed, Error> {
        let before = Before::new(&self.heap);
        let old: Vec<(usize, usize)> = words.iter().map(|(at, _)| (*at, get(*at))).collect();
        words.iter().for_each(|(at, value)| set(*at, *value));
        let progress = self.progress;
        self.reserved();
        self.resident();
        let in_steps = self.reclaim(Some(self.heap.os.now_us()));
        assert!(!matches!(in_steps, Err(Error::Argument)));
        self.progress = progress;
        let without_list = self.reclaim_without_list();
        assert!(!matches!(without_list, Err(Error::System | Error::Argument)));
        self.progress = progress;
        let whole = self.reclaim(None);
        if whole == Err(Error::Unknown) {
            assert!(last_text().starts_with("not LuaJIT's own heap: "), "{}", last_text());
            assert_eq!(self.progress, Progress::default());
        }
        old.iter().rev().for_each(|(at, value)| set(*at, *value));
        before.check(&self.heap);
        self.reclaim(None).unwrap_or_else(|error| panic!("{error:?}: {}", last_text()));
        assert!(before.check(&self.heap).is_empty());
        assert_eq!(self.reserved(), self.survey.reserved);
        whole
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn pages_go_back_without_the_list_of_mappings(
        seed: u64,
        has_16k_pages: bool,
        segments in 1usize..5,
    ) {
        let page = if has_16k_pages { 16384 } else { 4096 };
        let mut attached = Attached::new(Heap::new(seed, page, Shape::Usual(segments)));
        attached.lose_list_of_mappings();
        prop_assert_eq!(&attached.survey, &attached.heap.survey());
        let (before, expected) = (Before::new(&attached.heap), attached.heap.survey());
        prop_assert_eq!(attached.reserved(), expected.reserved);
        prop_assert_eq!(attached.resident(), Some(expected.resident));
        prop_assert_eq!(attached.reclaim(None).map(|done| done.returned), Ok(expected.returnable));
        let left = attached.heap.survey();
        prop_assert_eq!(attached.resident(), Some(left.resident));
        attached.heap.touch_idle_pages();
        let (mut returned, all) = (0, expected.returnable + expected.returned);
        loop {
            let done = attached.reclaim(Some(attached.heap.os.now_us())).expect("a heap");
            returned += done.returned;
            if !done.more {
                break;
            }
        }
        prop_assert_eq!(returned, all);
        prop_assert!(before.check(&attached.heap).is_empty());
    }

    /// Any words of the heap, and any bytes that nothing was said of, with values that mean
    /// something, or with others.
    #[test]
    fn damage_of_any_kind_leads_nowhere(
        seed: u64,
        count in 1usize..6,
        has_list: bool,
    ) {
        let mut random = Random(seed);
        let mut attached = Attached::new(Heap::new(seed, 4096, Shape::Usual(3)));
        if !has_list {
            attached.lose_list_of_mappings();
        }
        let damage: Vec<(usize, usize)> = (0..count).map(|_| {
            let words = &attached.heap.words;
            // The state and the records are a small part of all words, and what leads elsewhere.
            let at = match random.below(3) {
                0 => words[random.below(words.len())].0,
                1 => attached.heap.state + WORD * random.below(STATE_CHUNKS[0] / WORD - 2),
                _ => {
                    let records = attached.records();
                    records[random.below(records.len())] + WORD * random.below(3)
                }
            };
            let values = wrong_values(&attached.heap, &mut random, get(at));
            let value = match random.below(4) {
                0 => random.next() as usize,
                1 => get(words[random.below(words.len())].0),
                _ => values[random.below(values.len())],
            };
            (at, value)
        }).collect();
        let whole = attached.with_words(&damage);
        let refusal = if has_list { Error::Unknown } else { Error::System };
        let is_expected = whole.as_ref().err().is_none_or(|error| {
            *error == refusal || *error == Error::Unknown
        });
        prop_assert!(is_expected, "{whole:?}");
    }
}

#[test]
fn a_damaged_state_and_damaged_records_are_refused() {
    for count in [1, 3] {
        let mut attached = Attached::of_segments(count);
        let records = attached.records();
        assert_eq!(records.len(), count);
        let state = attached.heap.state;
        let own = [TOP, TOP_SIZE, VICTIM, VICTIM_SIZE].map(|offset| state + offset);
        let of_records = records.iter().flat_map(|at| [*at, at + WORD, at + 2 * WORD]);
        for at in of_records.chain(own) {
            let old = get(at);
            for value in wrong_values(&attached.heap, &mut Random(at as u64), old) {
                let word = attached.heap.words.iter().rev().find(|word| word.0 == at);
                assert_eq!(word.map(|word| word.1), Some(Word::Essential));
                let whole = attached.with_words(&[(at, value)]);
                assert_eq!(whole, Err(Error::Unknown), "{at:#x}: {value:#x}");
            }
        }
    }
}

#[test]
fn damaged_trees_are_refused() {
    let mut attached = Attached::of_segments(3);
    let state = attached.heap.state;
    let mut refused = 0;
    for tree in 0..TREE_COUNT {
        let at = state + TREES + tree * WORD;
        let is_swept = tree_max(tree) >= 4096 + HEADER;
        if get(at) == 0 || !is_swept {
            continue;
        }
        let root = get(at);
        for at in [at, root + CHILDREN, root + CHILDREN + WORD, root + BACK, root + PARENT] {
            for value in [8, 1 << 46, usize::MAX - 7, state, attached.heap.area.end, root + 8] {
                let whole = attached.with_words(&[(at, value)]);
                // Those links are followed that lead to chunks that hold a page.
                let is_small = get(root + HEAD) < 4096 + HEADER;
                assert!(whole == Err(Error::Unknown) || is_small, "{at:#x}: {value:#x}");
                refused += usize::from(whole.is_err());
            }
        }
    }
    assert!(refused > 60, "only {refused}");
}

/// Questions to the kernel that a call asks.
fn calls(attached: &mut Attached, act: impl FnOnce(&mut Attached)) -> usize {
    const MANY: usize = 100_000;
    attached.heap.os.state().failures.extend([false; MANY]);
    act(attached);
    let left = attached.heap.os.state().failures.len();
    attached.heap.os.state().failures.clear();
    assert!(left > 0);
    MANY - left
}

#[test]
fn records_that_go_around_end_where_there_are_more_than_segments() {
    let mut attached = Attached::of_segments(3);
    attached.lose_list_of_mappings();
    let records = attached.records();
    for (from, to) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
        let link = records[from] + 2 * WORD;
        let old = get(link);
        set(link, records[to]);
        let asked = calls(&mut attached, |attached| {
            assert_eq!(attached.reclaim(None), Err(Error::System));
            assert_eq!(attached.reserved(), attached.survey.reserved);
        });
        // The state, and two for each of four records, twice; and memory for notes.
        assert!(asked < 40, "{asked} calls");
        set(link, old);
    }
    assert!(attached.reclaim(None).is_ok());
}

/// What LuaJIT has unmapped since is not read, even if a record still leads there.
#[test]
fn a_segment_that_is_gone_is_not_read() {
    for index in 1..3 {
        let mut attached = Attached::of_segments(4);
        let (base, size) = attached.heap.segments[index];
        let start = std::ptr::with_exposed_provenance_mut(base);
        // SAFETY: the segment is this test's, which does not look into it any more.
        assert!(unsafe { Kernel.decommit(start, size) });
        attached.heap.os.state().lost = base..base + size;
        attached.lose_list_of_mappings();
        assert_eq!(attached.reclaim(None), Err(Error::System));
        assert_eq!(attached.resident(), None);
        assert_eq!(attached.reserved(), attached.survey.reserved);
    }
}

/// A C module may still allocate from the previous allocator.
#[test]
fn a_heap_that_has_grown_is_recognised_anew() {
    let mut attached = Attached::of_segments(3);
    for index in 0..3 {
        attached.heap.touch_idle_pages();
        attached.known.forget(index);
        assert!(attached.reserved() < attached.survey.reserved);
        assert_eq!(attached.resident(), None);
        // The list is there, and not looked at.
        assert_eq!(attached.reclaim_without_list(), Err(Error::Unknown));
        assert!(attached.may_have_grown);
        let idle = attached.survey.returnable + attached.survey.returned;
        assert_eq!(attached.reclaim(None).map(|done| done.returned), Ok(idle));
        assert!(!attached.may_have_grown);
        assert_eq!(attached.reserved(), attached.survey.reserved);
    }
    // From then on the list of mappings is not needed again.
    attached.lose_list_of_mappings();
    assert_eq!(attached.reclaim(None), Ok(Reclaimed::default()));
}

/// Records that contradict each other are damage, whether or not the list of mappings is read. A
/// list of segments that leads elsewhere may be growth until that list is read.
#[test]
fn damage_is_told_from_growth() {
    let mut attached = Attached::of_segments(3);
    let (state, records) = (attached.heap.state, attached.records());
    let cases = [
        (state + TOP, 8, false),
        (state + TOP_SIZE, 64, false),
        (state + VICTIM, 8, false),
        (records[1] - CONTENTS + HEAD, 0, false),
        (get(state + TOP) + HEAD, 0, false),
        (records[0], 1 << 46, true),
        (records[1] + 2 * WORD, 1 << 46, true),
        (records[2] + 2 * WORD, records[0], true),
    ];
    for (at, value, may_be_growth) in cases {
        let old = get(at);
        set(at, value);
        assert_eq!(attached.reclaim_without_list(), Err(Error::Unknown), "{at:#x}");
        assert_eq!(attached.may_have_grown, may_be_growth, "{at:#x}");
        assert_eq!(attached.reclaim(None), Err(Error::Unknown), "{at:#x}");
        assert!(!attached.may_have_grown, "{at:#x}");
        set(at, old);
    }
    assert!(attached.reclaim(None).is_ok());
}

/// A refusal to answer, or to do anything else, does not make memory unmapped.
#[test]
fn notes_are_believed_where_the_kernel_does_not_answer() {
    let mut attached = Attached::of_segments(3);
    let asked = calls(&mut attached, |attached| {
        assert!(attached.reclaim_without_list().is_ok());
    });
    for index in 0..asked {
        let answers = (0..=index).map(|call| call == index);
        attached.heap.os.state().failures.extend(answers);
        let done = attached.reclaim_without_list();
        attached.heap.os.state().failures.clear();
        assert_ne!(done.err(), Some(Error::Unknown), "call {index} of {asked}: {}", last_text());
    }
    // The first question is whether the state is mapped.
    attached.heap.os.state().failures.push_back(true);
    assert!(attached.reclaim_without_list().is_ok());
}
