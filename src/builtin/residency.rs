//! Which pages of the segments the kernel holds resident.
//!
//! The kernel is asked for a window of pages when one of them is to be known for the first time.

#![forbid(unsafe_code)]

use core::ops::Range;
use core::ptr;

use super::mapped_vec::MappedVec;
use super::segments::{HeapView, Segment};
use crate::error::Error;
use crate::os::Os;

/// Pages that are asked for at once, where all are wanted and where only some are. (Measured: a
/// question takes 1 to 2 µs, and each page of it 5 ns.)
pub(super) const ALL: usize = 512;
pub(super) const SOME: usize = 32;

/// What is known of a page: nothing.
const UNKNOWN: u8 = 0;
/// It is not resident, or the kernel did not say.
const ABSENT: u8 = 1;
const RESIDENT: u8 = 2;

/// What is known of all pages.
pub(super) struct Residency<'a, S: Os> {
    os: &'a S,
    pub(super) page: usize,
    /// Pages that are asked for at once.
    window: usize,
    /// A byte for each page, in the order of the segments.
    pages: MappedVec<'a, S, u8>,
    /// Whether the kernel ever did not say.
    pub(super) refused: bool,
}

impl<'a, S: Os> Residency<'a, S> {
    pub(super) fn new(view: &HeapView<'a, S>, window: usize) -> Result<Residency<'a, S>, Error> {
        let count = view.bytes() / view.page;
        let pages = MappedVec::zeroes(view.os, count)?;
        Ok(Residency { os: view.os, page: view.page, window, pages, refused: false })
    }

    /// How many resident pages follow each other from an address on in a range of whole pages of a
    /// segment, and how many that are not follow them.
    pub(super) fn runs(&mut self, segment: &Segment, range: Range<usize>) -> (usize, usize) {
        let resident = self.run(segment, range.clone(), RESIDENT);
        let rest = range.start + resident * self.page..range.end;
        (resident, self.run(segment, rest, ABSENT))
    }

    /// Resident pages in a range of whole pages of a segment.
    pub(super) fn count(&mut self, segment: &Segment, mut range: Range<usize>) -> usize {
        let mut count = 0;
        while !range.is_empty() {
            let (resident, absent) = self.runs(segment, range.clone());
            count += resident;
            range.start += (resident + absent) * self.page;
        }
        count
    }

    /// How many pages from the start of a range on are what is asked for.
    fn run(&mut self, segment: &Segment, range: Range<usize>, kind: u8) -> usize {
        let index = |address: usize| (address - segment.memory.start()) / self.page;
        let (start, end) = (index(range.start), index(range.end));
        let mut at = start;
        while at < end && self.kind(segment, at) == kind {
            at += 1;
        }
        at - start
    }

    /// What a page is, by its number in its segment.
    fn kind(&mut self, segment: &Segment, index: usize) -> u8 {
        let first = segment.bytes_before / self.page;
        if self.pages.values()[first + index] == UNKNOWN {
            self.ask(segment, index);
        }
        self.pages.values()[first + index]
    }

    /// Asks for the window that a page is in.
    fn ask(&mut self, segment: &Segment, index: usize) {
        let start = index / self.window * self.window;
        let end = (start + self.window).min(segment.memory.bytes() / self.page);
        let first = segment.bytes_before / self.page;
        let flags = &mut self.pages.values_mut()[first + start..first + end];
        let at = ptr::without_provenance_mut(segment.memory.start() + start * self.page);
        let is_known = self.os.residency(at, flags).is_ok();
        self.refused |= !is_known;
        let kind = |flag: u8| if is_known && flag == 1 { RESIDENT } else { ABSENT };
        flags.iter_mut().for_each(|flag| *flag = kind(*flag));
    }
}
