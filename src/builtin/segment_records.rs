//! The records of the segments, followed as LuaJIT follows them at the end of its own heap.
//!
//! For a heap that was recognised before and has been LuaJIT's alone since, to unmap it where its
//! list of segments leads out of what was noted, or there is no memory for a list. No file is
//! opened, and no list is made: the newest segment's record is in the state, which lies in the
//! oldest segment, and every other one lies in the segment that it describes. So code that reads
//! each record before unmapping the memory that the record describes, reads all records.
//!
//! The kernel says what is mapped and readable, and not whose it is. The ends of the segments say
//! that: the top ends the newest, at the place and with the size that the state has, and fenceposts
//! end the others. Segments that were noted may have grown since, at both ends.

use core::cell::Cell;
use core::iter::successors;
use core::ptr;

use super::layout::*;
use super::mapped_vec::CAPACITY;
use super::mappings::{Memory, MemoryMap, find_in};
use super::segments::{State, follow, too_many};
use super::unmap;
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
}

/// What is mapped, by the kernel's word and no file.
struct MappedByKernel<'a, S: Os> {
    os: &'a S,
    noted: &'a [Memory],
    /// With which `errno` the kernel refused to say what of other memory is mapped; 0: with none.
    refusal: Cell<i32>,
}

impl<S: Os> MemoryMap for MappedByKernel<'_, S> {
    fn find(&self, at: usize, bytes: usize) -> Option<Memory> {
        let memory = Memory::told_of(at, bytes)?;
        let ends = [at, at + bytes - 1];
        let is_found =
            ends.into_iter().all(|end| self.is_readable(end)) && self.is_mapped(at, bytes);
        is_found.then_some(memory)
    }

    fn segments_max(&self) -> usize {
        CAPACITY
    }
}

impl<S: Os> MappedByKernel<'_, S> {
    /// Whether all pages of a range are mapped. Where the kernel does not answer, what was noted
    /// is: a sandbox refuses the question, or the kernel is short of memory for the answer. Of
    /// other memory nothing is known then.
    fn is_mapped(&self, at: usize, bytes: usize) -> bool {
        let page = self.os.page_size();
        let (start, last) = (round_down(at, page), round_down(at + bytes - 1, page));
        let mut flags = [0; WINDOW];
        for window in (start..=last).step_by(WINDOW * page) {
            let pages = ((last - window) / page + 1).min(WINDOW);
            match self.os.residency(ptr::without_provenance_mut(window), &mut flags[..pages]) {
                Ok(()) => {}
                Err(libc::ENOMEM) => return false,
                Err(_) if find_in(self.noted, at, bytes).is_some() => return true,
                Err(errno) => {
                    self.refusal.set(errno);
                    return false;
                }
            }
        }
        true
    }

    /// Whether the word can be read: mapped memory may be inaccessible. Where the kernel does not
    /// answer, the word is taken to be readable.
    fn is_readable(&self, at: usize) -> bool {
        let word = round_down(at, WORD);
        self.os.probe_read(ptr::without_provenance(word)) != Err(libc::EFAULT)
    }
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
    check(os, state, noted)?;
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

/// Checks every record before it is believed: that the list ends where the state lies, and each
/// segment as LuaJIT's allocator ends it.
fn check<S: Os>(os: &S, state: usize, noted: &[Memory]) -> Result<(), Error> {
    let mapped = MappedByKernel { os, noted, refusal: Cell::new(0) };
    let checked = check_in(&mapped, os.page_size(), state);
    match mapped.refusal.get() {
        0 => checked,
        errno => {
            Err(Error::System.because(format_args!("the kernel refused mincore: errno {errno}")))
        }
    }
}

fn check_in(mappings: &impl MemoryMap, page: usize, at: usize) -> Result<(), Error> {
    let state = State::read(at, State::find(mappings, page, at)?)?;
    let mut count = 0;
    let oldest = follow(mappings, page, at + NEWEST, |segment| {
        count += 1;
        match count {
            1 => state.check_top(&segment),
            2..=CAPACITY => segment.check_end(),
            _ => Err(too_many()),
        }
    })?;
    state.check_oldest(&oldest)
}
