//! Split mappings: ranges whose pages were moved there, and which the kernel therefore keeps as
//! mappings of their own.
//!
//! `mremap` moves only what is one mapping, and the number of mappings of a process is limited. So
//! the heap knows its split mappings, moves a block in pieces between them, keeps at most
//! [`SplitMappings::CAPACITY`], and renews such a range when its block is freed. The kernel then
//! merges it with its neighbours.
//!
//! - R1: split mappings do not overlap.

#![forbid(unsafe_code)]

use crate::units::{PageIndex, PageRange};

/// The split mappings of one heap, in no order.
#[derive(Clone, Debug)]
pub(crate) struct SplitMappings {
    ranges: [PageRange; SplitMappings::CAPACITY],
    count: usize,
}

impl SplitMappings {
    /// Most split mappings a heap keeps; beyond, blocks move by copying.
    pub(crate) const CAPACITY: usize = 32;

    pub(crate) const NONE: SplitMappings = SplitMappings {
        ranges: [PageRange { start: PageIndex(0), end: PageIndex(0) }; SplitMappings::CAPACITY],
        count: 0,
    };

    fn all(&self) -> &[PageRange] {
        &self.ranges[..self.count]
    }

    /// Whether a range has any part of a split mapping.
    pub(crate) fn overlap(&self, range: PageRange) -> bool {
        self.all().iter().any(|split| split.overlaps(range))
    }

    /// How many more split mappings can be kept.
    pub(crate) fn room(&self) -> usize {
        SplitMappings::CAPACITY - self.count
    }

    /// Notes a split mapping. There is room, and no other there.
    pub(crate) fn add(&mut self, split: PageRange) {
        debug_assert!(!self.overlap(split), "R1: {split:?} is split already");
        self.ranges[self.count] = split;
        self.count += 1;
    }

    /// The part of some split mapping that lies in a range.
    pub(crate) fn part_in(&self, range: PageRange) -> Option<PageRange> {
        let split = self.all().iter().find(|split| split.overlaps(range))?;
        Some(PageRange { start: split.start.max(range.start), end: split.end.min(range.end) })
    }

    /// Forgets a part that [`SplitMappings::part_in`] returned; what the split mapping has besides
    /// stays.
    pub(crate) fn remove(&mut self, part: PageRange) {
        let Some(index) = self.all().iter().position(|split| split.overlaps(part)) else { return };
        let split = self.ranges[index];
        self.count -= 1;
        self.ranges[index] = self.ranges[self.count];
        let before = PageRange { start: split.start, end: part.start };
        let after = PageRange { start: part.end, end: split.end };
        for rest in [before, after] {
            // Without room the kernel's mapping goes unnoted, and its pages will be copied.
            if rest.start < rest.end && self.room() > 0 {
                self.add(rest);
            }
        }
    }

    /// The longest piece from the start of `range` that does not cross the edge of a split mapping.
    pub(crate) fn first_piece(&self, range: PageRange) -> PageRange {
        let edges = self.all().iter().flat_map(|split| [split.start, split.end]);
        let inside = edges.filter(|edge| range.start < *edge && *edge < range.end);
        PageRange { start: range.start, end: inside.min().unwrap_or(range.end) }
    }

    /// How many pieces `range` falls into.
    pub(crate) fn pieces(&self, mut range: PageRange) -> usize {
        let mut pieces = 0;
        while range.start < range.end {
            range.start = self.first_piece(range).end;
            pieces += 1;
        }
        pieces
    }

    /// Panics unless R1 holds.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (index, split) in self.all().iter().enumerate() {
            assert!(split.start < split.end, "R1: {split:?} is empty");
            assert!(
                !self.all()[..index].iter().any(|other| other.overlaps(*split)),
                "R1: {self:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u32, end: u32) -> PageRange {
        PageRange { start: PageIndex(start), end: PageIndex(end) }
    }

    #[test]
    fn a_range_falls_into_pieces_at_the_edges_of_split_mappings() {
        let mut split_mappings = SplitMappings::NONE;
        assert_eq!(split_mappings.pieces(range(10, 20)), 1);
        split_mappings.add(range(12, 15));
        assert_eq!(split_mappings.first_piece(range(10, 20)), range(10, 12));
        assert_eq!(split_mappings.first_piece(range(12, 20)), range(12, 15));
        assert_eq!(split_mappings.first_piece(range(13, 14)), range(13, 14));
        assert_eq!(split_mappings.first_piece(range(15, 20)), range(15, 20));
        assert_eq!(split_mappings.pieces(range(10, 20)), 3);
        split_mappings.check();
    }

    #[test]
    fn removing_a_part_keeps_the_rest() {
        let mut split_mappings = SplitMappings::NONE;
        split_mappings.add(range(12, 15));
        split_mappings.add(range(20, 30));
        assert_eq!(split_mappings.part_in(range(13, 14)), Some(range(13, 14)));
        split_mappings.remove(range(13, 14));
        assert_eq!(split_mappings.part_in(range(25, 40)), Some(range(25, 30)));
        split_mappings.remove(range(25, 30));
        for (page, is_split) in [(12, true), (13, false), (14, true), (24, true), (25, false)] {
            assert_eq!(split_mappings.overlap(range(page, page + 1)), is_split, "page {page}");
        }
        assert_eq!(split_mappings.part_in(range(30, 40)), None);
        assert_eq!(split_mappings.room(), SplitMappings::CAPACITY - 3);
        split_mappings.check();
    }
}
