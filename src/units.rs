//! Units as types, and all rounding.
//!
//! A heap counts in logical pages of 4 KiB, whatever the kernel's pages are. An index names one
//! page, a count is how many, bytes are plain `usize`. Indices count from the heap's base, so they
//! are the same in a parent and its fork. A heap is at most 8 TiB, so the sum of an index and a
//! count stays in 32 bits.

#![forbid(unsafe_code)]

use core::ops::{Add, AddAssign, Sub, SubAssign};

/// log2 of [`PAGE`].
pub(crate) const PAGE_SHIFT: u32 = 12;
/// Bytes in a logical page.
pub(crate) const PAGE: usize = 1 << PAGE_SHIFT;

/// A whole number of logical pages. Never an index, never bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct Pages(pub(crate) u32);

/// One logical page, counted from the heap's base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct PageIndex(pub(crate) u32);

impl Pages {
    pub(crate) const ZERO: Pages = Pages(0);

    /// The pages that hold `bytes`; `None` when there are more than any heap has.
    pub(crate) fn holding(bytes: usize) -> Option<Pages> {
        u32::try_from(bytes.div_ceil(PAGE)).ok().map(Pages)
    }

    pub(crate) const fn bytes(self) -> usize {
        (self.0 as usize) << PAGE_SHIFT
    }

    /// How many more than `other`; none if it is fewer.
    pub(crate) fn saturating_sub(self, other: Pages) -> Pages {
        Pages(self.0.saturating_sub(other.0))
    }

    /// The sum, or the most that can be said.
    pub(crate) fn saturating_add(self, other: Pages) -> Pages {
        Pages(self.0.saturating_add(other.0))
    }
}

impl PageIndex {
    /// The page that `offset` bytes from the base lies in. The offset is below 8 TiB.
    pub(crate) const fn of(offset: usize) -> PageIndex {
        PageIndex((offset >> PAGE_SHIFT) as u32)
    }

    /// Bytes from the base to the start of the page.
    pub(crate) const fn offset(self) -> usize {
        (self.0 as usize) << PAGE_SHIFT
    }

    /// Pages from `earlier` up to here.
    pub(crate) fn since(self, earlier: PageIndex) -> Pages {
        debug_assert!(earlier <= self, "{earlier:?} is after {self:?}");
        Pages(self.0 - earlier.0)
    }
}

impl Add<Pages> for PageIndex {
    type Output = PageIndex;
    fn add(self, count: Pages) -> PageIndex {
        PageIndex(self.0 + count.0)
    }
}

impl Sub<Pages> for PageIndex {
    type Output = PageIndex;
    fn sub(self, count: Pages) -> PageIndex {
        PageIndex(self.0 - count.0)
    }
}

impl Add for Pages {
    type Output = Pages;
    fn add(self, other: Pages) -> Pages {
        Pages(self.0 + other.0)
    }
}

impl Sub for Pages {
    type Output = Pages;
    fn sub(self, other: Pages) -> Pages {
        Pages(self.0 - other.0)
    }
}

impl AddAssign for Pages {
    fn add_assign(&mut self, other: Pages) {
        *self = *self + other;
    }
}

impl SubAssign for Pages {
    fn sub_assign(&mut self, other: Pages) {
        *self = *self - other;
    }
}

/// Pages `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    pub(crate) start: PageIndex,
    pub(crate) end: PageIndex,
}

impl PageRange {
    pub(crate) fn new(start: PageIndex, count: Pages) -> PageRange {
        PageRange { start, end: start + count }
    }

    pub(crate) fn count(self) -> Pages {
        self.end.since(self.start)
    }

    pub(crate) fn overlaps(self, other: PageRange) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// `bytes` up to a multiple of `unit`, a power of two.
pub(crate) const fn round_up(bytes: usize, unit: usize) -> usize {
    debug_assert!(unit.is_power_of_two());
    (bytes + unit - 1) & !(unit - 1)
}

/// `bytes` down to a multiple of `unit`, a power of two.
pub(crate) const fn round_down(bytes: usize, unit: usize) -> usize {
    debug_assert!(unit.is_power_of_two());
    bytes & !(unit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_what_they_are_asked_to() {
        assert_eq!(Pages::holding(0), Some(Pages(0)));
        assert_eq!(Pages::holding(1), Some(Pages(1)));
        assert_eq!(Pages::holding(PAGE), Some(Pages(1)));
        assert_eq!(Pages::holding(PAGE + 1), Some(Pages(2)));
        assert_eq!(Pages::holding(usize::MAX), None);
    }

    #[test]
    fn an_offset_and_its_page_agree() {
        for offset in [0, 1, PAGE - 1, PAGE, PAGE + 1, 1 << 40] {
            let page = PageIndex::of(offset);
            assert!(page.offset() <= offset && offset < page.offset() + PAGE);
        }
    }

    #[test]
    fn rounding_reaches_the_nearest_multiple() {
        assert_eq!((round_up(0, 8), round_up(1, 8), round_up(8, 8)), (0, 8, 8));
        assert_eq!((round_down(7, 8), round_down(8, 8), round_down(15, 8)), (0, 8, 8));
    }

    #[test]
    fn rounding_is_division_for_every_size_to_a_megabyte_and_every_unit() {
        for shift in 0..=16 {
            let unit = 1usize << shift;
            // Around every multiple, and every size where units are small.
            let near = |bytes: usize| unit <= 64 || (bytes + 2) % unit <= 4;
            for bytes in (0..=1 << 20).filter(|bytes| near(*bytes)) {
                assert_eq!(round_up(bytes, unit), bytes.div_ceil(unit) * unit, "{bytes}, {unit}");
                assert_eq!(round_down(bytes, unit), bytes / unit * unit, "{bytes}, {unit}");
            }
        }
    }

    #[test]
    fn every_offset_of_a_few_pages_has_its_page() {
        for high in [0, 1 << 32, (1 << 43) - 8 * PAGE] {
            for low in 0..8 * PAGE {
                let page = PageIndex::of(high + low);
                assert_eq!(page.0 as usize, high / PAGE + low / PAGE);
                let holding = Pages::holding(high + low).expect("a heap may be so large");
                assert!(holding.bytes() >= high + low && holding.bytes() < high + low + PAGE);
            }
        }
    }
}
