//! Sheets: the heap's descriptors, by kernel pages.
//!
//! A kernel page of 4 KiB holds the descriptors of 64 pages: a sheet. On larger kernel pages a
//! sheet is of 256 or 1024 pages. A sheet is vacant when all of its pages are free. Its descriptors
//! then say nothing, and go back to the kernel after its pages: zeroed memory is a descriptor of a
//! page that is part of nothing.
//!
//! Both threads return sheets, by claims as in `claim`. The bit of a vacant sheet is set, so that
//! it can be claimed. The thread that has claimed it may change its other bit, `returned`: the
//! descriptors were returned. The heap's thread takes the bit before it uses one of the sheet's
//! pages.
//!
//! A long run of returned sheets is closed: its pages, which hold no memory, are made inaccessible,
//! so that they do not count as a commitment of the process any more. The thread that has claimed a
//! sheet may close it. The heap's thread opens closed sheets before it uses their pages, which the
//! kernel may refuse. That a sheet is closed is noted before the kernel is asked: in the child of a
//! fork at any moment no sheet is inaccessible without a note.
//!
//! - K1: the bit of a sheet is set or claimed if all of its pages are free, and clear otherwise.
//! - K2: a sheet that is returned is vacant, and its descriptors read as zero: nobody has written
//!   to them since.
//! - K4: a sheet that is closed is returned. None of its pages is dirty: none was when it was
//!   returned, and none was used since. What is inaccessible below the top is closed.
//! - K3: the counts are what a walk over all sheets finds.

#![forbid(unsafe_code)]

use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::Relaxed;

use super::claim::Claimable;
use crate::heap::slots::descriptor::Descriptor;
use crate::units::{PageIndex, PageRange, Pages};

/// The bits of the sheets that begin in a chunk, each at the place of its first word.
#[derive(Debug, Default)]
pub(crate) struct Sheets {
    pub(super) vacant: Claimable,
    pub(super) returned: AtomicU8,
    pub(super) closed: AtomicU8,
}

/// One sheet.
#[derive(Clone, Copy)]
pub(crate) struct Sheet<'heap> {
    sheets: &'heap Sheets,
    bit: u8,
}

/// How many sheets of a heap are vacant. What the background thread has returned is in it once the
/// heap's thread has taken note.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SheetCounts {
    pub(crate) vacant: u32,
    /// Vacant sheets whose descriptors hold memory.
    pub(crate) held: u32,
    /// Sheets that are closed. Less than none: the background thread has closed some of those that
    /// were opened.
    closed: i32,
}

impl SheetCounts {
    /// Sheets whose descriptors were returned.
    pub(crate) fn returned(&self) -> u32 {
        self.vacant.saturating_sub(self.held)
    }

    /// Sheets that are closed.
    pub(crate) fn closed(&self) -> u32 {
        self.closed.max(0) as u32
    }

    /// With what was counted anew.
    pub(crate) fn recounted(self, held: u32, closed: u32) -> SheetCounts {
        SheetCounts { held, closed: closed as i32, ..self }
    }

    /// Notes that sheets were closed.
    pub(crate) fn note_closed(&mut self, sheets: u32) {
        self.closed += sheets as i32;
    }

    /// Notes that sheets were opened.
    pub(crate) fn note_opened(&mut self, sheets: u32) {
        self.closed -= sheets as i32;
    }

    /// Notes that the descriptors of sheets were returned.
    pub(crate) fn note_returned(&mut self, sheets: u32) {
        self.held = self.held.saturating_sub(sheets);
    }
}

/// Pages in a sheet.
pub(crate) fn sheet_pages(kernel_page: usize) -> Pages {
    Pages((kernel_page / size_of::<Descriptor>()) as u32)
}

/// The sheets that a range touches, each as the range of its pages.
pub(crate) fn sheets_of(
    range: PageRange,
    pages: Pages,
) -> impl DoubleEndedIterator<Item = PageRange> + use<> {
    let (first, end) = (range.start.0 / pages.0, range.end.0.div_ceil(pages.0));
    let end = if range.start < range.end { end } else { first };
    (first..end).map(move |index| PageRange::new(PageIndex(index * pages.0), pages))
}

impl Sheets {
    pub(super) fn clear(&self) {
        self.vacant.clear();
        self.returned.store(0, Relaxed);
        self.closed.store(0, Relaxed);
    }

    /// The sheet that begins at a word of the chunk.
    pub(super) fn at(&self, word: usize) -> Sheet<'_> {
        Sheet { sheets: self, bit: 1 << word }
    }
}

impl Sheet<'_> {
    /// All of its pages are free now. (The heap's thread)
    pub(super) fn vacate(&self, is_watched: bool) {
        self.sheets.vacant.set(self.bit.into(), is_watched);
    }

    /// One of its pages is about to be used; whether its descriptors hold memory. (The heap's
    /// thread)
    pub(super) fn occupy(&self, is_watched: bool, wait: impl Fn(&Claimable, u64)) -> bool {
        self.sheets.vacant.take(self.bit.into(), is_watched, wait);
        let was_returned = self.is_returned();
        if was_returned {
            self.set_returned(false);
        }
        !was_returned
    }

    /// Nobody else may claim it from now on: one of its pages may be used soon, or it is vacated.
    /// (The heap's thread)
    pub(super) fn withhold(&self, is_watched: bool, wait: impl Fn(&Claimable, u64)) {
        self.sheets.vacant.take(self.bit.into(), is_watched, wait);
    }

    /// Whether it is vacant, nobody has claimed it, and its descriptors hold memory.
    pub(crate) fn can_go(&self) -> bool {
        self.sheets.vacant.get() & u64::from(self.bit) != 0 && !self.is_returned()
    }

    /// Claims it if it is vacant and nobody else has claimed it. (Either thread)
    pub(crate) fn claim(&self) -> bool {
        self.sheets.vacant.claim(self.bit.into()) != 0
    }

    /// Ends a claim.
    pub(crate) fn release(&self) {
        self.sheets.vacant.put_back(self.bit.into());
        self.sheets.vacant.release(self.bit.into());
    }

    /// Has `end` end its claim, of a thread that is gone: the word, the bit, and the bit again if
    /// the sheet is vacant. (The heap's thread)
    pub(super) fn end_stale(&self, is_vacant: bool, end: impl Fn(&Claimable, u64, u64)) {
        let bit = u64::from(self.bit);
        end(&self.sheets.vacant, bit, if is_vacant { bit } else { 0 });
    }

    /// Whether its descriptors were returned.
    pub(crate) fn is_returned(&self) -> bool {
        self.sheets.returned.load(Relaxed) & self.bit != 0
    }

    /// Notes whether they were. (The thread that has claimed it: the other one may change other
    /// bits)
    pub(crate) fn set_returned(&self, is_returned: bool) {
        if is_returned {
            self.sheets.returned.fetch_or(self.bit, Relaxed);
        } else {
            self.sheets.returned.fetch_and(!self.bit, Relaxed);
        }
    }

    /// Whether it is vacant, nobody has claimed it, and it is returned and open.
    pub(crate) fn can_close(&self) -> bool {
        let is_vacant = self.sheets.vacant.get() & u64::from(self.bit) != 0;
        is_vacant && self.may_be_closed()
    }

    /// The same of one that is claimed.
    pub(crate) fn may_be_closed(&self) -> bool {
        self.is_returned() && !self.is_closed()
    }

    /// Whether its pages are inaccessible, or about to be. If the heap's thread finds that, it
    /// stays so until that thread opens the sheet, or the kernel has refused to close it.
    pub(crate) fn is_closed(&self) -> bool {
        self.sheets.closed.load(Relaxed) & self.bit != 0
    }

    /// Notes whether they are. (As for [`Sheet::set_returned`])
    pub(crate) fn set_closed(&self, is_closed: bool) {
        if is_closed {
            self.sheets.closed.fetch_or(self.bit, Relaxed);
        } else {
            self.sheets.closed.fetch_and(!self.bit, Relaxed);
        }
    }

    /// As for [`Claimable::pretend_claimed`].
    #[cfg(test)]
    pub(crate) fn pretend_claimed(&self) {
        self.sheets.vacant.pretend_claimed(self.bit.into());
    }

    /// Whether its bit is set. (For tests)
    #[cfg(test)]
    pub(crate) fn is_vacant(&self) -> bool {
        self.sheets.vacant.get() & u64::from(self.bit) != 0
    }
}
