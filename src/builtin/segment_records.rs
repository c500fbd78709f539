//! The records of the segments, followed as LuaJIT follows them at the end of its own heap.
//!
//! For a heap that was recognised before and has been LuaJIT's alone since, to unmap it where the
//! kernel's list of mappings is not to be had: no file can be opened, or none is there. No list is
//! made: the newest segment's record is in the state, which lies in the oldest segment, and every
//! other one lies in the segment that it describes. So code that reads each record before unmapping
//! the memory that the record describes, reads all records.

use core::iter::successors;
use core::ptr;

use super::layout::*;
use super::mapped_vec::CAPACITY;
use super::mappings::{Memory, find_in};
use super::{refuse, unmap};
use crate::error::Error;
use crate::os::Os;
use crate::units::round_down;

/// Pages that the kernel is asked for at once.
const WINDOW: usize = 512;

/// What is kept of a segment.
#[derive(Clone, Copy)]
#[repr(C)]
struct Record {
    base: usize,
    size: usize,
    /// Where the record of the next older segment is; 0: there is none.
    next: usize,
}

impl Record {
    /// # Safety
    ///
    /// At this address is a record of LuaJIT's allocator.
    unsafe fn read(at: usize) -> Record {
        // SAFETY: the caller's promise; LuaJIT's records are these three words, aligned to words.
        unsafe { ptr::with_exposed_provenance::<Record>(at).read() }
    }

    fn holds(&self, at: usize, bytes: usize) -> bool {
        at >= self.base && at - self.base + bytes <= self.size
    }

    /// Whether a segment like that can be, and is mapped.
    fn can_be<S: Os>(&self, os: &S, noted: &[Memory]) -> Result<bool, Error> {
        let Record { base, size, .. } = *self;
        let fits = base.is_multiple_of(os.page_size())
            && (1..SEGMENT_LIMIT).contains(&size)
            && size.is_multiple_of(GRANULARITY);
        Ok(fits && is_mapped(os, noted, base, size)?)
    }
}

/// Whether whole pages are mapped, by the kernel's word. Where the kernel does not answer, what was
/// noted is: a sandbox refuses the question, or the kernel is short of memory for the answer. Of
/// other memory nothing is known then, which is an error.
fn is_mapped<S: Os>(os: &S, noted: &[Memory], at: usize, bytes: usize) -> Result<bool, Error> {
    let page = os.page_size();
    let mut flags = [0; WINDOW];
    for offset in (0..bytes).step_by(WINDOW * page) {
        let pages = ((bytes - offset) / page).min(WINDOW);
        let start = ptr::without_provenance_mut(at.wrapping_add(offset));
        match os.residency(start, &mut flags[..pages]) {
            Ok(()) => {}
            Err(libc::ENOMEM) => return Ok(false),
            Err(_) if find_in(noted, at, bytes).is_some() => return Ok(true),
            Err(errno) => {
                return Err(Error::System.because(format_args!(
                    "the kernel refused mincore at {at:#x}: errno {errno}"
                )));
            }
        }
    }
    Ok(true)
}

/// The records, from the newest on. Each next one is read before one is handed out.
///
/// # Safety
///
/// `state` is that of LuaJIT's allocator, which nobody else uses meanwhile; memory goes only after
/// the record that describes it.
unsafe fn segment_records(state: usize) -> impl Iterator<Item = Record> {
    // SAFETY: the caller's promise: the state begins the list, and each record leads to another.
    let read = |at| unsafe { Record::read(at) };
    successors(Some(read(state + NEWEST)), move |record| {
        (record.next != 0).then(|| read(record.next))
    })
    .take(CAPACITY)
}

/// Unmaps all segments; returns how many bytes went and how many stayed. Nothing is done when a
/// record cannot be one, or when it is not known whether its memory is mapped: that of `noted`,
/// which is sorted, is where the kernel does not answer.
///
/// # Safety
///
/// 1. `state` is that of LuaJIT's allocator.
/// 2. No block of it is used again, and the allocator is not called again.
pub(super) unsafe fn unmap_all<S: Os>(
    os: &S,
    state: usize,
    noted: &[Memory],
) -> Result<(u64, u64), Error> {
    // SAFETY: the caller's first promise.
    unsafe { check(os, state, noted)? };
    let (mut released, mut kept) = (0, 0);
    // SAFETY: the caller's promises. What is unmapped holds no record that is still to be read.
    unsafe {
        for Record { base, size, .. } in segment_records(state) {
            let done = unmap(os, base, size);
            *(if done { &mut released } else { &mut kept }) += size as u64;
        }
    }
    Ok((released, kept))
}

/// Checks every record before it is believed, and that the list ends where the state lies.
///
/// # Safety
///
/// `state` is that of LuaJIT's allocator.
unsafe fn check<S: Os>(os: &S, state: usize, noted: &[Memory]) -> Result<(), Error> {
    let page = os.page_size();
    let mut at = state.wrapping_add(NEWEST);
    for count in 0..CAPACITY {
        // A record is at the end of a segment, or within the first page: it is in one page.
        let fits = at.is_multiple_of(WORD) && at % page + RECORD_BYTES <= page;
        if !fits || !is_mapped(os, noted, round_down(at, page), page)? {
            return Err(refuse(format_args!("{at:#x}: no segment's record")));
        }
        // SAFETY: the page is mapped, and the caller's promise: LuaJIT can read its own heap.
        let record = unsafe { Record::read(at) };
        let is_in_place = count == 0 || record.holds(at, RECORD_BYTES);
        if !is_in_place || !record.can_be(os, noted)? {
            return Err(refuse(format_args!("{at:#x}: its segment cannot be")));
        }
        if record.next == 0 {
            return match record.holds(state.wrapping_sub(CONTENTS), STATE_CHUNKS[0]) {
                true => Ok(()),
                false => Err(refuse(format_args!("the state is not in the oldest segment"))),
            };
        }
        at = record.next;
    }
    Err(refuse(format_args!("too many segments")))
}
